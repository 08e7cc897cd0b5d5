"""SYMPHONY: chats under six ways to treat the KV of sessions between turns; hints that fail; layers that wait."""

from pathlib import Path

import numpy as np
from paper.scheduling import OTHER, OWN, TETRI, VLLM, WORST, draw_line, run_variants

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

SYSTEMS = {
    "vllm-v0": ("recompute", WORST), "vllm-v1": ("V1", VLLM), "v1-sticky": ("tuned V1", OTHER),
    "sticky-offload": ("sticky offload", TETRI), "symphony": ("SYMPHONY", OWN),
}  # fmt: skip
"""System -> its name in the picture, and its place among the colours."""
LINES = ("vllm-v0", "vllm-v1", "symphony")
"""Those shown at fewer users, too; the others are where SYMPHONY is."""
OTHERS = ("reactive-pull", "symphony-oracle")
SPREAD = ("symphony", "symphony-rebind", "sticky-offload", "reactive-pull")
BESIDE = ("reactive-pull", "sticky-offload", "vllm-v0")
POOL = "cluster.pools.0"
USERS, FEW = (80, 160, 240), 3
"""Below the scenario's number of users; so many seeds are enough for a line."""
V1 = (2048, 256)
TRIED = (V1, (512, 256), (8192, 256), (2048, 128))
"""Token budgets and caps on sequences: vLLM's own, and others."""
LARGE = {
    "model": str(Path(__file__).with_name("llama-2-13b-32k.json")),
    "workload.concurrency": 80, "workload.requests": 1200,
}  # fmt: skip
"""LLaMA-2-13B: 800 KiB of KV a token, six times as much; with more users its memory is short."""
EIGHT = {f"{POOL}.instances": 8, "workload.concurrency": 256}
SLOW = ("symphony-10g", "apart-10g", "reactive-10g")
"""The same model at 10 Gbit/s."""
WARM_S, TAIL_S = 110.0, 10.0
"""Of the run, judged are turns that come after the first sessions are over and in time to end."""
SYMPHONY = {"system": "symphony"}
NAMES = {"vllm-v0": "recompute", "symphony": "SYMPHONY", "symphony-rebind": "and rebinding",
         "sticky-offload": "sticky offload", "reactive-pull": "reactive pull", "all hints": "SYMPHONY"}  # fmt: skip
HINTS = {
    "all hints": {}, "10 % missed": {"cluster.hints.missed": 0.1}, "60 % false": {"cluster.hints.spurious": 0.6},
    "whole loads": {"cluster.tiers.load": "whole"},
}  # fmt: skip


def figure(scenario: Scenario) -> Findings:
    """Figures 11, 15, 17, 19 and 20 of the paper, beside what its baselines were and what they would be today."""
    best = tuned_v1(scenario)
    variants = {name: {"system": name} for name in (*SYSTEMS, *OTHERS)} | {"v1-sticky": v1(*best)}
    runs = run_variants(scenario, variants, measure)
    lines = {
        name: [
            run_variants(scenario, {name: {**variants[name], "workload.concurrency": users}}, measure, seeds=FEW)[name]
            for users in USERS
        ]
        for name in LINES
    }
    large = run_variants(scenario, {name: {**SYMPHONY, **LARGE, **own} for name, own in HINTS.items()}, measure)
    large |= run_variants(scenario, {name: {"system": name, **LARGE} for name in (*BESIDE, *SLOW)}, measure)
    slow, apart = large["symphony-10g"], large["apart-10g"]
    eight = run_variants(scenario, {name: {"system": name, **EIGHT} for name in SPREAD}, measure, seeds=FEW)
    ours, hinted, bound, rebound = runs["symphony"], large["all hints"], eight["symphony"], eight["symphony-rebind"]
    metrics: dict[str, Estimate | float] = {
        "mean E2EL, recompute over SYMPHONY": estimate(runs["vllm-v0"]["e2el"] / ours["e2el"]),
        "mean E2EL, V1 over SYMPHONY": estimate(runs["vllm-v1"]["e2el"] / ours["e2el"]),
        "mean E2EL, tuned V1 over SYMPHONY": estimate(runs["v1-sticky"]["e2el"] / ours["e2el"]),
        "mean E2EL, sticky offload over SYMPHONY": estimate(runs["sticky-offload"]["e2el"] / ours["e2el"]),
        "mean E2EL, reactive pull over SYMPHONY": estimate(runs["reactive-pull"]["e2el"] / ours["e2el"]),
        "mean E2EL, SYMPHONY over an oracle": estimate(ours["e2el"] / runs["symphony-oracle"]["e2el"]),
        "users at recompute's E2EL, ratio": users_ratio(scenario, runs, lines),
        "13B, mean E2EL, recompute over SYMPHONY": estimate(large["vllm-v0"]["e2el"] / hinted["e2el"]),
        "13B, median TTFT, reactive pull over SYMPHONY": estimate(large["reactive-pull"]["ttft"] / hinted["ttft"]),
        "13B, mean E2EL, reactive pull over SYMPHONY": estimate(large["reactive-pull"]["e2el"] / hinted["e2el"]),
        "13B, 10 % missed hints, TPOT (%)": change(large["10 % missed"]["tpot"], hinted["tpot"]),
        "13B, 60 % false hints, throughput (%)": change(large["60 % false"]["rate"], hinted["rate"]),
        "13B, no layer-wise loads, throughput (%)": change(large["whole loads"]["rate"], hinted["rate"]),
        "10 Gbit/s, mean E2EL, SYMPHONY over sticky offload": estimate(slow["e2el"] / large["sticky-offload"]["e2el"]),
        "10 Gbit/s, mean E2EL, SYMPHONY with loads apart over sticky offload": estimate(
            apart["e2el"] / large["sticky-offload"]["e2el"]
        ),
        "10 Gbit/s, median TTFT, reactive pull over SYMPHONY with loads apart": estimate(
            large["reactive-10g"]["ttft"] / apart["ttft"]
        ),
        "8 GPUs, max over median load, SYMPHONY": estimate(bound["load"]),
        "8 GPUs, max over median load, SYMPHONY that rebinds": estimate(rebound["load"]),
        "8 GPUs, median TTFT, rebinding over not": estimate(rebound["ttft"] / bound["ttft"]),
        "8 GPUs, max over median load, sticky offload": estimate(eight["sticky-offload"]["load"]),
        "8 GPUs, max over median load, reactive pull": estimate(eight["reactive-pull"]["load"]),
        "tuned V1, budget (tokens)": float(best[0]),
        "tuned V1, cap (sequences)": float(best[1]),
    }  # fmt: skip
    return Findings(metrics, lambda canvas: draw(canvas, scenario, runs, lines, large, eight), (12.0, 4.2))


