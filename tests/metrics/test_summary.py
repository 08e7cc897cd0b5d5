import json
from dataclasses import replace

import numpy as np
import pytest
from handmade import nothing_completed, three_requests

from tetrisim.metrics.summary import summarize

DISTRIBUTIONS = {
    f"{statistic}_{name}_ms"
    for statistic in ("mean", "median", "p90", "p99")
    for name in ("ttft", "tpot", "itl", "e2el")
}
KEYS = DISTRIBUTIONS | {
    "completed", "duration", "request_throughput", "output_throughput", "request_goodput", "submitted",
    "rejected", "unfinished", "preemptions", "gpu_seconds", "perf_per_dollar", "measured_share",
    "interpolated_share", "estimated_share", "wall_s", "simulated_s", "system", "slo_attainment",
    "perf_per_dollar_ratio", "total_token_throughput", "provenance", "dollars",
    "warmup_requests", "warmup_rule",
}  # fmt: skip


def test_keys_are_those_of_vllm_bench_serve_and_ours():
    assert set(summarize(three_requests())) == KEYS


def test_values_worked_by_hand():
    summary = summarize(three_requests())
    expected = {
        "submitted": 3, "completed": 2, "rejected": 1, "unfinished": 0, "preemptions": 2,
        "duration": 1.6, "request_throughput": 2 / 1.6, "output_throughput": 4 / 1.6,
        "total_token_throughput": 304 / 1.6, "request_goodput": 0.0, "slo_attainment": 0.0,
        "mean_ttft_ms": 400, "median_ttft_ms": 400, "p90_ttft_ms": 560, "p99_ttft_ms": 596,
        "mean_tpot_ms": 50, "p99_tpot_ms": 50, "mean_itl_ms": 50, "median_itl_ms": 50, "p90_itl_ms": 58,
        "mean_e2el_ms": 450, "p90_e2el_ms": 570,
        "gpu_seconds": 3.2, "dollars": 3.2 * 3.0 / 3600,
        "measured_share": 0.25, "interpolated_share": 0.5, "estimated_share": 0.25,
        "perf_per_dollar": 1.0, "perf_per_dollar_ratio": 1.0, "simulated_s": 2.6, "wall_s": 0.5,
    }  # fmt: skip
    assert {key: summary[key] for key in expected} == pytest.approx(expected)


def test_performance_per_dollar_in_both_readings():
    own = summarize(three_requests())
    baseline = own | {"mean_e2el_ms": 900.0, "dollars": own["dollars"] / 1.25}
    summary = summarize(three_requests(), baseline)
    assert summary["perf_per_dollar"] == pytest.approx((1 + 0.5) / 1.25)
    assert summary["perf_per_dollar_ratio"] == pytest.approx(2 / 1.25)


@pytest.mark.parametrize(
    ("jct_cut", "cost", "published"),
    [(0.40, 1.00, "1.4"), (0.47, 0.62, "2.4"), (0.23, 1.43, "0.86"), (0.19, 1.07, "1.1"), (0.50, 0.79, "1.9")],
    ids=["LPLD", "LPHD", "HPLD", "HPHD", "Mixed"],
)
def test_performance_per_dollar_gives_what_the_paper_printed(jct_cut, cost, published):
    """TetriInfer's Figures 11 to 15: its cuts of JCT and resource usage times, and perf/$ to the digits it prints."""
    own = summarize(three_requests())
    baseline = own | {"mean_e2el_ms": own["mean_e2el_ms"] / (1 - jct_cut), "dollars": own["dollars"] / cost}
    summary = summarize(three_requests(), baseline)
    digits = len(published.split(".")[1])
    assert f"{summary['perf_per_dollar']:.{digits}f}" == published
    assert f"{summary['perf_per_dollar_ratio']:.{digits}f}" != published


def test_what_does_not_exist_is_null_and_json_is_strict():
    summary = json.loads(json.dumps(summarize(nothing_completed()), allow_nan=False))
    for key in (
        "duration",
        "mean_ttft_ms",
        "p99_tpot_ms",
        "median_itl_ms",
        "perf_per_dollar",
        "measured_share",
    ):
        assert summary[key] is None
    assert (summary["unfinished"], summary["request_goodput"], summary["gpu_seconds"]) == (3, 0, 0)


def test_one_output_token_each_leaves_tpot_null():
    base = three_requests()
    rows = base.request_columns | {"output_tokens": np.array([1, 1, 1])}
    summary = summarize(replace(base, request_columns=rows))
    assert summary["mean_tpot_ms"] is None
    assert summary["mean_ttft_ms"] == pytest.approx(400)


def test_a_lost_request_is_an_error():
    base = three_requests()
    rows = base.request_columns | {"status": np.array(["completed", "completed", "running"])}
    with pytest.raises(RuntimeError, match="lost"):
        summarize(replace(base, request_columns=rows))
