import json

import pytest

from tetrisim.errors import ProfileError, ScenarioError, TetrisimError
from tetrisim.latency.bounds import Experts
from tetrisim.latency.grid import largest_product
from tetrisim.profiling.devices import catalog_name, recognised
from tetrisim.profiling.measure import budget_s
from tetrisim.profiling.plan import ESSENTIAL, Limits, build_plan
from tetrisim.profiling.shape import BatchShape, shard_shape


def rows(plan, file):
    return [key for unit in plan for name, key in unit.tasks if name == file]


def test_shards_of_the_catalog():
    llama = shard_shape("llama-3.1-8b", "bf16", 2)
    assert llama.matrices == {
        "qkv_proj": (4096, 3072),
        "o_proj": (2048, 4096),
        "gate_up_proj": (4096, 14336),
        "down_proj": (7168, 4096),
    }
    assert (llama.heads, llama.kv_heads, llama.vocab, llama.kv_token_bytes) == (16, 4, 64128, 2048)
    assert "qk_norm" not in llama.calls_per_layer
    assert shard_shape("qwen3-32b", "bf16", 16).kv_heads == 1  # fewer KV heads than GPUs: each holds a copy
    assert "qk_norm" in shard_shape("qwen3-32b", "bf16", 2).calls_per_layer
    opt = shard_shape("opt-125m", "fp16", 1)
    assert "rotary_emb" not in opt.calls_per_layer and opt.up == "up_proj" and "o_proj" in opt.biased


def test_a_batch_counts_its_tokens():
    batch = BatchShape(((5, 0), (3, 40)), (7, 300))
    assert (batch.tokens, batch.sequences) == (10, 4)
    assert batch.spans == ((5, 0), (3, 40), (1, 7), (1, 300))


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-32b", "opt-13b", "opt-125m", "llama-100m"])
def test_no_point_is_planned_twice_and_all_fit(model):
    shape, limits = shard_shape(model, "bf16", 1), Limits(250_000)
    tasks = [task for unit in build_plan(shape, limits) for task in unit.tasks]
    assert len(tasks) == len(set(tasks))
    for chunk, cached, count, context in rows(build_plan(shape, limits), "attention.csv"):
        assert chunk + cached <= shape.model.max_positions and context < shape.model.max_positions
        assert chunk + cached * (chunk > 0) + count * (context + 1) * (count > 0) <= limits.pool_tokens


@pytest.mark.parametrize("model", ["llama-3.1-8b", "opt-125m"])
def test_the_essential_units_alone_are_a_usable_profile(model):
    shape = shard_shape(model, "bf16", 1)
    plan = [unit for unit in build_plan(shape, Limits(10**6)) if unit.level == ESSENTIAL]
    ops = {op for op, _ in rows(plan, "linear.csv")} | {op for op, _ in rows(plan, "head.csv")}
    assert ops == {*shape.calls_per_layer, *shape.calls_per_step}
    assert {tokens for _, tokens in rows(plan, "linear.csv")} >= {1, 8192}
    attention = rows(plan, "attention.csv")
    for count in {n for c, _, n, _ in attention if c == 0}:
        assert len([kv for _, _, n, kv in attention if n == count]) >= 2
    assert any(c > 0 for c, *_ in attention) and rows(plan, "host.csv")


def test_any_whole_mixed_units_leave_a_full_product():
    mixed = [unit for unit in build_plan(shard_shape("llama-3.1-8b", "bf16", 1), Limits(10**6))
             if unit.title.startswith("mixed")]  # fmt: skip
    for done in range(2, len(mixed) + 1):
        points = [key for unit in mixed[:done] for _, key in unit.tasks]
        axes = largest_product(points)
        assert axes is not None and len(axes[0]) == done
        assert len(axes[0]) * len(axes[1]) * len(axes[2]) * len(axes[3]) == len(points)


def test_messages_only_where_there_are_the_gpus():
    shape = shard_shape("llama-3.1-8b", "bf16", 2)
    assert rows(build_plan(shape, Limits(10**6, gpus=1)), "collective.csv") == []
    assert {(op, gpus) for op, _, gpus in rows(build_plan(shape, Limits(10**6, gpus=4)), "collective.csv")} == {
        ("all_reduce", 2),
        ("p2p", 2),
    }


