"""StepTimer: batch shape -> length of one engine step, in clock ticks, with a ledger of where the seconds came from.

t = host(seqs) + layers * (linear(T) + attention + collectives(T)) + embedding(T) + head(seqs), design section 5.
"""

from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from tetrisim.latency.attention import Attention, equivalent_prefill
from tetrisim.units import TICKS_PER_S

Terms = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Sizes -> seconds in all, of which measured, of which estimated; one entry a size."""

FOREVER = 1 << 62
"""A total context that no batch reaches: the end of a row's last segment."""


class Dense:
    """A term of the step time as lists indexed by size, in ticks; grown when a larger size is asked for."""

    __slots__ = ("_terms", "estimated", "measured", "ticks")

    def __init__(self, terms: Terms, largest: int) -> None:
        self._terms = terms
        self.grow(largest)

    def grow(self, largest: int) -> None:
        """Make the lists cover sizes 0 to at least `largest`."""
        columns = self._terms(np.arange(max(largest, 64) + 1))
        self.ticks, self.measured, self.estimated = (
            np.rint(column * TICKS_PER_S).astype(np.int64).tolist() for column in columns
        )


class DecodeRow:
    """Pure decode steps of `n` sequences: piecewise linear in the total context S of the batch.

    Segment i holds for knots[i] <= S < knots[i + 1]; a step there takes base + slope * (S - knots[i]) ticks, all whole
    numbers, so a run of steps sums exactly however it is cut. With a skew correction the step also takes what `uneven`
    gives at n times the longest context; the part of it at the mean is taken off `segments` already.
    """

    __slots__ = ("estimated", "knots", "measured", "segments", "uneven")

    def __init__(self, knots: list[int], base: list[int], slope: list[int]) -> None:
        self.knots = knots
        self.segments = list(zip(knots, knots[1:], base, slope, strict=False))
        """For each segment its two ends, its ticks at the lower one, and its slope."""
        self.uneven = [(0, 0)] * len(base)
        """For each segment the skew correction's ticks at the lower end, and its slope."""
        self.measured: list[float] = []
        self.estimated: list[float] = []

    def unevenness(self, longest: int) -> tuple[int, int, int]:
        """The skew correction at `longest` (n times the longest context), its slope, and how far that slope holds."""
        at = bisect_right(self.knots, longest) - 1
        base, slope = self.uneven[at]
        return base + slope * (longest - self.knots[at]), slope, self.knots[at + 1] - longest


