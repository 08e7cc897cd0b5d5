"""The mean breakdown of each system as stacked bars: up to the first token, and after it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tetrisim.metrics.breakdown import PARTS, TO_FIRST_TOKEN, Parts, means
from tetrisim.report.style import plain, save

LOOKS = {
    "queue_s": ("0.82", ""),
    "prefill_s": ("#0072B2", ""),
    "prefill_interference_s": ("#A6CDE6", "////"),
    "prefill_preemption_s": ("#3A3A3A", ""),
    "transfer_wait_s": ("0.82", "...."),
    "transfer_s": ("#E69F00", ""),
    "decode_wait_s": ("0.82", ""),
    "decode_s": ("#007A5A", ""),
    "decode_interference_s": ("#A3D9C6", "////"),
    "decode_preemption_s": ("#3A3A3A", ""),
}
"""Colour and hatch: own work is solid, work beside it the same colour pale and hatched, waits are grey."""

DARK = ("#0072B2", "#007A5A", "#3A3A3A")
_NARROW = 0.06
"""A part below this share of the longest bar is not written on."""
_APART = 8.0
"""Where mean times differ by more, every bar is drawn as long as the others: parts as shares."""


def save_breakdown(path: Path, breakdowns: Mapping[str, Parts]) -> None:
    """Draw the breakdowns of systems by name into a PNG file."""
    save(path, lambda figure: draw_breakdown(figure, breakdowns), 13.0, 1.9 + 0.62 * len(breakdowns))


def draw_breakdown(figure: Figure, breakdowns: Mapping[str, Parts]) -> None:
    """Two panels, a bar a system: the parts of mean TTFT, and those of the rest of mean E2EL."""
    mean = {system: means(parts) for system, parts in breakdowns.items()}
    later = [part for part in PARTS if part not in TO_FIRST_TOKEN]
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, "To the first token", TO_FIRST_TOKEN, mean)
    _draw(right, "After the first token", later, mean)
    left.set_ylim(len(mean) - 0.45, -0.55)  # the first system on top
    left.set_yticks(range(len(mean)), list(mean))
    note = "own: the request's work with nobody else there; interference: what co-batched work adds to it"
    figure.supxlabel(note, fontsize=8.5, color="0.35", x=0.99, ha="right")


def _draw(axis: Axes, title: str, parts: Sequence[str], mean: Mapping[str, Mapping[str, float]]) -> None:
    totals = [sum(own[part] for part in parts) for own in mean.values()]
    longest, shortest = max(totals), min(filter(None, totals), default=0.0)
    factor, unit = (1.0, "s") if longest >= 1 else (1e3, "ms")
    shares = longest > _APART * shortest
    plain(axis, x="share of the mean time of a request (%)" if shares else f"mean time of a request ({unit})")
    axis.set_title(title, loc="left", fontweight="bold", fontsize=11, pad=26)
    axis.grid(False, axis="y")
    axis.tick_params(axis="y", length=0)
    edge = 100.0 if shares else longest * factor
    axis.set_xlim(0, 1.1 * edge or 1.0)
    for row, (own, total) in enumerate(zip(mean.values(), totals, strict=True)):
        scale = 100 / total if shares and total else factor
        start = 0.0
        for part in parts:
            colour, hatch = LOOKS[part]
            width = own[part] * scale
            axis.barh(row, width, 0.62, start, color=colour, hatch=hatch, edgecolor="white", linewidth=0.8)
            if width > _NARROW * edge:
                _write_share(axis, (start + width / 2, row), own[part] / total, colour)
            start += width
        length = f"{total:.3g} s" if total >= 1 else f"{total * 1e3:.3g} ms"
        axis.annotate(length, (start, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
    drawn = [(own, total) for own, total in zip(mean.values(), totals, strict=True) if total]
    shown = [part for part in parts if any(own[part] > 0.01 * total for own, total in drawn)]
    handles = [Patch(facecolor=LOOKS[p][0], hatch=LOOKS[p][1], edgecolor="white", label=PARTS[p]) for p in shown]
    axis.legend(
        handles=handles, ncols=len(handles) or 1, loc="lower left", bbox_to_anchor=(-0.01, 0.99), frameon=False,
        fontsize=8.5, handlelength=1.1, handletextpad=0.4, columnspacing=1.0, borderpad=0.2,
    )  # fmt: skip


def _write_share(axis: Axes, at: tuple[float, float], share: float, colour: str) -> None:
    ink, box = ("white", "none") if colour in DARK else ("black", colour)
    axis.text(
        *at, f"{share:.0%}", ha="center", va="center", fontsize=9, color=ink,
        bbox={"facecolor": box, "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip
