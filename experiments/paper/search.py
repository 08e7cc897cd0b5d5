"""The highest rate of requests that meets a limit, for several limits at once and under several seeds."""

from collections.abc import Callable, Sequence
from math import floor, log

import numpy as np

from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Result, simulate
from tetrisim.studies.seeds import SEEDS
from tetrisim.workload.trace import Trace

STEP = 1.25
"""Rates are looked for among the powers of this, and between the last that meets the limit and the next."""

Measure = Callable[[Result], Sequence[float]]
"""How near each limit is: 1 is at it, more is over it."""


class _Runs(dict[int, Sequence[float]]):
    """Power of STEP -> what is measured at that rate, in requests a second."""

    def __init__(self, scenario: Scenario, measure: Measure, trace: Callable[[Scenario], Trace] | None) -> None:
        self.scenario, self.measure, self.trace = scenario, measure, trace

    def __missing__(self, power: int) -> Sequence[float]:
        run = override(self.scenario, {"workload.rate": STEP**power})
        self[power] = self.measure(simulate(run, trace=self.trace(run) if self.trace else None))
        return self[power]


def highest_rates(
    scenario: Scenario,
    measure: Measure,
    first: Sequence[float],
    trace: Callable[[Scenario], Trace] | None = None,
    seeds: int = SEEDS,
) -> np.ndarray:
    """A row a seed, a column a limit (requests per second); `first` is where to begin for each limit."""
    found = [list(first)]
    for seed in range(scenario.seed, scenario.seed + seeds):
        runs = _Runs(override(scenario, {"seed": seed}), measure, trace)
        found.append([_crossing(runs, place, near) for place, near in enumerate(found[-1])])
    return np.array(found[1:])


def _crossing(runs: _Runs, place: int, near: float) -> float:
    power = floor(log(near) / log(STEP))
    while (before := runs[power][place]) > 1:
        power -= 1
    while (here := runs[power + 1][place]) <= 1:
        before, power = here, power + 1
    return STEP ** (power + (1 - before) / (here - before))
