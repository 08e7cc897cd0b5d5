"""Splitwise: what clusters of equal price sustain, mixed or split, on H100, on A100, or on both."""

from math import exp, log

import numpy as np
from paper.scheduling import OTHER, OWN, WORST, run_variants

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.gpu import dollars_per_hour
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import simulate
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import SEEDS, Estimate, estimate

A100, H100 = "a100-80gb", "h100-sxm"
PERCENTS = (50, 90, 99)
LIMITS = {"ttft": (2, 3, 6), "tbt": (1.25, 1.5, 5), "e2el": (1.25, 1.5, 5)}
"""Slowdown over a request that is alone on an A100 machine: of TTFT, of each gap between tokens, and of E2EL."""

LOWEST_PER_S, STEP = 1.0, 1.25
OFF = {"cluster.ratio.policy": "fixed"}


def _mixed(system: str, machines: int, gpu: str, **pool: int):
    return {"system": system, "cluster.pools": [
        {"role": "hybrid", "instances": machines, "tensor_parallel": 8, "gpu": gpu, **pool}
    ]}  # fmt: skip


def _split(prompt: int, prompt_gpu: str, token: int, token_gpu: str):
    return {"cluster.pools": [
        {"role": "prefill", "instances": prompt, "tensor_parallel": 8, "gpu": prompt_gpu},
        {"role": "decode", "instances": token, "tensor_parallel": 8, "gpu": token_gpu},
    ]}  # fmt: skip


DESIGNS = {
    "baseline, 6 A100": _mixed("vllm-v0", 6, A100),
    "baseline, 4 H100": _mixed("vllm-v0", 4, H100),
    "vLLM V1, 4 H100": _mixed("vllm-v1", 4, H100),
    "tuned V1, 4 H100": _mixed("vllm-v1", 4, H100, max_num_batched_tokens=1024, max_num_seqs=256),
    "split, 3 + 3 A100": _split(3, A100, 3, A100),
    "split, 2 + 2 H100": _split(2, H100, 2, H100),
    "split, 2 H100 + 3 A100": _split(2, H100, 3, A100),
    "split, 1 H100 + 3 A100": _split(1, H100, 3, A100),
}
"""All of the same price (four H100 machines) but the last."""

PLACES = {"baseline": WORST, "vLLM V1": 1, "tuned V1": OTHER, "split": OWN}
CHEAP = "split, 1 H100 + 3 A100"
ALONE = {**_mixed("vllm-v0", 1, A100), "workload.arrivals": "closed-loop", "workload.concurrency": 1,
         "workload.rate": None}  # fmt: skip


