"""The same requests through several serving systems."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tetrisim.errors import ScenarioError, unknown_name
from tetrisim.metrics.summary import Summary, summarize
from tetrisim.scenario.load import with_system
from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.systems import SYSTEMS
from tetrisim.simulate import Result, simulate

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


def compare(
    scenario: Scenario,
    systems: Iterable[str],
    exact_steps: bool = False,
    strict: bool = False,
    on_start: Callable[[str], object] | None = None,
) -> Comparison:
    """Run `scenario` under each of `systems` with one seed: all see the same requests and the same luck.

    Every system is resolved and checked before the first one runs. `exact_steps` and `strict` are those of
    `simulate`; `on_start` is told each system as its run begins. Raises ScenarioError for a name that is
    unknown or given twice.
    """
    scenarios = [with_system(scenario, name) for name in checked_systems(scenario, systems)]
    results: dict[str, Result] = {}
    summaries: list[Summary] = []
    for each in scenarios:
        if on_start is not None:
            on_start(each.system)
        results[each.system] = simulate(each, exact_steps=exact_steps, strict=strict)
        summaries.append(summarize(results[each.system], summaries[0] if summaries else None))
    return Comparison(scenario, results, summaries)


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
