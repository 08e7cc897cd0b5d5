"""Paired differences over seeds: what they find, and what they do not claim."""

import numpy as np
import pytest

from tetrisim.errors import ScenarioError
from tetrisim.scenario.load import load, override
from tetrisim.studies.compare import METRICS, Comparison, PairedComparison, compare, compare_seeds

SCENARIO = override(load("default"), {"workload.requests": 150})


def study(baseline, other, metric="mean_ttft_ms"):
    """A study of two systems with the given values of one metric, by seed."""

    def row(system, value):
        return {"system": system, **dict.fromkeys(METRICS, 1.0), metric: value}

    by_seed = [[row("a", one), row("b", two)] for one, two in zip(baseline, other, strict=True)]
    paired = PairedComparison(Comparison(SCENARIO, {}, by_seed[0]), by_seed)
    return next(each for each in paired.differences if each.metric == metric)


def test_the_luck_that_both_share_is_no_noise():
    """Seeds differ by 100 and the systems by 1 to 2: mean 1.5, s = 0.5774, t(3) = 3.182, half = 0.9186."""
    found = study([100, 200, 300, 400], [101, 202, 301, 402])
    assert (found.difference.mean, found.baseline.mean) == (1.5, 250)
    assert found.difference.half == pytest.approx(3.182 * (1 / 3) ** 0.5 / 2, rel=1e-6)
    assert found.shown
    assert found.baseline.half > 100 * found.difference.half, "unpaired, nothing would be seen"


def test_an_interval_that_holds_zero_shows_nothing():
    assert not study([10, 10, 10], [11, 9, 10.2]).shown
    assert not study([10, 20, 30], [10, 20, 30]).shown, "equal in every seed"
    assert study([10, 20, 30], [9, 19, 29]).shown, "the same in every seed"


def test_a_seed_without_a_value_is_left_out_and_counted():
    found = study([10, None, 30, 40], [11, 21, None, 41])
    assert (found.difference.mean, found.difference.seeds) == (1.0, 2)
    nothing = study([10, None, None], [11, 12, 13])
    assert nothing.difference is None and not nothing.shown and nothing.row()["difference"] is None


def test_differences_are_those_of_runs_under_each_seed():
    told = []
    paired = compare_seeds(SCENARIO, ["vllm-v1", "vllm-v0"], 3, on_start=told.append)
    assert told[:3] == ["vllm-v1, seed 1", "vllm-v0, seed 1", "vllm-v1, seed 2"]
    alone = [compare(override(SCENARIO, {"seed": seed}), ["vllm-v1", "vllm-v0"]).summaries for seed in (1, 2, 3)]
    for each in paired.differences:
        values = [other[each.metric] - base[each.metric] for base, other in alone]
        assert each.difference.mean == pytest.approx(np.mean(values))
    assert [each.metric for each in paired.differences] == list(METRICS)
    assert paired.first.summaries[0]["mean_e2el_ms"] == alone[0][0]["mean_e2el_ms"], (
        "the first is the scenario's own seed"
    )


def test_a_system_under_another_name_is_not_different():
    same = override(SCENARIO, {"systems": {"twin": {"base": "vllm-v1"}}})
    paired = compare_seeds(same, ["vllm-v1", "twin"], 3)
    assert not any(each.shown for each in paired.differences)
    assert all(each.difference.mean == 0 for each in paired.differences)


def test_names_are_checked_and_one_is_too_few():
    with pytest.raises(ScenarioError, match="did you mean 'vllm-v0'"):
        compare_seeds(SCENARIO, ["vllm-v1", "vllm-v00"], 2)
    with pytest.raises(ScenarioError, match="differs from nothing"):
        compare_seeds(SCENARIO, ["vllm-v1"], 2)
