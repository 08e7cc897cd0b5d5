"""Speed-of-light times from a GPU's data sheet, with stated efficiencies. Everything here is labelled estimated."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tetrisim.latency.collective import all_reduce_s, all_to_all_s
from tetrisim.scenario.gpu import GpuSpec
from tetrisim.scenario.model import DTYPE_BYTES, ModelSpec

MATMUL_EFFICIENCY = 0.70
"""Share of the dense peak that a large GEMM sustains; public cuBLAS figures lie between 0.6 and 0.8."""
ATTENTION_EFFICIENCY = 0.50
"""Share of the dense peak of fused prefill attention; FlashAttention reports 0.35 to 0.75 by GPU and length."""
MEMORY_EFFICIENCY = 0.80
"""Share of the HBM bandwidth that a streaming kernel sustains."""
KERNEL_S = 2e-6
"""Floor of one kernel inside a CUDA graph."""
KERNELS_PER_LAYER = 9
"""Four GEMMs, attention, two norms, activation and rotary (or the like)."""
EXPERT_KERNELS = 4
"""What a mixture of experts adds to those of a dense layer: router, choice, sorting, and adding up."""
HOST_STEP_S = 2e-4
HOST_SEQUENCE_S = 2e-6
"""Time between steps that the engine's own code takes, and its growth with the batch. Not measured: with vLLM V1's
asynchronous scheduling most of it overlaps the GPU, with V0 it was several times larger."""


Matmul = Callable[["Shard", np.ndarray, float, float], np.ndarray]
"""Shard, rows, inputs and outputs of one matrix -> seconds, one entry a number of rows."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A model cut over `tensor_parallel` GPUs, as one of them sees it."""

    model: ModelSpec
    gpu: GpuSpec
    dtype: str
    tensor_parallel: int

    @property
    def activation_bytes(self) -> int:
        """Bytes an activation: at fp8 it stays at 16 bits between the matrices."""
        return max(2, DTYPE_BYTES[self.dtype])

    @property
    def activation_peak(self) -> float:
        """Dense FLOP/s of what stays at 16 bits (attention, the LM head); at fp32 half of the 16-bit rate (TF32)."""
        return self.gpu.flops_per_s * 2 / self.activation_bytes

    @property
    def quantises(self) -> bool:
        """Whether matrices multiply in fp8; a GPU that cannot reads fp8 weights and multiplies in 16 bits."""
        return self.dtype == "fp8" and self.gpu.fp8

    @property
    def peak(self) -> float:
        """Dense FLOP/s of a layer's matrices: twice the 16-bit rate where they multiply in fp8."""
        return self.activation_peak * (2 if self.quantises else 1)

    @property
    def qkv_width(self) -> float:
        """Output features of this GPU's query, key and value projection; a KV head is never cut."""
        cut = self.tensor_parallel
        return (self.model.heads / cut + 2 * max(1.0, self.model.kv_heads / cut)) * self.model.head_dim


def matmul_s(shard: Shard, rows: np.ndarray, inputs: float, outputs: float) -> np.ndarray:
    """Seconds of `rows` rows through one dense matrix: bound by compute, or by reading and writing."""
    return grouped_s(shard, rows, 1, inputs, outputs)


def grouped_s(shard: Shard, rows: np.ndarray, matrices: np.ndarray | int, inputs: float, outputs: float) -> np.ndarray:
    """The same where `rows` are spread over `matrices` alike; in fp8 a kernel quantises the rows first."""
    weight, wide = DTYPE_BYTES[shard.dtype], shard.activation_bytes
    bandwidth = shard.gpu.memory_bytes_per_s * MEMORY_EFFICIENCY
    read = weight if shard.quantises else wide
    compute = 2 * rows * inputs * outputs / (shard.peak * MATMUL_EFFICIENCY)
    moved = weight * matrices * inputs * outputs + rows * (read * inputs + wide * outputs)
    seconds = np.maximum(compute, moved / bandwidth)
    return seconds + (KERNEL_S + rows * inputs * (wide + read) / bandwidth if shard.quantises else 0.0)


def unquantised(shard: Shard) -> Shard:
    """The shard of those matrices that fp8 checkpoints leave at 16 bits: the LM head and routers."""
    return replace(shard, dtype="bf16") if shard.dtype == "fp8" else shard


