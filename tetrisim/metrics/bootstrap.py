"""How sure the difference between two runs is: a bootstrap over blocks of consecutive requests."""

from collections.abc import Sequence

import numpy as np

from tetrisim.metrics.definitions import Floats

RESAMPLES = 1000
LEAST = 20
"""With fewer requests than this, on either side, there is no interval."""

Interval = tuple[float, float]


def block_length(requests: int) -> int:
    """Requests of a block. Neighbours share a queue, so they are drawn together; sqrt(n) holds both many blocks."""
    return max(1, round(requests**0.5))


def difference_intervals(
    measured: Sequence[Floats], predicted: Sequence[Floats], percents: Sequence[float], paired: bool
) -> list[list[Interval | None]]:
    """95 % intervals of predicted / measured - 1, by metric: of the mean, and of each percentile (linear).

    An entry of `measured` is a metric of every request in order of arrival, NaN where it has none. `paired`: place i is
    the same request on both sides, and both draw the same blocks. None where there are too few requests, or the
    measured value is 0 in a resample. The draws are the same every time.
    """
    sides = ([_Sorted(values) for values in measured], [_Sorted(values) for values in predicted])
    sizes = [len(side[0]) for side in (measured, predicted)]
    found = np.empty((RESAMPLES, len(measured), 1 + len(percents)))
    draw = np.random.default_rng(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        for number in range(RESAMPLES):
            real = _blocks(draw, sizes[0])
            ours = real if paired else _blocks(draw, sizes[1])
            for place, (one, other) in enumerate(zip(*sides, strict=True)):
                found[number, place] = other.statistics(ours, percents) / one.statistics(real, percents) - 1
    few = min(sizes) < LEAST
    return [[None if few else _interval(column) for column in metric] for metric in np.moveaxis(found, 0, 2)]


def _interval(differences: Floats) -> Interval | None:
    if not np.isfinite(differences).all():
        return None
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def _blocks(draw: np.random.Generator, requests: int) -> Floats:
    """How often each request is drawn: whole blocks, the last cut short; the end goes on at the start."""
    length = block_length(requests)
    starts = draw.integers(0, requests, -(-requests // length))
    ends = starts + length
    ends[-1] -= len(starts) * length - requests
    change = np.bincount(starts, minlength=requests + length + 1) - np.bincount(ends, minlength=requests + length + 1)
    drawn = np.cumsum(change, dtype=float)  # float, or the sums below would convert them each time
    drawn[:length] += drawn[requests : requests + length]
    return drawn[:requests]


class _Sorted:
    """A metric of every request, sorted once, so that a resample costs no sorting."""

    def __init__(self, values: Floats) -> None:
        self._order = np.argsort(values, kind="stable")[: np.isfinite(values).sum()]  # NaN comes last
        self._values = values[self._order]

    def statistics(self, drawn: Floats, percents: Sequence[float]) -> Floats:
        """The mean and the percentiles of the values as often as they were drawn; NaN of none."""
        counts = drawn[self._order]
        cumulative = np.cumsum(counts)
        if not counts.size or not cumulative[-1]:
            return np.full(1 + len(percents), np.nan)
        rank = np.asarray(percents) / 100 * (cumulative[-1] - 1)
        below = np.floor(rank)
        low, high = (self._values[np.searchsorted(cumulative, place, side="right")] for place in (below, np.ceil(rank)))
        return np.concatenate([[counts @ self._values / cumulative[-1]], low + (rank - below) * (high - low)])
