"""Whole runs worked by hand: a step takes 10 ms and 1 ms a token, and every row is written out."""

import pytest
from simulate.by_hand import in_ms, one, scenario, split, use_timer

from tetrisim.errors import ScenarioError
from tetrisim.simulate import simulate

MOMENTS = ("arrival_s", "prefill_start_s", "first_token_s", "transfer_start_s", "transfer_end_s", "decode_start_s",
           "finish_s")  # fmt: skip
TWO = [(0, 10, 3), (5, 25, 2)]


@pytest.fixture(autouse=True)
def ten_ms_and_one_a_token(monkeypatch):
    use_timer(monkeypatch)


@pytest.fixture(params=[False, True], ids=["windows", "steps"])
def run(request, tmp_path):
    return lambda requests, **document: simulate(scenario(tmp_path, requests, **document), request.param)


def lives(result):
    return list(zip(*(in_ms(result, name) for name in MOMENTS), strict=True))


def column(result, name):
    return result.request_columns[name].tolist()


def test_vllm_v0_stops_decoding_while_it_prefills(run):
    result = run(TWO, **one("vllm-v0"))
    # 0-20 prefill of 10; 20-55 prefill of 25; 55-67 two decodes; 67-78 one
    assert lives(result) == [(0, 0, 20, None, None, 20, 78), (5, 20, 55, None, None, 55, 67)]
    assert column(result, "request_id") == [0, 1]
    assert column(result, "prompt_tokens") == [10, 25]
    assert column(result, "output_tokens") == [3, 2]
    assert column(result, "predicted_tokens") == [0, 0]
    assert column(result, "preemptions") == [0, 0]
    assert column(result, "prefill_instance") == column(result, "decode_instance") == ["hybrid-0"] * 2
    assert column(result, "status") == ["completed"] * 2
    instance = result.instances.iloc[0]
    assert (instance.steps, instance.first_work_s, instance.last_work_s) == (4, 0.0, 0.078)
    assert instance.busy_s == 0.078
    assert result.simulated_s == 0.078
    # request 0 waited 47 ms and 11 ms for its tokens, request 1 12 ms
    gaps = result.gap_columns
    assert sorted(zip(gaps["first_s"].tolist(), gaps["steps"].tolist(), gaps["weight"].tolist(), strict=True)) == [
        (0.011, 1, 1), (0.012, 1, 1), (0.047, 1, 1)]  # fmt: skip


def test_vllm_v1_cuts_the_prompt_to_what_the_budget_leaves(run):
    result = run(TWO, **one("vllm-v1", max_num_batched_tokens=20, async_scheduling=False))
    # 0-20 prefill of 10; 20-50 a decode and 19 of 25; 50-67 a decode and the other 6; 67-78 one decode
    assert lives(result) == [(0, 0, 20, None, None, 20, 67), (5, 20, 67, None, None, 67, 78)]
    assert result.instances.steps.tolist() == [4]
    assert sorted(result.gap_columns["first_s"].tolist()) == [0.011, 0.017, 0.030]


def test_asynchronous_scheduling_sees_an_arrival_a_step_later(run):
    result = run(TWO, **one("vllm-v1", max_num_batched_tokens=20))
    # 0-20 prefill of 10; 20-31 a decode, planned at 0; 31-61 a decode and 19 of 25; 61-77 the other 6; 77-88 one decode
    assert lives(result) == [(0, 0, 20, None, None, 20, 61), (5, 31, 77, None, None, 77, 88)]
    assert result.instances.steps.tolist() == [5]


def test_asynchronous_scheduling_fills_a_seat_a_step_later(run):
    rows = [(0, 10, 2), (0, 10, 4), (1, 10, 1)]
    # 0-30 two prefills; 30-42 two decodes, the first request is done; 42-53, planned at 30, a decode; 53-74 the last
    # decode beside the third prompt
    late = run(rows, **one("vllm-v1", max_num_batched_tokens=100, max_num_seqs=2))
    assert in_ms(late, "finish_s") == [42, 74, 74]
    assert in_ms(late, "prefill_start_s") == [0, 0, 53]
    soon = run(rows, **one("vllm-v1", max_num_batched_tokens=100, max_num_seqs=2, async_scheduling=False))
    assert in_ms(soon, "prefill_start_s") == [0, 0, 42]


def test_tetriinfer_prefills_in_padded_chunks_and_decodes_elsewhere(run):
    result = run(TWO, **split())
    # Chunks of 16, padding included, take 26 ms. Prefill: 0-26 all of the first, 26-52 and 52-78 the second.
    # Link: 26-38 (2 + 10 ms), 78-105 (2 + 25 ms). Decode: 38-60 two steps of 11 ms, 105-116 one.
    assert lives(result) == [(0, 0, 26, 26, 38, 38, 60), (5, 26, 78, 78, 105, 105, 116)]
    assert column(result, "prefill_instance") == ["prefill-0"] * 2
    assert column(result, "decode_instance") == ["decode-0"] * 2
    assert result.instances.steps.tolist() == [3, 3]
    assert [round(at, 12) for at in result.instances.busy_s.tolist()] == [0.078, 0.033]


def test_a_single_token_needs_no_decode_instance(run):
    result = run([(0, 10, 1)], **split())
    assert lives(result) == [(0, 0, 26, None, None, None, 26)]
    assert column(result, "decode_instance") == [""]


