"""Mooncake: what its scheduler adds step by step, what it carries against vLLM on as many GPUs, and early rejection."""

from collections.abc import Mapping

import numpy as np
from paper.prefixes import MOONCAKE, chats
from paper.scheduling import OTHER, OWN, VLLM, WORST, Settings, change, run_variants
from paper.search import highest_rates

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Result
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate
from tetrisim.workload.trace import Trace

ALL = {"cluster.reject.policy": "never"}
LOCAL = {**ALL, "cluster.fetch.policy": "never"}
STEPS: Mapping[str, Settings] = {
    "random": {**LOCAL, "cluster.route": "random"},
    "load": {**LOCAL, "cluster.route": "least-loaded"},
    "local cache": LOCAL,
    "global cache": ALL,
}
PAPER_S = (19.65, 5.27, 3.58, 3.07)
PLACES = dict(zip(STEPS, (WORST, OTHER, VLLM, OWN), strict=True))

NODE = {"tensor_parallel": 8, "block_tokens": 256}
SMALL = {"workload.requests": 350, "workload.rate": 1.0}
"""The comparison at equal GPUs has four nodes."""


def _split(prefill: int) -> Settings:
    pools = [{"role": "prefill", "instances": prefill, **NODE}, {"role": "decode", "instances": 4 - prefill, **NODE}]
    return {**SMALL, **ALL, "cluster.pools": pools}


def _vllm(system: str, **pool: object) -> Settings:
    return {**SMALL, "system": system, "cluster.pools": [{"role": "hybrid", "instances": 4, **NODE, **pool}]}


SYSTEMS: Mapping[str, Settings] = {
    "Mooncake 3:1": _split(3),
    "vLLM V0": _vllm("vllm-v0"),
    "vLLM V1": _vllm("vllm-v1"),
    "V1, 512 tokens": _vllm("vllm-v1", max_num_batched_tokens=512),
}
LIMITS_S = (0.1, 0.2, 0.3)
SHARE, OVERLOAD, FEW = 0.9, 1.5, 4
FIRST_PER_S = (2.0, 2.0, 2.0)


def figure(scenario: Scenario) -> Findings:
    """The end-to-end and scheduling figures of the FAST'25 paper."""
    steps = run_variants(scenario, STEPS, _scheduling, _chats)
    capacity = {
        name: highest_rates(override(scenario, own), _shares, FIRST_PER_S, _chats) for name, own in SYSTEMS.items()
    }
    best = capacity["Mooncake 3:1"]
    tuned = np.maximum(capacity["vLLM V1"], capacity["V1, 512 tokens"])
    ttft = {name: rows["ttft"] for name, rows in steps.items()}
    metrics: dict[str, Estimate | float] = {
        "mean TTFT, random over load": estimate(ttft["random"] / ttft["load"]),
        "mean TTFT, load over local cache": estimate(ttft["load"] / ttft["local cache"]),
        "mean TTFT, local over global cache": estimate(ttft["local cache"] / ttft["global cache"]),
        "mean TTFT, global cache (s)": estimate(ttft["global cache"]),
        "tokens found, global over local cache": estimate(steps["global cache"]["hit"] / steps["local cache"]["hit"]),
        "prefill time, global against local cache (%)": change(
            steps["global cache"]["busy"], steps["local cache"]["busy"]
        ),
    }
    for name, base in (("V0", capacity["vLLM V0"]), ("V1", capacity["vLLM V1"]), ("tuned V1", tuned)):
        for place, limit in enumerate(LIMITS_S):
            metrics[f"rate against {name}, TBT {limit} s (%)"] = change(best[:, place], base[:, place])
    even = highest_rates(override(scenario, _split(2)), _shares, FIRST_PER_S, _chats, FEW)
    metrics["rate, 2:2 against 3:1 (%)"] = change(even[:, 1], best[:FEW, 1])
    metrics |= _rejection(scenario, OVERLOAD * float(best[:, 1].mean()))

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        for row, name in enumerate(STEPS):
            value = estimate(ttft[name])
            left.barh(row, value.mean, 0.6, xerr=value.half, color=style.colour(PLACES[name]), ecolor="0.3", capsize=3)
            note = f"{value.mean:.1f}, paper {PAPER_S[row]:.1f}"
            left.annotate(note, (value.high, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
        left.set_yticks(range(len(STEPS)), list(STEPS))
        left.invert_yaxis()
        left.margins(x=0.3)
        style.plain(left, "Routing, 8 prefill + 8 decode nodes", "mean TTFT (s)")
        left.grid(False, axis="y")
        shown = {"Mooncake 3:1": best, "vLLM V0": capacity["vLLM V0"], "V1, tuned": tuned}
        for row, (name, values) in enumerate(shown.items()):
            points = [estimate(values[:, place]) for place in range(len(LIMITS_S))]
            where = np.arange(len(LIMITS_S)) + 0.27 * (row - 1)
            right.bar(where, [each.mean for each in points], 0.25, yerr=[each.half for each in points], label=name,
                      color=style.colour((OWN, VLLM, OTHER)[row]), ecolor="0.3", capsize=3)  # fmt: skip
        right.set_xticks(range(len(LIMITS_S)), [f"{limit} s" for limit in LIMITS_S])
        right.set_ylim(0, 5)
        right.legend(frameon=False, fontsize=9, ncols=3, loc="upper center")
        style.plain(right, "Sustained by four nodes", "TBT limit", "requests/s")
        right.grid(False, axis="x")

    return Findings(metrics, draw, (10.0, 3.8))


def _chats(scenario: Scenario) -> Trace:
    return chats(scenario, MOONCAKE)


def _scheduling(result: Result) -> Mapping[str, float]:
    rows, instances = result.request_columns, result.instance_columns
    return {
        "ttft": float(define.ttft(rows).mean()),
        "hit": float(rows["cached_tokens"].sum() / rows["prompt_tokens"].sum()),
        "busy": float(instances["busy_s"][instances["role"] == "prefill"].sum()),
    }


def _shares(result: Result) -> list[float]:
    """For each TBT limit, the worse of it and of the TTFT limit, which nine requests in ten have to keep."""
    late_s = float(np.quantile(define.ttft(result.request_columns), SHARE))
    return [max(late_s / 30.0, longest_tenth_s(result) / limit) for limit in LIMITS_S]


def longest_tenth_s(result: Result) -> float:
    """The mean of the longest tenth of all gaps between tokens."""
    gaps = define.itl(result.gap_columns)
    values, weights = gaps.values[::-1], gaps.weights[::-1]
    above = np.clip(0.1 * weights.sum() - (np.cumsum(weights) - weights), 0, weights)
    return float((values * above).sum() / above.sum())


def _rejection(scenario: Scenario, rate: float) -> dict[str, Estimate | float]:
    """Served in time at an overload that lasts, with and without early rejection."""
    own = {**SYSTEMS["Mooncake 3:1"], "workload.rate": rate, "workload.requests": 600}
    variants = {policy: {**own, "cluster.reject.policy": policy} for policy in ("late", "never")}
    runs = run_variants(scenario, variants, _in_time, _chats)
    return {
        "served in time at 1.5 times that rate (%)": estimate(100 * runs["late"]["good"]),
        "the same without rejection (%)": estimate(100 * runs["never"]["good"]),
    }


def _in_time(result: Result) -> Mapping[str, float]:
    return {"good": define.good(result.request_columns, result.scenario.slo) / len(result.request_columns["status"])}
