"""Whole measured steps against the step-time model, on batch shapes that no table was made from."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from tetrisim.latency.step import StepTimer
from tetrisim.profiling.harness import quietest
from tetrisim.profiling.plan import Task
from tetrisim.profiling.shape import BatchShape
from tetrisim.profiling.store import Store
from tetrisim.units import TICKS_PER_S

PASSES = 2
"""The same shapes are measured this often from scratch; what lies between the passes is the machine's own noise."""


@dataclass(frozen=True, slots=True)
class StepCheck:
    """One batch shape: predicted seconds, and the median measured seconds of every pass.

    `paced_s` is measured too, each sample over the pace of the machine in the same second: what a neighbour, or a
    clock, slows all ops alike by is then no error of the model.
    """

    batch: BatchShape
    predicted_s: float
    measured_s: tuple[float, ...]
    paced_s: tuple[float, ...]

    @property
    def error(self) -> float:
        """Predicted over measured, less one; measured is the mean of the passes."""
        return self.predicted_s * len(self.measured_s) / sum(self.measured_s) - 1

    @property
    def paced_error(self) -> float:
        """The same against `paced_s`."""
        return self.predicted_s * len(self.paced_s) / sum(self.paced_s) - 1

    @property
    def noise(self) -> float:
        """How far the passes differ, as a share of their mean."""
        return (max(self.measured_s) - min(self.measured_s)) * len(self.measured_s) / sum(self.measured_s)


def random_batches(count: int, seed: int, largest: int = 2000, most: int = 64) -> list[BatchShape]:
    """A third each of ragged decodes, one or two prefill pieces, and both; log-uniform sizes, off the tables' grid."""
    draw = random.Random(seed)

    def size(low: int, high: int) -> int:
        return round(low * (high / low) ** draw.random())

    batches: list[BatchShape] = []
    for at in range(count):
        kind = ("decode", "prefill", "mixed")[at % 3]
        pieces: tuple[tuple[int, int], ...] = ()
        contexts: tuple[int, ...] = ()
        if kind != "decode":
            split = draw.choice((1, 1, 2))
            pieces = tuple(
                (size(16, largest // 2 // split), draw.choice((0, size(16, largest // 2)))) for _ in range(split)
            )
        if kind != "prefill":
            contexts = tuple(size(16, largest) for _ in range(size(1, most)))
        batches.append(BatchShape(pieces, contexts))
    return batches


def predicted_s(timer: StepTimer, batch: BatchShape) -> float:
    """Seconds of one step."""
    contexts = batch.contexts
    ticks = timer.step(batch.tokens, list(batch.pieces), len(contexts), sum(contexts), max(contexts, default=0))
    return ticks / TICKS_PER_S


DRIFT_ROWS: tuple[Task, ...] = (
    ("linear.csv", ("qkv_proj", 16)),
    ("linear.csv", ("o_proj", 64)),
    ("linear.csv", ("down_proj", 256)),
    ("linear.csv", ("layernorm", 64)),
    ("head.csv", ("lm_head", 16)),
    ("attention.csv", (0, 0, 16, 512)),
    ("attention.csv", (256, 0, 0, 0)),
)


GROUP = 4
"""Steps between two looks at the pace."""


def machine_pace(bench: Any, store: Store) -> Callable[[], float]:
    """Each use measures a few rows again: the median of what they take now over what the profile says."""
    rows = [(bench.prepare(*task), store.rows[task[0]][task[1]]["time_us"]) for task in DRIFT_ROWS if task in store]
    return lambda: median(sampler()["time_us"] / time for sampler, time in rows)


def check_steps(
    bench: Any, timer: StepTimer, batches: list[BatchShape], rounds: int = 5, pace: Callable[[], float] = lambda: 1.0
) -> list[StepCheck]:
    """Measure every batch in PASSES passes of interleaved rounds on a TorchBench."""
    graph = bench.device.type == "cuda"
    measured: list[list[float]] = [[] for _ in batches]
    paced: list[list[float]] = [[] for _ in batches]
    for _ in range(PASSES):
        steps = [bench.step(batch) for batch in batches]
        for step in steps:
            step.seconds(graph)
        times: list[list[tuple[float, tuple[float, float]]]] = [[] for _ in batches]
        now = 1.0
        for _ in range(rounds):
            for at, step in enumerate(steps):
                now = pace() if at % GROUP == 0 else now
                bench.disturbance()
                seconds = step.seconds(graph)
                times[at].append((bench.disturbance(), (seconds, seconds / now)))
        for at, samples in enumerate(times):
            kept = [pair for _, pair in quietest(samples)]
            measured[at].append(median(seconds for seconds, _ in kept))
            paced[at].append(median(seconds for _, seconds in kept))
    return [
        StepCheck(batch, predicted_s(timer, batch), tuple(times), tuple(even))
        for batch, times, even in zip(batches, measured, paced, strict=True)
    ]
