"""An instance whose free blocks hold the KV of sessions that wait, and whose steps wait for layers on their way."""

from collections.abc import Iterable
from typing import cast

from tetrisim.cluster.batch import DecodeBatch
from tetrisim.cluster.clock import Alarm
from tetrisim.cluster.engine import Piece
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.kvcache import KVCache
from tetrisim.cluster.request import Request, Turn
from tetrisim.cluster.tiers import Node


class TieredKV(KVCache):
    """Blocks by number alone; free ones may hold what a turn left (see tiers.py), until somebody needs them.

    What decodes have taken of those is made up for when blocks are next given or taken back, or KV moves: moments that
    windows and single steps have in common.
    """

    __slots__ = ("node",)

    ordered = True

    def __init__(self, capacity: int, block_tokens: int, reserve: int, node: Node) -> None:
        super().__init__(capacity, block_tokens, reserve)
        self.node = node

    def cached(self, request: Request) -> int:
        """What an earlier turn left, wherever it is to be had."""
        return self.node.reusable(cast(Turn, request).session)

    def admit(self, request: Request, cached: int, tokens: int) -> None:
        """As above; what is not in the GPU begins to load."""
        super().admit(request, cached, tokens)
        if cached:
            self.node.begin(cast(Turn, request).session)
        self.node.squeeze(self.free)

    def grow(self, batch: DecodeBatch, members: Iterable[Request], steps: int) -> None:
        """By number."""
        self.free -= batch.growth(steps)

    def release(self, request: Request, tokens: int) -> None:
        """As above; a turn that has ended leaves its full blocks."""
        self.node.squeeze(self.free)  # as few as there were since the last look
        super().release(request, tokens)
        if request.generated == request.output:
            full = tokens - tokens % self.block_tokens
            if full:
                self.node.keep(cast(Turn, request).session, full)

    def check(self) -> None:
        """Also what is kept in free blocks."""
        super().check()
        self.node.check()


class TieredInstance(Instance):
    """Asks for a turn's KV when the turn comes, and makes a step as long as its layers keep it waiting."""

    __slots__ = ()

    def submit(self, request: Request, now: int) -> None:
        """A turn to serve here, whose KV is brought before it queues (`apart`), or meanwhile."""
        node = cast(TieredKV, self.engine.kv).node
        session = cast(Turn, request).session
        if node.store.spec.load == "apart":
            node.call(session, now, lambda at: Instance.submit(self, request, at))
        else:
            node.call(session, now)
            super().submit(request, now)

    def _start_step(self, pieces: list[Piece], now: int) -> None:
        super()._start_step(pieces, now)
        node = cast(TieredKV, self.engine.kv).node
        if node.stalls:
            ticks = self._first
            longer = stalled(ticks, now, node.stalls, node.store.layers, node.store.spec.load == "whole")
            node.stalls = []
            if longer > ticks:
                self._first = longer
                # The alarm that is set will ring unheard, so from now on there is a new one.
                self._pending = self._step_alarm = alarm = Alarm(self._on_step)
                self.env.arm(alarm, now + longer, self._priority)


def stalled(ticks: int, now: int, stalls: list[tuple[int, int]], layers: int, whole: bool) -> int:
    """How long a step of `ticks` takes whose layers are there at certain moments: (layer from 1, moment) pairs.

    Layer i starts at max(end of layer i - 1, when it is there), and all layers take the same time; `whole`: the step
    starts when all are there.
    """
    if whole:
        return ticks + max(0, *(at - now for _, at in stalls))
    return max(ticks, *(at - now + ticks * (layers - layer + 1) // layers for layer, at in stalls))
