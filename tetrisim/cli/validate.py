"""`tetrisim validate` and `tetrisim calibrate`: the simulator against what was measured."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from tetrisim.cli.common import JsonOption, one_line_errors, print_json, read_scenario, sign_of_life
from tetrisim.errors import ScenarioError

if TYPE_CHECKING:
    from tetrisim.validation.scorecard import Scorecard

T = TypeVar("T")

MEASURED_HELP = "Rows of requests (CSV), the JSON of `vllm bench serve --save-detailed`, or a recorded case's folder."
MeasuredOption = Annotated[Path | None, typer.Option("--measured", help=MEASURED_HELP)]


class Report(Protocol):
    """What every validation hands back."""

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        ...

    def lines(self) -> list[str]:
        """For the terminal."""
        ...


def validate_command(
    scenario: Annotated[str | None, typer.Argument(help="With --measured: a scenario YAML file.")] = None,
    measured: MeasuredOption = None,
    steps: Annotated[
        Path | None, typer.Option("--steps", help="Recorded engine steps: a case, or a folder of them.")
    ] = None,
    points: Annotated[Path | None, typer.Option("--points", help="Steady-state points (CSV): TTFT and TPOT.")] = None,
    profiles: Annotated[
        Path | None, typer.Option("--profile", help="Profiles to use; before the scenario's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A new folder for rows, report and figure.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the simulator with a measured run, recorded steps, or steady-state points.

    The exit code is 0 however large the error is: this is a report.
    """
    with one_line_errors():
        _only_one(scenario, {"--measured": measured, "--steps": steps, "--points": points})
        report: Report
        if steps is not None:
            from tetrisim.validation.steps import check_steps

            report = _run("replaying steps", lambda: check_steps(steps))
        elif points is not None:
            report = _points(points, profiles)
        else:
            report = _measured(str(scenario), Path(str(measured)), profiles, out)
        if as_json:
            print_json(report.summary())
        else:
            typer.echo("\n".join(report.lines()))


def calibrate_command(
    scenario: Annotated[str, typer.Argument(help="A scenario YAML file.")],
    measured: Annotated[Path, typer.Option("--measured", help=MEASURED_HELP)],
    out: Annotated[Path, typer.Option("--out", help="A new folder: the fitted profile.")],
    part: Annotated[float, typer.Option("--part", help="Fit on this first fraction of the run, by time.")] = 0.5,
    as_json: JsonOption = False,
) -> None:
    """Fit host overhead and one scale to part of a measured run, as a profile that says it is fitted.

    Nothing uses it unless a scenario names it.
    """
    with one_line_errors():
        from tetrisim.validation.calibrate import calibrate
        from tetrisim.validation.readers import read_measured

        resolved = read_scenario(scenario, [])
        run = read_measured(measured)
        fit = _run("fitting", lambda: calibrate(resolved, run, out, part))
        if as_json:
            print_json(fit.summary())
        else:
            typer.echo("\n".join(fit.lines()))


def _run(what: str, work: Callable[[], T]) -> T:
    with sign_of_life(what):
        return work()


def _only_one(scenario: str | None, modes: dict[str, Path | None]) -> None:
    given = [name for name, path in modes.items() if path is not None]
    if len(given) != 1:
        named = " and ".join(given) or "nothing to compare with"
        raise ScenarioError("validate", named, "one of --measured, --steps and --points")
    if (scenario is None) == (given[0] == "--measured"):
        needs = "a scenario with --measured" if scenario is None else f"no scenario with {given[0]}"
        raise ScenarioError("validate", "no scenario" if scenario is None else f"scenario '{scenario}'", needs)


def _points(path: Path, profiles: Path | None) -> Report:
    from tetrisim.validation.points import check_points

    return _run("running closed loops", lambda: check_points(path, profiles))


def _measured(scenario: str, path: Path, profiles: Path | None, out: Path | None) -> "Scorecard":
    from tetrisim.studies.store import check_free
    from tetrisim.validation.readers import read_measured
    from tetrisim.validation.scorecard import validate

    if out is not None:
        check_free(out)
    resolved = read_scenario(scenario, [] if profiles is None else [f"profile={profiles}"])
    run = read_measured(path)
    card = _run(f"replaying {path.name}", lambda: validate(resolved, run))
    if out is not None:
        _write(out, card)
    return card


def _write(out: Path, card: "Scorecard") -> None:
    """report.json, requests.csv with both sides, scenario.yaml, and the figures."""
    from tetrisim.report.validation_plot import save_validation
    from tetrisim.scenario.load import dump_yaml
    from tetrisim.studies.store import new_folder, write_json
    from tetrisim.validation.timeline import timelines, write_rows

    with new_folder(out) as folder:
        write_json(folder / "report.json", card.summary())
        (folder / "scenario.yaml").write_text(dump_yaml(card.scenario))
        write_rows(folder / "requests.csv", card.run)
        title = f"{card.scenario.system} on {card.run.measured.path.name}, {int(card.run.compared.sum())} requests"
        save_validation(folder / "validation.png", title, card.samples, timelines(card.run))
