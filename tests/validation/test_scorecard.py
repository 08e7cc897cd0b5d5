"""Statistics, load, and what a scorecard says beside its numbers."""

import gzip
import json

import numpy as np
import pytest
from validation.made import REQUESTS, scenario, simulated, tables

from tetrisim.scenario.load import override
from tetrisim.validation.readers import read_measured
from tetrisim.validation.scorecard import concurrency, error, statistics, validate
from tetrisim.validation.timeline import timelines


def test_errors_are_signed_fractions_of_the_measured_value():
    pairs = statistics(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0]))
    assert pairs["mean"] == (2.0, 2.0)
    assert pairs["p90"] == (pytest.approx(2.8), 2.0)
    assert error((4.0, 3.0)) == -0.25
    assert error((0.0, 3.0)) is None
    assert statistics(np.empty(0), np.empty(0))["mean"] == (None, None)


def test_concurrency_by_hand():
    rows = {"arrival_s": np.array([0.0, 1.0, 3.0]), "finish_s": np.array([4.0, 3.0, 8.0])}
    assert concurrency(rows) == ((4 + 2 + 5) / 8, 2), "one leaves as another comes"


def test_the_summary_is_json_and_has_what_the_lines_have(tmp_path):
    world = scenario(tables(tmp_path))
    card = validate(world, read_measured(simulated(tmp_path / "run.csv", world)))
    summary = json.loads(json.dumps(card.summary(), allow_nan=False))
    assert summary["requests"] == summary["compared"] == len(REQUESTS)
    assert summary["kv_blocks"] == {"measured": None, "simulated": 200}
    assert summary["latencies"]["TPOT"]["p95"]["error"] == pytest.approx(0, abs=1e-9)
    assert summary["load"]["output tokens/s"]["error"] == pytest.approx(0, abs=1e-9)
    text = "\n".join(card.lines())
    for words in ("E2EL p99 ms", "not recorded", "TPOT: (last token", "estimated"):
        assert words in text


def test_an_unfinished_request_is_replayed_and_not_compared(tmp_path):
    world = scenario(tables(tmp_path))
    path = simulated(tmp_path / "run.csv", world)
    before = validate(world, read_measured(path))
    with path.open("a") as file:
        file.write("99,60,200,5.001,5.001,,\n")
    card = validate(world, read_measured(path))
    assert (len(card.run.measured), card.run.compared.sum()) == (len(REQUESTS) + 1, len(REQUESTS))
    assert card.latencies["E2EL"]["mean"][1] > before.latencies["E2EL"]["mean"][1], "it took a seat"
    assert card.decomposition.parts == (), "how long it held its seat is unknown"


def test_hits_come_from_the_scenarios_trace_when_it_has_the_same_requests(tmp_path):
    world = scenario(tables(tmp_path), prefix_caching=True)
    path = simulated(tmp_path / "run.csv", world)
    assert any("prefix hits are not modelled" in text for text in validate(world, read_measured(path)).notes)
    trace = tmp_path / "trace.jsonl.gz"
    with gzip.open(trace, "wt") as file:
        for number, (_, prompt, output) in enumerate(REQUESTS):
            row = {"timestamp": number, "input_length": prompt, "output_length": output,
                   "hash_ids": list(range(prompt // 16))}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    shared = override(world, {"workload": {"trace": str(trace)}})
    card = validate(shared, read_measured(path))
    assert any("with the hash ids of trace.jsonl.gz" in text for text in card.notes)
    assert error(card.latencies["TTFT"]["mean"]) < 0, "prompts share their blocks, and no prefill was saved in the run"
    other = simulated(tmp_path / "other.csv", world, [(0.0, 10, 2), *REQUESTS[1:]])
    assert any("has other lengths" in text for text in validate(shared, read_measured(other)).notes)


def test_timelines_count_both_sides_alike_and_take_the_engines_log(tmp_path):
    world = scenario(tables(tmp_path))
    run = validate(world, read_measured(simulated(tmp_path / "run.csv", world))).run
    for real, ours in timelines(run).values():
        assert np.allclose(real[0], ours[0]) and np.allclose(real[1], ours[1], atol=1e-6)
    assert timelines(run)["requests running"][1][1].max() == 4
    waiting = timelines(run)["requests waiting"][1][1]
    assert waiting.min() == 0 and waiting.max() > 10
    (tmp_path / "timeseries.csv").write_text("t,running,waiting\n6,3,9\n7,4,8\n")
    (at, values), _ = timelines(run)["requests waiting"]
    assert (at.tolist(), values.tolist()) == ([1.0, 2.0], [9.0, 8.0])
