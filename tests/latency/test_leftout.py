import numpy as np
import pytest

from tetrisim.latency.grid import ESTIMATED, INTERPOLATED, MEASURED, Curve
from tetrisim.latency.leftout import ENOUGH, FITS, left_out, mixed_errors, pair_differences, predictions, summed_errors


def test_each_inner_point_is_read_from_the_others():
    """10 from the line between 8 and 24 is 12: 20 % off."""
    known = {1: 5.0, 8: 8.0, 12: 10.0, 24: 24.0}
    assert predictions(Curve(known), FITS["linear"]) == {
        8: (pytest.approx(5 + 5 * 7 / 11), 8.0),
        12: (pytest.approx(12.0), 10.0),
    }
    assert left_out(Curve(known), FITS["linear"])[1] == pytest.approx(0.2)


def test_estimates_are_neither_used_nor_judged():
    known = {1: 1.0, 2: 99.0, 4: 4.0, 8: 8.0, 16: 16.0}
    sources = dict.fromkeys(known, MEASURED) | {2: ESTIMATED, 4: INTERPOLATED}
    assert left_out(Curve(known, sources), FITS["linear"]) == pytest.approx([0, 0])


def test_errors_of_ops_that_run_one_after_the_other_cancel_by_their_seconds():
    """At 8 tokens one op is predicted 2 s too high, the other, called twice, 1 s too low."""
    high = Curve({1: 10.0, 4: 10.0, 8: 8.0, 16: 10.0, 32: 10.0})
    low = Curve({4: 20.0, 8: 21.0, 16: 20.0, 32: 20.0})
    assert summed_errors([(high, 1, FITS["linear"]), (low, 2, FITS["linear"])])[0] == pytest.approx(0, abs=1e-12)
    assert summed_errors([(high, 1, FITS["linear"]), (low, 1, FITS["linear"])])[0] == pytest.approx(1 / 29)


def test_neighbours_one_token_apart_count_where_a_token_is_no_work():
    curve = Curve({16: 1.0, 17: 2.0, 256: 10.0, 257: 11.0, 512: 20.0, 513: 19.0})
    assert pair_differences(curve) == pytest.approx([0.1, 0.05])


def grid(beside):
    """Mixed batches whose time is a line in each size; the rows beside the product take 10 % longer."""

    def time(a, b, c, d):
        return 1.0 + 0.01 * a + 0.001 * b + 0.1 * c + 0.001 * c * d

    axes = ((16, 64, 256), (0, 1024), (1, 8, 64), (16, 512, 4096))
    points = [(a, b, c, d) for a in axes[0] for b in axes[1] for c in axes[2] for d in axes[3]]
    extra = [(24, 512, c, d) for c in range(2, 8) for d in range(20, 20 + 10 * beside, 10)]
    return {p: time(*p) for p in points} | {p: 1.1 * time(*p) for p in extra}


def test_rows_beside_the_product_judge_it_where_they_are_enough():
    errors, how = mixed_errors(grid(beside=6))
    assert len(errors) >= ENOUGH and how == "linear, at rows beside the grid"
    assert np.median(errors) == pytest.approx(1 - 1 / 1.1, abs=1e-6)
    errors, how = mixed_errors(grid(beside=2))
    assert how == "linear" and max(errors) == pytest.approx(0, abs=1e-9), "the product alone is exact"
