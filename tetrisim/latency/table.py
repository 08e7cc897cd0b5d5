"""Measured tables: `profile.yaml` with its CSV files, read and checked.

A profile is a folder `<gpu>/<model>/<dtype>/tp<k>/`. Times are microseconds for one call of an op on one GPU; all other
columns are whole numbers. `profile.yaml` names the GPU, model, dtype and tensor_parallel of the catalog, how often each
op runs (`calls_per_layer`, `calls_per_step`), and where the numbers come from (`source`).
"""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, cast

import yaml

from tetrisim.errors import ProfileError, nearest_name
from tetrisim.latency.grid import Curve, Point

KEYS = {
    "linear.csv": ("op", "tokens"),
    "head.csv": ("op", "sequences"),
    "attention.csv": ("prefill_tokens", "prefill_context", "decode_sequences", "decode_context"),
    "collective.csv": ("op", "bytes", "gpus"),
    "host.csv": ("sequences",),
    "skew.csv": (
        "prefill_tokens", "prefill_context", "decode_sequences", "long_sequences", "short_context", "long_context",
    ),
}  # fmt: skip
"""File -> its key columns; each also has `time_us`, and may have `spread_us` and `samples`.

`skew.csv` times an attention call over `decode_sequences` decodes of which `long_sequences` have `long_context` cached
tokens and the others `short_context`, beside the same batch all at the mean (`mean_us`) and all at `long_context`
(`long_us`).
"""

SKEW_GAP = 1.1
"""Skew rows count when the long batch takes this much longer than the mean one; below, alpha is noise over noise."""

Row = tuple[Any, ...]


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
    rows = {name: _read_rows(folder / name, keys) for name, keys in KEYS.items() if name != "skew.csv"}
    for name in ("linear.csv", "attention.csv"):
        if not rows[name]:
            raise ProfileError(str(folder / name), "is missing or empty", "measured rows")
    shards = int(meta["tensor_parallel"])
    reduce = {
        key[1]: time for key, time in rows["collective.csv"].items() if key[0] == "all_reduce" and key[2] == shards
    }
    host = {key[0]: time for key, time in rows["host.csv"].items()}
    return Profile(
        folder=folder,
        gpu=str(meta["gpu"]),
        model=str(meta["model"]),
        dtype=str(meta["dtype"]),
        tensor_parallel=shards,
        source=str(meta["source"]),
        calls_per_layer=meta["calls_per_layer"],
        calls_per_step=meta["calls_per_step"],
        linear=_by_op(rows["linear.csv"]),
        head=_by_op(rows["head.csv"]),
        attention=cast("dict[Point, float]", rows["attention.csv"]),
        skew=_read_skew(folder / "skew.csv"),
        all_reduce=Curve(reduce) if reduce else None,
        host=Curve(host) if host else None,
    )


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ProfileError(str(path), f"cannot read: {error.strerror}", "a profile.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(str(path), "is not YAML: " + " ".join(str(error).split()), "a profile.yaml") from None
    wanted = {"gpu": str, "model": str, "dtype": str, "tensor_parallel": int, "source": str,
              "calls_per_layer": dict, "calls_per_step": dict}  # fmt: skip
    for key, kind in wanted.items():
        if not isinstance(meta, dict) or not isinstance(meta.get(key), kind):
            raise ProfileError(str(path), f"key '{key}' is missing or of the wrong kind", kind.__name__)
    return cast("dict[str, Any]", meta)


def _read_skew(path: Path) -> dict[tuple[int, int], float]:
    """The median alpha of each (prefill tokens, sequences): single rows are noisy where the gap is small."""
    columns = [_read_rows(path, KEYS["skew.csv"], column) for column in ("time_us", "mean_us", "long_us")]
    alphas: dict[tuple[int, int], list[float]] = {}
    for key, ragged in columns[0].items():
        mean, longest = columns[1][key], columns[2][key]
        if longest >= SKEW_GAP * mean:
            alphas.setdefault((key[0], key[2]), []).append((ragged - mean) / (longest - mean))
    return {key: min(1.0, max(0.0, median(values))) for key, values in alphas.items()}


def _read_rows(path: Path, keys: tuple[str, ...], timed: str = "time_us") -> dict[Row, float]:
    """Key columns -> seconds in the column `timed`; an absent file is an empty table."""
    if not path.is_file():
        return {}
    table: dict[Row, float] = {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        for column in (*keys, timed):
            if column not in columns:
                raise ProfileError(str(path), f"column '{column}' is missing", f"columns {', '.join(keys)}, {timed}",
                                   nearest_name(column, columns))  # fmt: skip
        for number, row in enumerate(reader, start=2):
            where = f"{path}:{number}"
            key = tuple(row[column] if column == "op" else _number(row[column], where, column) for column in keys)
            if key in table:
                raise ProfileError(where, f"the point {key} is there twice", "one row a point")
            table[key] = _time(row[timed], where, timed)
    return table


def _number(text: str | None, where: str, column: str) -> int:
    if text is None or not text.isdigit():
        raise ProfileError(where, f"{column} is '{text}'", "a whole number of at least 0")
    return int(text)


def _time(text: str | None, where: str, column: str) -> float:
    try:
        time_us = float(text or "")
    except ValueError:
        time_us = math.nan
    if not (math.isfinite(time_us) and time_us > 0):
        raise ProfileError(where, f"{column} is '{text}'", "microseconds above 0")
    return time_us * 1e-6


def _by_op(rows: dict[Row, float]) -> dict[str, Curve]:
    ops: dict[str, dict[int, float]] = {}
    for (op, x), time in rows.items():
        ops.setdefault(op, {})[x] = time
    return {op: Curve(known) for op, known in ops.items()}
