"""From prefill to decode: chooses a decode instance for each prefilled request and sends it there."""

from collections import deque
from collections.abc import Callable

from tetrisim.cluster.clock import MONITOR, Alarm, Clock
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.load import LoadSnapshot
from tetrisim.cluster.monitor import Broadcast
from tetrisim.cluster.request import Request
from tetrisim.cluster.scheduler import LoadIndex
from tetrisim.cluster.transfer import Links
from tetrisim.errors import ScenarioError
from tetrisim.policies.views import PlacementView, RequestView, Rng

Place = Callable[[PlacementView, RequestView, Rng], int | None]


class Dispatcher:
    """Placement at the end of a request's prefill, on the loads of the last broadcast.

    A request that no instance has room for keeps its KV at the prefill instance and is tried again with each broadcast.
    """

    def __init__(self, env: Clock, broadcast: Broadcast, place: Place, rng: Rng) -> None:
        self.env = env
        self.members: list[Instance] = []
        self.count = 0
        self.links: Links
        self.index: LoadIndex
        self._broadcast = broadcast
        self._place = place
        self._rng = rng
        self._now = 0
        self._held: deque[tuple[Instance, Request]] = deque()

    @property
    def held_tokens(self) -> int:
        """Prompt tokens of those that no instance has room for."""
        return sum(request.prompt for _, request in self._held)

    def change(self, members: list[Instance]) -> None:
        """Replace the decode instances."""
        self.members, self.count = members, len(members)

    def snapshot(self, member: int) -> LoadSnapshot:
        """The load of one as of the last broadcast."""
        instance = self.members[member]
        if self._now >= instance.snapshot_until:
            self._broadcast.refresh(instance)
        return instance.snapshot

    def dispatch(self, source: Instance, request: Request) -> None:
        """Place a request whose prefill has just finished, which takes its prompt off the load of its instance."""
        self.index.shrink(source.number, request.prompt)
        if self._held or not self._try(source, request, request.first_token):
            if not self._held:
                self._retry_later(request.first_token)
            self._held.append((source, request))

    def _try(self, source: Instance, request: Request, now: int) -> bool:
        self._now = now
        member = self._place(self, request, self._rng)
        if member is None:
            return False
        try:
            if member < 0:  # Python would count from the end
                raise IndexError
            target = self.members[member]
        except (IndexError, TypeError):
            raise ScenarioError(
                "cluster.place.policy", f"chose {member!r}", f"0 to {self.count - 1}, or None"
            ) from None
        target.expect(request, now)
        self.links.send(source, target, request, now)
        return True

    def _retry_later(self, now: int) -> None:
        period = self._broadcast.period
        self.env.arm(Alarm(self._on_broadcast), (now // period + 1) * period, MONITOR)

    def _on_broadcast(self, alarm: Alarm) -> None:
        held = self._held
        while held and self._try(*held[0], alarm.at):
            held.popleft()
        if held:
            self._retry_later(alarm.at)
