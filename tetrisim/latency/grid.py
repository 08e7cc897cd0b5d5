"""Multilinear lookup between measured points. Linear on each axis: blending in logs costs 12 to 14 % (design, 5)."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise, product

import numpy as np

Point = tuple[int, int, int, int]
"""prefill_tokens, prefill_context, decode_sequences, decode_context."""

MEASURED, INTERPOLATED, ESTIMATED = 0, 1, 2
"""Where the value of a row comes from; the words in a table's `source` column, in this order."""
SOURCES = ("measured", "interpolated", "estimated")

METHODS = ("linear", "smooth")
"""How an op is read between its points: straight lines, or `smooth` below (its points are densified once)."""


def locate(axis: list[int], x: float) -> tuple[int, float, bool]:
    """The cell of `x` on an axis of two points or more: its index, the weight of its upper end, and inside or not.

    Below the axis the first value holds (kernels do not get faster than their launch); above it the last cell's slope
    goes on.
    """
    last = len(axis) - 2
    index = bisect_right(axis, x) - 1
    if index < 0:
        return 0, 0.0, False
    if index > last:
        low, high = axis[last], axis[last + 1]
        return last, (x - low) / (high - low), x <= high
    low = axis[index]
    return index, (x - low) / (axis[index + 1] - low), True


