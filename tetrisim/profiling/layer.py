"""A CPU's linear ops, timed one by one while a whole layer runs in order.

Called again and again by itself an element-wise op finds its rows, and the memory that its temporary results get, in
the caches; in a step the ops around it have used them. On one Xeon a norm took 1.4 to 1.6 times as long in a step.
"""

import time

from tetrisim.profiling.harness import Sampler
from tetrisim.profiling.ops import ShardOps
from tetrisim.profiling.shape import ShardShape
from tetrisim.profiling.timer import HOST, MOST_CALLS, Call

SAMPLE_S = 0.1
"""A sample repeats the layer for about this long."""


def layer_order(shape: ShardShape) -> list[str]:
    """The ops of one layer; the second norm opens the MLP."""
    before = [name for name in ("layernorm", "qkv_proj", "qk_norm", "rotary_emb") if name in shape.calls_per_layer]
    mlp = [shape.up, "act_fn", "down_proj"] if shape.experts is None else ["router", "moe"]
    return [*before, "attention", "o_proj", "layernorm", *mlp]


class LayerTimes:
    """One layer over so many tokens, without its attention and routed experts, between embedding and last norm."""

    def __init__(self, ops: ShardOps, tokens: int) -> None:
        shape = ops.shape
        self.layer = [name for name in layer_order(shape) if name in shape.calls_per_layer]
        self.calls: dict[str, Call] = {name: ops.bind(name, tokens, 1) for name in shape.linear_ops}
        self.turn = 0
        self.fresh: dict[str, float] = {}
        self._run(1)
        start = time.perf_counter()
        self._run(1)
        self.count = max(1, min(MOST_CALLS, int(2 * SAMPLE_S / (time.perf_counter() - start))))
        self.fresh = {}

    def sampler(self, op: str) -> Sampler:
        """Microseconds of one call; the samplers of all ops share a run a round."""

        def sample() -> dict[str, float]:
            if op not in self.fresh:
                self._run(self.count)
            return {"time_us": self.fresh.pop(op)}

        return sample

    def _run(self, count: int) -> None:
        """`count` layers after one that does not count: its first norm finds what the embedding has just written."""
        took = dict.fromkeys(self.calls, 0.0)
        self._time(["embedding"], took)
        self._time(self.layer, {})
        for _ in range(count):
            self._time(self.layer, took)
        self._time(["final_layernorm"], took)
        self.fresh = {
            name: total / (count * self.layer.count(name) if name in self.layer else 1) * 1e6
            for name, total in took.items()
        }

    def _time(self, names: list[str], took: dict[str, float]) -> None:
        for name in names:
            HOST.start()
            self.calls[name](self.turn)
            took[name] = took.get(name, 0.0) + HOST.stop()
        self.turn += 1
