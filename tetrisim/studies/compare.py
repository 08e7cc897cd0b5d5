"""The same requests through several serving systems."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tetrisim.assemble import assemble
from tetrisim.errors import ScenarioError, unknown_name
from tetrisim.metrics.summary import Summary, summarize
from tetrisim.metrics.warmup import Warmup, find_cut
from tetrisim.scenario.load import with_system
from tetrisim.scenario.presets import SYSTEMS
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Result, simulate
from tetrisim.studies.seeds import Estimate, estimate, over_seeds

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """What a comparison found, in the order the systems were named; the first is the baseline of cost."""

    scenario: Scenario
    results: dict[str, Result]
    summaries: list[Summary]

    @cached_property
    def table(self) -> "pd.DataFrame":
        """A row a system, a column a metric."""
        import pandas as pd

        return pd.DataFrame(self.summaries).set_index("system")


METRICS = (
    "mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "p99_tpot_ms", "mean_e2el_ms", "p99_e2el_ms", "request_goodput",
    "perf_per_dollar",
)  # fmt: skip
"""Summary keys whose differences are shown over seeds."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A system's metric less the baseline's, paired seed by seed; `baseline` is the baseline's own mean.

    Seeds where either has no value are left out, and `difference.seeds` says how many are left; None where fewer than
    two are.
    """

    system: str
    metric: str
    baseline: Estimate | None
    difference: Estimate | None

    @property
    def shown(self) -> bool:
        """Whether there is a 95 % interval, and it does not hold zero."""
        found = self.difference
        return found is not None and not found.low <= 0 <= found.high

    def row(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        row: dict[str, Any] = {"system": self.system, "metric": self.metric}
        for name, found in (("baseline", self.baseline), ("difference", self.difference)):
            row[name] = None if found is None else found.interval()
        return {**row, "seeds": 0 if self.difference is None else self.difference.seeds, "shown": self.shown}


@dataclass(frozen=True)
class PairedComparison:
    """A comparison under several seeds: `first` under the scenario's own, `by_seed` the summaries under each."""

    first: Comparison
    by_seed: list[list[Summary]]

    @cached_property
    def differences(self) -> list[Difference]:
        """Every metric of every system but the first against the first."""
        columns = list(zip(*self.by_seed, strict=True))  # a column a system
        return [_difference(columns[0], column, metric) for column in columns[1:] for metric in METRICS]

    def summary(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        seed = self.first.scenario.seed
        return {
            "seeds": len(self.by_seed),
            "baseline": self.first.summaries[0]["system"],
            "differences": [each.row() for each in self.differences],
            "summaries": [
                {"seed": seed + number, **summary} for number, row in enumerate(self.by_seed) for summary in row
            ],
        }


def _difference(baseline: tuple[Summary, ...], other: tuple[Summary, ...], metric: str) -> Difference:
    pairs = [(base[metric], own[metric]) for base, own in zip(baseline, other, strict=True)]
    pairs = [(base, own) for base, own in pairs if base is not None and own is not None]
    name = str(other[0]["system"])
    if len(pairs) < 2:
        return Difference(name, metric, None, None)
    return Difference(
        name, metric, estimate([base for base, _ in pairs]), estimate([own - base for base, own in pairs])
    )


def compare(
    scenario: Scenario,
    systems: Iterable[str],
    exact_steps: bool = False,
    strict: bool = False,
    on_start: Callable[[str], object] | None = None,
    warmup: Warmup = 0.0,
) -> Comparison:
    """Run `scenario` under each of `systems` with one seed: all see the same requests and the same luck.

    Every system is resolved and checked before the first one runs. `exact_steps` and `strict` are those of
    `simulate`; `on_start` is told each system as its run begins; `warmup` leaves the same first requests out of every
    summary. Raises ScenarioError for a name that is unknown or given twice.
    """
    scenarios = [with_system(scenario, name) for name in checked_systems(scenario, systems)]
    results: dict[str, Result] = {}
    for each in scenarios:
        if on_start is not None:
            on_start(each.system)
        results[each.system] = simulate(each, exact_steps=exact_steps, strict=strict)
    cut = find_cut([result.request_columns for result in results.values()], warmup)
    summaries: list[Summary] = []
    for result in results.values():
        summaries.append(summarize(result, summaries[0] if summaries else None, cut))
    return Comparison(scenario, results, summaries)


def compare_seeds(
    scenario: Scenario,
    systems: Iterable[str],
    seeds: int,
    exact_steps: bool = False,
    strict: bool = False,
    on_start: Callable[[str], object] | None = None,
    warmup: Warmup = 0.0,
) -> PairedComparison:
    """`compare` under the scenario's seed and the next ones: within each, all systems share requests and luck."""
    names = checked_systems(scenario, systems)
    if len(names) < 2:
        raise ScenarioError("systems", f"'{names[0]}' alone differs from nothing", "two or more to compare over seeds")
    first: list[Comparison] = []

    def measure(each: Scenario) -> list[Summary]:
        def say(system: str) -> None:
            if on_start is not None:
                on_start(f"{system}, seed {each.seed}")

        found = compare(each, names, exact_steps, strict, say, warmup)
        if not first:
            first.append(found)  # the rows of one seed are kept, or memory would grow with the seeds
        return found.summaries

    by_seed = over_seeds(scenario, measure, seeds)
    return PairedComparison(first[0], by_seed)


def checked_systems(scenario: Scenario, systems: Iterable[str]) -> list[str]:
    """The names, when each is a preset or one of the scenario's own `systems:`, and none comes twice."""
    names = list(systems)
    known = [*SYSTEMS, *scenario.document.get("systems", {})]
    if not names:
        raise ScenarioError("systems", "none named", "one or more of " + ", ".join(known))
    for index, name in enumerate(names):
        if name not in known:
            raise unknown_name(ScenarioError, "systems", name, known)
        if name in names[:index]:
            raise ScenarioError("systems", f"'{name}' is named twice", "each system once")
    return names


def every_system(scenario: Scenario) -> tuple[list[str], dict[str, str]]:
    """The presets that can run this scenario, and of the others why they cannot; raises ScenarioError if none can."""
    able: list[str] = []
    unable: dict[str, str] = {}
    for name in SYSTEMS:
        try:
            assemble(with_system(scenario, name), False, None)
            able.append(name)
        except ScenarioError as error:
            unable[name] = str(error)
    if not able:
        raise ScenarioError("systems", f"none can run this: {next(iter(unable.values()))}", "a scenario that one can")
    return able, unable
