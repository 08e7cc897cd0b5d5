"""`tetrisim compare`: one scenario through several systems."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tetrisim.cli.common import (
    ExactOption,
    JsonOption,
    OutOption,
    ScenarioArgument,
    SetOption,
    StrictOption,
    draw_results,
    one_line_errors,
    print_json,
    print_results,
    read_scenario,
    sign_of_life,
)

if TYPE_CHECKING:
    from tetrisim.studies.compare import Comparison, PairedComparison

SystemsOption = Annotated[
    str,
    typer.Option("--systems", metavar="A,B,...", help="Systems by name; the first is the baseline of perf/$."),
]
SeedsOption = Annotated[
    int,
    typer.Option("--seeds", min=1, help="Above 1: paired differences over so many seeds, with 95 % intervals."),
]


def compare_command(  # noqa: PLR0913  # each is an option of the command line
    scenario: ScenarioArgument,
    systems: SystemsOption,
    settings: SetOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    exact_steps: ExactOption = False,
    strict: StrictOption = False,
    seeds: SeedsOption = 1,
) -> None:
    """Simulate the same requests under several systems and say which did best on what."""
    with one_line_errors():
        # Imported here, or `tetrisim --help` would load numpy and the engine.
        from tetrisim.studies.compare import compare, compare_seeds
        from tetrisim.studies.store import check_free, save_comparison

        if out is not None:
            check_free(out)
        base = read_scenario(scenario, settings or [])
        names = [name.strip() for name in systems.split(",") if name.strip()]
        paired: PairedComparison | None = None
        with sign_of_life("reading the workload") as now:

            def say(system: str) -> None:
                now(f"simulating {system}")

            if seeds > 1:
                paired = compare_seeds(base, names, seeds, exact_steps, strict, say)
                comparison = paired.first
            else:
                comparison = compare(base, names, exact_steps, strict, say)
            if out is not None:
                now(f"writing {out}")
                save_comparison(out, comparison, lambda path: _draw(path, comparison, paired))
        if paired is not None:
            _print_paired(paired, as_json)
        elif as_json:
            print_json(comparison.summaries)
        else:
            print_results(comparison.summaries, base, comparison.results)


def _draw(path: Path, comparison: "Comparison", paired: "PairedComparison | None") -> None:
    """The pictures, of the scenario's own seed as are the rows; over seeds also differences.json beside them."""
    draw_results(path, comparison.results, comparison.scenario)
    if paired is not None:
        text = json.dumps(paired.summary(), indent=2, allow_nan=False)
        path.with_name("differences.json").write_text(text + "\n")


def _print_paired(paired: "PairedComparison", as_json: bool) -> None:
    if as_json:
        print_json(paired.summary())
        return
    from rich.console import Console

    from tetrisim.report.paired import print_paired

    print_paired(paired.summary(), paired.first.scenario.slo, Console(highlight=False))
