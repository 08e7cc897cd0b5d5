"""`tetrisim capacity`: the highest arrival rate under the SLO."""

import typer

from tetrisim.cli.common import JsonOption, ScenarioArgument, SetOption, one_line_errors
from tetrisim.cli.criterion import (
    NOTHING_FITS,
    GoodputOption,
    PercentileOption,
    SeedsOption,
    WarmupOption,
    answer,
    parse_criterion,
)


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
        from tetrisim.studies.capacity import capacity

        criterion = parse_criterion(percentile, goodput, warmup)
        found = answer(capacity, scenario, settings or [], criterion, seeds, as_json)
        if found.rate is None:
            raise typer.Exit(NOTHING_FITS)
