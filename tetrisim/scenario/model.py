"""The shape of a transformer, read from a Hugging Face `config.json`."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from tetrisim.errors import ScenarioError, unknown_name

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
_EXPERTS = {
    "mixtral": ("num_local_experts", "intermediate_size"),
    "qwen3_moe": ("num_experts", "moe_intermediate_size"),
}
"""Family with a mixture of experts in every layer -> the keys of the experts' number and of the features of one."""
_FAMILIES = ("llama", "opt", "qwen2", "qwen3", "mistral", *_EXPERTS)


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder: sizes in elements, one layer repeated `layers` times.

    With `experts` a router sends each token to `active_experts` of them in place of one MLP; `intermediate` is that of
    one expert.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    max_positions: int
    gated_mlp: bool
    tied_embeddings: bool
    qk_norm: bool = False
    """Whether queries and keys are normalised head by head."""
    experts: int = 0
    active_experts: int = 0

    @property
    def qkv_width(self) -> int:
        """Output features of the fused query, key and value projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def up_width(self) -> int:
        """Output features of the first projection of the MLP or an expert (gate and up together when gated)."""
        return self.intermediate * (2 if self.gated_mlp else 1)

    @property
    def layer_parameters(self) -> int:
        """Weights of the matrices of one layer, all experts and their router included."""
        attention = self.hidden * self.qkv_width + self.heads * self.head_dim * self.hidden
        mlp = self.hidden * self.up_width + self.intermediate * self.hidden
        return attention + (self.experts * (mlp + self.hidden) if self.experts else mlp)

    @property
    def parameters(self) -> int:
        """Weights of all matrices, embeddings included; norms and biases are left out."""
        return self.matrices + self.tables

    @property
    def matrices(self) -> int:
        """Weights of the layers."""
        return self.layers * self.layer_parameters

    @property
    def tables(self) -> int:
        """Weights of the embeddings and the LM head, which may be one table."""
        return (1 if self.tied_embeddings else 2) * self.vocab * self.hidden

    def kv_bytes_per_token(self, dtype: str) -> int:
        """Keys and values of one token over all layers and all tensor-parallel shards."""
        return 2 * self.layers * self.kv_heads * self.head_dim * DTYPE_BYTES[dtype]


def from_config(config: dict[str, Any], name: str, where: str) -> ModelSpec:
    """The shape in a parsed `config.json`; a family or key that is not understood raises ScenarioError."""
    config = config.get("text_config", config)
    family = config.get("model_type")
    if family not in _FAMILIES:
        raise ScenarioError(where, f"model_type '{family}' is not supported", "one of " + ", ".join(_FAMILIES))
    opt = family == "opt"

    def size(key: str, default: object = None) -> int:
        if key not in config and default is None:
            raise ScenarioError(where, f"key '{key}' is missing", "a Hugging Face config.json")
        value = config.get(key) or default
        if type(value) is not int or value < 1:
            raise ScenarioError(where, f"key '{key}' is {value!r}", "a whole number of at least 1")
        return value

    if config.get("mlp_only_layers") or config.get("decoder_sparse_step", 1) != 1:
        raise ScenarioError(where, "has dense layers between those with experts", "the same MLP in all layers")
    count, features = _EXPERTS.get(family, ("", "ffn_dim" if opt else "intermediate_size"))
    experts, active = (size(count), size("num_experts_per_tok")) if count else (0, 0)
    if active > experts:
        raise ScenarioError(where, f"num_experts_per_tok {active} of {experts} experts", f"at most {experts}")
    hidden, heads = size("hidden_size"), size("num_attention_heads")
    kv_heads = size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ScenarioError(where, f"num_key_value_heads {kv_heads} does not divide the {heads} heads", "a divisor")
    return ModelSpec(
        name=name,
        layers=size("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size("head_dim", hidden // heads),
        intermediate=size(features),
        vocab=size("vocab_size"),
        max_positions=size("max_position_embeddings"),
        gated_mlp=not opt,
        tied_embeddings=bool(config.get("tie_word_embeddings", opt)),
        qk_norm=family in ("qwen3", "qwen3_moe"),
        experts=experts,
        active_experts=active,
    )


@cache
def model_names() -> tuple[str, ...]:
    """The catalog."""
    folder = resources.files("tetrisim.scenario") / "catalog" / "models"
    return tuple(sorted(entry.name.removesuffix(".json") for entry in folder.iterdir()))


def load_model(ref: str, where: str = "model") -> ModelSpec:
    """A catalog name, or the path of a `config.json`."""
    if ref in model_names():
        text = (resources.files("tetrisim.scenario") / "catalog" / "models" / f"{ref}.json").read_text()
        return from_config(json.loads(text), ref, where)
    path = Path(ref)
    if path.suffix != ".json":
        raise unknown_name(ScenarioError, where, ref, [*model_names(), "path/to/config.json"])
    try:
        config = json.loads(path.read_text())
    except OSError as error:
        raise ScenarioError(where, f"cannot read {ref}: {error.strerror}", "a config.json") from None
    except ValueError as error:
        raise ScenarioError(where, f"{ref} is not JSON: {error}", "a Hugging Face config.json") from None
    if not isinstance(config, dict):
        raise ScenarioError(where, f"{ref} holds no object", "a Hugging Face config.json")
    return from_config(config, path.parent.name or path.stem, f"{where} ({ref})")