def linear_s(shard: Shard, tokens: np.ndarray, matmul: Matmul = matmul_s) -> np.ndarray:
    """Seconds of all matrices and element-wise ops of one step over `tokens` tokens, embedding included."""
    model, size = shard.model, shard.activation_bytes
    bandwidth = shard.gpu.memory_bytes_per_s * MEMORY_EFFICIENCY
    cut = shard.tensor_parallel
    shapes = [(model.hidden, shard.qkv_width), (model.heads * model.head_dim / cut, model.hidden)]
    # Two norms read and write the hidden state and its residual; the activation and rotary read what they change.
    elements = 8 * model.hidden + 2 * (model.up_width / cut + shard.qkv_width)
    if model.experts:
        layer = sum(matmul(shard, tokens, inputs, outputs) for inputs, outputs in shapes) + experts_s(shard, tokens)
        elements -= 2 * model.up_width / cut
    else:
        shapes += [(model.hidden, model.up_width / cut), (model.intermediate / cut, model.hidden)]
        layer = sum(matmul(shard, tokens, inputs, outputs) for inputs, outputs in shapes)
    layer = layer + elements * size * tokens / bandwidth + KERNELS_PER_LAYER * KERNEL_S
    return model.layers * layer + 2 * model.hidden * size * tokens / bandwidth


def reached(model: ModelSpec, tokens: np.ndarray) -> np.ndarray:
    """Experts of a layer that get any of `tokens` tokens which choose evenly at random, in the mean."""
    return model.experts * (1 - (1 - model.active_experts / model.experts) ** tokens)


def experts_s(shard: Shard, tokens: np.ndarray) -> np.ndarray:
    """Seconds of one layer's router and routed experts, as grouped matrix multiplications.

    Tokens choose evenly at random: the weights of the experts that any of them reaches are read once, so a few tokens
    already cost nearly all of the weights.
    """
    model, cut, size = shard.model, shard.tensor_parallel, shard.activation_bytes
    bandwidth = shard.gpu.memory_bytes_per_s * MEMORY_EFFICIENCY
    rows, used = tokens * model.active_experts, reached(model, tokens)
    seconds = matmul_s(unquantised(shard), tokens, model.hidden, model.experts)
    for inputs, outputs in ((model.hidden, model.up_width / cut), (model.intermediate / cut, model.hidden)):
        seconds = seconds + grouped_s(shard, rows, used, inputs, outputs)
    # Rows are copied to their experts' order and back, and the activation reads what it changes.
    elements = 4 * model.hidden + 2 * model.up_width / cut
    return seconds + elements * size * rows / bandwidth + EXPERT_KERNELS * KERNEL_S


def mlp_s(shard: Shard, tokens: np.ndarray) -> np.ndarray:
    """Seconds of the MLPs of all layers: a part of `linear_s`."""
    model, cut = shard.model, shard.tensor_parallel
    if model.experts:
        return model.layers * experts_s(shard, tokens)
    shapes = ((model.hidden, model.up_width / cut), (model.intermediate / cut, model.hidden))
    up, down = (matmul_s(shard, tokens, inputs, outputs) for inputs, outputs in shapes)
    return model.layers * (up + down)


def head_s(shard: Shard, sequences: np.ndarray) -> np.ndarray:
    """Seconds of the LM head and sampling over `sequences` sequences."""
    vocab = shard.model.vocab / shard.tensor_parallel
    sampling = 3 * 4 * vocab * sequences / (shard.gpu.memory_bytes_per_s * MEMORY_EFFICIENCY)
    return matmul_s(unquantised(shard), sequences, shard.model.hidden, vocab) + sampling + 4 * KERNEL_S


def host_s(sequences: np.ndarray) -> np.ndarray:
    """Seconds between steps, for engines whose host overhead was not measured."""
    return HOST_STEP_S + HOST_SEQUENCE_S * sequences


def collectives_s(shard: Shard, tokens: np.ndarray) -> np.ndarray:
    """Seconds of the two all-reduces of every layer; zero on one GPU."""
    if shard.tensor_parallel == 1:
        return np.zeros(len(tokens))
    size = shard.model.hidden * shard.activation_bytes
    times = [all_reduce_s(float(count) * size, shard.tensor_parallel, shard.gpu.link_bytes_per_s) for count in tokens]
    return 2 * shard.model.layers * np.array(times)


def all_to_alls_s(shard: Shard, tokens: np.ndarray) -> np.ndarray:
    """Seconds of every layer's two all-to-alls when `tokens` are split over the shard's GPUs (Ulysses).

    One brings queries, keys and values of all tokens to the GPU of their heads, the other the outputs back; key and
    value heads fewer than GPUs are sent to each that needs them (arXiv 2509.16495, section 3).
    """
    model, gpus = shard.model, shard.tensor_parallel
    size = shard.activation_bytes * model.head_dim
    heads = (model.heads + 2 * max(model.kv_heads, gpus), model.heads)
    link = shard.gpu.link_bytes_per_s
    times = [sum(all_to_all_s(float(rows) * size * each, gpus, link) for each in heads) for rows in tokens / gpus]
    return model.layers * np.array(times)
