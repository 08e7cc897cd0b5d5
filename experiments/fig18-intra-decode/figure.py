"""Figure 18: who may join the decode batch - greedy, reserve-static (RS), reserve-dynamic (RD) - by what is predicted.

Both ways of preempting are shown: recomputing, and swapping to the host. The paper's 100 % is read in three ways: its
ranges of 200 tokens without an error, of which the policies take the lower end (as the paper says) or the upper one;
and exact lengths.
"""

import numpy as np
from paper.scheduling import OTHER, TETRI, change, mean_jct, run_variants

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

POLICIES = {"RS": "reserve-static", "RD": "reserve-dynamic"}
PLACES = {"RS": OTHER, "RD": TETRI}
PREDICTIONS = {
    "actual": {"cluster.predict.accuracy": 0.749},
    "ideal": {"cluster.predict.accuracy": 1.0},
    "upper end": {"cluster.predict.policy": "paper.scheduling:upper_end", "cluster.predict.accuracy": 1.0},
    "exact": {"cluster.predict.policy": "oracle"},
}
TEXTS = ("actual:\n74.9 % of ranges hit", "ideal:\nall ranges hit", "ideal,\nupper ends", "exact lengths")
PREEMPTIONS = ("recompute", "swap")


def figure(scenario: Scenario) -> Findings:
    """Change of the mean JCT against greedy, and preemptions a request."""
    found = {way: _runs(scenario, way) for way in PREEMPTIONS}
    metrics: dict[str, Estimate | float] = {}
    for way, rows in found.items():
        greedy = rows["greedy"]
        metrics[f"greedy, preemptions a request, {way}"] = estimate(greedy["preemptions"])
        for prediction in PREDICTIONS:
            for name in POLICIES:
                own = rows[f"{name} {prediction}"]
                metrics[f"{name} against greedy, JCT, {prediction}, {way} (%)"] = change(own["jct"], greedy["jct"])
        for name in POLICIES:
            metrics[f"{name}, preemptions a request, exact, {way}"] = estimate(rows[f"{name} exact"]["preemptions"])
    found_recompute = found["recompute"]
    metrics["RD against RS, JCT, exact, recompute (%)"] = change(
        found_recompute["RD exact"]["jct"], found_recompute["RS exact"]["jct"]
    )

    def draw(canvas):
        for axis, way in zip(canvas.subplots(1, 2, sharey=True), PREEMPTIONS, strict=True):
            _draw(axis, way, found[way])

    return Findings(metrics, draw, (11.5, 4.4))


def _runs(scenario, way):
    variants = {"greedy": {"cluster.pools.1.admission": "greedy"}}
    for prediction, settings in PREDICTIONS.items():
        for name, policy in POLICIES.items():
            variants[f"{name} {prediction}"] = {"cluster.pools.1.admission": policy, **settings}
    variants = {name: {"cluster.pools.1.preemption": way, **settings} for name, settings in variants.items()}
    return run_variants(scenario, variants, _measure)


def _measure(result):
    return {"jct": mean_jct(result), "preemptions": float(np.mean(result.request_columns["preemptions"]))}


def _draw(axis, way, rows):
    for group, prediction in enumerate(PREDICTIONS):
        for column, name in enumerate(POLICIES):
            own = rows[f"{name} {prediction}"]
            value, at = change(own["jct"], rows["greedy"]["jct"]), group + 0.36 * (column - 0.5)
            colour = style.colour(PLACES[name])
            axis.bar(at, value.mean, 0.32, yerr=value.half, color=colour, ecolor="0.3", capsize=3)
            axis.annotate(name, (at, max(0.0, value.high)), (0, 3), textcoords="offset points", ha="center",
                          color=colour, fontweight="bold")  # fmt: skip
            axis.annotate(f"{own['preemptions'].mean():.2f}", (at, value.low), (0, -4), textcoords="offset points",
                          ha="center", va="top", fontsize=9, path_effects=style.HALO)  # fmt: skip
    axis.axhline(0, color="0.3", linewidth=1)
    axis.set_xticks(range(len(PREDICTIONS)), TEXTS)
    axis.margins(y=0.12)
    label = {"recompute": "Recomputing", "swap": "Swapping"}[way]
    title = f"{label} (greedy: {rows['greedy']['preemptions'].mean():.2f} a request)"
    style.plain(
        axis,
        title,
        "below the bars: preemptions a request",
        "mean JCT against greedy (%)" if way == "recompute" else "",
    )
    axis.grid(False, axis="x")
