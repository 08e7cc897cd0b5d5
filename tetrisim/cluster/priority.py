"""Requests served by priority: the most urgent waits first, the least urgent is preempted first (vLLM V1's rule)."""

from bisect import insort

from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.queue import WaitingQueue
from tetrisim.cluster.request import NEVER, Request


def rank(request: Request) -> tuple[int, int]:
    """What is served first has the lowest: by priority, then by arrival."""
    return request.priority, request.id


class PriorityQueue(WaitingQueue):
    """Always in order of `rank`, preempted requests included."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(None, 1)

    def push(self, request: Request) -> None:
        """A new request."""
        insort(self.ordered, request, key=rank)

    def push_front(self, request: Request) -> None:
        """A preempted request: it has no better place than its rank."""
        self.push(request)


class PriorityEngine(Engine):
    """An engine whose waiting requests are in a PriorityQueue, and whose victim is the last by `rank`."""

    def push(self, request: Request) -> bool:
        """As Engine's; whoever comes first of all might join the next step."""
        self.queued += 1
        self.waiting.push(request)
        return self.waiting.ordered[0] is request and len(self.running) < self.seats

    def can_fill(self, tokens: int) -> bool:
        """Nobody's place is certain: someone more urgent may come."""
        return False

    def _worst(self) -> Request:
        return max(self.running, key=rank)

    def _make_room(self) -> None:
        """Preempt the last by rank until each decode has the block of its next token."""
        while self.batch.n and self.batch.next_blocks() > self.kv.free:
            self._preempt(self._worst())

    def _extend_partials(self, pieces: list[Piece], scheduled: int) -> int:
        if self._room_for_running():
            return super()._extend_partials(pieces, scheduled)
        return self._run_by_rank(pieces, scheduled)

    def _room_for_running(self) -> bool:
        """Whether nobody has to go, even if every unfinished prefill were finished now."""
        kv, need = self.kv, self._promised()
        if not self._whole_prompts:
            need += sum(kv.blocks(each.target) - kv.blocks(each.computed) for each in self.partials)
        return need <= kv.free

    def _plan_mixed(self, pieces: list[Piece]) -> None:
        """vLLM V1's order; where memory is short, running requests strictly in order of admission."""
        if self._room_for_running():
            super()._plan_mixed(pieces)
            return
        if self.limited:
            alone = len(self.running) + len(self.waiting) == 1
            self.batching = self.limited.unlimited if alone else self.limited
        scheduled = self._run_by_rank(pieces, 0)
        self.grown = self.batch.n > 0
        if not self.preempted and len(self.running) < self.seats and self.waiting.form():
            self._admit_waiting(pieces, scheduled)

    def _run_by_rank(self, pieces: list[Piece], scheduled: int) -> int:
        """Running requests in order of admission; who finds no memory preempts the last by rank, in the end itself.

        A victim that had its share of the step already gives it back. Returns the tokens of the step.
        """
        kv, running, step = self.kv, self.running, self.batch.step_no
        given: dict[Request, int] = {}
        for request in tuple(running):
            decoding = request.finish_step != NEVER
            if request not in running or request in self.leaving or (decoding and not self._mixes):
                continue
            computed = request.base + step if decoding else request.computed
            take = 1 if decoding else self.batching.prefill_tokens(request.target - computed, scheduled)
            need = kv.blocks(computed + take) - kv.blocks(computed)
            while need > kv.free and request in running:
                scheduled -= self._give_up(self._worst(), given)
            if request not in running or take <= 0:
                continue
            kv.extend(request, computed, take, decoding)
            given[request] = take
            scheduled += take
        pieces.extend((request, take) for request, take in given.items() if request.finish_step == NEVER)
        return scheduled

    def _give_up(self, victim: Request, given: dict[Request, int]) -> int:
        """Preempt a request, with the blocks that this step has given it; returns the tokens it had of the step."""
        take = given.pop(victim, 0)
        if victim.finish_step == NEVER:
            victim.computed += take
        self.grown = take > 0
        self._preempt(victim)
        self.grown = False
        return take
