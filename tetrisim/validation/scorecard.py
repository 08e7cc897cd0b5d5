"""The signed error of a simulated run against a measured one, with all that one has to know to judge it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tetrisim.errors import TraceError
from tetrisim.metrics import definitions as define
from tetrisim.scenario.scenario import Scenario
from tetrisim.validation.case import read_case
from tetrisim.validation.decompose import Decomposition, from_rows
from tetrisim.validation.measured import CLOCKS, Floats, Measured
from tetrisim.validation.replay import Replay, replay
from tetrisim.validation.stepwise import from_steps

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
METRICS = {"TTFT": define.ttft, "TPOT": define.tpot, "E2EL": define.e2el}

Columns = Mapping[str, np.ndarray]
Pair = tuple[float | None, float | None]
"""Measured and simulated."""


@dataclass(frozen=True)
class Scorecard:
    """A comparison: `run` holds both sides request by request."""

    scenario: Scenario
    run: Replay
    latencies: dict[str, dict[str, Pair]]
    """Seconds, by metric and statistic."""
    load: dict[str, Pair]
    decomposition: Decomposition

    def summary(self) -> dict[str, Any]:
        """JSON-ready: latencies in ms, errors as signed fractions of the measured value."""
        measured = self.run.measured
        latencies = {
            metric: {name: _record(pair, 1e3, "_ms") for name, pair in rows.items()}
            for metric, rows in self.latencies.items()
        }
        return {
            "measured": str(measured.path),
            "kind": measured.kind,
            "system": self.scenario.system,
            "requests": len(measured),
            "compared": int(self.run.compared.sum()),
            "clock": measured.clock,
            "latencies": latencies,
            "load": {name: _record(pair, 1.0, "") for name, pair in self.load.items()},
            "kv_blocks": dict(zip(("measured", "simulated"), self.kv_blocks, strict=True)),
            "step_time_shares": self.shares,
            "provenance": list(self.run.result.provenance),
            "definitions": self.definitions,
            "notes": self.notes,
            "decomposition": self.decomposition.summary(),
        }

    @property
    def samples(self) -> dict[str, tuple[Floats, Floats]]:
        """Measured and simulated seconds of what is compared, by metric."""
        real, ours = self.run.of_measured(), self.run.of_simulated()
        return {metric: (of(real), of(ours)) for metric, of in METRICS.items()}

    @property
    def kv_blocks(self) -> tuple[int | None, int]:
        """KV blocks of all instances: as recorded (None: not recorded), and as simulated."""
        recorded = self.run.measured.settings.get("kv_blocks")
        return recorded, int(self.run.result.instance_columns["kv_blocks"].sum())

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the simulated step time by source."""
        times = self.run.result.time_shares
        total = sum(times.values()) or 1.0
        return {name: seconds / total for name, seconds in times.items()}

    @property
    def definitions(self) -> list[str]:
        """What each number means, the same on both sides."""
        return [
            f"{CLOCKS[self.run.measured.clock]}, to the first and the last token",
            "TPOT: (last token - first token) / (output tokens - 1), of requests with more than one",
            "error: simulated / measured - 1; percentiles interpolate linearly (numpy)",
            "throughput: over the time from the first arrival to the last token",
        ]

    @property
    def notes(self) -> list[str]:
        """What was left out, and what else has to be known."""
        return [*self.run.measured.notes, *self.run.notes]

    def lines(self) -> list[str]:
        """For the terminal."""
        measured, compared = self.run.measured, int(self.run.compared.sum())
        lines = [
            f"{measured.path}: {measured.kind}, {compared} of {len(measured)} replayed requests compared",
            "",
            f"{'':<26}{'measured':>12}{'simulated':>12}{'error':>10}",
        ]
        for metric, rows in self.latencies.items():
            lines += [_line(f"{metric} {name} ms", pair, 1e3) for name, pair in rows.items()]
        lines += [_line(name, pair, 1.0) for name, pair in self.load.items()]
        recorded, simulated = self.kv_blocks
        blocks = "not recorded" if recorded is None else str(recorded)
        lines += [f"{'KV blocks':<26}{blocks:>12}{simulated:>12}", ""]
        parts = ", ".join(f"{100 * share:.1f} % {name}" for name, share in self.shares.items())
        lines.append(f"step time: {parts} ({'; '.join(self.run.result.provenance)})")
        lines += [f"defined: {text}" for text in self.definitions]
        lines += [f"note: {text}" for text in self.notes]
        return [*lines, "", *self.decomposition.lines()]


