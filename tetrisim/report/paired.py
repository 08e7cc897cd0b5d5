"""Differences between systems over seeds: a table with their intervals, and the sentences under it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tetrisim.report.terminal import number, print_page, slo_line, source_lines, unserved, wall_line, warmup_line
from tetrisim.scenario.slo import SloSpec

NAMES = {
    "mean_ttft_ms": ("mean TTFT", "ms", True),
    "p99_ttft_ms": ("p99 TTFT", "ms", True),
    "mean_tpot_ms": ("mean TPOT", "ms", True),
    "p99_tpot_ms": ("p99 TPOT", "ms", True),
    "mean_e2el_ms": ("mean E2EL", "ms", True),
    "p99_e2el_ms": ("p99 E2EL", "ms", True),
    "request_goodput": ("goodput", "req/s", False),
    "perf_per_dollar": ("perf/$", "", False),
}
"""Summary key, its name in a sentence, its unit, and whether less is better."""

NOT_SHOWN = "no difference shown"


def print_paired(study: Mapping[str, Any], slo: SloSpec, console: Console) -> None:
    """Print what `PairedComparison.summary` holds: the table, a sentence a system, and where it all comes from."""
    runs: Sequence[Mapping[str, Any]] = study["summaries"]
    one_seed = [run for run in runs if run["seed"] == runs[0]["seed"]]
    lines = [
        f"Means over {study['seeds']} seeds, and differences from {study['baseline']} under the same seed; in brackets "
        "95 % intervals.",
        *verdicts(study),
        *unserved(_together(runs)),
        warmup_line(runs),
        slo_line(slo),
        *source_lines(one_seed),
        wall_line(runs),
    ]
    print_page(paired_table(study), lines, console)


def paired_table(study: Mapping[str, Any]) -> Table:
    """A row a metric: the baseline's mean, then each system's difference from it."""
    rows: Sequence[Mapping[str, Any]] = study["differences"]
    systems = list(dict.fromkeys(str(row["system"]) for row in rows))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column(str(study["baseline"]), justify="right", no_wrap=True)
    for system in systems:
        table.add_column(system, justify="right", no_wrap=True)
    for metric, (name, unit, _) in NAMES.items():
        mine = [row for row in rows if row["metric"] == metric]
        base = next((row["baseline"] for row in mine if row["baseline"] is not None), None)
        shown = "-" if base is None else f"{number(base['mean'])} ±{number(base['high'] - base['mean'])}"
        table.add_row(f"{name} {unit}".strip(), shown, *(_cell(row, study["seeds"]) for row in mine))
    return table


def _cell(row: Mapping[str, Any], seeds: int) -> str:
    found = row["difference"]
    if found is None:
        return "-"
    few = "" if row["seeds"] == seeds else f" {row['seeds']} of {seeds} seeds"
    return f"{signed(found['mean'])} ({signed(found['low'])} to {signed(found['high'])}){few}"


def signed(value: float) -> str:
    """A difference: always with its sign."""
    return ("-" if value < 0 else "+") + number(abs(value))


def verdicts(study: Mapping[str, Any]) -> list[str]:
    """A sentence a system: what is better, what is worse, and where no difference is shown."""
    said: dict[str, dict[str, list[str]]] = {}
    for row in study["differences"]:
        name, _, less_is_better = NAMES[row["metric"]]
        kinds = said.setdefault(str(row["system"]), {})
        kinds.setdefault(_kind(row, less_is_better), []).append(name)
    order = ("better on", "worse on", f"{NOT_SHOWN} on", "no value in two seeds for")
    return [
        f"{system} against {study['baseline']}: "
        + "; ".join(f"{kind} {', '.join(kinds[kind])}" for kind in order if kind in kinds)
        + "."
        for system, kinds in said.items()
    ]


def _kind(row: Mapping[str, Any], less_is_better: bool) -> str:
    if row["difference"] is None:
        return "no value in two seeds for"
    if not row["shown"]:
        return f"{NOT_SHOWN} on"
    return "better on" if (row["difference"]["mean"] < 0) == less_is_better else "worse on"


def _together(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The counts of each system over all seeds."""
    counts: dict[str, dict[str, Any]] = {}
    for run in runs:
        own = counts.setdefault(str(run["system"]), {"system": f"{run['system']}, all seeds"})
        for name in ("submitted", "rejected", "unfinished"):
            own[name] = own.get(name, 0) + run[name]
    return list(counts.values())
