"""The serving systems by name: one row of settings each, in the words of the scenario file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Fragment = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class System:
    """Pool settings by role, and cluster settings, in the words of the scenario file."""

    summary: str
    pools: Mapping[str, Fragment]
    cluster: Fragment
    kinds: tuple[Fragment, ...] = ()
    """What distinguishes the first, second, ... pool of the same role."""


V1: Fragment = {"batching": "token-budget", "prefix_caching": True, "async_scheduling": True}
"""The pools of vLLM V1, on whose engine others are built."""

SYSTEMS: dict[str, System] = {
    # vLLM's first scheduler: whole prompts, no decode in a step that prefills.
    "vllm-v0": System(
        "vLLM V0: prefill first, whole prompts, at most max_num_seqs sequences",
        pools={"hybrid": {"batching": "prefill-first", "watermark": 0.01}},
        cluster={"route": "least-loaded"},
    ),
    # What came before: batches that nobody joins, then iterations that anybody may; memory for the longest request.
    "fastertransformer": System(
        "FasterTransformer: static batches, KV memory reserved for the longest request",
        pools={"hybrid": {"batching": "static", "kv_reservation": "longest"}},
        cluster={"route": "least-loaded"},
    ),
    "orca": System(
        "Orca: whole prompts join the decodes of any iteration, KV memory reserved for the longest request",
        pools={"hybrid": {"batching": "whole-prompts", "kv_reservation": "longest"}},
        cluster={"route": "least-loaded"},
    ),
    # vLLM's present scheduler: one token budget a step, running requests first, prompts chunked to what is left.
    "vllm-v1": System(
        "vLLM V1: one token budget a step, chunked prefill beside decodes",
        pools={"hybrid": V1},
        cluster={"route": "least-loaded"},
    ),
    # Sarathi-Serve: V1's rule at a small budget that bounds the time between tokens.
    "sarathi": System(
        "Sarathi-Serve: stall-free batches of at most 512 tokens",
        pools={"hybrid": {"batching": "token-budget", "max_num_seqs": 128, "max_num_batched_tokens": 512}},
        cluster={"route": "least-loaded"},
    ),
    # arXiv 2401.11181, section 2 of the notes: what the evaluation of the paper uses.
    "tetriinfer": System(
        "TetriInfer: prefill in fixed chunks, decode apart, two-level scheduling by predicted length",
        pools={
            "prefill": {"batching": "fixed-chunks", "chunk_tokens": 512, "queue": "sjf", "queue_batch": 16,
                        "max_num_seqs": None},
            "decode": {"batching": "decode-only", "admission": "reserve-dynamic", "preemption": "swap",
                       "max_num_seqs": None},
        },
        cluster={
            "route": "least-loaded",
            "kv_link": {"bandwidth": "200 Gbit/s", "latency": "5 us"},
            "predict": {"policy": "bucket", "granularity_tokens": 200, "accuracy": 0.749, "mode": "parallel"},
            "place": {"policy": "power-of-two", "heavy_tokens": 128, "broadcast": "100 ms"},
            "flip": {"policy": "idle", "after": "60 s", "cost": "6 ms"},
        },
    ),
    # Routers that know what is cached where.
    "dynamo": System(
        "Dynamo-style: vLLM V1 instances behind a router that weighs cached prefixes against KV blocks in use",
        pools={"hybrid": V1},
        cluster={"route": "prefix-aware"},
    ),
    "mooncake": System(
        "Mooncake: prefill and decode apart, routing by predicted TTFT, prefixes from peers, late ones rejected",
        pools={
            "prefill": {"batching": "token-budget", "max_num_batched_tokens": 8192, "max_num_seqs": None,
                        "prefix_caching": True},
            "decode": {"batching": "decode-only", "max_num_seqs": None},
        },
        cluster={
            "route": "least-ttft",
            "kv_link": {"bandwidth": "800 Gbit/s", "latency": "5 us", "granularity": "layer"},
            "fetch": {"policy": "if-sooner", "bandwidth": "800 Gbit/s"},
            "reject": {"policy": "late", "ttft": "30 s"},
            "place": {"policy": "least-kv", "broadcast": "100 ms"},
        },
    ),
    # arXiv 2401.09670, with the settings of its repository; KV goes over the NVLink of an A100.
    "distserve": System(
        "DistServe: prefill and decode apart, whole prompts first come first served, decode instances pull KV",
        pools={
            "prefill": {"batching": "prefill-first", "max_num_batched_tokens": 8192, "max_num_seqs": 128},
            "decode": {"batching": "decode-only", "max_num_seqs": 1024, "preemption": "swap", "swap_space": "16 GB"},
        },
        cluster={
            "route": "least-loaded",
            "kv_link": {"bandwidth": "300 GB/s", "latency": "5 us"},
            "place": {"policy": "pull", "broadcast": "5 ms"},
        },
    ),
    # arXiv 2410.13461: for few requests at a time; its kernels take no more than 8 rows.
    "pmpd": System(
        "PMPD: weights of 3 bits, and of 2 after the first third of an answer of 256 tokens; at most 8 sequences",
        pools={"hybrid": {**V1, "max_num_seqs": 8, "precision": {}}},
        cluster={"route": "least-loaded"},
    ),
    # arXiv 2509.16495: the KV cache is cut by heads under either kind of parallelism, so each step may choose.
    "shift": System(
        "Shift Parallelism: vLLM V1 whose large steps split their tokens over the GPUs, not the weights",
        pools={"hybrid": {**V1, "split_above_tokens": 256}},
        cluster={"route": "least-loaded"},
    ),
    # arXiv 2406.03243 on V1's engine: dispatch and moves by virtual load, 50 ms apart (llumnix docs/Arguments.md).
    "llumnix": System(
        "Llumnix: running requests move live between instances, dispatch by virtual load",
        pools={"hybrid": {"batching": "token-budget", "prefix_caching": True}},
        cluster={"route": "virtual-load", "migrate": {"policy": "balance", "period": "50 ms"}},
    ),
    # arXiv 2505.11916, with the thresholds of Narwhal's documentation.
    "arrow": System(
        "Arrow-like: prefill and decode apart, and instances that change role as demand changes",
        pools={
            "prefill": {"batching": "fixed-chunks", "chunk_tokens": 2048, "max_num_seqs": None},
            "decode": {"batching": "decode-only", "max_num_seqs": 256},
        },
        cluster={
            "route": "least-loaded",
            "kv_link": {"bandwidth": "200 Gbit/s", "latency": "5 us"},
            "place": {"policy": "least-kv", "broadcast": "10 ms"},
            "flip": {"policy": "never", "cost": "0 s"},
            "ratio": {"policy": "demand", "period": "1 s", "expand": 1.0, "shrink": 0.5, "confirmations": 3,
                      "cooldown": "10 s"},
        },
    ),
    # arXiv 2305.05920: whoever has been served least goes first, and KV of the others waits on the host.
    "fastserve": System(
        "FastServe: skip-join multi-level feedback queue, preemption at every iteration, KV swapped beside the steps",
        pools={"hybrid": {"batching": "whole-prompts", "queue": "priority", "preemption": "swap",
                          "swap_space": "200 GiB", "mlfq": {"quantum": "10 ms", "ratio": 2, "starvation": "3 s"}}},
        cluster={"route": "least-loaded"},
    ),
    # arXiv 2311.18677, with the link and the thresholds of splitwise-sim; its GPUs differ where the pools say so.
    "splitwise": System(
        "Splitwise: prompt and token pools, KV sent layer by layer, instances lent to the pool that is short",
        pools={
            "prefill": {"batching": "token-budget", "max_num_batched_tokens": 2048, "max_num_seqs": None},
            "decode": {"batching": "decode-only", "max_num_seqs": 256},
        },
        cluster={
            "route": "least-loaded",
            "kv_link": {"bandwidth": "200 GB/s", "latency": "5 us", "granularity": "layer"},
            "place": {"policy": "least-kv", "broadcast": "10 ms"},
            "flip": {"policy": "never", "cost": "0 s"},
            "ratio": {"policy": "pending", "period": "100 ms", "confirmations": 1, "cooldown": "1 s"},
        },
    ),
    # arXiv 2508.01989: two kinds of instances, both of which prefill and decode.
    "taichi": System(
        "TaiChi: half of the instances with large chunks, half with small ones, decodes flowing between them",
        pools={"hybrid": {"batching": "token-budget", "prefix_caching": True}},
        kinds=({"max_num_batched_tokens": 1024, "max_num_seqs": 256},
               {"max_num_batched_tokens": 256, "max_num_seqs": 256}),
        cluster={"route": "length-aware",
                 "migrate": {"policy": "flow", "period": "50 ms", "at_once": 64, "at_first_token": True}},
    ),
    # arXiv 2503.09304, section b of the notes: four queues, and steps that stop inside a layer.
    "qllm": System(
        "QLLM: urgent requests stop others' steps at the next expert, which go on later without recomputing",
        pools={"hybrid": {"batching": "prefill-first", "queue": "priority", "max_num_seqs": 32,
                          "preempt": {"granularity": "expert", "switch": "100 us"}}},
        cluster={"route": "least-loaded"},
    ),
    # arXiv 2412.16434 (notes, section a): a node as in its evaluation, PCIe from the GPU's data sheet.
    "symphony": System(
        "SYMPHONY: hints bring a session's KV to the instance chosen for its next turn, while the user types",
        pools={"hybrid": V1},
        cluster={
            "route": "least-loaded",
            "tiers": {"host": "256 GB", "disk": "4 TB", "network": "100 Gbit/s", "load": "layer"},
            "hints": {"lead": "typing"},
        },
    ),
    # arXiv 2402.01869, as SYMPHONY's baseline: KV waits in host memory, and its session comes back to it.
    "sticky-offload": System(
        "InferCept-like: KV of sessions waits in host memory, and each session stays at one instance",
        pools={"hybrid": V1},
        cluster={
            "route": "session-sticky",
            "tiers": {"host": "256 GB", "disk": "0 B", "keep_on_gpu": False, "remote": False, "load": "apart"},
        },
    ),
}  # fmt: skip
