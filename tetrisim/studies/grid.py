"""The points of a sweep: `KEY=VALUES` axes as text or as Python values, and their product."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import yaml

from tetrisim.errors import TetrisimError
from tetrisim.yamltext import parse_yaml

Grid = dict[str, list[Any]]
"""Dotted key -> its values; `a,b` (keys that change together) -> a list of values each time, one a key."""
Settings = dict[str, Any]
"""Dotted key -> value, as `override` takes them."""

MOST_RUNS = 100_000
"""Points times seeds that a sweep may have: each leaves a folder."""

EXAMPLE = "KEY=VALUES, as in cluster.instances=1..8 or 'workload.rate=5 /s,10 /s'"
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?")
_LIKE_RANGE = re.compile(r"[-+\d.]*\.\.[-+\d.]*")


def parse_grid(texts: Sequence[str]) -> Grid:
    """The axes of `--grid` texts.

    VALUES is `1..8` or `1..8..2` (whole numbers, both ends included), a YAML list, or values with commas between them;
    a range may stand among the others. Keys that change together have commas between them, and their values stand in
    brackets: `cluster.pools.0.instances,cluster.pools.1.instances=(1,3),(2,2)`.
    """
    grid: Grid = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key = ",".join(part.strip() for part in key.split(","))
        if not equals or not all(key.split(",")):
            raise TetrisimError("--grid", f"is '{text}'", EXAMPLE)
        if key in grid:
            raise _twice(key)
        grid[key] = _values(key, values.strip())
    return check_grid(grid)


def check_grid(grid: Mapping[str, Iterable[Any]]) -> Grid:
    """The grid as lists, when it has a point, and no key or value is there twice."""
    axes = {key: [_plain(key, value) for value in values] for key, values in grid.items()}
    if not axes:
        raise TetrisimError("--grid", "is missing", EXAMPLE)
    keys = [key for axis in axes for key in axis.split(",")]
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise _twice(key)
    for axis, values in axes.items():
        if not values:
            raise TetrisimError(f"--grid {axis}", "has no value", EXAMPLE)
        shown = [json.dumps(value) for value in values]
        for index, value in enumerate(shown):
            if value in shown[:index]:
                raise TetrisimError(f"--grid {axis}", f"has {value} twice", "each value once")
            _check_linked(axis, values[index])
    return axes


def points(grid: Grid, seeds: int) -> list[Settings]:
    """Every combination of values, the last axis changing fastest."""
    count = seeds
    for values in grid.values():
        count *= len(values)
    if count > MOST_RUNS:
        raise TetrisimError("--grid", f"asks for {count} runs", f"at most {MOST_RUNS}")
    found: list[Settings] = []
    for combination in product(*grid.values()):
        settings: Settings = {}
        for axis, value in zip(grid, combination, strict=True):
            keys = axis.split(",")
            settings |= {axis: value} if len(keys) == 1 else dict(zip(keys, value, strict=True))
        found.append(settings)
    return found


def _plain(axis: str, value: Any) -> Any:
    """A value that JSON can hold; numpy's numbers become Python's."""
    value = value.item() if hasattr(value, "item") else value
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise TetrisimError(f"--grid {axis}", f"has {value!r}", "numbers, texts, lists and mappings") from None
    return value


def _twice(key: str) -> TetrisimError:
    return TetrisimError(f"--grid {key}", "is there twice", "each key once")


def _check_linked(axis: str, value: Any) -> None:
    keys = axis.count(",") + 1
    if keys > 1 and (not isinstance(value, list | tuple) or len(value) != keys):
        what = f"has {json.dumps(value)} among the values of {keys} keys"
        raise TetrisimError(f"--grid {axis}", what, f"{keys} values in brackets each time, as in (1,3),(2,2)")


def _values(axis: str, text: str) -> list[Any]:
    linked = "," in axis
    if linked:
        text = text.replace("(", "[").replace(")", "]")
    items = _yaml(text) if text.startswith("[") else None
    # A list in brackets is the values; two of them are two values that are lists.
    if not isinstance(items, list) or (linked and not isinstance(items[0] if items else None, list)):
        items = _yaml(f"[{text}]")
    if not isinstance(items, list) or (not text and items == []):
        raise TetrisimError(f"--grid {axis}", f"'{text}' is no list of values", EXAMPLE)
    return [value for item in items for value in _expanded(axis, item)]


def _yaml(text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return None


def _expanded(axis: str, item: Any) -> Sequence[Any]:
    """The whole numbers of a range such as 1..8; anything else is itself."""
    if not isinstance(item, str) or not _LIKE_RANGE.fullmatch(item):
        return [item]
    match = _RANGE.fullmatch(item)
    first, last, step = (int(match[1]), int(match[2]), int(match[3] or 1)) if match else (0, 0, 0)
    if not step or last < first:
        raise TetrisimError(f"--grid {axis}", f"'{item}' is no range", "whole numbers that rise, as in 1..8 or 1..8..2")
    if last - first > step * MOST_RUNS:
        raise TetrisimError(f"--grid {axis}", f"'{item}' is too long", f"at most {MOST_RUNS} runs")
    return range(first, last + 1, step)
