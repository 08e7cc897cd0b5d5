"""Random small worlds: a trace of a few requests, machines with little or much memory, any system and any policy."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest
from hypothesis import strategies as st

from tetrisim.assemble import Cluster
from tetrisim.policies.registry import POLICIES
from tetrisim.scenario.presets import SYSTEMS
from tetrisim.simulate import Result

_FOLDER = tempfile.TemporaryDirectory(prefix="tetrisim-laws-")
Document = dict[str, Any]

MOMENTS = ["arrival_s", "prefill_start_s", "first_token_s", "transfer_start_s", "transfer_end_s", "decode_start_s",
           "finish_s"]  # fmt: skip
"""The columns of a request's life, in the order in which they must come."""


def write_csv(requests: list[tuple[float, int, int]]) -> str:
    """A trace file of (arrival in seconds, prompt, output)."""
    with tempfile.NamedTemporaryFile("w", suffix=".csv", dir=_FOLDER.name, delete=False) as file:
        file.write("timestamp,input_length,output_length\n")
        file.writelines(f"{at!r},{prompt},{output}\n" for at, prompt, output in requests)
    return file.name


def write_mooncake(requests: list[tuple[float, int, int]], families: list[int], shared: int) -> str:
    """The same with prefix ids, 16 tokens a block: requests of one family share up to `shared` leading blocks."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", dir=_FOLDER.name, delete=False) as file:
        for number, ((at, prompt, output), family) in enumerate(zip(requests, families, strict=True)):
            ids = [
                family * 1000 + place if place < shared else 10**6 + number * 1000 + place
                for place in range(prompt // 16)
            ]
            row = {"timestamp": at * 1000, "input_length": prompt, "output_length": output, "hash_ids": ids}
            file.write(json.dumps(row) + "\n")
    return file.name


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[float, int, int]]:
    """A dozen requests or so, many of them at the same moment, the gaps about as long as a few steps."""
    count = draw(st.integers(1, 14))
    gaps = draw(st.lists(st.sampled_from([0, 0, 0.0005, 0.002, 0.03]), min_size=count, max_size=count))
    prompt = st.one_of(st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 200]))  # 200: may fit nowhere
    lengths = st.tuples(prompt, st.one_of(st.integers(1, 3), st.integers(1, 60)))
    rows: list[tuple[float, int, int]] = []
    now = 0.0
    for gap in gaps:
        now += gap if rows else 0.0
        rows.append((round(now, 6), *draw(lengths)))
    return rows


@st.composite
def workloads(draw: st.DrawFn) -> Document:
    """A trace file, its arrivals kept or laid out anew."""
    rows = draw(requests())
    arrivals = draw(st.sampled_from(["trace", "trace", "burst", "constant", "poisson", "closed-loop"]))
    if draw(st.booleans()):
        families = draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
        # The reader takes blocks of 16 full tokens for granted only when a length says so.
        trace = write_mooncake([*rows, (rows[-1][0], 33, 2)], [*families, 0], draw(st.integers(0, 4)))
    else:
        trace = write_csv(rows)
    workload: Document = {"trace": trace, "arrivals": arrivals}
    if arrivals in ("constant", "poisson"):
        workload["rate"] = draw(st.sampled_from(["200 /s", "2000 /s"]))
    if arrivals == "closed-loop":
        workload |= {
            "concurrency": draw(st.sampled_from([1, 2, 5, 40])),
            "think": draw(st.sampled_from(["0 s", "2 ms"])),
        }
    if draw(st.booleans()):
        share = draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
        workload["classes"] = {"urgent": {"share": share}, "other": {"share": 1 - share, "priority": 1}}
    return workload


@st.composite
def machines(draw: st.DrawFn, role: str) -> Document:
    """A pool: tiny or ample memory, any block size that divides 16, few or many seats."""
    block = draw(st.sampled_from([1, 2, 4, 8, 16]))
    # 150 tokens is the longest request; the tiny pool holds that one and a little more.
    tokens = draw(st.sampled_from([176, 176, 256, 400, 4000]))
    return {
        "role": role,
        "instances": draw(st.sampled_from([1, 1, 2, 3])),
        "block_tokens": block,
        "kv_blocks": tokens // block,
        "max_num_seqs": draw(st.sampled_from([1, 3, 8, 32])),
        "preemption": draw(st.sampled_from(["recompute", "swap"])),
        "swap_space": draw(st.sampled_from(["4 GiB", "3 MB"])),
        "watermark": draw(st.sampled_from([0.0, 0.05])),
        "prefix_caching": draw(st.booleans()),
        "async_scheduling": role == "hybrid" and draw(st.booleans()),
        "chunk_tokens": draw(st.sampled_from([8, 32, 512])),
    }


def _suit(draw: st.DrawFn, name: str, pool: Document) -> None:
    """Change a drawn pool to what its system can do."""
    preset = {**SYSTEMS[name].pools[pool["role"]], **pool}
    if "kv_reservation" in preset:
        pool["prefix_caching"] = False
    if "fetch" in SYSTEMS[name].cluster:
        pool["prefix_caching"] = True
    if "migrate" in SYSTEMS[name].cluster:
        pool["async_scheduling"] = False
    if preset.get("mlfq"):
        pool["async_scheduling"] = False
        quantum, starved = draw(st.sampled_from(["1 ms", "10 ms"])), draw(st.sampled_from(["20 ms", "3 s"]))
        pool["mlfq"] = {"quantum": quantum, "starvation": starved}
    if preset.get("preempt"):
        pool |= {"async_scheduling": False, "preemption": "recompute"}
        granularity = draw(st.sampled_from(["request", "iteration", "layer", "stage", "expert"]))
        pool["preempt"] = {"granularity": granularity, "switch": draw(st.sampled_from(["0 s", "100 us"]))}
    if preset.get("batching") == "token-budget":
        budget = draw(st.sampled_from([32, 64, 512]))
        pool["max_num_batched_tokens"] = max(budget, pool["max_num_seqs"])
        pool["long_prefill_tokens"] = draw(st.sampled_from([None, None, 16])) if pool["role"] == "hybrid" else None
    if preset.get("batching") in ("prefill-first", "whole-prompts", "static"):
        pool["max_num_batched_tokens"] = draw(st.sampled_from([96, 512]))


@st.composite
def worlds(draw: st.DrawFn, system: str = "", settings: Document | None = None, horizon: bool = False) -> Document:
    """A scenario of `system` (any) with cluster `settings` on top; `horizon` may end it early."""
    name = system or draw(st.sampled_from(list(SYSTEMS)))
    pools = [draw(machines(role)) for role in SYSTEMS[name].pools]
    for pool in pools:
        pool.update((settings or {}).get(pool["role"], {}))
        _suit(draw, name, pool)
    cluster: Document = {"gpu": draw(st.sampled_from(["l40s", "h100-sxm"])), "pools": pools}
    if SYSTEMS[name].pools.keys() != {"hybrid"}:
        cluster["predict"] = {"mode": draw(st.sampled_from(["free", "parallel", "sequential"])), "cost": 0.37}
        granularity = draw(st.sampled_from(["request", "chunk", "layer"]))
        cluster["kv_link"] = {"bandwidth": "200 Gbit/s", "latency": "5 us", "granularity": granularity}
    if "fetch" in SYSTEMS[name].cluster:
        cluster["fetch"] = {"bandwidth": draw(st.sampled_from(["200 Gbit/s", "50 MB/s"]))}
        cluster["reject"] = {"ttft": draw(st.sampled_from(["4 ms", "20 ms", "30 s"]))}
        cluster["reject"]["tpot"] = draw(st.sampled_from([None, None, "900 us", "9 ms"]))
    cluster.update((settings or {}).get("cluster", {}))
    document: Document = {
        "model": draw(st.sampled_from(["opt-125m", "llama-3.1-8b"])),
        "system": name,
        "profile": "roofline",
        "workload": draw(workloads()),
        "cluster": cluster,
        "seed": draw(st.integers(0, 3)),
    }
    if horizon and draw(st.booleans()):
        document["horizon"] = draw(st.sampled_from(["1 ms", "7 ms", "90 ms"]))
    return document


MORE: dict[str, Document] = {
    "predict": {"granularity_tokens": 8},
    "place": {"heavy_tokens": 20, "broadcast": "1 ms"},
    "reject": {"ttft": "20 ms", "tpot": "3 ms"},
    "fetch": {"bandwidth": "3 GB/s"},
    "ratio": {"period": "1 ms", "confirmations": 1, "cooldown": "3 ms", "prefill_tokens": 20},
    "migrate": {"period": "1 ms", "low_blocks": 20, "last_blocks": 1},
    "flip": {"after": "5 ms", "cost": "1 ms"},
    "scale": {"period": "2 ms", "startup": "3 ms", "grace": 1, "queue_high": 0.1, "queue_low": 0.05},
}
"""What is set beside a policy, so that it has something to decide in a little world."""


def policy_settings() -> list[tuple[str, Document]]:
    """Every registered policy at every station that asks for its kind: a name for the test, and a system's settings.

    Each is tried on the system whose station asks for it; queue, route and batching on several.
    """
    homes = {
        "batching": [("vllm-v1", "hybrid"), ("tetriinfer", "prefill"), ("tetriinfer", "decode")],
        "queue": [("vllm-v0", "hybrid"), ("vllm-v1", "hybrid"), ("tetriinfer", "prefill")],
        "admission": [("tetriinfer", "decode")],
        "route": [("vllm-v1", "cluster"), ("tetriinfer", "cluster"), ("mooncake", "cluster")],
        "place": [("tetriinfer", "cluster")],
        "predict": [("tetriinfer", "cluster")],
        "flip": [("tetriinfer", "cluster")],
        "migrate": [("llumnix", "cluster")],
        "ratio": [("arrow", "cluster")],
        "scale": [("dynamo", "cluster")],
        "reject": [("mooncake", "cluster")],
        "fetch": [("mooncake", "cluster")],
    }
    cases: list[tuple[str, Document]] = []
    for kind, known in POLICIES.items():
        for name in known:
            for system, place in homes[kind]:
                value: Any = name
                if kind in MORE:
                    value = {"policy": name, **MORE[kind]}
                cases.append((f"{system} {place} {kind}={name}", {"system": system, place: {kind: value}}))
    return cases


def rows(result: Result) -> dict[str, list[Any]]:
    """A run's request rows, to be compared exactly; NaN is shown as None, since it equals nothing."""
    return {
        name: [None if value != value else value for value in column.tolist()]
        for name, column in result.request_columns.items()
    }


@contextmanager
def assembled() -> Iterator[list[Cluster]]:
    """The clusters of the runs in this block."""
    module, clusters = import_module("tetrisim.simulate"), list[Cluster]()  # `tetrisim.simulate` is the function
    assemble = module.assemble
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "assemble", lambda *args: clusters.append(assemble(*args)) or clusters[-1])
        yield clusters
