"""`tetrisim advise`: what binds, and the cheapest change that would fix a missed SLO."""

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
        from tetrisim.studies.advise import advise

        criterion = parse_criterion(percentile, goodput, warmup)
        found = answer(advise, scenario, settings or [], criterion, seeds, as_json)
        if not found.met and not found.answers:
            raise typer.Exit(NOTHING_FITS)
