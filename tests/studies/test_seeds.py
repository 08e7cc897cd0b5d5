"""Means over seeds and their intervals, against the textbook."""

from math import gamma, pi

import numpy as np
import pytest

from tetrisim.scenario.load import load
from tetrisim.studies.seeds import estimate, over_seeds


def test_students_interval_of_four_values():
    # mean 3, variance (4 + 1 + 1 + 4) / 3 = 10 / 3, t(3) = 3.182
    found = estimate([1, 2, 4, 5])
    assert (found.mean, found.seeds) == (3.0, 4)
    assert found.half == pytest.approx(3.182 * (10 / 3 / 4) ** 0.5)
    assert found.low == pytest.approx(3 - found.half)
    assert found.high == pytest.approx(3 + found.half)


@pytest.mark.parametrize("n", range(2, 32))
def test_the_interval_is_that_of_students_density(n):
    """From -t to t lies 95 % of it, to the third digit of t."""
    sample = np.arange(n, dtype=float)
    t, free = estimate(sample).half * n**0.5 / sample.std(ddof=1), n - 1
    places = (np.arange(20_000) + 0.5) * t / 20_000
    density = gamma((free + 1) / 2) / ((free * pi) ** 0.5 * gamma(free / 2)) * (1 + places**2 / free) ** (-n / 2)
    assert 2 * density.sum() * t / 20_000 == pytest.approx(0.95, abs=7e-5)


def test_a_single_value_has_no_interval():
    assert estimate([7.5]).half == 0.0


@pytest.mark.parametrize("n", [2, 5, 31, 60])
def test_the_interval_holds_the_mean_19_times_in_20(n):
    rng = np.random.default_rng(n)
    intervals = [estimate(rng.normal(10, 3, n)) for _ in range(4000)]
    assert np.mean([each.low <= 10 <= each.high for each in intervals]) == pytest.approx(0.95, abs=0.012)


def test_each_seed_is_a_scenario_of_its_own_from_the_scenarios_on():
    assert over_seeds(load("default"), lambda scenario: scenario.seed, 3) == [1, 2, 3]
