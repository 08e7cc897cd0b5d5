"""A measured run beside a predicted one: the table, and the sentences under it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tetrisim.report.paired import NOT_SHOWN
from tetrisim.report.terminal import number, print_page, source_lines


def print_beside(study: Mapping[str, Any], console: Console) -> None:
    """Print what `Beside.summary` holds."""
    missing: Sequence[str] = study["missing"]
    lines = [
        f"{study['measured']} ({study['kind']}) beside {study['system']} ({study['predicted']}).",
        *(f"{note[0].upper()}{note[1:]}." for note in study["notes"]),
        f"Not compared, since the prediction does not have it: {', '.join(missing)}." if missing else "",
        study["intervals"],
        *(f"{line.replace('Step times:', 'Predicted step times:', 1)}" for line in source_lines([study])),
    ]
    print_page(beside_table(study["lines"]), lines, console)


def beside_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """A row a metric: measured, predicted, the difference in percent of the measured value, and its interval."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("measured", "predicted", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    drawn = any(line["low"] is not None for line in lines)
    if drawn:
        table.add_column("", no_wrap=True)
    for line in lines:
        values = (number(line["measured"]), number(line["predicted"]), _percent(line["difference"]))
        table.add_row(line["metric"], *values, *([_interval(line)] if drawn else []))
    return table


def _interval(line: Mapping[str, Any]) -> str:
    if line["low"] is None:
        return ""
    said = "" if line["shown"] else f" {NOT_SHOWN}"
    return f"({_percent(line['low'])} to {_percent(line['high'])}){said}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:+.1%}"
