"""Figure 16: prefill latency of chunks against vLLM's fixed batches, and the order of the queue before prefill.

Latency is from the first step a prompt is in to its first token; waiting is from arrival to that first step (notes,
section 7: with queueing counted, the paper's 86 % cannot be had).
"""

import timeit

import numpy as np
from paper.scheduling import OTHER, TETRI, VLLM, WORST, change, draw_line, prompts_only, run_variants

from tetrisim.report import style
from tetrisim.scenario.model import load_model
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

BATCH = 16
"""Prompts in a fixed batch, and the paper's PrefillSchedBatch."""

GROUPS = (16, 32, 64, 128)
WORKLOADS = {"ShareGPT": "sharegpt-mixed", "heavy prompts": "hpld"}
ORDERS = {"FCFS": OTHER, "SJF": TETRI, "LJF": WORST}


def figure(scenario: Scenario) -> Findings:
    """Mean latencies by workload and order; waiting against FCFS by the size of the sorted group."""
    latency = {label: _latencies(scenario, trace) for label, trace in WORKLOADS.items()}
    waiting = {order: [_waiting(scenario, order, group) for group in GROUPS] for order in ("SJF", "LJF")}

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        _draw_latency(left, latency)
        for order, values in waiting.items():
            draw_line(right, GROUPS, [estimate(row) for row in values], ORDERS[order], order)
        right.axhline(0, color=style.colour(OTHER), linestyle=style.dash(OTHER))
        style.name_line(right, "FCFS", (GROUPS[-1], 0), OTHER, (6, 0))
        right.set_xscale("log", base=2)
        right.set_xticks(GROUPS, [str(group) for group in GROUPS])
        style.plain(
            right, "Waiting, ShareGPT", "PrefillSchedBatch (prompts sorted at once)", "mean waiting against FCFS (%)"
        )

    metrics: dict[str, Estimate | float] = {
        f"chunked FCFS against fixed batch, {label} (%)": change(rows["FCFS"], rows["fixed batch"])
        for label, rows in latency.items()
    }
    metrics |= {
        f"SJF against FCFS, waiting at {group} (%)": estimate(row)
        for group, row in zip(GROUPS, waiting["SJF"], strict=True)
    }
    metrics |= {
        f"SJF at {group} against SJF at 16 (points)": estimate(row - waiting["SJF"][0])
        for group, row in zip(GROUPS[1:], waiting["SJF"][1:], strict=True)
    }
    metrics["LJF against FCFS, waiting at 16 (%)"] = estimate(waiting["LJF"][0])
    metrics["sorting 128 prompts (us)"] = _sort_us()
    return Findings(metrics, draw)


def _measure(result):
    rows = result.request_columns
    return {
        "latency": 1e3 * float(np.nanmean(rows["first_token_s"] - rows["prefill_start_s"])),
        "waiting": float(np.nanmean(rows["prefill_start_s"] - rows["arrival_s"])),
    }


def _latencies(scenario, trace):
    """Mean prefill latency (ms) of each order, and of whole prompts in fixed batches."""
    cut = scenario.cluster.pools[0].tensor_parallel
    budget = BATCH * load_model(scenario.model).max_positions
    hybrid = {"role": "hybrid", "tensor_parallel": cut, "max_num_seqs": BATCH, "max_num_batched_tokens": budget}
    variants = {
        "fixed batch": {"workload.trace": trace, "system": "vllm-v0", "cluster.pools": [hybrid]},
        **{order: {"workload.trace": trace, "cluster.pools.0.queue": order.lower()} for order in ORDERS},
    }
    found = run_variants(scenario, variants, _measure, prompts_only)
    return {name: values["latency"] for name, values in found.items()}


def _waiting(scenario, order, group):
    """Change of the mean waiting against FCFS in %, seed by seed."""
    variants = {
        name: {"cluster.pools.0.queue": name.lower(), "cluster.pools.0.queue_batch": group} for name in ("FCFS", order)
    }
    found = run_variants(scenario, variants, _measure, prompts_only)
    return 100 * (found[order]["waiting"] / found["FCFS"]["waiting"] - 1)


def _sort_us():
    prompts = np.random.default_rng(0).integers(1, 2048, 128).tolist()
    return 1e6 * min(timeit.repeat(lambda: sorted(prompts), number=100, repeat=5)) / 100


def _draw_latency(axis, latency):
    places = {"fixed batch": VLLM, **ORDERS}
    for column, (name, place) in enumerate(places.items()):
        for group, rows in enumerate(latency.values()):
            value = estimate(rows[name])
            at = group * 5 + column
            axis.bar(at, value.mean, 0.8, yerr=value.half, color=style.colour(place), capsize=3)
            label = "fixed\nbatch" if column == 0 else name
            axis.annotate(f"{label}\n{value.mean:.0f}", (at, value.high), (0, 2), textcoords="offset points",
                          ha="center", va="bottom", fontsize=8.5)  # fmt: skip
    axis.set_xticks([1.5, 6.5], list(latency))
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_ylim(top=2.2 * axis.get_ylim()[1])
    style.plain(axis, "Prefill latency, waiting not counted", "", "mean (ms, log scale)")
    axis.grid(False, axis="x")
