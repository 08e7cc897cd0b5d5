"""What is said of a trace: worked by hand, and the known facts of the public traces."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tetrisim.workload.describe import dispersion, facts, leading_runs, rank_correlation, reuse
from tetrisim.workload.readers import read
from tetrisim.workload.trace import Trace

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "traces"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the public traces are not at {DATA}")


def trace(
    arrival_s: list[float],
    prompt: list[int] | None = None,
    ids: tuple[tuple[int, ...], ...] | None = None,
    block: int = 16,
) -> Trace:
    n = len(arrival_s)
    lengths = np.array(prompt or [10] * n, dtype=np.int64)
    outputs = np.arange(1, n + 1, dtype=np.int64)
    return Trace("made", np.array(arrival_s), lengths, outputs, ids, None if ids is None else block)


def test_rate_gaps_and_lengths_by_hand() -> None:
    found = facts(trace([0.0, 1.0, 1.0, 4.0], [10, 20, 30, 100]))
    # three gaps of 1, 0 and 3 s: mean 4/3, variance (1 + 0 + 9) / 3 - 16/9 = 14/9
    assert (found["requests"], found["span_s"], found["rate_per_s"]) == (4, 4.0, 0.75)
    assert found["gap_cv"] == pytest.approx((14 / 9) ** 0.5 / (4 / 3))
    assert found["simultaneous"] == pytest.approx(1 / 3)
    assert found["prompt_tokens"] == pytest.approx({"mean": 40.0, "p50": 25.0, "p90": 79.0, "p99": 97.9, "max": 100})
    assert found["dispersion"] == {} and found["prefix"] is None  # 4 s is too short to count windows of 1 s in


def test_all_at_once_and_a_single_request() -> None:
    found = facts(trace([0.0, 0.0]))
    assert (found["rate_per_s"], found["gap_cv"], found["simultaneous"]) == (None, None, 1.0)
    assert facts(trace([0.0]))["rate_per_s"] is None


def test_dispersion_by_hand() -> None:
    # whole windows of 1 s hold 2, 0, 1, 1; the arrival at 4.5 s stands in a part of a window
    assert dispersion(np.array([0.0, 0.5, 2.2, 3.0, 4.5]), 1.0) == pytest.approx(0.5)
    assert dispersion(np.arange(1001.0), 10.0) == 0.0


def test_dispersion_of_poisson_is_one_and_of_pairs_two() -> None:
    arrival_s = np.cumsum(np.random.default_rng(1).standard_exponential(200_000))
    assert dispersion(arrival_s, 10.0) == pytest.approx(1.0, rel=0.03)
    assert dispersion(np.repeat(arrival_s, 2), 10.0) == pytest.approx(2.0, rel=0.03)


def test_dispersion_counts_empty_windows_without_holding_them() -> None:
    sparse: NDArray[np.float64] = np.array([0.0, 1e11])
    assert dispersion(sparse, 1.0) == pytest.approx(1.0)


def test_rank_correlation() -> None:
    column = np.array([1, 2, 3, 4])
    assert rank_correlation(column, column**3) == pytest.approx(1.0)
    assert rank_correlation(column, -column) == pytest.approx(-1.0)
    assert rank_correlation(column, np.array([1, 2, 2, 1])) == pytest.approx(0.0)
    assert rank_correlation(column, np.ones(4, dtype=np.int64)) is None


def test_leading_runs_stop_at_the_first_block_that_is_not_there() -> None:
    ids = ((1, 2, 3), (1, 2, 4), (9, 2), (1, 2, 4, 5))
    assert leading_runs(ids, 100).tolist() == [0, 2, 0, 3]


def test_a_small_cache_forgets_the_oldest_prompt_and_of_one_its_tail() -> None:
    # room for three blocks: 7 pushes out 3, the tail of the older prompt, and 8 then pushes out 2
    ids = ((1, 2, 3), (7,), (1, 2, 3), (8, 9), (1, 2))
    assert leading_runs(ids, 3).tolist() == [0, 0, 2, 0, 1]
    assert leading_runs(ids, 0).tolist() == [0] * 5


def test_reuse_leaves_a_token_of_each_prompt_to_compute() -> None:
    whole = trace([0.0, 1.0], [32, 32], ((1, 2), (1, 2)))
    prefix = facts(whole)["prefix"]
    assert (prefix["blocks"], prefix["distinct_blocks"], prefix["block_hit_rate"]) == (4, 2, 0.5)
    assert prefix["reusable_tokens"] == 16 and prefix["token_hit_rate"] == 16 / 64 == reuse(whole)
    assert reuse(trace([0.0, 1.0], [33, 33], ((1, 2), (1, 2)))) == 32 / 66
    assert reuse(trace([0.0, 1.0])) == 0.0


@needs_data
@pytest.mark.parametrize(
    ("name", "prompt", "output"),
    [("conv", (1155, 1020), (211, 129)), ("code", (2048, 1469), (28, 13))],
)
def test_azure(name: str, prompt: tuple[int, int], output: tuple[int, int]) -> None:
    found = facts(read(DATA / "azure2023" / f"AzureLLMInferenceTrace_{name}.csv.gz"))
    for column, (mean, median) in (("prompt_tokens", prompt), ("output_tokens", output)):
        assert (round(found[column]["mean"]), found[column]["p50"]) == (mean, median)


@needs_data
@pytest.mark.parametrize(
    ("file", "longest", "means", "blocks"),
    [
        ("conversation", 126_195, (12_035, 343), 0.366),
        ("synthetic", 191_378, (15_325, 149), 0.640),
    ],
)
def test_mooncake(file: str, longest: int, means: tuple[int, int], blocks: float) -> None:
    found = facts(read(DATA / "mooncake" / f"{file}_trace.jsonl.gz"))
    assert found["prompt_tokens"]["max"] == longest
    assert (round(found["prompt_tokens"]["mean"]), round(found["output_tokens"]["mean"])) == means
    prefix = found["prefix"]
    assert prefix["block_tokens"] == 512 and prefix["block_hit_rate"] == pytest.approx(blocks, abs=5e-4)
    rates = [row["token_hit_rate"] for row in prefix["by_cache"]]
    assert len(rates) == 6 and rates == sorted(rates) and rates[-1] < prefix["token_hit_rate"]


@needs_data
def test_sharegpt_blocks_of_16() -> None:
    found = facts(read(DATA / "sharegpt" / "sharegpt-llama-3.1-8b-300-sps10.hash16.jsonl.gz"))
    assert found["prefix"]["reusable_tokens"] == 19_520
    assert found["prefix"]["token_hit_rate"] == 19_520 / 257_239
