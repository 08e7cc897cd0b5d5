"""`tetrisim figures`: the figures of the TetriInfer paper, and what came of them."""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tetrisim.cli.common import SetOption, one_line_errors, parse_settings

if TYPE_CHECKING:
    from tetrisim.studies.figures import Verdict

NamesArgument = Annotated[list[str] | None, typer.Argument(help="Figures, as in fig12 or fig12-lphd; all by default.")]
FolderOption = Annotated[Path, typer.Option("--out", help="A folder for the pictures and the table.")]
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
        out.mkdir(parents=True, exist_ok=True)
        verdicts = _make(folders, out, parse_settings(settings or []), jobs)
        save_verdicts(out / "figures.csv", verdicts)
        (out / "figures.md").write_text(verdict_table(verdicts))
        _print(verdicts)
        typer.echo(f"Pictures, figures.csv and figures.md are in {out}.")


def make_figure(folder: Path, out: Path, settings: dict[str, object]) -> "list[Verdict]":
    """One figure, in a process of its own: its picture goes to `out`."""
    from tetrisim.report.style import save
    from tetrisim.studies.figures import run_figure

    findings, verdicts = run_figure(folder, settings)
    save(out / f"{folder.name}.png", findings.draw, *findings.size_in)
    return verdicts


def _make(folders: Sequence[Path], out: Path, settings: dict[str, object], jobs: int) -> "list[Verdict]":
    found: dict[str, list[Verdict]] = {}
    # Spawned, not forked: the figures' scripts start from the same clean state on every platform.
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool, _progress(len(folders)) as advance:
        waiting = {pool.submit(make_figure, folder, out, settings): folder.name for folder in folders}
        try:
            for done in as_completed(waiting):
                found[waiting[done]] = done.result()
                advance(waiting[done])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [row for folder in folders for row in found[folder.name]]


@contextmanager
def _progress(total: int) -> Generator[Callable[[str], None]]:
    """A bar over the figures on stderr, when that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _quiet
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("figures", total=total)

        def advance(name: str) -> None:
            bar.update(task, description=f"{name} done", advance=1)

        yield advance


def _quiet(name: str) -> None:
    """Nobody watches."""


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
