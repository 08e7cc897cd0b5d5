"""Shift Parallelism: the two kinds of step by hand, and tensor parallelism to the bit where no step is split."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.worlds import rows, worlds

from tetrisim.errors import ScenarioError
from tetrisim.latency import roofline
from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import Shard
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import GpuSpec, load_gpu
from tetrisim.scenario.load import resolve
from tetrisim.scenario.memory import kv_blocks
from tetrisim.scenario.model import ModelSpec, load_model
from tetrisim.simulate import simulate

SLOW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
NEVER = 10**9

# One layer, 8 query heads and 2 key-value heads of 128 elements, on 4 GPUs with links of 100 GB/s one way.
TINY = ModelSpec("tiny", 1, 1024, 8, 2, 128, 4096, 8000, 2048, False, False)
ROUND = GpuSpec("round", 2**34, 1e12, 100e12, 100e9, 10e9, 1.0)
SHARD = Shard(TINY, ROUND, "bf16", 4)


def run(document):
    try:
        return simulate(resolve(document))
    except ScenarioError as error:
        assert "can ever be served" in error.what
        return None


def test_all_to_alls_by_hand():
    # 400 tokens, 100 a GPU. Out: 8 query heads and 2 x 4 key and value heads (2, sent to each of the 4 GPUs), 128
    # elements of 2 bytes each; back: 8 heads. Three quarters of it leave the GPU, at 0.75 of 100 GB/s.
    sent = 100 * 2 * 128 * (8 + 2 * 4), 100 * 2 * 128 * 8
    expected = sum(15e-6 + 0.75 * size / 75e9 for size in sent)
    assert roofline.all_to_alls_s(SHARD, np.array([400]))[0] == pytest.approx(expected, rel=1e-12)


def test_a_step_above_the_threshold_runs_whole_weights_over_its_share_of_the_tokens():
    shifted, line = build_timer(SHARD, "roofline", "profile", 100)
    plain, _ = build_timer(SHARD, "roofline", "profile")
    whole, _ = build_timer(Shard(TINY, ROUND, "bf16", 1), "roofline", "profile")
    assert "modelled" in line
    for tokens in (1, 99, 100):
        assert shifted.prefill(tokens, 1, tokens, 0) == plain.prefill(tokens, 1, tokens, 0)
    # 101 tokens are padded to 104, 26 on each GPU; attention and head are the shard's.
    linear = roofline.linear_s(Shard(TINY, ROUND, "bf16", 1), np.array([26]))[0]
    exchanged = roofline.all_to_alls_s(SHARD, np.array([104]))[0]
    cut = roofline.linear_s(SHARD, np.array([101]))[0] + roofline.collectives_s(SHARD, np.array([101]))[0]
    difference = shifted.prefill(101, 1, 101, 0) - plain.prefill(101, 1, 101, 0)
    assert difference == pytest.approx((linear + exchanged - cut) * 1e15, abs=3)
    assert whole.prefill(26, 1, 26, 0) > 0


def test_both_weight_layouts_take_memory():
    gpu, model = load_gpu("h200-sxm"), load_model("llama-3.1-8b")
    blocks = [
        kv_blocks(PoolSpec("hybrid", tensor_parallel=8, split_above_tokens=limit), gpu, model, "bf16", "pool")
        for limit in (None, 0, 256)
    ]
    block_bytes = 16 * model.kv_bytes_per_token("bf16") / 8
    matrices = 2 * model.matrices
    assert blocks[0] - blocks[1] == pytest.approx(matrices * 7 / 8 / block_bytes, abs=1)
    assert blocks[0] - blocks[2] == pytest.approx(matrices / block_bytes, abs=1)


@SLOW
@given(worlds("shift"), st.sampled_from([None, NEVER]), st.sampled_from([1, 2, 4]))
def test_without_split_steps_it_is_plain_tensor_parallelism(document, limit, shards):
    plain = {**document, "system": "vllm-v1"}
    for world, name in ((document, limit), (plain, None)):
        world["cluster"] = {**world["cluster"], "gpu": "h100-sxm"}
        world["cluster"]["pools"] = [
            {**pool, "tensor_parallel": shards, "split_above_tokens": name} for pool in document["cluster"]["pools"]
        ]
    with_it, without = run(document), run(plain)
    assert (with_it is None) == (without is None)
    assert with_it is None or rows(with_it) == rows(without)


@SLOW
@given(worlds("shift"), st.sampled_from([0, 4, 20]), st.sampled_from([2, 4]))
def test_split_steps_change_times_and_nothing_else(document, limit, shards):
    for pool in document["cluster"]["pools"]:
        pool |= {"tensor_parallel": shards, "split_above_tokens": limit}
    result = run(document)
    if result is not None:
        by_steps = simulate(resolve(document), exact_steps=True)
        assert rows(result) == rows(by_steps)
        assert set(result.requests.status) <= {"completed", "rejected"}


def test_a_threshold_below_zero_is_refused():
    with pytest.raises(ValueError, match="split_above_tokens: expected at least 0"):
        PoolSpec("hybrid", split_above_tokens=-1)
