"""An engine that serves urgent requests first, and whose steps may be stopped half-way and gone on with later (QLLM).

Batches hold at most `max_num_seqs` sequences; a step prefills or decodes. By the paper's rule (arXiv 2503.09304) the
next one is: urgent decodes that fill a batch; else waiting urgent prompts, with others; else urgent decodes, with
others; else other decodes; else other prompts. Sequences beyond a batch are parked: they keep their KV and wait.
"""

import sys
from heapq import nsmallest
from typing import Any

from tetrisim.cluster.engine import Piece
from tetrisim.cluster.parking import ParkingEngine
from tetrisim.cluster.priority import rank
from tetrisim.cluster.request import Request
from tetrisim.scenario.classes import URGENT
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.preempt import PreemptSpec


class ClassEngine(ParkingEngine):
    """The batch rule, the parked and the suspended. A suspended step is known by how much of each member is done."""

    def __init__(self, pool: PoolSpec, *parts: Any) -> None:
        super().__init__(pool, *parts)
        self.preempt = pool.preempt or PreemptSpec()
        self._to_the_end = self.preempt.granularity == "request"
        self.held: list[Piece] = []
        """Prompts whose prefill is suspended; like the parked they count as `queued`."""
        self.saved: dict[Request, float] = {}
        """How much of the layers of its next token (or of its prefill) a request has behind it; 0 when not there."""
        self._stopped = False
        self._crowded = False
        """Whether the batch has more members than it may; it counts as one `queued`, so that a plan is made."""

    def push(self, request: Request) -> bool:
        """Queue a request; an urgent one might join the next step."""
        self.queued += 1
        self.waiting.push(request)
        return request.priority == URGENT and not self._to_the_end

    def plan(self) -> list[Piece]:
        """The next step by the rule."""
        self.joined, self.preempted, self.interrupted = [], [], []
        self.grown = False
        self.queued -= self._crowded
        self._crowded = False
        stopped, self._stopped = self._stopped, False
        pieces: list[Piece] = []
        decodes = bool(self.batch.n or self.parked)
        if self._may_start() and not (decodes and self._to_the_end):
            self._prefill(pieces, held=not stopped)
        if not pieces and not decodes:
            self._prefill(pieces, held=True)
        if not pieces:
            self._choose()
            self._make_room()
        return pieces

    def start_decode(self, request: Request) -> None:
        """As Engine's; the next plan parks whoever is one too many."""
        super().start_decode(request)
        if self.batch.n > self.most and not self._crowded:
            self._crowded = True
            self.queued += 1

    def can_start(self) -> bool:
        """Whether the first waiting request is urgent and would be taken up if the step in progress stopped now."""
        if not self._may_start():
            return False
        head = self.waiting.ordered[0]
        return self._fits(head, self.kv.cached(head), head.target, 0)

    def suspend(self, done: float, pieces: list[Piece]) -> list[Request]:
        """Stop the step in progress (`pieces`, or the batch) with so much of its layers done; returns its members."""
        self._stopped = True
        self.held = pieces + self.held
        self.queued += len(pieces)
        members = [request for request, _ in pieces] or self.decoding()
        for request in members:
            self.saved[request] = max(done, self.saved.get(request, 0.0))
            request.preemptions += 1
        return members

    def _may_start(self) -> bool:
        ordered = self.waiting.ordered
        if not ordered or ordered[0].priority != URGENT:
            return False
        return sum(request.priority == URGENT for request in (*self.decoding(), *self.parked)) < self.most

    def _prefill(self, pieces: list[Piece], held: bool) -> None:
        """Waiting prompts by rank, up to a batch of them; before any that are not urgent those `held`, if these may."""
        room = self.most
        if self.held:
            room = min(room, sum(request.priority == URGENT for request in self.waiting.ordered))
        self.seats = len(self.running) + room
        if room:
            self._admit_waiting(pieces, 0)
        self.seats = sys.maxsize
        if held and self.held:
            first = self.most - len(pieces)
            pieces += self.held[:first]
            self.queued -= len(self.held[:first])
            self.held = self.held[first:]

    def _choose(self) -> None:
        """The first of all decodes by rank are the batch, the others are parked."""
        if not self.parked and self.batch.n <= self.most:
            return
        members = self.decoding()
        chosen = dict.fromkeys(nsmallest(self.most, (*members, *self.parked), key=rank))
        for request in members:
            if request not in chosen:
                self._park(request)
        for request in chosen:
            if request in self.parked:
                self._unpark(request)

    def _preempt(self, request: Request) -> None:
        """As Engine's, of the suspended, too: what they had done is lost, and they count as queued already."""
        self.saved.pop(request, None)
        piece = next((piece for piece in self.held if piece[0] is request), None)
        if piece is None:
            super()._preempt(request)
            return
        del self.running[request]
        self.held.remove(piece)
        self.kv.release(request, request.target)
        request.computed = 0
        request.preemptions += 1
        self.preempted.append(request)
        self.waiting.push_front(request)
