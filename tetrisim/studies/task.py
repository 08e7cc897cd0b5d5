"""One run of a sweep, wherever it is executed: a task goes there, and the files of the finished run come back."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tetrisim.errors import TetrisimError
from tetrisim.metrics.summary import summarize
from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.workload import WorkloadSpec
from tetrisim.simulate import Result, simulate
from tetrisim.studies.cache import digest, inputs, key_of, made_of
from tetrisim.studies.store import save_run, write_json
from tetrisim.workload.generator import GENERATOR_SUFFIXES
from tetrisim.workload.trace import Trace, build

Draw = Callable[[Path, Result], object]
"""Draws the figure of a run into the file it is given; a function that workers can import."""

PICTURE = "latency.png"


@dataclass(frozen=True, slots=True)
class Task:
    """A scenario to run and the key it must have there.

    `roots` are where its own policies are imported from; `scratch` is where its files are written before they are sent
    back, the system's own folder when None.
    """

    key: str
    scenario: Scenario
    roots: tuple[str, ...] = ()
    draw: Draw | None = None
    scratch: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task: the files of the run's folder, or why there are none.

    `status` is ok, invalid (the scenario cannot be run), or failed (something broke, which may not happen again).
    """

    key: str
    status: str
    reason: str = ""
    files: dict[str, bytes] | None = None


def execute(task: Task) -> Outcome:
    """Run a task; whatever goes wrong is its outcome."""
    sys.path += [root for root in task.roots if root not in sys.path]
    try:
        made = made_of(task.scenario)
        if key_of(made) != task.key:
            return Outcome(
                task.key, "failed", "the files it reads, or the code, are not those that the sweep began with"
            )
        return Outcome(task.key, "ok", files=_run(task, made))
    except TetrisimError as error:
        return Outcome(task.key, "invalid", " ".join(str(error).split()))
    except Exception as error:
        return Outcome(task.key, "failed", " ".join(f"{type(error).__name__}: {error}".split()))


def _run(task: Task, made: dict[str, Any]) -> dict[str, bytes]:
    scenario = task.scenario
    traces = tuple(digest(item) for item in inputs(scenario) if item[0] == "trace")
    drawn = (
        scenario.workload.arrivals in ("poisson", "gamma") or Path(scenario.workload.trace).suffix in GENERATOR_SUFFIXES
    )
    trace = _trace(scenario.workload, scenario.seed if drawn else 0, traces) if traces else None
    result = simulate(scenario, trace=trace)

    def picture(path: Path) -> None:
        if task.draw is not None:
            task.draw(path, result)

    with TemporaryDirectory(".partial", ".", task.scratch) as folder:
        run = Path(folder) / "run"
        summary = summarize(result)
        save_run(run, result, summary, picture)
        for name, content in (("key.json", made), ("summary.json", summary)):
            write_json(run / name, content)
        return {path.name: path.read_bytes() for path in run.iterdir()}


@lru_cache(2)
def _trace(spec: WorkloadSpec, seed: int, _: tuple[str, ...]) -> Trace:
    """The requests of a trace file, read once for all runs here that share them, and again when its content changes."""
    return build(spec, seed)
