"""Mixtures of experts: which weights a step reads, by hand, by the roofline, and from measured rows."""

import json
from dataclasses import replace

import numpy as np
import pytest
from latency.folders import META, write

from tetrisim.errors import ScenarioError
from tetrisim.latency import roofline
from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import KERNEL_S, Shard
from tetrisim.scenario.gpu import GpuSpec, load_gpu
from tetrisim.scenario.load import load, override
from tetrisim.scenario.model import ModelSpec, load_model

MIXTRAL = load_model("mixtral-8x7b")
# As in test_roofline.py, with eight experts of which a token takes two: 1 TB/s at 0.8, 100 TFLOP/s at 0.7.
TINY = ModelSpec("tiny", 1, 1000, 10, 10, 100, 4000, 8000, 2048, False, False, experts=8, active_experts=2)
SHARD = Shard(TINY, GpuSpec("round", 2**34, 1e12, 100e12, 100e9, 10e9, 1.0), "bf16", 1)


def experts_s(shard, tokens):
    return float(roofline.experts_s(shard, np.array([tokens]))[0])


def test_the_catalog_has_the_published_sizes():
    assert MIXTRAL.parameters == pytest.approx(46.7e9, rel=2e-3)
    assert load_model("qwen3-30b-a3b").parameters == pytest.approx(30.5e9, rel=2e-3)
    assert MIXTRAL.kv_bytes_per_token("bf16") == 2 * 32 * 8 * 128 * 2
    assert load_model("qwen3-30b-a3b").qk_norm


def test_all_experts_take_memory():
    """93.4 GB of weights do not fit on one A100 of 80 GiB; on two they leave room."""
    with pytest.raises(ScenarioError, match=r"mixtral-8x7b does not fit on 1 x a100-80gb: .* 87\.\d weights"):
        _run_on("a100-80gb", 1)
    assert _run_on("a100-80gb", 2) > 10_000


def _run_on(gpu, cut):
    from tetrisim.scenario.memory import kv_blocks

    of = override(load("default"), {"model": "mixtral-8x7b", "cluster.gpu": gpu, "cluster.instances": 2,
                                    "cluster.tensor_parallel": cut})  # fmt: skip
    return kv_blocks(of.cluster.pools[0], load_gpu(gpu), MIXTRAL, "bf16", "cluster.pools.0")


@pytest.mark.parametrize(("tokens", "expected"), [(0, 0), (1, 2), (2, 3.5), (3, 4.625), (1000, 8)])
def test_experts_reached_by_tokens_that_choose_evenly(tokens, expected):
    assert roofline.reached(TINY, np.array([tokens]))[0] == pytest.approx(expected)


def test_one_token_reads_its_own_experts():
    # Two experts of 1000 x 4000 and back: 16e6 weights; rows in and out of each 2 x 5000 and 2 x 5000; the router's 8e3
    # weights and 1008 elements; copies and the activation 2 x (4 x 1000 + 2 x 4000).
    moved = 2 * (16e6 + 20e3 + 9008 + 24e3)
    assert experts_s(SHARD, 1) == pytest.approx(moved / 0.8e12 + roofline.EXPERT_KERNELS * KERNEL_S, rel=1e-12)


def test_a_batch_of_decodes_reads_nearly_all_weights_and_a_long_prompt_computes_with_the_active_ones():
    weights = 8 * 2 * 1000 * 4000
    few, floor = experts_s(SHARD, 32), 2 * weights / 0.8e12
    assert floor < few < 1.1 * floor + roofline.EXPERT_KERNELS * KERNEL_S
    long, active = experts_s(SHARD, 20_000), 2 * 20_000 * weights / 4 / 70e12
    assert active < long < 1.2 * active
    dense = replace(TINY, experts=0, active_experts=0)
    mlp = float(roofline.mlp_s(replace(SHARD, model=dense), np.array([20_000]))[0])
    assert experts_s(SHARD, 20_000) / mlp == pytest.approx(2, rel=0.15), "two dense MLPs, and copies"


def test_a_cut_reads_its_share():
    cut = replace(SHARD, tensor_parallel=2)
    assert experts_s(SHARD, 64) / experts_s(cut, 64) == pytest.approx(2, rel=0.15)


def test_measured_experts_are_read_at_the_mean_number_that_is_reached(tmp_path):
    """OPT-125M's tables with experts in 2 layers: 8 us an expert and 1 us a token, so 8 * reached + tokens."""
    sizes = {"model_type": "mixtral", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
             "num_key_value_heads": 4, "intermediate_size": 32, "num_local_experts": 8, "num_experts_per_tok": 2,
             "vocab_size": 100, "max_position_embeddings": 1000}  # fmt: skip
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(sizes))
    model = load_model(str(tmp_path / "tiny" / "config.json"))
    shard = Shard(model, load_gpu(META["gpu"]), "bf16", 1)
    rows = [["tokens", "active_experts", "time_us"]]
    rows += [[tokens, count, 8 * count + tokens] for tokens in (1, 64) for count in (2, 4, 8)]
    with_rows, _ = build_timer(shard, str(write(tmp_path / "a", {"moe.csv": rows}, model="tiny")), "profile")
    without, _ = build_timer(shard, str(write(tmp_path / "b", {"moe.csv": None}, model="tiny")), "profile")

    def experts_us(tokens):
        roof = round(2 * experts_s(shard, tokens) * 1e15)
        return (with_rows.fixed(tokens, 1) - (without.fixed(tokens, 1) - roof)) / 1e9

    assert experts_us(1) == pytest.approx(2 * (8 * 2 + 1), abs=1e-3)
    assert experts_us(2) == pytest.approx(2 * (8 * 3.5 + 2), abs=1e-3)
    assert experts_us(64) == pytest.approx(2 * (8 * 8 + 64), abs=1e-3)
    before = with_rows.estimated
    with_rows.prefill(2, 1, 2, 0)
    assert with_rows.estimated - before < 0.1 * with_rows.total, "inside the rows the experts are interpolated"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_experts_per_tok": 9}, "num_experts_per_tok 9 of 8 experts"),
        ({"decoder_sparse_step": 2}, "has dense layers between those with experts"),
        ({"num_local_experts": None}, "key 'num_local_experts' is missing"),
    ],
)
def test_experts_that_cannot_be(tmp_path, change, said):
    sizes = {"model_type": "mixtral", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
             "num_key_value_heads": 4, "intermediate_size": 32, "num_local_experts": 8, "num_experts_per_tok": 2,
             "vocab_size": 100, "max_position_embeddings": 1000}  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: value for key, value in {**sizes, **change}.items() if value is not None}))
    with pytest.raises(ScenarioError, match=said):
        load_model(str(path))


def test_of_a_layer_with_experts_the_norms_and_rotary_alone_are_left_beside_them():
    """On each of two GPUs: 8 x 1000 elements of two norms and 2 x 3000 / 2 of rotary, none of a dense activation."""
    cut, tokens = replace(SHARD, tensor_parallel=2), np.array([64])
    attention = sum(roofline.matmul_s(cut, tokens, *shape) for shape in ((1000, 1500), (500, 1000)))
    left = roofline.linear_s(cut, tokens) - attention - roofline.experts_s(cut, tokens)
    embedding = 2 * 1000
    moved = (8 * 1000 + 2 * 3000 / 2 + embedding) * 2 * 64
    assert left[0] == pytest.approx(moved / 0.8e12 + 9 * KERNEL_S, rel=1e-9)
