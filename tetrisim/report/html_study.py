"""The page of a sweep, and that of a plan."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tetrisim.report.html_folder import Study
from tetrisim.report.html_parts import Page, Spec, code, hint, look, numbers, row, table
from tetrisim.report.style import SYSTEMS, place_of
from tetrisim.report.terminal import number

METRICS = (
    ("mean_ttft_ms", "mean TTFT, ms"), ("p99_ttft_ms", "p99 TTFT, ms"), ("mean_tpot_ms", "mean TPOT, ms"),
    ("p99_tpot_ms", "p99 TPOT, ms"), ("mean_e2el_ms", "mean E2EL, ms"), ("p99_e2el_ms", "p99 E2EL, ms"),
    ("request_goodput", "goodput, requests/s"), ("output_throughput", "output, tokens/s"), ("dollars", "dollars"),
)  # fmt: skip
"""Summary keys that a sweep is drawn by."""

CANDIDATE = (
    ("rank", "rank"), ("name", "cluster"), ("gpu", "GPU"), ("system", "system"), ("gpus", "GPUs"),
    ("dollars_per_hour", "$/h"), ("tokens_per_s_per_gpu", "tokens/s/gpu"), ("tokens_per_s_per_user", "tokens/s/user"),
    ("ttft_ms", "TTFT, ms"), ("tpot_ms", "TPOT, ms"), ("goodput", "goodput"), ("meets", "meets the SLO"),
    ("pareto", "on the Pareto front"),
)  # fmt: skip
"""Keys of a candidate of a plan, and the columns they stand in."""

Rows = Sequence[Mapping[str, Any]]
Metrics = Sequence[tuple[str, str]]

_TEXTS = ("name", "gpu", "system")
_MOST_ROWS = 500
_QUANTITY = re.compile(r"\s*([-+0-9.eE]+)\s*([A-Za-z/]*)\s*")


def study_page(found: Study) -> Page:
    """All sections of a sweep or of a plan."""
    page = _sweep(found) if found.kind == "sweep" else _plan(found)
    page.section("scenario", "Scenario", code("scenario.yaml", found.scenario, opened=True))
    return page


def _sweep(found: Study) -> Page:
    grid: Mapping[str, Sequence[Any]] = found.content["grid"]
    rows: Rows = found.content["rows"]
    good = [each for each in rows if each.get("status", "ok") == "ok"]
    seeds = int(found.content.get("seeds", 1))
    facts = f"{len(rows)} points" + (f", means of {seeds} seeds" if seeds > 1 else "")
    page = Page("A sweep of " + " and ".join(grid), facts, _left_out(rows))
    metrics = [(key, label) for key, label in METRICS if any(_number(each.get(key)) is not None for each in good)]
    dims = [_dim(key, values) for key, values in grid.items()]
    points = [{"at": at, "values": _values(each, metrics), "half": _halves(each, metrics)}
              for each in good if (at := _place(each, grid)) is not None]  # fmt: skip
    spec: Spec = {
        "type": "sweep", "title": "", "name": "all", "look": look(0), "dims": dims, "rows": points,
        "metrics": [{"label": label, "unit": ""} for _, label in metrics],
    }  # fmt: skip
    note = "Bars about a point: the 95 % interval over seeds." if seeds > 1 else ""
    page.section("charts", "By metric", page.chart("sweep", spec, note) if points else "")
    page.section("points", "Every point", _points(rows, grid, metrics))
    page.section("sources", "Where the numbers come from", _provenance(good))
    return page


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
    return _values(point, [(f"{key}_half95", label) for key, label in metrics])


def _points(rows: Rows, grid: Mapping[str, Sequence[Any]], metrics: Metrics) -> str:
    keys = [key for axis in grid for key in axis.split(",")]
    lines: list[str] = []
    for each in rows[:_MOST_ROWS]:
        settings = [_name(each.get(key)) for key in keys]
        status = str(each.get("status", "ok"))
        found = [number(_number(each.get(key))) for key, _ in metrics]
        said = "" if status == "ok" else f"{status}: {each.get('reason') or ''}".rstrip(": ")
        lines.append(row([*settings, *found, said], texts=[len(keys) + len(metrics)]))
    note = hint(f"The first {_MOST_ROWS} of {len(rows)} points; sweep.csv has all.") if len(rows) > _MOST_ROWS else ""
    return table([*keys, *(label for _, label in metrics), ""], lines) + note


def _provenance(rows: Rows) -> str:
    shares = [share for each in rows if (share := _number(each.get("estimated_share"))) is not None]
    if not shares:
        return ""
    low, high = min(shares) * 100, max(shares) * 100
    span = f"{low:.0f} %" if high - low < 0.5 else f"{low:.0f} to {high:.0f} %"
    tables = dict.fromkeys(line for each in rows for line in _lines(each.get("provenance")))
    text = [row([line], texts=[0]) for line in tables]
    return hint(f"Of the step time of a point, {span} is estimated; the rest is measured or interpolated.") + (
        table(["tables of step times"], text) if text else ""
    )


def _lines(value: Any) -> list[str]:
    return (
        [str(each) for each in cast("list[Any]", value)] if isinstance(value, list) else [str(value)] if value else []
    )


def _plan(found: Study) -> Page:
    candidates: list[Mapping[str, Any]] = sorted(found.content["candidates"], key=_rank)
    pruned: Rows = found.content.get("pruned", ())
    meeting = [each for each in candidates if each.get("meets")]
    facts = f"{len(candidates)} clusters simulated, {len(pruned)} ruled out before"
    page = Page("A plan", facts, [_answer(meeting, candidates)])
    points = [_point(each) for each in candidates if _drawable(each)]
    spec: Spec = {
        "type": "scatter", "title": "Speed for a user against use of a GPU", "points": points,
        "x": {"label": "tokens/s/user"}, "y": {"label": "tokens/s/gpu"},
        "key": "filled: meets the SLO; hollow: does not; dashed: the Pareto front",
    }  # fmt: skip
    page.section("front", "Pareto front", page.chart("front", spec) if points else "")
    page.section("clusters", "Clusters", _candidates(candidates))
    page.section("answers", "What to run", "".join(_runnable(each) for each in found.content.get("answers", ())))
    page.section("pruned", "Ruled out", _pruned(pruned))
    return page


def _rank(candidate: Mapping[str, Any]) -> float:
    rank = _number(candidate.get("rank"))
    return float("inf") if rank is None else rank


def _answer(meeting: Rows, candidates: Rows) -> str:
    if not meeting:
        return f"None of the {len(candidates)} clusters that were simulated meets the SLO."
    first = meeting[0]
    price = number(_number(first.get("dollars_per_hour")))
    more = f"{len(meeting)} of {len(candidates)} simulated clusters meet the SLO."
    return f"First in rank: {first['name']}, {price} $/h on {first.get('gpus', '?')} GPUs. {more}"


def _drawable(candidate: Mapping[str, Any]) -> bool:
    return all(_number(candidate.get(key)) is not None for key in ("tokens_per_s_per_user", "tokens_per_s_per_gpu"))


def _point(candidate: Mapping[str, Any]) -> Spec:
    system = str(candidate.get("system", ""))
    rank = _number(candidate.get("rank"))
    return {
        "x": candidate["tokens_per_s_per_user"], "y": candidate["tokens_per_s_per_gpu"], "group": system,
        "colour": look(place_of(system))["colour"], "name": str(candidate["name"]),
        "hollow": not candidate.get("meets"), "pareto": bool(candidate.get("pareto")),
        "label": f"{rank:.0f}" if rank is not None and rank <= 5 and candidate.get("meets") else "",
        "tip": [[label, _shown(candidate.get(key))] for key, label in CANDIDATE if key != "name"],
    }  # fmt: skip


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if value is None or isinstance(value, int | float) else str(value)


def _candidates(candidates: Rows) -> str:
    columns = [(key, label) for key, label in CANDIDATE if any(key in each for each in candidates)]
    texts = [place for place, (key, _) in enumerate(columns) if key in _TEXTS]
    lines = [row([_shown(each.get(key)) for key, _ in columns], texts=texts) for each in candidates[:_MOST_ROWS]]
    note = hint(f"The first {_MOST_ROWS} of {len(candidates)}.") if len(candidates) > _MOST_ROWS else ""
    return table([label for _, label in columns], lines, texts) + note


def _runnable(answer: Any) -> str:
    """An answer: its name, and what it holds as texts to copy."""
    if not isinstance(answer, dict):
        return code("answer", str(answer), opened=True)
    parts = cast("dict[str, Any]", answer)
    title = str(parts.get("name", "answer"))
    texts = {key: "\n".join(_lines(value)) for key, value in parts.items() if key != "name" and not _scalar(value)}
    facts = ", ".join(f"{key} {_shown(value)}" for key, value in parts.items() if key != "name" and _scalar(value))
    copied = "".join(code(f"{title}: {key}", text) for key, text in texts.items())
    return (hint(f"{title}: {facts}") if facts else "") + copied


def _scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and "\n" not in value and len(value) < 60)


def _pruned(pruned: Rows) -> str:
    if not pruned:
        return ""
    lines = [row([str(each["name"]), str(each["reason"])], texts=[0, 1]) for each in pruned[:_MOST_ROWS]]
    note = hint(f"The first {_MOST_ROWS} of {len(pruned)}.") if len(pruned) > _MOST_ROWS else ""
    return table(["cluster", "why"], lines, [0, 1]) + note
