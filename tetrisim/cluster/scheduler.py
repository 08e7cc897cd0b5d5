"""The global scheduler: takes requests as they arrive, refuses those that can never be served, routes the rest."""

from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import inf

from tetrisim.cluster.clock import ARRIVE, Alarm, Clock, seconds
from tetrisim.cluster.foresight import Foresight
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.recorder import Recorder
from tetrisim.cluster.request import Request
from tetrisim.cluster.usage import Usage
from tetrisim.errors import ScenarioError
from tetrisim.policies.views import LoadView, RequestView, Rng

Route = Callable[[LoadView, RequestView, Rng], int]


FEW = 16
"""Up to so many instances, looking at each is faster than keeping a heap."""

PACK_EVERY = 100_000
"""Arrivals after which the gap rows are packed: as Python objects they take 160 bytes each."""


class LoadIndex:
    """The instances that take new requests, with the least loaded one found in O(log n).

    Load is prompt tokens not yet prefilled for a prefill instance, unfinished requests for a hybrid one.
    """

    def __init__(self, members: list[Instance]) -> None:
        self.members: list[Instance] = []
        self._loads: list[int] = []
        self._place: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        self.fetch_latency = self.fetch_ticks_per_token = inf
        self.foresight = Foresight()
        self.decoders: Sequence[Instance] = ()
        """The decode instances, where there are any."""
        self.ttft_limit_s = inf
        self.change(members)

    def change(self, members: list[Instance]) -> None:
        """Replace the members; those that stay keep their load, new ones have none."""
        known = {member.number: load for member, load in zip(self.members, self._loads, strict=True)}
        self.members = members
        self._loads = [known.get(member.number, 0) for member in members]
        self._place = {member.number: place for place, member in enumerate(members)}
        self._compact()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.members)

    def load(self, member: int) -> int:
        """The load of one."""
        return self._loads[member]

    def least_loaded(self) -> int:
        """The first of those with the least load."""
        heap, loads = self._heap, self._loads
        if len(loads) <= FEW:
            return loads.index(min(loads))
        load, member = heap[0]
        while load != loads[member]:
            # The heap holds a lower bound for each member: one that has grown since is put back at its true load.
            if load < loads[member]:
                heapreplace(heap, (loads[member], member))
            else:
                heappop(heap)
            load, member = heap[0]
        return member

    def usage(self, member: int) -> Usage:
        """What one holds and has to do, as of now."""
        return Usage(self.members[member], foresight=self.foresight)

    def fetch_s(self, tokens: int) -> float:
        """Time to fetch the KV of so many tokens from another member."""
        return seconds(self.fetch_latency + tokens * self.fetch_ticks_per_token)

    def tpot_s(self, request: RequestView) -> float:
        """See LoadView."""
        decoders = self.decoders
        if not decoders:
            return 0.0
        # Whoever is being prefilled will decode by then: an even share of them beside those that decode now.
        decoding = sum(each.load.assigned for each in decoders)
        others = sum(self.foresight.waiting(each) for each in self.members) + 1
        tokens = sum(self._loads) + request.prompt
        for each in decoders:
            batch = each.engine.batch
            tokens += each.load.pending_tokens + batch.context + batch.n * each.steps_done(each.env.now)
        n = -(-(decoding + others) // len(decoders))
        context = tokens // len(decoders)
        return seconds(min(each.timer.decode(n, context, context // n) for each in decoders))

    def grow(self, member: int, load: int) -> None:
        """A member has taken on load; the heap learns of it when it matters."""
        self._loads[member] += load

    def shrink(self, number: int, load: int) -> None:
        """The instance of this number is done with some of its load."""
        member = self._place.get(number)
        if member is None:
            return  # it is to change role: its load no longer matters
        loads = self._loads
        loads[member] = left = loads[member] - load
        if len(loads) > FEW:
            heappush(self._heap, (left, member))
            if len(self._heap) > 8 * len(loads):
                self._compact()

    def _compact(self) -> None:
        self._heap = [(load, member) for member, load in enumerate(self._loads)]
        heapify(self._heap)


class Scheduler:
    """Arrivals, admission and routing."""

    def __init__(self, env: Clock, index: LoadIndex, route: Route, rng: Rng, recorder: Recorder) -> None:
        self.env = env
        self.index = index
        self._route = route
        self._rng = rng
        self._recorder = recorder
        self._source: Iterator[Request] = iter(())
        self._next: Request | None = None
        self._alarm = Alarm(self._on_arrival)
        self._pause = 0
        """Ticks from one request's end to the next one's entry in a closed loop; 0 where arrivals are open."""
        self.unfinished = 0
        """Requests in the cluster."""

    def start(self) -> None:
        """Take the recorder's requests as they arrive; those that cannot be served are marked rejected."""
        self._source = iter(self._recorder.requests)
        self._await()

    def start_loop(self, concurrency: int, think: int) -> None:
        """A closed loop: so many of the recorder's requests at once, and one more `think` ticks after each end.

        One tick more, so that all which happens at the moment of the end has happened, by windows or by steps alike.
        Whoever cannot be served is turned away at its entry, and the next in line enters at once.
        """
        self._source = iter(self._recorder.requests)
        self._pause = think + 1
        self._next = next(self._source, None)
        for _ in range(concurrency):
            self.env.arm(Alarm(self._on_entry), 0, ARRIVE)

    @property
    def active(self) -> bool:
        """Whether requests are still to come or unfinished."""
        return self._next is not None or self.unfinished > 0

    def _await(self) -> None:
        self._next = request = next(self._source, None)
        if request is not None:
            self.env.arm(self._alarm, request.arrival, ARRIVE)

    def _on_arrival(self, event: Alarm) -> None:
        request = self._next
        self._await()  # before anything starts: instances look whether more is to happen at this moment
        if request is None or request.rejected:
            return
        self._admit(request)

    def _on_entry(self, event: Alarm) -> None:
        while (request := self._next) is not None:
            request.arrival = event.at
            self._next = next(self._source, None)
            if not request.rejected:
                self._admit(request)
                return

    def _admit(self, request: Request) -> None:
        if not request.id % PACK_EVERY:
            self._recorder.pack()
        self.unfinished += 1
        index = self.index
        member = self._route(index, request, self._rng)
        try:
            if member < 0:  # Python would count from the end
                raise IndexError
            instance = index.members[member]
        except (IndexError, TypeError):
            raise ScenarioError("cluster.route", f"chose {member!r}", f"0 to {index.count - 1}") from None
        index.grow(member, request.prompt if instance.role == "prefill" else 1)
        self._enter(instance, member, request)

    def _enter(self, instance: Instance, member: int, request: Request) -> None:
        """Hand a request to its instance."""
        instance.submit(request, request.arrival)

    def finished(self, instance: Instance, request: Request) -> None:
        """A request has left the cluster."""
        self.unfinished -= 1
        if self._pause and self._next is not None:
            self.env.arm(Alarm(self._on_entry), request.finish + self._pause, ARRIVE)
        if instance.role == "hybrid":
            self.index.shrink(instance.number, 1)
        elif instance.role == "prefill":
            self.index.shrink(instance.number, request.prompt)  # its only token came with the prefill
