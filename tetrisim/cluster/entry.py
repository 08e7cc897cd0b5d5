"""A scheduler that looks ahead, turns away who would be served too late, and fetches prefixes from other instances."""

from collections.abc import Callable
from typing import cast

from tetrisim.cluster.clock import ARRIVE, Alarm, ticks
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.kvcache import PrefixCache
from tetrisim.cluster.link import Link
from tetrisim.cluster.request import Request, Turn
from tetrisim.cluster.scheduler import Scheduler
from tetrisim.cluster.sessions import SessionScheduler
from tetrisim.errors import ScenarioError
from tetrisim.policies.views import LoadView, RequestView
from tetrisim.scenario.entry import FetchSpec, RejectSpec

Reject = Callable[[LoadView, RequestView, RejectSpec], bool]
Fetch = Callable[[LoadView, RequestView, int], int | None]


class EntryScheduler(Scheduler):
    """Remembers who waits where for a first token; asks both policies once a request, on its arrival."""

    reject: Reject | None = None
    fetch: Fetch | None = None

    def set_rejection(self, spec: RejectSpec, policy: Reject) -> None:
        """Turn away whom `policy` does not want."""
        self.reject, self._limits = policy, spec

    def set_fetching(self, spec: FetchSpec, policy: Fetch, bytes_per_token: int) -> None:
        """Fetch prefixes from whom `policy` says, each instance over a port in either direction."""
        self.fetch, self._bytes_per_token, self._spec = policy, bytes_per_token, spec
        self.ports: dict[tuple[int, str], Link] = {}
        """By instance number and way, `in` or `out`."""
        self.index.fetch_latency = ticks(spec.latency_s)
        self.index.fetch_ticks_per_token = ticks(bytes_per_token / spec.bandwidth_bytes_per_s)

    def _admit(self, request: Request) -> None:
        if self.reject is not None and self.reject(self.index, request, self._limits):
            request.rejected = True
            self._turn_away(request)
        else:
            super()._admit(request)

    def _turn_away(self, request: Request) -> None:
        """In a closed loop the next one comes instead."""
        if self._pause and self._next is not None:
            self.env.arm(Alarm(self._on_entry), request.arrival + self._pause, ARRIVE)

    def _enter(self, instance: Instance, member: int, request: Request) -> None:
        here = self.index.usage(member).cached_tokens(request)
        found = here if self.fetch is None else max(here, self._fetched(request, member, here))
        self.index.foresight.expect(instance, request, found)
        if found == here:
            instance.submit(request, request.arrival)

    def _fetched(self, request: Request, member: int, here: int) -> int:
        """Fetch its prefix, if the policy says so; returns how many tokens of it there will then be."""
        assert self.fetch is not None
        index = self.index
        source = self.fetch(index, request, member)
        if source is None:
            return here
        try:
            peer, instance = index.members[source], index.members[member]
        except (IndexError, TypeError):
            raise ScenarioError("cluster.fetch.policy", f"chose {source!r}", f"0 to {index.count - 1}, or None"
                               ) from None  # fmt: skip
        found = index.usage(source).computed_tokens(request)
        if found <= here:
            return here
        instance.assigned += 1  # on its way: nobody turns the instance into a decode instance meanwhile

        def arrived(now: int) -> None:
            instance.assigned -= 1
            cast(PrefixCache, instance.engine.kv).adopt(request, found)
            instance.submit(request, now)

        self._port(peer, "out").send(
            (found - here) * self._bytes_per_token, arrived, beside=(self._port(instance, "in"),)
        )
        return found

    def _port(self, instance: Instance, way: str) -> Link:
        key = instance.number, way
        if key not in self.ports:
            self.ports[key] = Link(self.env, self._spec.bandwidth_bytes_per_s, self._spec.latency_s)
        return self.ports[key]


class SessionEntryScheduler(EntryScheduler, SessionScheduler):
    """The same for sessions."""

    def _turn_away(self, request: Request) -> None:
        """The user reads, types, and asks the next question."""
        self.go_on(cast(Turn, request), request.arrival)
