import io

import numpy as np
import pytest
from handmade import nothing_completed, served, three_requests
from rich.console import Console

from tetrisim.metrics.breakdown import PARTS
from tetrisim.metrics.summary import summarize
from tetrisim.report.terminal import best, binding, number, print_report, slo_line, source_lines, verdict
from tetrisim.scenario.slo import SloSpec


def row(system, **values):
    base = dict.fromkeys(("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "request_goodput", "perf_per_dollar"), 100.0)
    return {"system": system, **base, **values}


def printed(summaries):
    out = io.StringIO()
    print_report(summaries, SloSpec(), Console(file=out, width=40))
    return out.getvalue()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (7, "7"),
        (0.0, "0.00"),
        (1.234, "1.23"),
        (9.996, "10.0"),
        (99.96, "100"),
        (12345.6, "12346"),
    ],
)
def test_numbers_keep_three_digits(value, shown):
    assert number(value) == shown


def test_a_piped_table_has_every_value_on_one_line_of_at_most_118_columns():
    summaries = [summarize(served(name, 40.0, 0.9)) for name in ("vllm-v0", "vllm-v1", "tetriinfer")]
    lines = printed(summaries).splitlines()
    assert all(len(line) <= 118 for line in lines[:6])
    assert lines[1].split()[:3] == ["system", "completed", "mean"]
    for line, summary in zip(lines[3:6], summaries, strict=True):
        cells = line.split()
        assert len(cells) == 14
        assert cells[0] == summary["system"]
        assert cells[2] == number(summary["mean_ttft_ms"])
        assert cells[-1] == number(summary["perf_per_dollar"])


def test_a_system_of_a_long_name_is_not_cut():
    summary = summarize(three_requests()) | {"system": "a-system-" * 8}
    assert "a-system-" * 8 in printed([summary])


def test_the_sentence_names_winners_and_ties():
    rows = [
        row("slow", mean_ttft_ms=200.0, request_goodput=99.5),
        row("fast", mean_ttft_ms=50.0, mean_e2el_ms=90.0, request_goodput=100.0),
        row("other", request_goodput=50.0),
    ]
    assert verdict(rows) == (
        "fast wins on mean TTFT and mean E2EL; all are level (within 1 %) on mean TPOT and perf/$; "
        "slow and fast are level (within 1 %) on goodput."
    )
    many = [row(name, request_goodput=100.0) for name in "abcd"]
    assert "all but other are level (within 1 %) on goodput" in verdict([*many, rows[2]])


def test_a_lone_run_and_an_empty_one_have_no_winner():
    assert verdict([row("alone")]) == ""
    none = dict.fromkeys(("mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms", "request_goodput", "perf_per_dollar"))
    assert verdict([row("a", **none), row("b", **none)]) == ""


def test_a_missing_value_never_wins():
    assert best([row("a", mean_ttft_ms=None), row("b")], "mean_ttft_ms", True) == ("b",)


def test_requests_left_out_are_said():
    assert "vllm-v1: of 3 requests 1 were rejected and 0 unfinished" in printed([summarize(three_requests())])
    assert "0 were rejected and 3 unfinished" in printed([summarize(nothing_completed())])
    assert "rejected" not in printed([summarize(served("vllm-v1", 0.2, 0.02))])


def test_sources_are_one_line_or_one_a_system():
    alike = [summarize(three_requests(name)) for name in ("vllm-v0", "vllm-v1")]
    assert source_lines(alike) == [
        "Step times: 25 % measured, 50 % interpolated, 25 % estimated (roofline of h100-sxm)."
    ]
    alike[1] |= {
        "measured_share": 0.001,
        "interpolated_share": 0.999,
        "estimated_share": 0.0,
        "provenance": [],
    }
    assert source_lines(alike)[1] == "Step times of vllm-v1: <1 % measured, >99 % interpolated, 0 % estimated."


def test_the_slo_is_spelled_out():
    assert (
        slo_line(SloSpec(0.5, 0.03, 10.0))
        == "Goodput counts requests with TTFT <= 0.5 s, TPOT <= 30 ms and E2EL <= 10 s."
    )
    assert "every request" in slo_line(SloSpec(None, None))


def test_what_binds_is_one_sentence():
    def parts(**seconds):
        return {part: np.array([seconds.get(part, 0.0)]) for part in PARTS}

    two = {
        "a": parts(queue_s=3.0, prefill_s=1.0, decode_s=2.0, transfer_s=1.0),
        "b": parts(prefill_s=1.0, decode_interference_s=0.003, decode_s=0.002),
    }
    assert binding(two) == (
        "Largest part of TTFT, and of the time after it: a queueing (75 %) and own decode (67 %); "
        "b own prefill (100 %) and decode interference (60 %)."
    )
    assert binding({"a": parts(prefill_s=1.0)}).endswith(": a own prefill (100 %).")
    six = dict.fromkeys("cdefg", two["b"]) | {"a": two["a"]}
    assert binding(six).endswith(
        ": own prefill and decode interference of c, d, e, f and g; queueing and own decode of a."
    )
    assert binding({}) == binding({"a": {part: np.empty(0) for part in PARTS}}) == ""
