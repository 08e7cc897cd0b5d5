"""What binds, and the cheapest change that would fix a missed SLO, found by running the changes."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np

from tetrisim.errors import ScenarioError, TetrisimError
from tetrisim.metrics.breakdown import PARTS, TO_FIRST_TOKEN, breakdown
from tetrisim.metrics.definitions import completed
from tetrisim.scenario.gpu import dollars_per_hour
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Columns, simulate
from tetrisim.studies.advice import Advice, Row, price, score, worst
from tetrisim.studies.capacity import same_requests
from tetrisim.studies.changes import Change, Refused, apply, improvements, savings, unavailable
from tetrisim.studies.judge import Criterion, Probe, probe
from tetrisim.studies.workers import Map, Note, silent, workers
from tetrisim.workload.trace import Trace, build

PAIRED = 4
"""How many of the best single changes are combined two by two where none is enough, or cheap enough."""


def advise(
    scenario: Scenario,
    criterion: Criterion | None = None,
    seeds: int = 5,
    jobs: int = 1,
    on_note: Note | None = None,
) -> Advice:
    """Whether the scenario meets its SLO (99 % within each limit when no criterion is given), and what would mend it.

    Every change runs under the same seeds, and so the same requests and luck, as the scenario itself. A missed SLO is
    tried to be mended by single changes, and by those pairs of the best of them that are cheaper than the single change
    that mends it; for one that is met, savings are tried.
    `jobs` processes share the changes (from a script, more than 1 needs `if __name__ == "__main__"`). Raises
    ScenarioError for a scenario without an SLO, or one with a horizon.
    """
    started = time.perf_counter()
    rule, note = criterion or Criterion(), on_note or silent
    _check(scenario)
    seeded = range(scenario.seed, scenario.seed + seeds)
    traces = tuple(build(scenario.workload, seed) for seed in seeded)
    note("running the scenario as it is")
    probes = _probes(scenario, rule, traces)
    if not probes[0].within:
        raise ScenarioError("slo.tpot", "limits nothing: no request has a second token", "a limit on ttft or e2el")
    binding = worst(probes, scenario.slo)
    study = _Study(scenario, rule, traces, binding)
    base = study.row(Change("as it is", {}), scenario, probes)
    met = base.meets == "yes"
    parts = _parts(scenario, rule, traces, binding, met)
    changes = savings(scenario) if met else improvements(scenario)
    with workers(min(jobs, len(changes))) as spread:
        rows, refused = study.run(changes, spread, note)
        pairs: list[Row] = []
        if not met:
            pairs, _ = study.run(_pairs(base, rows), spread, note)
    return Advice(
        scenario,
        rule,
        base,
        tuple(rows),
        tuple(pairs),
        tuple([*refused, *([] if met else unavailable(scenario))]),
        binding,
        parts,
        requests=len(traces[0]),
        fixed=seeds > 1 and same_requests(traces[0], traces[1]),
        wall_s=time.perf_counter() - started,
    )


def _check(scenario: Scenario) -> None:
    if not scenario.slo.limits:
        raise ScenarioError("slo", "sets no limit to miss", "one or more of ttft, tpot, e2el")
    if scenario.horizon_s is not None:
        raise ScenarioError("horizon", "leaves requests unserved that would be", "none: all requests are run")


@dataclass(frozen=True, slots=True)
class _Study:
    """What all rows are judged by."""

    scenario: Scenario
    criterion: Criterion
    traces: tuple[Trace, ...]
    binding: str

    def row(self, change: Change, changed: Scenario, probes: Sequence[Probe]) -> Row:
        extra = _extra(changed, self.scenario)
        return Row(
            change,
            changed,
            self.criterion,
            tuple(probes),
            tuple(run.share(self.criterion) for run in probes),
            tuple(run.at[self.binding] for run in probes),
            None if extra == inf else extra,
        )

    def run(self, changes: Iterable[Change], spread: Map, note: Note) -> tuple[list[Row], list[Refused]]:
        """A row for each change that is valid, in their order."""
        rows, refused = list[Row](), list[Refused]()
        valid: list[tuple[Change, Scenario]] = []
        for change in changes:
            try:
                valid.append((change, apply(self.scenario, change)))
            except TetrisimError as error:
                refused.append(Refused(change.name, str(error)))
        probed = spread(partial(_tried, self.criterion, self.traces), [changed for _, changed in valid])
        for number, ((change, changed), found) in enumerate(zip(valid, probed, strict=True), 1):
            note(f"{number} of {len(valid)} changes run")
            if isinstance(found, str):
                refused.append(Refused(change.name, found))
            else:
                rows.append(self.row(change, changed, found))
        return rows, refused


def _tried(criterion: Criterion, traces: tuple[Trace, ...], scenario: Scenario) -> list[Probe] | str:
    """A change's runs, or why it cannot be run: what does not fit in memory shows only then."""
    try:
        return _probes(scenario, criterion, traces)
    except TetrisimError as error:
        return str(error)


