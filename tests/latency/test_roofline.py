"""Speed of light: never faster than the data sheet allows, and one value worked by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetrisim.latency import roofline
from tetrisim.latency.attention import RooflineAttention, equivalent_prefill
from tetrisim.latency.bounds import bounds
from tetrisim.latency.collective import all_reduce_s, all_to_all_s
from tetrisim.latency.roofline import Shard
from tetrisim.scenario.gpu import GPUS, GpuSpec, load_gpu
from tetrisim.scenario.model import DTYPE_BYTES, ModelSpec, load_model, model_names

SHARDS = st.builds(
    Shard,
    st.sampled_from(model_names()).map(load_model),
    st.sampled_from(sorted(GPUS)).map(load_gpu),
    st.sampled_from(sorted(DTYPE_BYTES)),
    st.sampled_from([1, 2, 4]),
)
TOKENS = st.integers(1, 20_000)

# One layer of 100 x 100 matrices on a machine of 1 TB/s and 100 TFLOP/s, efficiencies 0.8 and 0.7.
TINY = ModelSpec("tiny", 1, 1000, 10, 10, 100, 4000, 8000, 2048, False, False)
ROUND = GpuSpec("round", 2**34, 1e12, 100e12, 100e9, 10e9, 1.0)
SHARD = Shard(TINY, ROUND, "bf16", 1)


def used(model):
    """What a token needs of a model's layers: of experts, those it is sent to."""
    return replace(model, experts=model.active_experts).layer_parameters


def linear_s(shard, tokens):
    return float(roofline.linear_s(shard, np.array([tokens]))[0])


def test_a_step_worked_by_hand():
    # One token: the matrices are read: 1000 x (3000 + 1000 + 4000) + 4000 x 1000 = 12e6 weights of 2 bytes, with rows
    # in and out (1000 + 3000) + (1000 + 1000) + (1000 + 4000) + (4000 + 1000) = 16e3 elements, at 0.8e12 B/s;
    # element-wise 8 x 1000 + 2 x (4000 + 3000) = 22e3 elements; nine kernels of 2 us; the embedding reads and writes
    # 1000 elements.
    matrices = 2 * (12e6 + 16e3) / 0.8e12
    rest = 2 * 22e3 / 0.8e12 + 9 * 2e-6 + 2 * 2 * 1000 / 0.8e12
    assert linear_s(SHARD, 1) == pytest.approx(matrices + rest, rel=1e-12)
    # A thousand tokens are bound by compute: 2 x 1000 x 12e6 FLOP at 70e12.
    compute = 2 * 1000 * 12e6 / 70e12
    rest = 1000 * 2 * 22e3 / 0.8e12 + 9 * 2e-6 + 1000 * 2 * 2 * 1000 / 0.8e12
    assert linear_s(SHARD, 1000) == pytest.approx(compute + rest, rel=1e-12)


def test_decode_attention_by_hand():
    # 8 sequences over 500 tokens: keys and values of 2 x 10 heads x 100 elements x 2 bytes a token, and one token's
    # query and output of 2 x 10 x 100 x 2 bytes each.
    seconds, measured = RooflineAttention(SHARD).decode(8, 500)
    assert seconds == pytest.approx(8 * 501 * 4000 / 0.8e12, rel=1e-12)
    assert not measured


@given(SHARDS, TOKENS)
def test_never_faster_than_bandwidth_or_peak(shard, tokens):
    seconds = linear_s(shard, tokens)
    weights = shard.model.layers * used(shard.model) / shard.tensor_parallel
    assert seconds >= weights * DTYPE_BYTES[shard.dtype] / shard.gpu.memory_bytes_per_s
    assert seconds >= 2 * tokens * weights / shard.peak


@given(SHARDS, TOKENS, st.integers(0, 1000))
def test_more_tokens_are_never_faster(shard, tokens, more):
    assert linear_s(shard, tokens + more) >= linear_s(shard, tokens)
    few, many = roofline.head_s(shard, np.array([tokens, tokens + more]))
    assert many >= few
    few, many = roofline.collectives_s(shard, np.array([tokens, tokens + more]))
    assert many >= few


@given(SHARDS, st.integers(1, 4096), st.integers(0, 8000), st.integers(0, 200), st.integers(0, 8000))
def test_attention_over_more_is_never_faster(shard, chunk, cached, sequences, context):
    mixed = RooflineAttention(shard).mixed
    start = mixed(chunk, cached, sequences, context)[0]
    assert mixed(chunk + 1, cached, sequences, context)[0] > start
    assert mixed(chunk, cached + 1, sequences, context)[0] > start
    assert mixed(chunk, cached, sequences + 1, context)[0] > start
    assert mixed(chunk, cached, sequences, context + 1)[0] >= start


@given(st.sampled_from(model_names()).map(load_model), st.sampled_from(sorted(GPUS)).map(load_gpu))
def test_two_gpus_read_half_of_the_weights_each(model, gpu):
    one, two = (linear_s(Shard(model, gpu, "bf16", shards), 1) for shards in (1, 2))
    kernels = model.layers * roofline.KERNELS_PER_LAYER * roofline.KERNEL_S
    saved = model.layers * used(model) / 2 * 2 / (gpu.memory_bytes_per_s * roofline.MEMORY_EFFICIENCY)
    assert one - two == pytest.approx(saved, rel=0.01)
    assert two > kernels


def test_collectives_of_a_gigabyte_over_four_gpus_of_100_gb_a_second():
    """At three quarters of the rate: three quarters of it there and back, or once; and what it takes to start."""
    assert all_reduce_s(1e9, 4, 100e9) == pytest.approx(8e-6 + 2 * 0.01, rel=1e-12)
    assert all_to_all_s(1e9, 4, 100e9) == pytest.approx(15e-6 + 0.01, rel=1e-12)


