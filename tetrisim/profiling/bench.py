"""The torch side of the harness: a device with a shard's buffers, and rows prepared for measuring."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from tetrisim.errors import ProfileError
from tetrisim.latency.table import KEYS
from tetrisim.profiling.attention import KvPool, choose_kernel
from tetrisim.profiling.harness import Sampler
from tetrisim.profiling.layer import LayerTimes
from tetrisim.profiling.links import measured_links
from tetrisim.profiling.ops import DTYPES, ShardOps
from tetrisim.profiling.plan import HOST_CONTEXT, SEQUENCES, TOKENS, Key, Limits
from tetrisim.profiling.shape import BatchShape, ShardShape
from tetrisim.profiling.step import Step
from tetrisim.profiling.store import Values
from tetrisim.profiling.timer import HOST, Neighbours, device_facts, device_state, timed

CPU_THREADS = 1
"""A second thread on a shared machine waits for whoever has the other core."""
POOL_BYTES = {"cpu": 2**29, "cuda": 16 * 2**30}
POOL_SHARE = 0.3
"""Of the GPU memory that is free."""
CPU_COLD_BYTES = 4 * 10**8
GPU_COLD_CACHES = 3
"""Copies of an op's weights exceed the L2 cache this many times."""


def open_device(name: str, dtype: str) -> Any:
    """The torch device `cpu` or `cuda`; a machine without it, or without the dtype, raises ProfileError."""
    if name == "cpu":
        torch.set_num_threads(CPU_THREADS)
        _keep_freed_memory()
    elif not torch.cuda.is_available():
        raise ProfileError("--device", "torch sees no CUDA GPU", "--device cpu, or a machine with a GPU and its driver")
    elif dtype == "fp8" and torch.cuda.get_device_capability() < (8, 9):
        raise ProfileError("--dtype", f"{torch.cuda.get_device_name()} has no fp8", "bf16, fp16 or fp32")
    elif dtype == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        raise ProfileError("--dtype", f"{torch.cuda.get_device_name()} has no bf16", "fp16 or fp32")
    torch.set_grad_enabled(False)
    return torch.device(name)


