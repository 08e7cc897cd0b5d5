"""`tetrisim advise`: what binds, and the cheapest change that would fix a missed SLO."""

import os

import typer

from tetrisim.cli.capacity import SeedsOption
from tetrisim.cli.common import (
    JsonOption,
    ScenarioArgument,
    SetOption,
    one_line_errors,
    print_json,
    read_scenario,
    sign_of_life,
)
from tetrisim.cli.criterion import GoodputOption, PercentileOption, WarmupOption, parse_criterion

NO_CHANGE = 3
"""Exit code when neither a change nor a pair of them meets the SLO."""


def advise_command(
    scenario: ScenarioArgument,
    settings: SetOption = None,
    percentile: PercentileOption = None,
    goodput: GoodputOption = None,
    warmup: WarmupOption = 0.1,
    seeds: SeedsOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Say whether the scenario meets its SLO, what binds, and the cheapest change that would fix a miss.

    Every change is run under the same requests and luck. When the SLO is met, the cheapest saving that would still meet
    it. Exit code 3, with the nearest miss, when no change and no pair of changes is enough.
    """
    with one_line_errors():
        # Imported here, or `tetrisim --help` would load numpy and the engine.
        from tetrisim.report.terminal import source_lines
        from tetrisim.studies.advise import advise

        criterion = parse_criterion(percentile, goodput, warmup)
        base = read_scenario(scenario, settings or [])
        with sign_of_life("reading the workload") as now:
            found = advise(base, criterion, seeds, os.cpu_count() or 1, now)
        if as_json:
            print_json(found.summary())
        else:
            typer.echo(f"{found}\n{source_lines([found.summary()])[0]}")
        if not found.met and not found.answers:
            raise typer.Exit(NO_CHANGE)
