"""The most that so many GPUs or so much money can carry: short runs of each cluster, then capacities over seeds."""

from collections.abc import Sequence
from functools import partial

from tetrisim.studies.capacity import Capacity, capacity
from tetrisim.studies.plan_bound import most_rate
from tetrisim.studies.plan_record import Left, Plan, Progress, Row, rank, source, trace_of
from tetrisim.studies.plan_search import MEETS, Carried, Look, Task, carry, look, verdict
from tetrisim.studies.plan_space import Candidate, Counts, Family, scenario_of
from tetrisim.studies.workers import Map, Note

NEAR = 0.85
"""Clusters whose short runs carry less than this share of the best one's get no long runs."""
FINALISTS, ALIKE = 8, 2
"""So many at most get long runs, and of those with the same GPU, system and tensor parallelism so many."""


LOWERED = 10
"""Times at most that a final rate is lowered by a hundredth."""


def most(found: Plan, open_ones: Sequence[tuple[Family, list[Counts]]], spread: Map, note: Note) -> None:
    """Fill in the rows of a plan for GPUs or money."""
    task = found.task
    every = [Candidate(family, counts) for family, order in open_ones for counts in order]
    progress = Progress(note, "what the speed of light allows", len(every))
    ceiling: dict[Candidate, float] = {}
    for candidate, rate in zip(every, spread(partial(_most_rate, task), every), strict=True):
        ceiling[candidate] = rate
        progress.step()
    tops: dict[Family, Candidate] = {}
    for candidate in sorted(every, key=lambda each: (-ceiling[each], each.name)):
        tops.setdefault(candidate.family, candidate)
    chooser = source(found, list(tops))
    progress = Progress(note, "short runs of clusters", len(every))
    best, carried = 0.0, list[Carried]()
    by_family: dict[Family, list[Candidate]] = {}
    for candidate in every:
        by_family.setdefault(candidate.family, []).append(candidate)
    for wave in chooser.waves():
        jobs: list[tuple[Candidate, float]] = []
        for candidate in (each for family in wave for each in by_family[family]):
            if ceiling[candidate] < NEAR * best:
                what = f"cannot exceed {ceiling[candidate]:.3g} requests/s, and short runs of another carry {best:.3g}"
                found.left.append(Left(candidate.name, "throughput", what, 1))
                progress.step()
            else:
                jobs.append((candidate, ceiling[candidate]))
        results = {family: 0.0 for family in wave}
        for each in spread(partial(carry, task), jobs):
            carried.append(each)
            results[each.candidate.family] = max(results[each.candidate.family], each.rate_per_s)
            best = max(best, each.rate_per_s)
            progress.step()
        for family, rate in results.items():
            chooser.tell(family, -rate)
    _finals(found, carried, best, spread, note)


def _most_rate(task: Task, candidate: Candidate) -> float:
    one = scenario_of(task.base, candidate, 1.0, task.requests)
    return most_rate(one, [trace_of(one.workload, task.seeds[0])], task.criterion, candidate.counts)


def _finals(found: Plan, carried: Sequence[Carried], best: float, spread: Map, note: Note) -> None:
    """Capacities over all seeds of the clusters that carry most in short runs."""
    task = found.task
    order = sorted(carried, key=lambda each: (-each.rate_per_s, each.candidate.name))
    near = [each.candidate for each in order if each.rate_per_s and each.rate_per_s >= NEAR * best]
    kinds: dict[tuple[str, str, int], list[Candidate]] = {}
    for candidate in near:
        family = candidate.family
        kinds.setdefault((family.gpu, family.system, family.tensor_parallel), []).append(candidate)
    finalists = [candidate for candidate in near if any(candidate in each[:ALIKE] for each in kinds.values())][
        :FINALISTS
    ]
    for each in carried:
        said = verdict([each.look], task.criterion)
        rate = each.look.probe.rate_per_s
        found.rows.append(Row(each.candidate, "short", rate, (each.look,), said, meets=bool(each.rate_per_s)))
    rows = {row.candidate: row for row in found.rows}
    progress = Progress(note, f"capacities over {len(task.seeds)} seeds", len(finalists))
    for candidate, (sustained, looks) in zip(finalists, spread(partial(_sustained, task), finalists), strict=True):
        row = rows[candidate]
        row.stage, row.capacity, row.meets = "final", sustained, bool(looks)
        found.runs += sum(each.runs for each in sustained.found) + len(looks)
        if looks:
            row.looks, row.verdict, row.rank = looks, verdict(looks, task.criterion), 0
            row.rate_per_s = looks[0].probe.rate_per_s
        progress.step()
    found.runs += len(carried)
    rank(found)


def _sustained(task: Task, candidate: Candidate) -> tuple[Capacity, tuple[Look, ...]]:
    """What a cluster sustains, and its runs at the lowest rate of its seeds; none where one meets none.

    A seed may miss below its own rate, where others come together: then the rate is lowered until all meet it.
    """
    found = capacity(scenario_of(task.base, candidate), task.criterion, len(task.seeds))
    rates = [each.met.rate_per_s if each.met else 0.0 for each in found.found]
    rate = float(f"{min(rates):.4g}") * 0.999
    if not min(rates):
        return found, ()
    looks = _looks(task, candidate, rate)
    for _ in range(LOWERED):
        if all(each.status(task.criterion) == MEETS for each in looks):
            break
        rate *= 0.99
        looks = _looks(task, candidate, rate)
    return found, looks


def _looks(task: Task, candidate: Candidate, rate_per_s: float) -> tuple[Look, ...]:
    return tuple(look(task, candidate, rate_per_s, task.requests, seed) for seed in task.seeds)
