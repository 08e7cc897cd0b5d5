"""`tetrisim timeline`: the steps of a run, to be looked at in ui.perfetto.dev."""

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Annotated

import typer

from tetrisim.cli.common import SetOption, one_line_errors, read_scenario, sign_of_life
from tetrisim.errors import ScenarioError
from tetrisim.units import parse

RunArgument = Annotated[
    str, typer.Argument(metavar="SCENARIO|RUN", help="A scenario YAML file or 'default', or the folder of a run.")
]
FileOption = Annotated[Path, typer.Option("--out", "-o", help="A new file for ui.perfetto.dev.")]
FromOption = Annotated[str, typer.Option("--from", metavar="TIME", help="Show steps from then on, as in '10 s'.")]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="And up to then.")]
RequestsOption = Annotated[
    str | None, typer.Option("--requests", metavar="N,N,...", help="Only the steps and arrows of these requests.")
]
StepsOption = Annotated[int, typer.Option("--steps", min=1, help="At most so many steps.")]


def timeline_command(
    run: RunArgument,
    out: FileOption = Path("trace.pftrace"),
    start: FromOption = "0 s",
    end: ToOption = None,
    requests: RequestsOption = None,
    steps: StepsOption = 20_000,
    settings: SetOption = None,
) -> None:
    """Write what each instance ran, step by step, as a file for ui.perfetto.dev.

    A run is a function of its scenario, so that of a run folder is simulated again, one event a step.
    """
    with one_line_errors():
        # Imported here, or `tetrisim --help` would load numpy and the engine.
        from tetrisim.cluster.steplog import StepLog
        from tetrisim.report.timeline import save_timeline
        from tetrisim.simulate import simulate
        from tetrisim.workload.writers import new_file

        scenario = read_scenario(_scenario_of(run), settings or [])
        log = StepLog(_time(start, "--from"), inf if end is None else _time(end, "--to"), steps, _numbers(requests))
        if log.to_s <= log.from_s:
            raise ScenarioError("--to", f"'{end}' is not after {log.from_s:g} s", "a later time")
        until = min(log.to_s, inf if scenario.horizon_s is None else scenario.horizon_s)
        with new_file(out) as partial, sign_of_life(f"simulating {scenario.system}"):
            result = simulate(replace(scenario, horizon_s=None if until == inf else until), log=log)
            ids = result.request_columns["request_id"].tolist()
            if unknown := sorted((log.requests or frozenset()).difference(ids)):
                raise ScenarioError("--requests", f"there is no request {unknown[0]}", f"0 to {len(ids) - 1}")
            if not log.steps:
                span = f"{log.from_s:g} s to {until:g} s" if until < inf else f"{log.from_s:g} s on"
                who = "none of these requests" if requests else "nothing"
                raise ScenarioError(
                    "--from", f"{who} runs from {span}", f"a time of the {result.simulated_s:g} s of the run"
                )
            size = save_timeline(partial, result, log)
        all_steps = len(log.steps) + log.left_out
        typer.echo(
            f"{out}: {len(log.steps)} steps, {log.steps[0].start_s:.6g} s to {log.steps[-1].end_s:.6g} s, "
            f"{size / 1e6:.1f} MB. Open it at ui.perfetto.dev, which reads it in the browser."
        )
        if log.left_out:
            typer.echo(
                f"{log.left_out} of {all_steps} steps are left out: --from '{log.ends_s:.6g} s' shows later ones, "
                "--requests follows a few requests, --steps allows more."
            )


def _scenario_of(run: str) -> str:
    """The scenario of a run folder, or the scenario itself."""
    folder = Path(run)
    if not folder.is_dir():
        return run
    systems = sorted(path.parent for path in folder.glob("*/scenario.yaml"))
    if systems:
        raise ScenarioError(run, "is a comparison", "one of its runs: " + ", ".join(map(str, systems)))
    return str(folder / "scenario.yaml")


def _time(text: str, option: str) -> float:
    try:
        seconds = parse(text, "_s")
    except ValueError as error:
        raise ScenarioError(option, f"is '{text}'", str(error)) from None
    if seconds < 0:
        raise ScenarioError(option, f"is '{text}'", "a time from 0 on")
    return seconds


def _numbers(text: str | None) -> frozenset[int] | None:
    if text is None:
        return None
    try:
        return frozenset(int(number) for number in text.split(","))
    except ValueError:
        raise ScenarioError("--requests", f"is '{text}'", "request_ids, as in 3,17") from None
