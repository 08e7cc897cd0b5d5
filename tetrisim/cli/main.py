"""`tetrisim`: the list of commands."""

from typing import Annotated

import typer

from tetrisim import __version__
from tetrisim.cli.advise import advise_command
from tetrisim.cli.capacity import capacity_command
from tetrisim.cli.compare import compare_command
from tetrisim.cli.figures import figures_command
from tetrisim.cli.lists import gpus_command, models_command, systems_command, traces_command
from tetrisim.cli.plan import plan_command
from tetrisim.cli.profile import app as profile_app
from tetrisim.cli.report import report_command
from tetrisim.cli.run import run_command
from tetrisim.cli.sweep import sweep_command
from tetrisim.cli.timeline import timeline_command
from tetrisim.cli.trace import app as trace_app
from tetrisim.cli.validate import calibrate_command, validate_command

app = typer.Typer(
    name="tetrisim",
    help="What would this LLM serving cluster do? Simulates it, request by request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run_command)
app.command("compare")(compare_command)
app.command("capacity")(capacity_command)
app.command("plan")(plan_command)
app.command("advise")(advise_command)
app.command("sweep")(sweep_command)
app.command("timeline")(timeline_command)
app.command("report")(report_command)
app.command("validate")(validate_command)
app.command("calibrate")(calibrate_command)
app.command("figures")(figures_command)
app.command("systems")(systems_command)
app.command("gpus")(gpus_command)
app.command("models")(models_command)
app.command("traces")(traces_command)
app.add_typer(profile_app, name="profile")
app.add_typer(trace_app, name="trace")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tetrisim {__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction]  # typer calls it
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
