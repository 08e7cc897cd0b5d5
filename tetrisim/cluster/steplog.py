"""Instances that enter each of their steps in a log, for timelines. A run without a log has none of them."""

from dataclasses import dataclass, field, replace
from functools import cache
from math import inf
from typing import Any

from tetrisim.cluster.clock import seconds
from tetrisim.cluster.engine import Piece
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.request import NEVER, Request


@dataclass(frozen=True, slots=True)
class Step:
    """One engine step of the instance of this number."""

    instance: int
    start_s: float
    end_s: float
    prefills: tuple[tuple[int, int, int], ...]
    """Request, how many of its tokens are computed, and how many were before."""
    decodes: tuple[int, ...]
    """Requests that are shown a token each, in order of admission."""
    context_tokens: int
    """Tokens with KV of all `decodes`."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What an instance holds from a moment on."""

    instance: int
    at_s: float
    waiting: int
    """Requests that no step has taken up; received and swapped-out ones count, too."""
    kv_blocks: int


@dataclass(slots=True)
class StepLog:
    """The first `limit` steps that start in [from_s, to_s) with one of `requests` (None: anybody) in them."""

    from_s: float = 0.0
    to_s: float = inf
    limit: int = 1_000_000_000
    requests: frozenset[int] | None = None
    steps: list[Step] = field(default_factory=list[Step])
    holdings: list[Holding] = field(default_factory=list[Holding])
    left_out: int = 0
    """Such steps beyond the limit."""
    ends_s: float = inf
    """The start of the first step beyond the limit: nothing later is in the log."""

    def covers(self, at_s: float) -> bool:
        """Whether the log shows this moment."""
        return self.from_s <= at_s < min(self.to_s, self.ends_s)

    def enter(self, step: Step) -> None:
        """Add a step, or count it as left out."""
        wanted = self.requests
        if not self.from_s <= step.start_s < self.to_s:
            return
        if wanted is not None and wanted.isdisjoint((*step.decodes, *(request for request, _, _ in step.prefills))):
            return
        if len(self.steps) < self.limit:
            self.steps.append(step)
        else:
            self.left_out += 1
            self.ends_s = min(self.ends_s, step.start_s)

    def cut(self, instance: int, start_s: float, end_s: float) -> None:
        """An instance's last step, begun at `start_s`, was stopped early; what it goes on with is another entry."""
        for place in range(len(self.steps) - 1, -1, -1):
            step = self.steps[place]
            if step.instance == instance:
                if step.start_s == start_s:
                    self.steps[place] = replace(step, end_s=end_s)
                return

    def instance(self, kind: type[Instance], *parts: Any) -> Instance:
        """An instance of `kind` that keeps this log."""
        made = _logged(kind)(*parts)
        made.log = self
        return made


@cache
def _logged(kind: type[Instance]) -> "type[_LoggedInstance]":
    """The class `kind` with a log."""
    return type(f"Logged{kind.__name__}", (_LoggedInstance, kind), {"__slots__": ("log",)})


class _LoggedInstance(Instance):
    """Runs by single steps, so that each has a beginning in `_start_step` or `_start_window`."""

    __slots__ = ()
    log: StepLog

    def submit(self, request: Request, now: int) -> None:
        super().submit(request, now)
        self._note(now)

    def receive(self, request: Request, now: int) -> None:
        super().receive(request, now)
        self._note(now)

    def release(self, request: Request, now: int) -> None:
        super().release(request, now)
        self._note(now)

    def settle(self, now: int) -> None:
        super().settle(now)
        self._note(now)

    def _start_step(self, pieces: list[Piece], now: int) -> None:
        super()._start_step(pieces, now)
        self._enter(pieces, self.engine.grown, now)

    def _start_window(self, now: int) -> None:
        super()._start_window(now)
        self._enter([], True, now)

    def _stop(self, now: int) -> None:
        self.log.cut(self.number, seconds(self._start), seconds(now))

    def _enter(self, pieces: list[Piece], decoding: bool, now: int) -> None:
        engine = self.engine
        step = Step(
            self.number,
            seconds(now),
            seconds(now + self._first),
            tuple((request.id, take, request.computed) for request, take in pieces),
            tuple(request.id for request in engine.running if request.finish_step != NEVER) if decoding else (),
            engine.batch.context if decoding else 0,
        )
        self.log.enter(step)
        self._note(now)

    def _note(self, now: int) -> None:
        at_s, engine = seconds(now), self.engine
        if self.log.covers(at_s):
            waiting = engine.queued - len(engine.partials) + len(self.late)
            self.log.holdings.append(Holding(self.number, at_s, waiting, engine.kv.capacity - engine.kv.free))
