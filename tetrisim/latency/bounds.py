"""The least time that physics allows a row of a table: bytes over the memory's bandwidth, or FLOPs over the peak."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tetrisim.errors import ProfileError
from tetrisim.latency.roofline import Shard
from tetrisim.latency.table import Profile, Row
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import DTYPE_BYTES, ModelSpec, load_model, model_names


class Bound(NamedTuple):
    """The work of one call and the least seconds that it takes."""

    seconds: float
    compute: float
    """Seconds of arithmetic alone."""
    bytes: float
    flops: float
    what: str


Work = Callable[[str, Row], Bound | None]
"""A function of file and key; None where the op is not one whose work is known."""


class Matmul(NamedTuple):
    """One shard's matrix."""

    inputs: float
    outputs: float


@dataclass(frozen=True, slots=True)
class Experts:
    """The routed experts of every layer of a mixture of experts, before any cut."""

    count: int
    active: int
    """Experts a token."""
    intermediate: int
    """Features between an expert's matrices."""

    def reached(self, tokens: int) -> int:
        """Experts that get any of `tokens` tokens which choose evenly at random."""
        return max(self.active, round(self.count * (1 - (1 - self.active / self.count) ** tokens)))

    def bound(self, shard: Shard, tokens: int, active_experts: int) -> tuple[float, float]:
        """FLOPs of all routed tokens, and bytes of the experts' weights and of tokens in and out, on one GPU."""
        size = DTYPE_BYTES[shard.dtype]
        weights = 3 * shard.model.hidden * self.intermediate / shard.tensor_parallel
        moved = size * active_experts * weights + 2 * max(2, size) * tokens * shard.model.hidden
        return 2 * tokens * self.active * weights, moved


def matmuls(model: ModelSpec, cut: int) -> dict[str, Matmul]:
    """Op -> its matrix on one of `cut` GPUs, under every name that importers and the harness use."""
    up, down = Matmul(model.hidden, model.up_width / cut), Matmul(model.intermediate / cut, model.hidden)
    return {
        "qkv_proj": Matmul(model.hidden, qkv_width(model, cut)),
        "o_proj": Matmul(model.heads * model.head_dim / cut, model.hidden),
        "gate_up_proj": up, "up_proj": up, "fc1": up,
        "down_proj": down, "fc2": down,
        "lm_head": Matmul(model.hidden, -(-model.vocab // cut)),
    }  # fmt: skip


def qkv_width(model: ModelSpec, cut: int) -> int:
    """Output features of one shard's query, key and value projection; a KV head is never cut."""
    return (model.heads // cut + 2 * max(1, model.kv_heads // cut)) * model.head_dim


def elementwise(model: ModelSpec, cut: int) -> dict[str, float]:
    """Op -> elements that it reads and writes a token on one of `cut` GPUs, at least."""
    qk = (model.heads // cut + max(1, model.kv_heads // cut)) * model.head_dim
    return {
        "layernorm": 2 * model.hidden, "final_layernorm": 2 * model.hidden, "rotary_emb": 2 * qk,
        "act_fn": (model.up_width + model.intermediate) / cut, "embedding": 2 * model.hidden,
    }  # fmt: skip


def shape_of(profile: Profile) -> Shard:
    """The shard that a profile is of: its model from the catalog, or from `shape` in profile.yaml."""
    where = str(profile.folder / "profile.yaml")
    gpu = load_gpu(profile.gpu, where)
    if profile.dtype not in DTYPE_BYTES:
        raise ProfileError(where, f"dtype is '{profile.dtype}'", "one of " + ", ".join(DTYPE_BYTES))
    if profile.model in model_names():
        model = load_model(profile.model)
    else:
        shape: Any = profile.meta.get("shape")
        try:
            model = ModelSpec(**shape)
        except TypeError:
            raise ProfileError(
                where, f"model '{profile.model}' is not in the catalog", "its sizes under 'shape'"
            ) from None
    return Shard(model, gpu, profile.dtype, profile.tensor_parallel)


def experts_of(profile: Profile) -> Experts | None:
    """The experts that `experts` in profile.yaml describes."""
    sizes: Any = profile.meta.get("experts")
    try:
        return None if sizes is None else Experts(**sizes)
    except TypeError:
        raise ProfileError(str(profile.folder / "profile.yaml"), f"experts is {sizes!r}",
                           "count, active and intermediate") from None  # fmt: skip


def bounds(shard: Shard, experts: Experts | None = None) -> Work:
    """The bound of every row of one shard.

    Weights and KV cache have the width of the dtype, activations at least 16 bits.
    """
    model, cut, size = shard.model, shard.tensor_parallel, DTYPE_BYTES[shard.dtype]
    wide = shard.activation_bytes
    matrices, elements = matmuls(model, cut), elementwise(model, cut)
    elements["qk_norm"] = elements["rotary_emb"]
    heads, kv_heads = model.heads / cut, max(1.0, model.kv_heads / cut)

    def least(flops: float, moved: float, peak: float) -> Bound:
        compute, memory = flops / peak, moved / shard.gpu.memory_bytes_per_s
        return Bound(max(compute, memory), compute, moved, flops, "peak FLOP rate" if compute > memory else "memory")

    def attention(chunk: int, cached: int, n: int, context: int) -> Bound:
        pairs = chunk * (cached + chunk / 2) + n * (context + 1)
        kv = (cached + chunk * (chunk > 0)) + n * (context + 1)
        moved = 2 * kv_heads * model.head_dim * size * kv + 2 * heads * model.head_dim * wide * (chunk + n)
        return least(4 * heads * model.head_dim * pairs, moved, shard.activation_peak)

    def all_reduce(op: str, moved: int, gpus: int) -> Bound | None:
        seconds = 2 * (gpus - 1) / gpus * moved / (2 * shard.gpu.link_bytes_per_s)  # both ways at once
        return Bound(seconds, seconds, moved, 0.0, "link") if op == "all_reduce" else None

    def linear(op: str, rows: int) -> Bound | None:
        if op == "whole_step":
            weights = model.layers * model.layer_parameters / cut
            return least(2 * rows * weights, size * weights, shard.peak)
        if op in matrices:
            inputs, outputs = matrices[op]
            weight, peak = (wide, shard.activation_peak) if op == "lm_head" else (size, shard.peak)
            moved = weight * inputs * outputs + wide * rows * (inputs + outputs)
            return least(2 * rows * inputs * outputs, moved, peak)
        if op in elements:
            return least(0.0, wide * elements[op] * rows, shard.activation_peak)
        return None

    def routed(tokens: int, active_experts: int) -> Bound | None:
        if experts is None:
            return None
        return least(*experts.bound(shard, tokens, active_experts), shard.peak)

    known: dict[str, Callable[..., Bound | None]] = {
        "moe.csv": routed,
        "attention.csv": attention, "collective.csv": all_reduce, "linear.csv": linear, "head.csv": linear,
    }  # fmt: skip
    return lambda name, key: known[name](*key) if name in known else None
