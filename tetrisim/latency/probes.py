"""How fast a machine was while it was logged: fixed pieces of work, timed again and again between the steps.

`probes.jsonl(.gz)` beside a log's iterations has a line a probe, on the clock of the steps: {"at_s": 3.21, "probe_s":
{"memory": 0.0092, ...}}. Each name is a piece of work of its own; what counts is how long it took over its usual time.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tetrisim.errors import ProfileError
from tetrisim.textfile import read_lines

NAMES = ("probes.jsonl.gz", "probes.jsonl")
AROUND_S = 1.0
"""Probes this near to a moment speak for it: one alone takes a hundredth of a second, and is noisy."""


@dataclass(frozen=True)
class Probes:
    """Moments in rising order, and what each piece of work took; seconds."""

    at_s: np.ndarray
    took_s: dict[str, np.ndarray]

    def slowness(self, usual_s: dict[str, float], moments_s: np.ndarray) -> np.ndarray:
        """Time over usual time at each moment: the mean of all pieces, averaged over the probes around it."""
        one = np.mean([took / usual_s[name] for name, took in self.took_s.items()], axis=0)
        low = np.searchsorted(self.at_s, self.at_s - AROUND_S)
        high = np.searchsorted(self.at_s, self.at_s + AROUND_S, "right")
        sums = np.concatenate([[0.0], np.cumsum(one)])
        return np.interp(moments_s, self.at_s, (sums[high] - sums[low]) / (high - low))


def read_probes(folder: Path) -> Probes | None:
    """The probes of a log, None where there are none; a bad row raises ProfileError."""
    file = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if file is None:
        return None
    lines = read_lines(file, ProfileError, "JSON lines, plain or gzipped")
    rows = [_probe(line, f"{file}:{number}") for number, line in enumerate(lines, 1)]
    if not rows or any(row[1].keys() != rows[0][1].keys() for row in rows) or rows != sorted(rows, key=_moment):
        raise ProfileError(str(file), "is no series", "probes in the order of time, each of the same pieces of work")
    took = {name: np.array([row[1][name] for row in rows]) for name in rows[0][1]}
    return Probes(np.array([row[0] for row in rows]), took)


def usual_s(every: Sequence[Probes]) -> dict[str, float]:
    """The median time of each piece of work over several logs."""
    return {name: float(np.median(np.concatenate([one.took_s[name] for one in every]))) for name in every[0].took_s}


def _moment(row: tuple[float, dict[str, float]]) -> float:
    return row[0]


def _probe(line: str, where: str) -> tuple[float, dict[str, float]]:
    try:
        row = json.loads(line)
        took = {str(name): float(seconds) for name, seconds in row["probe_s"].items()}
        at = float(row["at_s"])
    except (ValueError, TypeError, KeyError, AttributeError):
        took, at = {}, 0.0
    if not took or not all(0 < seconds < float("inf") for seconds in took.values()):
        raise ProfileError(where, "is no probe", 'JSON with at_s and probe_s, {"name of the work": seconds above 0}')
    return at, took
