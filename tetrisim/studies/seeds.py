"""The same scenario under several seeds: means with 95 % intervals, and differences between systems seed by seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

import numpy as np

from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario

T = TypeVar("T")

SEEDS = 10
"""How many seeds a stochastic figure is the mean of."""

_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % points of Student's t for 1 to 30 degrees of freedom; above, the normal's 1.96 is near enough."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with the half-width of its 95 % interval; 0 for a number that no luck goes into."""

    mean: float
    half: float = 0.0
    seeds: int = 1

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half

    def interval(self, times: float = 1.0) -> dict[str, float]:
        """Mean and both ends, for JSON; `times` turns seconds into ms, say."""
        return {"mean": self.mean * times, "low": self.low * times, "high": self.high * times}


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and Student's 95 % interval of independent values; a single value has no interval."""
    sample = np.asarray(values, dtype=float)
    n = len(sample)
    if n < 2:
        return Estimate(float(sample[0]))
    t = _T95[n - 2] if n - 2 < len(_T95) else 1.96
    return Estimate(float(sample.mean()), t * float(sample.std(ddof=1)) / sqrt(n), n)


def over_seeds(scenario: Scenario, measure: Callable[[Scenario], T], seeds: int = SEEDS) -> list[T]:
    """What `measure` says of the scenario under its own seed and the next ones.

    Scenarios that share a workload see the same requests under the same seed, so their values can be compared in pairs.
    """
    return [measure(override(scenario, {"seed": scenario.seed + number})) for number in range(seeds)]
