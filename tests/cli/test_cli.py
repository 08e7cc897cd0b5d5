import importlib
import json
import subprocess
import sys
import time

import pandas as pd
import pytest
from cli.shell import tetrisim
from handmade import served

from tetrisim.scenario.load import load

SMALL = ["--set", "workload.requests=30"]


@pytest.fixture
def engine(monkeypatch):
    """An engine that answers at once, or raises its `failure`; remembers the scenarios it was given."""

    class Engine:
        failure: BaseException | None = None

        def __init__(self):
            self.given = []

        def __call__(self, scenario, exact_steps=False, strict=False):
            self.given.append(scenario)
            if self.failure:
                raise self.failure
            return served(scenario.system, 0.2, 0.02)

    fake = Engine()
    monkeypatch.setattr(importlib.import_module("tetrisim.simulate"), "simulate", fake)
    monkeypatch.setattr(importlib.import_module("tetrisim.studies.compare"), "simulate", fake)
    return fake


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys\nfrom tetrisim.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    print(*sys.modules)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "pandas", "matplotlib", "pyarrow", "simpy"} & set(done.stdout.split())
    assert "compare" in done.stdout
    assert time.perf_counter() - started < 5, "0.2 s on a quiet machine"


def test_version():
    assert tetrisim("--version").stdout == "tetrisim 0.1.0\n"


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("systems", "vllm-v0 vllm-v1 tetriinfer"),
        ("gpus", "v100-32gb a100-80gb h100-sxm h200-sxm l40s rtx-4090 rtx-pro-6000"),
        ("models", "opt-13b opt-125m llama-2-7b llama-2-70b llama-3.1-8b llama-3.1-70b qwen3-32b"),
        ("traces", "azure-conv-like azure-code-like sharegpt-mixed lpld lphd hpld hphd mixed"),
    ],
)
def test_lists(command, names):
    done = tetrisim(command)
    assert done.exit_code == 0
    assert set(names.split()) <= {line.split()[0] for line in done.stdout.splitlines()}


def test_run_prints_a_table_and_writes_a_folder(engine, tmp_path):
    done = tetrisim("run", "default", "--out", str(tmp_path / "run"))
    assert done.exit_code == 0, done.stderr
    assert "TTFT ms" in done.stdout
    assert "wins" not in done.stdout
    assert "Largest part of TTFT, and of the time after it: vllm-v1 " in done.stdout
    assert (tmp_path / "run" / "breakdown.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "run" / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert len(pd.read_parquet(tmp_path / "run" / "requests.parquet")) == 400


def test_compare_says_who_won(engine, tmp_path):
    done = tetrisim("compare", "default", "--systems", "vllm-v0, tetriinfer", "--out", str(tmp_path / "cmp"))
    assert done.exit_code == 0, done.stderr
    assert "all are level (within 1 %) on mean TTFT" in done.stdout
    assert sorted(path.name for path in (tmp_path / "cmp").iterdir()) == [
        "breakdown.png", "latency.png", "run.json", "scenario.yaml", "summary.csv", "tetriinfer", "vllm-v0",
    ]  # fmt: skip


def test_json_is_one_object_or_a_list(engine):
    assert json.loads(tetrisim("run", "default", "--json").stdout)["system"] == "vllm-v1"
    rows = json.loads(tetrisim("compare", "default", "--systems", "vllm-v0,vllm-v1", "--json").stdout)
    assert [row["system"] for row in rows] == ["vllm-v0", "vllm-v1"]


def test_settings_are_yaml_and_reach_the_engine(engine):
    arguments = [
        "--set",
        "workload.requests=7",
        "--set",
        "slo={ttft: 2 s}",
        "--set",
        "cluster.pools.0.max_num_seqs=3",
    ]
    assert tetrisim("run", "default", *arguments).exit_code == 0
    (given,) = engine.given
    assert (given.workload.requests, given.slo.ttft_s, given.cluster.pools[0].max_num_seqs) == (7, 2.0, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: cannot read: No such file"),
        (["run", "default", "--set", "workload.requets=5"], "did you mean 'requests'"),
        (["run", "default", "--set", "workload.requests"], "expected KEY=VALUE"),
        (["run", "default", "--set", "slo={ttft: ["], "--set slo: '{ttft: [' is not YAML"),
        (["run", "default", "--set", "slo={ttft: 1 s, ttft: 2 s}"], "the key 'ttft' is there twice"),
        (["run", "default", "--set", "seed=2024-13-45"], "is not YAML (month must be in 1..12)"),
        (["run", "default", "--set", "slo.ttft=5 parsecs"], "slo.ttft: is '5 parsecs'"),
        (["run", "default", "--set", "cluster.gpu=h100"], "did you mean 'h100-sxm'"),
        (["compare", "default", "--systems", "vllm-v0,tetrinfer"], "did you mean 'tetriinfer'"),
        (["compare", "default", "--systems", "vllm-v0,vllm-v0"], "'vllm-v0' is named twice"),
        (["compare", "default", "--systems", ","], "none named"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(engine, tmp_path, arguments, said):
    done = tetrisim(*arguments, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert engine.given == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["run", "default"], ["compare", "default", "--systems", "vllm-v0"]])
def test_an_existing_folder_is_refused_before_simulating(engine, tmp_path, command):
    done = tetrisim(*command, "--out", str(tmp_path))
    assert done.exit_code == 2
    assert f"error: {tmp_path}: exists already" in done.stderr
    assert engine.given == []


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "tetrisim", "run", "default", "--set", "workload.requests=10"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


@pytest.mark.parametrize("arguments", [["--out", "a" * 300], ["--set", f"workload.trace={'a' * 300}"]])
def test_what_the_file_system_refuses_is_one_line(arguments):
    done = tetrisim("run", "default", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {'a' * 300}: File name too long\n"


def test_ctrl_c_is_one_line_and_leaves_nothing(engine, tmp_path):
    engine.failure = KeyboardInterrupt()
    done = tetrisim("run", "default", "--out", str(tmp_path / "run"))
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_real_run_end_to_end(tmp_path):
    done = tetrisim("run", "default", *SMALL, "--json", "--out", str(tmp_path / "run"))
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["completed"] + summary["rejected"] + summary["unfinished"] == summary["submitted"] == 30
    rows = pd.read_parquet(tmp_path / "run" / "requests.parquet")
    assert len(rows) == 30
    finished = rows[rows.status == "completed"]
    assert ((finished.first_token_s >= finished.arrival_s) & (finished.finish_s >= finished.first_token_s)).all()
    assert summary["mean_ttft_ms"] == pytest.approx((finished.first_token_s - finished.arrival_s).mean() * 1e3)
    assert load(tmp_path / "run" / "scenario.yaml").workload.requests == 30


def test_a_real_comparison_with_and_without_windows():
    arguments = ["compare", "default", "--systems", "vllm-v0,vllm-v1,tetriinfer", *SMALL, "--json"]
    quick, exact = tetrisim(*arguments), tetrisim(*arguments, "--exact-steps")
    assert (quick.exit_code, exact.exit_code) == (0, 0), quick.stderr + exact.stderr
    for one, other in zip(json.loads(quick.stdout), json.loads(exact.stdout), strict=True):
        for key in ("completed", "mean_ttft_ms", "p99_tpot_ms", "mean_itl_ms", "mean_e2el_ms", "gpu_seconds"):
            assert one[key] == pytest.approx(other[key], rel=1e-9)


def test_strict_refuses_a_roofline():
    done = tetrisim("run", "default", *SMALL, "--strict")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
