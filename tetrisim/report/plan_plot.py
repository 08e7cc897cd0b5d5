"""The clusters of a plan over what a user gets: throughput a GPU, and what a million tokens cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tetrisim.report.style import HALO, PALETTE, plain, save

MARKS = "osD^vPX*<>hp"
"""A mark a system, a colour a GPU."""
NAMED = 4
"""Points of a front that are named at most."""

Rows = Sequence[Mapping[str, Any]]


def save_pareto(path: Path, plan: Mapping[str, Any]) -> None:
    """Draw the clusters that were run at full length, and the front in each panel."""
    rows = [
        row
        for row in plan["candidates"]
        if row["stage"] != "short" and row["tokens_per_s_per_user"] and row["dollars_per_million_tokens"]
    ]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for axis, key, more_is_better in (
            (left, "tokens_per_s_per_gpu", True),
            (right, "dollars_per_million_tokens", False),
        ):
            _panel(axis, rows, key, more_is_better)
        plain(left, "Throughput", "output tokens/s/user", "output tokens/s/gpu")
        plain(right, "Cost", "output tokens/s/user", "$ per million output tokens")
        _legend(figure, rows)
        if not rows:
            left.text(0.5, 0.5, "no cluster was run at full length", ha="center", transform=left.transAxes)

    save(path, draw, 11.0, 4.8)


def front(rows: Rows, key: str, more_is_better: bool) -> list[Mapping[str, Any]]:
    """The rows that meet the SLO and that none beats on both axes, from left to right."""
    sign = 1 if more_is_better else -1
    meeting = sorted(
        (row for row in rows if row["meets"]), key=lambda row: (-row["tokens_per_s_per_user"], -sign * row[key])
    )
    found: list[Mapping[str, Any]] = []
    for row in meeting:
        if not found or sign * row[key] > sign * found[-1][key] + 1e-12:
            found.append(row)
    return found[::-1]


def _panel(axis: Axes, rows: Rows, key: str, more_is_better: bool) -> None:
    gpus, systems = _names(rows, "gpu"), _names(rows, "system")
    for row in rows:
        colour = PALETTE[gpus.index(row["gpu"]) % len(PALETTE)]
        axis.plot(
            row["tokens_per_s_per_user"], row[key], MARKS[systems.index(row["system"]) % len(MARKS)], color=colour,
            markerfacecolor=colour if row["meets"] else "none", markersize=6, alpha=0.85, linestyle="none",
        )  # fmt: skip
    best = front(rows, key, more_is_better)
    axis.plot(
        [row["tokens_per_s_per_user"] for row in best], [row[key] for row in best], color="0.4", linewidth=1.2, zorder=1
    )
    axis.margins(x=0.12)
    axis.set_ylim(0, 1.12 * max((row[key] for row in rows), default=1.0))
    names = {f"{row['name'].split(' ')[0]} x {row['gpu']} tp{row['tensor_parallel']}": row for row in best}
    low, high = axis.get_xlim()
    for text, row in list(names.items())[:: max(1, -(-len(names) // NAMED))]:
        at = (row["tokens_per_s_per_user"], row[key])
        side, shift = ("left", 6) if at[0] < low + 0.75 * (high - low) else ("right", -6)
        axis.annotate(text, at, (shift, 6), textcoords="offset points", ha=side, fontsize=8.5, path_effects=HALO)


def _legend(figure: Figure, rows: Rows) -> None:
    axis = figure.axes[0]
    handles = [
        axis.plot([], [], "s", color=PALETTE[place % len(PALETTE)], linestyle="none", label=gpu)[0]
        for place, gpu in enumerate(_names(rows, "gpu"))
    ]
    handles += [
        axis.plot([], [], MARKS[place % len(MARKS)], color="0.3", linestyle="none", label=system)[0]
        for place, system in enumerate(_names(rows, "system"))
    ]
    handles += axis.plot([], [], "o", color="0.3", markerfacecolor="none", linestyle="none", label="misses the SLO")
    handles += axis.plot([], [], color="0.4", linewidth=1.2, label="front")
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=9)


def _names(rows: Rows, key: str) -> list[str]:
    return sorted({str(row[key]) for row in rows})
