"""Where the error of mean TTFT and E2EL comes from: one modelled part after another is replaced by its measured value.

What each replacement changes is that part's share, so the shares add up to the whole error, exactly. Which parts can be
replaced depends on the record; `missing` says what it does not allow, and nothing is put in its place.

From rows with `scheduled_s` (one instance that gives its seats out in order of arrival), in this order:

1. KV capacity: the recorded number of KV blocks.
2. Queueing: the wait for a seat that comes of seats being held too long or too briefly: seats given out in order of
   arrival, each held for its request's simulated time, against the same with measured times.
3. Scheduling: the rest of the wait: how long after there is a seat a request is really scheduled.
4. Prefill and 5. decode: time from being scheduled to the first token, and from there to the last.

With a log of the steps the last two are told apart further: see stepwise.py.
"""

from dataclasses import dataclass, field
from heapq import heapify, heapreplace
from typing import Any

import numpy as np

from tetrisim.scenario.scenario import Scenario
from tetrisim.validation.measured import Floats, Measured
from tetrisim.validation.replay import Replay, replay, with_recorded_blocks


@dataclass(frozen=True, slots=True)
class Part:
    """What one part adds to mean TTFT and E2EL (seconds, simulated less measured)."""

    name: str
    how: str
    ttft_s: float
    e2el_s: float


@dataclass(frozen=True)
class Decomposition:
    """Parts in the order of replacement; their sum is the error of the means."""

    parts: tuple[Part, ...] = ()
    missing: tuple[str, ...] = ()
    total: Part = field(default_factory=lambda: Part("all", "", 0.0, 0.0))

    def summary(self) -> dict[str, Any]:
        """JSON-ready, in ms."""
        parts = {
            part.name: {"ttft_ms": 1e3 * part.ttft_s, "e2el_ms": 1e3 * part.e2el_s, "how": part.how}
            for part in self.parts
        }
        total = {"ttft_ms": 1e3 * self.total.ttft_s, "e2el_ms": 1e3 * self.total.e2el_s}
        return {"parts": parts, "total": total, "not_recorded": list(self.missing)}

    def lines(self) -> list[str]:
        """A table, and what the record does not allow."""
        lines: list[str] = []
        if self.parts:
            lines.append(f"{'error of the mean, by part (ms)':<34}{'TTFT':>9}{'E2EL':>9}")
            lines += [
                f"  {part.name:<32}{1e3 * part.ttft_s:>+9.1f}{1e3 * part.e2el_s:>+9.1f}   {part.how}".rstrip()
                for part in (*self.parts, self.total)
            ]
        return lines + [f"  not told apart: {text}" for text in self.missing]


def from_rows(scenario: Scenario, run: Replay) -> Decomposition:
    """The parts that per-request rows allow."""
    measured = run.measured
    missing = ["step time, host overhead and batch composition: the record has no steps (they are in prefill, decode)"]
    total = total_of(run, measured)
    if measured.scheduled_s is None:
        missing.append("queueing, scheduling and prefill: the record does not say when requests were scheduled")
        return Decomposition((), tuple(missing), total)
    seats = _seats(scenario)
    if seats is None or not measured.finished.all():
        missing.append("queueing from scheduling: needs one hybrid instance, and a run in which every request finished")
        return Decomposition((), tuple(missing), total)
    base, parts = run, list[Part]()
    recorded = with_recorded_blocks(scenario, measured)
    if recorded is None:
        missing.append("KV capacity: the record does not say how many blocks there were")
    else:
        base = replay(recorded, measured)
        changed = [_mean(run, name) - _mean(base, name) for name in ("first_token_s", "finish_s")]
        parts.append(Part("KV capacity", f"{measured.settings['kv_blocks']} blocks recorded", *changed))
    at, use = measured.arrival_s, base.compared
    scheduled = measured.scheduled_s
    starts = np.where(use, base.rows["prefill_start_s"], at)
    held = np.where(use, base.rows["finish_s"] - starts, 0.0)
    queue = (waits(at, held, seats) - waits(at, measured.last_token_s - scheduled, seats))[use].mean()
    wait = (starts - scheduled)[use].mean()
    prefill = (base.rows["first_token_s"] - base.rows["prefill_start_s"] - measured.first_token_s + scheduled)[use]
    decode = (base.rows["finish_s"] - base.rows["first_token_s"] - measured.last_token_s + measured.first_token_s)[use]
    parts += [
        Part("queueing", "seats held for the simulated instead of the measured time", queue, queue),
        Part("scheduling", "when a free seat is given out", wait - queue, wait - queue),
        Part("prefill", "from scheduled to first token", prefill.mean(), prefill.mean()),
        Part("decode", "from first to last token", 0.0, decode.mean()),
    ]
    if any(pool.async_scheduling for pool in scenario.cluster.pools):
        missing.append(
            "scheduling from prefill, to within a step: vLLM stamps `scheduled` when it plans, we at the start"
        )
    return Decomposition(tuple(parts), tuple(missing), total)


def waits(arrival_s: Floats, held_s: Floats, seats: int) -> Floats:
    """Seconds until each request, in order of arrival, gets one of `seats` seats that each keeps for `held_s`."""
    free = [-np.inf] * min(seats, len(arrival_s))
    heapify(free)
    wait = np.zeros(len(arrival_s))
    for place, (at, held) in enumerate(zip(arrival_s.tolist(), held_s.tolist(), strict=True)):
        start = max(at, free[0])
        heapreplace(free, start + held)
        wait[place] = start - at
    return wait


def _seats(scenario: Scenario) -> int | None:
    """Seats of the only instance; None where seats alone do not decide who waits for whom."""
    (pool, *more) = scenario.cluster.pools
    if more or pool.instances > 1 or pool.role != "hybrid" or pool.queue != "fcfs":
        return None
    return pool.max_num_seqs or 1 << 30


def _mean(run: Replay, column: str) -> float:
    """Mean of a moment after arrival, over what is compared."""
    return float((run.rows[column] - run.measured.arrival_s)[run.compared].mean())


def total_of(run: Replay, measured: Measured) -> Part:
    """The whole error of the means."""
    use, at = run.compared, measured.arrival_s
    first = _mean(run, "first_token_s") - float((measured.first_token_s - at)[use].mean())
    last = _mean(run, "finish_s") - float((measured.last_token_s - at)[use].mean())
    return Part("all", "simulated less measured", first, last)
