"""KV on its way from prefill to decode, over one port an instance in each direction."""

from tetrisim.cluster.clock import DELIVER, Alarm, Clock, ticks
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.request import Request
from tetrisim.scenario.cluster import LinkSpec


class Links:
    """Transfers at full bandwidth, first come first served at both ends.

    A transfer starts when the sender's outgoing and the receiver's incoming port are free: contention is waiting. Size
    over bandwidth plus latency, as in the paper's mock of its links (notes, section 3).

    By chunk or layer, KV is sent while later ones are computed; what remains at the end of the prefill waits
    for the ports like any other transfer. What went before is taken to have found them free.
    """

    def __init__(self, env: Clock, spec: LinkSpec, bytes_per_token: int, layers: int) -> None:
        self.env = env
        self._latency = ticks(spec.latency_s)
        self._ticks_per_token = ticks(bytes_per_token / spec.bandwidth_bytes_per_s)
        self._granularity = spec.granularity
        self._layers = layers
        self._out_free: dict[int, int] = {}
        self._in_free: dict[int, int] = {}
        self.sent_tokens = 0
        self.received_tokens = 0

    def send(self, source: Instance, target: Instance, request: Request, now: int) -> None:
        """Send the KV of a request's prompt; then the source frees it and the target may decode."""
        out_free, in_free = self._out_free, self._in_free
        start = now
        if (free := out_free.get(source.number, 0)) > start:
            start = free
        if (free := in_free.get(target.number, 0)) > start:
            start = free
        size = request.prompt * self._ticks_per_token
        if self._granularity != "request":
            size = self._remaining(size, source.engine.batching.padded, request)
        end = start + self._latency + size
        out_free[source.number] = in_free[target.number] = end
        request.transfer_start, request.transfer_end = start, end
        self.sent_tokens += request.prompt
        self.env.arm(_Delivery(self, source, target, request), end, DELIVER)

    def _remaining(self, size: int, chunk_tokens: int, request: Request) -> int:
        """Ticks of sending that are left when the prefill ends; the prompt is taken to begin a chunk.

        At least the last piece is left, and all that the link could not send since the first one was computed.
        """
        chunks = -(-request.prompt // chunk_tokens) if chunk_tokens else 1
        pieces, last = chunks, request.prompt - (chunks - 1) * chunk_tokens
        tail = last * self._ticks_per_token
        if self._granularity == "layer":
            pieces, tail = chunks * self._layers, tail // self._layers
        computing = request.first_token - request.prefill_start
        return max(tail, size - (computing - computing // pieces))


class _Delivery(Alarm):
    """The end of a transfer."""

    def __init__(self, links: Links, source: Instance, target: Instance, request: Request) -> None:
        self.links, self.source, self.target, self.request = links, source, target, request

    @staticmethod
    def call(delivery: "_Delivery") -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        request, now = delivery.request, delivery.at
        delivery.links.received_tokens += request.prompt
        delivery.source.release(request, now)
        delivery.target.receive(request, now)
