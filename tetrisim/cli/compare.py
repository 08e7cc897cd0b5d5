"""`tetrisim compare`: one scenario through several systems."""

from typing import Annotated

import typer

from tetrisim.cli.common import (
    ExactOption,
    JsonOption,
    OutOption,
    ScenarioArgument,
    SetOption,
    StrictOption,
    one_line_errors,
    print_json,
    print_results,
    read_scenario,
    sign_of_life,
)

SystemsOption = Annotated[
    str,
    typer.Option("--systems", metavar="A,B,...", help="Systems by name; the first is the baseline of perf/$."),
]


def compare_command(
    scenario: ScenarioArgument,
    systems: SystemsOption,
    settings: SetOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    exact_steps: ExactOption = False,
    strict: StrictOption = False,
) -> None:
    """Simulate the same requests under several systems and say which did best on what."""
    with one_line_errors():
        # Imported here, or `tetrisim --help` would load numpy and the engine.
        from tetrisim.studies.compare import compare
        from tetrisim.studies.store import check_free, save_comparison

        if out is not None:
            check_free(out)
        base = read_scenario(scenario, settings or [])
        names = [name.strip() for name in systems.split(",") if name.strip()]
        with sign_of_life("reading the workload") as now:
            comparison = compare(base, names, exact_steps, strict, lambda system: now(f"simulating {system}"))
            if out is not None:
                from tetrisim.report.figures import save_latency

                now(f"writing {out}")
                save_comparison(out, comparison, lambda path: save_latency(path, comparison.results, base.slo))
        if as_json:
            print_json(comparison.summaries)
        else:
            print_results(comparison.summaries, base)
