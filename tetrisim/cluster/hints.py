"""Hints that a turn is coming: the instance is chosen when one comes, and the session's KV brought there.

A hint promises nothing. What it does costs no one else: KV is brought to memory that nobody uses (see tiers.py).
"""

from collections.abc import Callable

from tetrisim.cluster.clock import ARRIVE, Alarm, Clock, ticks
from tetrisim.cluster.request import Turn
from tetrisim.cluster.scheduler import LoadIndex
from tetrisim.scenario.tiers import HintSpec


class HintDesk:
    """Where hints come in, true ones and others, and what has been chosen for turns that have yet to come."""

    def __init__(
        self,
        env: Clock,
        spec: HintSpec,
        index: LoadIndex,
        pick: Callable[[Turn], int],
        fetch: Callable[[int, Turn, int], None],
    ) -> None:
        self.env, self._spec, self._index = env, spec, index
        self._pick = pick
        self._fetch = fetch
        """Called with the number of the instance chosen, the turn, and now."""
        self._extra = spec.spurious / (1 - spec.spurious)
        """Hints about nothing for each true one."""
        self._expire = ticks(spec.expire_s)
        self._bound: dict[int, _Hint] = {}
        """Session -> its hint, while its turn has yet to come."""
        self._coming: dict[int, int] = {}
        """Member -> hints that hold."""
        self._over: list[Turn] = []
        """The last turns of sessions that are over."""

    def note_over(self, turn: Turn) -> None:
        """A session has ended, so every hint about it is wrong."""
        self._over.append(turn)

    def expect(self, turn: Turn, now: int, entry: int) -> None:
        """A user begins to read now, and will send the turn at `entry`."""
        at = now if self._spec.lead == "pause" else entry - turn.typing
        self.env.arm(Alarm(lambda alarm: self._on_hint(turn, alarm.at)), at, ARRIVE)

    def take(self, turn: Turn) -> int | None:
        """The member chosen for a turn that has come; None when nothing was, or it no longer holds."""
        hint = self._bound.get(turn.session)
        if hint is None:
            return None
        self._drop(hint)
        if self._spec.rebind_above is None:
            return hint.member
        coming, index = self._coming, self._index
        here = [index.load(member) - coming.get(member, 0) for member in range(index.count)]
        least = min(here)
        return here.index(least) if here[hint.member] > self._spec.rebind_above * least + 1 else hint.member

    def _on_hint(self, turn: Turn, now: int) -> None:
        missed, count, which = turn.luck
        over = self._over
        for number in range(int(self._extra + count) if over else 0):
            self._call(over[int((which + number * 0.6180339887) % 1.0 * len(over))], now)
        if missed >= self._spec.missed:
            self._call(turn, now)

    def _call(self, turn: Turn, now: int) -> None:
        if turn.session in self._bound:
            return
        member = self._pick(turn)
        self._index.grow(member, 1)
        self._coming[member] = self._coming.get(member, 0) + 1
        self._bound[turn.session] = hint = _Hint(self._drop_late, turn, member)
        self.env.arm(hint, now + self._expire, ARRIVE)
        self._fetch(self._index.members[member].number, turn, now)

    def _drop_late(self, hint: "_Hint") -> None:
        if self._bound.get(hint.turn.session) is hint:
            self._drop(hint)

    def _drop(self, hint: "_Hint") -> None:
        del self._bound[hint.turn.session]
        self._coming[hint.member] -= 1
        self._index.shrink(self._index.members[hint.member].number, 1)


class _Hint(Alarm):
    """What was chosen for a turn; it rings when it no longer holds."""

    def __init__(self, call: Callable[["_Hint"], None], turn: Turn, member: int) -> None:
        super().__init__(call)
        self.turn, self.member = turn, member
