"""The folder of a profile while it grows: rows on disk, read for resuming; no moment leaves half a file."""

import csv
import math
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tetrisim.errors import OutputError, ProfileError
from tetrisim.latency.table import KEYS
from tetrisim.profiling.plan import Key, Task
from tetrisim.profiling.shape import ShardShape

Values = dict[str, float]
"""time_us, spread_us, samples, and what else a file holds."""

VALUES = {"skew.csv": ("mean_us", "long_us"), "host.csv": ("eager_us", "step_us", "ops_us")}
"""Columns beside time_us, spread_us and samples. `host.csv`: time_us is step_us less ops_us; a step runs as a CUDA
graph where there is one, and eager_us is what the same step takes over its ops without."""

SAME = ("device", "torch", "threads")
"""Facts that all rows of one profile share: rows of two set-ups must not mix."""

SUMMED = ("rounds", "disturbed_rounds", "seconds_spent")
"""Provenance that adds up over the runs that made a profile; the rest is of the last one."""


class Store:
    """Rows of one profile. Until the coarse grid is whole they wait in `.tp<k>.partial`, where no run looks."""

    def __init__(self, out: Path, gpu: str, shape: ShardShape, device: dict[str, Any]) -> None:
        self.shape, self.gpu, self.device = shape, gpu, device
        parent = out / gpu / shape.model.name / shape.dtype
        self.final = parent / f"tp{shape.tensor_parallel}"
        self.partial = parent / f".tp{shape.tensor_parallel}.partial"
        self.folder = self.final if self.final.exists() else self.partial
        self.rows: dict[str, dict[Key, Values]] = {name: {} for name in KEYS}
        self.old: dict[str, Any] = {}
        self.changed = False
        if (out / "profile.yaml").exists():
            raise ProfileError(str(out / "profile.yaml"), "is a profile", "--out to name a folder of profiles")
        self._read()

    def __contains__(self, task: Task) -> bool:
        file, key = task
        return key in self.rows[file]

    @property
    def count(self) -> int:
        """Rows in all files."""
        return sum(map(len, self.rows.values()))

    def add(self, new: dict[Task, Values]) -> None:
        """Keep rows, and write the files they belong to."""
        for (file, key), values in new.items():
            self.rows[file][key] = values
            self.changed = True
        with self._writing():
            for file in sorted({file for file, _ in new}):
                write_rows(self.folder / file, self.rows[file])

    def describe(self, run: dict[str, Any]) -> None:
        """Write profile.yaml; `run` is what this run adds to the provenance."""
        if self.old and not self.changed:
            return  # what is there, with what `profile check --write` may have added, is still true
        before = self.old.get("provenance", {})
        sums = {name: round(before.get(name, 0) + run[name], 1) for name in SUMMED}
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        first = before.get("dates", [day])
        provenance = {
            **self.device,
            **run,
            "dates": first if day in first else [*first, day],
            "rows": self.count,
            "samples": int(sum(row["samples"] for rows in self.rows.values() for row in rows.values())),
            **sums,
        }
        device = self.device
        meta = {
            "gpu": self.gpu,
            "model": self.shape.model.name,
            "dtype": self.shape.dtype,
            "tensor_parallel": self.shape.tensor_parallel,
            "source": f"measured by tetrisim on {device['device']}, torch {device['torch']}, {day}",
            "calls_per_layer": self.shape.calls_per_layer,
            "calls_per_step": self.shape.calls_per_step,
            "shape": asdict(self.shape.model),
            **({"experts": asdict(self.shape.experts)} if self.shape.experts is not None else {}),
            "provenance": provenance,
        }
        with self._writing():
            _replace(self.folder / "profile.yaml", yaml.safe_dump(meta, sort_keys=False, width=120))

    def publish(self) -> None:
        """Move the folder to where runs look for it."""
        if self.folder == self.partial:
            os.replace(self.partial, self.final)
            self.folder = self.final

    @contextmanager
    def _writing(self) -> Generator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise OutputError(str(self.folder), f"cannot write: {error.strerror}", "a folder to write in") from None

    def _read(self) -> None:
        path = self.folder / "profile.yaml"
        if not self.folder.exists():
            return
        try:
            self.old = yaml.safe_load(path.read_text())
            known = self.old["provenance"]
            old = (self.old["gpu"], self.old["model"], self.old["dtype"], self.old["tensor_parallel"])
        except FileNotFoundError:
            if any(self.folder.iterdir()):
                raise ProfileError(str(path), "is missing", "a profile, or a new folder") from None
            return
        except (OSError, yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
            raise ProfileError(str(path), "is no profile of this harness", "another --out") from None
        new = (self.gpu, self.shape.model.name, self.shape.dtype, self.shape.tensor_parallel)
        if old != new:
            raise ProfileError(str(path), f"is of {' '.join(map(str, old))}", " ".join(map(str, new)))
        for fact in SAME:
            if known.get(fact) != self.device[fact]:
                raise ProfileError(
                    str(path),
                    f"was measured with {fact} '{known.get(fact)}'",
                    f"'{self.device[fact]}', or another --out",
                )
        for file in KEYS:
            if (self.folder / file).is_file():
                self.rows[file] = read_rows(self.folder / file)


def write_rows(path: Path, rows: dict[Key, Values]) -> None:
    """All rows of one file, sorted, in microseconds."""
    columns = ["time_us", *VALUES.get(path.name, ()), "spread_us", "samples"]
    lines = [",".join([*KEYS[path.name], *columns])]
    for key in sorted(rows):
        cells = [str(int(rows[key][name])) if name == "samples" else f"{rows[key][name]:.3f}" for name in columns]
        lines.append(",".join([*map(str, key), *cells]))
    _replace(path, "\n".join(lines) + "\n")


def read_rows(path: Path) -> dict[Key, Values]:
    """What `write_rows` wrote; anything else raises ProfileError with file and row."""
    columns = ["time_us", *VALUES.get(path.name, ()), "spread_us", "samples"]
    rows: dict[Key, Values] = {}
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                key = tuple(row[name] if name == "op" else int(row[name]) for name in KEYS[path.name])
                values = {name: float(row[name]) for name in columns}
            except (KeyError, ValueError, TypeError):
                raise ProfileError(f"{path}:{number}", "is no row of this harness", "whole rows of numbers") from None
            if not all(map(math.isfinite, values.values())) or values["time_us"] <= 0:
                raise ProfileError(f"{path}:{number}", "holds a time that is not above 0", "microseconds above 0")
            rows[key] = values
    return rows


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    os.replace(temporary, path)
