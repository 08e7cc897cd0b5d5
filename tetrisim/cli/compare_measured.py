"""`tetrisim compare RUN MEASURED`: a measured run beside a predicted one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tetrisim.cli.common import draw_results, print_json, read_scenario, sign_of_life
from tetrisim.errors import TetrisimError

if TYPE_CHECKING:
    from tetrisim.metrics.warmup import Warmup
    from tetrisim.scenario.scenario import Scenario
    from tetrisim.validation.beside import Beside


@dataclass(frozen=True)
class Measurement:
    """What the command line says."""

    run: str
    measured: Path
    settings: Sequence[str]
    out: Path | None
    as_json: bool
    exact_steps: bool
    strict: bool
    warmup: "Warmup"


def compare_measured(asked: Measurement) -> None:
    """Print the measured run beside the run of the folder, or beside that of the scenario, which is simulated now."""
    found = _of_folder(asked) if Path(asked.run).is_dir() else _of_scenario(asked)
    if asked.as_json:
        print_json(found.summary())
        return
    from rich.console import Console

    from tetrisim.report.measured import print_beside

    print_beside(found.summary(), Console(highlight=False))


def _of_folder(asked: Measurement) -> "Beside":
    from tetrisim.validation.beside import beside
    from tetrisim.validation.predicted import from_folder, scenario_file

    options = {
        "--set": asked.settings,
        "--out": asked.out,
        "--exact-steps": asked.exact_steps,
        "--strict": asked.strict,
    }
    if given := [name for name, value in options.items() if value]:
        raise TetrisimError(
            given[0], f"is given with the folder {asked.run}, whose run is over", "a scenario YAML file"
        )
    folder = Path(asked.run)
    scenario = read_scenario(str(scenario_file(folder)), [])
    return beside(asked.measured, from_folder(folder, scenario), asked.warmup)


def _of_scenario(asked: Measurement) -> "Beside":
    from tetrisim.metrics.summary import summarize
    from tetrisim.simulate import simulate
    from tetrisim.studies.store import check_free, save_run
    from tetrisim.validation.beside import beside
    from tetrisim.validation.predicted import from_result
    from tetrisim.validation.tool_json import check_measured

    if asked.out is not None:
        check_free(asked.out)
    check_measured(asked.measured)  # before anything is simulated
    scenario: Scenario = read_scenario(asked.run, asked.settings)
    with sign_of_life(f"simulating {scenario.system}") as now:
        result = simulate(scenario, exact_steps=asked.exact_steps, strict=asked.strict)
        now(f"comparing with {asked.measured}")
        found = beside(asked.measured, from_result(asked.run, result), asked.warmup)
        if asked.out is not None:

            def draw(path: Path) -> None:
                draw_results(path, {scenario.system: result}, scenario)
                text = json.dumps(found.summary(), indent=2, allow_nan=False)
                path.with_name("measured.json").write_text(text + "\n")

            save_run(asked.out, result, summarize(result), draw)
    return found
