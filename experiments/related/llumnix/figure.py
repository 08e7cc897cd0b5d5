"""Llumnix: tails of TTFT by rate, what preemptions cost, and how long a request stops when it moves."""

import numpy as np
from paper.scheduling import OTHER, OWN, WORST, draw_line, run_variants

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import simulate
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

RATES = (32, 37, 41, 45)
JUDGED = 41
"""Requests a second at which the numbers are taken: round robin preempts all the time, Llumnix hardly ever."""

SYSTEMS = {
    "round robin": {"system": "vllm-v1", "cluster.route": "round-robin"},
    "vLLM V1": {"system": "vllm-v1"},
    "dispatch alone": {"cluster.migrate.policy": "never"},
    "Llumnix": {},
}
PLACES = dict(zip(SYSTEMS, (WORST, style.place_of("vllm-v1"), OTHER, OWN), strict=True))
OTHERS = {"defragment": {"cluster.migrate.policy": "defragment"}} | {
    f"V1, {budget} tokens, {seats} seats": {
        "system": "vllm-v1", "cluster.pools.0.max_num_batched_tokens": budget, "cluster.pools.0.max_num_seqs": seats
    }
    for budget, seats in ((512, 256), (1024, 128), (1024, 256))
}  # fmt: skip
CONTEXTS = (250, 500, 1000, 2000, 3500)
"""Prompt tokens of the requests that are moved to see how long they stop."""


def figure(scenario: Scenario) -> Findings:
    """The comparison of the paper's section 6 (arXiv 2406.03243), without its autoscaling."""
    found = {rate: run_variants(override(scenario, {"workload.rate": rate}), SYSTEMS, _measure) for rate in RATES}
    here = found[JUDGED]
    here |= run_variants(override(scenario, {"workload.rate": JUDGED}), OTHERS, _measure)
    own = here["Llumnix"]
    tuned = min((name for name in here if name.startswith("V1")), key=lambda name: here[name]["p99"].mean())
    stops = {mode: [_stop_ms(scenario, mode, tokens) for tokens in CONTEXTS] for mode in ("live", "stop")}

    def over(name: str, key: str = "p99") -> Estimate:
        return estimate(here[name][key] / own[key])

    def lost_less(name: str) -> Estimate:
        return estimate(own["lost"] - here[name]["lost"])

    metrics: dict[str, Estimate | float] = {
        "P99 TTFT, round robin over Llumnix": over("round robin"),
        "P99 TTFT, vLLM V1 over Llumnix": over("vLLM V1"),
        "P99 TTFT, tuned V1 over Llumnix": over(tuned),
        "P99 TTFT, dispatch alone over Llumnix": over("dispatch alone"),
        "P99 TTFT, defragment over balance": over("defragment"),
        "P99 TPOT, round robin over Llumnix": over("round robin", "tpot"),
        "P99 TPOT, vLLM V1 over Llumnix": over("vLLM V1", "tpot"),
        "lost to preemption, Llumnix less round robin (ms a request)": estimate(
            own["lost"] - here["round robin"]["lost"]
        ),
        "lost to preemption, Llumnix less V1 (ms a request)": lost_less("vLLM V1"),
        "lost to preemption, Llumnix less dispatch alone (ms a request)": lost_less("dispatch alone"),
        "moves a hundred requests": estimate(own["moves"]),
        "stop of a move, live (ms)": estimate(own["stop"][~np.isnan(own["stop"])]),
        f"live stop, {CONTEXTS[-1]} tokens over {CONTEXTS[0]}": stops["live"][-1] / stops["live"][0],
        f"stop and copy, {CONTEXTS[-1]} tokens over {CONTEXTS[0]}": stops["stop"][-1] / stops["stop"][0],
    }

    def draw(canvas):
        left, middle, right = canvas.subplots(1, 3, width_ratios=(1.3, 1, 1))
        for name, place in PLACES.items():
            points = [estimate(found[rate][name]["p99"] / 1e3) for rate in RATES]
            draw_line(left, RATES, points, place, "")
            left.plot([], [], color=style.colour(place), linestyle=style.dash(place), label=name)
        left.legend(frameon=False, fontsize=9)
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        style.plain(left, "P99 of TTFT", "requests/s", "s (log scale)")
        for row, (name, place) in enumerate(PLACES.items()):
            value = estimate(here[name]["lost"])
            middle.barh(row, value.mean, 0.6, xerr=value.half, color=style.colour(place), ecolor="0.3", capsize=3)
        middle.set_yticks(range(len(PLACES)), list(PLACES))
        middle.invert_yaxis()
        style.plain(middle, f"Lost to preemption, {JUDGED}/s", "ms a request")
        middle.grid(False, axis="y")
        for mode, place, at in (("stop", WORST, "stop and copy"), ("live", OWN, "live")):
            right.plot(CONTEXTS, stops[mode], color=style.colour(place), marker="o", linestyle=style.dash(place))
            style.name_line(right, at, (CONTEXTS[-2], stops[mode][-2]), place, (-10, 10))
        right.set_ylim(bottom=0)
        style.plain(right, "Stop of a moved request", "context (tokens)", "mean (ms)")

    return Findings(metrics, draw, (12.0, 3.8))


def _measure(result):
    rows, moves = result.request_columns, result.move_columns
    hit, moved = rows["preemptions"] > 0, moves["outcome"] == "moved"
    lost = (rows["lost_prefill_s"] + rows["lost_decode_s"])[hit].sum() / len(hit)
    stops = (moves["end_s"] - moves["stop_s"])[moved]
    return {
        "p99": float(np.percentile(define.ttft(rows), 99)) * 1e3,
        "tpot": float(np.percentile(define.tpot(rows), 99)) * 1e3,
        "lost": lost * 1e3,
        "moves": 100 * moved.sum() / len(hit),
        "stop": float(stops.mean()) * 1e3 if stops.size else np.nan,
    }  # fmt: skip


def _stop_ms(scenario: Scenario, mode: str, tokens: int) -> float:
    """The mean stop of a request that moves to an instance where another one decodes, over moments of the move."""
    stops: list[float] = []
    for period in (2.0, 2.03, 2.06, 2.09, 2.12):
        moves = simulate(override(scenario, {
            "workload": {"trace": "random", "prompt_tokens": tokens, "output_tokens": 400, "requests": 2,
                         "arrivals": "burst"},
            "cluster.instances": 2, "cluster.route": "round-robin",
            "cluster.migrate.policy": "related.llumnix.movers:one_by_one", "cluster.migrate.mode": mode,
            "cluster.migrate.period": f"{period} s",
        })).move_columns  # fmt: skip
        stops.append(1e3 * (moves["end_s"] - moves["stop_s"])[0])
    return float(np.mean(stops))
