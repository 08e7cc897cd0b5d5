"""From spec to trace: the laws of arrivals, common random numbers, the catalog, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tetrisim.errors import TraceError
from tetrisim.scenario.workload import WorkloadSpec
from tetrisim.streams import stream
from tetrisim.workload.trace import Trace, build, describe, trace_names

CONV = WorkloadSpec(trace="azure-conv-like", requests=500)
FILE = (
    '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [0]}\n'
    '{"timestamp": 1000, "input_length": 6, "output_length": 2, "hash_ids": [1]}\n'
    '{"timestamp": 4000, "input_length": 7, "output_length": 3, "hash_ids": [2]}\n'
)


def gaps(spec: WorkloadSpec, seed: int = 1) -> NDArray[np.float64]:
    return np.diff(build(spec, seed).arrival_s, prepend=0.0)


def same(a: Trace, b: Trace, *names: str) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def refused(spec: WorkloadSpec) -> TraceError:
    with pytest.raises(TraceError) as caught:
        build(spec, 1)
    return caught.value


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "trace.jsonl"
    path.write_text(FILE)
    return str(path)


def test_poisson_mean_and_cv() -> None:
    found = gaps(WorkloadSpec(trace="lpld", requests=200_000, arrivals="poisson", rate_per_s=8))
    assert found.mean() == pytest.approx(1 / 8, rel=0.01)
    assert found.std() / found.mean() == pytest.approx(1, rel=0.01)
    assert found[0] > 0


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_gamma_cv_is_one_over_root_shape(shape: float) -> None:
    spec = WorkloadSpec(trace="lpld", requests=200_000, arrivals="gamma", rate_per_s=8, burstiness=shape)
    found = gaps(spec)
    assert found.mean() == pytest.approx(1 / 8, rel=0.02)
    assert found.std() / found.mean() == pytest.approx(shape**-0.5, rel=0.02)


def test_constant_and_burst_are_exact() -> None:
    spec = WorkloadSpec(trace="lpld", requests=4, arrivals="constant", rate_per_s=8)
    assert build(spec, 1).arrival_s.tolist() == [0.0, 0.125, 0.25, 0.375]
    assert build(replace(CONV, requests=3, arrivals="burst"), 1).arrival_s.tolist() == [0.0, 0.0, 0.0]


def test_trace_gaps_are_kept_or_rescaled(file: str) -> None:
    spec = WorkloadSpec(trace=file)
    assert build(spec, 1).arrival_s.tolist() == [0.0, 1.0, 4.0]
    # two gaps at 0.25 /s take 8 s, in the proportion 1 : 3
    assert build(replace(spec, rate_per_s=0.25), 1).arrival_s.tolist() == [0.0, 2.0, 8.0]
    # the cut comes first: one gap at 0.25 /s takes 4 s
    assert build(replace(spec, rate_per_s=0.25, requests=2), 1).arrival_s.tolist() == [0.0, 4.0]
    made = build(replace(CONV, rate_per_s=20), 1).arrival_s
    assert (len(made) - 1) / (made[-1] - made[0]) == pytest.approx(20, rel=1e-12)


def test_a_file_is_cut_with_its_hash_ids(file: str) -> None:
    trace = build(WorkloadSpec(trace=file, requests=2), 1)
    assert trace.prompt_tokens.tolist() == [5, 6] and trace.output_tokens.tolist() == [1, 2]
    assert trace.hash_ids == ((0,), (1,)) and trace.hash_block_tokens == 512
    burst = build(WorkloadSpec(trace=file, arrivals="burst"), 1)
    assert burst.hash_ids == ((0,), (1,), (2,)) and not burst.arrival_s.any()


def test_refusals(file: str, tmp_path: Path) -> None:
    error = refused(WorkloadSpec(trace=file, requests=4))
    assert error.where == file and error.what == "the file has 3 requests, 4 were asked for"
    assert "at most 3" in error.expected
    error = refused(WorkloadSpec(trace="azure-conv-lik"))
    assert error.where == "workload.trace" and "azure-conv-lik" in error.what
    assert "sharegpt-mixed" in error.expected and error.nearest == "azure-conv-like"
    assert "directory" in refused(WorkloadSpec(trace=str(tmp_path))).what
    error = refused(WorkloadSpec(trace="mixed", rate_per_s=5))
    assert error.where == "workload.rate" and "at once" in error.what and "poisson" in error.expected
    assert "no rate" in refused(WorkloadSpec(trace="mixed", arrivals="burst", rate_per_s=5)).what
    assert refused(WorkloadSpec(trace=file, format="azure")).where == f"{file}:1"


def test_catalog() -> None:
    assert set(trace_names()) >= {"azure-conv-like", "azure-code-like", "sharegpt-mixed", "mixed"}
    assert set(trace_names()) >= {"lpld", "lphd", "hpld", "hphd"}
    for name in trace_names():
        assert "\n" not in describe(name) and 20 < len(describe(name)) <= 110
        wanted = 2000 if "-" in name else 128
        assert len(build(WorkloadSpec(trace=name), 1)) == wanted
    with pytest.raises(TraceError, match="did you mean 'hphd'"):
        describe("hphdd")


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(trace_names()),
    seed=st.integers(0, 2**63),
    few=st.integers(1, 60),
    more=st.integers(0, 60),
    arrivals=st.sampled_from(["trace", "poisson", "gamma", "constant"]),
)
def test_any_spec_makes_valid_and_extendable_requests(name: str, seed: int, few: int, more: int, arrivals: str) -> None:
    rate = None if arrivals == "trace" else 3.0
    spec = WorkloadSpec(trace=name, requests=few, arrivals=arrivals, rate_per_s=rate)  # pyright: ignore[reportArgumentType]
    short, again = build(spec, seed), build(spec, seed)
    columns = ("arrival_s", "prompt_tokens", "output_tokens")
    assert same(short, again, *columns)
    long = build(replace(spec, requests=few + more), seed)
    for column in columns:
        assert np.array_equal(getattr(long, column)[:few], getattr(short, column))
    assert len(short) == few and short.arrival_s[0] >= 0 and (np.diff(short.arrival_s) >= 0).all()
    assert short.prompt_tokens.min() >= 1 and short.output_tokens.min() >= 1
    assert short.prompt_tokens.dtype == short.output_tokens.dtype == np.int64


def test_common_random_numbers() -> None:
    base = build(CONV, 1)
    poisson = build(replace(CONV, arrivals="poisson", rate_per_s=2), 1)
    faster = build(replace(CONV, arrivals="poisson", rate_per_s=4), 1)
    assert same(base, poisson, "prompt_tokens", "output_tokens")  # lengths do not hear of arrivals
    other = build(replace(CONV, trace="hphd", arrivals="poisson", rate_per_s=2), 1)
    assert same(poisson, other, "arrival_s") and not same(poisson, other, "prompt_tokens")
    assert faster.arrival_s * 2 == pytest.approx(poisson.arrival_s, rel=1e-12)  # the same luck, twice as fast
    # arrivals have a stream of their own: gaps sharing the luck of the lengths would be correlated with them
    drawn = stream(1, "arrivals").standard_exponential(len(poisson))
    assert np.array_equal(poisson.arrival_s, np.cumsum(drawn) / 2)
    assert not same(base, build(CONV, 2), "prompt_tokens")
    assert not same(base, build(CONV, 2), "arrival_s")
