"""Breakdowns worked by hand: a step takes 10 ms and 1 ms a token, the link 2 ms and 1 ms a token."""

import numpy as np
import pytest
from simulate.by_hand import one, scenario, split, timer, use_timer

from tetrisim.metrics.breakdown import PARTS, TO_FIRST_TOKEN, breakdown, largest, means
from tetrisim.scenario.load import load, override
from tetrisim.simulate import simulate


@pytest.fixture
def parts_of(monkeypatch, tmp_path):
    """The parts of each request in ms, zeros left out."""

    def run(requests, step_terms=None, **document):
        terms = step_terms or {}
        use_timer(monkeypatch, **terms)
        monkeypatch.setattr("tetrisim.metrics.breakdown.build_timer", lambda *_: (timer(**terms), "by hand"))
        parts = breakdown(simulate(scenario(tmp_path, requests, **document)))
        columns = {part.removesuffix("_s"): (values * 1e3).round(6).tolist() for part, values in parts.items()}
        count = len(columns["queue"])
        return [{part: values[i] for part, values in columns.items() if values[i]} for i in range(count)]

    return run


def test_two_requests_through_prefill_link_and_decode(parts_of):
    # Prefill 0-26 and 26-52, link 26-44 and 52-70. The first decodes 44-55-66-77, where the second joins: 77-89-101.
    assert parts_of([(0, 16, 6), (0, 16, 3)], **split()) == [
        {"prefill": 26, "transfer": 18, "decode": 5 * 11, "decode_interference": 2},
        {"queue": 26, "prefill": 26, "transfer": 18, "decode_wait": 7, "decode": 2 * 11, "decode_interference": 2},
    ]


def test_a_chunk_is_padded_alone_too_and_the_second_waits_for_the_link(parts_of):
    # One chunk 0-26 for both; link 26-36 and 36-46.
    first, second = parts_of([(0, 8, 1), (0, 8, 2)], **split()), parts_of([(0, 8, 2), (0, 8, 2)], **split())[1]
    assert first[0] == {"prefill": 26}
    assert first[1] == {"prefill": 26, "transfer": 10, "decode": 11}
    assert (second["prefill"], second["transfer_wait"], second["transfer"]) == (26, 10, 10)


def test_a_prefill_that_shares_its_chunks(parts_of):
    # 0-26: 10 + 6 of 14, 26-52: 8 + 8. The 14 take one chunk alone and two here.
    found = parts_of([(0, 10, 1), (0, 14, 1), (0, 8, 1)], **split(prefill={"queue": "fcfs"}))
    assert found == [{"prefill": 26}, {"prefill": 26, "prefill_interference": 26}, {"queue": 26, "prefill": 26}]


def test_vllm_v0_makes_decodes_wait_for_prefills(parts_of):
    # 0-20 prefill of 10; 20-55 prefill of 25; 55-67 two decodes; 67-78 one
    assert parts_of([(0, 10, 3), (5, 25, 2)], **one("vllm-v0")) == [
        {"prefill": 20, "decode": 22, "decode_interference": 36},
        {"queue": 15, "prefill": 35, "decode": 11, "decode_interference": 1},
    ]


def test_vllm_v1_alone_cuts_a_prompt_to_the_whole_budget(parts_of):
    document = one("vllm-v1", max_num_batched_tokens=20, async_scheduling=False, long_prefill_tokens=5)
    # 25 alone: 20 and 5. Beside a decode 5 tokens at a time: 20-36, 36-52, 52-68, 68-84, 84-100; the first is done at
    # 36 + 16 and the other is alone from there on, so 15 in one step.
    found = parts_of([(0, 10, 3), (5, 25, 1)], **document)
    assert found[0] == {"prefill": 20, "decode": 22, "decode_interference": 10}
    assert found[1] == {"queue": 15, "prefill": 10 + 20 + 10 + 5, "prefill_interference": 57 - 45}


PAIR = [(0, 4, 8), (0, 4, 8)]
"""An instance of 4 blocks of 4 tokens cannot hold both to the end."""


@pytest.mark.parametrize("system", ["vllm-v0", "vllm-v1"])
def test_a_recomputation_is_lost_time(parts_of, system):
    # 0-18 both prefills; 18-66 four steps of two; 66-99 the first alone; 99-118 the second is computed again, which
    # shows its sixth token; 118-140 the last two
    assert parts_of(PAIR, **one(system, kv_blocks=4, preemption="recompute")) == [
        {"prefill": 14, "prefill_interference": 4, "decode": 7 * 11, "decode_interference": 4},
        {"prefill": 14, "prefill_interference": 4, "decode": 6 * 11, "decode_interference": 4, "decode_preemption": 52},
    ]


