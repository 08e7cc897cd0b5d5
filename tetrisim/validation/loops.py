"""A steady-state point as a closed loop: how each engine was run, and the same loop simulated."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tetrisim.metrics import definitions as define
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.load import resolve
from tetrisim.scenario.memory import kv_blocks
from tetrisim.scenario.model import load_model
from tetrisim.simulate import simulate

Engine = Literal["vllm", "trtllm", "sglang"]

ROUNDS = 10
"""Requests a place in the loop: InferenceX sends ten times the concurrency; what the others sent is not recorded."""
SHORTEST = 0.8
"""InferenceX draws lengths evenly from this fraction of the named one upwards (RANDOM_RANGE_RATIO in its scripts)."""
VLLM_BUDGET, TRTLLM_BUDGET = 8192, 16384
"""max_num_batched_tokens of InferenceX's vLLM runs on H100 and H200, and max_num_tokens of its TensorRT-LLM runs."""
DEFAULT_BUDGET = 8192
"""Tokens a step without a word in the command: vLLM's server and SGLang's chunks on these GPUs, and TensorRT-LLM."""
DEFAULT_SEQS = {"vllm": 1024, "trtllm": 2048, "sglang": 2048}
"""Sequences a step without a word in the command; SGLang's limit is its memory."""
ASYNC_FROM = (0, 14)
"""The vLLM version that made asynchronous scheduling its default. InferenceX asked for it before."""
TRTLLM_FREE_FRACTION = 0.9
"""TensorRT-LLM gives this share of what weights and activations leave to its KV cache (free_gpu_memory_fraction)."""
LINK = {"bandwidth": "400 Gbit/s", "latency": "10 us"}
"""Between prefill and decode workers: the `inter_node_bw` and latency of aiconfigurator's H100 and H200 systems."""


@dataclass(frozen=True)
class Workers:
    """One pool of a disaggregated point."""

    count: int
    tensor_parallel: int
    batch: int


@dataclass(frozen=True)
class Point:
    """One measured row; times in seconds, lengths in tokens."""

    name: str
    engine: Engine
    version: str
    """Empty where the row names none: those are InferenceX's of October 2025 (inferred, not written there)."""
    model: str
    gpu: str
    dtype: str
    gemm: str
    """The GEMMs of fp8: `fp8` or `fp8_block`."""
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    tensor_parallel: int
    """Of the decode workers where prefill has its own."""
    ttft_s: float
    tpot_s: float
    workers: tuple[Workers, Workers] | None = None
    """Prefill and decode workers of a disaggregated point."""

    @property
    def inferencex(self) -> bool:
        """Whether its client and launch scripts are known."""
        return not self.version

    @property
    def lagging(self) -> bool:
        """Whether vLLM planned each step during the one before."""
        numbers = tuple(int(part) for part in self.version.split(".")[:2] if part.isdigit())
        return self.engine == "vllm" and (self.inferencex or numbers >= ASYNC_FROM)

    @property
    def sequential(self) -> bool:
        """Whether the host's work comes between steps: vLLM before it scheduled asynchronously."""
        return self.engine == "vllm" and not self.lagging

    @property
    def wide_kv(self) -> bool:
        """Whether the KV cache has 16 bits beside fp8 weights: SGLang's own choice (`--kv-cache-dtype auto`).

        Not of disaggregated points, whose pools plan their own memory.
        """
        return self.engine == "sglang" and self.dtype == "fp8" and self.workers is None

    @property
    def degrees(self) -> set[int]:
        """Tensor-parallel degrees that its profile must have."""
        return {worker.tensor_parallel for worker in self.workers or ()} or {self.tensor_parallel}


@dataclass(frozen=True)
class Outcome:
    """A point beside its simulation; seconds."""

    point: Point
    ttft_s: float
    tpot_s: float
    kv_blocks: int
    preemptions: int
    step_s: float
    estimated_s: float
    """Seconds of simulated steps, and of those the estimated ones."""


