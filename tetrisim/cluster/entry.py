"""A scheduler that turns away who would be served too late, and fetches prefixes from other prefill instances."""

from collections.abc import Callable
from typing import cast

from tetrisim.cluster.clock import ARRIVE, Alarm, ticks
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.kvcache import PrefixCache
from tetrisim.cluster.link import Link
from tetrisim.cluster.request import Request
from tetrisim.cluster.scheduler import Scheduler
from tetrisim.policies.views import LoadView, RequestView
from tetrisim.scenario.entry import FetchSpec, RejectSpec

Reject = Callable[[LoadView, RequestView, float], bool]
Fetch = Callable[[LoadView, RequestView, int], int | None]


class EntryScheduler(Scheduler):
    """Asks both policies once a request, on its arrival."""

    reject: Reject | None = None
    fetch: Fetch | None = None

    def set_rejection(self, spec: RejectSpec, policy: Reject) -> None:
        """Turn away whom `policy` does not want."""
        self.reject, self._limit_s = policy, spec.ttft_s

    def set_fetching(self, spec: FetchSpec, policy: Fetch, bytes_per_token: int) -> None:
        """Fetch prefixes from whom `policy` says, each instance over a port in either direction."""
        self.fetch, self._bytes_per_token, self._spec = policy, bytes_per_token, spec
        self._ports: dict[tuple[int, str], Link] = {}
        self.index.fetch_latency = ticks(spec.latency_s)
        self.index.fetch_ticks_per_token = ticks(bytes_per_token / spec.bandwidth_bytes_per_s)

    def _admit(self, request: Request) -> None:
        if self.reject is not None and self.reject(self.index, request, self._limit_s):
            request.rejected = True
            if self._pause and self._next is not None:  # in a closed loop the next one comes instead
                self.env.arm(Alarm(self._on_entry), request.arrival + self._pause, ARRIVE)
            return
        super()._admit(request)

    def _enter(self, instance: Instance, member: int, request: Request) -> None:
        source = None if self.fetch is None else self.fetch(self.index, request, member)
        if source is None:
            instance.submit(request, request.arrival)
            return
        found = self.index.usage(source).cached_tokens(request)
        missing = found - self.index.usage(member).cached_tokens(request)

        def arrived(now: int) -> None:
            cast(PrefixCache, instance.engine.kv).adopt(request, found)
            instance.submit(request, now)

        out, into = self._port(self.index.members[source], "out"), self._port(instance, "in")
        out.send(missing * self._bytes_per_token, arrived, beside=(into,))

    def _port(self, instance: Instance, way: str) -> Link:
        key = instance.number, way
        if key not in self._ports:
            self._ports[key] = Link(self.env, self._spec.bandwidth_bytes_per_s, self._spec.latency_s)
        return self._ports[key]
