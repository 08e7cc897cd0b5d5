"""Engines that run some of their sequences while the others wait with their KV where it is: parked."""

import sys
from typing import Any

from tetrisim.cluster.priority import PriorityEngine
from tetrisim.cluster.request import NEVER, Request
from tetrisim.scenario.cluster import PoolSpec


class ParkingEngine(PriorityEngine):
    """At most `most` sequences in a step; the parked count as `queued`."""

    def __init__(self, pool: PoolSpec, *parts: Any) -> None:
        super().__init__(pool, *parts)
        self.most, self.seats = self.seats, sys.maxsize
        self.parked: dict[Request, int] = {}
        """Sequences outside the batch, with their context."""

    def decoding(self) -> list[Request]:
        """The members of the batch."""
        return [request for request in self.running if request.finish_step != NEVER]

    def _park(self, request: Request) -> None:
        self.parked[request] = self.batch.leave(request)
        self.queued += 1
        request.preemptions += 1
        self.preempted.append(request)
        self.interrupted.append(request)

    def _unpark(self, request: Request) -> None:
        self.queued -= 1
        self.batch.join(request, self.parked.pop(request))
        self.joined.append(request)

    def _preempt(self, request: Request) -> None:
        """As Engine's, of the parked, too."""
        if request not in self.parked:
            super()._preempt(request)
            return
        context = self.parked.pop(request)
        blocks = self.kv.blocks(context)
        del self.running[request]
        self.kv.release(request, context)
        request.target, request.computed = request.prompt + request.generated, 0
        request.preemptions += 1
        self.preempted.append(request)
        if self._swap_room >= blocks:
            self._swap_room -= blocks
            self.moved_blocks += blocks
            request.computed = context
            self.swapped.append(request)
        else:
            self.waiting.push_front(request)
