"""Measured tables: `profile.yaml` with its CSV files, read and checked.

A profile is a folder `<gpu>/<model>/<dtype>/tp<k>/`. Times are microseconds for one call of an op on one GPU; all other
columns are whole numbers. `profile.yaml` names the GPU, model, dtype and tensor_parallel of the catalog, how often each
op runs (`calls_per_layer`, `calls_per_step`), and where the numbers come from (`source`); see profiles/README.md.
"""

import csv
import math
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

import yaml

from tetrisim.errors import ProfileError, nearest_name
from tetrisim.latency.grid import ESTIMATED, MEASURED, METHODS, SOURCES, Curve, Point

KEYS = {
    "linear.csv": ("op", "tokens"),
    "head.csv": ("op", "sequences"),
    "attention.csv": ("prefill_tokens", "prefill_context", "decode_sequences", "decode_context"),
    "moe.csv": ("tokens", "active_experts"),
    "collective.csv": ("op", "bytes", "gpus"),
    "host.csv": ("sequences",),
    "skew.csv": (
        "prefill_tokens", "prefill_context", "decode_sequences", "long_sequences", "short_context", "long_context",
    ),
}  # fmt: skip
"""File -> its key columns; each also has `time_us`, and may have `spread_us`, `samples` and `source` (measured, unless
it says interpolated or estimated).

`skew.csv` times an attention call over `decode_sequences` decodes of which `long_sequences` have `long_context` cached
tokens and the others `short_context`, beside the same batch all at the mean (`mean_us`) and all at `long_context`
(`long_us`).
"""

INCLUDED = ("host", "all_reduce")
"""Terms of a step that `includes` in profile.yaml may say are part of the op times."""

SKEW_GAP = 1.1
"""Skew rows count when the long batch takes this much longer than the mean one; below, alpha is noise over noise."""

Row = tuple[Any, ...]


class Cell(NamedTuple):
    """One row of a table."""

    seconds: float
    source: int
    line: int
    """Its line in the file."""
    spread: float | None
    """Seconds, where the file gives it."""
    beside: tuple[float, ...] = ()
    """Seconds in the other columns that were asked for."""


@dataclass(frozen=True)
class Profile:
    """The tables of one GPU, model, dtype and tensor-parallel degree; times in seconds a call."""

    folder: Path
    gpu: str
    model: str
    dtype: str
    tensor_parallel: int
    source: str
    calls_per_layer: dict[str, int]
    calls_per_step: dict[str, int]
    linear: dict[str, Curve]
    head: dict[str, Curve]
    attention: dict[Point, float]
    skew: dict[tuple[int, int], float]
    """(prefill_tokens, decode_sequences) -> alpha: a ragged batch takes mean + alpha * (longest - mean)."""
    all_reduce: Curve | None
    host: Curve | None
    estimated_attention: frozenset[Point] = frozenset()
    """The points of `attention` that nobody measured."""
    interpolation: dict[str, str] = field(default_factory=dict[str, str])
    """Op -> how to read it between its points; `linear` where it is not named."""
    includes: frozenset[str] = frozenset()
    """Terms of a step that the times of other ops already hold: `host`, `all_reduce`."""
    moe: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])
    """(tokens, experts that get any of them) -> seconds of the routed experts of one layer. Empty for
    dense models."""
    meta: dict[str, Any] = field(default_factory=dict[str, Any])
    """All of profile.yaml."""

    def curve(self, op: str) -> Curve:
        """A linear or head op as it is read: with points added where its interpolation is not linear."""
        curve = self.linear[op] if op in self.linear else self.head[op]
        return curve.dense() if self.interpolation.get(op) == "smooth" else curve

    @property
    def title(self) -> str:
        """One line of provenance."""
        return f"{self.gpu} {self.model} {self.dtype} tp{self.tensor_parallel}: {self.source}"


def find_profile(root: Path, gpu: str, model: str, dtype: str, tensor_parallel: int) -> Path | None:
    """The folder of a profile below `root`, or `root` itself when it is one."""
    shard = f"tp{tensor_parallel}"
    for folder in (root / gpu / model / dtype / shard, root / shard, root):
        if (folder / "profile.yaml").is_file():
            return folder
    return None


def read_profile(folder: Path) -> Profile:
    """The profile in a folder; anything malformed raises ProfileError with file and row."""
    meta = _read_meta(folder / "profile.yaml")
    tables = {name: read_rows(folder / name, keys) for name, keys in KEYS.items() if name != "skew.csv"}
    for name in ("linear.csv", "attention.csv"):
        if not tables[name]:
            raise ProfileError(str(folder / name), "is missing or empty", "measured rows")
    shards = int(meta["tensor_parallel"])
    reduce = {
        key[1]: cell for key, cell in tables["collective.csv"].items() if key[0] == "all_reduce" and key[2] == shards
    }
    attention = tables["attention.csv"]
    return Profile(
        folder=folder,
        gpu=str(meta["gpu"]),
        model=str(meta["model"]),
        dtype=str(meta["dtype"]),
        tensor_parallel=shards,
        source=str(meta["source"]),
        calls_per_layer=meta["calls_per_layer"],
        calls_per_step=meta["calls_per_step"],
        linear=_by_op(tables["linear.csv"]),
        head=_by_op(tables["head.csv"]),
        attention={cast(Point, key): cell.seconds for key, cell in attention.items()},
        skew=_read_skew(folder / "skew.csv"),
        all_reduce=_curve(reduce) if reduce else None,
        host=_curve({key[0]: cell for key, cell in tables["host.csv"].items()}) if tables["host.csv"] else None,
        estimated_attention=frozenset(cast(Point, key) for key, cell in attention.items() if cell.source == ESTIMATED),
        interpolation=meta.get("interpolation") or {},
        includes=frozenset(meta.get("includes") or ()),
        moe={cast("tuple[int, int]", key): cell.seconds for key, cell in tables["moe.csv"].items()},
        meta=meta,
    )


