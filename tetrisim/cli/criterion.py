"""What sustained means, as capacity, advise and plan ask for it on the command line, and how two of them answer."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from tetrisim.cli.common import print_json, read_scenario, sign_of_life
from tetrisim.errors import TetrisimError

if TYPE_CHECKING:
    from tetrisim.scenario.scenario import Scenario
    from tetrisim.studies.judge import Criterion

NOTHING_FITS = 3
"""Exit code when nothing that was looked at meets the SLO: no rate, no change, no cluster."""

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


class Answer(Protocol):
    """What a study found: sentences as text, and plain values."""

    def summary(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        ...


Found = TypeVar("Found", bound=Answer)
Study = Callable[["Scenario", "Criterion", int, int, Callable[[str], object]], Found]
"""Scenario, criterion, seeds, processes, and whom to tell what is under way."""


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


def answer(
    study: Study[Found], scenario: str, settings: Sequence[str], criterion: "Criterion", seeds: int, as_json: bool
) -> Found:
    """Run a study of a scenario on all cores, and print what it found."""
    from tetrisim.report.terminal import source_lines

    base = read_scenario(scenario, settings)
    with sign_of_life("reading the workload") as now:
        found = study(base, criterion, seeds, os.cpu_count() or 1, now)
    if as_json:
        print_json(found.summary())
    else:
        typer.echo(f"{found}\n{source_lines([found.summary()])[0]}")
    return found
