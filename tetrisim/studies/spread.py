"""Tasks spread over the local cores by joblib, or over a Dask or Ray cluster; outcomes as they come."""

import multiprocessing.resource_tracker
import os
import sys
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tetrisim.errors import TetrisimError, unknown_name
from tetrisim.studies.task import Outcome, Task, execute
from tetrisim.studies.workers import deaf

BACKENDS = ("joblib", "dask", "ray")

FEW_REQUESTS = 50_000
"""Up to so many requests in all, one process is done before others have started."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Where runs are executed: `jobs` local processes (None: one a core), or the cluster at a scheduler's address.

    `wait_s` is how long to wait for the scheduler, for a first worker and for the answers of the workers' check; Ray
    without a scheduler is started on this machine.
    """

    name: str = "joblib"
    scheduler: str | None = None
    jobs: int | None = None
    wait_s: float = 30.0

    def __post_init__(self) -> None:
        if self.name not in BACKENDS:
            raise unknown_name(TetrisimError, "--backend", self.name, BACKENDS)
        if self.name == "dask" and self.scheduler is None:
            raise TetrisimError("--scheduler", "is missing", "the address of a Dask scheduler, as in tcp://host:8786")
        if self.name == "joblib" and self.scheduler is not None:
            raise TetrisimError("--scheduler", "is given, and the runs are local", "--backend dask or ray beside it")
        if self.name != "joblib" and self.jobs is not None:
            raise TetrisimError("--jobs", f"is given with {self.name}, whose workers are what they are", "none")


@contextmanager
def spread(backend: Backend, tasks: Sequence[Task], scratch: Path) -> Generator[Iterator[Outcome]]:
    """The outcomes of the tasks as they come, in any order; whoever still works on them is stopped at the end.

    Local runs write in `scratch` first. Raises TetrisimError when there is nobody to run them, or somebody who cannot.
    """
    if not tasks:
        yield iter(())
    elif backend.name == "dask":
        from tetrisim.studies.spread_dask import on_dask

        with on_dask(backend, tasks) as outcomes:
            yield outcomes
    elif backend.name == "ray":
        from tetrisim.studies.spread_ray import on_ray

        with on_ray(backend, tasks) as outcomes:
            yield outcomes
    else:
        jobs = backend.jobs or (1 if _few(tasks) else os.cpu_count() or 1)
        here = [replace(task, scratch=str(scratch)) for task in tasks]
        with _local(min(jobs, len(tasks)), here) as outcomes:
            yield outcomes


def _few(tasks: Sequence[Task]) -> bool:
    counts = [task.scenario.workload.requests for task in tasks]
    return all(counts) and sum(count or 0 for count in counts) <= FEW_REQUESTS


@contextmanager
def _local(jobs: int, tasks: Sequence[Task]) -> Generator[Iterator[Outcome]]:
    if jobs == 1:
        yield map(execute, tasks)
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor
    from joblib.externals.loky.backend import resource_tracker
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    def guarded(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
        try:
            yield from outcomes
        except TerminatedWorkerError:
            raise TetrisimError("--jobs", "a worker process died, killed from outside or for want of memory",
                                "fewer processes, or more memory") from None  # fmt: skip

    parallel = Parallel(jobs, return_as="generator_unordered", pre_dispatch="3*n_jobs")
    for tracker in (resource_tracker, multiprocessing.resource_tracker):
        tracker.ensure_running()  # its start would unblock the signal
    outcomes: Any = iter(())
    told = threading.excepthook
    threading.excepthook = lambda args: None if _gave_up(args.thread) else told(args)
    try:
        with deaf():
            outcomes = parallel(delayed(_in_worker)(task, os.getpid()) for task in tasks)
        yield guarded(outcomes)
    except BaseException:
        with deaf(), warnings.catch_warnings(action="ignore"):  # joblib warns that tasks are given up
            if hasattr(outcomes, "close"):
                outcomes.close()
            get_reusable_executor().shutdown(wait=True, kill_workers=True)
        raise
    finally:
        threading.excepthook = told


def _gave_up(thread: threading.Thread | None) -> bool:
    """Whether it manages workers that are being stopped: it may stumble over tasks that are gone."""
    return getattr(getattr(thread, "executor_flags", None), "shutdown", False)


def _in_worker(task: Task, parent: int) -> Outcome:
    if not any(thread.name == _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_die_with, args=(parent,), name=_WATCH, daemon=True).start()
    return execute(task)


_WATCH = "tetrisim-parent"


def _die_with(parent: int) -> None:
    """A worker whose parent was killed has nobody to work for."""
    while os.getppid() == parent:
        time.sleep(0.5)
    sys.stderr.flush()
    os._exit(1)
