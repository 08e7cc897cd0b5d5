"""FastServe: a multi-level feedback queue over iterations, that a request enters at the level of its prefill's length.

Level i lasts quantum * ratio^i of served time (the length of the steps that a request was in); whoever has used it up
is one level lower. Each step runs the first of all by level, then by arrival, as far as seats, tokens and memory go:
who decodes, who is parked or swapped out, and who waits for its prefill. Memory is taken from the last of those who do
not run: their KV goes to the host. Whoever has not run for `starvation_s` is at level 0 again. (arXiv 2305.05920)
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log
from typing import Any

from tetrisim.cluster.clock import Alarm, ticks
from tetrisim.cluster.cutting import CuttableInstance
from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.parking import ParkingEngine
from tetrisim.cluster.predictor import Predictor
from tetrisim.cluster.request import NEVER, Request
from tetrisim.cluster.window import steps_before
from tetrisim.latency.step import FOREVER, StepTimer
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.preempt import MlfqSpec
from tetrisim.units import TICKS_PER_S

LONGEST_S = 10**9
"""No request is served for longer, in seconds."""


class Levels:
    """Which level a request is at: a function of the one it entered at and of the ticks it was served since."""

    def __init__(self, spec: MlfqSpec) -> None:
        self._quantum, self._ratio = ticks(spec.quantum_s), spec.ratio
        self._ends = [self._quantum]
        """Ticks of all quanta up to each level's, as far as anybody lives."""
        while self._ends[-1] < LONGEST_S * TICKS_PER_S:
            self._ends.append(self._ends[-1] + round(self._quantum * self._ratio ** len(self._ends)))

    def entry(self, prefill_ticks: int) -> int:
        """The first level whose quantum covers a prefill (skip-join)."""
        over = prefill_ticks / self._quantum
        return 0 if over <= 1 else ceil(log(over, self._ratio) - 1e-9)

    def at(self, entry: int, served: int) -> tuple[int, int]:
        """The level, and the served ticks at which it ends."""
        before = self._ends[entry - 1] if entry else 0
        level = bisect_right(self._ends, before + served)
        return level, self._ends[level] - before


@dataclass(slots=True)
class Job:
    """A request's place: the level it entered at, what it was served before, since when it runs (in ticks of all steps)
    or does not (in ticks of the clock)."""

    entry: int
    served: int
    idle_since: int
    runs_since: int = NEVER


