"""A dynamic ratio of prefill to decode instances, as demand shifts, against every fixed one."""

import numpy as np
from paper.scheduling import OTHER, OWN, WORST, run_variants

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import simulate
from tetrisim.streams import stream
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate
from tetrisim.workload.trace import Trace

PHASE_S, PHASES = 60.0, 3
DECODE_HEAVY = 34 / 16
"""Requests with long answers for each one with a long prompt: either kind asks for about four of the six instances."""

TOTAL = 6
FIXED = {
    f"{first}:{TOTAL - first}": {
        "cluster.ratio.policy": "fixed", "cluster.pools.0.instances": first, "cluster.pools.1.instances": TOTAL - first
    }
    for first in (2, 3, 4)
}  # fmt: skip
V1 = {name: {"system": name} for name in ("v1", "v1-1024", "v1-512")}
DYNAMIC = "dynamic"


def figure(scenario: Scenario) -> Findings:
    """Attainment of both limits; the paper (arXiv 2505.11916, second version) compares rates at an attainment."""
    rows = run_variants(scenario, {**FIXED, DYNAMIC: {}, **V1}, _measure, shifting_trace)
    best = max(FIXED, key=lambda name: rows[name]["good"].mean())
    tuned = max(V1, key=lambda name: rows[name]["good"].mean())
    own = rows[DYNAMIC]
    metrics: dict[str, Estimate | float] = {
        "dynamic over the best fixed ratio, attainment": estimate(own["good"] / rows[best]["good"]),
        "dynamic less the best fixed ratio (points)": estimate(100 * (own["good"] - rows[best]["good"])),
        "dynamic less V1 (points)": estimate(100 * (own["good"] - rows["v1"]["good"])),
        "dynamic less tuned V1 (points)": estimate(100 * (own["good"] - rows[tuned]["good"])),
        **{f"attainment, {name} (%)": estimate(100 * values["good"]) for name, values in rows.items()},
        "changes of role a shift": estimate(own["flips"] / PHASES),
        "changes of role an hour": estimate(own["per_hour"]),
        "from leaving one role to working in the other (s)": estimate(own["drain"]),
    }
    first = override(scenario, {"seed": scenario.seed})
    flips = simulate(first, trace=shifting_trace(first)).flip_columns

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        names = {**{name: f"fixed {name}" for name in FIXED}, DYNAMIC: "dynamic", "v1": "vLLM V1", tuned: "tuned V1"}
        for row, name in enumerate(names):
            value = estimate(100 * rows[name]["good"])
            colour = style.colour({DYNAMIC: OWN, "v1": 1, tuned: OTHER}.get(name, WORST))
            left.barh(row, value.mean, 0.6, xerr=value.half, color=colour, ecolor="0.3", capsize=3)
            left.annotate(f"{value.mean:.0f} %", (value.high, row), (4, 0), textcoords="offset points", va="center",
                          fontsize=9)  # fmt: skip
        left.set_yticks(range(len(names)), list(names.values()))
        left.invert_yaxis()
        left.set_xlim(0, 112)
        style.plain(left, "Within both limits", "% of requests")
        left.grid(False, axis="y")
        _draw_ratio(right, flips)

    return Findings(metrics, draw, (10.0, 3.8))


def shifting_trace(scenario: Scenario) -> Trace:
    """Prompts of 2000 to 4000 tokens with answers of 10 to 50, then prompts of 50 to 350 with answers of 200 to 600."""
    rng, rate = stream(scenario.seed, "shifts"), scenario.workload.rate_per_s
    assert rate is not None
    at, prompts, outputs = [], [], []
    for phase in range(PHASES):
        heavy = phase % 2 == 0
        n = rng.poisson(rate * PHASE_S * (1 if heavy else DECODE_HEAVY))
        at.append((phase + np.sort(rng.random(n))) * PHASE_S)
        prompts.append(rng.integers(2000, 4001, n) if heavy else rng.integers(50, 351, n))
        outputs.append(rng.integers(10, 51, n) if heavy else rng.integers(200, 601, n))
    return Trace("shifting", np.concatenate(at), np.concatenate(prompts), np.concatenate(outputs))


def _measure(result):
    flips = result.flip_columns
    drains = flips["ready_s"] - flips["drain_s"]
    return {
        "good": define.good(result.request_columns, result.scenario.slo) / len(result.request_columns["status"]),
        "flips": float(len(drains)),
        "per_hour": 3600 * len(drains) / result.simulated_s,
        "drain": float(drains.mean()) if drains.size else 0.0,
    }


def _draw_ratio(axis, flips):
    """How many instances prefill, under the first seed; one that leaves counts until it has left."""
    at, count = [0.0], [TOTAL // 2]
    for moment, role in zip(flips["flip_s"], flips["role"], strict=True):
        at.append(float(moment))
        count.append(count[-1] + (1 if role == "prefill" else -1))
    at.append(PHASES * PHASE_S)
    count.append(count[-1])
    axis.step(at, count, where="post", color=style.colour(OWN), linewidth=2)
    for phase in range(PHASES):
        axis.axvline(phase * PHASE_S, color="0.7", linewidth=1, linestyle=":")
        name = "long prompts" if phase % 2 == 0 else "long answers"
        axis.annotate(name, ((phase + 0.5) * PHASE_S, TOTAL - 0.3), ha="center", fontsize=9, color="0.3")
    axis.set_ylim(0, TOTAL)
    style.plain(axis, f"Instances that prefill, of {TOTAL}", "time (s)")
