"""One picture of a trace: lengths, gaps, how much of the prompts could be reused, and the rate over time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from tetrisim.report.style import colour, dash, new_figure, plain
from tetrisim.workload.trace import Trace

Floats = NDArray[np.float64]

_POINTS = 2000
_BINS_S = tuple(step * 10**power for power in range(-9, 15) for step in (1, 2, 5))


def save_trace(path: Path, trace: Trace, facts: Mapping[str, Any]) -> None:
    """Draw `trace_figure` into a file."""
    trace_figure(trace, facts).savefig(path)


def trace_figure(trace: Trace, facts: Mapping[str, Any]) -> Figure:
    """A trace with its `tetrisim.workload.describe.facts`; panels of what it does not tell are left out."""
    timed = facts["rate_per_s"] is not None
    reusable = facts["prefix"] is not None and facts["prefix"]["reusable_tokens"] > 0
    figure = new_figure(12.5 if timed else 7.0 + 4.0 * reusable, 7.2 if timed else 4.0)
    arrivals = f", {facts['rate_per_s']:.4g} /s" if timed else ", all at once"
    figure.suptitle(f"{facts['trace']}: {facts['requests']:,} requests{arrivals}", x=0.01, ha="left", fontsize=12)
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1)) if timed else [figure.subfigures(1, 1)]
    axes = iter(parts[0].subplots(1, 1 + timed + reusable, squeeze=False)[0].tolist())
    _lengths(next(axes), trace)
    if timed:
        _gaps(next(axes), trace, facts)
        _rate(parts[1].subplots(), trace, facts)
    if reusable:
        _reuse(next(axes), cast("Mapping[str, Any]", facts["prefix"]))
    return figure


def _lengths(axis: Axes, trace: Trace) -> None:
    plain(axis, "Lengths", "tokens", "requests with at most x (%)")
    columns = {"prompt": np.sort(trace.prompt_tokens), "output": np.sort(trace.output_tokens)}
    for place, (name, values) in enumerate(columns.items()):
        axis.plot(*_shares(values), color=colour(place), linestyle=dash(place), linewidth=2, drawstyle="steps-post")
        _name_at(axis, name, values, place, columns)
    _in_tokens(axis)
    axis.set_ylim(0, 101)


def _in_tokens(axis: Axes) -> None:
    """A logarithmic axis marked 1, 10, 100, 1k, ...; a short one has 2 and 5 in between."""
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))


def _name_at(axis: Axes, name: str, values: Any, place: int, columns: Mapping[str, Any]) -> None:
    """The name beside its line, on the side away from the other line, where the lines are farthest apart."""
    levels = np.linspace(20, 80, 13)
    at: dict[str, Floats] = {key: np.log(np.percentile(column, levels)) for key, column in columns.items()}
    apart = np.abs(at["prompt"] - at["output"])
    best = int(np.argmax(apart))
    other = next(key for key in at if key != name)
    right = (at[name][best], name) > (at[other][best], other)
    height = float(levels[best])
    axis.annotate(
        name, (float(np.exp(at[name][best])), height), (8 if right else -8, 0), textcoords="offset points",
        ha="left" if right else "right", va="center", color=colour(place), fontweight="bold", fontsize=9.5,
    )  # fmt: skip


def _shares(values: Any) -> tuple[Any, Any]:
    """Values in order and the percentage up to each; points at equal ranks are enough for the eye."""
    rank = np.unique(np.linspace(0, values.size - 1, min(values.size, _POINTS)).astype(int))
    return np.append(values[:1], values[rank]), np.append(0, rank + 1) / values.size * 100


def _gaps(axis: Axes, trace: Trace, facts: Mapping[str, Any]) -> None:
    """Gaps in mean gaps beside the exponential law of a Poisson process of the same rate."""
    gaps = np.sort(np.diff(trace.arrival_s)) * facts["rate_per_s"]
    plain(axis, f"Gaps between arrivals: CV {facts['gap_cv']:.3g}", "gap / mean gap", "gaps of at most x (%)")
    x = np.geomspace(1e-3, max(1.5 * float(gaps[-1]), 10.0), 300)
    axis.plot(x, 100 * (1 - np.exp(-x)), color="0.55", linewidth=1.2, linestyle=dash(1))
    values, shares = _shares(gaps)
    axis.plot(np.maximum(values, 1e-9), shares, color=colour(0), linewidth=2, drawstyle="steps-post")
    axis.set_xscale("log")
    axis.set_xlim(x[0], x[-1])
    axis.set_ylim(0, 101)
    axis.annotate("Poisson", (1.0, 63), (6, -10), textcoords="offset points", color="0.4", fontsize=9.5)
    if facts["simultaneous"] > 0.01:
        text = f"{facts['simultaneous']:.0%} arrive with the one before"
        at = (x[0], facts["simultaneous"] * 100)
        axis.annotate(text, at, (5, -5), textcoords="offset points", va="top", color=colour(0), fontsize=9.5)


def _reuse(axis: Axes, prefix: Mapping[str, Any]) -> None:
    """Share of prompt tokens found in a cache of a size; the dashed line is the endless cache's."""
    endless = prefix["token_hit_rate"] * 100
    all_tokens = prefix["distinct_blocks"] * prefix["block_tokens"]
    plain(axis, "Prompt tokens found in a cache", "cache (tokens)", "of prompt tokens (%)")
    sizes = [row["cache_tokens"] for row in prefix["by_cache"]] + [all_tokens]
    rates = [row["token_hit_rate"] * 100 for row in prefix["by_cache"]] + [endless]
    axis.plot(sizes, rates, color=colour(2), linewidth=2, marker="o", markersize=4)
    axis.axhline(endless, color="0.4", linewidth=1, linestyle=dash(2))
    axis.annotate(
        f"endless cache {endless:.1f} %",
        (sizes[0], endless),
        (0, 4),
        textcoords="offset points",
        color="0.3",
        fontsize=9.5,
    )
    _in_tokens(axis)
    axis.set_ylim(0, endless * 1.15)


def _rate(axis: Axes, trace: Trace, facts: Mapping[str, Any]) -> None:
    span_s = facts["span_s"]
    most = min(200, max(1, len(trace) // 5))  # fewer windows where they would hold too few requests to say anything
    bin_s = next(size for size in _BINS_S if size * most >= span_s)
    unit, factor = ("s", 1.0) if span_s < 600 else ("min", 60.0) if span_s < 4 * 3600 else ("h", 3600.0)
    edges = np.arange(0.0, span_s + bin_s, bin_s)
    counts, _ = np.histogram(trace.arrival_s - trace.arrival_s[0], edges)
    plain(axis, f"Arrivals in windows of {bin_s:g} s", f"{unit} after the first arrival", "requests/s")
    axis.stairs(counts / bin_s, edges / factor, color=colour(0), linewidth=1.2, fill=False)
    axis.stairs(counts / bin_s, edges / factor, color=colour(0), alpha=0.15, fill=True)
    mean = facts["rate_per_s"]
    axis.axhline(mean, color="0.35", linewidth=1, linestyle=dash(1))
    axis.set_xlim(0, edges[-1] / factor)
    axis.set_ylim(bottom=0)
    name = f"mean {mean:.3g} /s"
    axis.annotate(name, (edges[-1] / factor, mean), (4, 0), textcoords="offset points", color="0.3", va="center",
                  fontsize=9.5, annotation_clip=False)  # fmt: skip
