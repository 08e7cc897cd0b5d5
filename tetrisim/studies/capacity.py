"""The highest arrival rate that a cluster sustains under its SLO."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, sqrt
from typing import Any

import numpy as np

from tetrisim.errors import ScenarioError
from tetrisim.scenario.gpu import dollars_per_hour
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.judge import Criterion, Probe, probe, source_shares
from tetrisim.studies.seeds import Estimate, estimate
from tetrisim.studies.workers import Note, silent, workers
from tetrisim.workload.trace import Trace, build

TOLERANCE = 1.01
"""The search ends when a rate that misses is this many times one that meets the SLO."""
CLIFF_TOLERANCE = 1.05
"""The same for the rate at which it falls behind: what it then finishes depends little on how much more comes."""
BACKLOG = "backlog"
"""What binds where every latency is still fine at the rate from which the cluster falls behind."""
NEAR = 1.04
"""Other seeds are looked for this factor about the first one's answer."""
ALONE = 0.01
"""By Little's law, the mean number of requests in the cluster at the lowest rate tried."""


@dataclass(frozen=True, slots=True)
class Found:
    """One seed's answer: `met` at the highest rate that met the SLO (None: none did), `missed` just above it.

    `cliff` fell behind evenly spaced arrivals: what it finishes is all that the cluster can do. `missed` is None where
    the SLO is still met there.
    """

    seed: int
    met: Probe | None
    missed: Probe | None
    cliff: Probe
    runs: int

    @property
    def capacity_per_s(self) -> float:
        """Requests a second; 0 when none is slow enough."""
        if self.met is None:
            return 0.0
        return self.met.rate_per_s if self.missed is None else sqrt(self.met.rate_per_s * self.missed.rate_per_s)

    def binding(self, criterion: Criterion) -> str:
        """The metric that is missed just above, or `backlog`."""
        return BACKLOG if self.missed is None else self.missed.missed(criterion)


@dataclass(frozen=True)
class Capacity:
    """The answer over seeds. `load_per_s` is the scenario's own rate; `fixed` says that all seeds see one trace."""

    scenario: Scenario
    criterion: Criterion
    found: tuple[Found, ...]
    load_per_s: float
    prompt_tokens: float
    output_tokens: float
    requests: int
    fixed: bool
    wall_s: float

    @property
    def rate(self) -> Estimate | None:
        """Requests a second: mean over seeds, the 95 % interval widened by what the search left open; None: no rate."""
        if not any(each.met for each in self.found):
            return None
        mean = estimate([each.capacity_per_s for each in self.found])
        return replace(mean, half=mean.half + mean.mean * (TOLERANCE - 1) / 2)

    @property
    def cliff(self) -> Estimate:
        """Requests a second that it finishes when more come than it can do: from there on the backlog grows."""
        return estimate([each.cliff.finished_per_s for each in self.found])

    @property
    def binding(self) -> tuple[str, int]:
        """What is missed just above the capacity in most seeds, and in how many."""
        names = [each.binding(self.criterion) for each in self.found]
        name = max(names, key=names.count)
        return name, names.count(name)

    @property
    def gpus(self) -> int:
        """GPUs of the cluster."""
        return sum(pool.instances * pool.tensor_parallel for pool in self.scenario.cluster.pools)

    @property
    def dollars_per_hour(self) -> float:
        """List price of the cluster."""
        return dollars_per_hour(self.scenario.cluster)

    def summary(self) -> dict[str, Any]:
        """Plain values that JSON can hold; rates in requests per second, times in ms; null: not served, or no rate."""
        rate, (binding, _), slo = self.rate, self.binding, self.scenario.slo.limits
        shares = source_shares([each.met or each.cliff for each in self.found])
        return {
            "system": self.scenario.system,
            "percent": self.criterion.percent,
            "together": self.criterion.together,
            "warmup": self.criterion.warmup,
            "slo_ms": {name: limit * 1e3 for name, limit in slo.items()},
            "capacity": None if rate is None else rate.interval(),
            "capacity_by_seed": {str(each.seed): each.capacity_per_s for each in self.found},
            "binding": binding,
            "cliff": self.cliff.interval(),
            "load": self.load_per_s,
            "load_of_capacity": None if rate is None else self.load_per_s / rate.mean,
            "load_of_cliff": self.load_per_s / self.cliff.mean,
            "met": [None if each.met is None else _plain(each.met) for each in self.found],
            "missed": [None if each.missed is None else _plain(each.missed) for each in self.found],
            "gpus": self.gpus,
            "dollars_per_hour": self.dollars_per_hour,
            "mean_prompt_tokens": self.prompt_tokens,
            "mean_output_tokens": self.output_tokens,
            "requests": self.requests,
            "same_requests_under_every_seed": self.fixed,
            "runs": sum(each.runs for each in self.found),
            "wall_s": self.wall_s,
            **{f"{name}_share": share for name, share in shares.items()},
            "provenance": list(self.found[0].cliff.provenance),
        }

    def __str__(self) -> str:
        """The answer in sentences."""
        from tetrisim.studies.capacity_text import lines

        return "\n".join(lines(self))


