"""What the commands share: options, settings, errors as one line, and the sign of life on a terminal."""

import atexit
import errno
import json
import signal
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from tetrisim.errors import ScenarioError, TetrisimError, unknown_name
from tetrisim.yamltext import parse_yaml

if TYPE_CHECKING:
    from tetrisim.metrics.export import Format
    from tetrisim.metrics.warmup import Warmup
    from tetrisim.scenario.scenario import Scenario
    from tetrisim.simulate import Result

ScenarioArgument = Annotated[str, typer.Argument(help="A scenario YAML file, or 'default' for the embedded one.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, as in workload.requests=500; repeatable."),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="A new folder for rows, summary, scenario and figure.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON with the keys of `vllm bench serve`.")]
FormatOption = Annotated[
    str | None,
    typer.Option("--format", metavar="TOOL", help="Print the JSON of vllm, aiperf or guidellm, by its definitions."),
]
WarmupOption = Annotated[
    str,
    typer.Option(
        "--warmup",
        metavar="SHARE|auto",
        help="The first share of the requests by arrival is not counted; auto: as many as MSER-5 finds. Rates are then "
        "over the time from the first arrival to the last end of the others.",
    ),
]
ExactOption = Annotated[bool, typer.Option("--exact-steps", help="One event a step: slower, and the same rows.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse step times that were not measured.")]


@contextmanager
def one_line_errors() -> Generator[None]:
    """Turn a TetrisimError or what the disk refuses into one line and 2 or its exit code, Ctrl-C into one and 130."""
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would cut the clean-up short
    try:
        yield
    except TetrisimError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        if error.errno == errno.EPIPE:  # `| head`: typer ends without a word
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        typer.echo(f"error: {where}{error.strerror or error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


def read_scenario(path: str, settings: Sequence[str]) -> "Scenario":
    """The scenario with every `--set` applied; a value is YAML, as it would stand in the file."""
    from tetrisim.scenario.load import load, override

    # A policy of the user's own, named module:function, is looked for beside the scenario and here.
    sys.path[:0] = [str(Path(path).parent.resolve()), str(Path.cwd())]
    changes = parse_settings(settings)
    scenario = load(path)
    return override(scenario, changes) if changes else scenario


def parse_settings(settings: Sequence[str]) -> dict[str, object]:
    """Each KEY=VALUE of `--set`, as `override` takes them."""
    return dict(_setting(text) for text in settings)


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ScenarioError("--set", f"is '{text}'", "KEY=VALUE, as in workload.requests=500")
    try:
        return key.strip(), parse_yaml(value)
    except yaml.YAMLError as error:
        reason = str(getattr(error, "problem", None) or error)
        raise ScenarioError(
            f"--set {key.strip()}", f"'{value}' is not YAML ({reason})", "a value as in the file"
        ) from None


def words(text: str) -> tuple[str, ...]:
    """The parts of an option that takes several values with commas between."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def parse_warmup(text: str) -> "Warmup":
    """What `--warmup` says."""
    if text == "auto":
        return "auto"
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise TetrisimError("--warmup", f"is '{text}'", "a share from 0 to below 1, as in 0.1, or auto")
    return share


def parse_format(name: str | None, as_json: bool) -> "Format | None":
    """What `--format` says; it prints JSON by itself."""
    if name is None:
        return None
    from tetrisim.metrics.export import FORMATS

    if as_json:
        raise TetrisimError("--format", "is given beside --json", "one of the two")
    for known in FORMATS:
        if name == known:
            return known
    raise unknown_name(TetrisimError, "--format", name, FORMATS)


@contextmanager
def sign_of_life(first: str) -> Generator[Callable[[str], None]]:
    """Show on stderr what is under way, when that is a terminal; yields the setter of the text."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(first) as status:
        yield status.update


@contextmanager
def progress_bar(first: str) -> Generator[Callable[[str, int, int], None]]:
    """A bar on stderr with the time left, when that is a terminal; yields the setter of text, done, and total."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text, done, total: None
        return
    left = (TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("to go"))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *left)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(first, total=None)
        yield lambda text, done, total: bar.update(task, description=text, completed=done, total=total)


def print_json(value: object) -> None:
    """Print strict JSON: a value that does not exist is null, never NaN."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_results(
    summaries: Sequence[dict[str, Any]], scenario: "Scenario", results: "Mapping[str, Result] | None" = None
) -> None:
    """Print the table and its sentences; with `results` also what binds, of the requests that are counted."""
    from rich.console import Console

    from tetrisim.metrics.breakdown import breakdown
    from tetrisim.report.class_table import class_table
    from tetrisim.report.terminal import print_page, print_report

    kept = counted_results(results or {}, summaries)
    breakdowns = {system: breakdown(result) for system, result in kept.items()}
    console = Console(highlight=False)
    print_report(summaries, scenario.slo, console, breakdowns)
    classes = scenario.workload.classes
    if classes:
        console.print()
        table = class_table(summaries, classes, scenario.slo)
        print_page(table, ["Goodput counts each class by its own SLO."], console)


def counted_results(results: "Mapping[str, Result]", summaries: Sequence[Mapping[str, Any]]) -> "dict[str, Result]":
    """The runs without what their summaries leave out as warm-up."""
    from tetrisim.metrics.warmup import counted

    cuts = {str(summary["system"]): int(summary.get("warmup_requests", 0)) for summary in summaries}
    return {system: counted(result, cuts.get(system, 0)) for system, result in results.items()}


def draw_results(path: Path, results: "Mapping[str, Result]", scenario: "Scenario") -> None:
    """Draw latency.png, and breakdown.png beside it."""
    from tetrisim.metrics.breakdown import breakdown
    from tetrisim.report.breakdown_plot import save_breakdown
    from tetrisim.report.figures import save_latency

    save_latency(path, results, scenario.slo)
    breakdowns = {system: breakdown(result) for system, result in results.items()}
    save_breakdown(path.with_name("breakdown.png"), breakdowns)
