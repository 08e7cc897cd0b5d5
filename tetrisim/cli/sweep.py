"""`tetrisim sweep`: a scenario at every point of a grid, on the cores of this machine or a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tetrisim.cli.common import (
    JsonOption,
    ScenarioArgument,
    SetOption,
    draw_results,
    one_line_errors,
    print_json,
    progress_bar,
    read_scenario,
)
from tetrisim.errors import TetrisimError

if TYPE_CHECKING:
    from tetrisim.simulate import Result

GridOption = Annotated[
    list[str],
    typer.Option(
        "--grid",
        metavar="KEY=VALUES",
        help="An axis, as in cluster.instances=1..8 or workload.rate=5,10,20; repeatable: all combinations are run. "
        "Keys that change together: a.b,c.d=(1,3),(2,2).",
    ),
]
FolderOption = Annotated[
    Path, typer.Option("--out", help="A new folder, or that of an earlier sweep, whose runs are not repeated.")
]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, help="Above 1: means with 95 % intervals at each point.")]
JobsOption = Annotated[int | None, typer.Option("--jobs", min=1, help="Local processes; one a core by default.")]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="joblib (this machine), dask or ray (a cluster).")
]
SchedulerOption = Annotated[
    str | None, typer.Option("--scheduler", metavar="ADDR", help="Of the Dask scheduler, or the Ray head.")
]
WaitOption = Annotated[
    float,
    typer.Option("--wait", min=0, metavar="SECONDS", help="How long a cluster has to answer and to have a worker."),
]
PicturesOption = Annotated[bool, typer.Option("--pictures", help="Draw latency.png of each run; slower.")]


def sweep_command(  # noqa: PLR0913  # each is an option of the command line
    scenario: ScenarioArgument,
    grid: GridOption,
    out: FolderOption,
    settings: SetOption = None,
    seeds: SeedsOption = 1,
    jobs: JobsOption = None,
    backend: BackendOption = "joblib",
    scheduler: SchedulerOption = None,
    wait: WaitOption = 30.0,
    pictures: PicturesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Simulate a scenario at every point of a grid, keep every run, and say which point is best by what.

    The same command again, or with a larger grid, runs only what is not there yet.
    """
    with one_line_errors():
        # Imported here, or `tetrisim --help` would load numpy and the engine.
        from tetrisim.studies.grid import parse_grid
        from tetrisim.studies.spread import Backend
        from tetrisim.studies.sweep import Interrupted, sweep

        axes = parse_grid(grid)
        where = Backend(backend, scheduler, jobs, wait)
        base = read_scenario(scenario, settings or [])
        try:
            with progress_bar("preparing") as show:

                def told(done: int, total: int, kept: int) -> None:
                    show("runs" + (f", {kept} kept from before" if kept else ""), done, total)

                done = sweep(base, axes, out, seeds, where, draw_run if pictures else None, told)
        except Interrupted as stopped:
            typer.echo(f"interrupted: {stopped}", err=True)
            raise typer.Exit(130) from None
        if as_json:
            print_json(done.summary())
        else:
            from rich.console import Console

            from tetrisim.report.sweep import print_sweep

            print_sweep(done.summary(), base.slo, Console(highlight=False))
            typer.echo(f"{done.ran} runs simulated, {done.kept} kept from before; rows in {out / 'sweep.csv'}.")
        failed = sum(row["status"] == "failed" for row in done.rows)
        if failed:
            what = f"{failed} of {len(done.rows)} points failed"
            raise TetrisimError("--grid", what, "the same command again, which tries only these")


def draw_run(path: Path, result: "Result") -> None:
    """The figure of one run."""
    draw_results(path, {result.scenario.system: result}, result.scenario)
