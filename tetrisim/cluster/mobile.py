"""Engines and instances whose decoding requests may leave for another instance, and that take in those who come.

One that is to leave stops with the step in progress: the next plan takes it out of the batch. Its blocks stay until its
KV has been copied. One that comes has its blocks already; it joins in the next plan that has a seat for it and a block
for its next token. Memory changes hands between steps, so windows are cut where it does.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from tetrisim.cluster.cutting import CuttableInstance
from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.request import NEVER, Request


class MobileEngine(Engine):
    """An engine that lets decoding requests go and come."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.moving: dict[Request, None] = {}
        """Requests in the batch that are being copied elsewhere."""
        self.arrived: deque[Request] = deque()
        """Those that have come, their blocks held, and are not in the batch yet."""
        self._stopping: list[Request] = []
        self.preemptions = 0
        """How many there have been."""
        self.waiting_blocks = 0
        """What the waiting queue wants, kept so that nobody has to look through it."""
        self.on_stopped: Callable[[Request], None]
        """A request has left the batch for its last copy; `computed` is its context."""
        self.on_lost: Callable[[Request, str], None]
        """A request that is being copied has finished, or was preempted."""
        self.on_joined: Callable[[Request, bool], None]
        """One that had come is in the batch; False: there is no memory for it, and it has to be recomputed."""
        self.on_decoding: Callable[[Request], None] | None = None
        """The prefill of a request has ended here, and it decodes here."""

    def push(self, request: Request) -> bool:
        """As Engine's."""
        self.waiting_blocks += self.kv.blocks(request.target)
        return super().push(request)

    def _admit_waiting(self, pieces: list[Piece], scheduled: int) -> None:
        first = len(pieces)
        super()._admit_waiting(pieces, scheduled)
        for request, _ in pieces[first:]:
            self.waiting_blocks -= self.kv.blocks(request.target)

    def decodes(self) -> list[Request]:
        """The requests of the batch that nobody moves, in order of admission."""
        moving = self.moving
        return [request for request in self.running if request.finish_step != NEVER and request not in moving]

    def hold(self, request: Request, held_tokens: int, tokens: int) -> bool:
        """Keep blocks for a request that is to come, whether there is room beside the next step of the batch."""
        kv = self.kv
        need = kv.blocks(tokens) - kv.blocks(held_tokens)
        if need and need + self.batch.next_blocks() + kv.reserve > kv.free:
            return False
        kv.hold(request, held_tokens, tokens)
        return True

    def give_up(self, request: Request, tokens: int) -> None:
        """Take back the blocks of a request that is elsewhere, or is not to come after all."""
        self.kv.release(request, tokens)
        self._changed = True

    def stop(self, request: Request) -> None:
        """Let a request that is being copied leave with the next plan."""
        self._stopping.append(request)
        self.queued += 1

    def take(self, request: Request) -> None:
        """A request has come, its KV complete."""
        self.kv.enter(request, request.computed)
        self.arrived.append(request)
        self.queued += 1

    def plan(self) -> list[Piece]:
        """As Engine's, after those who leave have left and those who have come have joined."""
        pieces = self._plan_once()
        if self.preempted and not self.running and self.queued:
            # Memory held for those who come made even the last one go: nothing runs, so the next step forms at once.
            preempted, interrupted = self.preempted, self.interrupted
            pieces = self._plan_once()
            self.preempted, self.interrupted = preempted + self.preempted, interrupted + self.interrupted
        return pieces

    def _plan_once(self) -> list[Piece]:
        if not (self._stopping or self.arrived):
            return super().plan()
        gone, come = self._let_leave(), self._take_in()
        pieces = super().plan()
        # One that came and is preempted at once was in no step: for its tokens, nothing has happened.
        self.interrupted = [request for request in self.interrupted if request not in come] + gone
        self.preempted = self.preempted + gone
        self.joined = [request for request in come if request in self.running] + self.joined
        return pieces

    def _let_leave(self) -> list[Request]:
        gone, self._stopping = self._stopping, []
        for request in gone:
            request.computed = self.batch.leave(request)
            self.batch.forget(request)
            del self.running[request], self.moving[request]
            self.queued -= 1
            self._changed = True
            self.on_stopped(request)
        return gone

    def _take_in(self) -> list[Request]:
        kv, batch, arrived = self.kv, self.batch, self.arrived
        come: list[Request] = []
        while arrived and len(self.running) < self.seats:
            request = arrived[0]
            if batch.next_blocks() + (request.computed % kv.block_tokens == 0) > kv.free:
                if self.running:
                    break  # somebody will leave
                self._drop(arrived.pop())
                continue
            arrived.popleft()
            self.queued -= 1
            self.running[request] = None
            self._admitted = request.sequence = self._admitted + 1
            batch.join(request, request.computed)
            if self.role == "decode":
                batch.expect(request)
            come.append(request)
            self.on_joined(request, True)
        return come

    def _drop(self, request: Request) -> None:
        """Those who have come hold all memory, and none can go on: the last is recomputed."""
        self.kv.release(request, request.computed)
        request.target, request.computed = request.prompt + request.generated, 0
        request.preemptions += 1
        self._changed = True
        self.waiting.push_front(request)
        self.waiting_blocks += self.kv.blocks(request.target)
        self.on_joined(request, False)

    def start_decode(self, request: Request) -> None:
        """As Engine's; it may be the moment to move elsewhere."""
        super().start_decode(request)
        if self.on_decoding is not None:
            self.on_decoding(request)

    def finish(self, request: Request, tokens: int) -> None:
        """As Engine's; whoever is being copied need not be any more."""
        super().finish(request, tokens)
        if request in self.moving:
            self._lose(request, "finished")

    def _preempt(self, request: Request) -> None:
        super()._preempt(request)
        self.preemptions += 1
        if self.waiting.ordered and self.waiting.ordered[0] is request:  # else it is swapped out
            self.waiting_blocks += self.kv.blocks(request.target)
        if request in self.moving:
            self._lose(request, "preempted")

    def _lose(self, request: Request, why: str) -> None:
        del self.moving[request]
        if request in self._stopping:
            self._stopping.remove(request)
            self.queued -= 1
        self.on_lost(request, why)


class MobileInstance(CuttableInstance):
    """An instance whose engine may be changed from outside between two steps."""

    __slots__ = ()

    @property
    def mobile(self) -> MobileEngine:
        """Its engine."""
        assert isinstance(self.engine, MobileEngine)
        return self.engine

    def nudge(self, now: int) -> None:
        """Something has changed (after `sync`): end the window with the step in progress, or wake up."""
        if self._pending is None:
            if self.engine.queued:
                self._wake(now)
        elif not self._cut:
            self._shorten(now)
