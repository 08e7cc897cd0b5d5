"""The page of a sweep."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tetrisim.report.html_folder import Study
from tetrisim.report.html_parts import Page, Spec, hint, look, numbers, row, sentences, table
from tetrisim.report.style import SYSTEMS, place_of
from tetrisim.report.sweep import HALF, best_lines, short_names
from tetrisim.report.terminal import number

METRICS = (
    ("mean_ttft_ms", "mean TTFT, ms"), ("p99_ttft_ms", "p99 TTFT, ms"), ("mean_tpot_ms", "mean TPOT, ms"),
    ("p99_tpot_ms", "p99 TPOT, ms"), ("mean_e2el_ms", "mean E2EL, ms"), ("p99_e2el_ms", "p99 E2EL, ms"),
    ("request_goodput", "goodput, requests/s"), ("output_throughput", "output, tokens/s"), ("dollars", "dollars"),
)  # fmt: skip
"""Summary keys that a sweep is drawn by."""

Rows = Sequence[Mapping[str, Any]]
Metrics = Sequence[tuple[str, str]]

_MOST_ROWS = 500
_QUANTITY = re.compile(r"\s*([-+0-9.eE]+)\s*([A-Za-z/]*)\s*")


def sweep_page(found: Study) -> Page:
    """All sections of a sweep."""
    grid: Mapping[str, Sequence[Any]] = found.content["grid"]
    rows: Rows = found.content["rows"]
    good = [each for each in rows if each.get("status", "ok") == "ok"]
    seeds = int(found.content.get("seeds", 1))
    facts = f"{len(rows)} points" + (f", means of {seeds} seeds" if seeds > 1 else "")
    short = short_names([key for axis in grid for key in axis.split(",")])
    placed = [each for each in good if _place(each, grid) is not None]
    findings = [*_left_out(rows), *best_lines(placed, short, seeds)]
    page = Page("A sweep of " + " and ".join(grid), facts, findings)
    metrics = [each for each in METRICS if any(_number(point.get(each[0])) is not None for point in good)]
    dims = [_dim(", ".join(short[key] for key in axis.split(",")), values) for axis, values in grid.items()]
    points = [{"at": at, "values": _values(each, metrics), "half": _halves(each, metrics)}
              for each in good if (at := _place(each, grid)) is not None]  # fmt: skip
    limits = {} if any(key.startswith("slo") for axis in grid for key in axis.split(",")) else _limits(found.slo)
    spec: Spec = {
        "type": "sweep", "title": "All metrics", "name": "all", "look": look(0), "dims": dims, "rows": points,
        "metrics": [{"label": label, "unit": "", "limit": limits.get(key.partition("_")[2])} for key, label in metrics],
    }  # fmt: skip
    note = "Bars about a point: the 95 % interval over seeds." if seeds > 1 else ""
    page.section("charts", "By metric", page.chart("sweep", spec, note) if points else "")
    page.section("points", "Every point", _points(good, grid, metrics))
    page.section("without", "Points without numbers", _without(rows, grid))
    page.section("sources", "Where the numbers come from", _provenance(good))
    return page


def _limits(slo: Mapping[str, float | None]) -> dict[str, float]:
    """The SLO in ms by the ending of the metrics that it limits, as in `ttft_ms`."""
    return {key.replace("_s", "_ms"): 1e3 * limit for key, limit in slo.items() if limit is not None}


def _left_out(rows: Rows) -> list[str]:
    """A line for each kind of point without numbers, and one for requests left unserved."""
    names = {"invalid": "cannot be run", "failed": "failed", "pending": "are not run yet"}
    said = [f"{len(rows)} points."]
    for status, words in names.items():
        if count := sum(each.get("status") == status for each in rows):
            said.append(f"{count} of {len(rows)} points {words}.")
    short = [each for each in rows if each.get("rejected") or each.get("unfinished")]
    if short:
        said.append(
            f"At {len(short)} points requests were rejected or unfinished; latencies are of the completed ones."
        )
    return said[1:] or [f"All {len(rows)} points were run, and all requests served."]


def _dim(key: str, values: Sequence[Any]) -> Spec:
    """An axis of the grid: its values as names, and as numbers where they all are, in one unit."""
    names = [_name(value) for value in values]
    parsed = [_QUANTITY.fullmatch(name) for name in names]
    units = {match[2] for match in parsed if match}
    amounts = [_number(match[1]) if match else None for match in parsed]
    numeric = len(units) == 1 and None not in amounts and amounts == sorted(cast("list[float]", amounts))
    own = [place_of(name) if name in SYSTEMS else place for place, name in enumerate(names)]
    unit = next(iter(units)) if numeric else ""
    return {
        "label": f"{key}, {unit}" if unit else key, "names": names, "values": amounts if numeric else names,
        "numeric": numeric, "looks": [look(place) for place in own],
    }  # fmt: skip


def _name(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_name(each) for each in cast("list[Any]", value))
    return value if isinstance(value, str) else json.dumps(value)


def _place(point: Mapping[str, Any], grid: Mapping[str, Sequence[Any]]) -> list[int] | None:
    """The index of a point's value on each axis; axes of several keys have a value a key."""
    at: list[int] = []
    for axis, values in grid.items():
        keys = axis.split(",")
        value = point[axis] if axis in point else [point[key] for key in keys]
        if value not in values:
            return None
        at.append(list(values).index(value))
    return at


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _values(point: Mapping[str, Any], metrics: Metrics) -> list[float | None]:
    return numbers([float("nan") if (v := _number(point.get(key))) is None else v for key, _ in metrics])


