"""One attention call of one layer: measured on a grid, or from the roofline."""

from collections.abc import Collection
from math import sqrt
from typing import Protocol

import numpy as np

from tetrisim.errors import ProfileError
from tetrisim.latency.grid import Curve, Point, Product4, Slices, between, largest_product, smooth
from tetrisim.latency.roofline import ATTENTION_EFFICIENCY, MEMORY_EFFICIENCY, Shard
from tetrisim.scenario.model import DTYPE_BYTES

_MOST_ALPHAS = 1 << 17
"""Answers kept: enough for every whole chunk of a usual token budget, and bounded where chunks are fractions."""


class Attention(Protocol):
    """Seconds of one call, and whether the shape lies inside what was measured. Nothing here changes state."""

    measured: bool
    skewed: bool
    """Whether `alpha` is ever above 0."""

    def alpha(self, chunk: float, sequences: int) -> float:
        """Cost of uneven contexts: a ragged batch takes mean + alpha * (longest - mean)."""
        ...

    def knots(self, sequences: int) -> list[int]:
        """Contexts between which `decode` at this many sequences is linear."""
        ...

    def decode(self, sequences: int, context: float) -> tuple[float, bool]:
        """Every sequence adds one token to `context` cached ones."""
        ...

    def mixed(self, chunk: float, cached: float, sequences: int, context: float) -> tuple[float, bool]:
        """A prefill of `chunk` tokens over `cached` ones, beside decodes (possibly none)."""
        ...


def equivalent_prefill(pieces: list[tuple[int, int]]) -> tuple[float, float]:
    """The one (chunk, cached) prefill with the attention work of several; work is chunk * (cached + chunk / 2).

    Tables hold one prefill a step. Pieces of fresh prompts do less work than one chunk of their sum, so the equivalent
    chunk is then shorter.
    """
    if len(pieces) == 1:
        return pieces[0]
    total = 0
    work = 0.0
    for chunk, cached in pieces:
        total += chunk
        work += chunk * (cached + 0.5 * chunk)
    chunk = min(total, sqrt(2 * work))
    return chunk, work / chunk - 0.5 * chunk


class RooflineAttention:
    """Prefill bound by compute or memory, decode by reading the KV cache; both in one step add up.

    An fp8 cache is read at 8 bits and multiplied at 16, as attention kernels measured with one do.
    """

    measured = False
    skewed = False

    def __init__(self, shard: Shard) -> None:
        model, cut = shard.model, shard.tensor_parallel
        size = DTYPE_BYTES[shard.dtype]
        bandwidth = shard.gpu.memory_bytes_per_s * MEMORY_EFFICIENCY
        heads = model.heads / cut
        kv_heads = max(1.0, model.kv_heads / cut)
        self._pair_s = 4 * heads * model.head_dim / (shard.activation_peak * ATTENTION_EFFICIENCY)
        self._kv_token_s = 2 * kv_heads * model.head_dim * size / bandwidth
        self._query_s = 2 * heads * model.head_dim * shard.activation_bytes / bandwidth

    def alpha(self, chunk: float, sequences: int) -> float:
        """The roofline knows total bytes only."""
        return 0.0

    def knots(self, sequences: int) -> list[int]:
        """One line from an empty cache on."""
        return []

    def decode(self, sequences: int, context: float) -> tuple[float, bool]:
        """Memory time of the KV cache and of queries and outputs."""
        return sequences * (context * self._kv_token_s + self._query_s), False

    def mixed(self, chunk: float, cached: float, sequences: int, context: float) -> tuple[float, bool]:
        """The longer of compute and memory for the prefill, plus the decodes."""
        compute = self._pair_s * chunk * (cached + 0.5 * chunk)
        memory = (cached + chunk) * self._kv_token_s + chunk * self._query_s
        decode = sequences * (context * self._kv_token_s + self._query_s)
        return (compute if compute > memory else memory) + decode, False


