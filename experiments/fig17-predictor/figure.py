"""Figure 17: the model's prefill alone, and with the length predictor beside it (parallel) or before it (sequential).

The predictor's cost is a parameter, so what is found is on whom it falls, and at which load. In parallel mode it slows
the chunks of requests that found others before them: with arrivals at random, their share is that of busy time.
"""

from dataclasses import replace

import numpy as np
from paper.scheduling import OTHER, TETRI, VLLM, change, draw_line, prompts_only

from tetrisim import override, simulate
from tetrisim.metrics import definitions as define
from tetrisim.policies.prediction import bucket
from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.streams import stream
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate, over_seeds
from tetrisim.workload.trace import build

RATES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
"""Arrival rates, as shares of the rate at which prompts are prefilled when all are there at t = 0."""
MODES = {"alone": "free", "parallel": "parallel", "sequential": "sequential"}
PLACES = {"alone": VLLM, "parallel": TETRI, "sequential": OTHER}
PAPER_ACCURACY = {100: 0.589, 200: 0.749, 400: 0.85}
"""Tokens of a range -> share of prompts whose range the paper's predictor hits."""


def figure(scenario: Scenario) -> Findings:
    """Each mode over the load, and when all requests come at once."""
    stress = _modes(scenario)
    rate = np.mean(stress["alone"]["rate"])
    runs = [
        _modes(override(scenario, {"workload.arrivals": "poisson", "workload.rate": f"{share * rate} /s"}))
        for share in RATES
    ]
    busy = [float(np.mean(run["alone"]["busy"])) for run in runs]
    ttft = {mode: [estimate(1e3 * run[mode]["ttft"]) for run in runs] for mode in MODES}
    spared = {mode: [estimate(run[mode]["spared"]) for run in runs] for mode in MODES}

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        left.axhspan(80, 100, color="0.93")
        left.text(99, 98, "paper: over 80 %", color="0.35", va="top", ha="right")
        draw_line(left, busy, spared["parallel"], TETRI, "parallel", offset=(6, 8))
        draw_line(left, busy, spared["sequential"], OTHER, "sequential", (-36, -64))
        left.plot([0, 100], [100, 0], color="0.6", linewidth=1)
        left.text(52, 50, "who finds the instance idle", color="0.4", fontsize=9)
        left.set_ylim(-3, 100)
        style.plain(left, "Requests not delayed", "prefill instance busy without predictor (% of time)", "share (%)")
        for mode, offset in zip(MODES, ((-14, -14), (6, 0), (-66, 10)), strict=True):
            draw_line(right, busy, ttft[mode], PLACES[mode], mode, offset=offset)
        right.set_ylim(bottom=0)
        style.plain(right, "Time to first token", "prefill instance busy without predictor (% of time)", "mean (ms)")

    return Findings(_metrics(stress, runs, busy, scenario), draw)


def _metrics(stress, runs, busy, scenario) -> dict[str, Estimate | float]:
    spared = [float(np.mean(run["parallel"]["spared"])) for run in runs]
    middle = runs[np.argmin(np.abs(np.array(busy) - 50))]
    alone, parallel = stress["alone"], stress["parallel"]
    return {
        "parallel, not delayed at the lightest load (%)": estimate(runs[0]["parallel"]["spared"]),
        "busy time up to which 80 % are not delayed (%)": float(np.interp(-80, -np.array(spared), busy)),
        "parallel against sequential, TTFT, half busy (%)": change(
            middle["parallel"]["ttft"], middle["sequential"]["ttft"]
        ),
        "parallel against alone, TTFT, all at once (%)": change(parallel["ttft"], alone["ttft"]),
        "parallel against alone, throughput, all at once (%)": change(parallel["rate"], alone["rate"]),
        **{f"ranges of {width} tokens hit (%)": _hit(scenario, width, hit) for width, hit in PAPER_ACCURACY.items()},
    }


def _modes(scenario):
    """Mode -> measure, one value a seed. `spared`: first tokens within 1 % of the time they take without predictor."""
    runs = {mode: over_seeds(override(scenario, {"cluster.predict.mode": name}), _run) for mode, name in MODES.items()}
    found = {}
    for mode, rows in runs.items():
        found[mode] = {key: np.array([row[key].mean() for row in rows]) for key in ("ttft", "rate", "busy")}
        pairs = zip(rows, runs["alone"], strict=True)
        found[mode]["spared"] = np.array([100 * np.mean(own["ttft"] <= 1.01 * alone["ttft"]) for own, alone in pairs])
    return found


def _run(scenario):
    result = simulate(scenario, trace=prompts_only(scenario))
    rows, prefill = result.request_columns, result.instance_columns
    seconds = define.duration(rows)
    return {
        "ttft": define.ttft(rows),
        "rate": np.array(len(rows["arrival_s"]) / seconds),
        "busy": 100 * prefill["busy_s"][prefill["role"] == "prefill"] / seconds,
    }


def _hit(scenario, width, accuracy):
    """How often the true length lies in the predicted range, of 10,000 requests a seed."""
    spec = replace(scenario.cluster.predict, granularity_tokens=width, accuracy=accuracy)

    def measure(each):
        outputs = build(replace(each.workload, requests=10_000), each.seed).output_tokens
        return 100 * np.mean(bucket(outputs, spec, stream(each.seed, "prediction")) // width == outputs // width)

    return estimate(over_seeds(scenario, measure))
