"""Generators in a file and fitted ones: a law is found again, what is drawn is what was written, faults are named."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tetrisim.errors import TraceError
from tetrisim.scenario.load import load
from tetrisim.scenario.workload import WorkloadSpec
from tetrisim.workload.describe import dispersion, rank_correlation
from tetrisim.workload.fitting import fit, ks_distance
from tetrisim.workload.generator import DriftSpec, GapSpec, GeneratorSpec, LengthSpec, dump_generator
from tetrisim.workload.readers import read
from tetrisim.workload.trace import Trace, build

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the public traces are not at {DATA}")

LOG_NORMAL = GeneratorSpec(
    requests=30_000,
    prompt_tokens=LengthSpec(median=1000, sigma=0.8, longest=20_000),
    output_tokens=LengthSpec(median=200, sigma=0.5),
    rank_correlation=0.6,
    gaps=GapSpec(rate_per_s=8.0, shape=0.5),
)
BY_HAND = """
requests: 40000
prompt_tokens: {quantiles: [[0, 100], [0.5, 200], [1, 1000]]}
output_tokens: {median: 50, sigma: 0}
gaps: {rate: 120 /min, quantiles: [[0, 0], [0.9, 0], [1, 30]]}
"""


def made(folder: Path, text: str, **settings: int | float) -> Trace:
    path = folder / "made.yaml"
    path.write_text(text)
    return build(WorkloadSpec(trace=str(path), **settings), 1)  # type: ignore[arg-type]


def test_quantiles_draw_straight_lines(tmp_path: Path) -> None:
    trace = made(tmp_path, BY_HAND)
    assert len(trace) == 40_000 and trace.name == "made.yaml"
    # half of the prompts even over 100 to 200 tokens, half over 200 to 1000: mean (150 + 600) / 2
    assert trace.prompt_tokens.mean() == pytest.approx(375, rel=0.01)
    assert np.quantile(trace.prompt_tokens, [0.25, 0.5, 0.75]) == pytest.approx([150, 200, 600], rel=0.02)
    assert (trace.prompt_tokens.min(), trace.prompt_tokens.max()) == (100, 1000)
    assert set(trace.output_tokens.tolist()) == {50}
    # 9 of 10 gaps are 0, and the mean is that of the rate, whatever the quantiles' unit
    gaps = np.diff(trace.arrival_s)
    assert trace.arrival_s[0] == 0 and (gaps == 0).mean() == pytest.approx(0.9, abs=0.01)
    assert gaps.mean() == pytest.approx(0.5, rel=0.05)


def test_log_normal_gamma_and_rank_correlation(tmp_path: Path) -> None:
    trace = made(tmp_path, dump_generator(LOG_NORMAL))
    logs = np.log(trace.prompt_tokens)
    assert np.exp(np.median(logs)) == pytest.approx(1000, rel=0.03) and logs.std() == pytest.approx(0.8, rel=0.03)
    assert trace.prompt_tokens.max() <= 20_000
    assert rank_correlation(trace.prompt_tokens, trace.output_tokens) == pytest.approx(0.6, abs=0.02)
    gaps = np.diff(trace.arrival_s)
    assert 1 / gaps.mean() == pytest.approx(8, rel=0.03) and gaps.std() / gaps.mean() == pytest.approx(2**0.5, rel=0.03)


def test_a_longer_trace_begins_with_the_shorter_and_a_workload_may_rescale_it(tmp_path: Path) -> None:
    text = dump_generator(LOG_NORMAL)
    short, long = made(tmp_path, text, requests=50), made(tmp_path, text, requests=500)
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert getattr(short, name).tolist() == getattr(long, name)[:50].tolist()
    fast = made(tmp_path, text, requests=500, rate_per_s=80.0).arrival_s
    assert 499 / fast[-1] == pytest.approx(80.0)


def test_without_gaps_all_arrive_at_once(tmp_path: Path) -> None:
    assert not made(tmp_path, BY_HAND.split("gaps")[0]).arrival_s.any()


def test_a_scenario_takes_the_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "made.yaml").write_text(BY_HAND)
    (tmp_path / "scenario.yaml").write_text(
        "model: opt-125m\nsystem: vllm-v1\nworkload: {trace: made.yaml, requests: 3}\ncluster: {gpu: h100-sxm}\n"
    )
    trace = build(load(tmp_path / "scenario.yaml").workload, 1)
    assert trace.output_tokens.tolist() == [50, 50, 50]


@pytest.mark.parametrize(
    ("old", "new", "where", "expected", "nearest"),
    [
        ("median", "medain", "output_tokens.medain", "one of median", "median"),
        ("sigma: 0", "sigma: -1", "output_tokens.sigma", "from 0 to 10", ""),
        ("median: 50, ", "", "output_tokens.median", "tokens above 0", ""),
        ("[0.5, 200]", "[0.5, 2000]", "prompt_tokens.quantiles", "never fall", ""),
        ("[0.5, 200]", "[1.5, 200]", "prompt_tokens.quantiles", "rise from 0 to 1", ""),
        ("[0.5, 200]", "[0.5]", "prompt_tokens.quantiles", "pairs", ""),
        ("[0, 100]", "[0, 0]", "prompt_tokens.quantiles", "from 1 up", ""),
        ("[0.5, 200]", "[0.5, many]", "prompt_tokens.quantiles.1.1", "a number", ""),
        ("[1, 30]", "[1, 0]", "gaps.quantiles", "some gap above 0", ""),
        ("120 /min", "0 /s", "gaps.rate", "more than 0 /s", ""),
        ("120 /min", "120 s", "gaps.rate", "/min", ""),
        ("120 /min", "1 /s, drift: {sigma: 9, gaps: 5}", "gaps.drift.sigma", "from 0 to 3", ""),
        ("rate: 120 /min, ", "rate: 1 /s, shape: 2, ", "gaps.quantiles", "without shape", ""),
        ("requests: 40000", "requests: 0", "requests", "at least 1", ""),
        ("requests: 40000", "request: 40000", "request", "one of requests", "requests"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, old: str, new: str, where: str, expected: str, nearest: str) -> None:
    assert old in BY_HAND
    with pytest.raises(TraceError) as caught:
        made(tmp_path, BY_HAND.replace(old, new))
    assert caught.value.where == f"{tmp_path / 'made.yaml'}: {where}"
    assert expected in caught.value.expected and caught.value.nearest == nearest


def test_what_is_no_generator(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"made\.yaml:2: is not YAML"):
        made(tmp_path, "requests: 1\ngaps: }")
    with pytest.raises(TraceError, match="a mapping with keys requests, prompt_tokens"):
        made(tmp_path, "[1, 2]")
    with pytest.raises(TraceError, match="cannot be read"):
        build(WorkloadSpec(trace=str(tmp_path / "none.yaml")), 1)


def test_ks_distance_by_hand() -> None:
    # up to 2: all of the one, none of the other; then a half that differs
    assert ks_distance(np.array([1, 2]), np.array([3, 4])) == 1.0
    assert ks_distance(np.array([1, 3]), np.array([2, 4])) == 0.5
    assert ks_distance(np.array([1, 1, 2]), np.array([1, 2, 2, 2])) == pytest.approx(2 / 3 - 1 / 4)
    assert ks_distance(np.array([5, 5]), np.array([5])) == 0.0


def test_a_law_of_two_numbers_is_found_again(tmp_path: Path) -> None:
    found = fit(made(tmp_path, dump_generator(LOG_NORMAL))).spec
    assert (found.prompt_tokens.median, found.prompt_tokens.sigma) == pytest.approx((1000, 0.8), rel=0.03)
    assert (found.output_tokens.median, found.output_tokens.sigma) == pytest.approx((200, 0.5), rel=0.03)
    assert found.rank_correlation == pytest.approx(0.6, abs=0.02)
    assert found.gaps is not None and found.gaps.quantiles is None and found.gaps.drift is None
    assert (found.gaps.rate_per_s, found.gaps.shape) == pytest.approx((8.0, 0.5), rel=0.05)


def test_a_drifting_rate_keeps_its_mean_and_disperses_counts_as_worked_out(tmp_path: Path) -> None:
    drifting = replace(LOG_NORMAL, gaps=GapSpec(8.0, shape=1.0, drift=DriftSpec(0.3, 800)))
    text = dump_generator(drifting)
    arrival_s = made(tmp_path, text, requests=1_000_000).arrival_s
    assert 999_999 / arrival_s[-1] == pytest.approx(8.0, rel=0.05)
    # in windows short beside the memory of 100 s: 1 + (exp(0.09) - 1) * 8 /s * 10 s
    assert dispersion(arrival_s, 10.0) == pytest.approx(1 + math.expm1(0.09) * 80, rel=0.2)
    assert dispersion(arrival_s, 0.1) == pytest.approx(1 + math.expm1(0.09) * 0.8, rel=0.05)
    assert made(tmp_path, text, requests=50).arrival_s.tolist() == arrival_s[:50].tolist()


def test_a_drifting_rate_is_found_again(tmp_path: Path) -> None:
    drifting = replace(LOG_NORMAL, gaps=GapSpec(8.0, shape=0.8, drift=DriftSpec(0.4, 400)))
    trace = made(tmp_path, dump_generator(drifting), requests=100_000)
    found = fit(trace)
    assert found.spec.gaps is not None and found.spec.gaps.drift is not None and found.spec.gaps.shape is not None
    assert found.spec.gaps.drift.sigma == pytest.approx(0.4, rel=0.25)
    assert 200 < found.spec.gaps.drift.gaps < 800
    assert found.spec.gaps.shape == pytest.approx(0.8, rel=0.1)
    rows = [row for row in found.goodness if row.name.startswith("dispersion")]
    assert len(rows) >= 3
    assert all(row.fitted == pytest.approx(row.trace, rel=0.35) for row in rows)


def test_another_law_is_fitted_by_its_quantiles_unless_asked_otherwise(tmp_path: Path) -> None:
    trace = made(tmp_path, BY_HAND)
    found = fit(trace)
    assert found.spec.prompt_tokens.quantiles is not None and found.spec.gaps is not None
    assert found.spec.gaps.quantiles is not None and found.spec.output_tokens.median == 50
    by_name = {row.name: row for row in found.goodness}
    prompt, gap = by_name["mean prompt tokens"], by_name["mean gap (s)"]
    assert prompt.ks is not None and prompt.ks < 0.02 and prompt.law == "quantiles" and "log-normal" in prompt.rejected
    assert prompt.fitted == pytest.approx(prompt.trace, rel=0.02) and gap.fitted == pytest.approx(gap.trace, rel=0.05)
    forced = fit(trace, "log-normal", "gamma")
    assert forced.spec.prompt_tokens.quantiles is None and forced.spec.gaps is not None
    assert forced.spec.gaps.shape is not None
    worse = {row.name: row.ks for row in forced.goodness}
    assert worse["mean prompt tokens"] > 0.05 and worse["mean gap (s)"] > 0.5  # type: ignore[operator]


def test_a_burst_has_no_gaps_and_too_few_requests_are_refused() -> None:
    ones = np.ones(20, dtype=np.int64)
    burst = Trace("burst", np.zeros(20), ones * 7, ones)
    assert fit(burst).spec.gaps is None and "gaps" not in dump_generator(fit(burst).spec)
    with pytest.raises(TraceError, match="at least 10"):
        fit(Trace("few", np.zeros(9), ones[:9], ones[:9]))


@needs_data
@pytest.mark.parametrize("file", ["azure2023/AzureLLMInferenceTrace_conv.csv.gz", "mooncake/synthetic_trace.jsonl.gz"])
def test_real_traces(tmp_path: Path, file: str) -> None:
    trace = read(DATA / file)
    found = fit(trace)
    again = made(tmp_path, dump_generator(found.spec))
    assert len(again) == len(trace)
    for name in ("prompt_tokens", "output_tokens"):
        ours, theirs = getattr(again, name), getattr(trace, name)
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.04)
        assert ks_distance(ours, theirs) < 0.03
    assert ks_distance(np.diff(again.arrival_s), np.diff(trace.arrival_s)) < 0.06
    # the chat trace's rate wanders: independent gaps would disperse by 1 in 60 s, not by 16
    for row in (row for row in found.goodness if row.name.startswith("dispersion")):
        assert row.fitted == pytest.approx(row.trace, rel=0.35), row.name


def test_a_key_of_a_generator_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"made\.yaml:2: is not YAML \(the key 'median' is there twice"):
        made(tmp_path, "requests: 5\nprompt_tokens: {median: 200, sigma: 0.8, longest: 2000, median: 20}\n")