def _read_meta(path: Path) -> dict[str, Any]:
    meta = read_yaml(path, "a profile.yaml")
    wanted = {"gpu": str, "model": str, "dtype": str, "tensor_parallel": int, "source": str,
              "calls_per_layer": dict, "calls_per_step": dict}  # fmt: skip
    for key, kind in wanted.items():
        if not isinstance(meta, dict) or not isinstance(meta.get(key), kind):
            raise ProfileError(str(path), f"key '{key}' is missing or of the wrong kind", kind.__name__)
    _check_meta(meta, str(path))
    return cast("dict[str, Any]", meta)


def read_yaml(path: Path, expected: str) -> Any:
    """What a YAML file holds; one that cannot be read raises ProfileError."""
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise ProfileError(str(path), f"cannot read: {error.strerror}", expected) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(str(path), "is not YAML: " + " ".join(str(error).split()), expected) from None


def _check_meta(meta: dict[str, Any], where: str) -> None:
    """Counts above 0, and known words where only those may stand."""
    counts = {"tensor_parallel": meta["tensor_parallel"]}
    for key in ("calls_per_layer", "calls_per_step"):
        counts |= {f"{key}.{op}": calls for op, calls in meta[key].items()}
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise ProfileError(where, f"{name} is {count!r}", "a whole number of at least 1")
    for key, kind in (("interpolation", dict), ("errors", dict), ("includes", list)):
        if not isinstance(meta.get(key) or kind(), kind):
            raise ProfileError(where, f"key '{key}' is of the wrong kind", kind.__name__)
    for op, method in (meta.get("interpolation") or {}).items():
        if method not in METHODS:
            raise ProfileError(where, f"interpolation.{op} is '{method}'", "one of " + ", ".join(METHODS))
    for term in meta.get("includes") or ():
        if term not in INCLUDED:
            raise ProfileError(where, f"includes '{term}'", "some of " + ", ".join(INCLUDED))


def _read_skew(path: Path) -> dict[tuple[int, int], float]:
    """The median alpha of each (prefill tokens, sequences): single rows are noisy where the gap is small."""
    alphas: dict[tuple[int, int], list[float]] = {}
    for key, cell in read_rows(path, KEYS["skew.csv"], ("mean_us", "long_us")).items():
        ragged, (mean, longest) = cell.seconds, cell.beside
        if longest >= SKEW_GAP * mean:
            alphas.setdefault((key[0], key[2]), []).append((ragged - mean) / (longest - mean))
    return {key: min(1.0, max(0.0, median(values))) for key, values in alphas.items()}


def read_rows(path: Path, keys: tuple[str, ...], beside: tuple[str, ...] = ()) -> dict[Row, Cell]:
    """Key columns -> the cell of `time_us`, with the times in the columns `beside`; an absent file is an empty table.

    A column that is missing, a value that is not what it should be, or a point that is there twice raises ProfileError
    with file and row.
    """
    if not path.is_file():
        return {}
    table: dict[Row, Cell] = {}
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        raise ProfileError(str(path), "is not a text file", "a CSV file") from None
    with StringIO(text, newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        wanted = (*keys, "time_us", *beside)
        for column in wanted:
            if column not in columns:
                raise ProfileError(str(path), f"column '{column}' is missing", f"columns {', '.join(wanted)}",
                                   nearest_name(column, columns))  # fmt: skip
        for number, row in enumerate(reader, start=2):
            where = f"{path}:{number}"
            if None in row or None in row.values():
                raise ProfileError(where, "has not one value a column", f"columns {', '.join(columns)}")
            key = tuple(row[column] if column == "op" else _number(row[column], where, column) for column in keys)
            if key in table:
                raise ProfileError(where, f"the point {key} is there twice", "one row a point")
            spread = row.get("spread_us")
            table[key] = Cell(
                _time(row["time_us"], where, "time_us"),
                _source(row.get("source"), where),
                number,
                _time(spread, where, "spread_us", least=-1.0) if spread else None,
                tuple(_time(row[column], where, column) for column in beside),
            )
    return table


def _source(text: str | None, where: str) -> int:
    if text and text not in SOURCES:
        raise ProfileError(where, f"source is '{text}'", "one of " + ", ".join(SOURCES), nearest_name(text, SOURCES))
    return SOURCES.index(text) if text else MEASURED


def _number(text: str | None, where: str, column: str) -> int:
    if text is None or not text.isdigit():
        raise ProfileError(where, f"{column} is '{text}'", "a whole number of at least 0")
    return int(text)


def _time(text: str | None, where: str, column: str, least: float = 0.0) -> float:
    try:
        time_us = float(text or "")
    except ValueError:
        time_us = math.nan
    if not (math.isfinite(time_us) and time_us > least):
        raise ProfileError(where, f"{column} is '{text}'", "microseconds above 0")
    return time_us * 1e-6


def _by_op(rows: dict[Row, Cell]) -> dict[str, Curve]:
    ops: dict[str, dict[int, Cell]] = {}
    for (op, x), cell in rows.items():
        ops.setdefault(op, {})[x] = cell
    return {op: _curve(known) for op, known in ops.items()}


def _curve(cells: dict[int, Cell]) -> Curve:
    return Curve({x: cell.seconds for x, cell in cells.items()}, {x: cell.source for x, cell in cells.items()})
