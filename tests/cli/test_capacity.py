"""`tetrisim capacity`: sentences, JSON, exit codes, and Ctrl-C."""

import importlib
import json

import pytest
from cli.shell import ctrl_c_is_one_line, is_refused, tetrisim

SMALL = ["--set", "workload.requests=1000", "--set", "slo.tpot=12 ms", "--percentile", "90", "--seeds", "2"]


def test_sentences_hold_the_numbers_of_the_json():
    said, told = tetrisim("capacity", "default", *SMALL), tetrisim("capacity", "default", *SMALL, "--json")
    assert (said.exit_code, told.exit_code) == (0, 0), said.stderr + told.stderr
    found = json.loads(told.stdout)
    assert said.stderr == told.stderr == "", "nobody watches a pipe"
    lines = said.stdout.splitlines()
    assert lines[0].startswith(f"vllm-v1 on 4 h100-sxm sustains {found['capacity']['mean']:.3g} requests/s (95 %")
    assert "with p90 TTFT <= 500 ms and p90 TPOT <= 12 ms." in lines[0]
    assert lines[1].startswith(f"{found['binding']} binds in ")
    assert f"load, 52 requests/s, is {found['load_of_capacity'] * 100:.0f} % of that" in lines[2]
    assert f"The cliff is at {found['cliff']['mean']:.3g} requests/s" in lines[3]
    tokens = found["capacity"]["mean"] * found["mean_output_tokens"]
    assert f"= {12 / tokens / 3600 * 1e6:.3g} $ per million output tokens" in lines[4], "4 GPUs at 3 $/h"
    assert "100 % estimated" in lines[-1]
    assert found["capacity"]["low"] < found["capacity"]["mean"] < found["capacity"]["high"]
    met, missed = found["met"][0], found["missed"][0]
    assert met["rate"] < found["capacity_by_seed"]["1"] < missed["rate"] <= met["rate"] * 1.01 * 1.0001
    assert met["at_percentile_ms"]["TPOT"] <= 12 and missed["share_within"]["TPOT"] < 0.9


def test_prefill_and_decode_pools_and_goodput():
    arguments = ["--set", "system=tetriinfer", "--set", "workload.requests=400", "--goodput", "90", "--seeds", "1"]
    done = tetrisim("capacity", "default", *arguments)
    assert done.exit_code == 0, done.stderr
    assert "tetriinfer on 4 h100-sxm (2 prefill + 2 decode) sustains" in done.stdout
    assert "one seed, so no interval" in done.stdout
    assert "with 90 % of requests within TTFT <= 500 ms and TPOT <= 20 ms." in done.stdout
    assert "prefill instances are busy" in done.stdout and "decode instances are busy" in done.stdout


@pytest.mark.parametrize("as_json", [False, True])
def test_no_rate_is_exit_code_3_with_the_nearest_miss(as_json):
    done = tetrisim("capacity", "default", *SMALL, "--set", "slo={tpot: 1 ms}", *(["--json"] if as_json else []))
    assert done.exit_code == 3
    if as_json:
        found = json.loads(done.stdout)
        assert (found["capacity"], found["binding"], found["met"]) == (None, "TPOT", [None, None])
    else:
        assert "sustains no rate" in done.stdout
        assert "TPOT binds; the nearest miss: even at" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--percentile", "90", "--goodput", "90"], "--goodput: is given beside --percentile"),
        (["--percentile", "100"], "--percentile: is out of range; expected between 0 and 100"),
        (["--goodput", "0"], "--goodput: is out of range"),
        (["--warmup", "1"], "--warmup: is out of range"),
        (["--set", "workload.arrivals=burst", "--set", "workload.rate=null"], "come at once"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, said):
    done = tetrisim("capacity", "default", *arguments)
    is_refused(done, said)


def test_ctrl_c_here_is_one_line(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("tetrisim.studies.capacity"), "probe", interrupted)
    done = tetrisim("capacity", "default", *SMALL)
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [2.0, 8.0], ids=["early", "with workers"])
def test_ctrl_c_at_a_terminal_ends_the_workers_too(after_s):
    ctrl_c_is_one_line(after_s, "capacity", "default", "--set", "workload.requests=3000", "--seeds", "200")
