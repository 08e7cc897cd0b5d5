"""The table of a sweep, a row a point, and the sentences under it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tetrisim.report.terminal import COLUMNS, LEVEL, number, percent, print_page, slo_line
from tetrisim.scenario.slo import SloSpec

Rows = Sequence[Mapping[str, Any]]

SHOWN_COLUMNS = tuple((heading, key) for heading, key in COLUMNS if key not in ("median_ttft_ms", "perf_per_dollar"))
"""Those of a comparison; each sweep's own first, and perf/$, which needs a baseline, is none of them."""

MOST_ROWS = 60
"""Longer tables are for sweep.csv; the best points are named all the same."""

HALF = "_half95"
"""As in tetrisim.studies.sweep."""

# Summary key, name and unit in the sentence, and whether less is better.
BEST = (
    ("mean_ttft_ms", "mean TTFT", "ms", True),
    ("p99_ttft_ms", "p99 TTFT", "ms", True),
    ("mean_tpot_ms", "mean TPOT", "ms", True),
    ("p99_tpot_ms", "p99 TPOT", "ms", True),
    ("mean_e2el_ms", "mean E2EL", "ms", True),
    ("output_throughput", "output", "tok/s", False),
    ("request_goodput", "goodput", "req/s", False),
    ("gpu_seconds", "GPU time used", "GPU-s", True),
)


def print_sweep(study: Mapping[str, Any], slo: SloSpec, console: Console) -> None:
    """Print what sweep.json holds: the table, the best point by each metric, what could not be run, the SLO."""
    rows: Rows = study["rows"]
    names = short_names([key for axis in study["grid"] for key in axis.split(",")])
    own_slo = any(key.startswith("slo") for key in names)
    lines = [
        _seeds_line(study["seeds"]),
        *best_lines(rows, names, study["seeds"]),
        *reason_lines(rows, names),
        unserved_line(rows),
        "Goodput counts requests within each point's own SLO." if own_slo else slo_line(slo),
        source_line(rows),
    ]
    if len(rows) > MOST_ROWS:
        lines.insert(0, f"{len(rows)} points, too many for a table here: all are in sweep.csv.")
    print_page(sweep_table(rows if len(rows) <= MOST_ROWS else [], names), lines, console)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each dotted key by as much of its end as tells it from the others, and is no bare index."""
    short: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[start:]) for start in reversed(range(len(parts))) if not parts[start].isdigit()]
        alone = [end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1]
        short[key] = alone[0] if alone else key
    return short


def sweep_table(rows: Rows, names: Mapping[str, str]) -> Table:
    """The grid's columns and the metrics; why a point was not run is said below."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in names.values():
        table.add_column(f"\n{name}", no_wrap=True)
    for heading, _ in SHOWN_COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*(value_text(row[key]) for key in names), *(_cell(row, key) for _, key in SHOWN_COLUMNS))
    return table


def _cell(row: Mapping[str, Any], key: str) -> str:
    if row["status"] != "ok":
        return row["status"] if key == "completed" else ""
    return number(row[key]) + (f" ±{number(row[key + HALF])}" if row.get(key + HALF) else "")


def value_text(value: object) -> str:
    """A grid value as one would write it."""
    return value if isinstance(value, str) else json.dumps(value)


def _seeds_line(seeds: int) -> str:
    return f"Means over {seeds} seeds, ± half of the 95 % interval." if seeds > 1 else ""


def best_lines(rows: Rows, names: Mapping[str, str], seeds: int) -> list[str]:
    """A sentence a point that is best by some metric, with how many others are level on it."""
    if len(rows) < 2:
        return []
    won: dict[str, list[str]] = {}
    for key, name, unit, less_is_better in BEST:
        ran = [row for row in rows if row.get(key) is not None]
        if not ran:
            continue
        top = (min if less_is_better else max)(ran, key=lambda row: row[key])
        level = sum(_level(row, top, key) for row in ran if row is not top)
        also = f" ({level} more {'within 1 %' if seeds == 1 else 'whose intervals meet its own'})" if level else ""
        won.setdefault(where(top, names), []).append(f"{name} {_cell(top, key)} {unit}{also}")
    return [f"Best at {point}: {'; '.join(metrics)}." for point, metrics in won.items()]


def where(row: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """A point in words."""
    return ", ".join(f"{short} {value_text(row[key])}" for key, short in names.items())


def _level(row: Mapping[str, Any], top: Mapping[str, Any], key: str) -> bool:
    """Whether the intervals of two points meet; those of one seed are taken as 1 % wide."""
    apart = abs(row[key] - top[key])
    return apart <= (row[key + HALF] + top[key + HALF] if key + HALF in top else LEVEL * abs(top[key]))


def reason_lines(rows: Rows, names: Mapping[str, str]) -> list[str]:
    """A line for each reason why points were not run, with the first of them."""
    why: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] != "ok":
            why.setdefault((row["status"], row["reason"]), []).append(row)
    how = {"invalid": "cannot be run"}
    return [
        f"{len(points)} {'points' if len(points) > 1 else 'point'} {how.get(status, status)} "
        f"({'the first: ' if len(points) > 1 else ''}{where(points[0], names)}): {reason}"
        for (status, reason), points in why.items()
    ]


def unserved_line(rows: Rows) -> str:
    """How many points left requests out, since they are in no percentile."""
    count = sum(1 for row in rows if row.get("rejected") or row.get("unfinished"))
    if not count:
        return ""
    points = f"{count} points" if count > 1 else "1 point"
    return f"At {points} some requests were rejected or unfinished; latencies are of the completed ones alone."


def source_line(rows: Rows) -> str:
    """Where the step times come from: the range of the shares, and every table."""
    ran = [row for row in rows if row.get("estimated_share") is not None]
    if not ran:
        return ""
    shares: list[str] = []
    for name in ("measured", "interpolated", "estimated"):
        values = [percent(row[f"{name}_share"]) for row in sorted(ran, key=lambda row: row[f"{name}_share"])]
        shares.append(f"{values[0]} % {name}" if values[0] == values[-1] else f"{values[0]} to {values[-1]} % {name}")
    tables = dict.fromkeys(table for row in ran for table in row["provenance"].split("; ") if table)
    return f"Step times: {', '.join(shares)} ({'; '.join(tables)})."
