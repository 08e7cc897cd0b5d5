"""What runs on a GPU: attention's arguments and every row's shapes need none; where there is one, all of it."""

import json
from contextlib import nullcontext
from itertools import pairwise
from statistics import median
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="needs torch, which CI does not install (pip install 'tetrisim[profile]')")

import torch

from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import Shard
from tetrisim.profiling.attention import (
    PROBE,
    FlashAttention,
    GatherAttention,
    KvPool,
    choose_kernel,
    flash_is_right,
    plain_attention,
)
from tetrisim.profiling.bench import TorchBench, open_device
from tetrisim.profiling.devices import catalog_name
from tetrisim.profiling.measure import Wish, measure
from tetrisim.profiling.ops import ShardOps
from tetrisim.profiling.plan import build_plan
from tetrisim.profiling.shape import BatchShape, shard_shape
from tetrisim.profiling.timer import device_facts
from tetrisim.profiling.validate import check_steps, random_batches
from tetrisim.scenario.gpu import load_gpu

LLAMA = dict(model_type="llama", num_hidden_layers=8, hidden_size=1024, num_attention_heads=8, num_key_value_heads=2,
             intermediate_size=2816, vocab_size=8000, max_position_embeddings=4096)  # fmt: skip


def flash(q, keys, values, q_starts, k_starts, longest_q, longest_k, dropout, causal, debug, **options):  # noqa: PLR0913
    """FlashAttention as its documentation has it: the causal mask ends at the lower right."""
    out, lengths, table = torch.zeros_like(q), options.get("seqused_k"), options.get("block_table")
    assert dropout == 0.0 and not debug and q_starts.dtype == k_starts.dtype == torch.int32
    for at, (low, high) in enumerate(pairwise(q_starts)):
        if table is None:
            k, v = (part[k_starts[at] : k_starts[at + 1]] for part in (keys, values))
        else:
            assert table.dtype == lengths.dtype == torch.int32 and keys.shape[1] > 1
            k, v = (part[table[at].long()].flatten(0, 1)[: lengths[at]] for part in (keys, values))
        new, all_ = high - low, len(k)
        assert new <= longest_q and all_ <= longest_k and (causal or new == 1)
        k, v = (part.repeat_interleave(q.shape[1] // keys.shape[-2], dim=1) for part in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[low:high], k) * q.shape[-1] ** -0.5
        if causal:
            scores.masked_fill_(torch.ones(new, all_).tril_(all_ - new) == 0, float("-inf"))
        out[low:high] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    return (out,)


@pytest.mark.parametrize("page", [256, 16, 1])
@pytest.mark.parametrize("batch", [PROBE, BatchShape(((17, 100),)), BatchShape((), (9, 40, 3))])
def test_flash_attention_is_told_where_each_sequence_lies(monkeypatch, page, batch):
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash)
    shape = shard_shape("llama-100m", "fp32", 1)
    pool = KvPool(shape, 8192, page, torch.device("cpu"), torch.float32)
    qkv = torch.randn(batch.tokens, (shape.heads + 2 * shape.kv_heads) * shape.model.head_dim)
    call = FlashAttention(batch, pool, qkv, torch.zeros(batch.tokens, shape.heads * shape.model.head_dim))
    call.fill()
    call(0)
    found = torch.cat(call.attend(*call.regions[0]))
    torch.testing.assert_close(found, plain_attention(batch, call), atol=2e-5, rtol=2e-4)


def test_a_kernel_that_is_wrong_or_not_there_is_not_used(monkeypatch):
    shape, cpu = shard_shape("llama-100m", "fp32", 1), torch.device("cpu")

    def only_256_is_right(q, keys, *rest, **options):
        if keys.shape[1] == 16:
            raise RuntimeError("page size must be a multiple of 256")
        scale = 1.0 if "block_table" in options else 1.5
        return (flash(q, keys, *rest, **options)[0] * scale,)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", only_256_is_right)
    assert [flash_is_right(shape, page, cpu, torch.float32) for page in (16, 256, 1)] == [False, True, False]
    assert choose_kernel(shape, cpu, torch.float32) == (GatherAttention, 16)


@pytest.fixture
def pretended_gpu(monkeypatch):
    """Tensors that know their shape, type and device, and no values; clocks and graphs that do nothing."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None, elapsed_time=lambda end: 1.0)
    graph = SimpleNamespace(capture_begin=lambda: None, capture_end=lambda: None, replay=lambda: None)
    cuda = dict(
        Event=lambda enable_timing: event, CUDAGraph=lambda: graph, stream=lambda stream: nullcontext(),
        Stream=lambda: event, synchronize=lambda: None, mem_get_info=lambda: (70 << 30, 80 << 30),
        device_count=lambda: 1, get_device_name=lambda device=None: "NVIDIA H100 80GB HBM3",
        get_device_properties=lambda device: SimpleNamespace(L2_cache_size=50 << 20, uuid=""),
    )  # fmt: skip
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "allclose", lambda *tensors, **tolerances: True)
    monkeypatch.setattr(torch, "bincount", lambda slots, minlength: torch.zeros(minlength, dtype=torch.long))
    monkeypatch.setattr(FakeTensor, "tolist", lambda tensor: [0] * len(tensor))
    monkeypatch.setattr(ShardOps, "_fuse", lambda ops: {})
    torch.set_grad_enabled(False)
    with FakeTensorMode():
        yield torch.device("cuda")


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a torch that is built for CUDA")
@pytest.mark.parametrize(
    "model, dtype, cut",
    [("llama-3.1-8b", "fp8", 2), ("qwen3-32b", "bf16", 2), ("opt-125m", "fp16", 1), ("mixtral-8x7b", "bf16", 2)],
)  # fmt: skip
def test_every_row_of_the_plan_fits_together_on_a_gpu(pretended_gpu, model, dtype, cut):
    """Shapes, types and devices of every call, as torch's own checks have them; no GPU is needed, nor values."""
    bench = TorchBench(shard_shape(model, dtype, cut), pretended_gpu)
    plan = build_plan(bench.shape, bench.limits)
    files = {file for unit in plan for file, _ in unit.tasks}
    assert {"linear.csv", "head.csv", "attention.csv", "skew.csv", "host.csv"} <= files
    for unit in plan:
        for task in {unit.tasks[0], unit.tasks[-1]}:
            assert bench.prepare(*task)()["time_us"] is not None


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_measured_ops_predict_measured_steps_on_a_gpu(tmp_path):
    """The number of the CPU's test, on the GPU that is here: whole steps as CUDA graphs."""
    path = tmp_path / "llama" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(LLAMA))
    device = open_device("cuda", "fp16")
    name = catalog_name("cuda", device_facts(device, 1)["device"], None)
    (folder,) = measure(
        Wish(str(path), "cuda", "1", "fp16", "3m", tmp_path / "out", None), lambda title, progress: None
    )
    assert folder.parts[-4:] == (name, "llama", "fp16", "tp1")
    shape = shard_shape(str(path), "fp16", 1)
    timer, _ = build_timer(Shard(shape.model, load_gpu(name), "fp16", 1), str(tmp_path / "out"), "profiles")
    checks = check_steps(TorchBench(shape, device), timer, random_batches(42, seed=3, largest=1000, most=32))
    error, noise = (median(values) for values in zip(*((abs(c.error), c.noise) for c in checks), strict=True))
    assert error <= 0.05 + noise, f"median error {error:.1%}, repeat noise {noise:.1%}"