def figure(scenario: Scenario) -> Findings:
    """The designs of the paper's section 6 (arXiv 2311.18677), sized by price; power is not modelled."""
    alone = [_alone(override(scenario, {**ALONE, "seed": scenario.seed + at})) for at in range(SEEDS)]
    rates = {name: np.array(_rates(override(scenario, own), alone)) for name, own in DESIGNS.items()}
    prices = {name: dollars_per_hour(override(scenario, own).cluster) for name, own in DESIGNS.items()}
    base = rates["baseline, 4 H100"]
    equal = [name for name in DESIGNS if name.startswith("split") and name != CHEAP]
    best = max(equal, key=lambda name: rates[name].mean())
    own = DESIGNS[best]
    kv = {
        "layer": own, "request": {**own, "cluster.kv_link.granularity": "request"}, "never lent": {**own, **OFF},
        "lent": own,
    }  # fmt: skip
    sent = run_variants(override(scenario, {"workload.rate": float(0.9 * rates[best].mean())}), kv, _measure)
    metrics: dict[str, Estimate | float] = {
        "equal price, best split over baseline H100": estimate(rates[best] / base),
        "price of the cheaper split over baseline H100": prices[CHEAP] / prices["baseline, 4 H100"],
        "cheaper split over baseline H100": estimate(rates[CHEAP] / base),
        "split A100 over baseline A100": estimate(rates["split, 3 + 3 A100"] / rates["baseline, 6 A100"]),
        "split H100 and A100 over split H100": estimate(rates["split, 2 H100 + 3 A100"] / rates["split, 2 + 2 H100"]),
        "best split over vLLM V1": estimate(rates[best] / rates["vLLM V1, 4 H100"]),
        "best split over tuned V1": estimate(rates[best] / rates["tuned V1, 4 H100"]),
        "transfer of E2EL, by layer (%)": estimate(sent["layer"]["transfer"]),
        "transfer of E2EL, by request (%)": estimate(sent["request"]["transfer"]),
        "second token's gap against the others, by layer (%)": estimate(sent["layer"]["second"]),
        "second token's gap against the others, by request (%)": estimate(sent["request"]["second"]),
        "P99 TTFT, instances lent over never": estimate(sent["lent"]["p99"] / sent["never lent"]["p99"]),
    }

    def draw(canvas):
        left, right = canvas.subplots(1, 2, width_ratios=(1.7, 1))
        for row, (name, values) in enumerate(rates.items()):
            value = estimate(values)
            colour = style.colour(PLACES[name.split(",")[0]])
            left.barh(row, value.mean, 0.6, xerr=value.half, color=colour, ecolor="0.3", capsize=3)
            left.annotate(f"{value.mean:.1f} at {prices[name]:.0f} $/h", (value.high, row), (4, 0),
                          textcoords="offset points", va="center", fontsize=9)  # fmt: skip
        left.set_yticks(range(len(rates)), list(rates))
        left.invert_yaxis()
        left.margins(x=0.3)
        style.plain(left, "Sustained within all nine limits", "requests/s")
        left.grid(False, axis="y")
        for row, kind in enumerate(("layer", "request")):
            value = estimate(sent[kind]["transfer"])
            right.barh(row, value.mean, 0.5, xerr=value.half, color=style.colour(OWN), ecolor="0.3", capsize=3)
        right.set_yticks((0, 1), ("by layer", "by request"))
        right.set_ylim(1.8, -0.8)
        style.plain(right, "From first token to KV there", "% of E2EL")
        right.grid(False, axis="y")

    return Findings(metrics, draw, (11.0, 4.2))


def _alone(scenario: Scenario):
    """TTFT and E2EL of each request, and the mean gap, when each is alone on one A100 machine."""
    result = simulate(scenario)
    return define.ttft(result.request_columns), define.e2el(result.request_columns), define.itl(result.gap_columns).mean


def _worst(scenario: Scenario, rate_per_s: float, alone) -> float:
    """The largest of the nine slowdowns, each as a share of its limit."""
    result = simulate(override(scenario, {"workload.rate": rate_per_s}))
    ttft, e2el, gap_s = alone
    found = {
        "ttft": np.percentile(define.ttft(result.request_columns) / ttft, PERCENTS),
        "tbt": np.array(define.itl(result.gap_columns).percentiles(PERCENTS)) / gap_s,
        "e2el": np.percentile(define.e2el(result.request_columns) / e2el, PERCENTS),
    }
    return max(float(np.max(found[name] / np.array(limits))) for name, limits in LIMITS.items())


def _rates(scenario: Scenario, alone) -> list[float]:
    """For each seed, the rate at which the first limit is reached."""
    found: list[float] = []
    for at, reference in enumerate(alone):
        own = override(scenario, {"seed": scenario.seed + at})
        rate = found[-1] / STEP if found else LOWEST_PER_S
        while (before := _worst(own, rate, reference)) > 1:
            rate /= STEP**2
        while (here := _worst(own, rate * STEP, reference)) <= 1:
            before, rate = here, rate * STEP
        part = -log(before) / (log(here) - log(before))
        found.append(rate * exp(part * log(STEP)))
    return found


def _measure(result):
    rows = result.request_columns
    moved = ~np.isnan(rows["transfer_end_s"])
    first, several = rows["first_token_s"], moved & (rows["output_tokens"] > 2)
    span = (rows["transfer_end_s"] - first)[moved] / (rows["finish_s"] - rows["arrival_s"])[moved]
    own = ((rows["finish_s"] - rows["decode_start_s"]) / (rows["output_tokens"] - 1))[several]
    second = (rows["decode_start_s"] - first)[several]
    return {
        "transfer": 100 * float(span.mean()),
        "second": 100 * float(np.median(second / own)),
        "p99": float(np.percentile(define.ttft(rows), 99)),
    }
