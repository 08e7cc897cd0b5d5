"""How every figure looks: one colour and one dash a system, plain axes, names beside the lines they belong to."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours, told apart by colour-blind readers."""

DASHES = ("-", (0, (6, 2)), (0, (1.2, 1.4)), (0, (7, 2, 1.5, 2)), (0, (3, 1.5)), (0, (9, 3)), (0, (1, 3)))
"""With the colours gone, the dashes still tell the lines apart."""

SYSTEMS = ("vllm-v0", "vllm-v1", "tetriinfer", "sarathi")
"""Those with a colour of their own, the same in every figure."""

HALO = [withStroke(linewidth=3, foreground="white")]
"""Keeps text readable where it crosses a line."""


def place_of(system: str, place: int = 0) -> int:
    """The place of a system in `PALETTE` and `DASHES`: its own, or the `place`-th of those left over."""
    return SYSTEMS.index(system) if system in SYSTEMS else (len(SYSTEMS) + place) % len(PALETTE)


def colour(place: int) -> str:
    """The colour of a line by its place."""
    return PALETTE[place % len(PALETTE)]


def dash(place: int) -> str | tuple[int, tuple[float, ...]]:
    """The dashes of a line by its place."""
    return DASHES[place % len(DASHES)]


def new_figure(width_in: float = 9.0, height_in: float = 4.2) -> Figure:
    """An empty figure that saves to PNG without a display."""
    figure = Figure(figsize=(width_in, height_in), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axis: Axes, title: str = "", x: str = "", y: str = "") -> None:
    """No frame, a light grid, a title at the left; `x` and `y` name the axes with their units."""
    axis.set_title(title, loc="left", fontweight="bold", fontsize=11)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(True, color="0.9", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def name_line(axis: Axes, text: str, at: tuple[float, float], place: int, offset: tuple[float, float] = (4, 0)) -> None:
    """Write a line's name at a point of it, `offset` points away, in its colour."""
    axis.annotate(
        text, at, offset, textcoords="offset points", va="center", color=colour(place), fontsize=9.5,
        fontweight="bold", path_effects=HALO, annotation_clip=False,
    )  # fmt: skip


def save(path: Path, draw: Callable[[Figure], None], width_in: float = 9.0, height_in: float = 4.2) -> None:
    """Draw a new figure into a PNG file."""
    figure = new_figure(width_in, height_in)
    draw(figure)
    figure.savefig(path)
