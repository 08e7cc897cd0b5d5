"""FastServe's queue against first come first served on the same engine, vLLM V0 and V1, and static batches."""

import numpy as np
from paper.scheduling import OTHER, OWN, VLLM, WORST, draw_line, run_variants

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import simulate
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

POOL = "cluster.pools.0"
VARIANTS = {
    "FastServe": {},
    "FCFS": {f"{POOL}.mlfq": None, f"{POOL}.queue": "fcfs"},
    "vLLM V0": {"system": "vllm-v0"},
    "vLLM V1": {"system": "vllm-v1"},
}
STATIC = {"system": "fastertransformer", f"{POOL}.kv_reservation": "none"}
LARGE = {f"{POOL}.max_num_seqs": 256}
"""What vLLM takes by default on this GPU."""
TUNING = [(budget, seqs) for budget in (512, 2048, 8192) for seqs in (64, 256)]
PLACES = {"FastServe": OWN, "FCFS": OTHER, "vLLM V0": WORST, "vLLM V1": VLLM}
RATES = (6, 8, 10, 12)


def figure(scenario: Scenario) -> Findings:
    """Latency over the load, then who gains and who pays for it at the scenario's rate."""
    loads = {
        rate: run_variants(scenario, {name: {**own, "workload.rate": f"{rate} /s"} for name, own in VARIANTS.items()},
                           _times)
        for rate in RATES
    }  # fmt: skip
    large = run_variants(
        scenario,
        {"FastServe": LARGE, "V1": {**VARIANTS["vLLM V1"], **LARGE}, "tuned": _tuned(scenario), "static": STATIC},
        _times,
    )
    at = loads[10]
    own, fcfs = at["FastServe"], at["FCFS"]
    metrics: dict[str, Estimate | float] = {}
    for name, rows in (("static batches", large["static"]), ("FCFS", fcfs), ("vLLM V0", at["vLLM V0"]),
                       ("vLLM V1", at["vLLM V1"])):  # fmt: skip
        metrics[f"mean E2EL, {name} over FastServe"] = estimate(rows["e2el"] / own["e2el"])
    metrics |= {
        "mean E2EL, V1 of 256 sequences over FastServe": estimate(large["V1"]["e2el"] / own["e2el"]),
        "mean E2EL, tuned V1 over FastServe": estimate(large["tuned"]["e2el"] / own["e2el"]),
        "mean E2EL a token, FCFS over FastServe": estimate(fcfs["a token"] / own["a token"]),
        "mean TTFT, FCFS over FastServe": estimate(fcfs["ttft"] / own["ttft"]),
        "p99 E2EL, FastServe over FCFS": estimate(own["p99"] / fcfs["p99"]),
        "p95 TTFT of the longest tenth of prompts, FastServe over FCFS": estimate(own["long"] / fcfs["long"]),
        "output tokens/s, FastServe over FCFS": estimate(own["rate"] / fcfs["rate"]),
        "256 sequences, mean E2EL, V1 over FastServe": estimate(large["V1"]["e2el"] / large["FastServe"]["e2el"]),
    }

    def draw(canvas):
        left, middle, right = canvas.subplots(1, 3)
        for axis, key, title, unit in ((left, "ttft", "Time to first token", "mean TTFT (s, log scale)"),
                                       (middle, "e2el", "End-to-end latency", "mean E2EL (s)")):  # fmt: skip
            for name, place in PLACES.items():
                points = [estimate(loads[rate][name][key]) for rate in RATES]
                below = name == "FCFS" or (key == "e2el" and name == "FastServe")
                draw_line(axis, RATES, points, place, name, (-34, -12 if below else 8))
            style.plain(axis, title, "requests/s", unit)
        left.set_yscale("log")
        middle.set_ylim(bottom=0)
        for name in ("FastServe", "FCFS", "vLLM V1"):
            curve = np.mean([loads[10][name][f"e2el {decile}"] for decile in range(10)], axis=1)
            right.plot(range(10), curve, "o-", color=style.colour(PLACES[name]))
            at_x, offset = {"FastServe": (5, (8, -6)), "FCFS": (1, (0, -12)), "vLLM V1": (1, (0, 12))}[name]
            style.name_line(right, name, (at_x, curve[at_x]), PLACES[name], offset)
        right.set_xticks(range(10), [f"{10 * decile + 10}" for decile in range(10)])
        style.plain(right, "By the answer's length, 10 requests/s", "tenth of the requests (%)", "mean E2EL (s)")

    return Findings(metrics, draw, (12.5, 4.2))


def _tuned(scenario: Scenario) -> dict[str, object]:
    """vLLM V1 with the budget and cap of the lowest mean E2EL, on a seed that is not judged."""
    apart = override(scenario, {"seed": scenario.seed + 1000})
    options = [{**VARIANTS["vLLM V1"], f"{POOL}.max_num_batched_tokens": budget, f"{POOL}.max_num_seqs": seqs}
               for budget, seqs in TUNING]  # fmt: skip
    return min(options, key=lambda own: _times(simulate(override(apart, own)))["e2el"])


def _times(result):
    rows = result.request_columns
    whole, first = define.e2el(rows), define.ttft(rows)
    longest = rows["prompt_tokens"] >= np.percentile(rows["prompt_tokens"], 90)
    parts = np.array_split(whole[np.argsort(rows["output_tokens"], kind="stable")], 10)
    return {
        "e2el": float(whole.mean()), "p99": float(np.percentile(whole, 99)), "ttft": float(first.mean()),
        "a token": float((whole / rows["output_tokens"]).mean()), "long": float(np.percentile(first[longest], 95)),
        "rate": float(rows["output_tokens"].sum() / define.duration(rows)),
        **{f"e2el {place}": float(part.mean()) for place, part in enumerate(parts)},
    }  # fmt: skip
