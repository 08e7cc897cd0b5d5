"""Chats of several turns: what a turn is, the closed loop of their users, and a prefix cache that knows sessions."""

from collections import deque
from collections.abc import Iterator
from itertools import groupby
from typing import cast

from tetrisim.cluster.clock import ARRIVE, Alarm, Clock, ticks
from tetrisim.cluster.hints import HintDesk
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.kvcache import PrefixCache
from tetrisim.cluster.recorder import Recorder
from tetrisim.cluster.request import NEVER, Request, Turn
from tetrisim.cluster.scheduler import LoadIndex, Route, Scheduler
from tetrisim.errors import ScenarioError
from tetrisim.policies.views import LoadView, RequestView, Rng
from tetrisim.workload.sessions import Turns


def as_turns(requests: Iterator[Request], turns: Turns) -> Iterator[Request]:
    """The requests as turns of their sessions."""
    columns = (turns.session.tolist(), turns.read_s.tolist(), turns.typing_s.tolist(), turns.luck.tolist())
    for request, session, read_s, typing_s, luck in zip(requests, *columns, strict=True):
        turn = Turn(request.id, request.arrival, request.prompt, request.output, request.predicted)
        turn.heavy, turn.rejected = request.heavy, request.rejected
        turn.session, turn.read, turn.typing, turn.luck = session, ticks(read_s), ticks(typing_s), luck
        yield turn


class SessionCache(PrefixCache):
    """A prefix cache in which a session's blocks are the same in all of its turns, answers included."""

    __slots__ = ()

    def _content(self, request: Request, first: int, last: int) -> Iterator[int]:
        own = 2 * (cast(Turn, request).session << 24) + 1
        yield from range(own + 2 * first, own + 2 * last, 2)


class SessionScheduler(Scheduler):
    """Users in a closed loop: each reads, types and asks, turn by turn, and then begins the next session in line.

    A turn that cannot be served ends its session at its arrival: all later ones are longer.
    """

    def __init__(self, env: Clock, index: LoadIndex, route: Route, rng: Rng, recorder: Recorder) -> None:
        super().__init__(env, index, self._choose, rng, recorder)
        self._policy = route
        self._sessions: Iterator[deque[Turn]] = iter(())
        self._rest: dict[int, deque[Turn]] = {}
        """Session -> its turns to come."""
        self._homes: dict[int, int] = {}
        """Session -> the instance that prefilled its last turn."""
        self._to_come = 0
        self.desk: HintDesk | None = None

    def start_loop(self, concurrency: int, think: int) -> None:
        """So many users, who begin to read at once; `think` is not used."""
        turns = cast("list[Turn]", self._recorder.requests)
        self._to_come = len(turns)
        self._sessions = (deque(group) for _, group in groupby(turns, lambda turn: turn.session))
        for _ in range(concurrency):
            self._begin(0)

    @property
    def active(self) -> bool:
        """Whether requests are still to come or unfinished."""
        return self._to_come > 0 or self.unfinished > 0

    def finished(self, instance: Instance, request: Request) -> None:
        """A turn has left the cluster: its user goes on."""
        super().finished(instance, request)
        turn = cast(Turn, request)
        self._homes[turn.session] = turn.prefill_instance
        self.go_on(turn, request.finish)

    def go_on(self, turn: Turn, now: int) -> None:
        """A turn is over: its user comes to the next."""
        rest = self._rest[turn.session]
        if rest:
            self._await_turn(rest, now)
        else:
            if self.desk is not None:
                self.desk.note_over(turn)
            self._begin(now)

    def pick(self, turn: Turn) -> int:
        """The member that the route policy chooses for a turn now."""
        home = self._homes.get(turn.session, NEVER)
        members = self.index.members
        turn.home = next((place for place, member in enumerate(members) if member.number == home), NEVER)
        member = self._policy(self.index, turn, self._rng)
        if type(member) is not int or not 0 <= member < len(members):
            raise ScenarioError("cluster.route", f"chose {member!r}", f"0 to {len(members) - 1}")
        return member

    def _choose(self, view: LoadView, request: RequestView, rng: Rng) -> int:
        turn = cast(Turn, request)
        bound = None if self.desk is None else self.desk.take(turn)
        return self.pick(turn) if bound is None else bound

    def _begin(self, now: int) -> None:
        turns = next(self._sessions, None)
        if turns:
            self._rest[turns[0].session] = turns
            self._await_turn(turns, now)

    def _await_turn(self, turns: deque[Turn], now: int) -> None:
        """The user reads, then types; one tick more, as in any closed loop (see Scheduler.start_loop)."""
        turn = turns[0]
        entry = now + 1 + turn.read + turn.typing
        if self.desk is not None and not turn.rejected:
            self.desk.expect(turn, now + 1, entry)
        self.env.arm(_Entry(self, turns), entry, ARRIVE)

    def enter(self, turns: deque[Turn], now: int) -> None:
        """The user sends the first of these turns."""
        while turns:
            turn = turns.popleft()
            self._to_come -= 1
            turn.arrival = now
            if not turn.rejected:
                self._admit(turn)
                return
        self._begin(now)


class _Entry(Alarm):
    def __init__(self, scheduler: SessionScheduler, turns: deque[Turn]) -> None:
        self.scheduler, self.turns = scheduler, turns

    @staticmethod
    def call(entry: "_Entry") -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        entry.scheduler.enter(entry.turns, entry.at)
