"""Figures of a study, drawn with matplotlib and saved as PNG."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tetrisim.metrics import definitions as define
from tetrisim.report.style import HALO, colour, dash, new_figure, place_of, plain
from tetrisim.scenario.slo import SloSpec
from tetrisim.simulate import Result

_POINTS = 2000
_LOG_SPAN = 20.0
_ROOM = 0.3


def save_latency(path: Path, results: Mapping[str, Result], slo: SloSpec) -> None:
    """Draw `latency_figure` into a PNG file."""
    latency_figure(results, slo).savefig(path)


def latency_figure(results: Mapping[str, Result], slo: SloSpec) -> Figure:
    """The share of requests served within x, for TTFT, TPOT and E2EL, a line a system; the SLO's limits."""
    figure = new_figure(13, 4.4)
    panels = (
        ("Time to first token", "TTFT", define.ttft, slo.ttft_s),
        ("Time per output token", "TPOT", define.tpot, slo.tpot_s),
        ("End-to-end latency", "E2EL", define.e2el, slo.e2el_s),
    )
    axes: list[Axes] = list(figure.subplots(1, len(panels), sharey=True))
    for axis, (title, short, metric, limit) in zip(axes, panels, strict=True):
        samples = {system: np.sort(metric(result.request_columns)) for system, result in results.items()}
        plain(axis, title)
        _draw(axis, samples, limit)
        _label_x(axis, short, samples, limit)
    axes[0].set_ylabel("completed requests within x (%)")
    return figure


def _draw(axis: Axes, samples: Mapping[str, define.Floats], limit: float | None) -> None:
    unit = _unit(samples)[0]
    for system, values in samples.items():
        if not values.size:
            continue
        # Points at equal ranks are enough for the eye, and keep a million requests cheap.
        rank = np.unique(np.linspace(0, values.size - 1, min(values.size, _POINTS)).astype(int))
        x, y = values[rank] * unit, (rank + 1) / values.size * 100
        look = _place(system, samples)
        axis.plot(x, y, color=colour(look), linestyle=dash(look), linewidth=2, drawstyle="steps-post", zorder=3)
    _name_lines(axis, samples)
    axis.set_ylim(0, 101)
    if limit is not None:
        axis.axvline(limit * unit, color="0.35", linewidth=1)
        where = (limit * unit, 2.0)
        axis.annotate("SLO", where, (3, 0), textcoords="offset points", color="0.25", fontsize=9, path_effects=HALO)


def _place(system: str, samples: Mapping[str, define.Floats]) -> int:
    return place_of(system, list(samples).index(system))


def _name_lines(axis: Axes, samples: Mapping[str, define.Floats]) -> None:
    """Write each name at the right edge, at a height of its own, with a thin leader to its line."""
    for place, (system, values) in enumerate(samples.items()):
        if not values.size:
            continue
        height = 80 - 64 * (place + 0.5) / len(samples)
        at = values[min(int(height / 100 * values.size), values.size - 1)] * _unit(samples)[0]
        ink = colour(_place(system, samples))
        axis.annotate(
            system,
            xy=(at, height),
            xytext=(1.0, height),
            textcoords=axis.get_yaxis_transform(),
            ha="right",
            va="center",
            color=ink,
            fontsize=9.5,
            fontweight="bold",
            path_effects=HALO,
            arrowprops={"arrowstyle": "-", "color": ink, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 2},
            zorder=4,
        )


def _unit(samples: Mapping[str, define.Floats]) -> tuple[float, str]:
    """Milliseconds, or seconds when the typical value of the panel is above three of them."""
    middles = [float(np.median(values)) for values in samples.values() if values.size]
    return (1.0, "s") if middles and max(middles) > 3 else (1e3, "ms")


def _label_x(axis: Axes, short: str, samples: Mapping[str, define.Floats], limit: float | None) -> None:
    """Name the axis and its unit; log where values span more than a factor of 20; room at the right."""
    unit, name = _unit(samples)
    pooled = np.concatenate([np.empty(0), *samples.values()]) * unit
    if not pooled.size:
        axis.set_xlabel(f"{short} ({name}): nothing completed")
        return
    # The limit stays in sight even where every request is far from it.
    ends = [float(pooled.min()), float(pooled.max()), *([] if limit is None else [limit * unit])]
    low, high = min(ends), max(ends)
    logarithmic = 0 < _LOG_SPAN * low < high
    if logarithmic:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlim(low * 0.9, high * (high / low) ** _ROOM)
    elif high > low:
        axis.set_xlim(low - 0.02 * (high - low), high + _ROOM * (high - low))
    axis.set_xlabel(f"{short} ({name}{', log scale' if logarithmic else ''})")
