"""Shift Parallelism against tensor, sequence and data parallelism: one request, the peak, a trace with bursts."""

import numpy as np
from paper.scheduling import OTHER, OWN, VLLM, WORST, draw_line, run_variants

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.streams import stream
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate
from tetrisim.workload.trace import Trace

POOL = "cluster.pools.0"
ONE_EACH = {f"{POOL}.instances": 8, f"{POOL}.tensor_parallel": 1}
SPLIT = f"{POOL}.split_above_tokens"
VARIANTS = {"DP": ONE_EACH, "TP": {}, "SP": {SPLIT: 0}, "Shift": {SPLIT: 256}}
V1 = {f"{POOL}.max_num_batched_tokens": 8192}
"""vLLM's own budget on this GPU; above it the paper's artifact asks for 131072."""
PLACES = {"DP": OTHER, "TP": VLLM, "SP": WORST, "Shift": OWN}
BUDGETS, THRESHOLDS = (2048, 32768), (64, 256, 512, 2048, 8192)
ALONE = {"workload.requests": 1}
BURSTS, SPAN_S, QUIET_PER_S, BURST_REQUESTS = 4, 120.0, 2.0, 120


def figure(scenario: Scenario) -> Findings:
    """Figure 12 and Table 5 of arXiv 2509.16495; then what the threshold and vLLM's own budget are worth."""
    alone = {
        name: run_variants(scenario, {name: {**own, **ALONE}}, _times, seeds=1)[name] for name, own in VARIANTS.items()
    }
    peak = {
        name: run_variants(scenario, {name: own}, _rate, seeds=1)[name]["rate"][0] for name, own in VARIANTS.items()
    }
    bursts = run_variants(scenario, {**VARIANTS, "V1": V1}, _medians, _bursty)
    tuned = run_variants(scenario, {str(budget): {f"{POOL}.max_num_batched_tokens": budget} for budget in BUDGETS},
                         _medians, _bursty)  # fmt: skip
    best = min(tuned.values(), key=lambda rows: rows["e2el"].mean())
    limits = run_variants(scenario, {str(limit): {SPLIT: limit} for limit in THRESHOLDS}, _medians, _bursty)
    ttft, tpot = ({name: rows[key][0] for name, rows in alone.items()} for key in ("ttft", "tpot"))
    shift = bursts["Shift"]
    metrics: dict[str, Estimate | float] = {
        "alone, TTFT, Shift over SP": ttft["Shift"] / ttft["SP"],
        "alone, TPOT, Shift over TP": tpot["Shift"] / tpot["TP"],
        "alone, TTFT, DP over Shift": ttft["DP"] / ttft["Shift"],
        "alone, TTFT, TP over Shift": ttft["TP"] / ttft["Shift"],
        "peak tokens/s, Shift over TP": peak["Shift"] / peak["TP"],
        "peak tokens/s, DP over Shift": peak["DP"] / peak["Shift"],
        "bursts, median TTFT, DP over Shift": estimate(bursts["DP"]["ttft"] / shift["ttft"]),
        "bursts, median TTFT, TP over Shift": estimate(bursts["TP"]["ttft"] / shift["ttft"]),
        "bursts, median TPOT, DP over Shift": estimate(bursts["DP"]["tpot"] / shift["tpot"]),
        "bursts, median TPOT, TP over Shift": estimate(bursts["TP"]["tpot"] / shift["tpot"]),
        "bursts, mean E2EL, vLLM V1 over Shift": estimate(bursts["V1"]["e2el"] / shift["e2el"]),
        "bursts, mean E2EL, tuned V1 over Shift": estimate(best["e2el"] / shift["e2el"]),
        "bursts, mean E2EL, threshold 512 over 256": estimate(limits["512"]["e2el"] / limits["256"]["e2el"]),
        "best threshold (tokens)": float(min(THRESHOLDS, key=lambda limit: limits[str(limit)]["e2el"].mean())),
    }

    def draw(canvas):
        left, middle, right = canvas.subplots(1, 3)
        for name in VARIANTS:
            rows = bursts[name]
            at = (rows["ttft"].mean(), 1e3 * rows["tpot"].mean())
            left.plot(*at, "o", color=style.colour(PLACES[name]), markersize=8)
            style.name_line(left, name, at, PLACES[name], (8, 6))
        left.margins(x=0.25, y=0.15)
        left.set_xlim(left=0)
        left.set_ylim(bottom=0)
        style.plain(left, "A trace with four bursts", "median TTFT (s)", "median TPOT (ms)")
        for row, name in enumerate(VARIANTS):
            middle.barh(row, peak[name] / 1e3, 0.6, color=style.colour(PLACES[name]))
            middle.annotate(
                f"{peak[name] / 1e3:.0f}k", (peak[name] / 1e3, row), (4, 0), textcoords="offset points", va="center"
            )
        middle.set_yticks(range(len(VARIANTS)), list(VARIANTS))
        middle.invert_yaxis()
        middle.margins(x=0.2)
        style.plain(middle, "Peak throughput", "prompt and output tokens/s (thousands)")
        middle.grid(False, axis="y")
        points = [estimate(limits[str(limit)]["e2el"]) for limit in THRESHOLDS]
        draw_line(right, THRESHOLDS, points, OWN, "Shift", (0, 12), at=len(THRESHOLDS) // 2)
        right.axhline(bursts["TP"]["e2el"].mean(), color=style.colour(VLLM), linestyle="--")
        style.name_line(right, "TP", (THRESHOLDS[0], bursts["TP"]["e2el"].mean()), VLLM, (0, -10))
        right.set_xscale("log", base=2)
        right.set_xticks(THRESHOLDS, [str(limit) for limit in THRESHOLDS], rotation=45)
        right.margins(y=0.12)
        right.set_ylim(bottom=0)
        style.plain(right, "The threshold, same trace", "tokens above which a step splits them", "mean E2EL (s)")

    return Findings(metrics, draw, (12.0, 4.2))


def _bursty(scenario: Scenario) -> Trace:
    """Poisson arrivals at a quiet rate, and four bursts of requests within two seconds each."""
    rng, workload = stream(scenario.seed, "bursts"), scenario.workload
    quiet = rng.uniform(0, SPAN_S, rng.poisson(QUIET_PER_S * SPAN_S))
    starts = SPAN_S * (np.arange(BURSTS) + 0.5) / BURSTS
    at = np.sort(np.concatenate([quiet, *(start + rng.uniform(0, 2, BURST_REQUESTS) for start in starts)]))
    assert workload.prompt_tokens and workload.output_tokens
    return Trace("bursts", at, np.full(len(at), workload.prompt_tokens), np.full(len(at), workload.output_tokens))


def _times(result):
    rows = result.request_columns
    return {"ttft": float(define.ttft(rows).mean()), "tpot": float(define.tpot(rows).mean())}


def _rate(result):
    rows = result.request_columns
    return {"rate": float((rows["prompt_tokens"] + rows["output_tokens"]).sum() / define.duration(rows))}


def _medians(result):
    rows = result.request_columns
    return {
        "ttft": float(np.median(define.ttft(rows))),
        "tpot": float(np.median(define.tpot(rows))),
        "e2el": float(define.e2el(rows).mean()),
    }
