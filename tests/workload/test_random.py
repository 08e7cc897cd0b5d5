"""`trace: random`: fixed lengths, or even ones between a fraction of them and all of them."""

import numpy as np
import pytest

from tetrisim.scenario.workload import WorkloadSpec
from tetrisim.workload.trace import build


def test_fixed_lengths() -> None:
    made = build(WorkloadSpec(trace="random", prompt_tokens=1024, output_tokens=7, requests=50), 1)
    assert set(made.prompt_tokens) == {1024} and set(made.output_tokens) == {7}


def test_every_length_of_the_range_is_as_likely() -> None:
    spec = WorkloadSpec(trace="random", prompt_tokens=100, output_tokens=10, shortest=0.8, requests=42_000)
    made = build(spec, 3)
    values, counts = np.unique(made.prompt_tokens, return_counts=True)
    assert values.tolist() == list(range(80, 101))
    assert counts == pytest.approx(np.full(21, 2000), rel=0.12)
    assert set(made.output_tokens) == {8, 9, 10}
    assert abs(np.corrcoef(made.prompt_tokens, made.output_tokens)[0, 1]) < 0.02


def test_a_token_is_the_least() -> None:
    made = build(WorkloadSpec(trace="random", prompt_tokens=1, output_tokens=2, shortest=0.1, requests=200), 1)
    assert set(made.prompt_tokens) == {1} and set(made.output_tokens) == {1, 2}
