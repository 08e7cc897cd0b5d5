"""The ops of one shard, each bound to buffers and called over rotating copies of its weights.

Activations stay where they are from call to call, as in a real step, where the op before has just written them. Weights
rotate over copies that together exceed the cache, as the other layers' weights do in a real step.
"""

from functools import partial
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from tetrisim.profiling.experts import ExpertBlock
from tetrisim.profiling.shape import ShardShape
from tetrisim.profiling.timer import Call

MOST_COPIES = 128
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""What activations and caches hold; at fp8 the matrices hold float8_e4m3fn."""


def _add_norm(residual: Any, hidden: Any, weight: Any, out: Any) -> None:
    residual.add_(hidden)
    out.copy_(F.rms_norm(residual, (residual.shape[-1],), weight, 1e-5))


def _add_layer_norm(residual: Any, hidden: Any, weight: Any, out: Any) -> None:
    residual.add_(hidden)
    out.copy_(F.layer_norm(residual, (residual.shape[-1],), weight, weight, 1e-5))


def _head_norm(heads: Any, weight: Any) -> None:
    heads.copy_(F.rms_norm(heads, (heads.shape[-1],), weight, 1e-5))


def _rotate(heads: Any, cosines: Any, sines: Any, positions: Any) -> None:
    cosine, sine = cosines[positions].unsqueeze(1), sines[positions].unsqueeze(1)
    first, second = heads.chunk(2, dim=-1)
    heads.copy_(torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1))


def _silu_mul(up: Any, out: Any) -> None:
    gate, value = up.chunk(2, dim=-1)
    torch.mul(F.silu(gate), value, out=out)


def _relu(up: Any, out: Any) -> None:
    torch.clamp_min(up, 0, out=out)


def _sample(logits: Any, noise: Any, out: Any) -> None:
    """Sampling at temperature 1 by the exponential race, which needs no synchronisation."""
    noise.exponential_()
    torch.argmax(torch.softmax(logits.float(), dim=-1).div_(noise), dim=-1, out=out)


class ShardOps:
    """Weights and buffers of a shard. `cold_bytes` is what the copies of an op's weights must exceed together."""

    def __init__(self, shape: ShardShape, device: Any, cold_bytes: float, tokens: int, sequences: int) -> None:
        self.shape, self.device, self.cold_bytes = shape, device, cold_bytes
        self.dtype = DTYPES[shape.dtype]
        model = shape.model
        widths = dict(hidden=model.hidden, residual=model.hidden, normed=model.hidden)
        widths |= {op: outputs for op, (_, outputs) in shape.matrices.items() if op in ("qkv_proj", shape.up)}
        widths |= dict(attended=shape.heads * model.head_dim)
        widths |= dict(act=shape.intermediate) if shape.experts is None else dict(scores=shape.experts.count)
        self.buffers = {name: self.random(tokens, width) for name, width in widths.items()}
        self.last = self.random(sequences, model.hidden)
        self.logits = self.random(sequences, shape.vocab)
        # Every GPU samples from the whole vocabulary, gathered from the shards.
        whole = model.vocab if shape.tensor_parallel > 1 else 0
        self.full_logits = self.random(sequences, whole) if whole else self.logits
        self.noise = torch.empty_like(self.full_logits, dtype=torch.float32)
        self.next_tokens = torch.zeros(sequences, dtype=torch.long, device=device)
        self.token_ids = torch.randint(shape.vocab, (tokens,), device=device)
        self.positions = torch.arange(tokens, device=device) % model.max_positions
        self.last_rows = torch.arange(sequences, device=device) % tokens
        self.tables = [self._weight(shape.vocab, model.hidden) for _ in range(2)]
        self.place_table = self._weight(model.max_positions, model.hidden) if shape.family == "opt" else None
        self.norm = torch.ones(model.hidden, dtype=self.dtype, device=device)
        self.head_norm = torch.ones(model.head_dim, dtype=self.dtype, device=device)
        rows = min(model.max_positions, 1 << 15)
        angles = torch.outer(torch.arange(rows), 1e4 ** -torch.linspace(0, 1, model.head_dim // 2))
        self.cosines, self.sines = (part.to(device, self.dtype) for part in (angles.cos(), angles.sin()))
        self.positions %= rows
        self.matrices = {op: self._copies(outputs, inputs) for op, (inputs, outputs) in shape.matrices.items()}
        self.biases = {op: self.random(shape.matrices[op][1]) for op in shape.biased}
        self.heads_out = self._copies(shape.vocab, model.hidden, quantized=False)
        self.experts = self._experts() if shape.experts is not None else None
        self.one = torch.ones((), device=device)
        self.fused = self._fuse() if device.type == "cuda" else {}

    def random(self, *sizes: int) -> Any:
        """Normal random numbers: constant data would draw less power and clock higher."""
        return torch.randn(sizes, dtype=self.dtype, device=self.device)

    def bind(self, op: str, tokens: int, sequences: int) -> Call:
        """The op over `tokens` new tokens (`sequences` for the head)."""
        if op in self.matrices:
            return self._matrix(op, tokens)
        return getattr(self, f"_bind_{op}")(tokens, sequences)

    def _weight(self, outputs: int, inputs: int) -> Any:
        return self.random(outputs, inputs).mul_(inputs**-0.5)

    def _copies(self, outputs: int, inputs: int, quantized: bool = True) -> list[Any]:
        fp8 = quantized and self.shape.dtype == "fp8"
        size = outputs * inputs * (1 if fp8 else self.norm.element_size())
        count = min(MOST_COPIES, max(2, -(-int(self.cold_bytes) // size)))
        weights = (self._weight(outputs, inputs) for _ in range(count))
        return [weight.to(torch.float8_e4m3fn) if fp8 else weight for weight in weights]

    def _experts(self) -> ExpertBlock:
        """Copies of a layer's experts, and of the router before them."""
        experts, model, width = self.shape.experts, self.shape.model, self.shape.intermediate
        assert experts is not None
        self.routers = self._copies(experts.count, model.hidden)
        size = 3 * experts.count * model.hidden * width * self.norm.element_size()
        weights = [
            tuple(
                self.random(experts.count, inputs, outputs).mul_(inputs**-0.5)
                for inputs, outputs in ((model.hidden, 2 * width), (width, model.hidden))
            )
            for _ in range(max(2, -(-int(self.cold_bytes) // size)))
        ]
        return ExpertBlock(experts, weights)

    def _fuse(self) -> dict[Any, Any]:
        """Element-wise ops as one kernel each, as engines have them; eager ones where no compiler works."""
        functions = (_add_norm, _add_layer_norm, _head_norm, _rotate, _silu_mul, _relu)
        config = torch._dynamo.config
        config.suppress_errors = True  # what does not compile runs eagerly
        for limit in ("recompile_limit", "cache_size_limit"):  # shards of several sizes share the functions
            if hasattr(config, limit):
                setattr(config, limit, 64)
        try:
            fused = {function: torch.compile(function, dynamic=True) for function in functions}
            probe = self.random(64, 2 * self.shape.model.hidden)
            fused[_silu_mul](probe, self.random(64, self.shape.model.hidden))
        except Exception:  # whatever a missing or broken compiler raises
            return {}
        return fused

    def _run(self, function: Any, *arguments: Any) -> Call:
        compiled = partial(self.fused.get(function, function), *arguments)
        return lambda _: compiled()

    def _matrix(self, op: str, tokens: int) -> Call:
        source = {"qkv_proj": "normed", "o_proj": "attended", self.shape.up: "normed", "down_proj": "act"}[op]
        x, y = self.buffers[source][:tokens], self.buffers.get(op, self.buffers["hidden"])[:tokens]
        weights, bias, count = [weight.t() for weight in self.matrices[op]], self.biases.get(op), len(self.matrices[op])
        if self.shape.dtype == "fp8":
            # Static scales, as in a calibrated checkpoint: the activations are cast, not searched for their largest.
            def scaled(i: int) -> None:
                torch._scaled_mm(x.to(torch.float8_e4m3fn), weights[i % count], self.one, self.one, bias=bias,
                                 out_dtype=self.dtype, use_fast_accum=True)  # fmt: skip

            return scaled

        def plain(i: int) -> None:
            if bias is None:
                torch.mm(x, weights[i % count], out=y)
            else:
                torch.addmm(bias, x, weights[i % count], out=y)

        return plain

    def _bind_layernorm(self, tokens: int, sequences: int) -> Call:
        buffers = self.buffers
        function = _add_layer_norm if self.shape.family == "opt" else _add_norm
        return self._run(function, buffers["residual"][:tokens], buffers["hidden"][:tokens], self.norm,
                         buffers["normed"][:tokens])  # fmt: skip

    _bind_final_layernorm = _bind_layernorm

    def _qk(self, tokens: int) -> Any:
        """Queries and keys, head by head: a view of the fused projection."""
        shape = self.shape
        width = (shape.heads + shape.kv_heads) * shape.model.head_dim
        return self.buffers["qkv_proj"][:tokens, :width].unflatten(1, (-1, shape.model.head_dim))

    def _bind_qk_norm(self, tokens: int, sequences: int) -> Call:
        return self._run(_head_norm, self._qk(tokens), self.head_norm)

    def _bind_rotary_emb(self, tokens: int, sequences: int) -> Call:
        return self._run(_rotate, self._qk(tokens), self.cosines, self.sines, self.positions[:tokens])

    def _bind_act_fn(self, tokens: int, sequences: int) -> Call:
        function = _silu_mul if self.shape.model.gated_mlp else _relu
        return self._run(function, self.buffers[self.shape.up][:tokens], self.buffers["act"][:tokens])

    def _bind_router(self, tokens: int, sequences: int) -> Call:
        assert self.experts is not None
        x, scores, count = self.buffers["normed"][:tokens], self.buffers["scores"][:tokens], len(self.routers)
        routers, active = [weight.t() for weight in self.routers], self.experts.experts.active

        def route(i: int) -> None:
            torch.mm(x, routers[i % count], out=scores)
            torch.topk(torch.softmax(scores, dim=-1), active, dim=-1)

        return route

    def routed(self, tokens: int, reached: int) -> Call:
        """The experts over `tokens` tokens that reach so many of them."""
        assert self.experts is not None
        return self.experts.bind(self.buffers["normed"][:tokens], self.buffers["hidden"][:tokens], reached)

    def _bind_moe(self, tokens: int, sequences: int) -> Call:
        """As many experts as tokens that choose at random reach."""
        assert self.experts is not None
        return self.routed(tokens, self.experts.experts.reached(tokens))

    def _bind_embedding(self, tokens: int, sequences: int) -> Call:
        ids, hidden, residual = (
            self.token_ids[:tokens],
            self.buffers["hidden"][:tokens],
            self.buffers["residual"][:tokens],
        )
        places, positions, tables = self.place_table, self.positions[:tokens], self.tables

        def embed(i: int) -> None:
            torch.index_select(tables[i % 2], 0, ids, out=hidden)
            if places is not None:
                hidden.add_(places.index_select(0, positions))
            residual.zero_()

        return embed

    def _bind_lm_head(self, tokens: int, sequences: int) -> Call:
        rows, last, logits = self.last_rows[:sequences], self.last[:sequences], self.logits[:sequences]
        normed, weights = self.buffers["normed"], [weight.t() for weight in self.heads_out]

        def project(i: int) -> None:
            torch.index_select(normed, 0, rows, out=last)
            torch.mm(last, weights[i % len(weights)], out=logits)

        return project

    def _bind_sampler(self, tokens: int, sequences: int) -> Call:
        logits, noise, out = self.full_logits[:sequences], self.noise[:sequences], self.next_tokens[:sequences]
        return lambda _: _sample(logits, noise, out)
