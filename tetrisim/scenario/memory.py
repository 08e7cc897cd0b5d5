"""How many KV blocks an instance has: what is left of its GPUs after weights, activations and the runtime."""

from tetrisim.errors import ScenarioError
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import GpuSpec
from tetrisim.scenario.model import DTYPE_BYTES, ModelSpec

RUNTIME_BYTES = 0.75 * 2**30
"""CUDA context, NCCL buffers and captured graphs of one GPU: the usual size in vLLM's start-up log, not measured."""


def kv_blocks(pool: PoolSpec, gpu: GpuSpec, model: ModelSpec, dtype: str, where: str) -> int:
    """KV blocks of one instance: given by `pool.kv_blocks`, or derived from `memory_utilization`.

    Activations are those of the largest step: two hidden and two MLP widths a token, and logits of each sequence. At
    fp8 they stay at 16 bits, and so do the embeddings and the LM head, as in published checkpoints. A model that does
    not fit raises ScenarioError with the sum spelled out.
    """
    size, shards = DTYPE_BYTES[dtype], pool.tensor_parallel
    wide = max(2, size)
    block_bytes = pool.block_tokens * model.kv_bytes_per_token(dtype) / min(shards, model.kv_heads)
    if pool.kv_blocks is not None:
        if pool.kv_blocks * block_bytes > gpu.memory_bytes:
            most = int(gpu.memory_bytes // block_bytes)
            raise ScenarioError(f"{where}.kv_blocks", f"{pool.kv_blocks} take more memory than a {gpu.name} has",
                                f"at most {most} of {block_bytes / 2**20:.2f} MiB a GPU")  # fmt: skip
        return pool.kv_blocks
    tokens = min(pool.max_num_batched_tokens or pool.chunk_tokens, 16384)
    usable = gpu.memory_bytes * pool.memory_utilization
    weights = (model.matrices * size + model.tables * wide) / shards
    activations = tokens * wide * (2 * model.hidden + 2 * model.up_width / shards) + 4 * model.vocab * min(tokens, 256)
    left = usable - weights - activations - RUNTIME_BYTES
    blocks = int(left // block_bytes)
    if blocks < 1:
        gib = 2.0**30
        raise ScenarioError(
            where,
            f"{model.name} does not fit on {shards} x {gpu.name}: {usable / gib:.1f} GiB usable a GPU, "
            f"{weights / gib:.1f} weights + {activations / gib:.1f} activations + {RUNTIME_BYTES / gib:.1f} runtime",
            "a larger tensor_parallel or GPU",
        )
    return blocks