def measure(result):
    """Latencies (s) of the turns judged, turns finished a second, and how unevenly instances were loaded."""
    rows, end = result.request_columns, result.simulated_s
    judged = (rows["arrival_s"] >= WARM_S) & (rows["arrival_s"] < end - TAIL_S)
    some = {name: column[judged] for name, column in rows.items()}
    finished = rows["finish_s"]
    return {
        "e2el": define.e2el(some).mean(), "ttft": np.median(define.ttft(some)), "tpot": define.tpot(some).mean(),
        "rate": float(((finished >= WARM_S) & (finished < end)).sum()) / (end - WARM_S), "load": uneven(result),
    }  # fmt: skip


def uneven(result):
    """The requests at the most loaded instance over those at the median one, on average over time."""
    rows, moments = result.request_columns, np.arange(WARM_S, result.simulated_s, 0.5)
    loads = []
    for name in result.instance_columns["instance"]:
        mine = rows["prefill_instance"] == name
        came, left = np.sort(rows["arrival_s"][mine]), np.sort(rows["finish_s"][mine])  # NaN goes last
        loads.append(np.searchsorted(came, moments) - np.searchsorted(left, moments))
    return float(np.mean(np.max(loads, axis=0) / np.maximum(1, np.median(loads, axis=0))))


def change(values, base):
    """Change against `base` in %, seed by seed."""
    return estimate(100 * (values / base - 1))


def v1(budget, cap):
    """V1 with its prefix cache and sticky routing."""
    return {"system": "v1-sticky", f"{POOL}.max_num_batched_tokens": budget, f"{POOL}.max_num_seqs": cap}


def tuned_v1(scenario):
    """The budget and cap that are best on the first seed."""
    found = run_variants(scenario, {str(key): v1(*key) for key in TRIED}, measure, seeds=1)
    return min(TRIED, key=lambda key: found[str(key)]["e2el"][0])


def users_ratio(scenario, runs, lines):
    """How many more users SYMPHONY has than recompute at the latency that recompute has with its fewest."""
    users = [*USERS, scenario.workload.concurrency]
    limit = lines["vllm-v0"][0]["e2el"].mean()
    ours = [*(each["e2el"].mean() for each in lines["symphony"]), runs["symphony"]["e2el"].mean()]
    return float(np.interp(limit, ours, users)) / users[0]


def draw(canvas, scenario, runs, lines, large, eight):
    left, middle, right = canvas.subplots(1, 3, width_ratios=(1.5, 1, 1))
    users = [*USERS, scenario.workload.concurrency]
    offsets = {"vllm-v0": (-78, 2), "vllm-v1": (-36, 8), "symphony": (-70, -16)}
    for name in LINES:
        points = [estimate(each["e2el"]) for each in (*lines[name], runs[name])]
        draw_line(left, users, points, SYSTEMS[name][1], SYSTEMS[name][0], offsets[name])
    left.annotate(
        "tuned V1, sticky offload, reactive pull:\nwithin 1 % of SYMPHONY", (users[-1], 0), (0, 30), ha="right",
        textcoords="offset points", color="0.3",
    )  # fmt: skip
    left.set_ylim(bottom=0)
    style.plain(left, "Llama-3.1-8B on two A100", "users who chat", "mean E2EL (s)")
    bars(middle, {name: 1e3 * large[name]["ttft"] for name in (*HINTS, *BESIDE)}, "{:.0f}")
    style.plain(middle, "LLaMA-2-13B, 80 users", "median TTFT (ms)")
    bars(right, {name: eight[name]["load"] for name in eight}, "{:.2f}")
    right.axvline(1, color="0.6", linewidth=0.8)
    style.plain(right, "Eight GPUs, 256 users", "load, max over median")
    for axis in (middle, right):
        axis.grid(False, axis="y")


def bars(axis, rows, form):
    """One bar a variant, the value beside it."""
    for row, (name, values) in enumerate(rows.items()):
        value = estimate(values)
        colour = style.colour(OWN if name in HINTS else SYSTEMS.get(name, ("", OTHER))[1])
        axis.barh(row, value.mean, 0.6, xerr=value.half, color=colour, ecolor="0.3", capsize=3)
        axis.annotate(form.format(value.mean), (value.high, row), (4, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(rows)), [NAMES.get(name, name) for name in rows])
    axis.invert_yaxis()
    axis.margins(x=0.3)