def _halves(point: Mapping[str, Any], metrics: Metrics) -> list[float | None]:
    """Half-widths of the intervals over seeds; None for a lone seed."""
    return _values(point, [(key + HALF, label) for key, label in metrics])


def _points(rows: Rows, grid: Mapping[str, Sequence[Any]], metrics: Metrics) -> str:
    keys = _keys(grid)
    texts = range(len(keys))
    lines = [
        row([*(_name(each.get(key)) for key in keys), *(number(_number(each.get(key))) for key, _ in metrics)], texts)
        for each in rows[:_MOST_ROWS]
    ]
    return table([*keys, *(label for _, label in metrics)], lines, texts) + _first(rows, "sweep.csv has all")


def _without(rows: Rows, grid: Mapping[str, Sequence[Any]]) -> str:
    """The points that have no numbers, and why."""
    keys = _keys(grid)
    bare = [each for each in rows if each.get("status", "ok") != "ok"]
    texts, long = [*range(len(keys) + 1)], [len(keys) + 1]
    lines = [
        row(
            [*(_name(each.get(key)) for key in keys), str(each["status"]), str(each.get("reason") or "")],
            texts,
            [len(texts)],
        )
        for each in bare[:_MOST_ROWS]
    ]
    return table([*keys, "", "why"], lines, [*texts, *long]) + _first(bare, "sweep.csv has all") if bare else ""


def _keys(grid: Mapping[str, Sequence[Any]]) -> list[str]:
    return [key for axis in grid for key in axis.split(",")]


def _first(rows: Sequence[Any], elsewhere: str) -> str:
    return hint(f"The first {_MOST_ROWS} of {len(rows)}; {elsewhere}.") if len(rows) > _MOST_ROWS else ""


def _provenance(rows: Rows) -> str:
    """The estimated share of the step time, lowest to highest, and the tables."""
    shares = [share for each in rows if (share := _number(each.get("estimated_share"))) is not None]
    if not shares:
        return ""
    low, high = min(shares) * 100, max(shares) * 100
    span = f"{low:.0f} %" if high - low < 0.5 else f"{low:.0f} to {high:.0f} %"
    tables = dict.fromkeys(line for each in rows for line in _lines(each.get("provenance")))
    text = [row([line], long=[0]) for line in tables]
    said = f"Step time: {span} estimated, the rest measured or interpolated."
    return sentences([said]) + (table(["tables of step times"], text) if text else "")


def _lines(value: Any) -> list[str]:
    return (
        [str(each) for each in cast("list[Any]", value)] if isinstance(value, list) else [str(value)] if value else []
    )
