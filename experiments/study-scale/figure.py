"""Decode tiers of 2 to 256 instances: how even TetriInfer's placement stays, against chance and two choices by number.

Two choices by number take, of two instances drawn, that with fewer decodes: what the theory of balls in bins is about.
"""

import numpy as np
from paper.scheduling import OTHER, OWN, TETRI, change, draw_line, mean_jct, run_variants

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

SIZES = (2, 4, 8, 16, 32, 64, 256)
REQUESTS = 16
"""A decode instance, all at t = 0."""

POLICIES = {
    "heavy:light": {"cluster.place.policy": "power-of-two"},
    "random": {"cluster.place.policy": "random"},
    "by number": {"cluster.place.policy": "paper.scheduling:fewest_of_two"},
    "by number, 1 ms": {"cluster.place.policy": "paper.scheduling:fewest_of_two", "cluster.place.broadcast": "1 ms"},
}
PLACES = {"heavy:light": TETRI, "random": OTHER, "by number": OWN, "by number, 1 ms": 5}


def figure(scenario: Scenario) -> Findings:
    """Each policy at each size."""
    found = {size: _runs(scenario, size) for size in SIZES}
    metrics = _metrics(found[SIZES[0]], found[SIZES[-1]])

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        for name, place in PLACES.items():
            fullest = [estimate(rows[name]["fullest"]) for rows in found.values()]
            draw_line(left, SIZES, fullest, place, name, (6, {"heavy:light": 7, "random": -7}.get(name, 0)))
            tail = [change(rows[name]["jct"], rows["random"]["jct"]) for rows in found.values()]
            draw_line(right, SIZES, tail, place, name, (6, {"by number, 1 ms": 5, "by number": -5}.get(name, 0)))
        for axis in (left, right):
            axis.set_xscale("log", base=2)
            axis.set_xticks(SIZES, [str(size) for size in SIZES])
        left.set_ylim(bottom=1)
        x = f"decode instances ({REQUESTS} requests each, log scale)"
        style.plain(left, "The fullest instance", x, "requests placed, most / mean")
        style.plain(right, "Job completion time against random", x, "mean JCT (%)")

    return Findings(metrics, draw, (10.0, 4.4))


def _metrics(small, large) -> dict[str, Estimate | float]:
    chance, fullest = large["random"], {name: rows["fullest"] for name, rows in large.items()}
    metrics: dict[str, Estimate | float] = {
        f"{name}, fullest over mean, {SIZES[-1]} instances": estimate(values) for name, values in fullest.items()
    }
    metrics["random, fullest over mean, 256 less 2 instances"] = estimate(
        chance["fullest"] - small["random"]["fullest"]
    )
    for name in ("heavy:light", "by number", "by number, 1 ms"):
        metrics[f"{name}, less random, fullest over mean, 256"] = estimate(fullest[name] - chance["fullest"])
        metrics[f"{name}, against random, JCT, 256 (%)"] = change(large[name]["jct"], chance["jct"])
    return metrics


def _runs(scenario, size):
    shape = {
        "cluster.pools.0.instances": size, "cluster.pools.1.instances": size, "workload.requests": REQUESTS * size
    }  # fmt: skip
    return run_variants(scenario, {name: {**shape, **policy} for name, policy in POLICIES.items()}, _measure)


def _measure(result):
    rows, instances = result.request_columns, result.instance_columns
    names = rows["decode_instance"]
    _, counts = np.unique(names[names != ""], return_counts=True)
    decoders = int((instances["role"] == "decode").sum())
    return {"fullest": counts.max() / counts.sum() * decoders, "jct": mean_jct(result)}
