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
from tetrisim.errors import TetrisimError

NO_RATE = 3
"""Exit code when even a very low rate misses the SLO."""

PercentileOption = Annotated[
    float | None,
    typer.Option(
        "--percentile",
        metavar="P",
        help="Sustained: TTFT, TPOT and E2EL at this percentile are each within their limit; 99 by default.",
    ),
]
GoodputOption = Annotated[
    float | None,
    typer.Option(
        "--goodput", metavar="P", help="Sustained: P % of requests are within all limits at once, as in 90, 95 or 99."
    ),
]
WarmupOption = Annotated[
    float, typer.Option("--warmup", metavar="SHARE", help="The first share of the requests is not judged.")
]
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
        from tetrisim.studies.judge import Criterion

        if percentile is not None and goodput is not None:
            raise TetrisimError("--goodput", "is given beside --percentile", "one of the two")
        percent = percentile if goodput is None else goodput
        try:
            criterion = Criterion(99.0 if percent is None else percent, goodput is not None, warmup)
        except ValueError as error:
            option, _, expected = str(error).partition(": expected ")
            option = ("goodput" if goodput is not None else "percentile") if option == "percent" else option
            raise TetrisimError(f"--{option}", "is out of range", expected) from None
        base = read_scenario(scenario, settings or [])
        with sign_of_life("reading the workload") as now:
            found = capacity(base, criterion, seeds, os.cpu_count() or 1, now)
        if as_json:
            print_json(found.summary())
        else:
            typer.echo(f"{found}\n{source_lines([found.summary()])[0]}")
        if found.rate is None:
            raise typer.Exit(NO_RATE)
