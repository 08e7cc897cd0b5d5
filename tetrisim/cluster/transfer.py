"""KV on its way from prefill to decode, over one port an instance in each direction."""

from tetrisim.cluster.clock import DELIVER, Alarm, Clock, ticks
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.request import Request
from tetrisim.scenario.cluster import LinkSpec


class Links:
    """Whole-request transfers, each at full bandwidth, first come first served at both ends.

    A transfer starts when the sender's outgoing and the receiver's incoming port are free: contention is waiting. Size
    over bandwidth plus latency, as in the paper's mock of its links (notes, section 3).
    """

    def __init__(self, env: Clock, spec: LinkSpec, bytes_per_token: int) -> None:
        self.env = env
        self._latency = ticks(spec.latency_s)
        self._ticks_per_token = ticks(bytes_per_token / spec.bandwidth_bytes_per_s)
        self._out_free: dict[int, int] = {}
        self._in_free: dict[int, int] = {}
        self.sent_tokens = 0
        self.received_tokens = 0

    def send(self, source: Instance, target: Instance, request: Request, now: int) -> None:
        """Send the KV of a request's prompt; then the source frees it and the target may decode."""
        out, into = self._out_free.get(source.number, 0), self._in_free.get(target.number, 0)
        start = max(now, out, into)
        end = start + self._latency + request.prompt * self._ticks_per_token
        self._out_free[source.number] = self._in_free[target.number] = end
        request.transfer_start, request.transfer_end = start, end
        self.sent_tokens += request.prompt
        delivery = _Delivery(self._arrive)
        delivery.source, delivery.target, delivery.request = source, target, request
        self.env.arm(delivery, end, DELIVER)

    def _arrive(self, delivery: "_Delivery") -> None:
        self.received_tokens += delivery.request.prompt
        delivery.source.release(delivery.request, delivery.at)
        delivery.target.receive(delivery.request, delivery.at)


class _Delivery(Alarm):
    source: Instance
    target: Instance
    request: Request
