"""How many KV blocks an instance has: what is left of its GPUs after weights, activations and the runtime."""

from dataclasses import dataclass

from tetrisim.errors import ScenarioError
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import GpuSpec
from tetrisim.scenario.model import DTYPE_BYTES, ModelSpec

RUNTIME_BYTES = 0.75 * 2**30
"""CUDA context, NCCL buffers and captured graphs of one GPU: the usual size in vLLM's start-up log, not measured."""


@dataclass(frozen=True, slots=True)
class MemoryBar:
    """What one GPU of an instance holds, in bytes: `usable` is what the four parts share; `kv` is whole blocks."""

    total: float
    usable: float
    weights: float
    activations: float
    runtime: float
    block_bytes: float
    blocks: int

    @property
    def kv(self) -> float:
        """Bytes of the KV blocks."""
        return max(0, self.blocks) * self.block_bytes

    def __str__(self) -> str:
        gib = 2.0**30
        return (
            f"{self.usable / gib:.1f} GiB usable a GPU, {self.weights / gib:.1f} weights + "
            f"{self.activations / gib:.1f} activations + {self.runtime / gib:.1f} runtime"
        )


def memory_bar(pool: PoolSpec, gpu: GpuSpec, model: ModelSpec, dtype: str) -> MemoryBar:
    """How the memory of one GPU is shared out; below one block the model does not fit.

    Activations are those of the largest step: two hidden and two MLP widths a token, and logits of each sequence. At
    fp8 they stay at 16 bits, and so do the embeddings and the LM head, as in published checkpoints.
    """
    size, shards = DTYPE_BYTES[dtype], pool.tensor_parallel
    wide = max(2, size)
    block_bytes = pool.block_tokens * model.kv_bytes_per_token(dtype) / min(shards, model.kv_heads)
    tokens = min(pool.max_num_batched_tokens or pool.chunk_tokens, 16384)
    usable = gpu.memory_bytes * pool.memory_utilization
    if pool.precision is not None and pool.precision.high_bits < 16:
        size = pool.precision.high_bits / 8  # nested planes: the lower width reads a part of the higher one
    weights = (model.matrices * size + model.tables * wide) / shards
    if pool.split_above_tokens is not None and shards > 1:
        # Whole matrices for the steps that split tokens; cut ones beside them unless every step does.
        weights += model.matrices * size * (1 - (not pool.split_above_tokens) / shards)
    wide_mlp = model.up_width * max(1, model.active_experts)
    activations = tokens * wide * (2 * model.hidden + 2 * wide_mlp / shards) + 4 * model.vocab * min(tokens, 256)
    left = usable - weights - activations - RUNTIME_BYTES
    blocks = int(left // block_bytes) if pool.kv_blocks is None else pool.kv_blocks
    return MemoryBar(gpu.memory_bytes, usable, weights, activations, RUNTIME_BYTES, block_bytes, blocks)


def kv_blocks(pool: PoolSpec, gpu: GpuSpec, model: ModelSpec, dtype: str, where: str) -> int:
    """KV blocks of one instance: given by `pool.kv_blocks`, or derived from `memory_utilization`.

    A model that does not fit raises ScenarioError with the sum spelled out.
    """
    bar = memory_bar(pool, gpu, model, dtype)
    if pool.kv_blocks is not None:
        if pool.kv_blocks * bar.block_bytes > gpu.memory_bytes:
            most = int(gpu.memory_bytes // bar.block_bytes)
            raise ScenarioError(f"{where}.kv_blocks", f"{pool.kv_blocks} take more memory than a {gpu.name} has",
                                f"at most {most} of {bar.block_bytes / 2**20:.2f} MiB a GPU")  # fmt: skip
        return pool.kv_blocks
    if bar.blocks < 1:
        what = f"{model.name} does not fit on {pool.tensor_parallel} x {gpu.name}: {bar}"
        raise ScenarioError(where, what, "a larger tensor_parallel or GPU")
    return bar.blocks
