"""The harness with torch on a CPU. CI installs no torch: run these where tetrisim[profile] is installed."""

import json
import time
from statistics import median

import pytest

pytest.importorskip("torch", reason="needs torch, which CI does not install (pip install 'tetrisim[profile]')")

import torch
import yaml

from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import Shard
from tetrisim.profiling.attention import plain_attention
from tetrisim.profiling.bench import TorchBench, open_device
from tetrisim.profiling.experts import Routing
from tetrisim.profiling.links import measured_links
from tetrisim.profiling.measure import Wish, measure
from tetrisim.profiling.shape import BatchShape, shard_shape
from tetrisim.profiling.timer import HostClock, timed
from tetrisim.profiling.validate import check_steps, random_batches
from tetrisim.scenario.gpu import load_gpu

LLAMA = dict(model_type="llama", num_hidden_layers=3, hidden_size=256, num_attention_heads=8, num_key_value_heads=2,
             intermediate_size=512, vocab_size=1000, max_position_embeddings=4096)  # fmt: skip
OPT = dict(model_type="opt", num_hidden_layers=2, hidden_size=128, num_attention_heads=4, ffn_dim=256, vocab_size=500,
           max_position_embeddings=512)  # fmt: skip
QWEN = LLAMA | dict(model_type="qwen3", head_dim=64)
MOE = QWEN | dict(model_type="qwen3_moe", num_experts=12, num_experts_per_tok=3, moe_intermediate_size=48)
RAGGED = BatchShape(((5, 0), (3, 40)), (7, 300, 31))


def small(tmp_path, config, tensor_parallel=1, dtype="fp32"):
    path = tmp_path / config["model_type"] / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(config))
    shape = shard_shape(str(path), dtype, tensor_parallel)
    return TorchBench(shape, open_device("cpu", dtype)), shape, path


@pytest.mark.parametrize("config", [LLAMA, OPT, QWEN], ids=lambda config: config["model_type"])
def test_attention_is_right_for_prefill_decode_and_ragged_batches(tmp_path, config):
    bench, _, _ = small(tmp_path, config)
    for batch in (RAGGED, BatchShape(((64, 0),)), BatchShape(((17, 100),)), BatchShape((), (16,) * 9)):
        call = bench.attention(batch)
        call(0)
        torch.testing.assert_close(call.out, plain_attention(batch, call), atol=2e-5, rtol=2e-4)


