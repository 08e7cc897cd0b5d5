"""What sustained means, as capacity, advise and plan ask for it on the command line."""

from typing import TYPE_CHECKING, Annotated

import typer

from tetrisim.errors import TetrisimError

if TYPE_CHECKING:
    from tetrisim.studies.judge import Criterion

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


def parse_criterion(percentile: float | None, goodput: float | None, warmup: float) -> "Criterion":
    """The two of them as one: `percentile` of each latency, or `goodput` percent of requests within all limits."""
    from tetrisim.studies.judge import Criterion

    if percentile is not None and goodput is not None:
        raise TetrisimError("--goodput", "is given beside --percentile", "one of the two")
    percent = percentile if goodput is None else goodput
    try:
        return Criterion(99.0 if percent is None else percent, goodput is not None, warmup)
    except ValueError as error:
        option, _, expected = str(error).partition(": expected ")
        option = ("goodput" if goodput is not None else "percentile") if option == "percent" else option
        raise TetrisimError(f"--{option}", "is out of range", expected) from None
