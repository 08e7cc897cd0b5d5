"""How well the points of a table predict a size that is not in it: each is taken away and read from the others."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tetrisim.latency.grid import ESTIMATED, Curve, Point, Product4, largest_product, smooth

Fit = Callable[[np.ndarray, np.ndarray, float], float]
"""Points, values, x -> the value at x."""

ENOUGH = 30
"""So many mixed rows beside the product that is read are a test of their own."""
PAIR_FROM = 128
"""From here on one token more is below 1 % more work, so that neighbours one token apart show what no reading knows."""


def _straight(points: np.ndarray, values: np.ndarray, x: float) -> float:
    return float(np.interp(x, points, values))


def _bent(points: np.ndarray, values: np.ndarray, x: float) -> float:
    return float(smooth(points, values, np.array([x]))[0])


FITS: dict[str, Fit] = {"linear": _straight, "smooth": _bent}


def predictions(curve: Curve, fit: Fit) -> dict[int, tuple[float, float]]:
    """Inner point -> (predicted without it, measured) seconds; estimates are neither used nor judged."""
    kept = [i for i, source in enumerate(curve.sources) if source != ESTIMATED and curve.points[i] > 0]
    points, values = np.array(curve.points, float)[kept], np.array(curve.values)[kept]
    return {
        int(points[i]): (fit(np.delete(points, i), np.delete(values, i), points[i]), float(values[i]))
        for i in range(1, len(points) - 1)
        if len(points) > 3
    }


def left_out(curve: Curve, fit: Fit) -> list[float]:
    """The relative error at each inner point of a curve without that point."""
    return [abs(predicted / measured - 1) for predicted, measured in predictions(curve, fit).values()]


def summed_errors(ops: Sequence[tuple[Curve, int, Fit]]) -> list[float]:
    """The same for several ops, each called so often, run one after the other at the same size."""
    found = [(calls, predictions(curve, fit)) for curve, calls, fit in ops]
    shared = set[int].intersection(*(set(points) for _, points in found)) if found else set[int]()
    sums = [[sum(calls * points[x][part] for calls, points in found) for part in (0, 1)] for x in sorted(shared)]
    return [abs(predicted / measured - 1) for predicted, measured in sums]


def pair_differences(curve: Curve) -> list[float]:
    """How far measured neighbours one token apart differ: no reading between the points can be closer than that."""
    known = {x: t for x, t, s in zip(curve.points, curve.values, curve.sources, strict=True) if s != ESTIMATED}
    return [abs(known[x + 1] / time - 1) for x, time in known.items() if x >= PAIR_FROM and x + 1 in known]


def slice_errors(known: Mapping[tuple[int, int], float]) -> list[float]:
    """Errors along the second axis of (first, second) -> seconds, as `Slices` would read a point that is missing."""
    slices: dict[int, dict[int, float]] = defaultdict(dict)
    for (first, second), time in known.items():
        slices[first][second] = time
    return [error for points in slices.values() for error in left_out(Curve(points), _straight)]


def mixed_errors(known: Mapping[Point, float]) -> tuple[list[float], str]:
    """Errors of mixed batches, and how they came about.

    A table may hold rows beside the product that is read; where they are ENOUGH, they are predicted by it, since they
    lie where a user asks. Else every inner point is left out along each of the four axes.
    """
    both = {point: time for point, time in known.items() if point[0] > 0 and point[2] > 0}
    axes = largest_product(both)
    if axes is None:
        return [], "linear"
    product = Product4(axes, both)
    beside = {point: time for point, time in both.items() if any(x not in a for x, a in zip(point, axes, strict=True))}
    read = [(*product.at(*point), time) for point, time in beside.items()]
    held_out = [abs(predicted / time - 1) for predicted, inside, time in read if inside]
    if len(held_out) >= ENOUGH:
        return held_out, "linear, at rows beside the grid"
    cube = np.array(product.values).reshape([len(axis) for axis in axes])
    errors: list[float] = []
    for place, axis in enumerate(axes):
        values, x = np.moveaxis(cube, place, 0), np.array(axis, float)
        weight = ((x[1:-1] - x[:-2]) / (x[2:] - x[:-2])).reshape(-1, 1, 1, 1)
        line = values[:-2] + weight * (values[2:] - values[:-2])
        errors += np.abs(line / values[1:-1] - 1).ravel().tolist()
    return errors, "linear"


def summary(errors: list[float]) -> tuple[float, float, int]:
    """Median, 90th percentile, count."""
    if not errors:
        return 0.0, 0.0, 0
    return float(np.median(errors)), float(np.quantile(errors, 0.9)), len(errors)