def test_a_prefill_in_chunks_writes_the_same_cache_as_one():
    """The last token's attention over a cache written by the call itself, against no cache at all."""
    shape = shard_shape("llama-100m", "fp32", 4)
    from tetrisim.profiling.attention import GatherAttention, KvPool

    pool = KvPool(shape, 4096, 16, torch.device("cpu"), torch.float32)
    qkv = torch.randn(40, (shape.heads + 2 * shape.kv_heads) * shape.model.head_dim)
    out = torch.zeros(40, shape.heads * shape.model.head_dim)
    whole = GatherAttention(BatchShape(((40, 0),)), pool, qkv, out)
    whole.fill()
    whole(0)
    expected = out.clone()
    rest = GatherAttention(BatchShape(((15, 25),)), pool, qkv[25:], out[25:])
    rest.layout.pages = whole.layout.pages
    rest.layout.slots = whole.layout.slots[25:]
    rest.rows = [whole.layout.pages[0]]
    rest.fill()
    out.zero_()
    rest(0)
    torch.testing.assert_close(out[25:], expected[25:], atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("config, cut", [(LLAMA, 1), (LLAMA, 2), (OPT, 2), (QWEN, 2), (MOE, 2)])
def test_every_op_of_a_shard_runs_and_a_step_gives_tokens(tmp_path, config, cut):
    bench, shape, _ = small(tmp_path, config, cut)
    for op in shape.linear_ops:
        assert bench.prepare("linear.csv", (op, 3))()["time_us"] > 0
    step = bench.step(RAGGED)
    tokens = step.eager()
    assert len(tokens) == 5 and all(0 <= token < shape.model.vocab for token in tokens)
    layers = shape.model.layers
    per_layer = sum(shape.calls_per_layer.values()) + (1 if shape.experts is None else 2)
    assert len(step.order) == layers * per_layer + sum(shape.calls_per_step.values())
    for op in shape.calls_per_layer:
        assert sum(call is step.calls[op] for call, _ in step.order) == layers * shape.calls_per_layer[op]


@pytest.mark.parametrize("works", [True, False])
def test_experts_are_the_weighted_sum_of_their_own_answers(tmp_path, monkeypatch, works):
    """Every token's answer is the mean of the MLPs of the experts that it was sent to, by the plain formula."""
    if not works:
        monkeypatch.delattr(torch.nn.functional, "grouped_mm", raising=False)
    bench, shape, _ = small(tmp_path, MOE, 2)
    block = bench.ops.experts
    assert works or block.name.startswith("torch.mm")
    torch.manual_seed(3)
    routing = Routing(shape.experts, 9, 7, "cpu", torch.float32)
    torch.manual_seed(3)
    hidden, out = torch.randn(9, 256), torch.randn(9, 256)
    torch.manual_seed(3)
    block.bind(hidden, out, 7)(1)
    up, down = block.weights[1]
    owner = torch.searchsorted(routing.offsets, torch.arange(27), right=True)
    assert len(owner.unique()) == 7 and all(len(owner[routing.rows == token].unique()) == 3 for token in range(9))
    for token in range(9):
        gated = [(hidden[token] @ up[expert]).chunk(2) for expert in owner[routing.rows == token]]
        answers = [
            torch.nn.functional.silu(gate) * value @ down[expert]
            for (gate, value), expert in zip(gated, owner[routing.rows == token], strict=True)
        ]
        torch.testing.assert_close(out[token], torch.stack(answers).mean(0), atol=1e-4, rtol=1e-3)


def test_a_layer_is_timed_op_by_op_in_one_run_a_round(tmp_path):
    bench, shape, _ = small(tmp_path, LLAMA)
    samplers = {op: bench.prepare("linear.csv", (op, 5)) for op in shape.linear_ops}
    layer = bench._layer[1]
    turn = layer.turn
    first = {op: sampler()["time_us"] for op, sampler in samplers.items()}
    assert layer.turn == turn + layer.count + 3, "one run serves all ops"
    assert all(time > 0 for time in first.values())
    samplers["o_proj"]()
    assert layer.turn == turn + 2 * (layer.count + 3)


def test_weights_rotate_beyond_the_cache(tmp_path):
    bench, shape, _ = small(tmp_path, LLAMA)
    for op, (inputs, outputs) in shape.matrices.items():
        copies = bench.ops.matrices[op]
        assert len(copies) * inputs * outputs * 4 >= bench.cold_bytes
        assert len({weight.data_ptr() for weight in copies}) == len(copies)


def test_samples_are_microseconds_of_one_call():
    def work(_):
        end = time.thread_time() + 0.002
        while time.thread_time() < end:
            pass

    sample = timed(work, torch.device("cpu"))
    assert 2000 <= median(sample() for _ in range(5)) < 2500


def test_time_given_to_other_processes_does_not_count():
    clock = HostClock()
    clock.start()
    time.sleep(0.05)
    assert clock.stop() < 0.02 and (clock.preempted, clock.samples) == (1, 1)


def test_messages_between_processes():
    links = measured_links(2, "gloo", (4096, 65536))
    if not links:
        pytest.skip("torch.distributed does not come up here")
    assert set(links) == {(op, size, 2) for op in ("all_reduce", "p2p") for size in (4096, 65536)}
    assert all(time > 0 for samples in links.values() for time in samples.values())


@pytest.mark.slow
def test_measured_ops_predict_measured_steps(tmp_path):
    """Whole steps within 5 %, on a small model measured here and now; the machine's own noise is allowed on top."""
    larger = dict(num_hidden_layers=4, hidden_size=512, intermediate_size=1408, vocab_size=8000)
    bench, shape, path = small(tmp_path, LLAMA | larger)
    (folder,) = measure(Wish(str(path), "cpu", "1", None, "90s", tmp_path / "out", None), lambda title, progress: None)
    meta = yaml.safe_load((folder / "profile.yaml").read_text())
    assert meta["provenance"]["threads"] == 1 and meta["provenance"]["kernels"]["attention"]
    timer, _ = build_timer(Shard(shape.model, load_gpu("cpu"), "fp32", 1), str(tmp_path / "out"), "profiles")
    checks = check_steps(bench, timer, random_batches(42, seed=3, largest=1000, most=32))
    error = median(abs(check.error) for check in checks)
    noise = median(check.noise for check in checks)
    assert error <= 0.05 + noise, f"median error {error:.1%}, repeat noise {noise:.1%}"
