"""Figures with expectations: each folder of experiments/ that holds a figure.py, run and judged.

A folder `figNN-name/` has `scenario.yaml`, `expected.csv` (metric, paper, low, high, kind, reason), and `figure.py`
with a function `figure(scenario: Scenario) -> Findings`. Those in `related/` are about other systems than the paper's.
"""

import csv
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from tetrisim.errors import OutputError, ScenarioError, unknown_name
from tetrisim.scenario.load import load, override
from tetrisim.studies.seeds import Estimate

ROOTS = (Path(__file__).parents[2] / "experiments", Path(__file__).parents[1] / "_experiments")
"""Where the figures are: beside the package in a checkout, or inside an installed one."""

RELATED = "related"
"""The folder of those about other systems."""

HOLDS = {"band": "within band", "direction": "direction holds", "report": "reported"}
"""Kind of an expectation -> the verdict when the value lies from `low` to `high`."""

FAILS = "does not hold"


@dataclass(frozen=True)
class Findings:
    """What a figure found: its metrics by name, and how to draw it into an empty matplotlib Figure."""

    metrics: Mapping[str, Estimate | float]
    draw: Callable[[Any], None]
    size_in: tuple[float, float] = (9.0, 4.2)
    """Width and height of the picture."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One metric of one figure: what the paper says, what we find, and whether that is as expected."""

    figure: str
    metric: str
    paper: str
    ours: Estimate
    low: float
    high: float
    verdict: str
    reason: str
    """Why it does not hold, found by investigation; empty where it does."""


def find_figures(names: Sequence[str] = ()) -> list[Path]:
    """The folders of the figures called `names`, in order: a whole name, its `figNN`, or `related` for all of those.

    Where none is named, all but the related ones.
    """
    own = {path.parent.name: path.parent for root in ROOTS for path in sorted(root.glob("*/figure.py"))}
    related = {path.parent.name: path.parent for root in ROOTS for path in sorted(root.glob(f"{RELATED}/*/figure.py"))}
    if not own:
        raise OutputError("figures", "there are none", f"folders with a figure.py in {ROOTS[0]}")
    if not names:
        return list(own.values())
    found: list[Path] = []
    for name in names:
        match = [folder for label, folder in own.items() if name in (label, label.split("-")[0])]
        match += [folder for label, folder in related.items() if name in (label, RELATED)]
        if not match:
            raise unknown_name(ScenarioError, "figures", name, [*own, RELATED, *related])
        found += match
    return found


def run_figure(folder: Path, settings: Mapping[str, object]) -> tuple[Findings, list[Verdict]]:
    """Run one figure, with `settings` laid over its scenario, and judge what it found."""
    scenario = load(folder / "scenario.yaml")
    findings = _function(folder)(override(scenario, settings) if settings else scenario)
    return findings, judge(folder, findings.metrics)


def save_verdicts(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write a row a metric."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["figure", "metric", "paper", "ours", "half_width_95", "verdict", "reason"])
        for row in verdicts:
            ours = (f"{row.ours.mean:.6g}", f"{row.ours.half:.3g}")
            writer.writerow([row.figure, row.metric, row.paper, *ours, row.verdict, row.reason])


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """The same as a Markdown table, without the reasons."""
    lines = ["| figure | metric | paper | ours | verdict |", "|---|---|---|---|---|"]
    for row in verdicts:
        half = f" ± {row.ours.half:.2g}" if row.ours.half else ""
        lines.append(f"| {row.figure} | {row.metric} | {row.paper} | {row.ours.mean:.4g}{half} | {row.verdict} |")
    return "\n".join(lines) + "\n"


def judge(folder: Path, metrics: Mapping[str, Estimate | float]) -> list[Verdict]:
    """Each metric of `expected.csv` beside what was found; a metric on one side only raises ScenarioError."""
    path = folder / "expected.csv"
    verdicts: list[Verdict] = []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {row["metric"] for row in rows} ^ set(metrics)
    if missing:
        raise ScenarioError(str(path), f"'{min(missing)}' is not both expected and found", "the metrics of figure.py")
    for row in rows:
        value = metrics[row["metric"]]
        ours = value if isinstance(value, Estimate) else Estimate(float(value))
        low, high = float(row["low"] or -inf), float(row["high"] or inf)
        holds = low <= ours.mean <= high
        verdict = HOLDS[row["kind"]] if holds else FAILS
        reason = "" if holds else (row["reason"] or "")
        verdicts.append(Verdict(folder.name, row["metric"], row["paper"], ours, low, high, verdict, reason))
    return verdicts


def _function(folder: Path) -> Callable[[Any], Findings]:
    """The `figure` function of a folder's figure.py; scripts may import what they share from experiments/."""
    root = str(folder.parent.parent if folder.parent.name == RELATED else folder.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location(f"figures_{folder.name.replace('-', '_')}", folder / "figure.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.figure