class StepTimer:
    """Compiled once for a profile, model and tensor-parallel degree; a lookup takes about a microsecond."""

    def __init__(self, linear: Dense, head: Dense, attention: Attention, layers: int) -> None:
        self.attention = attention
        self._linear, self._head = linear, head
        self._linear_ticks, self._head_ticks = linear.ticks, head.ticks
        self._layer_ticks = layers * float(TICKS_PER_S)
        self.rows: dict[int, DecodeRow] = {}
        """The decode rows built so far."""
        self.skewed = attention.skewed
        """Whether the longest context of a batch matters beside the sum."""
        self.labelled = attention.measured
        """False when every second is estimated: then no ledger is kept."""
        self.total = 0.0
        self.measured = 0.0
        self.estimated = 0.0

    def fixed(self, tokens: int, sequences: int) -> int:
        """Ticks of a step over `tokens` tokens of `sequences` sequences, without its attention."""
        self._grow(tokens, sequences)
        return self._linear.ticks[tokens] + self._head.ticks[sequences]

    def tail(self, sequences: int) -> int:
        """Ticks of a step after its last layer: LM head, sampling, and the engine's own time between steps."""
        self._grow(0, sequences)
        return self._head.ticks[sequences]

    def decode(self, n: int, context: int, longest: int) -> int:
        """Ticks of one pure decode step, as its row has them; not entered in the ledger."""
        row = self.decode_row(n)
        low, _, base, slope = row.segments[bisect_right(row.knots, context) - 1]
        return base + slope * (context - low) + (row.unevenness(n * longest)[0] if self.skewed else 0)

    def decode_row(self, n: int) -> DecodeRow:
        """The decode steps of a batch of `n` sequences."""
        row = self.rows.get(n)
        if row is None:
            row = self.rows[n] = self._build_row(n)
        return row

    def step(self, tokens: int, pieces: list[tuple[int, int]], n: int, context: int, longest: int) -> int:
        """Ticks of one step with prefill `pieces` of (chunk, cached) and `n` decodes over `context` tokens in all.

        `tokens` is what the linear ops run over: new tokens, and padding where the batching pads. `longest` is the
        longest context among the decodes (read only when `skewed`).
        """
        chunk, cached = (0.0, 0.0) if not pieces else pieces[0] if len(pieces) == 1 else equivalent_prefill(pieces)
        if not n:
            return self.prefill(tokens, len(pieces), chunk, cached)
        attention, mean = self.attention, context / n
        if pieces:
            seconds, inside = attention.mixed(chunk, cached, n, mean)
        else:
            seconds, inside = attention.decode(n, mean)
        if self.skewed and n > 1:
            uneven = attention.mixed(chunk, cached, n, longest) if pieces else attention.decode(n, longest)
            seconds += attention.alpha(chunk, n) * (uneven[0] - seconds)
        return self._total(tokens, n + len(pieces), seconds, inside)

    def prefill(self, tokens: int, sequences: int, chunk: float, cached: float) -> int:
        """Ticks of one step that prefills `chunk` tokens over `cached` ones, and decodes nothing."""
        seconds, inside = self.attention.mixed(chunk, cached, 0, 0.0)
        if self.labelled:
            return self._total(tokens, sequences, seconds, inside)
        try:
            return self._linear_ticks[tokens] + self._head_ticks[sequences] + int(seconds * self._layer_ticks)
        except IndexError:
            return self._total(tokens, sequences, seconds, inside)

    def foresee(self, chunk: int, cached: int, padded: int = 0) -> int:
        """Ticks of a step that prefills `chunk` tokens of one prompt alone, without an entry in the ledger."""
        return self.fixed(max(chunk, padded), 1) + int(
            self.attention.mixed(chunk, cached, 0, 0.0)[0] * self._layer_ticks
        )

    def chunks(self, tokens: int, cached: int, count: int, slow: int = 0) -> int:
        """Ticks of `count` steps in a row that each prefill the next `tokens` tokens of one prompt alone.

        `slow` is how many thousandths each takes longer than by itself.
        """
        starts = range(cached, cached + count * tokens, tokens)
        if slow or self.labelled or tokens >= len(self._linear_ticks):
            each = [self.prefill(tokens, 1, tokens, done) for done in starts]
            return sum(each) + sum(ticks * slow // 1000 for ticks in each)
        mixed, layer_ticks = self.attention.mixed, self._layer_ticks
        total = count * (self._linear_ticks[tokens] + self._head_ticks[1])
        for done in starts:
            total += int(mixed(tokens, done, 0, 0.0)[0] * layer_ticks)
        return total

    def _total(self, tokens: int, sequences: int, seconds: float, inside: bool) -> int:
        """The step with `seconds` of attention a layer; enters it in the ledger."""
        if tokens >= len(self._linear_ticks) or sequences >= len(self._head_ticks):
            self._grow(tokens, sequences)
        attention = int(seconds * self._layer_ticks)
        ticks = self._linear_ticks[tokens] + self._head_ticks[sequences] + attention
        if self.labelled:
            linear, head = self._linear, self._head
            self.total += ticks
            self.measured += linear.measured[tokens] + head.measured[sequences]
            self.estimated += linear.estimated[tokens] + head.estimated[sequences]
            if not inside:
                self.estimated += attention
        return ticks

    def account(self, row: DecodeRow, segment: int, ticks: int) -> None:
        """Enter a run of decode steps in the ledger."""
        self.total += ticks
        self.measured += ticks * row.measured[segment]
        self.estimated += ticks * row.estimated[segment]

    def _grow(self, tokens: int, sequences: int) -> None:
        if tokens >= len(self._linear.ticks):
            self._linear.grow(2 * tokens)
        if sequences >= len(self._head.ticks):
            self._head.grow(2 * sequences)
        self._linear_ticks, self._head_ticks = self._linear.ticks, self._head.ticks

    def _build_row(self, n: int) -> DecodeRow:
        fixed = self.fixed(n, n)
        contexts = sorted({0, *self.attention.knots(n)})
        contexts.append(2 * contexts[-1] + 1024)  # a point beyond the last knot, to carry its slope on
        points = [self.attention.decode(n, context) for context in contexts]
        knots = [n * context for context in contexts]
        base = [fixed + round(seconds * self._layer_ticks) for seconds, _ in points]
        slope = [(base[i + 1] - base[i]) // (knots[i + 1] - knots[i]) for i in range(len(knots) - 1)]
        slope[-1] = max(0, slope[-1])
        alpha = self.attention.alpha(0, n) if self.skewed else 0.0
        uneven = [(round(alpha * (base[i] - fixed)), round(alpha * slope[i])) for i in range(len(slope))]
        even = [(base[i] - uneven[i][0], slope[i] - uneven[i][1]) for i in range(len(slope))]
        row = DecodeRow([*knots[:-1], FOREVER], [ticks for ticks, _ in even], [ticks for _, ticks in even])
        row.uneven = uneven
        if self.labelled:
            for index in range(len(slope)):
                # A segment counts as outside when either of its ends is (the first starts below the table).
                inside = points[index][1] and points[index + 1][1]
                middle = max(1.0, 0.5 * (base[index] + base[index + 1]))
                outside = 0.0 if inside else max(0.0, middle - fixed)
                row.measured.append((self._linear.measured[n] + self._head.measured[n]) / middle)
                row.estimated.append((self._linear.estimated[n] + self._head.estimated[n] + outside) / middle)
        return row
