"""Work through the plan within a budget: measure a unit in interleaved rounds, write it, go on. No torch here."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any, Protocol, TypeVar

from tetrisim.errors import ProfileError
from tetrisim.profiling.plan import ESSENTIAL, Key, Task, Unit
from tetrisim.profiling.store import Store, Values

T = TypeVar("T")

ROUNDS = 7
"""Samples of a row: every row of a unit once a round, so that drift hits all of them alike."""
FEWEST_ROUNDS = 3
"""A unit that the end of the budget cuts below this is dropped."""
MOST_ROUNDS = 10
QUIET = 0.05
"""A round is quiet when other processes used less than this share of the machine; disturbed rounds are repeated, up to
MOST_ROUNDS in all, and left out where enough quiet ones are there."""
WIDE = 0.1
"""A row is measured again while the budget lasts, when its quartiles lie this share of its time apart, or when it is
this far above the line through its neighbours: a disturbance that lasts as long as a unit leaves its spread narrow."""
APART = 0.05
"""Of two looks at a row that differ by more than this the quicker one stays, since a disturbance only slows."""
LOOKS = 2
"""How often doubtful rows are looked for and measured again."""
TOGETHER = 12
DIFFERENCES = ("host.csv",)
"""Small differences of long times: their spread says nothing about a disturbance."""
FLOOR_US = 0.1
"""Host overhead is a difference of two measurements; below noise it is written as this."""

Sampler = Callable[[], Values]
"""Runs a prepared row once more and returns its columns in microseconds."""


class Bench(Protocol):
    """A device that can be measured."""

    def prepare(self, file: str, key: Key) -> Sampler | None:
        """Buffers, warm-up and graphs of a row; None where it does not fit into memory."""
        ...

    def disturbance(self) -> float:
        """The share of the machine that other processes used since the last call; 0 where nothing tells."""
        ...

    def facts(self) -> dict[str, Any]:
        """Clocks, temperature and kernels as they are now."""
        ...


@dataclass
class Progress:
    """What a run did so far; shown while it runs and kept as provenance."""

    units: int
    done: int = 0
    title: str = ""
    drifts: list[float] = field(default_factory=list[float])
    skipped: list[str] = field(default_factory=list[str])
    disturbed: int = 0
    rounds: int = 0


class Run:
    """One profile's measurement: `until` is a reading of `clock` in seconds."""

    def __init__(self, store: Store, bench: Bench, until: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.store, self.bench, self.until, self.clock = store, bench, until, clock
        self.began = clock()
        self.usable = False

    def measure(self, plan: list[Unit], show: Callable[[Progress], None] = lambda _: None) -> Progress:
        """Measure what is not on disk yet, until the plan or the budget ends, or Ctrl-C: all leave a valid folder.

        A budget that ends before the coarse grid is whole raises ProfileError; the rows so far stay for the next run.
        """
        progress = Progress(len(plan))
        start = self.bench.facts()
        if not self.store.count:
            self._describe(progress, start)  # so that even a killed run leaves a folder that says what it is
        try:
            for unit in sorted(plan, key=lambda unit: unit.level):
                progress.title = unit.title
                show(progress)
                left = [task for task in unit.tasks if task not in self.store]
                if left and not self._take(left, progress):
                    break
                progress.done += 1
                self._publish(plan, progress, start)
            else:
                for _ in range(LOOKS):
                    self._repeat(progress, show)
            show(progress)
        finally:
            self._describe(progress, start)
        self._publish(plan, progress, start)
        if not self.usable:
            whole = [unit for unit in plan if unit.level == ESSENTIAL]
            spent = self.clock() - self.began
            raise ProfileError(
                "--budget",
                f"ended after {progress.done} of {len(whole)} units of the coarse grid ({spent:.0f} s)",
                "a longer one; the rows so far are kept, so run again to go on",
            )
        return progress

    def _repeat(self, progress: Progress, show: Callable[[Progress], None]) -> None:
        """Spend what is left of the budget on rows that a disturbance may have spread wide or slowed."""
        doubtful = [
            (file, key)
            for file, rows in self.store.rows.items()
            for key, row in rows.items()
            if file not in DIFFERENCES and (row["spread_us"] > WIDE * row["time_us"] or above_line(rows, key) > WIDE)
        ]
        doubtful.sort(key=lambda task: (task[0], task[1][1:]))  # the ops of one size side by side
        for at in range(0, len(doubtful), TOGETHER):
            progress.title = f"{len(doubtful) - at} doubtful rows again"
            show(progress)
            if not self._take(doubtful[at : at + TOGETHER], progress):
                break

    def _take(self, tasks: list[Task], progress: Progress) -> bool:
        """Measure and keep rows; False when the budget ended first."""
        if self.clock() >= self.until:
            return False
        samplers: dict[Task, Sampler] = {}
        for task in tasks:
            sampler = self.bench.prepare(*task)
            if sampler is None:
                progress.skipped.append(f"{task[0]} {task[1]}: out of memory")
            else:
                samplers[task] = sampler
        rounds = self._rounds(samplers)
        if rounds is None:
            return False
        progress.rounds += len(rounds)
        progress.disturbed += sum(share > QUIET for share, _ in rounds)
        kept = [values for _, values in quietest(rounds)]
        rows = {task: summarize([values[task] for values in kept]) for task in samplers}
        progress.drifts += [rounds[-1][1][task]["time_us"] / rounds[0][1][task]["time_us"] for task in samplers
                            if task[0] not in DIFFERENCES]  # fmt: skip
        self.store.add({task: row for task, row in rows.items() if self._better(task, row)})
        return True

    def _better(self, task: Task, row: Values) -> bool:
        """Whether a row replaces an older look at it."""
        old = self.store.rows[task[0]].get(task[1])
        if old is None or abs(row["time_us"] - old["time_us"]) > APART * old["time_us"]:
            return old is None or row["time_us"] < old["time_us"]
        return row["spread_us"] / row["time_us"] < old["spread_us"] / old["time_us"]

    def _rounds(self, samplers: dict[Task, Sampler]) -> list[tuple[float, dict[Task, Values]]] | None:
        """Rounds with the disturbance of each, or None when the budget ended too early."""
        rounds: list[tuple[float, dict[Task, Values]]] = []
        quiet = 0
        self.bench.disturbance()
        while samplers and quiet < ROUNDS and len(rounds) < MOST_ROUNDS:
            if self.clock() >= self.until:
                return rounds if len(rounds) >= FEWEST_ROUNDS else None
            values = {task: sampler() for task, sampler in samplers.items()}
            share = self.bench.disturbance()
            quiet += share <= QUIET
            rounds.append((share, values))
        return rounds

    def _publish(self, plan: list[Unit], progress: Progress, start: dict[str, Any]) -> None:
        """Once the coarse grid is whole, describe it and move it to where runs look."""
        if self.usable:
            return
        skipped = {line.split(":")[0] for line in progress.skipped}
        needed = [task for unit in plan if unit.level == ESSENTIAL for task in unit.tasks]
        self.usable = all(task in self.store or f"{task[0]} {task[1]}" in skipped for task in needed)
        if self.usable:
            self._describe(progress, start)
            self.store.publish()

    def _describe(self, progress: Progress, start: dict[str, Any]) -> None:
        now = self.bench.facts()
        state = now.pop("state", None)
        self.store.describe({
            **now,
            "state_at_start": start.get("state"),
            "state_at_end": state,
            "drift": round(median(progress.drifts), 4) if progress.drifts else None,
            "rounds": progress.rounds,
            "disturbed_rounds": progress.disturbed,
            "skipped": progress.skipped,
            "seconds_spent": self.clock() - self.began,
        })  # fmt: skip


def above_line(rows: dict[Key, Values], key: Key) -> float:
    """How far a row lies above the line through its neighbours along the last column of its key, as a share."""
    line = sorted(other for other in rows if other[:-1] == key[:-1])
    at = line.index(key)
    if not 0 < at < len(line) - 1:
        return 0.0
    (low, before), (here, time_us), (high, after) = ((int(k[-1]), rows[k]["time_us"]) for k in line[at - 1 : at + 2])
    return time_us / (before + (here - low) / (high - low) * (after - before)) - 1


def quietest(rounds: list[tuple[float, T]]) -> list[tuple[float, T]]:
    """(disturbance, what was measured): the quiet ones, or where those are too few the ROUNDS least disturbed."""
    quiet = [pair for pair in rounds if pair[0] <= QUIET]
    return quiet if len(quiet) >= FEWEST_ROUNDS else sorted(rounds, key=lambda pair: pair[0])[:ROUNDS]


def summarize(samples: list[Values]) -> Values:
    """Median of every column; spread_us is the distance between the quartiles of time_us."""
    row = {name: median(sample[name] for sample in samples) for name in samples[0]}
    times = [sample["time_us"] for sample in samples]
    low, _, high = quantiles(times, n=4, method="inclusive") if len(times) > 1 else (0.0, 0.0, 0.0)
    row["time_us"] = max(FLOOR_US, row["time_us"])
    return row | {"spread_us": high - low, "samples": float(len(samples))}
