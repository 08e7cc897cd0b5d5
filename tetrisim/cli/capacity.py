"""`tetrisim capacity`: the highest arrival rate under the SLO."""

import os
from typing import Annotated

import typer

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

NO_RATE = 3
"""Exit code when even a very low rate misses the SLO."""

SeedsOption = Annotated[int, typer.Option("--seeds", min=1, help="Seeds that the interval is over.")]


def capacity_command(
    scenario: ScenarioArgument,
    settings: SetOption = None,
    percentile: PercentileOption = None,
    goodput: GoodputOption = None,
    warmup: WarmupOption = 0.1,
    seeds: SeedsOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Find the highest arrival rate under the SLO, what binds there, and how far the present load is from it.

    Exit code 3 when even requests that are almost alone miss the SLO.
    """
    with one_line_errors():
        # Imported here, or `tetrisim --help` would load numpy and the engine.
        from tetrisim.report.terminal import source_lines
        from tetrisim.studies.capacity import capacity

        criterion = parse_criterion(percentile, goodput, warmup)
        base = read_scenario(scenario, settings or [])
        with sign_of_life("reading the workload") as now:
            found = capacity(base, criterion, seeds, os.cpu_count() or 1, now)
        if as_json:
            print_json(found.summary())
        else:
            typer.echo(f"{found}\n{source_lines([found.summary()])[0]}")
        if found.rate is None:
            raise typer.Exit(NO_RATE)
