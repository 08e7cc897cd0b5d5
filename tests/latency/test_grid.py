"""Between measured points: linear functions come back exactly, growing ones grow, and outside is said to be outside."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tetrisim.latency.grid import ESTIMATED, Curve, Product4, Slices, largest_product, locate, smooth

AXIS = st.lists(st.integers(0, 1000), min_size=2, max_size=6, unique=True).map(sorted)
WEIGHT = st.integers(0, 50)


def test_cells_of_an_axis():
    axis = [2, 4, 8]
    assert locate(axis, 2) == (0, 0.0, True)
    assert locate(axis, 3) == (0, 0.5, True)
    assert locate(axis, 4) == (1, 0.0, True)
    assert locate(axis, 5) == (1, 0.25, True)
    assert locate(axis, 8) == (1, 1.0, True)
    assert locate(axis, 1) == (0, 0.0, False)  # held below
    assert locate(axis, 12) == (1, 2.0, False)  # the last slope goes on above


def test_a_curve_by_hand():
    curve = Curve({10: 1.0, 20: 3.0, 40: 4.0})
    assert [curve.at(x) for x in (10, 15, 20, 30, 40)] == [(value, True) for value in (1.0, 2.0, 3.0, 3.5, 4.0)]
    assert curve.at(5) == (1.0, False)
    assert curve.at(60) == (5.0, False)
    assert [curve.held(x) for x in (5, 15, 60)] == [1.0, 2.0, 4.0]


def test_a_single_point_is_held_and_only_it_is_inside():
    curve = Curve({10: 1.0})
    assert [curve.at(x) for x in (9, 10, 11)] == [(1.0, False), (1.0, True), (1.0, False)]


def test_what_an_estimate_has_part_in_is_not_inside():
    """The value at 20 is a guess: it, and all between it and its neighbours, was not measured."""
    curve = Curve({10: 1.0, 20: 3.0, 40: 4.0, 80: 5.0}, {20: ESTIMATED})
    assert [curve.at(x)[1] for x in (10, 15, 20, 30, 40, 60, 80)] == [True, False, False, False, True, True, True]
    assert curve.at(15) == (2.0, False)


@given(AXIS, WEIGHT, WEIGHT, st.integers(0, 2000))
def test_a_linear_curve_is_reproduced_from_its_first_point_on(axis, constant, slope, x):
    assume(x >= axis[0])
    value, inside = Curve({point: constant + slope * point for point in axis}).at(x)
    assert value == pytest.approx(constant + slope * x, rel=1e-12, abs=1e-9)
    assert inside == (x <= axis[-1])


@given(AXIS, st.lists(st.integers(0, 100), min_size=6, max_size=6), st.integers(0, 2000), st.integers(0, 300))
def test_a_growing_curve_never_falls(axis, rises, x, more):
    known, value = {}, 1.0
    for point, rise in zip(axis, rises, strict=False):
        value += rise
        known[point] = value
    curve = Curve(known)
    assert curve.at(x + more)[0] >= curve.at(x)[0] - 1e-9


@given(st.dictionaries(st.integers(0, 50), AXIS, min_size=2, max_size=4), WEIGHT, WEIGHT, WEIGHT, st.data())
def test_slices_with_points_of_their_own_reproduce_a_bilinear_plane(slices, a, b, c, data):
    """Each slice may have other points: as long as the point lies inside both neighbours, nothing is lost."""
    keys = sorted(slices)
    key = data.draw(st.integers(keys[0], keys[-1]))
    low = max(slices[each][0] for each in keys)
    high = min(slices[each][-1] for each in keys)
    assume(low <= high)
    x = data.draw(st.integers(low, high))
    table = Slices({(each, point): a + b * each + c * point for each in keys for point in slices[each]})
    value, inside = table.at(key, x)
    assert value == pytest.approx(a + b * key + c * x, rel=1e-12, abs=1e-9)
    assert inside
    assert table.held(key, x) == pytest.approx(value, rel=1e-12)


def test_slices_outside():
    table = Slices({(1, 10): 1.0, (1, 20): 2.0, (3, 10): 3.0, (3, 40): 6.0})
    assert table.at(2, 15) == (2.5, True)
    assert table.at(1, 20) == (2.0, True)
    assert table.at(1, 21)[1] is False
    assert table.at(2, 30)[1] is False  # beyond the points of the lower slice
    assert table.at(0, 15)[1] is False
    assert table.at(4, 15)[1] is False
    assert table.knots(1) == [10, 20]
    assert table.knots(2) == [10, 20, 40]
    assert table.known(3, 40) and not table.known(1, 40)


def test_slices_held_at_all_ends():
    """Two slices, 1 and 3, of one and of two points; and a slice that is alone."""
    slices = Slices({(1, 10): 1.0, (3, 10): 2.0, (3, 20): 4.0})
    assert [slices.held(key, x) for key, x in ((0, 99), (1, 10), (2, 5), (2, 20), (3, 15), (9, 99))] == [
        1.0, 1.0, 1.5, 2.5, 3.0, 4.0,
    ]  # fmt: skip
    alone = Slices({(8, 1): 5.0, (8, 3): 7.0})
    assert [alone.held(key, 2) for key in (1, 8, 20)] == [6.0] * 3


@given(st.tuples(AXIS, AXIS, AXIS, AXIS), st.lists(WEIGHT, min_size=5, max_size=5), st.data())
def test_a_product_reproduces_a_hyperplane_and_knows_its_bounds(axes, weights, data):
    def plane(point):
        return weights[0] + sum(weight * x for weight, x in zip(weights[1:], point, strict=True))

    table = Product4(axes, {point: float(plane(point)) for point in product(*axes)})
    point = tuple(data.draw(st.integers(axis[0], axis[-1] + 50)) for axis in axes)
    value, inside = table.at(*point)
    assert value == pytest.approx(plane(point), rel=1e-12, abs=1e-9)
    assert inside == all(x <= axis[-1] for x, axis in zip(point, axes, strict=True))


def test_a_product_is_multilinear_not_linear():
    axes = ([0, 2], [0, 2], [0, 2], [0, 2])
    table = Product4(axes, {point: float(point[0] * point[1] * point[2] * point[3]) for point in product(*axes)})
    assert table.at(1, 1, 1, 1) == (1.0, True)  # the mean of sixteen corners, of which one is 16
    assert table.at(2, 1, 2, 1) == (4.0, True)
    assert table.at(0, 1, 1, 1) == (0.0, True)
    assert table.at(-1, 1, 1, 1)[1] is False


@given(st.tuples(AXIS, AXIS, AXIS, AXIS), st.data())
def test_every_point_of_a_product_is_given_back(axes, data):
    points = list(product(*axes))
    values = (
        data.draw(st.lists(st.floats(1e-6, 1), min_size=len(points), max_size=len(points)))
        if (len(points) < 40)
        else [(i * 37 % 101) / 7 for i in range(len(points))]
    )
    table = Product4(axes, dict(zip(points, values, strict=True)))
    for point, value in list(zip(points, values, strict=True))[:50]:
        assert table.at(*point) == (pytest.approx(value, rel=1e-12), True)


def test_the_larger_of_two_sweeps_is_found_and_stray_points_are_left():
    fine = set(product([1, 2, 4], [0, 16, 32], [1, 2, 4], [16, 32]))
    coarse = set(product([3, 6], [0, 64], [1, 2], [16, 64]))
    assert largest_product(fine | coarse) == ([1, 2, 4], [0, 16, 32], [1, 2, 4], [16, 32])
    assert largest_product(fine | coarse | {(9, 9, 9, 9)}) == ([1, 2, 4], [0, 16, 32], [1, 2, 4], [16, 32])


def test_without_two_points_on_every_axis_there_is_no_product():
    assert largest_product([]) is None
    assert largest_product(product([1], [0, 16], [1, 2], [16, 32])) is None


def test_a_smooth_curve_by_hand():
    """Logs 0, 1, 3 of the points and 0, 1, 2 of the values: rises of 1 and 1/2.

    The slope in the middle is Brodlie's mean, harmonic, weighted 5 (of the cell of width 1) to 4: 9 / (5/1 + 4/(1/2)).
    Half-way up a cell the cubic lies width/8 x (slope below - slope above) over the straight line.
    """
    points, values = np.exp([0.0, 1.0, 3.0]), np.exp([0.0, 1.0, 2.0])
    slope = 9 / 13
    expected = [0.0, 0.5 + (1 - slope) / 8, 1.0, 1.5 + 2 * (slope - 0.5) / 8, 2.0]
    assert np.log(smooth(points, values, np.exp([0.0, 0.5, 1.0, 2.0, 3.0]))) == pytest.approx(expected, abs=1e-12)


def test_a_smooth_curve_is_flat_at_a_turn():
    """Logs 0, 1, 0 over 0, 1, 2: the middle is a peak, of slope 0, and nothing lies above it."""
    found = np.log(smooth(np.exp([0.0, 1.0, 2.0]), np.exp([0.0, 1.0, 0.0]), np.exp([0.5, 1.0, 1.5])))
    assert found == pytest.approx([0.5 + 1 / 8, 1.0, 0.5 + 1 / 8])
