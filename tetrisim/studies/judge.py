"""One run judged: does it meet the SLO, and does the cluster keep up with what comes?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, sqrt

import numpy as np
from numpy.typing import NDArray

from tetrisim.errors import ScenarioError
from tetrisim.metrics import definitions as define
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Columns, Result, simulate
from tetrisim.workload.trace import Trace

BEHIND = 0.05
"""A cluster falls behind when it leaves more than this share of what comes for later."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """What sustained means: `percent` of the requests within each limit of the SLO, or `together` within all at once.

    The first `warmup` share of the requests, which finds the cluster empty, is not judged. A request that was not
    served misses every limit.
    """

    percent: float = 99.0
    together: bool = False
    warmup: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.percent < 100:
            raise ValueError(f"percent: expected between 0 and 100, not {self.percent:g}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup: expected a share from 0 to below 1, not {self.warmup:g}")


@dataclass(frozen=True, slots=True)
class Probe:
    """What a run at one rate showed. `at` is each metric's percentile in seconds (inf: not served), `within` its share.

    `growth`: by how much the requests in the cluster grew from the third to the last quarter of the arrivals, as a
    share of those that came in a quarter. `finished_per_s`: what left the cluster in the second half of the arrivals.
    """

    rate_per_s: float
    at: dict[str, float]
    within: dict[str, float]
    good: float
    served: float
    growth: float
    behind: bool
    finished_per_s: float
    stay_s: float
    span_s: float
    preemptions: float
    busy: dict[str, float]
    time_shares: dict[str, float]
    provenance: tuple[str, ...]

    def share(self, criterion: Criterion) -> float:
        """The share of requests that the criterion looks at: within the limit that the most miss, or within all."""
        return self.good if criterion.together else min(self.within.values(), default=1.0)

    def missed(self, criterion: Criterion) -> str:
        """The metric that the most requests miss, where those are too many; else nothing."""
        worst = min(self.within, key=self.within.__getitem__, default="")
        return worst if self.share(criterion) < criterion.percent / 100 else ""


def source_shares(probes: Sequence[Probe]) -> dict[str, float]:
    """Shares of the step time of all these runs by source: measured, interpolated, estimated."""
    total = sum(sum(run.time_shares.values()) for run in probes)
    return {name: sum(run.time_shares[name] for run in probes) / total for name in probes[0].time_shares}


def mean_busy(probes: Sequence[Probe]) -> dict[str, float]:
    """The share of the time that the instances of each role are busy, a mean over the runs."""
    return {role: sum(run.busy[role] for run in probes) / len(probes) for role in probes[0].busy}


def probe(scenario: Scenario, trace: Trace, rate_per_s: float, criterion: Criterion) -> Probe:
    """Run requests that arrive at `rate_per_s`, and judge them."""
    return judged(simulate(scenario, trace=trace), rate_per_s, criterion)


def judged(result: Result, rate_per_s: float, criterion: Criterion) -> Probe:
    """What a finished run showed; one that has served nobody raises ScenarioError."""
    classes = result.scenario.workload.classes
    if not criterion.together and any(each.slo is not None for each in classes):
        raise ScenarioError("slo", "classes have limits of their own", "--goodput, which counts each class by its own")
    rows = result.request_columns
    if not define.completed(rows).any():
        what = f"turns all {len(rows['status'])} requests away, so there is nothing to judge"
        raise ScenarioError("cluster.reject", what, "limits that a request alone can meet")
    start = int(len(rows["status"]) * criterion.warmup)
    late = {name: column[start:] for name, column in rows.items()}
    at, within = _latencies(late, result.scenario.slo.limits, criterion.percent / 100)
    growth, noise, finished_per_s = _growth(rows)
    arrivals = rows["arrival_s"]
    return Probe(
        rate_per_s,
        at,
        within,
        good=define.good(late, result.scenario.slo, classes) / len(late["status"]),
        served=float(define.completed(late).mean()),
        growth=growth,
        behind=growth > max(BEHIND, noise),
        finished_per_s=finished_per_s,
        stay_s=float(define.e2el(rows).mean()),
        span_s=float(arrivals[-1] - arrivals[0]),
        preemptions=float(rows["preemptions"].mean()),
        busy=_busy(result),
        time_shares=result.time_shares,
        provenance=result.provenance,
    )


def _latencies(rows: Columns, limit: Mapping[str, float], share: float) -> tuple[dict[str, float], dict[str, float]]:
    """The smallest latency that `share` of the requests does not exceed, and the share within the limit, by metric."""
    several = rows["output_tokens"] > 1
    found = {
        "TTFT": (define.ttft(rows), len(several)),
        "TPOT": (define.tpot(rows), int(several.sum())),  # one token has no time after the first
        "E2EL": (define.e2el(rows), len(several)),
    }
    at: dict[str, float] = {}
    within: dict[str, float] = {}
    for name, (values, count) in found.items():
        if name in limit and count:
            rank = ceil(share * count - 1e-9) - 1
            at[name] = float(np.partition(values, rank)[rank]) if rank < len(values) else inf
            within[name] = float((values <= limit[name]).sum()) / count
    return at, within


def _growth(rows: Columns) -> tuple[float, float, float]:
    """Growth of the requests in the cluster as a share of what came, its noise, and requests finished per second.

    The noise is one standard deviation of a Poisson count of a quarter's size: short traces show no more than that.
    """
    done = define.completed(rows)
    came, left = rows["arrival_s"][done], np.sort(rows["finish_s"][done])
    edges = came[0] + (came[-1] - came[0]) * np.array([0.5, 0.75, 1.0])
    quarter = (came >= edges[0]).sum() / 2
    inside = [
        (_area(came, start, end) - _area(left, start, end)) / (end - start)
        for start, end in ((edges[0], edges[1]), (edges[1], edges[2]))
    ]
    finished = np.searchsorted(left, edges[2]) - np.searchsorted(left, edges[0])
    growth = (inside[1] - inside[0]) / quarter
    return float(growth), 1 / sqrt(quarter), float(finished / (edges[2] - edges[0]))


def _area(moments: NDArray[np.float64], start: float, end: float) -> float:
    """The time integral, from `start` to `end`, of how many moments have passed."""
    return float(np.clip(end - np.maximum(moments, start), 0, None).sum())


def _busy(result: Result) -> dict[str, float]:
    """The share of the run that the instances of each role spent in steps."""
    roles, busy = result.instance_columns["role"], result.instance_columns["busy_s"]
    return {str(role): float(busy[roles == role].mean() / result.simulated_s) for role in dict.fromkeys(roles)}