def smooth(points: np.ndarray, values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Monotone cubic (Fritsch and Carlson's, with Brodlie's slopes) through the logs of points and values.

    `points` rise and, like `values`, are above 0; `x` lies between them. For ops whose time is a power of their size.
    """
    u, v, at = np.log(points), np.log(values), np.log(x)
    width, rise = np.diff(u), np.diff(v) / np.diff(u)
    slopes = np.concatenate([rise[:1], np.zeros(len(u) - 2), rise[-1:]])
    for i in range(1, len(u) - 1):
        if rise[i - 1] * rise[i] > 0:
            one, two = 2 * width[i] + width[i - 1], width[i] + 2 * width[i - 1]
            slopes[i] = (one + two) / (one / rise[i - 1] + two / rise[i])
    i = np.clip(np.searchsorted(u, at, side="right") - 1, 0, len(width) - 1)
    t = (at - u[i]) / width[i]
    ends = (1 + 2 * t) * (1 - t) ** 2 * v[i] + t * t * (3 - 2 * t) * v[i + 1]
    return np.exp(ends + width[i] * t * (1 - t) * ((1 - t) * slopes[i] - t * slopes[i + 1]))


def between(points: list[int], ratio: float = 1.1) -> list[int]:
    """Whole numbers that fill the gaps of `points` so densely that straight lines follow a smooth curve."""
    wanted: set[int] = set()
    for low, high in pairwise(points):
        parts = int(np.ceil(np.log(high / low) / np.log(ratio))) if low > 0 else 1
        wanted |= {round(low * (high / low) ** (part / parts)) for part in range(1, parts)}
    return sorted(wanted - set(points))


class Curve:
    """A function of one whole number, known at some points; `sources` says how each value came about."""

    __slots__ = ("_sure", "points", "sources", "values")

    def __init__(self, known: Mapping[int, float], sources: Mapping[int, int] | None = None) -> None:
        self.points = sorted(known)
        self.values = [known[point] for point in self.points]
        self.sources = [(sources or {}).get(point, MEASURED) for point in self.points]
        sure = [source != ESTIMATED for source in self.sources]
        self._sure = None if all(sure) else (sure, [low and high for low, high in pairwise(sure)])

    def at(self, x: float) -> tuple[float, bool]:
        """The value, and whether `x` is inside the known range, between values that are not estimates."""
        if len(self.points) == 1:
            return self.values[0], x == self.points[0] and self._sure is None
        index, weight, inside = locate(self.points, x)
        if self._sure is not None:
            inside = inside and self._sure[weight != 0.0][index]
        low = self.values[index]
        return low + weight * (self.values[index + 1] - low), inside

    def dense(self) -> "Curve":
        """The same function with points added by `smooth`, where straight lines would cut the corner."""
        if len(self.points) < 3 or self.points[0] < 1:
            return self
        extra = between(self.points)
        values = smooth(np.array(self.points, float), np.array(self.values), np.array(extra, float)).tolist()
        sources = dict(zip(self.points, self.sources, strict=True))
        for x in extra:
            index = bisect_right(self.points, x)
            sources[x] = max(INTERPOLATED, *self.sources[index - 1 : index + 1])
        known = dict(zip(self.points, self.values, strict=True)) | dict(zip(extra, values, strict=True))
        return Curve(known, sources)

    def held(self, x: float) -> float:
        """The value, held at both ends."""
        return self.at(min(max(x, self.points[0]), self.points[-1]))[0]


class Slices:
    """A function of two numbers, known on slices of the first that each have points of their own on the second."""

    __slots__ = ("curves", "keys")

    def __init__(self, known: Mapping[tuple[int, int], float], estimated: Collection[tuple[int, int]] = ()) -> None:
        slices: dict[int, dict[int, float]] = defaultdict(dict)
        for (key, x), value in known.items():
            slices[key][x] = value
        self.keys = sorted(slices)
        guesses = {key: {x: ESTIMATED for at, x in estimated if at == key} for key in {key for key, _ in estimated}}
        self.curves = [Curve(slices[key], guesses.get(key)) for key in self.keys]

    def at(self, key: float, x: float) -> tuple[float, bool]:
        """The value, and whether the point is inside the known range."""
        if len(self.keys) == 1:
            value, inside = self.curves[0].at(x)
            return value, inside and key == self.keys[0]
        index, weight, inside = locate(self.keys, key)
        low, low_inside = self.curves[index].at(x)
        if weight == 0.0:
            return low, inside and low_inside
        high, high_inside = self.curves[index + 1].at(x)
        return low + weight * (high - low), inside and low_inside and high_inside

    def held(self, key: float, x: float) -> float:
        """The value, held at all ends."""
        key = min(max(key, self.keys[0]), self.keys[-1])
        index, weight, _ = locate(self.keys, key) if len(self.keys) > 1 else (0, 0.0, True)
        low = self.curves[index].held(x)
        return low + weight * (self.curves[index + 1].held(x) - low) if weight else low

    def knots(self, key: float) -> list[int]:
        """The points of the second axis between which the function at `key` is linear."""
        if len(self.keys) == 1:
            return self.curves[0].points
        index, weight, _ = locate(self.keys, key)
        upper = self.curves[index + 1].points if weight != 0.0 else []
        return sorted({*self.curves[index].points, *upper})

    def known(self, key: int, x: int) -> bool:
        """Whether exactly this point was measured."""
        return key in self.keys and x in self.curves[self.keys.index(key)].points


class Product4:
    """A function of four numbers on a full product of axes, kept flat for the speed of one lookup."""

    __slots__ = ("_found", "_sought", "axes", "strides", "values")

    def __init__(self, axes: tuple[list[int], list[int], list[int], list[int]], known: Mapping[Point, float]) -> None:
        self.axes = axes
        self.values = [known[point] for point in product(*axes)]
        sizes = [len(axis) for axis in axes]
        self.strides = (sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3])
        self._sought: tuple[float, float, float] | None = None
        self._found = (0, 0.0, 0.0, 0.0, True)

    def at(self, a: float, b: float, c: float, d: float) -> tuple[float, bool]:
        """The value, and whether the point is inside the product."""
        sa, sb, sc = self.strides
        if (a, b, c) != self._sought:  # a skewed batch is looked up twice, at its mean and at its longest context
            first, second, third, _ = self.axes
            (i, wa, ina), (j, wb, inb), (k, wc, inc) = locate(first, a), locate(second, b), locate(third, c)
            self._found = (i * sa + j * sb + k * sc, wa, wb, wc, ina and inb and inc)
            self._sought = (a, b, c)
        corner, wa, wb, wc, inside = self._found
        m, wd, ind = locate(self.axes[3], d)
        corner += m
        inside = inside and ind
        near = self._face(corner, sc, wc, wd)
        if wb:
            near += wb * (self._face(corner + sb, sc, wc, wd) - near)
        if not wa:
            return near, inside
        far = self._face(corner + sa, sc, wc, wd)
        if wb:
            far += wb * (self._face(corner + sa + sb, sc, wc, wd) - far)
        return near + wa * (far - near), inside

    def _face(self, at: int, row: int, wc: float, wd: float) -> float:
        """Bilinear on the two inner axes."""
        values = self.values
        low = values[at]
        low += wd * (values[at + 1] - low)
        if not wc:
            return low
        high = values[at + row]
        return low + wc * (high + wd * (values[at + row + 1] - high) - low)


def largest_product(points: Iterable[Point]) -> tuple[list[int], list[int], list[int], list[int]] | None:
    """The axes of the largest full product inside a union of sweeps, or None where there is none.

    Each (first, third) slice has its own (second, fourth) set; the largest set that is itself a full product is the
    reference, and the slices that contain it make the product.
    """
    slices: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)
    for a, b, c, d in points:
        slices[a, c].add((b, d))
    full = Counter(frozenset(inner) for inner in slices.values() if _is_product(inner))
    best: tuple[list[int], list[int], list[int], list[int]] | None = None
    size = 0
    for inner in full:
        keys = {key for key, other in slices.items() if inner <= other}
        thirds = sorted({c for _, c in keys})
        firsts = sorted(a for a in {a for a, _ in keys} if all((a, c) in keys for c in thirds))
        seconds, fourths = sorted({b for b, _ in inner}), sorted({d for _, d in inner})
        axes = (firsts, seconds, thirds, fourths)
        cells = len(firsts) * len(seconds) * len(thirds) * len(fourths)
        if cells > size and min(map(len, axes)) >= 2:
            best, size = axes, cells
    return best


def _is_product(pairs: set[tuple[int, int]]) -> bool:
    return len(pairs) == len({b for b, _ in pairs}) * len({d for _, d in pairs})
