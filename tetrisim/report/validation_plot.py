"""One PNG a validation: measured and simulated distributions above, the two runs over time below."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tetrisim.report.style import HALO, PALETTE, new_figure

Floats = NDArray[np.float64]
Sample = tuple[Floats, Floats]
"""Measured and simulated seconds."""
Line = tuple[Floats, Floats]

NAMES = ("measured", "simulated")
_TITLES = {"TTFT": "Time to first token", "TPOT": "Time per output token", "E2EL": "End-to-end latency"}
# Told apart without colour too: a pale broad line under a dark dashed one.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "0.6", "linewidth": 4.0, "linestyle": "-", "solid_capstyle": "butt"},
    {"color": PALETTE[0], "linewidth": 1.8, "linestyle": (0, (5, 1.5))},
)
_TEXT = ("0.35", PALETTE[0])


def save_validation(
    path: Path, title: str, samples: Mapping[str, Sample], timelines: Mapping[str, tuple[Line, Line]]
) -> None:
    """Draw `validation_figure` into a PNG file."""
    validation_figure(title, samples, timelines).savefig(path)


def validation_figure(title: str, samples: Mapping[str, Sample], timelines: Mapping[str, tuple[Line, Line]]) -> Figure:
    """The share of requests within x, a panel a metric; each timeline (s after the first arrival) in one below."""
    figure = new_figure(13, 7.6)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    rows: Any = figure.subfigures(2, 1)
    above, below = rows[0], rows[1]
    top: list[Axes] = list(above.subplots(1, len(samples), sharey=True, squeeze=False)[0])
    for axis, (metric, sample) in zip(top, samples.items(), strict=True):
        _distribution(axis, metric, sample)
    top[0].set_ylabel("requests within x (%)")
    under: list[Axes] = list(below.subplots(1, len(timelines), squeeze=False)[0])
    for axis, (name, lines) in zip(under, timelines.items(), strict=True):
        for (at, values), style in zip(lines, _STYLES, strict=True):
            axis.plot(at, values, **style)
        axis.set_title(name[0].upper() + name[1:], loc="left", fontweight="bold")
        axis.set_xlabel("s after the first arrival")
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
        _finish(axis)
    _name_timeline(under[0], next(iter(timelines.values())))
    return figure


def _distribution(axis: Axes, metric: str, sample: Sample) -> None:
    seconds = max((float(np.median(values)) for values in sample if values.size), default=0.0)
    factor, unit = (1.0, "s") if seconds > 3 else (1e3, "ms")
    axis.set_title(_TITLES.get(metric, metric), loc="left", fontweight="bold")
    axis.set_xlabel(f"{metric} ({unit})")
    axis.set_ylim(0, 101)
    _finish(axis)
    for values, style in zip(sample, _STYLES, strict=True):
        if values.size:
            x = np.sort(values) * factor
            axis.plot(x, (np.arange(x.size) + 1) / x.size * 100, drawstyle="steps-post", **style)
    if not all(values.size for values in sample):
        return
    # Each is named beside its own line, away from the other, where the two are as far apart as anywhere.
    for values, name, colour, height in zip(sample, NAMES, _TEXT, (68.0, 34.0), strict=True):
        at = float(np.percentile(values, height)) * factor
        other = height > 34.0
        _say(axis, name, (at, height), (-12, 8) if other else (12, -8), "right" if other else "left", colour)
    error = float(sample[1].mean() / sample[0].mean() - 1) if sample[0].mean() else 0.0
    axis.text(0.98, 0.04, f"mean {error:+.1%}", transform=axis.transAxes, ha="right", color="0.2", path_effects=HALO)


def _name_timeline(axis: Axes, lines: tuple[Line, Line]) -> None:
    """Name the two lines where they fall, one above and one below."""
    for (at, values), name, colour, share in zip(lines, NAMES, _TEXT, (0.35, 0.65), strict=True):
        if not values.size:
            continue
        peak = int(np.argmax(values))
        after = np.flatnonzero(values[peak:] <= share * values[peak])
        place = peak + (int(after[0]) if after.size else 0)
        left = name == NAMES[0]
        offset = (-14, -10) if left else (14, 10)
        _say(axis, name, (float(at[place]), float(values[place])), offset, "right" if left else "left", colour)


def _say(axis: Axes, text: str, at: tuple[float, float], offset: tuple[int, int], side: str, colour: str) -> None:
    axis.annotate(
        text, at, offset, textcoords="offset points", ha=side, va="center", color=colour, fontsize=9.5,
        fontweight="bold", path_effects=HALO, zorder=4,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 1},
    )  # fmt: skip


def _finish(axis: Axes) -> None:
    axis.grid(True, color="0.9", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
