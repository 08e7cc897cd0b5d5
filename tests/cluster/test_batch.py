"""The lazily counted batch against a model that keeps every request's own context and counts its tokens one by one."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tetrisim.cluster.batch import DecodeBatch
from tetrisim.cluster.request import Request


@dataclass
class Member:
    request: Request
    context: int
    left: int
    predicted_left: int


class NaiveBatch:
    """What a step does, request by request."""

    def __init__(self, block):
        self.block = block
        self.members: list[Member] = []

    def growth(self, steps):
        """A token needs a new block when the context before it fills whole blocks."""
        return sum((m.context + step) % self.block == 0 for m in self.members for step in range(steps))

    def steps_within(self, blocks, limit):
        steps = 0
        while steps < limit and self.growth(steps + 1) <= blocks:
            steps += 1
        return steps


def compare(batch: DecodeBatch, naive: NaiveBatch, far: int):
    members = naive.members
    assert batch.n == len(members)
    assert batch.context == sum(m.context for m in members)
    assert batch.longest() == max((m.context for m in members), default=0)
    assert batch.next_blocks() == naive.growth(1)
    for steps in (1, 2, naive.block, naive.block + 1, far):
        assert batch.growth(steps) == naive.growth(steps)
    if members:
        assert batch.shortest_remaining() == max(1, min(m.predicted_left for m in members))
        for blocks in range(0, naive.growth(far) + 2, max(1, len(members) - 1)):
            assert batch.steps_within(blocks, far) == naive.steps_within(blocks, far)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([1, 2, 3, 16]))
def test_a_random_life_of_joins_leaves_and_steps(data, block):
    batch, naive = DecodeBatch(block), NaiveBatch(block)
    batch.track_longest()
    gone: list[Member] = []
    number = 0
    for action in data.draw(
        st.lists(st.sampled_from(["join", "join", "step", "step", "preempt", "rejoin"]), max_size=25)
    ):
        if action in ("join", "rejoin"):
            # A request may come back: its earlier entries must not count.
            back = gone.pop(0) if action == "rejoin" and gone else None
            prompt, shown = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
            output, guess = shown + data.draw(st.integers(1, 20)), data.draw(st.integers(0, 30))
            request = back.request if back else Request(number, 0, prompt, output, guess)
            number += 1
            request.sequence = number
            if back:
                prompt, shown, output, guess = back.context, request.generated, request.output, request.predicted
            else:
                request.generated = shown
            batch.join(request, prompt)
            batch.expect(request)
            naive.members.append(Member(request, prompt, output - shown, guess - shown))
        elif action == "step" and naive.members:
            steps = data.draw(st.integers(1, min(m.left for m in naive.members)))
            batch.advance(steps)
            for member in naive.members:
                member.context += steps
                member.left -= steps
                member.predicted_left -= steps
            done = [m for m in naive.members if m.left == 0]
            assert batch.finished() == [m.request for m in done]
            for member in done:
                assert batch.leave(member.request) == member.context
                assert member.request.generated == member.request.output
                naive.members.remove(member)
        elif action == "preempt" and naive.members:
            member = naive.members.pop(data.draw(st.integers(0, len(naive.members) - 1)))
            assert batch.leave(member.request) == member.context
            assert member.request.generated == member.request.output - member.left
            gone.append(member)
        compare(batch, naive, data.draw(st.integers(1, 40)))


def test_a_batch_by_hand():
    batch = DecodeBatch(4)
    first, second = Request(0, 0, 3, 10, 6), Request(1, 0, 8, 3, 3)
    first.generated = second.generated = first.sequence = 1
    second.sequence = 2
    batch.join(first, 3)  # one token more fits its block, the next one opens a block
    batch.join(second, 8)  # its two blocks are full
    assert (batch.n, batch.context) == (2, 11)
    assert [batch.growth(steps) for steps in (1, 2, 5, 6)] == [1, 2, 3, 4]
    assert [batch.steps_within(blocks, 6) for blocks in (0, 1, 2, 3, 4)] == [0, 1, 4, 5, 6]
    batch.advance(2)
    assert batch.context == 15
    assert batch.finished() == [second]
    assert batch.leave(second) == 10
    assert (batch.n, batch.context, second.generated) == (1, 5, 3)
    assert batch.finished() == []
    batch.expect(first)
    assert batch.shortest_remaining() == 3  # predicted 6, one shown before, two since
