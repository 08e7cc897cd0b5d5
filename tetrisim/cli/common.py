"""What the commands share: options, settings, errors as one line, and the sign of life on a terminal."""

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from tetrisim.errors import ScenarioError, TetrisimError

if TYPE_CHECKING:
    from tetrisim.scenario.scenario import Scenario
    from tetrisim.simulate import Result

ScenarioArgument = Annotated[str, typer.Argument(help="A scenario YAML file, or 'default' for the embedded one.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting, as in workload.requests=500; repeatable."),
]
OutOption = Annotated[Path | None, typer.Option("--out", help="A new folder for rows, summary, scenario and figure.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON with the keys of `vllm bench serve`.")]
ExactOption = Annotated[bool, typer.Option("--exact-steps", help="One event a step: slower, and the same rows.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Refuse step times that were not measured.")]


@contextmanager
def one_line_errors() -> Generator[None]:
    """Turn a TetrisimError into one line and its exit code, and Ctrl-C into one line and exit code 130."""
    try:
        yield
    except TetrisimError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(error.exit_code) from None
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
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ScenarioError(f"--set {key.strip()}", f"'{value}' is not YAML", "a value as in the file") from None


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


def print_json(value: object) -> None:
    """Print strict JSON: a value that does not exist is null, never NaN."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def print_results(
    summaries: Sequence[dict[str, Any]], scenario: "Scenario", results: "Mapping[str, Result] | None" = None
) -> None:
    """Print the table and its sentences; with `results` also what binds."""
    from rich.console import Console

    from tetrisim.metrics.breakdown import breakdown
    from tetrisim.report.terminal import print_report

    breakdowns = {system: breakdown(result) for system, result in (results or {}).items()}
    print_report(summaries, scenario.slo, Console(highlight=False), breakdowns)


def draw_results(path: Path, results: "Mapping[str, Result]", scenario: "Scenario") -> None:
    """Draw latency.png, and breakdown.png beside it."""
    from tetrisim.metrics.breakdown import breakdown
    from tetrisim.report.breakdown_plot import save_breakdown
    from tetrisim.report.figures import save_latency

    save_latency(path, results, scenario.slo)
    breakdowns = {system: breakdown(result) for system, result in results.items()}
    save_breakdown(path.with_name("breakdown.png"), breakdowns)