def _probes(scenario: Scenario, criterion: Criterion, traces: tuple[Trace, ...]) -> list[Probe]:
    rate_per_s = scenario.workload.rate_per_s or 0.0
    with np.errstate(divide="ignore", invalid="ignore"):  # requests that all come at once have no rate
        return [
            probe(override(scenario, {"seed": scenario.seed + number}), trace, rate_per_s, criterion)
            for number, trace in enumerate(traces)
        ]


def _parts(
    scenario: Scenario, criterion: Criterion, traces: Sequence[Trace], binding: str, met: bool
) -> dict[str, float]:
    """Seconds in each part of the binding metric, over the judged requests that miss it; over all, where it is met."""
    among = {"TTFT": TO_FIRST_TOKEN, "TPOT": [part for part in PARTS if part not in TO_FIRST_TOKEN]}.get(binding, PARTS)
    total = dict.fromkeys(among, 0.0)
    limit = scenario.slo.limits[binding]
    for number, trace in enumerate(traces):
        result = simulate(override(scenario, {"seed": scenario.seed + number}), trace=trace)
        rows, parts = result.request_columns, breakdown(result)
        done = completed(rows)
        judged = (np.arange(len(done)) >= int(len(done) * criterion.warmup))[done]
        chosen = judged & (met | (_latency(rows, binding)[done] > limit))
        for part in among:
            total[part] += float(parts[part][chosen].sum())
    return total


def _latency(rows: Columns, metric: str) -> np.ndarray:
    first, whole = (rows[name] - rows["arrival_s"] for name in ("first_token_s", "finish_s"))
    if metric == "TPOT":
        return (whole - first) / np.maximum(rows["output_tokens"] - 1, 1)
    return first if metric == "TTFT" else whole


def _pairs(base: Row, rows: Sequence[Row]) -> list[Change]:
    """Singles two by two, where that costs less than a single one that meets the SLO on the same system.

    Every change on the same GPUs on top of the best one, since that may have laid bare another bottleneck; then the
    good ones among themselves, one of them twice included. Of changes to the same settings only the best is good.
    """
    scenario = base.scenario
    limit = min((price(row) for row in rows if row.meets == "yes" and not row.other_system), default=inf)
    best: dict[frozenset[str], Row] = {}
    for row in sorted(rows, key=score, reverse=True):
        if row.meets != "yes" and score(row) > score(base):
            best.setdefault(frozenset(row.change.settings), row)
    firsts = list(best.values())[:PAIRED]
    good = {row.change.name for row in firsts}
    tried = [scenario, *(row.scenario for row in rows)]
    pairs: list[Change] = []
    for first in firsts:
        again = _kind(first.change.name)
        for second in improvements(first.scenario):
            on_top = first is firsts[0] and not any(key.endswith(("gpu", "system")) for key in second.settings)
            if on_top or second.name in good or _kind(second.name) == again:
                pair = _joined(first.change, second)
                changed = _applied(scenario, pair)
                if changed and changed not in tried and _extra(changed, scenario) < limit:
                    tried.append(changed)
                    pairs.append(pair)
    return pairs


def _joined(first: Change, second: Change) -> Change:
    name = f"{first.name}, {second.name}"
    if first.name == second.name:
        name = f"{first.name}, twice"
    elif _kind(first.name) == _kind(second.name):
        name = second.name  # a size that the second replaces
    return Change(name, {**first.settings, **second.settings})


def _applied(scenario: Scenario, change: Change) -> Scenario | None:
    try:
        return apply(scenario, change)
    except TetrisimError:
        return None  # two changes that do not go together


def _kind(name: str) -> str:
    """A change without the size at its end: doubling twice is the same kind of change."""
    return name.rstrip("0123456789.")


def _extra(changed: Scenario, scenario: Scenario) -> float:
    """Dollars an hour that a change costs; inf for a faster link, whose price nobody lists."""
    new, old = changed.cluster.kv_link, scenario.cluster.kv_link
    if new and old and new.bandwidth_bytes_per_s > old.bandwidth_bytes_per_s:
        return inf
    return round(dollars_per_hour(changed.cluster) - dollars_per_hour(scenario.cluster), 6) + 0.0  # no -0.0
