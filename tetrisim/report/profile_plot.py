"""One PNG a profile: what each op takes, and how near it comes to the card's roofline."""

from collections.abc import Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tetrisim.latency.bounds import bounds, shape_of
from tetrisim.latency.grid import ESTIMATED
from tetrisim.latency.table import KEYS, Cell, Profile, Row, read_rows
from tetrisim.report.style import PALETTE
from tetrisim.scenario.gpu import GPUS

Series = dict[str, list[tuple[Row, Cell]]]

_SLICES = 6
_MARKERS = "osD^vP"


def save_profile(path: Path, profile: Profile) -> None:
    """Draw `profile_figure` into a PNG file."""
    profile_figure(profile).savefig(path)


def profile_figure(profile: Profile) -> Figure:
    """Linear and head ops, prefill and decode: latency above, achieved FLOP/s or bytes/s below, with the card's peak.

    Rows of one op that nobody measured are drawn hollow.
    """
    figure = Figure(figsize=(14, 7.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(profile.title, fontsize=10)
    panels = {
        "Linear ops, tokens": _ops(profile, "linear.csv"),
        "Head ops, sequences": _ops(profile, "head.csv"),
        "Prefill, tokens of the chunk": _prefills(profile),
        "Decode, cached tokens a sequence": _decodes(profile),
    }
    axes = figure.subplots(2, len(panels))
    for column, (title, series) in enumerate(panels.items()):
        axes[0][column].set_title(title, loc="left", fontsize=10, fontweight="bold")
        _draw_times(axes[0][column], title, series)
        _draw_rates(axes[1][column], profile, title, series)
    axes[0][0].set_ylabel("us a call")
    axes[1][0].set_ylabel("achieved: TFLOP/s (line) or TB/s (dotted)")
    return figure


def _ops(profile: Profile, name: str) -> Series:
    series: Series = {}
    for key, cell in read_rows(profile.folder / name, KEYS[name]).items():
        series.setdefault(str(key[0]), []).append((key, cell))
    return series


def _prefills(profile: Profile) -> Series:
    rows = read_rows(profile.folder / "attention.csv", KEYS["attention.csv"])
    kept = _some({key[1] for key in rows if key[0] > 0 and key[2] == 0})
    return {
        f"over {cached}": [(key, cell) for key, cell in rows.items() if key[0] > 0 and key[1:3] == (cached, 0)]
        for cached in kept
    }


def _decodes(profile: Profile) -> Series:
    rows = read_rows(profile.folder / "attention.csv", KEYS["attention.csv"])
    kept = _some({key[2] for key in rows if key[0] == 0})
    return {f"{n} sequences": [(key, cell) for key, cell in rows.items() if key[0] == 0 and key[2] == n] for n in kept}


def _some(values: Iterable[int]) -> list[int]:
    """A handful of the values, from the least to the largest."""
    ordered = sorted(values)
    step = max(1, -(-(len(ordered) - 1) // (_SLICES - 1)))
    return sorted({*ordered[::step], *ordered[-1:]})


def _size(title: str, key: Row) -> int:
    return key[3] if title.startswith("Decode") else key[0] if title.startswith("Prefill") else key[1]


def _draw_times(axis: Axes, title: str, series: Series) -> None:
    for place, (label, rows) in enumerate(series.items()):
        rows = sorted(rows, key=lambda row: _size(title, row[0]))
        guessed = all(cell.source == ESTIMATED for _, cell in rows)
        axis.plot(
            [max(1, _size(title, key)) for key, _ in rows],
            [cell.seconds * 1e6 for _, cell in rows],
            color=PALETTE[place % len(PALETTE)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=3,
            fillstyle="none" if guessed else "full",
            linewidth=1,
            label=label + (" (estimated)" if guessed else ""),
        )
    _finish(axis, bool(series))
    if series:
        axis.legend(fontsize=7, frameon=False)


def _draw_rates(axis: Axes, profile: Profile, title: str, series: Series) -> None:
    """TFLOP/s where arithmetic is what limits the op at its largest size, TB/s where memory does."""
    if profile.gpu not in GPUS:
        axis.set_axis_off()
        return
    bound, gpu = bounds(shape_of(profile)), GPUS[profile.gpu]
    name = {"Lin": "linear.csv", "Hea": "head.csv"}.get(title[:3], "attention.csv")
    drawn = False
    for place, rows in enumerate(series.values()):
        for flops in (True, False):
            points: list[tuple[int, float]] = []
            for key, cell in rows:
                limit = bound(name, key)
                if limit is not None and (limit.flops if flops else limit.bytes) > 0:
                    work = limit.flops if flops else limit.bytes
                    points.append((max(1, _size(title, key)), work / cell.seconds / 1e12))
            points.sort()
            drawn = drawn or bool(points)
            axis.plot(
                [x for x, _ in points],
                [y for _, y in points],
                color=PALETTE[place % len(PALETTE)],
                linestyle="-" if flops else ":",
                linewidth=1,
            )
    for peak, text in ((shape_of(profile).peak, "peak FLOP/s"), (gpu.memory_bytes_per_s, "memory bytes/s")):
        axis.axhline(peak / 1e12, color="0.4", linewidth=0.8, linestyle="--")
        axis.annotate(text, (0.01, peak / 1e12), xycoords=("axes fraction", "data"), fontsize=7, va="bottom")
    _finish(axis, drawn)
    axis.set_xlabel(title.split(", ")[1])


def _finish(axis: Axes, drawn: bool) -> None:
    if drawn:
        axis.set_xscale("log")
        axis.set_yscale("log")
    axis.grid(True, color="0.92", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