def test_a_swap_is_lost_time_until_the_request_decodes_again(parts_of):
    block = 4 * 36_864 / 32e9 * 1e3  # ms over PCIe
    first, second = parts_of(PAIR, **one("vllm-v0", kv_blocks=4, preemption="swap"))
    # 66 ms: two blocks go out beside the first's next step, until 99 and more; then they come in beside the second's
    assert first["decode_interference"] == pytest.approx(4 + 2 * block)
    assert second["decode_preemption"] == pytest.approx(33 + 2 * block)
    assert (second["decode"], second["decode_interference"]) == (77, pytest.approx(4 + 2 * block))


def test_a_prefill_that_starts_over_has_lost_all_since_it_started(parts_of):
    # Steps of at most 5 tokens, blocks of one. 0-14 the first prompt; 14-29 and 29-44 a decode beside 4 of 12 tokens.
    # At 44 there are 4 blocks for 4 tokens and a decode: the second goes back, until the first is done: 44-110.
    # 110-125-140-152 its 5, 5 and 2 tokens.
    seats = {"max_num_seqs": 4, "max_num_batched_tokens": 5}
    document = one("vllm-v1", block_tokens=1, kv_blocks=18, async_scheduling=False, **seats)
    assert parts_of([(0, 4, 9), (1, 12, 1)], **document) == [
        {"prefill": 14, "decode": 88, "decode_interference": 8},
        {"queue": 13, "prefill": 42, "prefill_preemption": 96},
    ]


def test_the_decode_alone_grows_with_its_own_context_only(parts_of):
    terms = {"token_s": 0.0, "context_s": 1e-4}
    # Steps of 10 ms and 0.1 ms a cached token: 11.0 and 11.1 over 10 and 11 tokens, 0.5 and 0.6 beside 5 and 6.
    found = parts_of([(0, 10, 3), (0, 5, 3)], terms, **one("vllm-v0"))
    assert found[0] == {"prefill": 10, "decode": 22.1, "decode_interference": 1.1}
    assert found[1] == {"prefill": 10, "decode": 21.1, "decode_interference": 2.1}


def test_the_predictor_is_own_work_only_where_it_runs_before_the_prefill(parts_of):
    def prefill(mode):
        predict = {"policy": "oracle", "mode": mode, "cost": 0.5}
        return parts_of([(0, 16, 1), (0, 16, 1)], **split(predict=predict))[1]

    assert prefill("sequential") == {"queue": 39, "prefill": 39}
    assert prefill("parallel") == {"queue": 26, "prefill": 26, "prefill_interference": 13}


def test_where_company_is_faster_than_solitude_own_work_is_all_of_the_span(monkeypatch, parts_of, tmp_path):
    result = simulate(scenario(tmp_path, [(0, 10, 3), (0, 5, 3)], **one("vllm-v0")))
    monkeypatch.setattr("tetrisim.metrics.breakdown.build_timer", lambda *_: (timer(step_s=9.0), "nine seconds a step"))
    parts = breakdown(result)
    rows = result.request_columns
    assert parts["prefill_s"] == pytest.approx(rows["first_token_s"])
    assert parts["decode_s"] == pytest.approx(rows["finish_s"] - rows["first_token_s"])
    assert parts["prefill_interference_s"].tolist() == parts["decode_interference_s"].tolist() == [0, 0]


def test_cached_tokens_are_no_work():
    """The second of two like prompts computes one block of 16; its own prefill is that, not the whole prompt."""
    from laws.worlds import write_mooncake

    trace = write_mooncake([(0.0, 640, 1), (5.0, 640, 1), (6.0, 33, 1)], [0, 0, 1], 40)
    settings = {"workload": {"trace": trace}, "cluster.pools.0.prefix_caching": True, "model": "llama-3.1-8b"}
    result = simulate(override(load("default"), settings))
    parts = breakdown(result)
    assert result.request_columns["cached_tokens"].tolist()[:2] == [0, 624]
    assert parts["prefill_s"][1] < 0.9 * parts["prefill_s"][0]
    assert parts["prefill_interference_s"] == pytest.approx(0, abs=1e-12)


def test_means_and_what_binds():
    parts = dict.fromkeys(PARTS, np.zeros(2)) | {"queue_s": np.array([1.0, 3.0]), "prefill_s": np.array([0.5, 0.5])}
    assert means(parts)["queue_s"] == 2.0
    assert largest(parts, TO_FIRST_TOKEN) == ("queue_s", 0.8)
    assert largest(parts, ("decode_s", "transfer_s")) is None
    assert set(means({part: np.empty(0) for part in PARTS}).values()) == {0.0}