def run_loop(point: Point, profile: Path) -> Outcome:
    """Simulate one point; whatever the scenario refuses (memory above all) raises TetrisimError."""
    result = simulate(resolve(document(point, profile)))
    rows, shares = result.request_columns, result.time_shares
    return Outcome(
        point,
        float(define.ttft(rows).mean()),
        float(define.tpot(rows).mean()),
        int(result.instance_columns["kv_blocks"][-1]),
        int(rows["preemptions"].sum()),
        sum(shares.values()),
        shares["estimated"],
    )


def document(point: Point, profile: Path) -> dict[str, Any]:
    """The scenario of a point."""
    return {
        "model": point.model,
        "dtype": point.dtype,
        "profile": str(profile),
        "workload": {
            "trace": "random",
            "prompt_tokens": point.prompt_tokens,
            "output_tokens": point.output_tokens,
            "shortest": SHORTEST if point.inferencex else 1.0,
            "requests": ROUNDS * point.concurrency,
            "arrivals": "closed-loop",
            "concurrency": point.concurrency,
        },
        **(_together(point) if point.workers is None else _apart(point, *point.workers)),
    }


def _together(point: Point) -> dict[str, Any]:
    """One engine. SGLang prefills first, in steps of its own; the others share one token budget a step."""
    pool: dict[str, Any] = {
        "role": "hybrid",
        "tensor_parallel": point.tensor_parallel,
        "prefix_caching": False,
        "max_num_batched_tokens": DEFAULT_BUDGET,
        "max_num_seqs": DEFAULT_SEQS[point.engine],
    }
    if point.engine == "vllm":
        pool["async_scheduling"] = point.lagging
        if point.inferencex:
            pool |= {"max_num_batched_tokens": VLLM_BUDGET, "max_num_seqs": point.concurrency}
    elif point.engine == "trtllm":
        pool["async_scheduling"] = False
        pool["max_num_batched_tokens"] = TRTLLM_BUDGET if point.inferencex else DEFAULT_BUDGET
        pool |= _reserved(point, pool)
    if point.wide_kv:
        pool["kv_blocks"] = _blocks(pool, point, 0.9) // 2
    system = "vllm-v0" if point.engine == "sglang" else "vllm-v1"
    return {"system": system, "cluster": {"gpu": point.gpu, "pools": [pool]}}


def _reserved(point: Point, pool: dict[str, Any]) -> dict[str, int]:
    """TensorRT-LLM's KV blocks, and the seats that leaves: it admits what it can hold to the last token."""
    blocks = int(TRTLLM_FREE_FRACTION * _blocks(pool, point, 1.0))
    shortest = SHORTEST if point.inferencex else 1.0
    held = (1 + shortest) / 2 * (point.prompt_tokens + point.output_tokens) / PoolSpec("hybrid").block_tokens
    return {"kv_blocks": blocks, "max_num_seqs": max(1, min(pool["max_num_seqs"], int(blocks / held)))}


def _blocks(pool: dict[str, Any], point: Point, utilization: float) -> int:
    """KV blocks of this share of the memory, in the dtype of the weights."""
    limits = {key: pool[key] for key in ("tensor_parallel", "max_num_batched_tokens", "max_num_seqs")}
    spec = PoolSpec("hybrid", memory_utilization=utilization, **limits)
    return kv_blocks(spec, load_gpu(point.gpu), load_model(point.model), point.dtype, point.name)


def _apart(point: Point, prefill: Workers, decode: Workers) -> dict[str, Any]:
    pools = [
        {"role": "prefill", "instances": prefill.count, "tensor_parallel": prefill.tensor_parallel,
         "batching": "token-budget", "queue": "fcfs", "max_num_batched_tokens": DEFAULT_BUDGET,
         "max_num_seqs": prefill.batch},
        {"role": "decode", "instances": decode.count, "tensor_parallel": decode.tensor_parallel,
         "admission": "greedy", "preemption": "recompute", "max_num_seqs": decode.batch},
    ]  # fmt: skip
    cluster = {"gpu": point.gpu, "pools": pools, "kv_link": LINK, "predict": {"policy": "none"},
               "place": {"policy": "least-kv"}, "flip": {"policy": "never"}}  # fmt: skip
    return {"system": "tetriinfer", "cluster": cluster}
