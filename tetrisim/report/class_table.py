"""The small table of a run whose workload has classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from tetrisim.report.terminal import number, slo_limits
from tetrisim.scenario.classes import ClassSpec
from tetrisim.scenario.slo import SloSpec

COLUMNS = (
    ("\ncompleted", "completed"),
    ("TTFT ms\nmean", "mean_ttft_ms"),
    ("\np99", "p99_ttft_ms"),
    ("TPOT ms\nmean", "mean_tpot_ms"),
    ("\np99", "p99_tpot_ms"),
    ("E2EL ms\nmean", "mean_e2el_ms"),
    ("\np99", "p99_e2el_ms"),
    ("within\nSLO %", "slo_attainment"),
)


def class_table(summaries: Sequence[Mapping[str, Any]], classes: Sequence[ClassSpec], slo: SloSpec) -> Table:
    """A row a system and class, with the limits that each class is judged by."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\nclass", no_wrap=True)
    if len(summaries) > 1:
        table.add_column("\nsystem", no_wrap=True)
    for heading, _ in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("\nSLO", no_wrap=True)
    for each in classes:
        for summary in summaries:
            values = [summary[f"{each.name}:{key}"] for _, key in COLUMNS]
            values[-1] = None if values[-1] is None else 100 * values[-1]
            names = [each.name, *([str(summary["system"])] if len(summaries) > 1 else [])]
            table.add_row(*names, *map(number, values), slo_limits(each.slo or slo) or "none")
    return table
