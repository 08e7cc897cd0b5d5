"""What one GPU of a tensor-parallel group computes: op names, sizes and calls. No torch here."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from tetrisim.errors import ProfileError, unknown_name
from tetrisim.latency.bounds import Experts
from tetrisim.scenario.model import DTYPE_BYTES, ModelSpec, from_config, load_model

MOE_FAMILIES = {
    "mixtral": ("mistral", "num_local_experts", "intermediate_size"),
    "qwen3_moe": ("qwen3", "num_experts", "moe_intermediate_size"),
}
"""model_type -> the dense family that all but the MLP is like, and the keys of the experts' count and features."""


@dataclass(frozen=True, slots=True)
class ShardShape:
    """One shard: sizes in elements, matrices as (inputs, outputs)."""

    model: ModelSpec
    family: str
    dtype: str
    tensor_parallel: int
    experts: Experts | None = None
    """In place of the dense MLP, whose `intermediate` is then that of one expert."""

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.model.heads // self.tensor_parallel

    @property
    def kv_heads(self) -> int:
        """Key and value heads: a copy on each GPU where there are fewer of them than GPUs."""
        return max(1, self.model.kv_heads // self.tensor_parallel)

    @property
    def up(self) -> str:
        """The name of the first MLP matrix: two in one where the MLP is gated."""
        return "gate_up_proj" if self.model.gated_mlp else "up_proj"

    @property
    def intermediate(self) -> int:
        """Features between the MLP's matrices."""
        return self.model.intermediate // self.tensor_parallel

    @property
    def vocab(self) -> int:
        """Vocabulary rows of this shard's embedding and LM head."""
        return -(-self.model.vocab // self.tensor_parallel)

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Op -> (input features, output features)."""
        hidden, width = self.model.hidden, self.heads * self.model.head_dim
        attention = {
            "qkv_proj": (hidden, (self.heads + 2 * self.kv_heads) * self.model.head_dim),
            "o_proj": (width, hidden),
        }
        if self.experts is not None:
            return attention
        return attention | {
            self.up: (hidden, self.intermediate * (2 if self.model.gated_mlp else 1)),
            "down_proj": (self.intermediate, hidden),
        }

    @property
    def biased(self) -> frozenset[str]:
        """Matrices with a bias."""
        opt = ("qkv_proj", "o_proj", "up_proj", "down_proj")
        return frozenset({"opt": opt, "qwen2": ("qkv_proj",)}.get(self.family, ()))

    @property
    def calls_per_layer(self) -> dict[str, int]:
        """Ops of one layer in the order in which they run first, attention and routed experts left out."""
        calls = {"layernorm": 2, "qkv_proj": 1}
        if self.family == "qwen3":
            calls["qk_norm"] = 1
        if self.family != "opt":
            calls["rotary_emb"] = 1
        if self.experts is not None:
            return calls | {"o_proj": 1, "router": 1}
        return calls | {"o_proj": 1, self.up: 1, "act_fn": 1, "down_proj": 1}

    @property
    def calls_per_step(self) -> dict[str, int]:
        """Ops of one step outside of the layers."""
        return {"embedding": 1, "final_layernorm": 1, "lm_head": 1, "sampler": 1}

    @property
    def linear_ops(self) -> tuple[str, ...]:
        """Rows of linear.csv: ops whose time depends on the step's tokens."""
        return (*self.calls_per_layer, "embedding", "final_layernorm")

    @property
    def kv_token_bytes(self) -> int:
        """Keys and values of one token in one layer of this shard; fp8 weights keep a 16-bit cache."""
        return 2 * self.kv_heads * self.model.head_dim * max(2, DTYPE_BYTES[self.dtype])

    @property
    def weight_bytes(self) -> int:
        """All layers and the LM head of this shard."""
        layer = sum(inputs * outputs for inputs, outputs in self.matrices.values())
        if self.experts is not None:
            layer += 3 * self.experts.count * self.model.hidden * self.intermediate
        return (self.model.layers * layer + self.vocab * self.model.hidden) * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What one step runs: prefill pieces as (chunk, cached) tokens, and the cached tokens of every decode."""

    pieces: tuple[tuple[int, int], ...] = ()
    contexts: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """New tokens."""
        return sum(chunk for chunk, _ in self.pieces) + len(self.contexts)

    @property
    def sequences(self) -> int:
        """Sequences that get a next token."""
        return len(self.pieces) + len(self.contexts)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(new, cached) tokens of every sequence, pieces first."""
        return (*self.pieces, *((1, context) for context in self.contexts))


def shard_shape(model: str, dtype: str, tensor_parallel: int) -> ShardShape:
    """The shard of a catalog model or `config.json`; one that cannot be cut so raises ProfileError."""
    spec, family, experts = _model(model)
    if experts is not None and dtype == "fp8":
        raise ProfileError("--dtype", "fp8 has no grouped matrix multiplication here", "bf16 or fp16 for experts")
    if dtype not in DTYPE_BYTES:
        raise unknown_name(ProfileError, "--dtype", dtype, DTYPE_BYTES)
    whole = {"heads": spec.heads, "MLP features": spec.intermediate}
    if spec.kv_heads >= tensor_parallel:
        whole["KV heads"] = spec.kv_heads
    for what, count in whole.items():
        if tensor_parallel < 1 or count % tensor_parallel:
            raise ProfileError("--tp", f"{tensor_parallel} does not divide the {count} {what} of {spec.name}",
                               "a divisor")  # fmt: skip
    return ShardShape(spec, family, dtype, tensor_parallel, experts)


def _model(model: str) -> tuple[ModelSpec, str, Experts | None]:
    """Sizes, dense family and experts of a catalog model or `config.json`."""
    path = Path(model)
    catalog = resources.files("tetrisim.scenario") / "catalog" / "models" / f"{model}.json"
    known = catalog.is_file()
    try:
        source = catalog if known else path if path.suffix == ".json" else None
        config: Any = {} if source is None else json.loads(source.read_text())
    except (OSError, ValueError):
        config = {}  # load_model says what is wrong
    if not isinstance(config, dict) or config.get("model_type") not in MOE_FAMILIES:
        return load_model(model, "--model"), _family(model), None
    config = cast("dict[str, Any]", config)
    family, count, features = MOE_FAMILIES[config["model_type"]]
    sizes: list[Any] = [config.get(key) for key in (count, "num_experts_per_tok", features)]
    if not all(type(size) is int and size > 0 for size in sizes) or sizes[1] > sizes[0]:
        raise ProfileError(model, f"{count}, num_experts_per_tok, {features} are {sizes}",
                           "whole numbers above 0, and no more a token than there are")  # fmt: skip
    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        raise ProfileError(model, "has dense layers between those with experts", "the same MLP in all layers")
    dense = {**config, "model_type": family, "intermediate_size": sizes[2]}
    name = model if known else path.parent.name or path.stem
    return from_config(dense, name, model), family, Experts(*sizes)


def _family(model: str) -> str:
    """`model_type` of a config that load_model has accepted."""
    catalog = resources.files("tetrisim.scenario") / "catalog" / "models" / f"{model}.json"
    config = json.loads(catalog.read_text() if catalog.is_file() else Path(model).read_text())
    return str(config.get("text_config", config)["model_type"])
