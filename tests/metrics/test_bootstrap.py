"""What the bootstrap of a difference finds, and what it does not claim."""

import numpy as np
import pytest

from tetrisim.metrics import bootstrap
from tetrisim.metrics.bootstrap import LEAST, block_length, difference_intervals


def waves(seed, count=400, memory=0.9):
    """Values about 100 that remember the ones before, as requests of one queue do."""
    draw = np.random.default_rng(seed)
    steps = draw.normal(0, 10, count)
    for place in range(1, count):
        steps[place] += memory * steps[place - 1]
    return 100 + steps


def test_the_same_on_both_sides_is_no_difference_and_a_factor_is_that_factor():
    """Paired, both sides draw the same requests: 1.1 times each is 1.1 times every statistic of every draw."""
    values = np.random.default_rng(1).lognormal(0, 1, 100)
    same, more = difference_intervals([values, values], [values, 1.1 * values], [50, 99], paired=True)
    assert same == [(0, 0)] * 3
    assert np.array(more) == pytest.approx(np.full((3, 2), 0.1))
    unpaired = difference_intervals([values], [1.1 * values], [], paired=False)[0][0]
    assert unpaired[0] < 0 and unpaired[1] > 0.2, "each side draws its own: the luck of 100 values of this spread"


def test_a_draw_has_the_statistics_of_its_requests_written_out():
    values = np.random.default_rng(2).lognormal(0, 1, 50)
    values[[3, 20]] = np.nan
    drawn = bootstrap._blocks(np.random.default_rng(3), 50)
    assert drawn.sum() == 50
    written = np.repeat(values, drawn.astype(int))
    written = written[np.isfinite(written)]
    found = bootstrap._Sorted(values).statistics(drawn, [50, 90, 99])
    assert found == pytest.approx([written.mean(), *np.percentile(written, [50, 90, 99])])


def held(trials, monkeypatch, length):
    """How many of the trials' intervals hold the true difference, which is none."""
    monkeypatch.setattr(bootstrap, "block_length", length)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    pairs = [(waves(2 * trial), waves(2 * trial + 1)) for trial in range(trials)]
    intervals = [difference_intervals([one], [other], [], paired=False)[0][0] for one, other in pairs]
    return sum(low <= 0 <= high for low, high in intervals)


def test_blocks_keep_neighbours_together(monkeypatch):
    """The mean of 400 values that remember nine tenths has 4.4 times the error of as many independent ones.

    So single requests, drawn by themselves, claim a difference between two runs of the same kind most of the time.
    """
    assert held(40, monkeypatch, block_length) >= 30
    assert held(40, monkeypatch, lambda requests: 1) <= 22


def test_too_few_requests_have_no_interval():
    few, enough = np.arange(1.0, LEAST), np.arange(1.0, LEAST + 1)
    assert difference_intervals([few], [few], [50], paired=True) == [[None, None]]
    assert difference_intervals([enough], [enough], [], paired=True) == [[(0, 0)]]
    nothing = np.full(LEAST, np.nan)
    assert difference_intervals([nothing], [nothing], [50], paired=True) == [[None, None]]
