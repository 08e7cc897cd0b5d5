"""What pages are made of: sections, tables, charts. Text of the data is escaped here, and nowhere left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from tetrisim.report.style import DASHES, colour, place_of

Spec = dict[str, Any]
"""What html_page.js draws a chart from: plain JSON, with a `type`."""

LINE_WIDTH = 2.0


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it, as HTML."""

    id: str
    title: str
    html: str


@dataclass
class Page:
    """A page on its way: text at the top, sections, and the charts that they name."""

    title: str
    facts: str
    findings: list[str]
    sections: list[Section] = field(default_factory=list)
    charts: dict[str, Spec] = field(default_factory=dict)

    def section(self, id: str, title: str, *parts: str) -> None:
        """Add a section; one with nothing in it is left out."""
        content = "".join(parts)
        if content:
            self.sections.append(Section(id, title, content))

    def chart(self, name: str, spec: Spec, note: str = "") -> str:
        """Enter a chart and return its place in the page, under its title, with a note below it."""
        self.charts[name] = spec
        below = hint(note) if note else ""
        title = f"<h3>{escape(str(spec['title']))}</h3>"
        return f'<figure>{title}<div class="plot" data-chart="{escape(name)}"></div>{below}</figure>'


def grid(*parts: str, wide: bool = False) -> str:
    """Charts side by side where there is room."""
    return f'<div class="grid{" two" if wide else ""}">{"".join(parts)}</div>' if any(parts) else ""


def hint(text: str) -> str:
    """A remark in small print."""
    return f'<p class="hint">{escape(text)}</p>'


def sentences(lines: Iterable[str]) -> str:
    """A paragraph a line."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines if line)


def code(title: str, text: str, opened: bool = False) -> str:
    """A text behind its title, as in the file."""
    if not text:
        return ""
    state = " open" if opened else ""
    return f"<details{state}><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def table(head: Sequence[str], rows: Iterable[str], texts: Iterable[int] = ()) -> str:
    """A table of ready rows, in a box that scrolls where it is too wide; `texts` are the columns read from the left."""
    left = set(texts)
    names = "".join(_cell("th", name, "text" if place in left else "") for place, name in enumerate(head))
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def row(cells: Iterable[str], texts: Iterable[int] = (), long: Iterable[int] = (), best: Iterable[int] = ()) -> str:
    """A row of cells: `texts` are read from the left, `long` ones are wrapped, `best` are in bold."""
    kinds = dict.fromkeys(best, "best") | dict.fromkeys(texts, "text") | dict.fromkeys(long, "text wrap")
    return f"<tr>{''.join(_cell('td', cell, kinds.get(place, '')) for place, cell in enumerate(cells))}</tr>"


def _cell(element: str, text: str, kind: str) -> str:
    return f'<{element} class="{kind}">{escape(text)}</{element}>' if kind else f"<{element}>{escape(text)}</{element}>"


def numbers(values: Any) -> list[float | None]:
    """Five digits of each value, for JSON; None for what does not exist."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float).tolist()]


def look(place: int) -> dict[str, str]:
    """Colour and dashes of a line by its place, as every figure has them."""
    pattern = DASHES[(place + place // len(DASHES)) % len(DASHES)]
    lengths = () if isinstance(pattern, str) else pattern[1]
    return {"colour": colour(place), "dash": " ".join(f"{LINE_WIDTH * length:g}" for length in lengths)}


def looks(systems: Sequence[str]) -> Mapping[str, dict[str, str]]:
    """The look of each system: its own in every figure, or one of those left over. A lone line needs no dashes."""
    found = {system: look(place_of(system, place)) for place, system in enumerate(systems)}
    return found if len(found) > 1 else {system: {**own, "dash": ""} for system, own in found.items()}