def test_chunks_are_cut_and_merged_across_prompts(run):
    result = run([(0, 10, 1), (0, 14, 1), (0, 8, 1)], **split(prefill={"queue": "fcfs"}))
    # 0-26: 10 + 6 of 14; 26-52: the other 8 + 8
    assert in_ms(result, "prefill_start_s") == [0, 0, 26]
    assert in_ms(result, "first_token_s") == [26, 52, 52]


def test_the_shortest_prompt_of_a_group_goes_first(run):
    rows = [(0, 16, 1), (1, 48, 1), (1, 32, 1), (1, 16, 1)]
    result = run(rows, **split(prefill={"queue_batch": 2}))
    # The first runs alone 0-26. Then groups of two: 32 before 48, and 16 last although it is the shortest.
    assert in_ms(result, "first_token_s") == [26, 26 + 52 + 78, 26 + 52, 26 + 52 + 78 + 26]


PAIR = [(0, 4, 8), (0, 4, 8)]
"""Each ends with 11 tokens of KV in 3 blocks; an instance of 4 blocks cannot hold both to the end."""


@pytest.mark.parametrize("system", ["vllm-v0", "vllm-v1"])
def test_a_preempted_request_is_computed_again_with_the_tokens_it_has_shown(run, system):
    result = run(PAIR, **one(system, kv_blocks=4, preemption="recompute"))
    # 0-18 prefill of 4 + 4; 18-66 four steps of two; then both need a third block: the last is preempted.
    # 66-99 the first alone; 99-118 recompute of 4 + 5 tokens, which shows the sixth; 118-140 the last two.
    assert in_ms(result, "first_token_s") == [18, 18]
    assert in_ms(result, "finish_s") == [99, 140]
    assert column(result, "preemptions") == [0, 1]
    assert result.instances.steps.tolist() == [1 + 4 + 3 + 1 + 2]
    waits = result.gap_columns
    assert max(waits["first_s"]) == pytest.approx(0.052)  # from 66 to 118
    assert (waits["steps"] * waits["weight"]).sum() == 14


def test_swapping_takes_the_time_of_the_blocks_on_the_host_link_both_ways(run):
    result = run(PAIR, **one("vllm-v0", kv_blocks=4, preemption="swap"))
    block = 4 * 36_864 / 32e9 * 1e3  # ms over PCIe
    # 66 ms: two blocks out beside the step of the first, which finishes at 99; then two in beside the second's next
    assert in_ms(result, "finish_s") == [round(99 + 2 * block, 9), round(132 + 4 * block, 9)]
    assert column(result, "preemptions") == [0, 1]


def test_more_gpus_than_kv_heads_swap_no_faster(run):
    """Each of 8 GPUs then moves one of the 4 KV heads, over a link of its own, as each of 4 does."""
    moved = 4 * 2 * 48 * 128 * 2  # a block of 4 tokens: keys and values, layers, one head, bytes
    for gpus in (4, 8):
        pool = one("vllm-v0", kv_blocks=4, preemption="swap", tensor_parallel=gpus)
        result = run(PAIR, **pool, model="qwen3-30b-a3b")
        assert in_ms(result, "finish_s")[0] == pytest.approx(99 + 2 * moved / 32e9 * 1e3, abs=1e-8)


def test_what_can_never_be_served_is_rejected_and_the_others_complete(run):
    rows = [(0, 10, 3), (1, 40, 1), (2, 30, 12), (3, 10, 3)]
    result = run(rows, **one("vllm-v1", kv_blocks=10))  # 40 tokens, and the last one shown needs none
    assert column(result, "status") == ["completed", "completed", "rejected", "completed"]
    assert lives(result)[2] == (2, None, None, None, None, None, None)
    assert column(result, "prefill_instance")[2] == column(result, "decode_instance")[2] == ""


def test_the_longest_request_that_fits_is_served(run):
    result = run([(0, 30, 11)], **one("vllm-v1", kv_blocks=10))
    assert column(result, "status") == ["completed"]


def test_vllm_v0_rejects_a_prompt_longer_than_a_step(run):
    result = run([(0, 21, 1), (0, 20, 1)], **one("vllm-v0", max_num_batched_tokens=20))
    assert column(result, "status") == ["rejected", "completed"]


def test_nothing_to_serve_is_refused_before_the_clock_starts(run):
    with pytest.raises(ScenarioError) as refused:
        run([(0, 50, 3), (1, 60, 3)], **one("vllm-v1", kv_blocks=10))
    assert refused.value.where == "workload.trace"
    assert "up to 63 tokens" in refused.value.what
    assert "41 tokens: the KV blocks of cluster.pools.0" in refused.value.expected


def test_a_horizon_leaves_the_rest_unfinished(run):
    result = run(
        [*TWO, (6, 20, 1), (70, 5, 1), (80, 5, 1)],
        horizon="60 ms",
        **one("vllm-v1", max_num_batched_tokens=20, async_scheduling=False),
    )
    assert lives(result)[0] == (0, 0, 20, None, None, 20, None)
    assert lives(result)[1] == (5, 20, None, None, None, None, None)
    assert column(result, "status") == ["unfinished"] * 5
    assert column(result, "request_id") == [0, 1, 2, 3, 4]
    assert in_ms(result, "arrival_s") == [0, 5, 6, 70, 80]
    assert result.simulated_s == 0.06
