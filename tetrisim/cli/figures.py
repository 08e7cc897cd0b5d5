"""`tetrisim figures`: the figures of the TetriInfer paper, and what came of them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tetrisim.cli.common import SetOption, one_line_errors, parse_settings, progress_bar
from tetrisim.errors import OutputError

if TYPE_CHECKING:
    from tetrisim.studies.figures import Verdict

NamesArgument = Annotated[list[str] | None, typer.Argument(help="Figures, as in fig12 or fig12-lphd; all by default.")]
FolderOption = Annotated[
    Path, typer.Option("--out", help="A folder for the pictures and the table; older ones in it are replaced.")
]
JobsOption = Annotated[int, typer.Option("--jobs", min=1, help="Processes.")]


def figures_command(
    names: NamesArgument = None,
    settings: SetOption = None,
    out: FolderOption = Path("out/figures"),
    jobs: JobsOption = 2,
) -> None:
    """Regenerate the paper's figures and print each metric beside the paper's value."""
    with one_line_errors():
        from tetrisim.studies.figures import find_figures, save_verdicts, verdict_table

        folders = find_figures(names or [])
        changes = parse_settings(settings or [])
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(str(out), f"cannot make it: {error.strerror}", "a folder that can be written") from None
        verdicts = _make(folders, out, changes, jobs)
        save_verdicts(out / "figures.csv", verdicts)
        (out / "figures.md").write_text(verdict_table(verdicts))
        _print(verdicts)
        if changes:
            typer.echo("Judged against the paper's testbed, which is not what --set made of it.")
        typer.echo(f"Pictures, figures.csv and figures.md are in {out}.")


def make_figure(folder: Path, out: Path, settings: dict[str, object]) -> "list[Verdict]":
    """One figure, in a process of its own: its picture goes to `out`."""
    from tetrisim.report.style import save
    from tetrisim.studies.figures import run_figure

    findings, verdicts = run_figure(folder, settings)
    save(out / f"{folder.name}.png", findings.draw, *findings.size_in)
    return verdicts


def _make(folders: Sequence[Path], out: Path, settings: dict[str, object], jobs: int) -> "list[Verdict]":
    from tetrisim.studies.workers import workers

    verdicts: list[Verdict] = []
    one = partial(make_figure, out=out, settings=settings)
    with progress_bar("figures") as show, workers(min(jobs, len(folders))) as spread:
        for done, (folder, rows) in enumerate(zip(folders, spread(one, folders), strict=True), 1):
            verdicts += rows
            show(f"{folder.name} done", done, len(folders))
    return verdicts


def _print(verdicts: "Sequence[Verdict]") -> None:
    """One table: figure, metric, paper, ours, verdict; reasons below."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("figure", "metric", "paper"):
        table.add_column(column)
    table.add_column("ours", justify="right")
    table.add_column("verdict")
    for row in verdicts:
        half = f" ±{row.ours.half:.2g}" if row.ours.half else ""
        table.add_row(row.figure, row.metric, row.paper, f"{row.ours.mean:.4g}{half}", row.verdict)
    console = Console(highlight=False)
    console.print(table)
    for row in verdicts:
        if row.reason:
            console.print(f"{row.figure}, {row.metric}: {row.reason}", markup=False)
