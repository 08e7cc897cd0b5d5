"""`--warmup` and `--format` of run and compare, with `--out` and `--seeds`."""

import json

import pandas as pd
import pytest
from cli.shell import tetrisim

from tetrisim.metrics.export import export
from tetrisim.metrics.warmup import counted
from tetrisim.scenario.load import load, override
from tetrisim.simulate import simulate

SMALL = ["--set", "workload.requests=40"]
SYSTEMS = ["--systems", "vllm-v0,vllm-v1"]


def read(*arguments):
    done = tetrisim(*arguments)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def result():
    return simulate(override(load("default"), {"workload.requests": 40}))


@pytest.mark.parametrize("tool", ["vllm", "aiperf", "guidellm"])
def test_run_prints_what_the_tool_would_have_written(result, tool):
    assert read("run", "default", *SMALL, "--format", tool) == json.loads(json.dumps(export(result, tool)))
    trimmed = read("run", "default", *SMALL, "--format", tool, "--warmup", "0.25")
    assert trimmed == json.loads(json.dumps(export(counted(result, 10), tool)))


def test_compare_prints_a_list_that_names_the_systems():
    records = read("compare", "default", *SYSTEMS, *SMALL, "--format", "vllm", "--warmup", "0.5")
    assert [(record["label"], record["num_prompts"]) for record in records] == [("vllm-v0", 20), ("vllm-v1", 20)]
    records = read("compare", "default", *SYSTEMS, *SMALL, "--format", "aiperf")
    assert [record["run_info"]["run_label"] for record in records] == ["vllm-v0", "vllm-v1"]
    records = read("compare", "default", *SYSTEMS, *SMALL, "--format", "guidellm")
    assert [record["benchmarks"][0]["config"]["run_id"] for record in records] == ["vllm-v0", "vllm-v1"]


def test_the_warmup_is_said_recorded_and_the_rows_are_kept(tmp_path):
    done = tetrisim("run", "default", *SMALL, "--warmup", "0.25", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "Warm-up: the first 10 of 40 requests by arrival are not counted (a share of 0.25)." in done.stdout
    (record,) = json.loads((tmp_path / "out" / "run.json").read_text())["runs"]
    assert (record["warmup_requests"], record["warmup_rule"]) == (10, "a share of 0.25")
    rows = pd.read_parquet(tmp_path / "out" / "requests.parquet")
    assert len(rows) == 40
    summary = pd.read_csv(tmp_path / "out" / "summary.csv").iloc[0]
    ttft = (rows.first_token_s - rows.arrival_s)[10:]
    assert (summary.submitted, summary.mean_ttft_ms) == (30, pytest.approx(1e3 * ttft.mean()))
    seconds = rows.finish_s[10:].max() - rows.arrival_s[10]
    assert summary.request_throughput == pytest.approx(30 / seconds)


def test_by_default_nothing_is_left_out():
    plain = tetrisim("run", "default", *SMALL).stdout
    assert "Warm-up" not in plain
    own, none = (read("run", "default", *SMALL, "--json", *more) for more in ([], ["--warmup", "0"]))
    assert own | {"wall_s": 0} == none | {"wall_s": 0}


def test_auto_leaves_the_same_requests_out_of_every_system():
    found = read("compare", "default", *SYSTEMS, "--set", "workload.requests=300", "--warmup", "auto", "--json")
    assert len({(row["warmup_requests"], row["submitted"]) for row in found}) == 1
    assert found[0]["warmup_rule"].startswith("MSER-5")
    alone = [
        read(
            "run",
            "default",
            "--set",
            f"system={system}",
            "--set",
            "workload.requests=300",
            "--warmup",
            "auto",
            "--json",
        )
        for system in ("vllm-v0", "vllm-v1")
    ]
    assert found[0]["warmup_requests"] == max(each["warmup_requests"] for each in alone)


def test_over_seeds_every_run_is_cut():
    found = read("compare", "default", *SYSTEMS, *SMALL, "--warmup", "0.25", "--seeds", "2", "--json")
    assert [run["submitted"] for run in found["summaries"]] == [30] * 4
    said = tetrisim("compare", "default", *SYSTEMS, *SMALL, "--warmup", "0.25", "--seeds", "2").stdout
    assert "the first 10 of 40 requests by arrival are not counted (a share of 0.25)" in said


def test_unfinished_requests_are_said_with_and_without_a_warmup():
    short = ["run", "default", "--set", "workload.requests=200", "--set", "horizon=2 s"]
    summary = read(*short, "--json")
    assert summary["unfinished"] > 0 and summary["completed"] + summary["unfinished"] == 200
    assert f"of 200 requests 0 were rejected and {summary['unfinished']} unfinished" in tetrisim(*short).stdout
    trimmed = read(*short, "--json", "--warmup", "0.1")
    assert trimmed["completed"] + trimmed["unfinished"] == 180
    assert f"of 180 requests 0 were rejected and {trimmed['unfinished']}" in tetrisim(*short, "--warmup", "0.1").stdout
    assert read(*short, "--format", "vllm")["failed"] == summary["unfinished"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--warmup", "1"], "--warmup: is '1'; expected a share from 0 to below 1, as in 0.1, or auto"),
        (["--warmup", "nan"], "--warmup: is 'nan'"),
        (["--warmup", "-0.1"], "--warmup: is '-0.1'"),
        (["--format", "vlm"], "did you mean 'vllm'"),
        (["--format", "vllm", "--json"], "--format: is given beside --json; expected one of the two"),
    ],
)
@pytest.mark.parametrize("command", [["run", "default"], ["compare", "default", *SYSTEMS]])
def test_bad_options_are_one_line_and_exit_code_2(tmp_path, command, more, said):
    done = tetrisim(*command, *more, "--out", tmp_path / "out")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_tool_writes_differences_over_seeds():
    done = tetrisim("compare", "default", *SYSTEMS, "--seeds", "2", "--format", "vllm")
    assert (done.exit_code, "--format: is given with --seeds" in done.stderr) == (2, True)
