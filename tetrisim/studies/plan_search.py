"""Runs of candidates: what one showed, the smallest cluster of a family that may do, and verdicts over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, sqrt

from tetrisim.metrics.summary import Summary, summarize
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import simulate
from tetrisim.studies.judge import BEHIND, Criterion, Probe, judged
from tetrisim.studies.plan_space import Candidate, Counts, Family, scenario_of
from tetrisim.studies.seeds import Estimate, estimate

MEETS, UNCLEAR, MISSES = "meets", "unclear", "misses"
SHORT_REQUESTS, SHORT_S = 500, 10.0
"""A short run has so many requests, or as many as come in this time but at most half of a long one's."""
QUICK, ALONE = 1.04, 0.01
"""Short runs look for a rate to this factor; below this mean number of requests in the cluster none is looked for."""
UPWARD = 8
"""So many larger clusters of a family are looked at beyond one that is not clear."""


@dataclass(frozen=True, slots=True)
class Task:
    """What all runs of a plan share. `requests`: of a long run; `seeds`: those of the long runs."""

    base: Scenario
    criterion: Criterion
    requests: int
    seeds: tuple[int, ...]

    def short(self, rate_per_s: float) -> int:
        """Requests of a short run."""
        # So many that two of them may miss.
        least = max(SHORT_REQUESTS, int(2 / (1 - self.criterion.percent / 100) / (1 - self.criterion.warmup)) + 1)
        return min(self.requests, max(least, min(int(rate_per_s * SHORT_S), self.requests // 2)))


@dataclass(frozen=True, slots=True)
class Look:
    """One run of a candidate, judged."""

    candidate: Candidate
    seed: int
    requests: int
    probe: Probe
    summary: Summary

    def share(self, criterion: Criterion) -> float:
        """The share of requests within the SLO that the criterion looks at."""
        return self.probe.share(criterion)

    def status(self, criterion: Criterion) -> str:
        """`misses` when more miss than luck explains: six square roots of those that may, and three, on top of them.

        Requests of one burst miss together, so this leaves much more room than independent ones would need.
        """
        count = self.requests - int(self.requests * criterion.warmup)
        may = count * (1 - criterion.percent / 100)
        late = count * (1 - self.share(criterion))
        if late > may + 6 * sqrt(may) + 3 + 1e-9:
            return MISSES
        return MEETS if late <= may + 1e-9 else UNCLEAR

    def load(self, scenario: Scenario) -> float:
        """How near the criterion's percentile is to its limit: the largest share of one (inf: not served)."""
        given = scenario.slo.limits
        return max((value / given[name] for name, value in self.probe.at.items()), default=0.0)


@dataclass(frozen=True)
class Verdict:
    """A candidate over seeds."""

    margin: Estimate
    """Share of requests within the SLO, less the share asked for."""
    backlog: bool
    """Whether the requests in the cluster grew over all seeds."""

    @property
    def meets(self) -> bool:
        """On average over the seeds."""
        return self.margin.mean >= -1e-9 and not self.backlog

    @property
    def sure(self) -> bool:
        """Whether the interval leaves no doubt of it."""
        return not (self.margin.low < -1e-9 and self.margin.high > 0)


@dataclass(frozen=True, slots=True)
class Searched:
    """A family's runs, those that may meet the SLO, and what was left out: (reason, counts)."""

    family: Family
    looks: tuple[Look, ...]
    contenders: tuple[Counts, ...]
    left_out: tuple[tuple[str, Counts], ...]
    further: tuple[Counts, ...]
    """Costlier ones, to try when all contenders miss over the seeds."""


def look(task: Task, candidate: Candidate, rate_per_s: float, requests: int, seed: int) -> Look:
    """Run a candidate once."""
    result = simulate(scenario_of(task.base, candidate, rate_per_s, requests, seed))
    return Look(candidate, seed, requests, judged(result, rate_per_s, task.criterion), summarize(result))


def verdict(looks: Sequence[Look], criterion: Criterion) -> Verdict:
    """What the runs of one candidate say together."""
    margin = estimate([each.share(criterion) - criterion.percent / 100 for each in looks])
    return Verdict(margin, estimate([each.probe.growth for each in looks]).low > BEHIND)


def search(task: Task, rate_per_s: float, job: tuple[Family, Sequence[Counts], float]) -> Searched:
    """The cheapest clusters of a family that may meet the SLO, from a list with the cheapest first, up to a price.

    It is taken for granted that fewer instances do no better. Short runs first; a long one where the short one does not
    clearly miss.
    """
    family, order, most_dollars = job
    runs: dict[Counts, str] = {}
    looks: list[Look] = []

    def status(counts: Counts) -> str:
        if counts not in runs:
            for requests in dict.fromkeys((task.short(rate_per_s), task.requests)):
                each = look(task, Candidate(family, counts), rate_per_s, requests, task.seeds[0])
                looks.append(each)
                runs[counts] = each.status(task.criterion)
                if runs[counts] == MISSES:
                    break
        return runs[counts]

    affordable = [counts for counts in order if family.dollars(sum(counts)) <= most_dollars + 1e-9]
    smallest = _smallest(affordable, status)
    contenders = [] if smallest is None else [smallest]
    upward = (
        [] if smallest is None else [each for each in affordable if sum(each) >= sum(smallest) and each != smallest]
    )
    for counts in upward[:UPWARD]:
        if runs[contenders[-1]] == MEETS and sum(counts) > sum(contenders[-1]):
            break  # others of the same price may do as well
        if not _dominated(counts, runs) and status(counts) != MISSES:
            contenders.append(counts)
    left = _left_out(order, affordable, runs, smallest, most_dollars)
    further = tuple(counts for counts in upward if counts not in runs and not _dominated(counts, runs))
    return Searched(family, tuple(looks), tuple(contenders), left, further)


@dataclass(frozen=True, slots=True)
class Carried:
    """What a cluster carries in short runs: requests a second (0: nothing), and the run at that rate or just above."""

    candidate: Candidate
    rate_per_s: float
    look: Look


def carry(task: Task, job: tuple[Candidate, float]) -> Carried:
    """The highest rate at which short runs meet the SLO and keep up, by bisection below the speed of light's."""
    candidate, high = job
    rate, low, best = high / 4, 0.0, None
    while True:
        each = look(task, candidate, rate, task.short(rate), task.seeds[0])
        if each.status(task.criterion) == MEETS and not _grows(each):
            low, best = rate, each
        else:
            high = rate
        if low and high / low <= QUICK:
            assert best is not None
            return Carried(candidate, low, best)
        if not low and high * each.probe.stay_s < ALONE:
            return Carried(candidate, 0.0, each)  # even requests that are almost alone miss
        rate = sqrt(low * high) if low else high / 4


def _grows(one: Look) -> bool:
    """Whether the requests in the cluster grew by more than the luck of a quarter of the arrivals explains."""
    return one.probe.growth > BEHIND + 2 / sqrt(one.requests / 4)


def _smallest(order: Sequence[Counts], status: Callable[[Counts], str]) -> Counts | None:
    """The cheapest that does not clearly miss: in strides from the small end, then by halves."""
    left, found, stride = list(order), None, 1
    while left:
        counts = left[(len(left) - 1) // 2 if found else min(len(left), stride) - 1]
        if status(counts) == MISSES:
            stride *= 2
            left = [each for each in left if not _within(each, counts)]
        else:
            found = counts
            left = [each for each in left if sum(each) < sum(counts)]
    return found


def _within(counts: Counts, other: Counts) -> bool:
    return all(mine <= yours for mine, yours in zip(counts, other, strict=True))


def _dominated(counts: Counts, runs: dict[Counts, str]) -> bool:
    """Whether one that missed has as many instances or more of every role."""
    return any(said == MISSES and _within(counts, other) for other, said in runs.items())


def _left_out(
    order: Sequence[Counts], affordable: Sequence[Counts], runs: dict[Counts, str], smallest: Counts | None, most: float
) -> tuple[tuple[str, Counts], ...]:
    dear = set(order) - set(affordable)
    found: list[tuple[str, Counts]] = []
    for counts in order:
        if counts in runs:
            continue
        if counts in dear:
            found.append((f"costs more than {most:.2f} $/h, twice the cheapest cluster that may meet the SLO", counts))
        elif _dominated(counts, runs):
            found.append(("fewer instances than a cluster of its family that misses", counts))
        elif smallest is not None:
            found.append(("costs as much as a smaller cluster of its family that may meet the SLO, or more", counts))
    return tuple(found)


def paired(one: Sequence[float], other: Sequence[float]) -> Estimate | None:
    """The difference seed by seed; None where a value does not exist or there is one seed."""
    if len(one) != len(other) or len(one) < 2 or any(value == inf for value in (*one, *other)):
        return None
    return estimate([mine - yours for mine, yours in zip(one, other, strict=True)])
