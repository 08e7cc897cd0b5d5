"""A measured run beside a predicted one, metric by metric, by the definitions of the tool that measured.

The prediction is written as that tool would have written it (metrics/export.py), so both sides of a line mean the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tetrisim.errors import TraceError
from tetrisim.metrics import definitions as define
from tetrisim.metrics.bootstrap import LEAST, RESAMPLES, Interval, block_length, difference_intervals
from tetrisim.metrics.definitions import Columns
from tetrisim.metrics.export import Record, Served, exporter
from tetrisim.metrics.export_vllm import PERCENTS, vllm_record
from tetrisim.metrics.warmup import Cut, Warmup, find_cut
from tetrisim.validation.measured import Measured
from tetrisim.validation.predicted import Predicted
from tetrisim.validation.readers import read_measured
from tetrisim.validation.tool_json import TOOLS, ToolResult, headline, percents, read_tool, vllm_name

NAMED = 5
"""So many requests are named, of those that cannot be compared."""

ROUNDING = 1e-9
"""A smaller relative difference is none."""

Rows = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Line:
    """One metric. `interval`: 95 % of the relative difference; None where there are no single requests to draw."""

    metric: str
    measured: float
    predicted: float
    interval: Interval | None = None

    @property
    def difference(self) -> float | None:
        """predicted / measured - 1."""
        return self.predicted / self.measured - 1 if self.measured else None

    @property
    def shown(self) -> bool | None:
        """Whether the interval does not hold zero, nor what is left of it after rounding; None without one."""
        return None if self.interval is None else self.interval[0] > ROUNDING or self.interval[1] < -ROUNDING

    def row(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        low, high = self.interval or (None, None)
        own = {"metric": self.metric, "measured": self.measured, "predicted": self.predicted}
        return {**own, "difference": self.difference, "low": low, "high": high, "shown": self.shown}


@dataclass(frozen=True)
class Beside:
    """`missing`: measured numbers that the prediction does not have. `how`: what the intervals are."""

    measured: Path
    kind: str
    predicted: Predicted
    lines: list[Line]
    missing: list[str]
    notes: list[str]
    how: str = ""

    def summary(self) -> dict[str, Any]:
        """Plain values that JSON can hold; differences are fractions of the measured value."""
        return {
            "measured": str(self.measured),
            "kind": self.kind,
            "predicted": self.predicted.where,
            "system": self.predicted.system,
            **self.predicted.sources,
            "lines": [line.row() for line in self.lines],
            "missing": self.missing,
            "intervals": self.how,
            "notes": self.notes,
        }


def beside(path: Path, predicted: Predicted, warmup: Warmup = 0.0) -> Beside:
    """A measured file beside a prediction: request by request where the file has requests, else number by number.

    `warmup` leaves out the first requests of both sides. Raises TraceError for a file that cannot be read, and for a
    `warmup` where there are no requests.
    """
    result = read_tool(path)
    if result is not None and (result.tool != "vllm" or "ttfts" not in result.record):
        if warmup:
            raise TraceError(str(path), "has no single requests, so --warmup cannot leave any out", "no --warmup")
        return _numbers(path, result, predicted)
    return _requests(read_measured(path), {} if result is None else result.record, predicted, warmup)


def _numbers(path: Path, result: ToolResult, predicted: Predicted) -> Beside:
    if result.tool == "vllm":
        ours = vllm_record(predicted.run, percents(result.record)) | predicted.itl_ms
        theirs = {key: value for key, value in result.record.items() if key != "request_goodput"}
    else:
        ours, theirs = exporter(result.tool)(predicted.run), result.record
    notes = ["the file has no single requests: no intervals, and whether both sides served the same ones is not known"]
    if result.tool == "vllm" and result.record.get("request_goodput") is not None:
        notes.append("goodput is not compared: the file does not say its SLO")
    lines, missing = _lines(headline(result.tool, theirs), headline(result.tool, ours))
    return Beside(path, TOOLS[result.tool], predicted, lines, missing, [*notes, *_unserved(predicted.run.rows)])


@dataclass(frozen=True)
class _Both:
    """The completed requests of both sides. `paired`: the same at each place; `whole`: nobody is left out."""

    real: Rows
    ours: Rows
    paired: bool
    whole: bool
    notes: list[str]


def _requests(measured: Measured, record: Record, predicted: Predicted, warmup: Warmup) -> Beside:
    both, slo = _both(measured, predicted.run.rows, warmup), predicted.run.slo
    if not len(both.real["status"]) or not len(both.ours["status"]):
        raise TraceError(str(measured.path), "no request finished on both sides", "; ".join(both.notes))
    wanted = percents(record) or PERCENTS
    theirs = vllm_record(Served(both.real, slo), wanted)
    ours = vllm_record(Served(both.ours, slo, predicted.run.itl if both.whole else None), wanted)
    if both.whole:  # single gaps are not kept by request, so they can only be of all requests
        theirs |= {key: value for key, value in record.items() if key.endswith("_itl_ms")}
        ours |= predicted.itl_ms
    elif any(key.endswith("_itl_ms") for key in record):
        both.notes.append("ITL is not compared: gaps are not kept by request, and here some requests are left out")
    intervals = _intervals(both, wanted)
    lines, missing = _lines(headline("vllm", theirs), headline("vllm", ours), intervals)
    return Beside(measured.path, measured.kind, predicted, lines, missing, both.notes, _how(intervals, both))


def _both(measured: Measured, rows: Columns, warmup: Warmup) -> _Both:
    real, place = measured.columns, _places(measured, rows)
    if place is None:
        cuts = [find_cut([real], warmup), find_cut([rows], warmup)]
        kept = [_kept(side, cut) for side, cut in zip((real, rows), cuts, strict=True)]
        sizes = [int(mask.sum()) for mask in kept]
        head = f"{sizes[0]} measured requests beside {sizes[1]} predicted ones, which are not the same requests"
        notes = [head, *measured.notes, *_unserved(rows), *_loads(real, rows, False), *_cut_notes(cuts, real, rows)]
        return _Both(_only(real, kept[0]), _only(rows, kept[1]), False, False, notes)
    ours = {name: column[place] for name, column in rows.items()}
    cut = find_cut([real, ours], warmup)
    kept_in_both = _kept(real, cut) & _kept(ours, cut)
    head = f"{int(kept_in_both.sum())} of {len(measured)} measured requests compared, each with its predicted self"
    notes = [head, *measured.notes, *_unserved(ours, measured.number), *_others(rows, place)]
    notes += [*_loads(real, ours, True), *_cut_notes([cut, Cut()], real, ours)]
    whole = bool(kept_in_both.all()) and len(measured) == len(rows["status"])
    return _Both(_only(real, kept_in_both), _only(ours, kept_in_both), True, whole, notes)


def _only(rows: Columns, mask: NDArray[np.bool_]) -> Rows:
    return {name: column[mask] for name, column in rows.items()}


def _places(measured: Measured, rows: Columns) -> NDArray[np.int64] | None:
    """The predicted request of each measured one, where all lengths agree; None where they are other requests."""
    number, count = measured.number, len(rows["status"])
    if (number < 0).any() or (number >= count).any() or len(np.unique(number)) < len(number):
        return None
    same = all((rows[name][number] == measured.columns[name]).all() for name in ("prompt_tokens", "output_tokens"))
    return number if same else None


def _kept(rows: Columns, cut: Cut) -> NDArray[np.bool_]:
    return define.completed(rows) & (np.arange(len(rows["status"])) >= cut.requests)


def _lines(
    theirs: Mapping[str, float], ours: Mapping[str, float], intervals: Mapping[str, Interval | None] | None = None
) -> tuple[list[Line], list[str]]:
    lines = [
        Line(name, value, ours[name], (intervals or {}).get(name)) for name, value in theirs.items() if name in ours
    ]
    return lines, [name for name in theirs if name not in ours]


def _intervals(both: _Both, wanted: tuple[float, ...]) -> dict[str, Interval | None]:
    percent = (50.0, *wanted)
    words = ["mean", "median", *(f"p{value:g}" for value in wanted)]
    sides = [[_of_each(rows, metric) for metric in define.TIMES.values()] for rows in (both.real, both.ours)]
    found = difference_intervals(sides[0], sides[1], percent, both.paired)
    return {
        vllm_name(f"{word}_{name}_ms"): interval
        for name, metric in zip(define.TIMES, found, strict=True)
        for word, interval in zip(words, metric, strict=True)
    }


def _of_each(rows: Columns, metric: define.Metric) -> define.Floats:
    """A metric of every request, NaN where it has none; all rows are completed."""
    values = np.full(len(rows["status"]), np.nan)
    several = rows["output_tokens"] > 1
    values[several if metric is define.tpot else slice(None)] = metric(rows)
    return values


def _how(intervals: Mapping[str, Interval | None], both: _Both) -> str:
    if not any(intervals.values()):
        return f"No intervals: fewer than {LEAST} requests."
    sizes = dict.fromkeys(block_length(len(rows["status"])) for rows in (both.real, both.ours))
    same = "the same requests on both sides" if both.paired else "each side by itself"
    return (
        f"Brackets: 95 % intervals of the difference, from {RESAMPLES} draws of blocks of "
        f"{' and '.join(map(str, sizes))} consecutive requests, {same}. They hold the luck of which requests came, "
        "not how another measurement would differ."
    )


def _others(rows: Columns, place: NDArray[np.int64]) -> list[str]:
    """Predicted requests without a measured one."""
    without = np.setdiff1d(np.arange(len(rows["status"])), place)
    return [f"{_named(without)} predicted and not measured: not compared"] if without.size else []


def _unserved(rows: Columns, numbers: NDArray[np.int64] | None = None) -> list[str]:
    notes: list[str] = []
    for status in ("rejected", "unfinished"):
        places = np.flatnonzero(rows["status"] == status)
        if places.size:
            notes.append(f"{_named(places if numbers is None else numbers[places])} {status} in the prediction: in no "
                         "metric")  # fmt: skip
    return notes


def _named(numbers: NDArray[np.int64]) -> str:
    names = ", ".join(map(str, numbers[:NAMED].tolist())) + (", ..." if len(numbers) > NAMED else "")
    return f"{len(numbers)} {'request' if len(numbers) == 1 else 'requests'} ({names})"


def _cut_notes(cuts: list[Cut], real: Columns, ours: Columns) -> list[str]:
    return [
        f"warm-up: the first {cut.requests} of {len(rows['status'])} {side} requests by arrival are not counted "
        f"({cut.rule})"
        for side, cut, rows in zip(("measured", "predicted"), cuts, (real, ours), strict=True)
        if cut.requests
    ]


def _loads(real: Columns, ours: Columns, paired: bool) -> list[str]:
    """How the load differs, where it does: then a difference is not the model's alone."""
    notes: list[str] = []
    if not paired:
        means = [[float(rows[name].mean()) for name in ("prompt_tokens", "output_tokens")] for rows in (real, ours)]
        notes.append(
            f"mean lengths: {means[0][0]:.0f} in and {means[0][1]:.0f} out measured, {means[1][0]:.0f} and "
            f"{means[1][1]:.0f} predicted"
        )
    came = [rows["arrival_s"] - np.nanmin(rows["arrival_s"]) for rows in (real, ours)]
    rates = [(len(moments) - 1) / np.nanmax(moments) if np.nanmax(moments) else np.inf for moments in came]
    apart = np.nanmax(np.abs(came[0] - came[1])) if paired else np.inf
    if apart > 1e-3:
        how = f"up to {apart:.3g} s apart" if paired else f"{rates[0]:.3g} a second measured, {rates[1]:.3g} predicted"
        notes.append(
            f"the requests came at other moments ({how}): `tetrisim validate` replays the measured ones at theirs"
        )
    return notes
