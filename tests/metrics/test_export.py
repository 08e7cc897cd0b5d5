"""Three requests worked by hand, in the words and by the definitions of each tool.

        arrival  prompt  output tokens at              TTFT  E2EL  gaps
    A   0.0 s    100     0.2  0.3  0.4  0.6  1.0       0.2   1.0   0.1 0.1 0.2 0.4
    B   0.5 s    200     0.8                           0.3   0.3   -
    C   1.0 s    300     1.4  1.6  2.0                 0.4   1.0   0.2 0.4

All over 2.0 s: 3 requests, 600 tokens in, 9 tokens out. The mean time of a token after the first, of A and of C:
0.8 / 4 = 0.2 and 0.6 / 2 = 0.3. The SLO is a TTFT of 0.35 s and a TPOT of 0.25 s.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from handmade import nothing_completed, three_requests

from tetrisim.metrics.export import FORMATS, export
from tetrisim.metrics.warmup import counted
from tetrisim.scenario.load import load, override
from tetrisim.scenario.slo import SloSpec
from tetrisim.simulate import simulate

GAPS = [(0.1, 2), (0.2, 1), (0.4, 1), (0.2, 1), (0.4, 1)]


def three(slo=None, **columns):
    """A, B and C."""
    base = three_requests()
    rows = base.request_columns | {
        "arrival_s": np.array([0.0, 0.5, 1.0]), "prompt_tokens": np.array([100, 200, 300]),
        "output_tokens": np.array([5, 1, 3]), "first_token_s": np.array([0.2, 0.8, 1.4]),
        "finish_s": np.array([1.0, 0.8, 2.0]), "status": np.array(["completed"] * 3), **columns,
    }  # fmt: skip
    gaps = {
        "first_s": np.array([gap for gap, _ in GAPS]), "slope_s": np.zeros(5),
        "steps": np.array([steps for _, steps in GAPS]), "weight": np.ones(5, dtype=int),
    }  # fmt: skip
    scenario = replace(base.scenario, slo=slo or SloSpec(ttft_s=0.35, tpot_s=0.25))
    return replace(base, scenario=scenario, request_columns=rows, gap_columns=gaps)


def rejected_c(**more):
    """A and B as they were; C was refused."""
    gone = np.array([1.0, 1.0, np.nan])
    rows = {name: three().request_columns[name] * gone for name in ("first_token_s", "finish_s")}
    return three(**rows, status=np.array(["completed", "completed", more.get("status", "rejected")]))


def test_vllm_by_hand():
    record = export(three(), "vllm")
    expected = {
        "num_prompts": 3, "completed": 3, "failed": 0, "total_input_tokens": 600, "total_output_tokens": 9,
        "duration": 2.0, "request_throughput": 1.5, "output_throughput": 4.5, "total_token_throughput": 304.5,
        # A is good; B has a TPOT of 0 and is good; C's TTFT is 0.4
        "request_goodput": 1.0,
        # second 0: A, B; second 1: A (it ends at 1.0) and C; second 2: C
        "max_concurrent_requests": 2,
        "mean_ttft_ms": 300, "median_ttft_ms": 300, "std_ttft_ms": 100 * (2 / 3) ** 0.5, "p99_ttft_ms": 398,
        # 0.2 and 0.3 s, B in no distribution
        "mean_tpot_ms": 250, "median_tpot_ms": 250, "std_tpot_ms": 50, "p90_tpot_ms": 290,
        # 0.1 0.1 0.2 0.2 0.4 0.4: 1.4 / 6; deviations squared sum to 0.42 - 6 * (1.4 / 6)^2
        "mean_itl_ms": 1400 / 6, "median_itl_ms": 200, "std_itl_ms": 1e3 * ((0.42 - 1.4**2 / 6) / 6) ** 0.5,
        "p90_itl_ms": 400, "mean_e2el_ms": 2300 / 3, "median_e2el_ms": 1000,
    }  # fmt: skip
    assert {key: record[key] for key in expected} == pytest.approx(expected)
    assert (record["label"], record["max_concurrency"]) == ("vllm-v1", None)
    assert not {"itls", "max_output_tokens_per_s", "date"} & set(record), "what a simulation does not know"


def test_aiperf_by_hand():
    record = export(three(), "aiperf")
    latency = record["inter_token_latency"]
    # what vLLM calls TPOT: 0.2 and 0.3 s
    assert latency == pytest.approx({
        "unit": "ms", "avg": 250, "p1": 201, "p5": 205, "p10": 210, "p25": 225, "p50": 250, "p75": 275, "p90": 290,
        "p95": 295, "p99": 299, "min": 200, "max": 300, "std": 50, "count": 2, "sum": 500,
    })  # fmt: skip
    # what vLLM calls ITL
    assert record["inter_chunk_latency"]["avg"] == pytest.approx(1400 / 6)
    assert (record["inter_chunk_latency"]["count"], record["inter_chunk_latency"]["max"]) == (6, pytest.approx(400))
    # the mean of 5 and 3.333, where 1 / 0.25 s would be 4
    assert record["output_token_throughput_per_user"]["avg"] == pytest.approx((5 + 10 / 3) / 2)
    # 5 / 1, 1 / 0.3 and 3 / 1
    assert record["e2e_output_token_throughput"]["avg"] == pytest.approx((5 + 10 / 3 + 3) / 3)
    # 100 / 0.2, 200 / 0.3 and 300 / 0.4
    assert record["prefill_throughput_per_user"]["avg"] == pytest.approx((500 + 2000 / 3 + 750) / 3)
    assert record["decode_duration"]["avg"] == pytest.approx(1400 / 3), "B's is 0"
    assert record["request_latency"]["p50"] == pytest.approx(1000)
    scalars = {
        "request_count": ("requests", 3), "request_throughput": ("requests/sec", 1.5), "total_isl": ("tokens", 600),
        "output_token_throughput": ("tokens/sec", 4.5), "input_token_throughput": ("tokens/sec", 300),
        "total_token_throughput": ("tokens/sec", 304.5), "benchmark_duration": ("sec", 2.0), "total_osl": ("tokens", 9),
        # B has no ITL, and what has none does not meet a limit on it: A alone
        "good_request_count": ("requests", 1), "goodput": ("requests/sec", 0.5),
        "good_request_fraction": ("ratio", 1 / 3),
    }  # fmt: skip
    assert {name: (record[name]["unit"], pytest.approx(record[name]["avg"])) for name in scalars} == scalars
    lenient = export(three(SloSpec(ttft_s=None, tpot_s=0.35)), "aiperf")
    assert lenient["good_request_count"]["avg"] == 2, "A and C"
    assert set(record["goodput"]) == {"unit", "avg"}, "no count or percentiles of what is of the whole run"
    assert not {"time_to_second_token", "error_request_count", "adj_request_latency"} & set(record)
    assert (record["schema_version"], record["is_complete"]) == ("1.4", True)


def test_guidellm_by_hand():
    report = export(three(), "guidellm")
    assert report["metadata"] == {"version": 2}
    (benchmark,) = report["benchmarks"]
    assert (benchmark["type_"], benchmark["start_time"], benchmark["duration"]) == ("generative_benchmark", 0.0, 2.0)
    metrics = benchmark["metrics"]
    assert metrics["request_totals"] == {"successful": 3, "errored": 0, "incomplete": 0, "total": 3}
    means = {
        "time_to_first_token_ms": 300,
        # with the first token, by output tokens: 5 of 1.0 / 5, 1 of 0.3 and 3 of 1.0 / 3
        "time_per_output_token_ms": 1e3 * (1.0 + 0.3 + 1.0) / 9,
        # by the tokens after the first: 4 of 0.2 and 2 of 0.3, which is vLLM's mean ITL
        "inter_token_latency_ms": 1400 / 6,
        "request_latency": 2.3 / 3,
        "total_token_count": 203,
        # one there from 0 to 0.5 and from 0.8 to 2 (A leaves as C comes), two from 0.5 to 0.8
        "request_concurrency": (1 * 1.7 + 2 * 0.3) / 2.0,
    }
    found = {name: metrics[name]["successful"]["mean"] for name in means}
    assert found == pytest.approx(means)
    assert metrics["request_latency"]["total"] == metrics["request_latency"]["successful"]
    assert metrics["request_latency"]["errored"]["count"] == 0
    # percentiles are values that were there: of 0.2, 0.3 and 0.4 s the 25th is 0.2 and the 90th 0.4
    percentiles = metrics["time_to_first_token_ms"]["successful"]["percentiles"]
    assert (percentiles["p25"], percentiles["p50"], percentiles["p90"]) == pytest.approx((200, 300, 400))
    # 4 of the 6 tokens after a first took 0.2: so did the median one
    itl = metrics["inter_token_latency_ms"]["successful"]
    assert (itl["median"], itl["count"], itl["total_sum"]) == pytest.approx((200, 6, 1400))


def test_guidellm_rates_are_over_time_by_hand():
    """Ends at 0.8, 1.0 and 2.0 between 0 and 2: half the time to the neighbours is 0.4 | 0.5, 0.6 and 0.5.

    The end of the window is C's own end: 1 request in the last 0.5 s is 2 a second, 1 in 0.6 s is 1.667, and 1 in 0.5 s
    is 2; in the first 0.4 s there is none. By time: (0 * 0.4 + 2 * 0.5 + 1.667 * 0.6 + 2 * 0.5) / 2 = 1.5.
    """
    rate = export(three(), "guidellm")["benchmarks"][0]["metrics"]["requests_per_second"]["successful"]
    assert (rate["mean"], rate["count"], rate["max"], rate["min"]) == pytest.approx((1.5, 3, 2.0, 0.0))
    assert rate["median"] == pytest.approx(1 / 0.6), "0.4 s without any and 0.6 s of this are half of the time"
    metrics = export(three(), "guidellm")["benchmarks"][0]["metrics"]
    # tokens are spread evenly over each decode: 0.2 0.4 0.6 0.8 1.0 | 0.8 | 1.4 1.7 2.0, so two at 0.8
    tokens = metrics["output_tokens_per_second"]["successful"]
    assert (tokens["mean"], tokens["count"]) == pytest.approx((4.5, 9))
    assert tokens["max"] == pytest.approx(2 / 0.2)


def test_the_percentiles_that_guidellm_names():
    """Of a thousand TTFTs of 1 to 1000 ms."""
    base, many = three(), np.arange(1.0, 1001)
    rows = {name: np.repeat(column[:1], 1000) for name, column in base.request_columns.items()}
    rows |= {"arrival_s": np.zeros(1000), "first_token_s": many / 1000, "finish_s": many / 1000 + 1}
    metrics = export(replace(base, request_columns=rows), "guidellm")["benchmarks"][0]["metrics"]
    assert metrics["time_to_first_token_ms"]["successful"]["percentiles"] == pytest.approx({
        "p001": 1, "p01": 10, "p05": 50, "p10": 100, "p25": 250, "p50": 500, "p75": 750, "p90": 900, "p95": 950,
        "p99": 990, "p999": 999,
    }, abs=1.01)  # fmt: skip


def test_guidellm_does_not_judge_what_has_no_inter_token_latency():
    """A meets both limits, C misses its TTFT, B is not determined: vLLM has 2 good of 3, AIPerf 1 of 3."""
    metrics = export(three(), "guidellm")["benchmarks"][0]["metrics"]
    assert (metrics["slo_attainment"], metrics["slo_determined_requests"]) == (0.5, 2)
    # A's end at 1.0, over half of the second before and after
    assert metrics["request_goodput"]["successful"]["max"] == pytest.approx(1 / 1.0)
    lenient = export(three(SloSpec(ttft_s=0.35, tpot_s=None)), "guidellm")["benchmarks"][0]["metrics"]
    assert (lenient["slo_attainment"], lenient["slo_determined_requests"]) == (pytest.approx(2 / 3), 3)


def test_a_rejected_request_is_failed_an_error_and_errored():
    """C is refused: 2 of 3 over 1.0 s."""
    vllm, aiperf, guidellm = (export(rejected_c(), to) for to in FORMATS)
    assert (vllm["completed"], vllm["failed"], vllm["duration"]) == (2, 1, 1.0)
    assert aiperf["error_request_count"] == {"unit": "requests", "avg": 1}
    assert aiperf["request_error_rate"]["avg"] == pytest.approx(100 / 3)
    # 300, 1000 and infinity: the nearest of place 0.9 * 2 is the last, of 0.25 * 2 the first
    adjusted = aiperf["adj_request_latency"]
    assert (adjusted["p10"], adjusted["p50"], adjusted["p90"], adjusted["avg"]) == (
        pytest.approx(300), pytest.approx(1000), None, None,
    )  # fmt: skip
    assert "std" not in adjusted
    metrics = guidellm["benchmarks"][0]["metrics"]
    assert metrics["request_totals"] == {"successful": 2, "errored": 1, "incomplete": 0, "total": 3}
    assert set(metrics["request_latency"]) == {"successful"}, "the total is not known"
    # A is good, C's refusal counts, B does not
    assert (metrics["slo_attainment"], metrics["slo_determined_requests"]) == (0.5, 2)


def test_an_unfinished_request_is_said_to_be_so():
    vllm, aiperf, guidellm = (export(rejected_c(status="unfinished"), to) for to in FORMATS)
    assert vllm["failed"] == 1
    assert (aiperf["is_complete"], aiperf["incomplete_reason"]) == (False, "1 of 3 requests unfinished")
    assert "error_request_count" not in aiperf
    metrics = guidellm["benchmarks"][0]["metrics"]
    assert metrics["request_totals"]["incomplete"] == 1
    assert (metrics["slo_attainment"], metrics["slo_determined_requests"]) == (1.0, 1)


def test_without_limits_there_is_no_goodput():
    vllm, aiperf, guidellm = (export(three(SloSpec(None, None)), to) for to in FORMATS)
    assert vllm["request_goodput"] is None
    assert "goodput" not in aiperf
    assert guidellm["benchmarks"][0]["metrics"]["request_goodput"] is None


@pytest.mark.parametrize("to", FORMATS)
def test_json_is_strict_even_of_nothing(to):
    for result in (nothing_completed(), three_requests(), counted(three(), 1)):
        record = export(result, to)
        assert json.loads(json.dumps(record, allow_nan=False)) == record  # NaN would raise


def test_without_the_gaps_vllm_has_no_itl():
    """After a warm-up the gaps are not known; B and C are left."""
    record = export(counted(three(), 1), "vllm")
    assert (record["completed"], record["mean_tpot_ms"]) == (2, pytest.approx(300))
    assert not [key for key in record if "_itl_" in key]
    assert "inter_chunk_latency" not in export(counted(three(), 1), "aiperf")


def test_the_same_time_has_three_names():
    """Of any run: vLLM's TPOT is AIPerf's ITL, and the mean of GuideLLM's ITL is that of vLLM's pooled gaps."""
    result = simulate(override(load("default"), {"workload.requests": 60}))
    vllm, aiperf, guidellm = (export(result, to) for to in FORMATS)
    assert vllm["p99_tpot_ms"] == pytest.approx(aiperf["inter_token_latency"]["p99"])
    assert vllm["mean_itl_ms"] == pytest.approx(aiperf["inter_chunk_latency"]["avg"])
    metrics = guidellm["benchmarks"][0]["metrics"]
    assert metrics["inter_token_latency_ms"]["successful"]["mean"] == pytest.approx(vllm["mean_itl_ms"])
    assert vllm["mean_itl_ms"] != pytest.approx(vllm["mean_tpot_ms"], rel=1e-3)
    assert metrics["requests_per_second"]["successful"]["mean"] == pytest.approx(vllm["request_throughput"], rel=1e-3)
    assert vllm["output_throughput"] == pytest.approx(aiperf["output_token_throughput"]["avg"])
