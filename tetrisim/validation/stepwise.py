"""Error decomposition with a log of the real engine's steps: each part of a step is replaced by what was recorded.

In this order, beginning with the run as it was simulated:

1. KV capacity: the recorded number of KV blocks;
2. host overhead: the model's host term is taken off, and the mean recorded pause between two steps put in its place;
3. step time: each step starts and ends when the recorded step of the same number did. What the model errs by on these
   steps, added up over a request's stay in the engine, is the step-time error itself; the rest of what this replacement
   changes is queueing: longer steps keep others waiting, and change who shares a step;
4. scheduling: what is left although every step has its real time: batches that differ, and the stamping of tokens.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tetrisim.assemble import assemble
from tetrisim.cluster.chunks import step_ticks
from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.predictor import Predictor
from tetrisim.cluster.request import Request
from tetrisim.errors import TraceError
from tetrisim.latency.step import StepTimer
from tetrisim.scenario.scenario import Scenario
from tetrisim.units import TICKS_PER_S
from tetrisim.validation.case import Case
from tetrisim.validation.decompose import Decomposition, Part, total_of
from tetrisim.validation.measured import Floats, Measured
from tetrisim.validation.replay import Replay, hash_ids, replay, with_recorded_blocks
from tetrisim.validation.steps import complete_step, plan_step
from tetrisim.validation.tables import host_term, used_profile


class Driven:
    """An engine of the scenario, driven step by step; remembers in which step and when each request got on."""

    def __init__(self, scenario: Scenario, measured: Measured) -> None:
        ids, block, _ = hash_ids(scenario, measured)
        instance = assemble(scenario, True, block).instances[0]
        self.engine: Engine = instance.engine
        self.timer: StepTimer = instance.timer
        self.predictor: Predictor = instance.predictor
        self.host = host_term(used_profile(scenario))
        count = len(measured)
        self.requests = [
            Request(place, 0, prompt, output, 0)
            for place, (prompt, output) in enumerate(
                zip(measured.prompt_tokens.tolist(), measured.output_tokens.tolist(), strict=True)
            )
        ]
        if ids is not None:
            for request, blocks in zip(self.requests, ids, strict=True):
                request.hash_ids = blocks
        self.begun, self.shown, self.ended = np.full((3, count), -1)
        self.first_s, self.last_s = np.full((2, count), np.nan)
        self.steps = 0

    def plan(self) -> tuple[list[Piece], float, float]:
        """Form the next step: its pieces, its modelled seconds (0: there is nothing to run), and the host's part."""
        engine, batch = self.engine, self.engine.batch
        entries, pieces = plan_step(engine)
        if not entries:
            return pieces, 0.0, 0.0
        n = batch.n if engine.grown else 0
        for request, _ in pieces:
            if self.begun[request.id] < 0:
                self.begun[request.id] = self.steps
        seconds = step_ticks(engine, self.timer, pieces, self.predictor) / TICKS_PER_S
        return pieces, seconds, self.host(n + len(pieces))

    def complete(self, pieces: list[Piece], now: float) -> None:
        """Let the planned step end at a moment, and stamp the tokens it shows."""
        engine = self.engine
        members = list(engine.running)
        complete_step(engine, pieces)
        for request, _ in pieces:
            if request.generated and self.shown[request.id] < 0:
                self.shown[request.id], self.first_s[request.id] = self.steps, now
        for request in members:
            if request not in engine.running:
                self.ended[request.id], self.last_s[request.id] = self.steps, now
        self.steps += 1


def run_free(driven: Driven, arrival_s: Floats, pause_s: float | None = None) -> None:
    """Steps one after another as modelled; with `pause_s`, that stands between steps instead of the host term."""
    engine, arrivals, now, place, stuck = driven.engine, arrival_s.tolist(), 0.0, 0, False
    while place < len(arrivals) or not engine.idle:
        if engine.idle or stuck:
            now = max(now, arrivals[place])
        while place < len(arrivals) and arrivals[place] <= now:
            engine.push(driven.requests[place])
            place += 1
        pieces, seconds, host = driven.plan()
        if not seconds:
            stuck = not engine.preempted  # else its victims have made room, and the next plan has something to run
            if stuck and place == len(arrivals):
                raise TraceError("decomposition", "the engine has requests that never fit", "more KV blocks")
            continue
        stuck = False
        now += seconds if pause_s is None else seconds - host
        driven.complete(pieces, now)
        if pause_s is not None and not engine.idle:
            now += pause_s


