"""What a run predicted: from the run itself, or from the folder that `--out` wrote."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from tetrisim.errors import OutputError, ScenarioError
from tetrisim.metrics.export import Served, served
from tetrisim.metrics.summary import summarize
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Result

COLUMNS = ("arrival_s", "first_token_s", "finish_s", "prompt_tokens", "output_tokens", "status")
SOURCES = ("measured_share", "interpolated_share", "estimated_share", "provenance")


@dataclass(frozen=True)
class Predicted:
    """`where` it was read or what was simulated; `sources`: the shares of its step time and the tables used.

    `itl_ms`: statistics of ITL under vLLM's keys, which the rows of a folder do not tell.
    """

    where: str
    system: str
    run: Served
    sources: dict[str, Any]
    itl_ms: dict[str, float] = field(default_factory=dict[str, float])


def from_result(where: str, result: Result) -> Predicted:
    """A run that was just simulated."""
    summary = summarize(result)
    return Predicted(where, result.scenario.system, served(result), {key: summary[key] for key in SOURCES})


def scenario_file(folder: Path) -> Path:
    """The scenario.yaml of a run folder. ScenarioError for the folder of a comparison, naming its runs."""
    systems = sorted(path.parent for path in folder.glob("*/requests.parquet"))
    if systems:
        raise ScenarioError(str(folder), "is a comparison", "one of its runs: " + ", ".join(map(str, systems)))
    for name in ("requests.parquet", "scenario.yaml"):
        if not (folder / name).is_file():
            expected = "the folder of a run (`tetrisim run ... --out FOLDER`), or a scenario YAML file"
            raise ScenarioError(str(folder), f"has no {name}", expected)
    return folder / "scenario.yaml"


def from_folder(folder: Path, scenario: Scenario) -> Predicted:
    """A run that was written: a lone one, or a system's of a comparison, whose run.json and summary.csv lie above."""
    # Heavy, and needed only for a folder.
    import pyarrow.parquet as pq

    above = folder if (folder / "run.json").is_file() else folder.parent
    try:
        table = pq.read_table(folder / "requests.parquet", columns=list(COLUMNS))
        rows = {name: table.column(name).to_numpy() for name in COLUMNS}
        rows["status"] = rows["status"].astype(str)
        record = cast("dict[str, Any]", json.loads((above / "run.json").read_text()))
        runs = {run["system"]: run for run in record["runs"]}
        sources = {key: runs[scenario.system][key] for key in SOURCES}
        itl = _itl(above / "summary.csv", scenario.system)
    except (KeyError, ValueError, OSError) as problem:
        raise OutputError(str(folder), f"cannot be read ({problem})", "a run as tetrisim wrote it") from None
    return Predicted(str(folder), scenario.system, Served(rows, scenario.slo), sources, itl)


def _itl(path: Path, system: str) -> dict[str, float]:
    import pandas as pd

    found = {str(row["system"]): row for row in pd.read_csv(path).to_dict("records")}[system]
    return {str(key): value for key, value in found.items() if str(key).endswith("_itl_ms") and np.isfinite(value)}
