"""Figure 19: total decoding time by number of decode instances and placement, and what the slowest instance got.

Least KV, which the paper does not have, looks at the memory of every instance.
"""

import numpy as np
from paper.scheduling import OTHER, OWN, TETRI, WORST, change, draw_line, run_variants

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate
from tetrisim.workload.synthetic import HEAVY_DECODE

COUNTS = (2, 4, 8)
REQUESTS = 32
"""A decode instance."""

SEEDS = 30
"""The longest answer decides much of the time, so more luck than usual has to be averaged."""

POLICIES = {"decentralised": "power-of-two", "random": "random", "imbalance": "imbalance", "least KV": "least-kv"}
PLACES = {"decentralised": TETRI, "random": OTHER, "imbalance": WORST, "least KV": OWN}


def figure(scenario: Scenario) -> Findings:
    """Each policy at each number of instances."""
    found = {count: _runs(scenario, count) for count in COUNTS}
    metrics: dict[str, Estimate | float] = {}
    for better, worse in (("decentralised", "random"), ("random", "imbalance")):
        for count, rows in found.items():
            name = f"{better} against {worse}, decoding time, {count} instances (%)"
            metrics[name] = change(rows[better]["seconds"], rows[worse]["seconds"])
    for other in ("random", "imbalance"):
        rows = found[COUNTS[-1]]
        metrics[f"heavy share of slowest, decentralised less {other}, 8 instances (points)"] = estimate(
            rows["decentralised"]["heavy_share"] - rows[other]["heavy_share"]
        )
    metrics["least KV against decentralised, decoding time, 8 instances (%)"] = change(
        rows["least KV"]["seconds"], rows["decentralised"]["seconds"]
    )

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        for name, place in PLACES.items():
            points = [estimate(rows[name]["seconds"]) for rows in found.values()]
            offset = {"random": (6, -12), "least KV": (6, 10)}.get(name, (6, 0))
            draw_line(left, COUNTS, points, place, name, offset=offset)
        left.set_xticks(COUNTS)
        left.set_xlim(1.6, 10.6)
        left.set_ylim(bottom=0)
        style.plain(left, "Total decoding time", f"decode instances ({REQUESTS} requests each)", "time (s)")
        _draw_slowest(right, found[COUNTS[-1]])

    return Findings(metrics, draw)


def _runs(scenario, count):
    size = {
        "cluster.pools.0.instances": count, "cluster.pools.1.instances": count, "workload.requests": REQUESTS * count
    }  # fmt: skip
    variants = {name: {**size, "cluster.place.policy": policy} for name, policy in POLICIES.items()}
    return run_variants(scenario, variants, _measure, seeds=SEEDS)


def _measure(result):
    """First decode to last token (s), and the decodes of the instance that finished last."""
    rows = result.request_columns
    slowest = rows["decode_instance"] == rows["decode_instance"][np.nanargmax(rows["finish_s"])]
    heavy = int((rows["output_tokens"][slowest] > HEAVY_DECODE).sum())
    light = int(slowest.sum()) - heavy
    seconds = float(np.nanmax(rows["finish_s"]) - np.nanmin(rows["decode_start_s"]))
    return {"seconds": seconds, "heavy": heavy, "light": light, "heavy_share": 100 * heavy / (heavy + light)}


def _draw_slowest(axis, rows):
    for row, (name, place) in enumerate(PLACES.items()):
        for side, kind in enumerate(("heavy", "light")):
            value, at = estimate(rows[name][kind]), row + 0.36 * (side - 0.5)
            axis.barh(at, value.mean, 0.32, xerr=value.half, color=style.colour(place), ecolor="0.3", capsize=3,
                      alpha=1 - 0.55 * side)  # fmt: skip
            axis.annotate(f"{value.mean:.0f} {kind}", (value.high, at), (4, 0), textcoords="offset points",
                          va="center", fontsize=9)  # fmt: skip
    axis.set_yticks(range(len(PLACES)), PLACES)
    axis.invert_yaxis()
    axis.margins(x=0.2)
    style.plain(axis, f"The slowest of {COUNTS[-1]} instances", "decodes it ran", "")
    axis.grid(False, axis="y")
