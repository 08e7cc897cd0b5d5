"""TaiChi: who meets which limits, aggregated, disaggregated, or in between."""

import numpy as np
from paper.scheduling import OWN, TETRI, WORST, draw_line, run_variants

from tetrisim.report import style
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

REGIMES = {"loose TTFT": (16, 60), "balanced": (6, 100), "loose TPOT": (5, 250)}
"""TTFT (s) and TPOT (ms) limits, those of the paper's motivation."""

PAPER = {"aggregated": (7, 16, 97), "disaggregated": (98, 50, 42)}
TAICHI = "TaiChi"
PLAIN = {name: {"system": name} for name in (*PAPER, "v1-1024", "v1-512", "v1-256")}
"""Entries of the scenario's `systems:`; the last ones are V1 with smaller budgets."""

WITHOUT = {
    "no flow back": {"cluster.migrate.late": 1.0, "cluster.migrate.full": 1.0},
    "prompts where TTFT is least": {"cluster.route": "least-ttft"},
}
RATES = (5.25, 6.0, 6.75, 7.5, 8.25)
GOOD = 0.9
"""Goodput is the rate up to which this share of the requests is served within both limits."""
PLACES = {"aggregated": WORST, "disaggregated": TETRI, "tuned V1": style.place_of("vllm-v1"), TAICHI: OWN}


def figure(scenario: Scenario) -> Findings:
    """The three regimes of the paper's motivation (arXiv 2508.01989), and goodput in the balanced one."""
    rows = run_variants(scenario, PLAIN, _measure)
    for regime, (ttft_s, tpot_ms) in REGIMES.items():
        limits = {"slo.ttft": f"{ttft_s} s", "slo.tpot": f"{tpot_ms} ms"}
        rows[f"{TAICHI}, {regime}"] = run_variants(scenario, {TAICHI: limits}, _measure)[TAICHI]
    rows |= run_variants(scenario, WITHOUT, _measure)
    tuned = max((name for name in PLAIN if name.startswith("v1")), key=lambda name: rows[name]["balanced"].mean())
    own = rows[f"{TAICHI}, balanced"]
    attained = {
        **{name: {regime: rows[name][regime] for regime in REGIMES} for name in PAPER},
        "tuned V1": {regime: rows[tuned][regime] for regime in REGIMES},
        TAICHI: {regime: rows[f"{TAICHI}, {regime}"][regime] for regime in REGIMES},
    }
    names = {"aggregated": PLAIN["aggregated"], "disaggregated": PLAIN["disaggregated"], "tuned V1": PLAIN[tuned],
             TAICHI: {}}  # fmt: skip
    by_rate = {rate: run_variants(override(scenario, {"workload.rate": rate}), names, _measure) for rate in RATES}
    goodput = {
        name: np.array([_goodput([100 - by_rate[r][name]["balanced"][at] for r in RATES]) for at in range(10)])
        for name in names
    }
    metrics: dict[str, Estimate | float] = {
        f"{name}, {regime} (%)": estimate(values)
        for name, found in attained.items()
        for regime, values in found.items()
    }
    first, second = rows["aggregated"], rows["disaggregated"]
    corner = np.maximum(rows["aggregated"]["balanced"], rows["disaggregated"]["balanced"])
    metrics |= {
        "loose TTFT, disaggregated less aggregated (points)": estimate(second["loose TTFT"] - first["loose TTFT"]),
        "loose TPOT, aggregated less disaggregated (points)": estimate(first["loose TPOT"] - second["loose TPOT"]),
        "balanced, TaiChi over the better corner": estimate(own["balanced"] / corner),
        "balanced, TaiChi over tuned V1": estimate(own["balanced"] / rows[tuned]["balanced"]),
        **{
            f"balanced goodput, TaiChi over {name} (%)": estimate(100 * (goodput[TAICHI] / goodput[name] - 1))
            for name in ("aggregated", "disaggregated", "tuned V1")
        },
        "P90 TTFT, disaggregated over TaiChi": estimate(rows["disaggregated"]["ttft"] / own["ttft"]),
        "P90 TPOT, aggregated over TaiChi": estimate(rows["aggregated"]["tpot"] / own["tpot"]),
        **{f"balanced, {name} (%)": estimate(rows[name]["balanced"]) for name in WITHOUT},
        "moves a hundred requests": estimate(own["moves"]),
    }

    def draw(canvas):
        left, right = canvas.subplots(1, 2, width_ratios=(1.3, 1))
        for at, (name, found) in enumerate(attained.items()):
            for place, regime in enumerate(REGIMES):
                value = estimate(found[regime])
                colour = style.colour(PLACES[name])
                left.bar(place + 0.2 * (at - 1.5), value.mean, 0.18, yerr=value.half, color=colour, ecolor="0.3",
                         capsize=2, label=name if not place else None)  # fmt: skip
        left.set_xticks(range(len(REGIMES)), [f"{name}\n{a} s, {b} ms" for name, (a, b) in REGIMES.items()])
        left.set_ylim(0, 135)
        left.set_yticks(range(0, 101, 25))
        left.legend(frameon=False, fontsize=9, ncols=2, loc="upper left")
        style.plain(left, f"Within both limits at {scenario.workload.rate_per_s:g}/s", "", "% of requests")
        left.grid(False, axis="x")
        for name, place in PLACES.items():
            points = [estimate(by_rate[rate][name]["balanced"]) for rate in RATES]
            draw_line(right, RATES, points, place, "")
        right.axhline(100 * GOOD, color="0.4", linewidth=1, linestyle=":")
        right.set_ylim(0, 105)
        style.plain(right, "Balanced limits, by rate", "requests/s", "% of requests")

    return Findings(metrics, draw, (11.0, 4.2))


def _measure(result):
    rows = result.request_columns
    ttft = rows["first_token_s"] - rows["arrival_s"]
    tpot = (rows["finish_s"] - rows["first_token_s"]) / np.maximum(rows["output_tokens"] - 1, 1)
    within = {
        regime: 100 * float(((ttft <= limit_s) & (tpot <= limit_ms / 1e3)).mean())
        for regime, (limit_s, limit_ms) in REGIMES.items()
    }
    moved = result.move_columns["outcome"] == "moved"
    return {
        **within, "ttft": float(np.percentile(ttft, 90)), "tpot": float(np.percentile(tpot, 90)),
        "moves": 100 * moved.sum() / len(ttft),
    }  # fmt: skip


def _goodput(missed) -> float:
    """The rate at which the share missed crosses its limit, between the rates that were run."""
    limit = 100 * (1 - GOOD)
    return float(np.interp(limit, np.maximum.accumulate(missed), RATES))
