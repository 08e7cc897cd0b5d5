import numpy as np
import pytest
from handmade import NAN, served, three_requests

from tetrisim.metrics import definitions as define
from tetrisim.report import html_series as series

# The windows of `three_requests`: one request is served from 1.0 to 1.3 s, one from 2.0 to 2.6 s, one is rejected.
EDGES = np.array([0.0, 1.0, 2.0, 2.6])
ROWS = three_requests().request_columns


def test_requests_are_in_one_state_at_a_time():
    waiting, prefill, moving, decode = series.in_states(ROWS, EDGES, 2.6)
    assert waiting == pytest.approx([0, 0, 0.1 / 0.6])
    assert prefill == pytest.approx([0, 0.2, 0.5 / 0.6])
    assert moving == pytest.approx([0, 0, 0])
    assert decode == pytest.approx([0, 0.1, 0])


def test_time_in_states_sums_to_e2el():
    rows = served("vllm-v1", 0.2, 0.02).request_columns
    edges = series.edges_of(float(rows["finish_s"].max()))
    total = sum(float(state @ np.diff(edges)) for state in series.in_states(rows, edges, float(edges[-1])))
    assert total == pytest.approx(define.e2el(rows).sum())


def test_what_is_unfinished_stays_in_its_state_to_the_end():
    rows = {name: column[:1] for name, column in ROWS.items()} | {
        "first_token_s": np.array([NAN]), "decode_start_s": np.array([NAN]), "finish_s": np.array([NAN]),
        "status": np.array(["unfinished"]),
    }  # fmt: skip
    waiting, prefill, moving, decode = series.in_states(rows, EDGES, 2.0)
    assert prefill == pytest.approx([0, 1, 0])
    assert not np.any([waiting, moving, decode])


def test_tokens_flow_from_the_first_to_the_last_and_none_is_lost():
    assert series.output_rate(ROWS, EDGES) == pytest.approx([0, 3, 1 / 0.6])
    # The first token at 1.2 s, the other two evenly until 1.3 s.
    assert series.output_rate(ROWS, np.array([1.0, 1.19, 1.25, 1.35])) == pytest.approx([0, 2 / 0.06, 1 / 0.1])
    rows = served("vllm-v1", 0.2, 0.02).request_columns
    edges = series.edges_of(float(rows["finish_s"].max()))
    assert series.output_rate(rows, edges) @ np.diff(edges) == pytest.approx(rows["output_tokens"].sum())


def test_requests_per_second():
    assert series.arrival_rate(ROWS, EDGES) == pytest.approx([0, 1, 2 / 0.6 - 1 / 0.6])  # 3.0 s is past the end
    assert series.finish_rate(ROWS, EDGES) == pytest.approx([0, 1, 1 / 0.6])


def test_ttft_belongs_to_the_window_of_the_arrival():
    found = series.ttft_by_arrival(ROWS, EDGES, 50)
    assert np.isnan(found[0])
    assert found[1:] == pytest.approx([0.2, 0.6])


def test_context_is_held_from_the_prefill_to_the_end():
    held = series.kv_tokens(ROWS, np.array([0.5, 1.1, 1.25, 1.5, 2.3]))
    assert held == pytest.approx([0, 100, 102, 0, 200])


def test_context_that_moves_is_held_from_its_transfer_on():
    moved = {name: column[:1] for name, column in ROWS.items()} | {
        "transfer_start_s": np.array([1.22]), "transfer_end_s": np.array([1.24]), "decode_start_s": np.array([1.24]),
        "prefill_instance": np.array(["prefill-0"]), "decode_instance": np.array(["decode-0"]),
    }  # fmt: skip
    held = series.kv_tokens(moved, np.array([1.1, 1.21, 1.23, 1.27, 1.3]))
    # The first token, made at 1.2 s on the other instance, comes with the rest of the context.
    assert held == pytest.approx([0, 0, 101, 102, 0])
    instances = [
        {"instance": "prefill-0", "role": "prefill", "kv_tokens": 10},
        {"instance": "decode-0", "role": "decode", "kv_tokens": 300},
        {"instance": "decode-1", "role": "decode", "kv_tokens": 300},
    ]
    assert series.kv_capacity(instances, moved) == 600


def two_at_once(second):
    return {
        "arrival_s": np.array([0.0, 0.5]), "prefill_start_s": np.array([0.0, 0.5]),
        "first_token_s": np.array([1.0, 1.0]), "decode_start_s": np.array([1.0, 1.0]), "finish_s": np.array([1.5, 2.0]),
        "prefill_instance": np.array(["a", second]), "decode_instance": np.array(["a", second]),
        "status": np.array(["completed", "completed"]),
    }  # fmt: skip


def test_an_instance_with_two_requests_is_one_busy_instance():
    edges = np.array([0.0, 1.0, 2.0, 4.0])
    assert series.busy_instances(two_at_once("a"), edges, 4.0) == pytest.approx([1, 1, 0])
    assert series.busy_instances(two_at_once("b"), edges, 4.0) == pytest.approx([1.5, 1.5, 0])
    assert series.busy_instances(ROWS, EDGES, 2.6) == pytest.approx([0, 0.3, 0.5 / 0.6])


def test_load_is_counted_on_each_instance():
    loads = series.load_by_instance(two_at_once("b"), ["a", "b", "idle"], np.array([0.0, 1.0, 2.0]), 2.0)
    assert np.array(loads) == pytest.approx(np.array([[1, 0.5], [0.5, 1], [0, 0]]))


def test_a_distribution_has_few_points_and_each_is_right():
    values = np.random.default_rng(1).lognormal(size=50_000)
    x, y = series.cdf(values)
    assert x.size <= series.CDF_POINTS + 1
    assert (x[0], y[0]) == (values.min(), 0)
    assert (x[-1], y[-1]) == (values.max(), 100)
    assert (np.diff(x) >= 0).all() and (np.diff(y) > 0).all()
    assert y[1:] == pytest.approx([100 * (values <= each).mean() for each in x[1:]])
    assert (y > 99).sum() > 60, "the tail has points of its own"


def test_a_small_distribution_is_drawn_whole():
    x, y = series.cdf(np.array([3.0, 1.0]))
    assert (x.tolist(), y.tolist()) == ([1, 1, 3], [0, 50, 100])
    assert [part.size for part in series.cdf(np.empty(0))] == [0, 0]
