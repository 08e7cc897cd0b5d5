"""Both sides of a validation over time: requests running and waiting, tokens a second; and the rows side by side."""

import csv
from pathlib import Path

import numpy as np

from tetrisim.errors import TraceError
from tetrisim.simulate import Columns
from tetrisim.validation.measured import Floats
from tetrisim.validation.replay import Replay

Line = tuple[Floats, Floats]
"""Moments (s after the first arrival) and values."""

RECORDED = {"requests running": "running", "requests waiting": "waiting"}
"""What we call it -> its column in timeseries.csv."""


def timelines(run: Replay) -> dict[str, tuple[Line, Line]]:
    """Measured and simulated, by what it is of; measured from timeseries.csv where that stands beside the rows.

    Without it, running and waiting are counted from the rows: before and after a request is scheduled, or where that is
    not recorded, before and after its first token (then on both sides). Tokens a second always come from the rows,
    spread evenly over each decode, so that both sides are smoothed alike.
    """
    measured, start = run.measured, run.measured.arrival_s[0]
    recorded = _timeseries(measured.path.parent / "timeseries.csv", start) if measured.path.is_file() else {}
    known = measured.scheduled_s is not None or bool(recorded)
    begun = measured.first_token_s if measured.scheduled_s is None else measured.scheduled_s
    real = {**measured.columns, "begun": begun - start}
    ours = {**run.rows, "begun": run.rows["prefill_start_s" if known else "first_token_s"] - start}
    lines: dict[str, tuple[Line, Line]] = {}
    ends = [float(np.nanmax(rows["finish_s"])) - start for rows in (real, ours)]
    width = 1.0 if max(ends) >= 20 else max(ends) / 60
    at = np.arange(0.0, max(ends) + width, width)
    one, other = (_counted(rows, start, at) for rows in (real, ours))
    for name in one:
        lines[name] = (recorded.get(name, one[name]), other[name])
    return lines


def _counted(rows: Columns, start: float, at: Floats) -> dict[str, Line]:
    came, begun = rows["arrival_s"] - start, rows["begun"]
    first, last = rows["first_token_s"] - start, rows["finish_s"] - start
    arrived, running, left = (
        np.searchsorted(np.sort(moments[np.isfinite(moments)]), at, side="right") for moments in (came, begun, last)
    )
    shown = np.zeros(len(at))
    for one, end, tokens in zip(first.tolist(), last.tolist(), rows["output_tokens"].tolist(), strict=True):
        if np.isfinite(end):
            shown += (at >= one) + (tokens - 1) * np.clip((at - one) / max(end - one, 1e-9), 0.0, 1.0)
    rate = np.diff(shown) / np.diff(at)
    return {
        "requests running": (at, (running - left).astype(float)),
        "requests waiting": (at, (arrived - running).astype(float)),
        "output tokens/s": (0.5 * (at[1:] + at[:-1]), rate),
    }


def _timeseries(path: Path, start: float) -> dict[str, Line]:
    """The engine's own log, a bucket a row that ends at `t` (within about a second of the rows' clock)."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines: dict[str, Line] = {}
    for name, column in RECORDED.items():
        try:
            at = np.array([float(row["t"]) for row in rows])
            values = np.array([float(row[column]) for row in rows])
        except (KeyError, TypeError, ValueError) as problem:
            raise TraceError(str(path), f"column 't' or '{column}' is not usable ({problem})", "numbers") from None
        lines[name] = (at - start, values)
    return lines


def write_rows(path: Path, run: Replay) -> None:
    """A row a request with both sides; seconds on the measured clock, empty where it never came."""
    measured = run.measured
    columns = {
        "request_id": measured.number, "arrival_s": measured.arrival_s, "input_length": measured.prompt_tokens,
        "output_length": measured.output_tokens, "measured_first_token_s": measured.first_token_s,
        "measured_last_token_s": measured.last_token_s, "simulated_start_s": run.rows["prefill_start_s"],
        "simulated_first_token_s": run.rows["first_token_s"], "simulated_last_token_s": run.rows["finish_s"],
        "compared": run.compared.astype(int),
    }  # fmt: skip
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for values in zip(*(column.tolist() for column in columns.values()), strict=True):
            writer.writerow(["" if value != value else f"{value:.9g}" for value in values])
