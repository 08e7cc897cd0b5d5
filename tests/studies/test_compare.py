from dataclasses import replace

import numpy as np
import pytest
from handmade import served

from tetrisim.errors import ScenarioError
from tetrisim.scenario.load import load, override, resolve
from tetrisim.scenario.presets import SYSTEMS
from tetrisim.studies import compare as compare_module
from tetrisim.studies.compare import compare, every_system

SPEED = {"vllm-v0": 0.4, "vllm-v1": 0.2, "tetriinfer": 0.1}


@pytest.fixture
def engine(monkeypatch):
    """An engine that answers at once; returns the systems it was asked for."""
    asked = []

    def fake(scenario, exact_steps, strict):
        asked.append((scenario.system, exact_steps, strict))
        result = served("vllm-v1", SPEED[scenario.system], 0.02)
        return replace(result, scenario=scenario)

    monkeypatch.setattr(compare_module, "simulate", fake)
    return asked


def test_systems_run_in_the_order_named_and_the_first_is_the_baseline(engine):
    told = []
    comparison = compare(load("default"), ["tetriinfer", "vllm-v0"], exact_steps=True, on_start=told.append)
    assert engine == [("tetriinfer", True, False), ("vllm-v0", True, False)]
    assert told == list(comparison.results) == ["tetriinfer", "vllm-v0"]
    first, second = comparison.summaries
    assert first["perf_per_dollar"] == 1.0
    gain = 1 - second["mean_e2el_ms"] / first["mean_e2el_ms"]
    expected = (1 + gain) * first["dollars"] / second["dollars"]
    assert second["perf_per_dollar"] == pytest.approx(expected)


def test_the_table_is_a_frame_with_a_row_a_system(engine):
    comparison = compare(load("default"), ["vllm-v0", "vllm-v1"])
    assert list(comparison.table.index) == ["vllm-v0", "vllm-v1"]
    assert comparison.table.loc["vllm-v1", "p99_ttft_ms"] == comparison.summaries[1]["p99_ttft_ms"]


@pytest.mark.parametrize(
    ("systems", "message"),
    [
        (["vllm-v0", "tetrinfer"], "did you mean 'tetriinfer'"),
        (["vllm-v0", "vllm-v0"], "named twice"),
        ([], "none named"),
    ],
)
def test_names_are_checked_before_anything_runs(engine, systems, message):
    with pytest.raises(ScenarioError, match=message):
        compare(load("default"), systems)
    assert engine == []


def test_own_systems_of_the_scenario_can_be_compared(engine, monkeypatch):
    monkeypatch.setitem(SPEED, "small", 0.3)
    scenario = override(load("default"), {"systems": {"small": {"base": "vllm-v1"}}})
    assert list(compare(scenario, ["vllm-v1", "small"]).results) == ["vllm-v1", "small"]


def test_every_system_sees_the_same_requests():
    scenario = override(load("default"), {"workload.requests": 40})
    results = compare(scenario, ["vllm-v0", "vllm-v1", "tetriinfer"]).results.values()
    first, *others = [result.request_columns for result in results]
    assert first["arrival_s"].size == 40
    for other in others:
        for name in ("request_id", "arrival_s", "prompt_tokens", "output_tokens"):
            np.testing.assert_array_equal(first[name], other[name])


def test_every_system_that_can_run_a_scenario_is_in_the_league_and_the_others_say_why(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp,input_length,output_length\n0,20,5\n")
    document = {"model": "opt-125m", "workload": {"trace": str(trace)}, "cluster": {"gpu": "l40s", "instances": 1}}
    able, unable = every_system(resolve(document))
    assert "vllm-v1" in able
    assert "at least 2: one each for prefill, decode" in unable["tetriinfer"]
    assert {*able, *unable} == set(SYSTEMS)
    both, none = every_system(resolve({**document, "cluster": {"gpu": "l40s", "instances": 2}}))
    assert "tetriinfer" in both
    assert none.keys() < unable.keys()
    with pytest.raises(ScenarioError, match="does not fit"):
        every_system(resolve({**document, "model": "llama-3.1-70b", "cluster": {"gpu": "rtx-4090"}}))
