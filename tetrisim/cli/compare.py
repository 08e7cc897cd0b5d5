"""`tetrisim compare`: one scenario through several systems, or one run beside a measured one."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tetrisim.cli.common import (
    ExactOption,
    FormatOption,
    JsonOption,
    OutOption,
    SetOption,
    StrictOption,
    WarmupOption,
    counted_results,
    draw_results,
    one_line_errors,
    parse_format,
    parse_warmup,
    print_json,
    print_results,
    read_scenario,
    sign_of_life,
    words,
)
from tetrisim.errors import TetrisimError

if TYPE_CHECKING:
    from tetrisim.metrics.export import Format
    from tetrisim.metrics.warmup import Warmup
    from tetrisim.scenario.scenario import Scenario
    from tetrisim.simulate import Result
    from tetrisim.studies.compare import Comparison, PairedComparison

RunArgument = Annotated[
    str,
    typer.Argument(metavar="SCENARIO|RUN", help="A scenario YAML file or 'default', or with MEASURED a run's folder."),
]
MeasuredArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="MEASURED",
        help="A measured run: rows of requests (CSV), or the JSON of vllm bench serve, AIPerf or GuideLLM.",
        show_default=False,
    ),
]
SystemsOption = Annotated[
    str | None,
    typer.Option("--systems", metavar="A,B,...", help="Systems, or 'all'; the first is the baseline of perf/$."),
]
SeedsOption = Annotated[
    int,
    typer.Option("--seeds", min=1, help="Above 1: paired differences over so many seeds, with 95 % intervals."),
]


@dataclass(frozen=True)
class Asked:
    """What the command line says, beside what is compared."""

    out: Path | None
    as_json: bool
    to: "Format | None"
    exact_steps: bool
    strict: bool
    seeds: int
    warmup: "Warmup"


def compare_command(  # noqa: PLR0913  # each is an option of the command line
    run: RunArgument,
    measured: MeasuredArgument = None,
    systems: SystemsOption = None,
    settings: SetOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    to: FormatOption = None,
    warmup: WarmupOption = "0",
    exact_steps: ExactOption = False,
    strict: StrictOption = False,
    seeds: SeedsOption = 1,
) -> None:
    """Simulate the same requests under several systems and say which did best on what.

    With a measured run instead of --systems: put it beside the predicted one, metric by metric.
    """
    with one_line_errors():
        asked = Asked(out, as_json, parse_format(to, as_json), exact_steps, strict, seeds, parse_warmup(warmup))
        _check(measured, systems, asked)
        if measured is not None:
            # Imported here, or `tetrisim --help` would load what no other command needs.
            from tetrisim.cli.compare_measured import compare_measured

            compare_measured(run, measured, settings or [], asked)
        else:
            names = list(words(str(systems)))
            if out is not None:
                from tetrisim.studies.store import check_free

                check_free(out)
            _compare_systems(read_scenario(run, settings or []), names, asked)


def _check(measured: Path | None, systems: str | None, asked: Asked) -> None:
    either = "either --systems A,B,... or the file of a measured run"
    if measured is None and systems is None:
        raise TetrisimError("compare", "there is nothing to compare with", either)
    if measured is not None and systems is not None:
        raise TetrisimError("compare", f"--systems is given beside {measured}", either)
    if asked.to is not None and (measured is not None or asked.seeds > 1):
        with_what = f"the measured run {measured}" if measured is not None else "--seeds"
        raise TetrisimError("--format", f"is given with {with_what}", "--json: no tool writes differences")
    if measured is not None and asked.seeds > 1:
        raise TetrisimError("--seeds", f"is given with the measured run {measured}", "one seed beside one measurement")


def _compare_systems(base: "Scenario", names: list[str], asked: Asked) -> None:
    from tetrisim.studies.compare import compare, compare_seeds, every_system
    from tetrisim.studies.store import save_comparison

    unable: dict[str, str] = {}
    if names == ["all"]:
        names, unable = every_system(base)
    paired: PairedComparison | None = None
    with sign_of_life("reading the workload") as now:

        def say(system: str) -> None:
            now(f"simulating {system}")

        if asked.seeds > 1:
            paired = compare_seeds(base, names, asked.seeds, asked.exact_steps, asked.strict, say, asked.warmup)
            comparison = paired.first
        else:
            comparison = compare(base, names, asked.exact_steps, asked.strict, say, asked.warmup)
        if asked.out is not None:
            now(f"writing {asked.out}")
            save_comparison(asked.out, comparison, lambda path: _draw(path, comparison, paired))
    if paired is not None:
        _print_paired(paired, asked.as_json)
    elif asked.to is not None:
        from tetrisim.metrics.export import export

        print_json([export(result, asked.to) for result in _counted(comparison).values()])
    elif asked.as_json:
        print_json(comparison.summaries)
    else:
        print_results(comparison.summaries, base, comparison.results)
    for name, reason in unable.items():
        typer.echo(f"{name} is left out: {reason}", err=True)


def _counted(comparison: "Comparison") -> "dict[str, Result]":
    return counted_results(comparison.results, comparison.summaries)


def _draw(path: Path, comparison: "Comparison", paired: "PairedComparison | None") -> None:
    """The pictures, of the scenario's own seed as are the rows; over seeds also differences.json beside them."""
    draw_results(path, _counted(comparison), comparison.scenario)
    if paired is not None:
        from tetrisim.studies.store import write_json

        write_json(path.with_name("differences.json"), paired.summary())


def _print_paired(paired: "PairedComparison", as_json: bool) -> None:
    if as_json:
        print_json(paired.summary())
        return
    from rich.console import Console

    from tetrisim.report.paired import print_paired

    print_paired(paired.summary(), paired.first.scenario.slo, Console(highlight=False))
