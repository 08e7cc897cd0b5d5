"""The routed experts of a layer: tokens sorted by expert, two grouped matrix multiplications, and back.

`torch.nn.functional.grouped_mm` where this torch has it and it is right here, else one matrix after the other. The
router is an op of its own (`router` in linear.csv).
"""

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from tetrisim.latency.bounds import Experts
from tetrisim.profiling.timer import Call, capture


def _grouped(rows: Any, weights: Any, ends: list[int], offsets: Any) -> Any:
    return F.grouped_mm(rows, weights, offs=offsets)


def _one_by_one(rows: Any, weights: Any, ends: list[int], offsets: Any) -> Any:
    out = rows.new_empty(rows.shape[0], weights.shape[2])
    for expert, (start, end) in enumerate(pairwise([0, *ends])):
        if end > start:
            torch.mm(rows[start:end], weights[expert], out=out[start:end])
    return out


class Routing:
    """Tokens spread evenly over `reached` experts, each token to `experts.active` different ones."""

    def __init__(self, experts: Experts, tokens: int, reached: int, device: Any, dtype: Any) -> None:
        chosen = torch.randperm(experts.count)[:reached]
        slots = chosen[torch.arange(tokens * experts.active) % reached]
        order = torch.argsort(slots, stable=True)
        self.ends: list[int] = list(accumulate(torch.bincount(slots, minlength=experts.count).tolist()))
        self.offsets = torch.tensor(self.ends, dtype=torch.int32, device=device)
        self.rows = (order // experts.active).to(device)
        self.shares = torch.full((len(order), 1), 1 / experts.active, dtype=dtype, device=device)


class ExpertBlock:
    """One shard's experts. `weights` are copies of (up, down), as (expert, inputs, outputs)."""

    def __init__(self, experts: Experts, weights: list[tuple[Any, Any]]) -> None:
        self.experts, self.weights = experts, weights
        self.multiply = _grouped if self._works(_grouped) else _one_by_one
        self.name = "grouped_mm" if self.multiply is _grouped else "torch.mm, one expert after the other"

    def bind(self, hidden: Any, out: Any, reached: int) -> Call:
        """Write the experts' answer to the rows of `hidden` into `out`."""
        routing = Routing(self.experts, hidden.shape[0], reached, hidden.device, hidden.dtype)
        ends, offsets = routing.ends, routing.offsets

        def run(i: int) -> None:
            up, down = self.weights[i % len(self.weights)]
            gate, value = self.multiply(hidden[routing.rows], up, ends, offsets).chunk(2, dim=-1)
            answers = self.multiply(F.silu(gate).mul_(value), down, ends, offsets)
            out.zero_().index_add_(0, routing.rows, answers.mul_(routing.shares))

        return run

    def _works(self, multiply: Callable[..., Any]) -> bool:
        up = self.weights[0][0]
        routing = Routing(self.experts, 5, self.experts.active, up.device, up.dtype)
        rows = torch.randn(len(routing.rows), up.shape[1], dtype=up.dtype, device=up.device)
        try:
            found = multiply(rows, up, routing.ends, routing.offsets)
            if up.device.type == "cuda":  # before Hopper it copies the offsets to the host, which no graph can hold
                capture(lambda: multiply(rows, up, routing.ends, routing.offsets))
        except (RuntimeError, AttributeError, TypeError):
            return False
        return torch.allclose(found, _one_by_one(rows, up, routing.ends, routing.offsets), atol=0.03, rtol=0.03)
