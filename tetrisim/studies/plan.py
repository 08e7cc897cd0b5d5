"""The cheapest clusters that meet an SLO at a rate, or those that carry most for so many GPUs or so much money."""

import time
from functools import partial
from math import ceil

from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.capacity import checked
from tetrisim.studies.judge import Criterion
from tetrisim.studies.plan_bound import Bound, bound
from tetrisim.studies.plan_cheapest import cheapest
from tetrisim.studies.plan_most import most
from tetrisim.studies.plan_record import Goal, Left, Plan, Progress, trace_of
from tetrisim.studies.plan_search import Task
from tetrisim.studies.plan_space import (
    Candidate,
    Counts,
    Family,
    Space,
    counts_of,
    families,
    largest_counts,
    scenario_of,
)
from tetrisim.studies.workers import Map, Note, silent, workers

LEAST_GPUS, ROOM = 16, 4.0
"""Without a limit, so many GPUs, or so many times what the rate needs at the speed of light, are the most tried."""


def plan(
    scenario: Scenario,
    goal: Goal,
    space: Space | None = None,
    criterion: Criterion | None = None,
    seeds: int = 5,
    jobs: int = 1,
    on_note: Note | None = None,
) -> Plan:
    """The clusters of `space` that reach `goal` under the scenario's SLO (99 % within each limit by default).

    Memory and the speed of light rule out what cannot do; short runs find the smallest cluster of each family (GPU,
    system, tensor parallelism and batch caps) that may; long runs over `seeds` decide, all seeing the same requests
    under the same seed. `jobs` processes share the runs (from a script, more than 1 needs `if __name__ == "__main__"`);
    the answer does not depend on them. Raises ScenarioError for a workload without a rate to change.
    """
    started = time.perf_counter()
    rule = criterion or Criterion()
    trace, _ = checked(scenario, rule)
    task = Task(scenario, rule, len(trace), tuple(range(scenario.seed, scenario.seed + seeds)))
    found = Plan(task, goal, space or Space())
    note = on_note or silent
    with workers(jobs) as spread:
        open_ones = _feasible(found, spread, note)
        if goal.rate_per_s is not None:
            cheapest(found, goal.rate_per_s, open_ones, spread, note)
        else:
            most(found, open_ones, spread, note)
    found.simulated = len({row.candidate for row in found.rows})
    found.wall_s = time.perf_counter() - started
    return found


def _bound(task: Task, rate_per_s: float, family: Family) -> Bound:
    """What limits a family at a rate; each process makes the requests once."""
    one = scenario_of(task.base, Candidate(family, (1,) * len(family.roles)), rate_per_s, task.requests)
    return bound(one, [trace_of(one.workload, seed) for seed in task.seeds], task.criterion)


def _feasible(found: Plan, spread: Map, note: Note) -> list[tuple[Family, list[Counts]]]:
    """The families that memory and the speed of light leave over, with their choices of instances, cheapest first."""
    goal, task = found.goal, found.task
    possible: list[Family] = []
    for family in families(task.base, found.space):
        if isinstance(family, tuple):
            found.left.append(Left(family[0], "impossible", family[1], 0))
        else:
            possible.append(family)
    found.families = len(possible)
    rate = goal.rate_per_s or 1.0
    progress = Progress(note, "bounds of families of clusters", len(possible))
    for family, limit in zip(possible, spread(partial(_bound, task, rate), possible), strict=True):
        found.bounds[family] = limit
        progress.step()
    found.most_gpus = _most_gpus(found)
    open_ones: list[tuple[Family, list[Counts]]] = []
    for family in possible:
        limit, every = found.bounds[family], _choices(found, family)
        found.candidates += len(every)
        if limit.ruled_out:
            found.left.append(Left(family.name, limit.kind, limit.ruled_out, len(every)))
            continue
        fitting = every if goal.rate_per_s is None else [counts for counts in every if limit.allows(counts)]
        if len(fitting) < len(every):
            found.left.append(_too_few(family, limit, rate, len(every) - len(fitting)))
        if fitting:
            open_ones.append((family, sorted(fitting, key=partial(_likely, limit))))
    return open_ones


def _most_gpus(found: Plan) -> int:
    """The most GPUs that a candidate has."""
    goal, asked = found.goal, found.space.most_gpus
    if goal.gpus is not None:
        return goal.gpus if asked is None else min(goal.gpus, asked)
    if goal.rate_per_s is None:
        return asked or 10**6  # the money decides
    needs = [each.together * family.tensor_parallel for family, each in found.bounds.items() if not each.ruled_out]
    return asked or max(LEAST_GPUS, ceil(ROOM * min(needs, default=0.0)))


def _choices(found: Plan, family: Family) -> list[Counts]:
    if found.goal.rate_per_s is not None:
        return counts_of(family, found.most_gpus)
    most = found.most_gpus // family.tensor_parallel
    if found.goal.dollars_per_hour is not None:
        most = min(most, int(found.goal.dollars_per_hour / family.dollars(1) + 1e-9))
    return largest_counts(family, most)


def _likely(limit: Bound, counts: Counts) -> tuple[int, float]:
    """The cheapest first, and of those the one shared out as the work is."""
    needs = limit.needs
    return sum(counts), abs(counts[0] * needs[-1] - counts[-1] * needs[0]) if len(counts) > 1 else 0.0


def _too_few(family: Family, limit: Bound, rate: float, candidates: int) -> Left:
    needs = " and ".join(f"{need:.2f} {role}" for role, need in zip(family.roles, limit.needs, strict=True))
    what = f"{rate:g} requests/s are at least the work of {needs} instances"
    if limit.together > sum(limit.needs):
        what += f", {limit.together:.2f} in all"
    return Left(family.name, "throughput", what, candidates)