def test_one_gpu_has_nobody_to_talk_to():
    assert roofline.collectives_s(SHARD, np.array([1, 1000])).tolist() == [0, 0]
    two = Shard(TINY, ROUND, "bf16", 2)
    # Two all-reduces a layer: launch, then half of the bytes twice over 75 GB/s
    assert roofline.collectives_s(two, np.array([1000])) == pytest.approx([2 * (8e-6 + 1000 * 2000 / 75e9)])


def test_fewer_bits_are_faster_and_tf32_is_half_as_fast():
    times = [linear_s(Shard(TINY, ROUND, dtype, 1), 1000) for dtype in ("fp8", "bf16", "fp32")]
    assert times == sorted(times)
    assert [Shard(TINY, ROUND, dtype, 1).peak for dtype in ("fp8", "bf16", "fp32")] == [200e12, 100e12, 50e12]


@given(st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 4000)), min_size=1, max_size=6))
def test_several_prefills_in_a_step_are_one_of_the_same_attention_work(pieces):
    chunk, cached = equivalent_prefill(pieces)
    work = sum(tokens * (before + 0.5 * tokens) for tokens, before in pieces)
    assert chunk * (cached + 0.5 * chunk) == pytest.approx(work, rel=1e-9)
    assert chunk <= sum(tokens for tokens, _ in pieces) + 1e-9
    assert cached >= -1e-6


def test_activations_of_an_fp8_model_travel_in_16_bits():
    tokens = np.array([1, 512])
    half, eight = (
        roofline.collectives_s(Shard(load_model("llama-3.1-8b"), load_gpu("h100-sxm"), dtype, 2), tokens)
        for dtype in ("bf16", "fp8")
    )
    assert (half == eight).all() and half[1] > half[0] > 0


@given(SHARDS, TOKENS)
def test_what_an_fp8_checkpoint_leaves_at_16_bits_is_no_faster_for_it(shard, tokens):
    """The LM head is read at 16 bits, attention multiplies at them, and routers and activations stay at them."""
    eight, half = (replace(shard, dtype=dtype) for dtype in ("fp8", "bf16"))
    rows = np.array([tokens])
    assert (roofline.head_s(eight, rows) == roofline.head_s(half, rows)).all()
    compute = 4 * shard.model.heads / shard.tensor_parallel * shard.model.head_dim * tokens**2 / 2
    assert RooflineAttention(eight).mixed(tokens, 0, 0, 0.0)[0] * shard.gpu.flops_per_s >= compute
    elements = 8 * shard.model.hidden * shard.model.layers * tokens  # norms alone
    assert linear_s(eight, tokens) > 2 * elements / shard.gpu.memory_bytes_per_s


def test_a_matrix_in_fp8_by_hand():
    # 1000 rows through 1000 x 4000: 8e9 FLOP at 2 x 70e12, more than reading 4e6 + 1e6 bytes and writing 8e6; before
    # it a kernel of 2 us reads the rows at 16 bits and writes them at 8. One row is bound by reading the weights.
    shard = Shard(TINY, ROUND, "fp8", 1)
    one, many = roofline.matmul_s(shard, np.array([1, 1000]), 1000, 4000)
    assert many == pytest.approx(8e9 / 140e12 + 2e-6 + 3e6 / 0.8e12, rel=1e-12)
    assert one == pytest.approx((4e6 + 1e3 + 8e3) / 0.8e12 + 2e-6 + 3e3 / 0.8e12, rel=1e-12)


def test_a_gpu_without_fp8_reads_half_of_the_weights_and_multiplies_as_before():
    eight, half = (Shard(TINY, replace(ROUND, fp8=False), dtype, 1) for dtype in ("fp8", "bf16"))
    rows = np.array([1, 10_000])
    (one, many), (one_half, many_half) = (roofline.matmul_s(shard, rows, 1000, 4000) for shard in (eight, half))
    assert many == many_half
    assert one_half - one == pytest.approx(4e6 / 0.8e12, rel=1e-12)
    assert [name for name, gpu in GPUS.items() if not gpu.fp8] == ["v100-32gb", "a100-80gb", "cpu"]


@given(SHARDS, TOKENS, st.integers(1, 512), st.integers(0, 8000))
def test_nothing_beats_the_bounds_that_measured_rows_are_held_to(shard, tokens, sequences, context):
    """Profiles are refused for less time than these; an estimate must not be."""
    least = bounds(shard)
    head = least("head.csv", ("lm_head", sequences))
    assert head and float(roofline.head_s(shard, np.array([sequences]))[0]) >= head.seconds
    ops = {"qkv_proj": 1, "o_proj": 1, "layernorm": 2, "rotary_emb": 1}
    ops |= {} if shard.model.experts else {"gate_up_proj": 1, "act_fn": 1, "down_proj": 1}
    layer = sum(calls * least("linear.csv", (op, tokens)).seconds for op, calls in ops.items())
    assert linear_s(shard, tokens) >= shard.model.layers * layer
    attention = RooflineAttention(shard)
    for key in ((tokens, context, 0, 0), (0, 0, sequences, context + 8)):
        floor = least("attention.csv", key)
        assert floor and attention.mixed(*key)[0] >= floor.seconds * (1 - 1e-9)


def test_every_gpu_computes_a_kv_head_that_there_are_too_few_of():
    model = load_model("qwen3-30b-a3b")  # 4 KV heads, on 8 GPUs
    assert Shard(model, ROUND, "bf16", 8).qkv_width == (32 / 8 + 2) * 128
    assert Shard(model, ROUND, "bf16", 4).qkv_width == model.qkv_width / 4
