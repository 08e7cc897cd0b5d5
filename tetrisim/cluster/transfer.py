"""KV on its way from prefill to decode, over one port an instance in each direction."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tetrisim.cluster.clock import DELIVER, Clock, ticks
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.request import Request
from tetrisim.scenario.cluster import LinkSpec

Delivered = Callable[[Instance, Instance, Request], None]


class Links:
    """Whole-request transfers, each at full bandwidth, first come first served at both ends.

    A transfer starts when the sender's outgoing and the receiver's incoming port are free: contention is waiting. Size
    over bandwidth plus latency, as in the paper's mock of its links (notes, section 3).
    """

    def __init__(self, env: Clock, spec: LinkSpec, bytes_per_token: int, delivered: Delivered) -> None:
        self.env = env
        self._latency = ticks(spec.latency_s)
        self._ticks_per_token = ticks(bytes_per_token / spec.bandwidth_bytes_per_s)
        self._delivered = delivered
        self._out_free: dict[int, int] = defaultdict(int)
        self._in_free: dict[int, int] = defaultdict(int)
        self.sent_tokens = 0
        self.received_tokens = 0

    def send(self, source: Instance, target: Instance, request: Request) -> None:
        """Send the KV of a request's prompt; `delivered` is called when it is there."""
        now = self.env.now
        start = max(now, self._out_free[source.number], self._in_free[target.number])
        end = start + self._latency + request.prompt * self._ticks_per_token
        self._out_free[source.number] = self._in_free[target.number] = end
        request.transfer_start, request.transfer_end = start, end
        self.sent_tokens += request.prompt

        def arrive(event: Any) -> None:
            self.received_tokens += request.prompt
            self._delivered(source, target, request)

        self.env.alarm(end - now, DELIVER, arrive)