def _plain(run: Probe) -> dict[str, Any]:
    at = {name: value * 1e3 if value < inf else None for name, value in run.at.items()}
    return {
        "rate": run.rate_per_s,
        "at_percentile_ms": at,
        "share_within": run.within,
        "slo_attainment": run.good,
        "served": run.served,
        "busy": run.busy,
    }


def capacity(
    scenario: Scenario,
    criterion: Criterion | None = None,
    seeds: int = 5,
    jobs: int = 1,
    on_note: Note | None = None,
) -> Capacity:
    """The highest arrival rate at which `criterion` holds (99 % within each limit when none is given).

    Each seed's requests are drawn once and only their gaps are stretched, so all rates see the same luck; bisection
    finds the rate for each seed, and the interval is Student's over seeds. `jobs` processes share the seeds (from a
    script, more than 1 needs `if __name__ == "__main__"`); the answer does not depend on them. Raises ScenarioError for
    a workload without a rate to change.
    """
    started = time.perf_counter()
    rule, note = criterion or Criterion(), on_note or silent
    first_trace, load_per_s = checked(scenario, rule)
    search = partial(_search, scenario, rule)
    first = search(load_per_s, None, scenario.seed, note)
    rest = range(scenario.seed + 1, scenario.seed + seeds)
    found = [first]
    with workers(min(jobs, len(rest))) as spread:
        for each in spread(partial(search, load_per_s, first), rest):
            found.append(each)
            note(f"{len(found)} of {seeds} seeds searched")
    second = build(scenario.workload, scenario.seed + 1)
    return Capacity(
        scenario,
        rule,
        tuple(found),
        load_per_s,
        prompt_tokens=float(first_trace.prompt_tokens.mean()),
        output_tokens=float(first_trace.output_tokens.mean()),
        requests=len(first_trace),
        fixed=same_requests(first_trace, second),
        wall_s=time.perf_counter() - started,
    )


def checked(scenario: Scenario, criterion: Criterion) -> tuple[Trace, float]:
    """The scenario's requests and their rate, when there is one that can be changed."""
    workload = scenario.workload
    if workload.arrivals == "closed-loop":
        raise ScenarioError("workload.arrivals", "a closed loop has no rate", "arrivals: poisson, gamma or trace")
    if scenario.horizon_s is not None:
        raise ScenarioError("horizon", "cuts every run at the same moment", "none: a capacity runs all requests")
    trace = build(workload, scenario.seed)
    span = float(trace.arrival_s[-1] - trace.arrival_s[0])
    if span <= 0:
        what = f"all {len(trace)} requests come at once, so there is no rate to change"
        expected = "others, as with --set workload.arrivals=poisson --set workload.rate=10"
        raise ScenarioError("workload.arrivals", what, expected)
    judged = len(trace) - int(len(trace) * criterion.warmup)
    if judged * (1 - criterion.percent / 100) < 1 - 1e-9 or judged < 40:
        what = f"{judged} requests are judged, too few for a share of {criterion.percent:g} %"
        raise ScenarioError("workload.requests", what, "so many that one may miss, and at least 40")
    return trace, workload.rate_per_s or (len(trace) - 1) / span


