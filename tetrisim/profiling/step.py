"""A whole step as an engine runs it: inputs to the device, all layers, sampled tokens back."""

import time
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from tetrisim.profiling.attention import KvPool
from tetrisim.profiling.layer import layer_order
from tetrisim.profiling.ops import ShardOps
from tetrisim.profiling.shape import BatchShape
from tetrisim.profiling.timer import HOST, Call, capture


class Step:
    """One step of one batch shape over all layers; layer i uses copy i of the weights and region i of the pages."""

    def __init__(self, ops: ShardOps, kernel: Any, pool: KvPool, batch: BatchShape) -> None:
        shape = ops.shape
        self.ops, self.batch = ops, batch
        self.attention = kernel(batch, pool, ops.buffers["qkv_proj"], ops.buffers["attended"])
        names = {*shape.calls_per_layer, *shape.calls_per_step, *(("moe",) if shape.experts is not None else ())}
        self.calls: dict[str, Call] = {name: ops.bind(name, batch.tokens, batch.sequences) for name in names}
        self.calls["attention"] = self.attention
        self.order = [(self.calls[name], i) for i in range(shape.model.layers) for name in layer_order(shape)]
        self.order = [(self.calls["embedding"], 0), *self.order]
        self.order += [(self.calls[name], 0) for name in ("final_layernorm", "lm_head", "sampler")]
        self.ids = torch.randint(shape.vocab, (batch.tokens,)).tolist()
        self.turn = 0
        self.graph: Any = None

    def prepare(self) -> None:
        """What Python does before a step: token ids, positions, rows to sample from and the cache's tables."""
        ops, batch = self.ops, self.batch
        rows = len(ops.cosines)
        positions, last = [], []
        for new, cached in batch.spans:
            positions += range(cached, cached + new)
            last.append(len(positions) - 1)
        ops.token_ids[: batch.tokens].copy_(torch.tensor(self.ids))
        ops.positions[: batch.tokens].copy_(torch.tensor(positions) % rows)
        ops.last_rows[: batch.sequences].copy_(torch.tensor(last))
        self.attention.fill()

    def forward(self) -> None:
        """All ops in order."""
        turn = self.turn
        for call, i in self.order:
            call(turn + i)

    def eager(self) -> list[int]:
        """A step launched op by op; the next tokens."""
        self.prepare()
        self.forward()
        # The next step starts at other copies and pages, as if it followed upon other work.
        self.turn += self.ops.shape.model.layers
        return self.ops.next_tokens[: self.batch.sequences].tolist()

    def replayed(self) -> list[int]:
        """The same step as one CUDA graph, captured at the first use."""
        if self.graph is None:
            self.eager()
            self.graph = capture(self.forward)
        self.prepare()
        self.graph.replay()
        return self.ops.next_tokens[: self.batch.sequences].tolist()

    def seconds(self, graph: bool = False) -> float:
        """Time of one step: wall time where a GPU works meanwhile, as HostClock gives it on a CPU."""
        run = self.replayed if graph else self.eager
        if self.ops.device.type == "cuda":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        HOST.start()
        run()
        return HOST.stop()
