"""What is left out as warm-up, and what is then counted."""

import numpy as np
import pytest
from handmade import nothing_completed, served, three_requests

from tetrisim.metrics.summary import summarize
from tetrisim.metrics.warmup import Cut, counted, find_cut, mser5


def noise(count, seed=3):
    return np.random.default_rng(seed).normal(0, 1, count)


def by_formula(series):
    """The cut with the smallest statistic of the first half, as its definition is written."""
    means = [np.mean(series[i : i + 5]) for i in range(0, len(series) - len(series) % 5, 5)]
    k = len(means)
    statistic = [sum((np.array(means[d:]) - np.mean(means[d:])) ** 2) / (k - d) ** 2 for d in range(k // 2)]
    return 5 * int(np.argmin(statistic))


def test_a_step_is_cut_where_it_ends():
    """200 values about 20 and 1,800 about 10: any other cut keeps some of the high ones, or throws steady ones away."""
    series = 10 + noise(2000)
    series[:200] += 10
    assert mser5(series) == 200


def test_a_decay_is_cut_when_it_has_gone_down_in_the_noise():
    """50 e^(-i / 40) is below the noise of a mean of five (0.45) after 190 values, below a tenth of it after 280."""
    found = mser5(noise(2000) + 50 * np.exp(-np.arange(2000) / 40))
    assert 150 <= found <= 300


def test_what_is_steady_is_kept_and_the_statistic_is_its_definition():
    assert mser5(noise(2000)) <= 200
    for seed in range(5):
        series = noise(203, seed) + 3 * np.exp(-np.arange(203) / 20)
        assert mser5(series) == by_formula(series)


def test_growth_without_end_and_too_few_values_have_no_steady_state():
    assert mser5(np.arange(500.0) + noise(500)) is None
    assert mser5(noise(49)) is None


def run_of(ttft_s, **columns):
    """The rows of a run with these TTFTs, arrivals a second apart, and E2EL of 1 s more."""
    base = served("vllm-v1", 0.2, 0.02, requests=len(ttft_s))
    arrival = np.arange(len(ttft_s), dtype=float)
    first = arrival + ttft_s
    rows = {"arrival_s": arrival, "first_token_s": first, "finish_s": first + 1.0, **columns}
    return {**base.request_columns, **rows}


def test_auto_takes_the_later_of_both_metrics_and_of_all_systems():
    early, late = (10 + noise(1000) for _ in range(2))
    early[:100] += 30
    late[:200] += 30
    assert find_cut([run_of(early)], "auto") == Cut(100, "MSER-5 on TTFT and E2EL")
    assert find_cut([run_of(early), run_of(late)], "auto").requests == 200


def test_unserved_requests_are_in_no_series_and_move_the_cut():
    """The first 50 of 1,050 requests were rejected: the hundredth of the others is number 150."""
    ttft = np.concatenate([np.full(50, np.nan), 10 + noise(1000)])
    ttft[50:150] += 30
    status = np.where(np.arange(1050) < 50, "rejected", "completed")
    assert find_cut([run_of(ttft, status=status)], "auto").requests == 150


def test_auto_says_when_there_is_no_steady_state():
    cut = find_cut([run_of(np.arange(400.0))], "auto")
    assert cut.requests == 200
    assert "not steady" in cut.rule
    assert find_cut([nothing_completed().request_columns], "auto").requests == 1


def test_a_share_is_of_all_requests_rounded_down():
    result = served("vllm-v1", 0.2, 0.02, requests=45)
    assert find_cut([result.request_columns], 0.1) == Cut(4, "a share of 0.1")
    assert find_cut([result.request_columns], 0.0) == Cut()
    with pytest.raises(ValueError, match="below 1"):
        find_cut([result.request_columns], 1.0)


def test_the_summary_without_the_first_request_worked_by_hand():
    """Of three requests the second (arrival 2, both tokens at 2.6) and the rejected third are left."""
    result = three_requests()
    summary = summarize(result, warmup=Cut(1, "a share of 0.4"))
    expected = {
        "submitted": 2, "completed": 1, "rejected": 1, "warmup_requests": 1, "duration": 0.6,
        "request_throughput": 1 / 0.6, "output_throughput": 1 / 0.6, "total_token_throughput": 201 / 0.6,
        "mean_ttft_ms": 600, "mean_e2el_ms": 600, "preemptions": 0, "gpu_seconds": 3.2,
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == pytest.approx(expected)
    assert summary["warmup_rule"] == "a share of 0.4"
    assert summary["mean_itl_ms"] is None, "gaps are not kept by request"
    assert len(result.request_columns["status"]) == 3, "the run itself keeps its rows"


def test_by_default_all_are_counted():
    result = three_requests()
    assert counted(result, 0) is result
    assert summarize(result)["warmup_requests"] == 0
    assert summarize(result) == summarize(result, warmup=Cut())