def validate(scenario: Scenario, measured: Measured) -> Scorecard:
    """Replay a measured run through a scenario, and compare."""
    run = replay(scenario, measured)
    if not run.compared.any():
        raise TraceError(
            str(measured.path), "no request finished on both sides", "; ".join(run.notes) or "some that did"
        )
    real, ours = run.of_measured(), run.of_simulated()
    latencies = {metric: statistics(of(real), of(ours)) for metric, of in METRICS.items()}
    return Scorecard(scenario, run, latencies, _load(real, ours), decompose(scenario, run))


def decompose(scenario: Scenario, run: Replay) -> Decomposition:
    """By recorded steps where they stand beside the rows, else by the rows alone."""
    path = run.measured.path
    folder = path if path.is_dir() else path.parent
    if any(folder.glob("iterations.jsonl*")) and (folder / "config.json").is_file():
        return from_steps(scenario, run, read_case(folder))
    return from_rows(scenario, run)


def statistics(real: Floats, ours: Floats) -> dict[str, Pair]:
    """Mean and percentiles of both sides; None where there is nothing to take them of."""
    if not real.size or not ours.size:
        return dict.fromkeys(STATISTICS, (None, None))
    percents = [float(name[1:]) for name in STATISTICS[1:]]
    both = [[float(side.mean()), *map(float, np.percentile(side, percents))] for side in (real, ours)]
    return dict(zip(STATISTICS, zip(*both, strict=True), strict=True))


def error(pair: Pair) -> float | None:
    """Signed, as a fraction of the measured value."""
    real, ours = pair
    return None if real is None or ours is None or not real else ours / real - 1


def concurrency(rows: Columns) -> tuple[float, int]:
    """Requests in the system: the mean over the run, and the most at one moment."""
    begin, end = rows["arrival_s"], rows["finish_s"]
    moments = np.concatenate([begin, end])
    steps = np.concatenate([np.ones(len(begin)), -np.ones(len(end))])
    order = np.lexsort((steps, moments))  # one that leaves makes room for one that comes at the same moment
    return float((end - begin).sum() / (end.max() - begin.min())), int(steps[order].cumsum().max())


def _load(real: Columns, ours: Columns) -> dict[str, Pair]:
    both: list[list[float | None]] = []
    names = ("offered req/s", "requests/s", "output tokens/s", "requests in system, mean", "requests in system, most")
    for rows in (real, ours):
        gaps = float(np.ptp(rows["arrival_s"]))
        seconds = define.duration(rows)
        mean, most = concurrency(rows)
        both.append([
            (len(rows["arrival_s"]) - 1) / gaps if gaps else None,
            define.per_second(len(rows["arrival_s"]), seconds),
            define.per_second(float(rows["output_tokens"].sum()), seconds),
            mean,
            float(most),
        ])  # fmt: skip
    found = dict(zip(names, zip(*both, strict=True), strict=True))
    return {name: (pair[0], pair[1]) for name, pair in found.items()}


def _record(pair: Pair, factor: float, unit: str) -> dict[str, float | None]:
    real, ours = (None if value is None else value * factor for value in pair)
    return {f"measured{unit}": real, f"simulated{unit}": ours, "error": error(pair)}


def _line(name: str, pair: Pair, factor: float) -> str:
    real, ours = ("-" if value is None else f"{value * factor:.1f}" for value in pair)
    off = error(pair)
    return f"{name:<26}{real:>12}{ours:>12}{'-' if off is None else f'{off:+.1%}':>10}"