def same_requests(one: Trace, other: Trace) -> bool:
    """Whether two traces hold the same requests at the same moments."""
    columns = ("arrival_s", "prompt_tokens", "output_tokens")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in columns)


def _search(
    scenario: Scenario, criterion: Criterion, load_per_s: float, like: Found | None, seed: int, note: Note | None = None
) -> Found:
    """One seed's cliff and capacity; the search begins at the scenario's own rate, or about the answer of another."""
    scenario = override(scenario, {"seed": seed})
    own = build(scenario.workload, seed)
    own = replace(own, arrival_s=own.arrival_s * load_per_s)
    even = _Rates(scenario, criterion, replace(own, arrival_s=np.arange(len(own), dtype=float)), note)
    near = (load_per_s,) if like is None else (like.cliff.rate_per_s, like.cliff.rate_per_s / CLIFF_TOLERANCE)
    _, cliff = even.boundary(lambda run: not run.behind, near, CLIFF_TOLERANCE)
    if cliff is None:
        raise RuntimeError("a cluster that never falls behind")
    rates = _Rates(scenario, criterion, own, note)
    near = (
        (load_per_s,)
        if like is None or not like.capacity_per_s
        else (like.capacity_per_s * NEAR, like.capacity_per_s / NEAR)
    )
    met, missed = rates.boundary(lambda run: not run.missed(criterion), near, TOLERANCE, cliff.finished_per_s)
    return Found(seed, met, missed, cliff, len(rates.runs) + len(even.runs))


class _Rates:
    """Runs of one trace by rate: its own rate is 1 /s, and a rate is run once."""

    def __init__(self, scenario: Scenario, criterion: Criterion, trace: Trace, note: Note | None) -> None:
        self.scenario, self.criterion, self.trace, self.note = scenario, criterion, trace, note
        self.runs: dict[float, Probe] = {}

    def at(self, rate_per_s: float) -> Probe:
        """The run at a rate."""
        if rate_per_s not in self.runs:
            if self.note is not None:
                self.note(f"seed {self.scenario.seed}: {rate_per_s:.4g} requests a second")
            trace = replace(self.trace, arrival_s=self.trace.arrival_s / rate_per_s)
            self.runs[rate_per_s] = probe(self.scenario, trace, rate_per_s, self.criterion)
        return self.runs[rate_per_s]

    def boundary(
        self, good: Callable[[Probe], bool], near: Sequence[float], tolerance: float, most: float = inf
    ) -> tuple[Probe | None, Probe | None]:
        """A good run and a bad one whose rates are a factor `tolerance` apart, found from the rates `near` it.

        No good one where even ALONE is bad, no bad one where `most` is good. It is taken for granted that what is bad
        stays bad at higher rates.
        """
        fine, bad = 0.0, inf
        for rate in near:
            if fine < rate < bad:
                fine, bad = self._halved(good, min(rate, most), fine, bad)
        step = 2.0 if len(near) == 1 else near[0] / near[1]
        while bad == inf and fine < most:
            fine, bad = self._halved(good, min(fine * step, most), fine, bad)
        while not fine:
            alone = ALONE / self.runs[bad].stay_s
            fine, bad = self._halved(good, max(bad / step, alone), fine, bad)
            if bad == alone:
                return None, self.at(bad)
            step *= step
        while bad < inf and bad / fine > tolerance:
            fine, bad = self._halved(good, sqrt(fine * bad), fine, bad)
        return self.at(fine), None if bad == inf else self.at(bad)

    def _halved(self, good: Callable[[Probe], bool], rate: float, fine: float, bad: float) -> tuple[float, float]:
        """The bracket with `rate` as its new lower end where that is good, else as its upper end."""
        return (rate, bad) if good(self.at(rate)) else (fine, rate)
