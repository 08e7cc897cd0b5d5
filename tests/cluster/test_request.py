"""What a preemption costs a request, as it notes it down."""

from tetrisim.cluster.request import NEVER, Request


def started(at=10, cached=0):
    request = Request(0, arrival=3, prompt=100, output=5, predicted=0)
    request.computed = cached
    request.begin_prefill(at, instance=2)
    return request


def test_a_later_chunk_changes_nothing():
    request = started(cached=16)
    request.computed = 64
    request.begin_prefill(20, 2)
    assert (request.prefill_start, request.prefill_instance, request.cached, request.lost_prefill) == (10, 2, 16, 0)


def test_a_prefill_that_starts_over_notes_what_it_lost_and_finds_in_the_cache_now():
    request = started(cached=16)
    request.halt(25)
    request.computed = 48
    request.begin_prefill(40, 2)
    assert (request.prefill_start, request.cached, request.lost_prefill, request.halted) == (10, 48, 30, NEVER)
    request.halt(45)
    request.computed = 0
    request.begin_prefill(70, 2)
    assert (request.cached, request.lost_prefill) == (0, 60)  # all since the first start


def test_a_preemption_during_the_recomputation_is_part_of_the_one_before():
    request = started()
    request.first_token = 20
    request.halt(30)
    request.begin_prefill(40, 2)
    request.halt(50)
    request.begin_prefill(60, 2)
    request.resume(75, recomputed=True)
    assert (request.lost_prefill, request.lost_decode, request.recomputations) == (0, 45, 1)
    request.halt(80)
    request.resume(90, recomputed=False)
    assert (request.lost_decode, request.recomputations, request.halted) == (55, 1, NEVER)
