"""Step times with weights of few bits in nested planes (Any-Precision LLM). Everything here is labelled estimated."""

from collections.abc import Callable

import numpy as np

from tetrisim.latency import roofline
from tetrisim.latency.build import LARGEST, Columns, estimated_alone, roofline_terms
from tetrisim.latency.roofline import MATMUL_EFFICIENCY, MEMORY_EFFICIENCY, Shard, matmul_s
from tetrisim.latency.step import Dense, StepTimer
from tetrisim.scenario.precision import PrecisionSpec

MOST_ROWS = 8
"""Rows that the bit-plane kernel takes; for more, the library expands the weights and calls a dense GEMM."""
BIT_PLANE_EFFICIENCY = 0.55
BIT_PLANE_S = 12e-6
"""Share of the HBM bandwidth that the bit-plane kernel reaches, and what it takes beside. From the published speeds of
Any-Precision Llama-3.1-8B on an A100, 228, 196 and 169 tokens/s at 2, 3 and 4 bits (AnyBCQ, arXiv 2510.10467): 0.77 ms
a bit for 0.87 GB, and 1.5 ms over 128 matrices beyond what head and host take."""

Seconds = Callable[[np.ndarray], np.ndarray]


class WidthTimers:
    """The step timers of an instance, by how many of its decoding requests run at the high width."""

    def __init__(self, shard: Shard, spec: PrecisionSpec) -> None:
        self._shard = shard
        fused = spec.kernel == "fused"
        self._wide: Seconds = lambda tokens: linear_s(shard, tokens, spec.high_bits, fused)
        self._narrow: Seconds = lambda tokens: linear_s(shard, tokens, spec.low_bits, fused)
        self.high, self.low = self._timer(self._wide), self._timer(self._narrow)
        self._split: dict[int, StepTimer] = {}

    def split(self, high: int) -> StepTimer:
        """The weights are read twice: for `high` of the rows, then for the others."""
        if high not in self._split:
            first = self._wide(np.array([high]))[0]
            self._split[high] = self._timer(lambda tokens: first + self._narrow(np.maximum(tokens - high, 1)))
        return self._split[high]

    def _timer(self, seconds: Seconds) -> StepTimer:
        shard = self._shard
        _, head, attention = roofline_terms(shard)

        def linear(tokens: np.ndarray) -> Columns:
            return estimated_alone(seconds(tokens) + roofline.collectives_s(shard, tokens))

        return StepTimer(Dense(linear, LARGEST), Dense(head, LARGEST), attention, shard.model.layers)


def linear_s(shard: Shard, tokens: np.ndarray, bits: int, fused: bool) -> np.ndarray:
    """Seconds of a step's matrices at `bits` a weight (16: as they are) and of its element-wise ops."""
    if bits == 16:
        return roofline.linear_s(shard, tokens)

    def matmul(shard: Shard, rows: np.ndarray, inputs: float, outputs: float) -> np.ndarray:
        weights = inputs * outputs
        compute = 2 * rows * weights / (shard.activation_peak * MATMUL_EFFICIENCY)
        moved = weights * bits / 8 + 2 * rows * (inputs + outputs)
        bandwidth = shard.gpu.memory_bytes_per_s
        few = np.maximum(compute, moved / (bandwidth * BIT_PLANE_EFFICIENCY)) + BIT_PLANE_S
        if fused:
            return few
        expanded = weights * (bits / 8 + 2) / (bandwidth * MEMORY_EFFICIENCY)
        return np.where(rows <= MOST_ROWS, few, expanded + matmul_s(shard, rows, inputs, outputs))

    return roofline.linear_s(shard, tokens, matmul)
