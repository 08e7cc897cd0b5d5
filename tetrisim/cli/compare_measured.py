"""`tetrisim compare RUN MEASURED`: a measured run beside a predicted one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tetrisim.cli.common import draw_results, print_json, read_scenario, sign_of_life
from tetrisim.errors import TetrisimError

if TYPE_CHECKING:
    from tetrisim.cli.compare import Asked
    from tetrisim.scenario.scenario import Scenario
    from tetrisim.validation.beside import Beside


def compare_measured(run: str, measured: Path, settings: Sequence[str], asked: "Asked") -> None:
    """Print the measured run beside the run of the folder, or beside that of the scenario, which is simulated now."""
    of = _of_folder if Path(run).is_dir() else _of_scenario
    found = of(run, measured, settings, asked)
    if asked.as_json:
        print_json(found.summary())
        return
    from rich.console import Console

    from tetrisim.report.measured import print_beside

    print_beside(found.summary(), Console(highlight=False))


def _of_folder(run: str, measured: Path, settings: Sequence[str], asked: "Asked") -> "Beside":
    from tetrisim.validation.beside import beside
    from tetrisim.validation.predicted import from_folder, scenario_file

    options = {
        "--set": settings,
        "--out": asked.out,
        "--exact-steps": asked.exact_steps,
        "--strict": asked.strict,
    }
    if given := [name for name, value in options.items() if value]:
        raise TetrisimError(given[0], f"is given with the folder {run}, whose run is over", "a scenario YAML file")
    folder = Path(run)
    scenario = read_scenario(str(scenario_file(folder)), [])
    return beside(measured, from_folder(folder, scenario), asked.warmup)


def _of_scenario(run: str, measured: Path, settings: Sequence[str], asked: "Asked") -> "Beside":
    from tetrisim.metrics.summary import summarize
    from tetrisim.simulate import simulate
    from tetrisim.studies.store import check_free, save_run, write_json
    from tetrisim.validation.beside import beside
    from tetrisim.validation.predicted import from_result
    from tetrisim.validation.tool_json import check_measured

    if asked.out is not None:
        check_free(asked.out)
    check_measured(measured)  # before anything is simulated
    scenario: Scenario = read_scenario(run, settings)
    with sign_of_life(f"simulating {scenario.system}") as now:
        result = simulate(scenario, exact_steps=asked.exact_steps, strict=asked.strict)
        now(f"comparing with {measured}")
        found = beside(measured, from_result(run, result), asked.warmup)
        if asked.out is not None:

            def draw(path: Path) -> None:
                draw_results(path, {scenario.system: result}, scenario)
                write_json(path.with_name("measured.json"), found.summary())

            save_run(asked.out, result, summarize(result), draw)
    return found
