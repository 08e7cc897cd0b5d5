"""`tetrisim advise`: sentences, the table, JSON, exit codes, and Ctrl-C."""

import importlib
import json

import pytest
from cli.shell import ctrl_c_is_one_line, is_refused, tetrisim

SMALL = ["--set", "workload.requests=120", "--percentile", "90", "--seeds", "2"]
MISS = [*SMALL, "--set", "slo.tpot=8 ms"]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Processes take longer to start than these runs."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


def test_sentences_hold_the_numbers_of_the_json():
    said, told = tetrisim("advise", "default", *MISS), tetrisim("advise", "default", *MISS, "--json")
    assert (said.exit_code, told.exit_code) == (0, 0), said.stderr + told.stderr
    assert said.stderr == told.stderr == "", "nobody watches a pipe"
    found, lines = json.loads(told.stdout), said.stdout.splitlines()
    base, answer = found["base"], found["answer"]
    assert found["met"] == base["meets"] == "no" and found["binding"] == "TPOT"
    assert lines[0].startswith("vllm-v1 on 4 h100-sxm misses its SLO, p90 TTFT <= 500 ms and p90 TPOT <= 8 ms: ")
    assert f"{base['share']['mean'] * 100:.2f} % of requests are within" in lines[0]
    assert f"p90 TPOT is {base['latency_ms']['mean']:.4g} ms against 8 ms" in lines[1]
    rows = {row["change"]: row for row in found["changes"] + found["pairs"]}
    for name, row in rows.items():
        line = next(line for line in lines if line.startswith(f"{name}  "))
        assert line.endswith(row["flags"]) and f"{row['latency_difference_ms']['mean']:+.3g}"[:4] in line
    assert answer == rows[answer["change"]] and answer["meets"] == "yes"
    dearer = [row["extra_dollars_per_hour"] for row in rows.values() if row["meets"] == "yes"]
    assert answer["extra_dollars_per_hour"] == min(cost for cost in dearer if cost is not None)
    assert f"meets the SLO: {answer['change']}, " in said.stdout and answer["flags"] in said.stdout
    assert "100 % estimated" in lines[-1]


def test_what_it_says_to_set_works():
    answer = json.loads(tetrisim("advise", "default", *MISS, "--json").stdout)["answer"]
    again = [text for key, value in answer["set"].items() for text in ("--set", f"{key}={value}")]
    mended = json.loads(tetrisim("advise", "default", *MISS, *again, "--json").stdout)
    assert mended["met"] == "yes"
    assert mended["base"]["share"] == answer["share"] and mended["dollars_per_hour"] == pytest.approx(
        12 + answer["extra_dollars_per_hour"]
    )


def test_met_names_a_saving():
    done = tetrisim("advise", "default", *SMALL, "--set", "slo={ttft: 2 s, tpot: 50 ms}")
    assert done.exit_code == 0
    assert "meets its SLO" in done.stdout and "What saves the most and still meets it: " in done.stdout


def test_goodput_judges_all_limits_at_once():
    done = tetrisim("advise", "default", "--set", "workload.requests=200", "--goodput", "90", "--seeds", "1")
    assert done.exit_code == 0, done.stderr
    assert "90 % of requests within TTFT <= 500 ms and TPOT <= 20 ms" in done.stdout
    assert "are within all limits; met in 1 of 1 seed." in done.stdout


@pytest.mark.parametrize("as_json", [False, True])
def test_nothing_that_helps_is_exit_code_3_with_the_nearest_miss(as_json):
    done = tetrisim("advise", "default", *SMALL, "--set", "slo={tpot: 1 ms}", *(["--json"] if as_json else []))
    assert done.exit_code == 3
    if as_json:
        assert json.loads(done.stdout)["answer"] is None
    else:
        assert "surely meets the SLO. The nearest miss: " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--percentile", "90", "--goodput", "90"], "--goodput: is given beside --percentile"),
        (["--percentile", "100"], "--percentile: is out of range; expected between 0 and 100"),
        (["--warmup", "1"], "--warmup: is out of range"),
        (["--set", "slo={ttft: null, tpot: null}"], "slo: sets no limit to miss"),
        (["--set", "horizon=5 s"], "horizon: leaves requests unserved"),
        (["--set", "cluster.gpu=h101"], "did you mean"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, said):
    done = tetrisim("advise", "default", *arguments)
    is_refused(done, said)


def test_ctrl_c_is_one_line(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("tetrisim.studies.advise"), "probe", interrupted)
    done = tetrisim("advise", "default", *SMALL)
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_ends_the_workers_too():
    ctrl_c_is_one_line(12.0, "advise", "default", "--seeds", "100")