def _keep_freed_memory() -> None:
    """Let malloc reuse what it has, as an engine's caching allocator does; else large outputs fault in new pages."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no allocation gets a mapping of its own
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing is given back
    except (OSError, AttributeError):
        return  # no glibc


class TorchBench:
    """Measures rows of one shard."""

    def __init__(self, shape: ShardShape, device: Any) -> None:
        self.shape, self.device = shape, device
        self.dtype = DTYPES[shape.dtype]
        torch.manual_seed(0)
        self.kernel, page = choose_kernel(shape, device, self.dtype)
        free = torch.cuda.mem_get_info()[0] * POOL_SHARE if device.type == "cuda" else POOL_BYTES["cpu"]
        tokens = int(min(free, POOL_BYTES[device.type]) // shape.kv_token_bytes)
        gpus = torch.cuda.device_count() if device.type == "cuda" else 1
        self.limits = Limits(tokens - 512 * page, gpus)  # 512 sequences end in part-filled pages
        self.cold_bytes = self._cold_bytes()
        most = max(max(level) for level in TOKENS if level)
        self.ops = ShardOps(shape, device, self.cold_bytes, most, max(max(level) for level in SEQUENCES if level))
        self.pool = KvPool(shape, tokens, page, device, self.dtype)
        self.flush = self.ops.bind(shape.up if shape.experts is None else "qkv_proj", 1, 1)
        self._neighbours = Neighbours()
        self._layer: tuple[int, Any] = (0, None)
        self._links: dict[Key, Values] = {}

    def prepare(self, file: str, key: Key) -> Sampler | None:
        """See Bench.prepare."""
        row: dict[str, Any] = dict(zip(KEYS[file], key, strict=True))
        try:
            return getattr(self, f"_{file.removesuffix('.csv')}")(**row)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ProfileError(f"{file} {key}", f"a kernel fails: {reason}", "one that runs on this device") from error

    def disturbance(self) -> float:
        """A busy processor does not slow a GPU's kernels."""
        return self._neighbours.share() if self.device.type == "cpu" else 0.0

    def facts(self) -> dict[str, Any]:
        """See Bench.facts."""
        paging = f"pages of {self.pool.page}" if self.pool.page > 1 else "each sequence's cache in one piece"
        matmul = "torch._scaled_mm, static scales" if self.shape.dtype == "fp8" else "torch.mm and addmm"
        return {
            "kernels": {
                "matrices": matmul,
                "attention": f"{self.kernel.name}, {paging}",
                "elementwise": "torch.compile" if self.ops.fused else "eager",
                "sampler": "softmax and exponential race",
                **({"experts": self.ops.experts.name} if self.ops.experts is not None else {}),
            },
            "clock": "CUDA events around CUDA graphs"
            if self.device.type == "cuda"
            else "time.perf_counter; linear ops in the order of a layer, others after one token's MLP matrix",
            "preempted_samples": f"{HOST.preempted} of {HOST.samples}, counted by processor time",
            "cold_bytes": int(self.cold_bytes),
            "state": device_state(self.device),
        }

    def device_facts(self) -> dict[str, Any]:
        """What all rows share."""
        return device_facts(self.device, torch.get_num_threads())

    def attention(self, batch: BatchShape) -> Any:
        """One layer's attention over a batch, its tables on the device."""
        call = self.kernel(batch, self.pool, self.ops.buffers["qkv_proj"], self.ops.buffers["attended"])
        call.fill()
        return call

    def step(self, batch: BatchShape) -> Step:
        """A whole step of a batch."""
        return Step(self.ops, self.kernel, self.pool, batch)

    def _cold_bytes(self) -> float:
        """As much as a step touches between two uses of one weight, or what certainly exceeds the cache."""
        if self.device.type == "cpu":
            return min(self.shape.weight_bytes, CPU_COLD_BYTES)
        cache = getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 0) or 64 * 2**20
        return min(self.shape.weight_bytes, GPU_COLD_CACHES * cache)

    def timed(self, name: str, call: Any) -> Callable[[], float]:
        """Samples of an op; those that stream weights of their own need no flush before."""
        streams = name in (*self.shape.matrices, "lm_head", "moe")
        return timed(call, self.device, None if streams else self.flush)

    def _time(self, name: str, call: Any) -> Sampler:
        sample = self.timed(name, call)
        return lambda: {"time_us": sample()}

    def _linear(self, op: str, tokens: int) -> Sampler:
        if self.device.type != "cpu":
            return self._time(op, self.ops.bind(op, tokens, 1))
        if self._layer[0] != tokens:
            self._layer = (tokens, LayerTimes(self.ops, tokens))
        return self._layer[1].sampler(op)

    def _head(self, op: str, sequences: int) -> Sampler:
        return self._time(op, self.ops.bind(op, sequences, sequences))

    def _moe(self, tokens: int, active_experts: int) -> Sampler:
        return self._time("moe", self.ops.routed(tokens, active_experts))

    def _attention(
        self, prefill_tokens: int, prefill_context: int, decode_sequences: int, decode_context: int
    ) -> Sampler:
        pieces = ((prefill_tokens, prefill_context),) if prefill_tokens else ()
        return self._time("attention", self.attention(BatchShape(pieces, (decode_context,) * decode_sequences)))

    def _skew(self, **row: int) -> Sampler:
        pieces = ((row["prefill_tokens"], row["prefill_context"]),) if row["prefill_tokens"] else ()
        count, far, short, some = (row[name] for name in ("decode_sequences", "long_context", "short_context",
                                                          "long_sequences"))  # fmt: skip
        mean = round((some * far + (count - some) * short) / count)
        batches = {
            "time_us": (far,) * some + (short,) * (count - some),
            "mean_us": (mean,) * count,
            "long_us": (far,) * count,
        }
        samples = {
            name: self.timed("attention", self.attention(BatchShape(pieces, contexts)))
            for name, contexts in batches.items()
        }
        return lambda: {name: sample() for name, sample in samples.items()}

    def _host(self, sequences: int) -> Sampler:
        """A whole decode step less its ops, both measured in the same round."""
        context = min(HOST_CONTEXT, self.shape.model.max_positions - 1)
        step = self.step(BatchShape((), (context,) * sequences))
        graph = self.device.type == "cuda"
        step.prepare()
        parts = self._parts(sequences, context)
        for _ in range(2):
            step.seconds(graph)

        def sample() -> Values:
            # The ops between two steps: a drift over the round then cancels.
            before = (step.seconds(), step.seconds(graph) if graph else 0.0)
            ops = sum(calls * part() for calls, part in parts)
            eager = 0.5e6 * (before[0] + step.seconds())
            whole = 0.5e6 * (before[1] + step.seconds(graph)) if graph else eager
            return {"time_us": whole - ops, "eager_us": eager - ops, "step_us": whole, "ops_us": ops}

        return sample

    def _parts(self, sequences: int, context: int) -> list[tuple[int, Callable[[], float]]]:
        """(calls a step, microseconds a call) of every op of a decode step, timed as the tables' rows are."""
        shape, layers = self.shape, self.shape.model.layers
        counts = {op: calls * layers for op, calls in shape.calls_per_layer.items()} | {"attention": layers}
        samplers = {op: self._linear(op, sequences) for op in shape.linear_ops}
        samplers |= {op: self._head(op, sequences) for op in ("lm_head", "sampler")}
        samplers["attention"] = self._attention(0, 0, sequences, context)
        if shape.experts is not None:
            counts["moe"] = layers
            samplers["moe"] = self._moe(sequences, shape.experts.reached(sequences))

        def part(sample: Sampler) -> Callable[[], float]:
            return lambda: sample()["time_us"]

        return [(count, part(samplers[op])) for op, count in (counts | shape.calls_per_step).items()]

    def _collective(self, op: str, bytes: int, gpus: int) -> Sampler | None:
        """Processes for all messages start once; the samples are read off one by one."""
        if not self._links:
            self._links = measured_links(gpus, "nccl")
        samples = self._links.get((op, bytes, gpus))
        if samples is None:
            return None
        turn = iter(range(1 << 30))
        times = list(samples.values())
        return lambda: {"time_us": times[next(turn) % len(times)]}
