"""Sweeps: rows, reuse by content, what invalidates a run, kill -9, and two sweeps in one folder."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from tetrisim.errors import OutputError, TetrisimError
from tetrisim.metrics.summary import summarize
from tetrisim.scenario.load import load, override
from tetrisim.simulate import simulate
from tetrisim.studies import cache as cache_module
from tetrisim.studies import task as task_module
from tetrisim.studies.cache import Cache, run_key
from tetrisim.studies.spread import Backend
from tetrisim.studies.sweep import Interrupted, sweep
from tetrisim.studies.task import Task, execute

HERE = Backend(jobs=1)


def scenario(**settings):
    return override(load("default"), {"workload.requests": 60, **settings})


@pytest.fixture
def runs(monkeypatch):
    """The scenarios that are simulated in this process."""
    seen = []

    def watched(each, **more):
        seen.append(each)
        return simulate(each, **more)

    monkeypatch.setattr(task_module, "simulate", watched)
    return seen


def without_wall(rows):
    return [{name: value for name, value in row.items() if not name.startswith("wall_s")} for row in rows]


def table(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_a_point_equals_the_run_by_itself(tmp_path):
    base, out = scenario(), tmp_path / "out"
    done = sweep(base, {"cluster.instances": [2, 3], "system": ["vllm-v1", "tetriinfer"]}, out, backend=HERE)
    assert [(row["cluster.instances"], row["system"]) for row in done.rows] == [
        (2, "vllm-v1"), (2, "tetriinfer"), (3, "vllm-v1"), (3, "tetriinfer"),
    ]  # fmt: skip
    assert (done.ran, done.kept) == (4, 0)
    alone = simulate(override(base, {"cluster.instances": 3, "system": "tetriinfer"}))
    row = done.rows[3]
    for name, value in summarize(alone).items():
        if name not in ("wall_s", "perf_per_dollar", "perf_per_dollar_ratio", "provenance"):
            assert row[name] == value, name
    assert row["provenance"] == "; ".join(alone.provenance)
    import pandas as pd

    run = out / "runs" / row["key"]
    kept = pd.read_parquet(run / "requests.parquet")
    pd.testing.assert_frame_equal(kept, alone.requests[list(kept.columns)], check_dtype=False)
    assert load(run / "scenario.yaml") == alone.scenario
    assert {path.name for path in run.iterdir()} == {
        "requests.parquet", "scenario.yaml", "summary.csv", "run.json", "key.json", "summary.json",
    }  # fmt: skip
    document = json.loads((out / "sweep.json").read_text())
    assert document == done.summary()
    assert (document["kind"], document["seeds"]) == ("sweep", 1)
    assert document["grid"] == {"cluster.instances": [2, 3], "system": ["vllm-v1", "tetriinfer"]}
    assert [line["key"] for line in table(out)] == [each["key"] for each in done.rows]
    assert float(table(out)[3]["p99_ttft_ms"]) == row["p99_ttft_ms"]
    assert len(done.table) == 4


def test_a_larger_grid_runs_only_what_is_new(tmp_path, runs):
    base = scenario()
    first = sweep(base, {"cluster.instances": [2, 3]}, tmp_path / "out", backend=HERE)
    assert len(runs) == 2
    again = sweep(base, {"cluster.instances": [2, 3]}, tmp_path / "out", backend=HERE)
    assert (len(runs), again.ran, again.kept) == (2, 0, 2), "nothing is simulated twice"
    assert again.rows == first.rows
    more = sweep(base, {"cluster.instances": [1, 2, 3]}, tmp_path / "out", backend=HERE)
    assert [each.cluster.pools[0].instances for each in runs] == [2, 3, 1]
    assert more.rows[1:] == first.rows
    # Points that come to the same run share it: two instances are what the second one says already.
    same = sweep(base, {"cluster": [{"gpu": "h100-sxm", "instances": 2}]}, tmp_path / "out", backend=HERE)
    assert (same.ran, same.rows[0]["key"]) == (0, first.rows[0]["key"])


def test_a_point_that_cannot_run_is_a_row_with_its_reason(tmp_path):
    grid = {"model": ["llama-3.1-8b", "llama-3.1-70b"], "cluster.instances": [1, 0]}
    done = sweep(scenario(), grid, tmp_path / "out", backend=HERE)
    status = [row["status"] for row in done.rows]
    assert status == ["ok", "invalid", "invalid", "invalid"]
    assert done.rows[1]["reason"].startswith("cluster.instances: 0 instances; expected at least 1")
    assert "does not fit" in done.rows[2]["reason"], "141 GB of weights on an 80 GB GPU: found when it is run"
    assert "mean_ttft_ms" not in done.rows[2] and "mean_ttft_ms" in done.rows[0]
    assert [line["status"] for line in table(tmp_path / "out")] == status
    assert done.ran == 1


def test_a_run_that_breaks_is_a_row_too_and_is_tried_again(tmp_path, monkeypatch):
    base = scenario()

    def breaks(each, **more):
        if each.cluster.pools[0].instances == 2:
            raise MemoryError("too big")
        return simulate(each, **more)

    monkeypatch.setattr(task_module, "simulate", breaks)
    done = sweep(base, {"cluster.instances": [2, 3]}, tmp_path / "out", backend=HERE)
    assert [(row["status"], row["reason"]) for row in done.rows] == [("failed", "MemoryError: too big"), ("ok", "")]
    assert done.ran == 1
    monkeypatch.setattr(task_module, "simulate", simulate)
    again = sweep(base, {"cluster.instances": [2, 3]}, tmp_path / "out", backend=HERE)
    assert ([row["status"] for row in again.rows], again.ran, again.kept) == (["ok", "ok"], 1, 1)


def test_when_no_point_can_run_it_is_an_error_and_nothing_is_made(tmp_path):
    with pytest.raises(TetrisimError, match=r"none of its 2 points can be run; the first: cluster\.pool: unknown key"):
        sweep(scenario(), {"cluster.pool": [1, 2]}, tmp_path / "out", backend=HERE)
    assert list(tmp_path.iterdir()) == []


def test_means_over_seeds(tmp_path):
    base = scenario(seed=5)
    done = sweep(base, {"cluster.instances": [2]}, tmp_path / "out", seeds=3, backend=HERE)
    row = done.rows[0]
    by_seed = [
        summarize(simulate(override(base, {"cluster.instances": 2, "seed": seed})))["mean_ttft_ms"]
        for seed in (5, 6, 7)
    ]
    mean = sum(by_seed) / 3
    deviation = (sum((value - mean) ** 2 for value in by_seed) / 2) ** 0.5
    assert row["mean_ttft_ms"] == pytest.approx(mean, rel=1e-12)
    assert row["mean_ttft_ms_half95"] == pytest.approx(4.303 * deviation / 3**0.5, rel=1e-9), "Student's t, 2 degrees"
    assert len(set(by_seed)) == 3 and len(row["key"].split()) == 3
    assert sorted(path.name for path in (tmp_path / "out" / "runs").iterdir()) == sorted(row["key"].split())
    assert sweep(base, {"cluster.instances": [2]}, tmp_path / "out", seeds=4, backend=HERE).kept == 3


# What makes a run another run


def trace_file(path, tokens=(100, 200, 300), gap=0.1):
    lines = "".join(f"{number * gap},{prompt},20\n" for number, prompt in enumerate(tokens))
    path.write_text("timestamp,input_length,output_length\n" + lines)
    return path


def test_other_content_of_the_trace_is_another_run(tmp_path, runs):
    path = trace_file(tmp_path / "trace.csv")
    base = override(load("default"), {"workload": {"trace": str(path)}})
    grid, out = {"cluster.instances": [1, 2]}, tmp_path / "out"
    first = sweep(base, grid, out, backend=HERE)
    os.utime(path)  # touched, not changed
    assert sweep(base, grid, out, backend=HERE).ran == 0
    trace_file(path, tokens=(100, 200, 301))
    changed = sweep(base, grid, out, backend=HERE)
    assert changed.ran == 2 and len(runs) == 4
    assert changed.rows[0]["mean_ttft_ms"] > first.rows[0]["mean_ttft_ms"], "a longer prompt, and not the old one again"
    trace_file(path)
    assert sweep(base, grid, out, backend=HERE).rows == first.rows, "the old content finds the old runs"


def test_where_the_trace_lies_is_no_part_of_the_run(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    here, there = trace_file(tmp_path / "t.csv"), trace_file(tmp_path / "elsewhere" / "t.csv")
    one, other = (override(load("default"), {"workload": {"trace": str(path)}}) for path in (here, there))
    assert one != other and run_key(one) == run_key(other)


def test_a_trace_file_is_read_once_for_all_points_that_share_it(tmp_path, monkeypatch):
    from tetrisim.workload.trace import build

    read = []

    def counted(spec, seed):
        read.append(spec.trace)
        return build(spec, seed)

    monkeypatch.setattr(task_module, "build", counted)
    path = trace_file(tmp_path / "once.csv", tokens=(50, 60))
    base = override(load("default"), {"workload": {"trace": str(path)}})
    done = sweep(base, {"cluster.instances": [1, 2, 3]}, tmp_path / "out", seeds=2, backend=HERE)
    assert (done.ran, len(read)) == (6, 1)


def test_other_tables_are_another_run(tmp_path):
    rows = {"linear.csv": "op,tokens,time_us\nqkv,1,10\nqkv,4096,{}\n"}
    folder = tmp_path / "profile"
    folder.mkdir()
    (folder / "profile.yaml").write_text("gpu: h100-sxm\n")
    base = scenario(profile=str(folder))
    keys = []
    for slow in (800, 900, 800):
        (folder / "linear.csv").write_text(rows["linear.csv"].format(slow))
        keys.append(run_key(base))
    assert keys[0] == keys[2] != keys[1]
    assert run_key(scenario(profile="roofline")) != keys[0]


def test_other_code_or_libraries_are_another_run(monkeypatch):
    base = scenario()
    key, own = run_key(base), cache_module.versions()
    for name in ("code", "numpy", "simpy", "python", "tetrisim"):
        monkeypatch.setattr(cache_module, "versions", lambda name=name: {**own, name: "other"})
        assert run_key(base) != key, name
    monkeypatch.setattr(cache_module, "versions", lambda: dict(own))
    assert run_key(base) == key
    assert run_key(override(base, {"seed": 9})) != key


def test_the_code_hash_is_of_what_a_run_needs(tmp_path, monkeypatch):
    package = tmp_path / "tetrisim"
    for name in ("cluster/engine.py", "scenario/catalog/models/m.json", "cli/run.py", "cluster/__pycache__/x.pyc"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("a")
    monkeypatch.setattr(cache_module.tetrisim, "__file__", str(package / "__init__.py"))
    hashes = {}
    for name in ("", "cli/run.py", "cluster/__pycache__/x.pyc", "cluster/engine.py", "scenario/catalog/models/m.json"):
        if name:
            (package / name).write_text("b")
        hashes[name] = cache_module.versions.__wrapped__()["code"]
    assert hashes[""] == hashes["cli/run.py"] == hashes["cluster/__pycache__/x.pyc"]
    assert len(set(hashes.values())) == 3, "the engine counts, and so does a model's shape"


@pytest.mark.parametrize(
    "key",
    ["route", "predict.policy", "place.policy", "flip.policy", "reject.policy", "fetch.policy", "migrate.policy",
     "ratio.policy", "scale.policy", "pools.0.batching", "pools.0.queue", "pools.0.admission"],
)  # fmt: skip
def test_every_kind_of_policy_of_ones_own_is_part_of_the_run(tmp_path, monkeypatch, key):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_policy_of_any_kind.py").write_text("")
    system = {"ratio": "mooncake", "fetch": "mooncake", "migrate": "sarathi"}.get(key.split(".")[0], "vllm-v1")
    base = scenario(system=system, **{f"cluster.{key}": "own_policy_of_any_kind:it"})
    assert cache_module.import_roots(base) == [str(tmp_path)]


def test_a_policy_of_ones_own_is_part_of_the_run(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    policy = tmp_path / "own_policy_of_a_sweep.py"
    policy.write_text("def first(loads, request, rng):\n    return 0\n")
    base = scenario(**{"cluster.route": "own_policy_of_a_sweep:first"})
    key = run_key(base)
    assert cache_module.import_roots(base) == [str(tmp_path)]
    policy.write_text("def first(loads, request, rng):\n    return 1\n")
    assert run_key(base) != key


def test_files_that_change_under_way_are_no_run_under_the_old_key(tmp_path):
    path = trace_file(tmp_path / "t.csv")
    base = override(load("default"), {"workload": {"trace": str(path)}})
    task = Task(run_key(base), base)
    trace_file(path, tokens=(7, 8, 9))
    outcome = execute(task)
    assert (outcome.status, outcome.files) == ("failed", None)
    assert "not those that the sweep began with" in outcome.reason


# Whole or not at all


def test_a_folder_that_no_sweep_made_is_refused_untouched(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(
        OutputError, match=r"exists already; expected .* or one that a sweep made; did you mean '.*out-2'"
    ):
        sweep(scenario(), {"cluster.instances": [2]}, out, backend=HERE)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_run_that_lost_a_file_is_made_again(tmp_path):
    base, out = scenario(), tmp_path / "out"
    first = sweep(base, {"cluster.instances": [2, 3]}, out, backend=HERE)
    (out / "runs" / first.rows[0]["key"] / "requests.parquet").unlink()
    (out / "runs" / first.rows[1]["key"] / "summary.json").write_text("")
    again = sweep(base, {"cluster.instances": [2, 3]}, out, backend=HERE)
    assert again.ran == 2 and without_wall(again.rows) == without_wall(first.rows)


def test_pictures_are_drawn_when_asked_and_only_then_missed(tmp_path):
    def draw(path, result):
        path.write_text(f"a picture of {result.scenario.system}")

    base, out = scenario(), tmp_path / "out"
    key = sweep(base, {"cluster.instances": [2]}, out, backend=HERE).rows[0]["key"]
    assert sweep(base, {"cluster.instances": [2]}, out, backend=HERE, draw=draw).ran == 1
    assert (out / "runs" / key / "latency.png").read_text() == "a picture of vllm-v1"
    assert sweep(base, {"cluster.instances": [2]}, out, backend=HERE).ran == 0


def test_who_is_second_with_a_run_leaves_the_first_one(tmp_path):
    cache = Cache(tmp_path)
    files = dict.fromkeys(cache_module.RUN_FILES, b"first")
    cache.put("k", files)
    cache.put("k", dict.fromkeys(files, b"second"))
    assert (tmp_path / "runs" / "k" / "run.json").read_bytes() == b"first"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["k"]


def test_a_disk_that_refuses_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write: Not a directory"):
        Cache(tmp_path).put("k", {"run.json": b"{}"})


def test_ctrl_c_keeps_what_is_finished_and_says_so(tmp_path, monkeypatch):
    base, out = scenario(), tmp_path / "out"

    def interrupted(each, **more):
        if each.cluster.pools[0].instances == 3:
            raise KeyboardInterrupt
        return simulate(each, **more)

    monkeypatch.setattr(task_module, "simulate", interrupted)
    with pytest.raises(Interrupted, match=r"1 of 3 runs are kept in .*out; the same command goes on from there"):
        sweep(base, {"cluster.instances": [2, 3, 4]}, out, backend=HERE)
    assert [line["status"] for line in table(out)] == ["ok", "pending", "pending"]
    monkeypatch.setattr(task_module, "simulate", simulate)
    assert sweep(base, {"cluster.instances": [2, 3, 4]}, out, backend=HERE).ran == 2


PROGRAM = textwrap.dedent("""
    import sys
    from tetrisim.scenario.load import load, override
    from tetrisim.studies.spread import Backend
    from tetrisim.studies.sweep import sweep
    base = override(load("default"), {"workload.requests": 400})
    sweep(base, {"workload.rate": [10, 20], "cluster.instances": range(2, 12)}, sys.argv[1],
          backend=Backend(jobs=int(sys.argv[2])))
