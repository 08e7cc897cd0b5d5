"""Sweeps on Dask and Ray: the same rows from processes started by themselves, and workers that cannot do the work."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tetrisim.errors import TetrisimError
from tetrisim.scenario.load import load, override
from tetrisim.studies.cache import run_key, versions
from tetrisim.studies.remote import Check
from tetrisim.studies.spread import Backend
from tetrisim.studies.sweep import sweep
from tetrisim.studies.task import Task

GRID = {"cluster.instances": [2, 3], "system": ["vllm-v1", "tetriinfer"]}


def scenario(**settings):
    return override(load("default"), {"workload.requests": 60, **settings})


def rows(done):
    return [{name: value for name, value in row.items() if name != "wall_s"} for row in done.rows]


@contextmanager
def process(*arguments, path=None):
    environment = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
    started = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    pytest.importorskip("distributed")
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    options = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with process("distributed.cli.dask_scheduler", *options):
        until(file.exists)
        yield json.loads(file.read_text())["address"]


@contextmanager
def worker(scheduler, folder, path=None):
    options = ["--no-nanny", "--no-dashboard", "--nthreads", "1", "--local-directory", str(folder)]
    with process("distributed.cli.dask_worker", scheduler, *options, path=path) as started:
        yield started


def broken_package(folder):
    (folder / "tetrisim").mkdir()
    (folder / "tetrisim" / "__init__.py").write_text("raise ImportError('no tetrisim on this machine')")
    return folder


def test_dask_comes_to_the_same_rows_and_a_worker_without_tetrisim_is_one_line(scheduler, tmp_path):
    with worker(scheduler, tmp_path / "good"):
        there = sweep(scenario(), GRID, tmp_path / "there", backend=Backend("dask", scheduler))
        here = sweep(scenario(), GRID, tmp_path / "here", backend=Backend(jobs=1))
        assert (rows(there), there.ran) == (rows(here), 4)
        with worker(scheduler, tmp_path / "bad", broken_package(tmp_path)):
            until(lambda: workers_of(scheduler) == 2)
            with pytest.raises(TetrisimError) as error:
                sweep(scenario(seed=3), GRID, tmp_path / "there", backend=Backend("dask", scheduler))
    said = str(error.value)
    assert said.startswith("--backend dask: worker tcp://127.0.0.1:")
    assert "cannot import tetrisim (ImportError: no tetrisim on this machine); expected tetrisim installed" in said


def workers_of(scheduler):
    from distributed import Client

    with Client(scheduler, set_as_default=False) as client:
        return len(client.scheduler_info()["workers"])


def test_dask_without_a_worker_or_a_scheduler_is_an_error_and_no_hang(scheduler, tmp_path):
    with pytest.raises(TetrisimError, match=r"--backend dask: scheduler tcp://.* has no worker after 0\.3 s"):
        sweep(scenario(), GRID, tmp_path / "out", backend=Backend("dask", scheduler, wait_s=0.3))
    with pytest.raises(TetrisimError, match=r"--scheduler: cannot reach 127\.0\.0\.1:1 .*; expected the address"):
        sweep(scenario(), GRID, tmp_path / "out", backend=Backend("dask", "127.0.0.1:1", wait_s=0.3))
    for wrong in ("127.0.0.1", "bla://host:8786", "tcp://host"):
        with pytest.raises(TetrisimError, match=f"--scheduler: is '{wrong}'; expected the address"):
            sweep(scenario(), GRID, tmp_path / "out", backend=Backend("dask", wrong))


@pytest.mark.slow
def test_dask_workers_that_all_die_under_way_are_an_error_and_finished_runs_are_kept(scheduler, tmp_path):
    grid = {"cluster.instances": range(1, 40)}
    with worker(scheduler, tmp_path / "dies") as dying:
        until(lambda: workers_of(scheduler) == 1)

        def kill(done, *_):
            if done == 3:
                dying.kill()

        backend = Backend("dask", scheduler, wait_s=1)
        with pytest.raises(TetrisimError, match="has no worker after 1 s; expected at least one; what is finished"):
            sweep(scenario(**{"workload.requests": 2000}), grid, tmp_path / "out", backend=backend, on_progress=kill)
    assert len(list((tmp_path / "out" / "runs").iterdir())) >= 3


@pytest.mark.slow
def test_ray_comes_to_the_same_rows(tmp_path):
    pytest.importorskip("ray")
    program = "\n".join([
        "import sys, tetrisim",
        "base = tetrisim.override(tetrisim.load('default'), {'workload.requests': 60})",
        f"tetrisim.sweep(base, {GRID!r}, sys.argv[1], backend=tetrisim.Backend('ray'))",
    ])  # fmt: skip  # in a process of its own, for Ray leaves threads and open files behind
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    here = sweep(scenario(), GRID, tmp_path / "here", backend=Backend(jobs=1))
    there = sweep(scenario(), GRID, tmp_path / "there", backend=Backend(jobs=1))
    assert (rows(there), there.kept) == (rows(here), 4)


def test_ray_without_a_head_is_an_error_and_no_hang(tmp_path):
    pytest.importorskip("ray")
    for wrong, said in (("127.0.0.1:1", "cannot reach"), ("nobody", "is 'nobody'")):
        with pytest.raises(TetrisimError, match=f"--scheduler: {said}.*; expected the address of a Ray head"):
            sweep(scenario(), GRID, tmp_path / "out", backend=Backend("ray", wrong, wait_s=1))


@pytest.mark.parametrize(("name", "module"), [("dask", "distributed"), ("ray", "ray")])
def test_a_backend_that_is_not_installed_names_its_extra(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        TetrisimError, match=rf"--backend {name}: {module} is not installed; expected .*tetrisim\[{name}\]"
    ):
        sweep(scenario(), GRID, tmp_path / "out", backend=Backend(name, "127.0.0.1:1"))


def test_nobody_imports_dask_or_ray_unasked():
    code = "import sys, tetrisim; tetrisim.sweep; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"distributed", "dask", "ray", "joblib"} & set(loaded)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "dusk"}, "--backend: unknown name 'dusk'; expected one of dask, joblib, ray; did you mean 'dask'?"),
        ({"name": "dask"}, "--scheduler: is missing; expected the address of a Dask scheduler"),
        ({"scheduler": "host:1"}, "--scheduler: is given, and the runs are local; expected --backend dask or ray"),
        ({"name": "ray", "jobs": 2}, "--jobs: is given with ray"),
    ],
)
def test_a_wrong_backend_is_one_line(arguments, said):
    with pytest.raises(TetrisimError) as error:
        Backend(**arguments)
    assert str(error.value).startswith(said)


# The check of a worker, as it stands without a cluster


@pytest.fixture
def check(tmp_path):
    (tmp_path / "trace.csv").write_text("timestamp,input_length,output_length\n0,10,5\n1,10,5\n")
    base = override(load("default"), {"workload": {"trace": str(tmp_path / "trace.csv")}})
    return Check("dask", [Task(run_key(base), base)])


def answer(check, path=None):
    """What another Python says to the expression, without having our modules loaded."""
    environment = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
    code = "import json, sys; print(json.dumps(eval(sys.stdin.read())))"
    done = subprocess.run([sys.executable, "-c", code], input=check.expression, capture_output=True, text=True,
                          env=environment, cwd=path, check=True)  # fmt: skip
    return json.loads(done.stdout)


def refused(check, found):
    with pytest.raises(TetrisimError) as error:
        check.judge("tcp://w:1", found)
    return str(error.value)


def test_a_worker_like_this_process_passes_and_any_difference_is_named(check, tmp_path):
    good = answer(check)
    check.judge("tcp://w:1", good)
    other = {**good, "versions": {**good["versions"], "numpy": "1.0"}}
    assert f"worker tcp://w:1 has other numpy (1.0); expected {versions()['numpy']}, as here" in refused(check, other)
    other = {**good, "versions": {**good["versions"], "code": "beef"}}
    assert "has other tetrisim's files (beef)" in refused(check, other)
    assert "has Python 3.9.1; expected 3." in refused(check, {**good, "python": "3.9.1"})
    assert "cannot be asked (OSError('closed'))" in refused(check, OSError("closed"))
    # The profile of the default GPU and model is none here, the trace is the first input.
    trace = [f"trace {tmp_path / 'trace.csv'}", "the same file at that path: put it on a file system that every worker"]
    lost = refused(check, {**good, "digests": ["", *good["digests"][1:]]})
    assert f"worker tcp://w:1 has no {trace[0]}; expected {trace[1]}" in lost
    changed = refused(check, {**good, "digests": ["other", *good["digests"][1:]]})
    assert f"worker tcp://w:1 has other content in {trace[0]}" in changed


def test_a_trace_that_a_worker_does_not_see_is_found_by_its_answer(check, tmp_path):
    (tmp_path / "trace.csv").unlink()
    assert f"has no trace {tmp_path / 'trace.csv'}" in refused(check, answer(check))


def test_a_worker_that_cannot_import_tetrisim_still_answers(check, tmp_path):
    found = answer(check, broken_package(tmp_path))
    assert "cannot import tetrisim (ImportError: no tetrisim on this machine)" in refused(check, found)
