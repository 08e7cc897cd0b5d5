import numpy as np
import pytest
from handmade import nothing_completed, three_requests
from hypothesis import given
from hypothesis import strategies as st

from tetrisim.metrics import definitions as define
from tetrisim.scenario.slo import SloSpec

ROWS = three_requests().request_columns


def test_times_worked_by_hand():
    assert define.ttft(ROWS) == pytest.approx([0.2, 0.6])
    assert define.e2el(ROWS) == pytest.approx([0.3, 0.6])
    assert define.duration(ROWS) == pytest.approx(1.6)


def test_tpot_leaves_out_requests_of_one_output_token():
    assert define.tpot(ROWS) == pytest.approx([0.1 / 2])


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (SloSpec(ttft_s=0.7, tpot_s=0.06), 2),
        (SloSpec(ttft_s=0.5, tpot_s=0.06), 1),
        (SloSpec(ttft_s=0.5, tpot_s=0.04), 0),
        (SloSpec(ttft_s=0.7, tpot_s=0.04), 1),  # one output token counts as a TPOT of 0
        (SloSpec(ttft_s=None, tpot_s=None), 2),  # the rejected request is never good
        (SloSpec(ttft_s=None, tpot_s=None, e2el_s=0.4), 1),
    ],
)
def test_goodput_needs_every_limit_given(slo, good):
    assert define.good(ROWS, slo) == good
    assert define.goodput(ROWS, slo) == pytest.approx(good / 1.6)


def test_a_limit_itself_is_good_enough():
    assert define.good(ROWS, SloSpec(ttft_s=float(ROWS["first_token_s"][1] - ROWS["arrival_s"][1]), tpot_s=1)) == 2


def test_nothing_completed_has_no_times_and_no_goodput():
    result = nothing_completed()
    assert define.duration(result.request_columns) is None
    assert define.goodput(result.request_columns, SloSpec()) == 0
    itl = define.itl(result.gap_columns)
    assert (itl.mean, itl.percentiles([50, 99])) == (None, [None, None])


def gap_columns(runs):
    columns = zip(*runs, strict=True)
    return {
        name: np.array(column) for name, column in zip(("first_s", "slope_s", "steps", "weight"), columns, strict=True)
    }


def written_out(runs):
    gaps = [np.repeat(first + slope * np.arange(steps), weight) for first, slope, steps, weight in runs]
    return np.concatenate(gaps)


RUNS = st.lists(
    st.tuples(st.floats(0.001, 1), st.floats(0, 0.01), st.integers(1, 30), st.integers(1, 5)),
    min_size=1,
    max_size=8,
)


@given(RUNS)
def test_pooled_gaps_are_those_written_out_one_by_one(runs):
    itl, gaps = define.itl(gap_columns(runs)), written_out(runs)
    assert itl.mean == pytest.approx(gaps.mean(), rel=1e-12)
    assert itl.std == pytest.approx(gaps.std(), rel=1e-9, abs=1e-9)
    percents = [0, 1, 37.5, 50, 90, 99, 100]
    assert itl.percentiles(percents) == pytest.approx(np.percentile(gaps, percents), rel=1e-12)


def test_many_gaps_are_thinned_with_the_mean_exact_and_percentiles_close():
    runs = [(0.01, 1e-6, 50_000, 3), (0.02, 2e-6, 20_000, 7), (0.5, 0.0, 10, 1)]
    thin, gaps = define.itl(gap_columns(runs), limit=3_000), written_out(runs)
    assert thin.values.size <= 3_000
    assert thin.weights.sum() == pytest.approx(gaps.size)
    assert (thin.mean, thin.std) == pytest.approx((gaps.mean(), gaps.std()), rel=1e-9)
    assert thin.percentiles([50, 90, 99]) == pytest.approx(np.percentile(gaps, [50, 90, 99]), rel=2e-3)


def test_as_many_gaps_as_the_limit_are_none_too_many():
    """Eleven gaps, of which one run holds ten, and room for eleven: all are told apart."""
    runs = [(0.01, 0.001, 10, 1), (0.5, 0.0, 1, 1)]
    assert define.itl(gap_columns(runs), limit=11).values == pytest.approx(written_out(runs))


def test_runs_without_steps_or_without_anyone_waiting_do_not_count():
    itl = define.itl(gap_columns([(9.0, 0.0, 0, 4), (9.0, 0.0, 4, 0), (0.02, 0.0, 2, 1)]))
    assert itl.mean == pytest.approx(0.02)
    assert itl.percentiles([100]) == pytest.approx([0.02])
