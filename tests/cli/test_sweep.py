"""`tetrisim sweep`: the table and its sentences, JSON, one-line errors, and Ctrl-C."""

import csv
import importlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cli.shell import is_refused, tetrisim

from tetrisim.report.sweep import best_lines, short_names

TINY = ["--set", "workload.requests=60", "--jobs", "1"]


def test_table_best_points_reasons_and_files(tmp_path):
    out = tmp_path / "out"
    grid = ["--grid", "cluster.instances=1..3", "--grid", "system=vllm-v1,tetriinfer"]
    done = tetrisim("sweep", "default", *TINY, *grid, "--out", out)
    assert (done.exit_code, done.stderr) == (0, ""), "nobody watches a pipe"
    lines = done.stdout.splitlines()
    with (out / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert lines[1].split()[:3] == ["instances", "system", "completed"]
    assert [line.split()[:3] for line in lines[3:9]] == [
        ["1", "vllm-v1", "60"], ["1", "tetriinfer", "invalid"], ["2", "vllm-v1", "60"],
        ["2", "tetriinfer", "60"], ["3", "vllm-v1", "60"], ["3", "tetriinfer", "60"],
    ]  # fmt: skip
    ran = [row for row in rows if row["status"] == "ok"]
    best = min(ran, key=lambda row: float(row["mean_tpot_ms"]))
    said = next(line for line in lines if "mean TPOT" in line)
    assert said.startswith(f"Best at instances {best['cluster.instances']}, system {best['system']}: ")
    assert f"mean TPOT {float(best['mean_tpot_ms']):.2f} ms" in said
    reason = "cluster.instances: 1 instances; expected at least 2: one each for prefill, decode"
    assert f"1 point cannot be run (instances 1, system tetriinfer): {reason}" in done.stdout
    assert lines[-1] == f"5 runs simulated, 0 kept from before; rows in {out / 'sweep.csv'}."
    again = tetrisim("sweep", "default", *TINY, *grid, "--out", out)
    assert again.stdout.splitlines()[:-1] == lines[:-1]
    assert again.stdout.splitlines()[-1].startswith("0 runs simulated, 5 kept from before")


def test_json_is_the_file_and_seeds_have_intervals(tmp_path):
    arguments = [*TINY, "--grid", "workload.rate=10 /s,20 /s", "--seeds", "2", "--out", tmp_path / "out"]
    told = json.loads(tetrisim("sweep", "default", *arguments, "--json").stdout)
    assert told == json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (told["seeds"], told["grid"]) == (2, {"workload.rate": ["10 /s", "20 /s"]})
    row = told["rows"][0]
    said = tetrisim("sweep", "default", *arguments).stdout
    assert "Means over 2 seeds, ± half of the 95 % interval." in said
    assert f"{row['mean_tpot_ms']:.2f} ±{row['mean_tpot_ms_half95']:.2f}" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grid", "cluster.instances=8..1"], "--grid cluster.instances: '8..1' is no range"),
        (["--grid", "cluster.instancs=1..2"], "none of its 2 points can be run; the first: cluster.instancs: unknown"),
        (["--grid", "seed=1", "--backend", "dusk"], "did you mean 'dask'?"),
        (["--grid", "seed=1", "--backend", "dask"], "--scheduler: is missing"),
        (["--grid", "seed=1", "--scheduler", "h:1"], "--scheduler: is given, and the runs are local"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, arguments, said):
    done = tetrisim("sweep", "default", *arguments, "--out", tmp_path / "out")
    is_refused(done, said)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    done = tetrisim("sweep", "default", *TINY, "--grid", "seed=1", "--out", tmp_path)
    assert done.exit_code == 2 and "exists already" in done.stderr and done.stderr.count("\n") == 1


def test_failed_points_are_an_error_after_the_table(tmp_path, monkeypatch):
    task = importlib.import_module("tetrisim.studies.task")
    whole = task.simulate

    def breaks(scenario, **more):
        if scenario.seed == 2:
            raise MemoryError
        return whole(scenario, **more)

    monkeypatch.setattr(task, "simulate", breaks)
    done = tetrisim("sweep", "default", *TINY, "--grid", "seed=1,2", "--out", tmp_path / "out")
    assert done.exit_code == 2 and "1 point failed (seed 2): MemoryError" in done.stdout
    assert (
        done.stderr == "error: --grid: 1 of 2 points failed; expected the same command again, which tries only these\n"
    )


def test_keys_are_shown_by_as_much_of_their_end_as_tells_them_apart():
    keys = ["cluster.pools.0.instances", "cluster.pools.1.instances", "workload.rate", "system", "a.b.0"]
    assert list(short_names(keys).values()) == ["pools.0.instances", "pools.1.instances", "rate", "system", "b.0"]


def test_best_counts_who_is_level():
    def row(n, ttft, half=None):
        return {"n": n, "status": "ok", "mean_ttft_ms": ttft, **({} if half is None else {"mean_ttft_ms_half95": half})}

    lines = best_lines([row(1, 100.9), row(2, 100.0), row(3, 101.1)], {"n": "n"}, 1)
    assert lines == ["Best at n 2: mean TTFT 100 ms (1 more within 1 %)."]
    lines = best_lines([row(1, 107.0, 4.0), row(2, 100.0, 4.0), row(3, 109.0, 4.0)], {"n": "n"}, 3)
    assert lines == ["Best at n 2: mean TTFT 100 ±4.00 ms (1 more whose intervals meet its own)."]


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 3], ids=["while processes start", "with runs done"])
@pytest.mark.parametrize("presses", [1, 4], ids=["once", "impatient"])
def test_ctrl_c_at_a_terminal_is_one_line_with_what_is_kept(tmp_path, after, presses):
    """A terminal sends it to the whole group: no process may answer, and none may stay."""
    out, (ours, theirs) = tmp_path / "out", pty.openpty()
    grid = ["--grid", "cluster.instances=1..40", "--set", "workload.requests=2000", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tetrisim", "sweep", "default", *grid, "--out", str(out)],
        stdout=subprocess.PIPE, stderr=theirs, start_new_session=True, env={**os.environ, "COLUMNS": "300"},
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()

    def read():
        try:
            while some := os.read(ours, 4096):
                shown.extend(some)
        except OSError:
            pass  # the other end is closed

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 60
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")  # two trackers, and then the workers
    while len(children.read_text().split()) < 3 or len(list((out / "runs").glob("[!.]*"))) < after:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    asked = time.monotonic()
    for _ in range(presses):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    printed, _ = process.communicate(timeout=30)
    assert time.monotonic() - asked < 5
    reader.join()
    os.close(ours)
    kept = len(list((out / "runs").glob("[!.]*")))
    last = shown.decode().rstrip().splitlines()[-1]
    assert (process.returncode, printed) == (130, b"") and after <= kept < 40
    said = f"interrupted: {kept} of 40 runs are kept in {out}; the same command goes on from there"
    assert last.endswith(said) or (presses > 1 and last.endswith("interrupted"))
    assert not any(word in shown.decode() for word in ("Traceback", "Warning")) and list(out.rglob("*.partial")) == []
    assert after == 0 or "to go" in shown.decode(), "the time left is shown"
