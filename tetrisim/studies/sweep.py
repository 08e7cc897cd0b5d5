"""A grid of runs: each in a folder named by the hash of what made it, so that none is simulated twice."""

import csv
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrisim.errors import TetrisimError
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.cache import RUN_FILES, Cache, import_roots, open_cache, run_key
from tetrisim.studies.grid import Grid, Settings, check_grid, points
from tetrisim.studies.seeds import estimate
from tetrisim.studies.spread import Backend, spread
from tetrisim.studies.task import PICTURE, Draw, Outcome, Task
from tetrisim.studies.workers import silent

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, int], object]
"""Told how many runs are finished, how many this sweep has to run, and how many more were kept from before."""

HALF = "_half95"
"""Beside a mean over seeds, under its name with this ending: half the width of its 95 % interval."""

_OWN_BASELINE = ("perf_per_dollar", "perf_per_dollar_ratio")
"""Of a lone run these are 1, whatever it does."""

_SAVE_EVERY_S = 2.0


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a sweep: how many of its runs are kept."""

    def __init__(self, kept: int, total: int, folder: Path) -> None:
        super().__init__(kept, total, folder)
        self.kept, self.total, self.folder = kept, total, folder

    def __str__(self) -> str:
        return f"{self.kept} of {self.total} runs are kept in {self.folder}; the same command goes on from there"


@dataclass(frozen=True)
class Sweep:
    """What a sweep found: a row a point, in the order of the grid, the last axis changing fastest.

    `ran` runs were simulated now, `kept` were there already.
    """

    folder: Path
    scenario: Scenario
    grid: Grid
    seeds: int
    rows: list[dict[str, Any]]
    ran: int
    kept: int

    @cached_property
    def table(self) -> "pd.DataFrame":
        """A row a point: the grid's columns, status, reason, key, and the metrics."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def summary(self) -> dict[str, Any]:
        """Plain values that JSON can hold: what sweep.json holds."""
        return _document(self.grid, self.seeds, self.rows)


@dataclass(frozen=True, slots=True)
class _Point:
    """One combination of the grid: a task for each seed, or why there can be none."""

    settings: Settings
    tasks: tuple[Task, ...]
    reason: str = ""


def sweep(
    scenario: Scenario,
    grid: Mapping[str, Iterable[Any]],
    out: str | Path,
    seeds: int = 1,
    backend: Backend | None = None,
    draw: Draw | None = None,
    on_progress: Progress | None = None,
) -> Sweep:
    """Run the scenario at every point of `grid` (dotted key -> values; `a,b` -> pairs of values), under `seeds` seeds.

    `out` is a new folder, or that of an earlier sweep, whose runs are used again where scenario, files and code are the
    same. It holds runs/<key>/, sweep.csv and sweep.json; every write is whole or not at all. A point that cannot be run
    is a row with its reason; TetrisimError when none can. With `draw` every run also has its picture. Ctrl-C raises
    Interrupted.
    """
    axes = check_grid(grid)
    plan = [_point(scenario, settings, seeds, draw) for settings in points(axes, seeds)]
    if not any(point.tasks for point in plan):
        raise _none_can_run([point.reason for point in plan])
    first = json.dumps(_document(axes, seeds, [_row(point, {}, None) for point in plan]))
    with open_cache(Path(out), first) as cache:
        needed = RUN_FILES if draw is None else (*RUN_FILES, PICTURE)
        wanted = {task.key: task for point in plan for task in point.tasks}
        tasks = [task for key, task in wanted.items() if not cache.has(key, needed)]
        book = _Book(cache, axes, seeds, plan, {task.key for task in tasks})
        progress = on_progress or silent
        try:
            book.save()
            progress(0, len(tasks), len(wanted) - len(tasks))
            with spread(backend or Backend(), tasks, cache.runs) as outcomes:
                for done, outcome in enumerate(outcomes, 1):
                    book.enter(outcome)
                    progress(done, len(tasks), len(wanted) - len(tasks))
        except KeyboardInterrupt:
            raise Interrupted(
                len(wanted) - len(book.missing | book.outcomes.keys()), len(wanted), cache.folder
            ) from None
        finally:
            book.save()
        rows = book.rows()
    if not any(row["status"] == "ok" for row in rows):
        raise _none_can_run([row["reason"] for row in rows])
    return Sweep(Path(out), scenario, axes, seeds, rows, len(tasks) - len(book.outcomes), len(wanted) - len(tasks))