def test_budgets():
    assert [budget_s(text) for text in ("10m", "90s", "1h", "2 min", "0.5m")] == [600, 90, 3600, 120, 30]
    for text in ("10", "ten minutes", "-3m", "0s", "m", "nan s", "99999h"):
        with pytest.raises(ProfileError, match="--budget: is"):
            budget_s(text)


def test_devices_are_recognised():
    assert recognised("NVIDIA H100 80GB HBM3") == "h100-sxm"
    assert recognised("NVIDIA H100 PCIe") is None
    assert recognised("NVIDIA A100-SXM4-80GB") == "a100-80gb"
    assert catalog_name("cuda", "NVIDIA H200", None) == "h200-sxm"
    assert catalog_name("cuda", "NVIDIA H100 PCIe", "h100-sxm") == "h100-sxm"
    assert catalog_name("cpu", "whatever", None) == "cpu"
    for kind, device, wanted in (("cuda", "NVIDIA T4", None), ("cuda", "NVIDIA H200", "h100-sxm")):
        with pytest.raises(ProfileError, match="--gpu"):
            catalog_name(kind, device, wanted)
    with pytest.raises(ScenarioError, match="did you mean 'h100-sxm'"):
        catalog_name("cuda", "NVIDIA H100 PCIe", "h100-sxn")


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ProfileError, match="--tp: 7 does not divide the 32 heads"):
        shard_shape("llama-3.1-8b", "bf16", 7)
    with pytest.raises(ProfileError, match="--tp: 0"):
        shard_shape("llama-3.1-8b", "bf16", 0)
    with pytest.raises(ProfileError, match="--dtype: unknown name 'bf61'"):
        shard_shape("llama-3.1-8b", "bf61", 1)


MOE = dict(model_type="qwen3_moe", num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
           head_dim=16, num_experts=16, num_experts_per_tok=2, moe_intermediate_size=32, vocab_size=500,
           max_position_embeddings=4096)  # fmt: skip


def moe(tmp_path, **changes):
    path = tmp_path / "tiny-moe" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(MOE | changes))
    return str(path)


def test_a_mixture_of_experts_has_a_router_and_experts_for_its_mlp(tmp_path):
    shape = shard_shape(moe(tmp_path), "bf16", 2)
    assert shape.experts == Experts(16, 2, 32) and shape.intermediate == 16
    assert [*shape.calls_per_layer] == ["layernorm", "qkv_proj", "qk_norm", "rotary_emb", "o_proj", "router"]
    assert shape.weight_bytes == 2 * (2 * (64 * 64 + 32 * 64 + 3 * 16 * 64 * 16) + 250 * 64)
    experts = rows(build_plan(shape, Limits(250_000)), "moe.csv")
    assert {count for tokens, count in experts if tokens == 1} == {2}, "one token reaches its own experts"
    assert {count for tokens, count in experts if tokens == 4} == {2, 4, 8}
    assert {count for tokens, count in experts if tokens == 1024} == {2, 4, 8, 16}
    assert not rows(build_plan(shard_shape("llama-100m", "fp32", 1), Limits(250_000)), "moe.csv")


def test_experts_reached_by_tokens_that_choose_at_random():
    """16 tokens of 8 choices out of 128: 128 * (1 - (1 - 1/16)^16) = 82.4."""
    assert [Experts(128, 8, 768).reached(tokens) for tokens in (1, 16, 10_000)] == [8, 82, 128]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"num_experts": None}, r"num_experts, num_experts_per_tok, moe_intermediate_size are \[None, 2, 32\]"),
        ({"num_experts_per_tok": 17}, "expected whole numbers above 0, and no more a token than there are"),
        ({"mlp_only_layers": [0]}, "has dense layers between those with experts"),
        ({"num_attention_heads": "four"}, "key 'num_attention_heads' is 'four'"),
    ],
)
def test_experts_that_cannot_be(tmp_path, changes, said):
    with pytest.raises(TetrisimError, match=said):
        shard_shape(moe(tmp_path, **changes), "bf16", 1)


def test_fp8_experts_are_refused(tmp_path):
    with pytest.raises(ProfileError, match="--dtype: fp8 has no grouped matrix"):
        shard_shape(moe(tmp_path), "fp8", 1)
