"""Sorted within groups: short prompts go first, but nobody waits for more than the groups before his own."""

from tetrisim.cluster.queue import WaitingQueue
from tetrisim.cluster.request import Request
from tetrisim.policies.queueing import longest_first, shortest_first


def filled(key, group, prompts):
    queue = WaitingQueue(key, group)
    for number, prompt in enumerate(prompts):
        queue.push(Request(number, 0, prompt, 1, 0))
    return queue


def drained(queue):
    order = []
    while queue.form():
        order.append(queue.ordered.popleft().id)
    return order


def test_twenty_queued_with_a_group_of_ten_become_two_sorted_groups():
    prompts = list(range(200, 0, -10))  # each shorter than the one before
    queue = filled(shortest_first, 10, prompts)
    assert len(queue) == 20
    assert drained(queue) == [*range(9, -1, -1), *range(19, 9, -1)]
    assert len(queue) == 0


def test_longest_first_is_the_reverse():
    assert drained(filled(longest_first, 3, [5, 1, 9, 2, 8])) == [2, 0, 1, 4, 3]


def test_equals_keep_their_order_of_arrival():
    assert drained(filled(shortest_first, 4, [7, 3, 7, 3])) == [1, 3, 0, 2]


def test_without_a_key_it_is_first_come_first_served():
    assert drained(filled(None, 2, [9, 1, 5])) == [0, 1, 2]


def test_who_comes_after_a_group_is_formed_waits_for_the_next():
    queue = filled(shortest_first, 10, [50, 40])
    assert queue.form()
    queue.push(Request(2, 0, 1, 1, 0))
    assert drained(queue) == [1, 0, 2]


def test_a_preempted_request_goes_before_all_others():
    for key in (None, shortest_first):
        queue = filled(key, 10, [50, 40])
        queue.form()
        queue.push_front(Request(9, 0, 500, 1, 0))
        assert len(queue) == 3
        assert drained(queue)[0] == 9


def test_an_empty_queue_forms_nothing():
    assert not filled(shortest_first, 4, []).form()