def _none_can_run(reasons: list[str]) -> TetrisimError:
    return TetrisimError("--grid", f"none of its {len(reasons)} points can be run; the first: {reasons[0]}")


def _point(scenario: Scenario, settings: Settings, seeds: int, draw: Draw | None) -> _Point:
    try:
        each = override(scenario, settings)
        every = [each, *(override(each, {"seed": each.seed + number}) for number in range(1, seeds))]
        return _Point(settings, tuple(Task(run_key(one), one, tuple(import_roots(one)), draw) for one in every))
    except TetrisimError as error:
        return _Point(settings, (), " ".join(str(error).split()))


class _Book:
    """What is known of every point so far, and the files that say it."""

    def __init__(self, cache: Cache, grid: Grid, seeds: int, plan: list[_Point], missing: set[str]) -> None:
        self.missing = missing
        self.outcomes: dict[str, Outcome] = {}
        """Of the runs that left nothing."""
        self._cache, self._grid, self._seeds, self._plan = cache, grid, seeds, plan
        self._summaries: dict[str, dict[str, Any]] = {}
        self._next_save = time.monotonic() + _SAVE_EVERY_S

    def enter(self, outcome: Outcome) -> None:
        """Keep the run, or note why there is none."""
        if outcome.files is None:
            self.outcomes[outcome.key] = outcome
        else:
            self._cache.put(outcome.key, outcome.files)
        self.missing.discard(outcome.key)
        if time.monotonic() > self._next_save:
            began = time.monotonic()
            self.save()
            # So that a sweep of many points does not spend its time on telling how far it is.
            self._next_save = time.monotonic() + max(_SAVE_EVERY_S, 30 * (time.monotonic() - began))

    def save(self) -> None:
        """Write sweep.csv and sweep.json anew."""
        rows = self.rows()
        self._cache.write("sweep.csv", _csv(rows))
        self._cache.write("sweep.json", json.dumps(_document(self._grid, self._seeds, rows), allow_nan=False) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """A row a point."""
        return [_row(point, self.outcomes, self._summary) for point in self._plan]

    def _summary(self, key: str) -> dict[str, Any] | None:
        if key in self.missing or key in self.outcomes:
            return None
        if key not in self._summaries:
            self._summaries[key] = self._cache.summary(key)
        return self._summaries[key]


def _row(
    point: _Point, outcomes: Mapping[str, Outcome], summary: Callable[[str], dict[str, Any] | None] | None
) -> dict[str, Any]:
    """The grid's values, status (ok, invalid, failed, pending), reason, key (with several seeds: keys), metrics."""
    row = {**point.settings, "status": "invalid", "reason": point.reason, "key": ""}
    if not point.tasks:
        return row
    row["key"] = " ".join(task.key for task in point.tasks)
    for task in point.tasks:
        if found := outcomes.get(task.key):
            return {**row, "status": found.status, "reason": found.reason}
    summaries = [summary(task.key) if summary is not None else None for task in point.tasks]
    known = [each for each in summaries if each is not None]
    if len(known) < len(summaries):
        return {**row, "status": "pending"}
    return {**row, "status": "ok", **_means(known)}


def _means(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """The summary of one run, or the means over several; a metric that one of them lacks has none."""
    means: dict[str, Any] = {}
    for name, value in summaries[0].items():
        values = [each[name] for each in summaries]
        if name in _OWN_BASELINE:
            continue
        if isinstance(value, list):  # of texts: where the step times come from
            means[name] = "; ".join(value)
        elif len(values) == 1 or isinstance(value, str):
            means[name] = value
        else:
            found = None if None in values else estimate(values)
            means |= {name: found and found.mean, name + HALF: found and found.half}
    return means


def _document(grid: Grid, seeds: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": "sweep", "grid": grid, "seeds": seeds, "rows": rows}


def _csv(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: json.dumps(v) if isinstance(v, list | dict) else v for name, v in row.items()})
    return text.getvalue()