""")


def start(out, jobs):
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(out), str(jobs)], stderr=subprocess.DEVNULL)


def kept_runs(out):
    return [path for path in (out / "runs").glob("*") if not path.name.startswith(".")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_kill_9_loses_no_finished_run_and_leaves_no_half_one(tmp_path, jobs):
    out = tmp_path / "killed"
    process = start(out, jobs)
    deadline = time.monotonic() + 60
    while len(kept_runs(out)) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path.name: (path / "run.json").read_bytes() for path in kept_runs(out)}
    assert 5 <= len(before) < 20, "killed midway"
    (out / "runs" / ".0123.partial").mkdir()  # as if it had been writing
    base = override(load("default"), {"workload.requests": 400})
    grid = {"workload.rate": [10, 20], "cluster.instances": range(2, 12)}
    resumed = sweep(base, grid, out, backend=HERE)
    assert (resumed.ran, resumed.kept) == (20 - len(before), len(before))
    for name, record in before.items():
        assert (out / "runs" / name / "run.json").read_bytes() == record, "with the wall time of the first run"
    assert len(kept_runs(out)) == 20 and list(out.rglob("*.partial")) == []
    if jobs == 1:  # once is enough
        whole = sweep(base, grid, tmp_path / "whole", backend=HERE)
        assert without_wall(resumed.rows) == without_wall(whole.rows)


def test_two_sweeps_at_once_share_a_folder(tmp_path):
    out = tmp_path / "out"
    both = [start(out, 1), start(out, 1)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(kept_runs(out)) == 20 and list(out.rglob("*.partial")) == []
    rows = table(out)
    assert [row["status"] for row in rows] == ["ok"] * 20
    assert json.loads((out / "sweep.json").read_text())["rows"][0]["key"] == rows[0]["key"]


def test_processes_come_to_the_same_rows(tmp_path):
    base, grid = scenario(), {"workload.rate": [5, 10], "cluster.instances": [2, 3]}
    one = sweep(base, grid, tmp_path / "one", backend=HERE)
    two = sweep(base, grid, tmp_path / "two", backend=Backend(jobs=2))
    assert without_wall(one.rows) == without_wall(two.rows)
