"""The time of a step: the sum of its terms, whole ticks in arithmetic progression, and every second labelled."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latency.folders import attention_us, write

from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import Shard
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model
from tetrisim.units import TICKS_PER_S

US = TICKS_PER_S // 10**6
LAYERS = 12
OPT = Shard(load_model("opt-125m"), load_gpu("rtx-pro-6000"), "bf16", 1)


@pytest.fixture
def timer(tmp_path):
    return build_timer(OPT, str(write(tmp_path)), "profile")[0]


def step_us(tokens, sequences, attention):
    """gemm twice a layer, embedding and head and host once; the tables are linear where they are asked here."""
    head, host = 20 + 10 * (sequences - 1), 100 + 10 * (sequences - 1)
    return LAYERS * (2 * (10 + tokens) + attention) + 5 + head + host


def row_ticks(row, total):
    """What a window's first step takes at a total context."""
    low, _, base, slope = next(segment for segment in row.segments if segment[0] <= total < segment[1])
    return base + slope * (total - low)


def test_a_decode_step_is_the_sum_of_its_terms(timer):
    assert timer.step(2, [], 2, 2 * 64, 64) == pytest.approx(step_us(2, 2, attention_us(0, 0, 2, 64)) * US, abs=LAYERS)


def test_a_prefill_step_is_the_sum_of_its_terms(timer):
    assert timer.step(16, [(16, 128)], 0, 0, 0) == pytest.approx(
        step_us(16, 1, attention_us(16, 128, 0, 0)) * US, abs=LAYERS
    )


def test_a_mixed_step_lies_on_the_plane_between_the_points(timer):
    expected = step_us(36, 4, attention_us(33, 50, 3, 100)) * US
    assert timer.step(36, [(33, 50)], 3, 300, 100) == pytest.approx(expected, abs=LAYERS)


def test_padding_costs_linear_work_and_no_attention(timer):
    padded, plain = (timer.step(tokens, [(16, 0)], 0, 0, 0) for tokens in (64, 16))
    assert padded - plain == LAYERS * 2 * 48 * US


@settings(max_examples=100)
@given(n=st.integers(1, 4), context=st.integers(16, 600))
def test_a_decode_row_is_the_step_at_knots_and_between_them(tmp_path_factory, n, context):
    folder = tmp_path_factory.getbasetemp() / "row"
    timer = build_timer(OPT, str(folder if folder.exists() else write(folder)), "profile")[0]
    # Slopes are whole ticks a token, so a row may run behind by less than a tick for each token since its knot.
    assert row_ticks(timer.decode_row(n), n * context) == pytest.approx(
        timer.step(n, [], n, n * context, context), abs=n * context + LAYERS
    )


def test_the_steps_of_a_window_are_whole_ticks_in_arithmetic_progression(timer):
    row = timer.decode_row(3)
    times = [row_ticks(row, total) for total in range(3 * 16, 3 * 64 + 1, 3)]
    assert all(type(ticks) is int for ticks in times)
    differences = {later - earlier for earlier, later in pairwise(times)}
    assert len(differences) == 1
    assert differences.pop() == pytest.approx(LAYERS * 3 / 64 * US, abs=3)


def test_the_roofline_has_one_segment_and_nothing_measured():
    timer, source = build_timer(OPT, "roofline", "profile")
    assert "estimated by the roofline" in source
    assert not timer.labelled
    row = timer.decode_row(5)
    assert len(row.segments) == 1
    assert row_ticks(row, 5 * 700) == pytest.approx(timer.step(5, [], 5, 5 * 700, 700), abs=5 * 700 + LAYERS)
    assert timer.decode(5, 5 * 700, 700) == row_ticks(row, 5 * 700)


def labels(timer):
    return timer.measured / timer.total, timer.estimated / timer.total


def test_at_points_of_the_tables_all_but_attention_is_measured(timer):
    timer.step(4, [], 4, 4 * 64, 64)
    attention = LAYERS * attention_us(0, 0, 4, 64) / step_us(4, 4, attention_us(0, 0, 4, 64))
    assert labels(timer) == (pytest.approx(1 - attention, rel=1e-9), 0)


def test_between_points_nothing_is_measured_and_nothing_estimated(timer):
    timer.step(3, [], 3, 3 * 100, 100)
    assert labels(timer) == (0, 0)


def test_outside_the_tables_is_estimated(timer):
    timer.step(200, [(200, 0)], 0, 0, 0)
    measured, estimated = labels(timer)
    at_points = (20 + 100) / step_us(200, 1, attention_us(200, 0, 0, 0))  # head and host of one sequence
    assert measured == pytest.approx(at_points, rel=0.15)
    assert estimated == pytest.approx(1 - measured, rel=1e-9)


def test_the_ledger_adds_up_to_the_time_that_was_given_out(timer):
    given_out = sum(
        timer.step(tokens, pieces, n, n * 100, 100)
        for tokens, pieces, n in ((2, [], 2), (18, [(16, 0)], 2), (900, [(900, 50)], 0), (7, [], 7))
    )
    row = timer.decode_row(2)
    timer.account(row, 1, 12345 * US)
    assert timer.total == given_out + 12345 * US
    assert min(timer.measured, timer.estimated) >= 0
    assert timer.measured + timer.estimated <= timer.total * (1 + 1e-12)


def test_host_overhead_that_was_not_measured_is_estimated(tmp_path):
    timer = build_timer(OPT, str(write(tmp_path, {"host.csv": None})), "profile")[0]
    timer.step(4, [], 4, 4 * 64, 64)
    assert timer.estimated == pytest.approx((200 + 2 * 4) * US)


def test_more_of_anything_is_never_faster(timer):
    assert timer.step(17, [(17, 0)], 0, 0, 0) > timer.step(16, [(16, 0)], 0, 0, 0)
    assert timer.step(16, [(16, 1)], 0, 0, 0) > timer.step(16, [(16, 0)], 0, 0, 0)
    assert timer.step(5000, [(5000, 0)], 0, 0, 0) > timer.step(2500, [(2500, 0)], 0, 0, 0)
    assert timer.step(3, [], 3, 300, 100) > timer.step(2, [], 2, 200, 100)


def test_an_uneven_batch_takes_alpha_of_the_way_to_its_longest(tmp_path):
    skew = [["prefill_tokens", "prefill_context", "decode_sequences", "long_sequences", "short_context", "long_context",
             "time_us", "mean_us", "long_us"],
            [0, 0, 2, 1, 16, 256, 125, 100, 200]]  # fmt: skip
    timer = build_timer(OPT, str(write(tmp_path, {"skew.csv": skew})), "profile")[0]
    assert timer.skewed
    even, uneven = (timer.step(2, [], 2, 2 * 100, longest) for longest in (100, 180))
    assert uneven - even == pytest.approx(0.25 * LAYERS * 2 * 80 / 64 * US, abs=2 * LAYERS)