class TableAttention:
    """Measured calls: pure decode and pure prefill on slices with their own points, mixed calls on a full product."""

    measured = True

    def __init__(
        self,
        known: dict[Point, float],
        skew: dict[tuple[int, int], float],
        where: str,
        estimated: Collection[Point] = (),
        smooth_prefill: bool = False,
    ) -> None:
        """`estimated` are the points of `known` that nobody measured; `smooth_prefill` bends prefill between chunks."""
        self._decode = Slices(
            {(n, kv): time for (c, _, n, kv), time in known.items() if c == 0 and n > 0},
            {(n, kv) for c, _, n, kv in estimated if c == 0},
        )
        prefill = {(c, kp): time for (c, kp, n, _), time in known.items() if c > 0 and n == 0}
        guesses = {(c, kp) for c, kp, n, _ in estimated if n == 0}
        self._prefill = Slices(*_densified(prefill, guesses)) if smooth_prefill else Slices(prefill, guesses)
        if not self._decode.keys or not self._prefill.keys:
            raise ProfileError(where, "holds no pure decode or no pure prefill rows", "both kinds of rows")
        both = {point: time for point, time in known.items() if point[0] > 0 and point[2] > 0}
        axes = largest_product(both)
        self._mixed = Product4(axes, both) if axes else None
        pure = {n: alpha for (chunk, n), alpha in skew.items() if chunk == 0}
        beside = {key: alpha for key, alpha in skew.items() if key[0] > 0}
        self._pure_alpha = Curve(pure) if pure else None
        self._mixed_alpha = Slices(beside) if beside else None
        self.skewed = bool(skew)
        self._alphas: dict[tuple[float, int], float] = {}

    def alpha(self, chunk: float, sequences: int) -> float:
        """Measured, linear between batch sizes; held beyond the largest."""
        known = self._alphas.get((chunk, sequences))
        if known is not None:
            return known
        alpha = 0.0
        if sequences > 1:
            if chunk == 0:
                alpha = self._pure_alpha.held(sequences) if self._pure_alpha else 0.0
            else:
                alpha = self._mixed_alpha.held(chunk, sequences) if self._mixed_alpha else 0.0
        if len(self._alphas) < _MOST_ALPHAS:
            self._alphas[chunk, sequences] = alpha
        return alpha

    def knots(self, sequences: int) -> list[int]:
        """The measured contexts of the neighbouring batch sizes."""
        return self._decode.knots(sequences)

    def decode(self, sequences: int, context: float) -> tuple[float, bool]:
        """Bilinear in sequences and context."""
        return self._decode.at(sequences, context)

    def mixed(self, chunk: float, cached: float, sequences: int, context: float) -> tuple[float, bool]:
        """Quadrilinear; without a measured mixed sweep, prefill and decode add up (estimated)."""
        if sequences == 0:
            return self._prefill.at(chunk, cached)
        if self._mixed is not None:
            return self._mixed.at(chunk, cached, sequences, context)
        return self._prefill.at(chunk, cached)[0] + self._decode.at(sequences, context)[0], False


def _densified(
    known: dict[tuple[int, int], float], estimated: set[tuple[int, int]]
) -> tuple[dict[tuple[int, int], float], set[tuple[int, int]]]:
    """Chunks added between the measured ones: prefill time bends with the chunk, and straight lines cut the corner."""
    chunks = sorted({chunk for chunk, _ in known})
    added, guesses = dict(known), set(estimated)
    for cached in {cached for _, cached in known}:
        points = [chunk for chunk in chunks if (chunk, cached) in known]
        if len(points) < 3:
            continue
        times = np.array([known[chunk, cached] for chunk in points])
        extra = between(points)
        for chunk, time in zip(extra, smooth(np.array(points, float), times, np.array(extra, float)), strict=True):
            added[chunk, cached] = float(time)
            high = int(np.searchsorted(points, chunk))
            if (points[high], cached) in estimated or (points[high - 1], cached) in estimated:
                guesses.add((chunk, cached))
    return added, guesses
