"""The cheapest clusters at a rate: short runs family by family, then long ones over all seeds, the cheapest first."""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from math import inf

from tetrisim.studies.plan_families import SAMPLED
from tetrisim.studies.plan_record import Left, Plan, Progress, Row, rank, source
from tetrisim.studies.plan_search import Look, Searched, Task, look, search, verdict
from tetrisim.studies.plan_space import Candidate, Counts, Family
from tetrisim.studies.workers import Map, Note

FAR = 2.0
"""Clusters that cost more than this many times the cheapest one that may do are not simulated."""


def cheapest(
    found: Plan, rate: float, open_ones: Sequence[tuple[Family, list[Counts]]], spread: Map, note: Note
) -> None:
    """Fill in the rows of a plan for a rate."""
    task, orders = found.task, dict(open_ones)
    by_price = sorted(orders, key=lambda family: (family.dollars(sum(orders[family][0])), family.name))
    chooser = source(found, by_price)
    progress = Progress(note, "short runs of families", min(len(by_price), SAMPLED if found.sampled else len(by_price)))
    best, searched = inf, list[Searched]()
    for wave in chooser.waves():
        jobs = [(family, orders[family], best * FAR) for family in wave]
        for each in spread(partial(search, task, rate), jobs):
            searched.append(each)
            dearest = min((sum(counts) for counts in each.contenders), default=0)
            price = each.family.dollars(dearest) if dearest else inf
            chooser.tell(each.family, price)
            best = min(best, price)
            progress.step()
    for family in set(by_price) - {each.family for each in searched}:
        reason = f"optuna proposed {len(searched)} other families"
        found.left.append(Left(family.name, "not sampled", reason, len(orders[family])))
    looked = {each.family: each for each in searched}
    _keep_short(found, rate, searched)
    _decide(found, rate, looked, spread, note)
    rank(found)


def _keep_short(found: Plan, rate: float, searched: Sequence[Searched]) -> None:
    """Rows of what was run so far, and the reasons of what was not."""
    for each in searched:
        latest = {one.candidate: one for one in each.looks}  # the long run comes after the short one
        found.runs += len(each.looks)
        for candidate, one in latest.items():
            stage = "short" if one.requests < found.task.requests else "long"
            said = verdict([one], found.task.criterion)
            found.rows.append(Row(candidate, stage, rate, (one,), said, meets=said.meets))
        for reason, count in Counter(reason for reason, _ in each.left_out).items():
            kind = "price" if reason.startswith("costs") else "fewer than one that misses"
            found.left.append(Left(each.family.name, kind, reason, count))


def _decide(found: Plan, rate: float, looked: dict[Family, Searched], spread: Map, note: Note) -> None:
    """Long runs over all seeds, the cheapest contenders first, until enough answers are found."""
    task, rows = found.task, {row.candidate: row for row in found.rows}
    line: list[tuple[float, str, Candidate]] = []
    further = {family: list(each.further) for family, each in looked.items()}
    waiting = {family: len(each.contenders) for family, each in looked.items()}
    for each in looked.values():
        for counts in each.contenders:
            _queue(line, Candidate(each.family, counts))
    while line and len(found.answers) < found.goal.answers:
        price = line[0][0]
        batch: list[Candidate] = []
        while line and line[0][0] <= price + 1e-9:
            batch.append(heapq.heappop(line)[2])
        note(f"long runs over {len(task.seeds)} seeds of {len(batch)} clusters of {price:.2f} $/h")
        for candidate, looks in _long_runs(task, rate, batch, rows, spread):
            said = verdict(looks, task.criterion)
            if candidate not in rows:
                rows[candidate] = Row(candidate, "long", rate, looks, said)
                found.rows.append(rows[candidate])
            row = rows[candidate]
            found.runs += len(looks) - len(row.looks) * (row.looks[0] is looks[0])
            row.stage, row.looks, row.verdict, row.meets = "final", looks, said, said.meets
            row.rank = 0 if said.meets else None
            waiting[candidate.family] -= 1
            if not said.meets and not waiting[candidate.family] and further[candidate.family]:
                waiting[candidate.family] = 1
                _queue(line, Candidate(candidate.family, further[candidate.family].pop(0)))


def _queue(line: list[tuple[float, str, Candidate]], candidate: Candidate) -> None:
    heapq.heappush(line, (candidate.dollars_per_hour, candidate.name, candidate))


def _long_runs(
    task: Task, rate: float, batch: Sequence[Candidate], rows: dict[Candidate, Row], spread: Map
) -> Iterator[tuple[Candidate, tuple[Look, ...]]]:
    """Every candidate with its runs under all seeds; the first seed's is known of those that were searched."""
    done = {each: rows[each].looks if each in rows and rows[each].stage == "long" else () for each in batch}
    wanted = [(each, seed) for each in batch for seed in task.seeds[len(done[each]) :]]
    runs = spread(partial(_one, task, rate), wanted)
    for each in batch:
        yield each, (*done[each], *(next(runs) for _ in task.seeds[len(done[each]) :]))


def _one(task: Task, rate: float, job: tuple[Candidate, int]) -> Look:
    return look(task, job[0], rate, task.requests, job[1])
