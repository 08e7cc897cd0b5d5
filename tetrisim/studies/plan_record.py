"""What a plan holds: its goal, every cluster looked at, and everything left out with its reason."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import ceil, inf, isfinite
from typing import Any

from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.workload import WorkloadSpec
from tetrisim.studies.capacity import Capacity
from tetrisim.studies.plan_bound import Bound
from tetrisim.studies.plan_families import Enumerated, Sampled, chosen
from tetrisim.studies.plan_search import Look, Task, Verdict
from tetrisim.studies.plan_space import Candidate, Family, Space, scenario_of
from tetrisim.studies.workers import Note
from tetrisim.workload.trace import Trace, build


@dataclass(frozen=True, slots=True)
class Goal:
    """One of: the arrival rate to serve for the least money, or the GPUs or dollars an hour to serve the most with."""

    rate_per_s: float | None = None
    gpus: int | None = None
    dollars_per_hour: float | None = None
    answers: int = 3
    """Answers to give: each on other hardware or under another system."""

    def __post_init__(self) -> None:
        given = [value for value in (self.rate_per_s, self.gpus, self.dollars_per_hour) if value is not None]
        if len(given) != 1:
            raise ValueError("goal: expected one of rate_per_s, gpus and dollars_per_hour")
        if not (given[0] > 0 and isfinite(given[0])) or self.answers < 1:
            raise ValueError("goal: expected numbers of more than 0")


@dataclass(frozen=True, slots=True)
class Left:
    """Clusters that were not simulated, or not to the end, and why."""

    name: str
    kind: str
    reason: str
    candidates: int


@dataclass
class Row:
    """A simulated cluster. `looks`: its runs of the latest stage; `rate_per_s`: at which they were made."""

    candidate: Candidate
    stage: str
    rate_per_s: float
    looks: tuple[Look, ...]
    verdict: Verdict
    capacity: Capacity | None = None
    meets: bool = False
    rank: int | None = None


@dataclass
class Plan:
    """The answer. `rows`: every cluster simulated; the ranked ones first."""

    task: Task
    goal: Goal
    space: Space
    rows: list[Row] = field(default_factory=list[Row])
    left: list[Left] = field(default_factory=list[Left])
    bounds: dict[Family, Bound] = field(default_factory=dict[Family, Bound])
    most_gpus: int = 0
    candidates: int = 0
    families: int = 0
    simulated: int = 0
    runs: int = 0
    sampled: bool = False
    wall_s: float = 0.0

    @property
    def answers(self) -> list[Row]:
        """The best rows, each on other hardware or under another system."""
        return best_of_kinds(self.ranked)[: self.goal.answers]

    @property
    def ranked(self) -> list[Row]:
        """The rows that meet the SLO by long runs over all seeds, the best first."""
        return sorted((row for row in self.rows if row.rank is not None), key=lambda row: row.rank or 0)

    def scenario_of(self, row: Row) -> Scenario:
        """The runnable scenario of a row's final run."""
        return scenario_of(self.task.base, row.candidate, row.rate_per_s, self.task.requests, self.task.seeds[0])

    def summary(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        from tetrisim.studies.plan_rows import summary

        return summary(self)

    def __str__(self) -> str:
        """The answer in sentences."""
        from tetrisim.studies.plan_text import lines

        return "\n".join(lines(self))


def best_of_kinds(rows: Sequence[Row]) -> list[Row]:
    """The first row of each GPU, system and tensor parallelism; the others differ in batch caps and instances."""
    found: dict[tuple[str, str, int], Row] = {}
    for row in rows:
        family = row.candidate.family
        found.setdefault((family.gpu, family.system, family.tensor_parallel), row)
    return list(found.values())


class Progress:
    """Notes of how much is done, and how long the rest may take."""

    def __init__(self, note: Note, what: str, total: int) -> None:
        self.note, self.what, self.total, self.done, self.started = note, what, total, 0, time.perf_counter()

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        left = (time.perf_counter() - self.started) / self.done * (self.total - self.done)
        self.note(f"{self.what}: {self.done} of {self.total}, at most {ceil(left)} s left")


@lru_cache(maxsize=64)
def trace_of(spec: WorkloadSpec, seed: int) -> Trace:
    """The requests of a seed, made once in each process."""
    return build(spec, seed)


def source(found: Plan, ordered: Sequence[Family]) -> Enumerated | Sampled:
    """All families, or optuna's choice of them."""
    chooser = chosen(ordered, found.task.base.seed)
    found.sampled = isinstance(chooser, Sampled)
    return chooser


def rank(found: Plan) -> None:
    """Give every row that meets the SLO its rank.

    The cheapest first, and of those the one farthest from its limits; or the highest rate first.
    """

    def key(row: Row) -> tuple[float, float, str]:
        if row.capacity is not None and row.capacity.rate is not None:
            return -row.capacity.rate.mean, row.candidate.dollars_per_hour, row.candidate.name
        loads = [each.load(found.task.base) for each in row.looks]
        return row.candidate.dollars_per_hour, sum(loads) / len(loads), row.candidate.name

    ranked = sorted((row for row in found.rows if row.rank is not None), key=key)
    for place, row in enumerate(ranked, 1):
        row.rank = place
    found.rows.sort(key=lambda row: (row.rank or inf, row.candidate.dollars_per_hour, row.candidate.name))
