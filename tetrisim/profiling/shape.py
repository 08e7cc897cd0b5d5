"""What one GPU of a tensor-parallel group computes: op names, sizes and calls. No torch here."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tetrisim.errors import ProfileError, unknown_name
from tetrisim.scenario.model import DTYPE_BYTES, ModelSpec, load_model

MATRICES = ("qkv_proj", "o_proj", "gate_up_proj", "up_proj", "down_proj")
"""The matrix multiplications over tokens; `up_proj` stands for `gate_up_proj` where the MLP is not gated."""


@dataclass(frozen=True, slots=True)
class ShardShape:
    """One shard: sizes in elements, matrices as (inputs, outputs)."""

    model: ModelSpec
    family: str
    dtype: str
    tensor_parallel: int

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
        """The name of the first MLP matrix."""
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
        return {
            "qkv_proj": (hidden, (self.heads + 2 * self.kv_heads) * self.model.head_dim),
            "o_proj": (width, hidden),
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
        """Ops of one layer in the order in which they run first, attention left out."""
        calls = {"layernorm": 2, "qkv_proj": 1}
        if self.family == "qwen3":
            calls["qk_norm"] = 1
        if self.family != "opt":
            calls["rotary_emb"] = 1
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
    spec = load_model(model, "--model")
    if dtype not in DTYPE_BYTES:
        raise unknown_name(ProfileError, "--dtype", dtype, DTYPE_BYTES)
    whole = {"heads": spec.heads, "MLP features": spec.intermediate}
    if spec.kv_heads >= tensor_parallel:
        whole["KV heads"] = spec.kv_heads
    for what, count in whole.items():
        if tensor_parallel < 1 or count % tensor_parallel:
            raise ProfileError("--tp", f"{tensor_parallel} does not divide the {count} {what} of {spec.name}",
                               "a divisor")  # fmt: skip
    return ShardShape(spec, _family(model), dtype, tensor_parallel)


def _family(model: str) -> str:
    """`model_type` of a config that load_model has accepted."""
    catalog = resources.files("tetrisim.scenario") / "catalog" / "models" / f"{model}.json"
    config = json.loads(catalog.read_text() if catalog.is_file() else Path(model).read_text())
    return str(config.get("text_config", config)["model_type"])
