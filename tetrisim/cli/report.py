"""`tetrisim report`: the folder of a run or a study as one page for a browser."""

from pathlib import Path
from typing import Annotated

import typer

from tetrisim.cli.common import one_line_errors, sign_of_life

FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="What `run`, `compare`, `sweep` or `plan` wrote with --out.")
]
PageOption = Annotated[Path, typer.Option("--out", "-o", help="A new HTML file.")]


def report_command(folder: FolderArgument, out: PageOption = Path("report.html")) -> None:
    """Write one self-contained page: summary, distributions, timelines, breakdown, sources. It fetches nothing."""
    with one_line_errors():
        # Imported here, or `tetrisim --help` would load numpy and pandas.
        from tetrisim.report.html import report_page
        from tetrisim.workload.writers import new_file

        with new_file(out) as partial, sign_of_life(f"reading {folder}"):
            partial.write_text(report_page(folder), encoding="utf-8")
        typer.echo(f"{out}: {out.stat().st_size / 1e6:.2g} MB. Open it in a browser; it needs no network.")
