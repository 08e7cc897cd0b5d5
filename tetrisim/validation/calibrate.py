"""Two numbers fitted to a part of a measured run, in a profile of their own that says so. Never applied silently.

`host_us` is added to the host overhead of every step, and all other times are multiplied by `scale`: the two that bring
the decode times (first to last token) of the requests that finished in the first part of the run closest to the
measured ones, in the sense of least squares of relative errors. Waits are not fitted, so they are a test too. What the
two are worth is the error on the requests that finished later, before and after.
"""

import csv
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tetrisim.errors import OutputError, ProfileError, TraceError
from tetrisim.latency.table import KEYS, Profile, read_profile
from tetrisim.scenario.scenario import Scenario
from tetrisim.validation.measured import Floats, Measured
from tetrisim.validation.replay import Replay, replay
from tetrisim.validation.scorecard import METRICS, Pair, error, statistics
from tetrisim.validation.tables import host_term, used_profile

SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Rows of a fitted host.csv."""
LEAST_US = 1e-3
"""A table has no times of 0."""
ROUNDS = 10
"""Each looks at one point, and at two beside it when the point is better than all before."""
NUDGE = np.array([50.0, 0.01])
"""Steps of the finite differences: us of host overhead, and of the scale."""
FEWEST = 10
"""Requests that a fit, and the judgement of it, need at least."""


@dataclass(frozen=True)
class Calibration:
    """A fit, and what it is worth: pairs (measured, simulated) in seconds by metric and statistic."""

    folder: Path
    host_us: float
    scale: float
    until_s: float
    """Where the run is split, in seconds after its first arrival."""
    fitted: int
    held: int
    before: dict[str, dict[str, Pair]]
    after: dict[str, dict[str, Pair]]
    notes: tuple[str, ...]
    """What of the run was in no metric, and why."""

    def summary(self) -> dict[str, Any]:
        """JSON-ready: the two numbers, the split, and signed errors on what was held back."""
        errors = {
            when: {metric: {name: error(pair) for name, pair in rows.items()} for metric, rows in found.items()}
            for when, found in (("before", self.before), ("after", self.after))
        }
        return {
            "profile": str(self.folder), "host_us": self.host_us, "scale": self.scale, "split_s": self.until_s,
            "fitted_requests": self.fitted, "held_back_requests": self.held, "error_on_held_back": errors,
            "worse": self.worse, "notes": list(self.notes),
        }  # fmt: skip

    def lines(self) -> list[str]:
        """For the terminal."""
        lines = [
            f"fitted to the {self.fitted} requests finished by {self.until_s:.1f} s; "
            f"errors on the {self.held} that finished later:",
            f"{'':<14}{'before':>10}{'after':>10}",
        ]
        for metric, rows in self.before.items():
            for name, pair in rows.items():
                both = (error(pair), error(self.after[metric][name]))
                shown = "".join(f"{'-' if off is None else f'{off:+.1%}':>10}" for off in both)
                lines.append(f"{f'{metric} {name}':<14}{shown}")
        found = f"host overhead {self.host_us:+.1f} us a step, all other step times x {self.scale:.4f}"
        lines += [found, *self.notes]
        if self.worse:
            lines.append("on what was held back it does no better than no fit: there is no reason to use it")
        return [*lines, f"written to {self.folder}: `profile: {self.folder}` in a scenario uses it, and says so"]

    @property
    def worse(self) -> bool:
        """Whether the mean latencies that were held back are further off with the fit than without, in all."""
        before, after = (
            sum(abs(error(rows["mean"]) or 0.0) for rows in found.values()) for found in (self.before, self.after)
        )
        return after >= before


def calibrate(scenario: Scenario, measured: Measured, out: Path, part: float = 0.5) -> Calibration:
    """Fit host overhead and a scale on the first `part` of a run (by time), and write a profile that says so.

    Raises ProfileError where there is no profile to lay it over, TraceError where a part has too few requests.
    """
    profile = _single(scenario)
    if out.exists() or out.is_symlink():
        raise OutputError(str(out), "exists already", "a folder that is not there yet")
    if not 0 < part < 1:
        raise TraceError("--part", f"is {part:g}", "a fraction of the run between 0 and 1")
    run = replay(scenario, measured)
    start = measured.arrival_s.min()
    until = part * (np.nanmax(measured.last_token_s) - start)
    early = run.compared & (measured.last_token_s <= start + until)
    late = run.compared & ~early
    use = early & (measured.output_tokens > 1)
    for name, chosen in (("before", use), ("after", late)):
        if chosen.sum() < FEWEST:
            what = f"{int(chosen.sum())} requests with several tokens finished {name} {until:.1f} s"
            raise TraceError(str(measured.path), what, f"at least {FEWEST}, with another --part")
    draft = _Overlay(profile, out.parent)
    host_us, scale = _fit(scenario, run, draft, use)
    told = {
        "measured": str(measured.path), "split_s": float(until), "requests": int(use.sum()),
        "host_us": host_us, "scale": scale,
    }  # fmt: skip
    with draft.written(host_us, scale, told) as folder:
        after = replay(replace(scenario, profile=str(folder)), measured)
        folder.rename(out)
    counts = (int(use.sum()), int(late.sum()))
    return Calibration(out, host_us, scale, float(until), *counts, _errors(run, late), _errors(after, late),
                       (*measured.notes, *run.notes))  # fmt: skip


def _single(scenario: Scenario) -> Profile:
    """The only profile of a scenario."""
    shapes = {(pool.gpu, pool.tensor_parallel) for pool in scenario.cluster.pools}
    if len(shapes) > 1:
        raise ProfileError("profile", "the pools run on several profiles", "one GPU and one tensor_parallel")
    profile = used_profile(scenario)
    if profile is None:
        raise ProfileError(
            "profile", "step times are estimated by the roofline: there is no table to lay a fit over",
            "a measured profile (`tetrisim profile`)",
        )  # fmt: skip
    return profile


def _fit(scenario: Scenario, run: Replay, draft: "_Overlay", use: np.ndarray) -> tuple[float, float]:
    """Gauss-Newton with finite differences over (host us, scale); each look is a simulation."""
    measured = run.measured
    real = (measured.last_token_s - measured.first_token_s)[use]

    def errors(at: Floats) -> Floats:
        with draft.written(float(at[0]), float(at[1]), {}) as folder:
            rows = replay(replace(scenario, profile=str(folder)), measured).rows
        return (rows["finish_s"] - rows["first_token_s"])[use] / real - 1

    at, best = np.array([0.0, 1.0]), (np.inf, np.array([0.0, 1.0]))
    for _ in range(ROUNDS):
        here = errors(at)
        if (size := float(here @ here)) >= best[0]:
            at = 0.5 * (at + best[1])  # too far: batches had changed on the way
            continue
        best = (size, at)
        slopes = np.stack(
            [(errors(at + nudge) - here) / step for nudge, step in zip(np.diag(NUDGE), NUDGE, strict=True)]
        )
        at = at + np.linalg.lstsq(slopes.T, -here, rcond=None)[0]
        at = np.array([max(at[0], draft.least_us), np.clip(at[1], 0.5, 2.0)])
    return float(best[1][0]), float(best[1][1])


def _errors(run: Replay, use: np.ndarray) -> dict[str, dict[str, Pair]]:
    sides = [{name: column[use] for name, column in rows.items()} for rows in (run.measured.columns, run.rows)]
    return {metric: statistics(of(sides[0]), of(sides[1])) for metric, of in METRICS.items()}


class _Overlay:
    """A profile's tables, to be written again with other times."""

    def __init__(self, profile: Profile, beside: Path) -> None:
        self._profile, self._beside = profile, beside
        self._tables: dict[str, list[dict[str, str]]] = {}
        for name in KEYS:
            if name != "host.csv" and (profile.folder / name).is_file():
                with (profile.folder / name).open(newline="") as file:
                    self._tables[name] = list(csv.DictReader(file))
        host = host_term(profile)
        self._host_us = {sequences: 1e6 * host(sequences) for sequences in SEQUENCES}
        self.least_us = -min(self._host_us.values())
        """No step has less than no host overhead."""

    @contextmanager
    def written(self, host_us: float, scale: float, told: dict[str, Any]) -> Generator[Path]:
        """A profile with these two numbers, in a folder that vanishes unless it is renamed."""
        try:
            self._beside.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".fit.{os.getpid()}.", dir=self._beside))
        except OSError as problem:
            raise OutputError(str(self._beside), f"cannot write: {problem.strerror}", "a writable folder") from None
        try:
            self._write(folder, host_us, scale, told)
            read_profile(folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, folder: Path, host_us: float, scale: float, told: dict[str, Any]) -> None:
        for name, rows in self._tables.items():
            timed = [column for column in rows[0] if column.endswith("_us")]
            with (folder / name).open("w", newline="") as file:
                writer = csv.DictWriter(file, list(dict.fromkeys([*rows[0], "source"])), lineterminator="\n")
                writer.writeheader()
                for row in rows:
                    scaled = {column: f"{float(row[column]) * scale:.6g}" for column in timed if row[column]}
                    writer.writerow({**row, **scaled, "source": "estimated"})
        with (folder / "host.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("sequences", "time_us", "source"))
            for sequences, before in self._host_us.items():
                writer.writerow((sequences, f"{max(LEAST_US, before + host_us):.6g}", "estimated"))
        meta = dict(self._profile.meta)
        if meta.get("includes"):
            meta["includes"] = [term for term in meta["includes"] if term != "host"]
        name = Path(str(told.get("measured", ""))).name
        meta["source"] = (
            f"FITTED to {name} (host {host_us:+.1f} us a step, other times x {scale:.4f}); before that: "
            f"{self._profile.source}"
        )
        meta["fitted"] = told
        (folder / "profile.yaml").write_text(yaml.safe_dump(meta, sort_keys=False))
