"""The metrics of `vllm bench serve`, as formulas over a run's columns. Seconds in, seconds out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tetrisim.scenario.classes import ClassSpec
from tetrisim.scenario.slo import SloSpec

Columns = Mapping[str, np.ndarray]
Floats = NDArray[np.float64]
Metric = Callable[[Columns], Floats]
"""One of the times below: a value of each completed request that has one."""

GAP_POINTS = 4_000_000
"""Above this many gaps, a run of steps is represented by fewer points, so that memory stays bounded."""


def completed(rows: Columns) -> NDArray[np.bool_]:
    """Which requests were served to their last token; the others are in no distribution."""
    return np.asarray(rows["status"]) == "completed"


def ttft(rows: Columns) -> Floats:
    """Time to first token of each completed request: first_token_s - arrival_s, time in queues included."""
    done = completed(rows)
    return rows["first_token_s"][done] - rows["arrival_s"][done]


def e2el(rows: Columns) -> Floats:
    """End-to-end latency of each completed request: finish_s - arrival_s."""
    done = completed(rows)
    return rows["finish_s"][done] - rows["arrival_s"][done]


def tpot(rows: Columns) -> Floats:
    """Time per output token after the first: (e2el - ttft) / (output_tokens - 1).

    A request of one output token has no such time and is left out.
    """
    tokens = rows["output_tokens"][completed(rows)]
    several = tokens > 1
    return (e2el(rows) - ttft(rows))[several] / (tokens[several] - 1)


TIMES: Mapping[str, Metric] = {"ttft": ttft, "tpot": tpot, "e2el": e2el}
"""The times of single requests by the names that they have in keys."""


def duration(rows: Columns) -> float | None:
    """From the first arrival of all to the last finish; None when nothing completed."""
    finished = rows["finish_s"][completed(rows)]
    return float(finished.max() - np.nanmin(rows["arrival_s"])) if finished.size else None


def good(rows: Columns, slo: SloSpec, classes: Sequence[ClassSpec] = ()) -> int:
    """How many requests completed within every limit that `slo` gives (a limit itself is good enough).

    The tpot of a request of one output token counts as 0, as in vLLM. A class with an SLO of its own is judged by that.
    """
    if classes:
        of = {each.name: np.asarray(rows["class"]) == each.name for each in classes}
        return sum(
            good({name: column[of[each.name]] for name, column in rows.items()}, each.slo or slo) for each in classes
        )
    first, whole = ttft(rows), e2el(rows)
    per_token = (whole - first) / np.maximum(rows["output_tokens"][completed(rows)] - 1, 1)
    within = np.ones(first.size, dtype=bool)
    for values, limit in ((first, slo.ttft_s), (per_token, slo.tpot_s), (whole, slo.e2el_s)):
        if limit is not None:
            within &= values <= limit
    return int(within.sum())


def goodput(rows: Columns, slo: SloSpec) -> float | None:
    """Good requests per second of `duration`; 0 when nothing completed."""
    return per_second(good(rows, slo), duration(rows))


def per_second(amount: float, seconds: float | None) -> float | None:
    """A rate over `duration`: 0 of an amount of 0, None where a positive amount took no time."""
    if not amount:
        return 0.0
    return amount / seconds if seconds else None


@dataclass(frozen=True, slots=True)
class Itl:
    """Inter-token latency: every gap between two tokens of every request, pooled.

    `values` ascend; `weights` says how many gaps have each value; `mean` and `std` (of all gaps, not of a sample) are
    exact even when they are thinned.
    """

    values: Floats
    weights: Floats
    mean: float | None
    std: float | None = None

    def percentiles(self, percents: Sequence[float]) -> list[float | None]:
        """What `numpy.percentile` (linear) gives for the gaps written out one by one."""
        if not self.values.size:
            return [None] * len(percents)
        cumulative = np.cumsum(self.weights)
        rank = np.asarray(percents) / 100 * (cumulative[-1] - 1)
        below, above = np.floor(rank), np.ceil(rank)
        last = self.values.size - 1
        low = self.values[np.minimum(np.searchsorted(cumulative, below, side="right"), last)]
        high = self.values[np.minimum(np.searchsorted(cumulative, above, side="right"), last)]
        return [float(value) for value in low + (rank - below) * (high - low)]


def itl(gaps: Columns, limit: int = GAP_POINTS) -> Itl:
    """Inter-token latency from runs of steps: gap j is first_s + slope_s * j, waited by `weight` sequences.

    When the runs hold more than `limit` steps in all, the middles of equal spans stand for a long run.
    """
    steps = gaps["steps"].astype(np.int64)
    used = (steps > 0) & (gaps["weight"] > 0)
    steps = steps[used]
    first, slope, weight = (gaps[name][used].astype(np.float64) for name in ("first_s", "slope_s", "weight"))
    if not steps.size:
        return Itl(np.empty(0), np.empty(0), None)
    total = weight * steps
    middle = first + slope * (steps - 1) / 2
    mean = float(np.sum(total * middle) / np.sum(total))
    spread = slope**2 * (steps**2 - 1) / 12 + (middle - mean) ** 2  # within a run of steps, and between runs
    std = float(np.sqrt(np.sum(total * spread) / np.sum(total)))

    points = steps if steps.sum() <= limit else np.minimum(steps, max(1, limit // steps.size))
    run = np.repeat(np.arange(steps.size), points)
    place = np.arange(run.size) - np.repeat(np.cumsum(points) - points, points)
    span = steps / points
    values = first[run] + slope[run] * ((place + 0.5) * span[run] - 0.5)
    order = np.argsort(values, kind="stable")
    return Itl(values[order], (weight * span)[run][order], mean, std)
