"""Multilinear lookup between measured points. Linear on each axis: blending in logs costs 12 to 14 % (design, 5)."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import product

Point = tuple[int, int, int, int]
"""prefill_tokens, prefill_context, decode_sequences, decode_context."""


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


class Curve:
    """A function of one whole number, known at some points."""

    __slots__ = ("points", "values")

    def __init__(self, known: Mapping[int, float]) -> None:
        self.points = sorted(known)
        self.values = [known[point] for point in self.points]

    def at(self, x: float) -> tuple[float, bool]:
        """The value, and whether `x` is inside the known range."""
        if len(self.points) == 1:
            return self.values[0], x == self.points[0]
        index, weight, inside = locate(self.points, x)
        low = self.values[index]
        return low + weight * (self.values[index + 1] - low), inside

    def held(self, x: float) -> float:
        """The value, held at both ends."""
        return self.at(min(max(x, self.points[0]), self.points[-1]))[0]


class Slices:
    """A function of two numbers, known on slices of the first that each have points of their own on the second."""

    __slots__ = ("curves", "keys")

    def __init__(self, known: Mapping[tuple[int, int], float]) -> None:
        slices: dict[int, dict[int, float]] = defaultdict(dict)
        for (key, x), value in known.items():
            slices[key][x] = value
        self.keys = sorted(slices)
        self.curves = [Curve(slices[key]) for key in self.keys]

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

    __slots__ = ("axes", "strides", "values")

    def __init__(self, axes: tuple[list[int], list[int], list[int], list[int]], known: Mapping[Point, float]) -> None:
        self.axes = axes
        self.values = [known[point] for point in product(*axes)]
        sizes = [len(axis) for axis in axes]
        self.strides = (sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3])

    def at(self, a: float, b: float, c: float, d: float) -> tuple[float, bool]:
        """The value, and whether the point is inside the product."""
        first, second, third, fourth = self.axes
        (i, wa, ina), (j, wb, inb) = locate(first, a), locate(second, b)
        (k, wc, inc), (m, wd, ind) = locate(third, c), locate(fourth, d)
        sa, sb, sc = self.strides
        values = self.values
        corner = i * sa + j * sb + k * sc + m

        def face(at: int) -> float:
            low, high = values[at], values[at + sc]
            low += wd * (values[at + 1] - low)
            return low + wc * (high + wd * (values[at + sc + 1] - high) - low)

        near, far = face(corner), face(corner + sa)
        if wb:
            near += wb * (face(corner + sb) - near)
            far += wb * (face(corner + sa + sb) - far)
        return near + wa * (far - near), ina and inb and inc and ind


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