@dataclass
class Clocked:
    """What the steps took by the record and by the model, from a run on the recorded clock."""

    model_s: list[float] = field(default_factory=list[float])
    """Without the host term."""
    took_s: list[float] = field(default_factory=list[float])
    pause_s: list[float] = field(default_factory=list[float])
    """After each step, NaN where the engine had nothing to do."""

    @property
    def mean_pause_s(self) -> float:
        """Mean recorded pause between two steps with work at hand."""
        known = np.array(self.pause_s)
        known = known[np.isfinite(known)]
        return float(known.mean()) if known.size else 0.0

    def stay_error(self, begun: np.ndarray, ended: np.ndarray) -> Floats:
        """Modelled less recorded seconds from the start of step `begun` to the end of step `ended`."""
        steps = np.concatenate([[0.0], np.cumsum(np.array(self.model_s) - np.array(self.took_s))])
        pauses = self.mean_pause_s - np.array(self.pause_s)
        between = np.concatenate([[0.0], np.cumsum(np.where(np.isfinite(pauses), pauses, 0.0))])
        return steps[ended + 1] - steps[begun] + between[ended] - between[begun]


def run_clocked(driven: Driven, measured: Measured, case: Case) -> Clocked:
    """Every step starts and ends when the recorded one did; requests come when they were handed over."""
    place_of = {number: place for place, number in enumerate(measured.number.tolist())}
    coming = [row for row in reversed(case.requests) if row["request_id"] in place_of]
    clocked, steps = Clocked(), case.iterations
    for count, row in enumerate(steps):
        while coming and coming[-1]["submit_s"] <= row["start_s"]:
            driven.engine.push(driven.requests[place_of[coming.pop()["request_id"]]])
        pieces, seconds, host = driven.plan()
        end = row["start_s"] + row["dur_s"]
        driven.complete(pieces, end)
        clocked.model_s.append(seconds - host if seconds else 0.0)
        clocked.took_s.append(row["dur_s"] if seconds else 0.0)
        busy = not driven.engine.idle and count + 1 < len(steps)
        clocked.pause_s.append(steps[count + 1]["start_s"] - end if busy else np.nan)
    return clocked


def from_steps(scenario: Scenario, run: Replay, case: Case) -> Decomposition:
    """The parts that a step log allows; what it does not, with the reason."""
    measured, pools = run.measured, scenario.cluster.pools
    total = total_of(run, measured)
    reason = _unsuited(scenario, case)
    if reason:
        return Decomposition((), (f"the parts of a step: {reason}",), total)
    if (recorded := with_recorded_blocks(scenario, measured)) is None:
        recorded, base = scenario, run
    else:
        base = replay(recorded, measured)
    clocked_run, paused = Driven(recorded, measured), Driven(recorded, measured)
    clocked = run_clocked(clocked_run, measured, case)
    run_free(paused, measured.arrival_s, clocked.mean_pause_s)
    use = run.compared & base.compared
    if not np.isfinite(clocked_run.last_s[use]).all():
        left = int((~np.isfinite(clocked_run.last_s[use])).sum())
        missing = f"the parts of a step: after the recorded steps {left} requests are unfinished in our engine"
        return Decomposition((), (missing,), total)
    pause, steps = f"{1e3 * clocked.mean_pause_s:.2f} ms recorded between steps", len(case.iterations)
    error = sum(clocked.model_s) / sum(clocked.took_s) - 1
    hows = {
        "KV capacity": f"{measured.settings.get('kv_blocks', pools[0].kv_blocks)} blocks recorded",
        "host overhead": pause,
        "step time": f"modelled steps {error:+.1%} on the {steps} recorded batches",
        "queueing": "what that does to those who wait",
        "scheduling": "with every step at its real time",
    }
    columns: list[list[float]] = []
    for simulated, real, stamp, ended in (
        ("first_token_s", measured.first_token_s, "first_s", clocked_run.shown),
        ("finish_s", measured.last_token_s, "last_s", clocked_run.ended),
    ):
        sides = [run.rows[simulated], base.rows[simulated], getattr(paused, stamp), getattr(clocked_run, stamp), real]
        kv, host, steptime, left = (float((a - b)[use].mean()) for a, b in pairwise(sides))
        direct = float(clocked.stay_error(clocked_run.begun, ended)[use].mean())
        columns.append([kv, host, direct, steptime - direct, left])
    parts = [Part(name, how, *pair) for (name, how), pair in zip(hows.items(), zip(*columns, strict=True), strict=True)]
    return Decomposition(tuple(parts), (), total)


def _unsuited(scenario: Scenario, case: Case) -> str:
    """Why the steps cannot be replaced, or nothing."""
    pools = scenario.cluster.pools
    if sum(pool.instances for pool in pools) > 1:
        return "the scenario has more than one instance"
    if any(pool.async_scheduling for pool in pools):
        return "needs a pool with async_scheduling: false, whose plans wait for outputs"
    return "" if all("dur_s" in row for row in case.iterations) else "the steps have no dur_s"