class MlfqEngine(ParkingEngine):
    """The queue and its choice. Its instance sets `now` and `work`, and says how long a prefill takes."""

    def __init__(self, pool: PoolSpec, *parts: Any) -> None:
        super().__init__(pool, *parts)
        spec = pool.mlfq or MlfqSpec()
        self.levels, self._starved = Levels(spec), ticks(spec.starvation_s)
        self.jobs: dict[Request, Job] = {}
        self.now = 0
        self.work = 0
        """Ticks of all steps so far."""
        self._ranks: dict[Request, tuple[int, int]] = {}
        self.prefill_ticks: Callable[[int], int] = lambda tokens: 0

    def push(self, request: Request) -> bool:
        """Queue a request at the level of its prefill; it might join the next step."""
        self.queued += 1
        self.waiting.push(request)
        self.jobs[request] = Job(self.levels.entry(self.prefill_ticks(request.prompt)), 0, self.now)
        return True

    def level(self, request: Request) -> tuple[int, int]:
        """Its level, and the served ticks until the next."""
        job = self.jobs[request]
        served = job.served + (self.work - job.runs_since if job.runs_since != NEVER else 0)
        level, end = self.levels.at(job.entry, served)
        return level, end - served

    def until_change(self) -> int:
        """Ticks of steps until the order of requests may change by itself."""
        jobs, left = self.jobs, FOREVER
        for request in self.decoding():
            left = min(left, self.level(request)[1])
        for job in jobs.values():
            if job.runs_since == NEVER and (job.entry or job.served):
                left = min(left, job.idle_since + self._starved - self.now)
        return left

    def finish(self, request: Request, tokens: int) -> None:
        """As Engine's."""
        super().finish(request, tokens)
        del self.jobs[request]

    def plan(self) -> list[Piece]:
        """Choose who runs, make room for them, and bring them in."""
        self.joined, self.preempted, self.interrupted = [], [], []
        self.grown = False
        self._promote()
        self._ranks = {request: (self.level(request)[0], request.id) for request in self.jobs}
        chosen = self._choose()
        for request in self.decoding():
            if request not in chosen:
                self._park(request)
        pieces: list[Piece] = []
        promised = 0  # blocks of the next tokens of those before
        for request in tuple(chosen):
            if request not in chosen:
                continue  # a victim of one before
            if self._make_way(request, chosen, promised):
                free = self.kv.free - self._need(request)
                self._bring(request, pieces)
                promised += self.kv.free - free if request.finish_step != NEVER else 0
            else:
                del chosen[request]
                if request.finish_step != NEVER:
                    self._park(request)
        for request, job in self.jobs.items():
            self._note(job, request in chosen)
        if pieces and self.batch.n:
            self.kv.grow(self.batch, self.running, 1)
            self.grown = True
        return pieces

    def _promote(self) -> None:
        for job in self.jobs.values():
            if job.runs_since == NEVER and self.now - job.idle_since >= self._starved:
                job.entry, job.served, job.idle_since = 0, 0, self.now

    def _choose(self) -> dict[Request, None]:
        """The first by level and arrival, with prompts as far as a step has tokens.

        A longer prompt than a step has (after a preemption it may be) is the only one of its step.
        """
        chosen: dict[Request, None] = {}
        tokens = prompts = 0
        waiting = set(self.waiting.ordered)
        for request in sorted(self._ranks, key=self._ranks.__getitem__):
            if len(chosen) == self.most:
                break
            prompt = request in waiting
            need = request.target if prompt else 1
            long = not prompts and self.batching.prefill_tokens(need, 0) < need
            if not prompt or long or self.batching.prefill_tokens(need, tokens) == need:
                chosen[request] = None
                prompts += prompt
                tokens += need
        return chosen

    def _need(self, request: Request) -> int:
        """Blocks that a request takes to be in the next step."""
        kv = self.kv
        if request.finish_step != NEVER:
            context = request.base + self.batch.step_no
        elif request in self.parked:
            context = self.parked[request]
        else:
            swapped = request.computed > 0
            reserve = 0 if swapped or not self.running else kv.reserve
            return kv.blocks(request.computed + 1 if swapped else request.target) + reserve
        return kv.blocks(context + 1) - kv.blocks(context)

    def _make_way(self, request: Request, chosen: dict[Request, None], promised: int) -> bool:
        """Free blocks for one more of the chosen: from the last who do not run, then from the last who would."""
        ranks = self._ranks
        while self._need(request) + promised > self.kv.free:
            victims = [other for other in self.running if other not in chosen and other is not request]
            if not victims:
                victims = [other for other in self.decoding() if ranks[other] > ranks[request]]
            if not victims:
                return False
            victim = max(victims, key=ranks.__getitem__)
            chosen.pop(victim, None)
            self._preempt(victim)
        return True

    def _bring(self, request: Request, pieces: list[Piece]) -> None:
        if request in self.parked:
            self._unpark(request)
        elif request in self.swapped:
            self.swapped.remove(request)
            blocks = self.kv.blocks(request.computed)
            self._swap_room += blocks
            self.moved_blocks += blocks
            self._join(request, request.computed)
        elif request not in self.running:
            self._admit_one(request, pieces)

    def _admit_one(self, request: Request, pieces: list[Piece]) -> None:
        cached = self.kv.cached(request) if self.kv.ordered else 0
        self.waiting.ordered.remove(request)
        self.kv.admit(request, cached, request.target - cached)
        request.computed = cached
        self.running[request] = None
        self._admitted = request.sequence = self._admitted + 1
        self.queued -= 1
        pieces.append((request, request.target - cached))

    def _note(self, job: Job, runs: bool) -> None:
        """Whether a request runs from now on."""
        if runs and job.runs_since == NEVER:
            job.runs_since = self.work
        elif not runs and job.runs_since != NEVER:
            job.served += self.work - job.runs_since
            job.runs_since, job.idle_since = NEVER, self.now


class MlfqInstance(CuttableInstance):
    """Runs an MlfqEngine: counts served time, and ends windows where the order may change."""

    __slots__ = ("_own",)
    _own: MlfqEngine

    def equip(self, engine: Engine, timer: StepTimer, predictor: Predictor) -> None:
        """Put an MlfqEngine in."""
        assert isinstance(engine, MlfqEngine)
        super().equip(engine, timer, predictor)
        self._own = engine
        engine.prefill_ticks = lambda tokens: timer.foresee(tokens, 0)

    def submit(self, request: Request, now: int) -> None:
        """A request to serve here."""
        self._own.now = now
        super().submit(request, now)

    def _next(self, now: int) -> None:
        self._own.now = now
        super()._next(now)

    def _on_step(self, alarm: Alarm) -> None:
        if alarm is self._pending:
            self._own.work += alarm.at - self._start
        super()._on_step(alarm)

    def _on_window(self, alarm: Alarm) -> None:
        if alarm is self._pending:
            self._own.work += alarm.at - self._start
        super()._on_window(alarm)

    def _start_window(self, now: int) -> None:
        """As Instance's; while others wait it ends with the step in which the first member's level ends."""
        super()._start_window(now)
        own = self._own
        if not own.queued or self._steps == 1:
            return
        own.now = now
        steps = 1 + steps_before(own.until_change(), self._first, self._slope, self._steps)
        if steps < self._steps:
            self._end_after(steps)

    def _swap(self) -> int:
        """KV moves beside the step: it costs what it takes longer than the step's matrices."""
        batch = self.engine.batch
        return max(0, super()._swap() - self.timer.fixed(batch.n, batch.n))
