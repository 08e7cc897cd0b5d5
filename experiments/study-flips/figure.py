"""Flip policies as the load drifts from prefill-heavy to decode-heavy: never, idle, watermark; and fixed splits."""

import numpy as np
from paper.scheduling import (
    OTHER,
    OWN,
    TETRI,
    WORST,
    change,
    draw_line,
    drifting_trace,
    mean_jct,
    mean_ttft,
    run_variants,
)  # fmt: skip

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

SPANS = 8
"""Equal parts of the time of arrivals."""

POLICIES = {
    "never": {"cluster.flip.policy": "never"},
    "idle 60 s": {"cluster.flip.policy": "idle", "cluster.flip.after": "60 s"},
    "idle 1 s": {"cluster.flip.policy": "idle", "cluster.flip.after": "1 s"},
    "watermark 5 s": {
        "cluster.flip.policy": "watermark", "cluster.flip.after": "5 s",
        "cluster.flip.low": 0.3, "cluster.flip.high": 0.8,
    },
}  # fmt: skip
PLACES = {"never": WORST, "idle 60 s": TETRI, "idle 1 s": OTHER, "watermark 5 s": OWN}


def figure(scenario: Scenario) -> Findings:
    """All policies from an even split; fixed splits that lean to one side for comparison."""
    total = sum(pool.instances for pool in scenario.cluster.pools)
    half = total // 2
    splits = {
        f"fixed {first}:{total - first}": {
            **POLICIES["never"], "cluster.pools.0.instances": first, "cluster.pools.1.instances": total - first
        }
        for first in (half + 1, half - 1)
    }  # fmt: skip
    rows = run_variants(scenario, {**POLICIES, **splits}, _measure, drifting_trace)
    never = rows["never"]
    metrics: dict[str, Estimate | float] = {}
    for name in [*POLICIES, *splits][1:]:
        metrics[f"{name} against never, mean JCT (%)"] = change(rows[name]["jct"], never["jct"])
    metrics["watermark 5 s against never, mean TTFT (%)"] = change(rows["watermark 5 s"]["ttft"], never["ttft"])
    for name in list(POLICIES)[1:]:
        metrics[f"{name}, flips"] = estimate(rows[name]["flips"])

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        _draw_jct(left, rows)
        x = [100 * (span + 0.5) / SPANS for span in range(SPANS)]
        for name in ("never", "idle 1 s", "watermark 5 s"):
            points = [estimate(rows[name][f"ttft {span}"]) for span in range(SPANS)]
            draw_line(right, x, points, PLACES[name], name, (8, -10 if name == "idle 1 s" else 8), at=2)
        right.set_ylim(bottom=0)
        style.plain(right, "Time to first token over the run", "time of arrival (% of the run)", "mean (s)")

    return Findings(metrics, draw)


def _measure(result):
    rows = result.request_columns
    span = (rows["arrival_s"] / rows["arrival_s"][-1] * SPANS).astype(int).clip(max=SPANS - 1)
    first = rows["first_token_s"] - rows["arrival_s"]
    return {
        "jct": mean_jct(result), "ttft": mean_ttft(result), "flips": float(result.instance_columns["flips"].sum()),
        **{f"ttft {each}": float(np.nanmean(first[span == each])) for each in range(SPANS)},
    }  # fmt: skip


def _draw_jct(axis, rows):
    for row, (name, values) in enumerate(rows.items()):
        value, place = estimate(values["jct"]), PLACES.get(name)
        colour = "0.6" if place is None else style.colour(place)
        axis.barh(row, value.mean, 0.6, xerr=value.half, color=colour, ecolor="0.3", capsize=3)
        flips = f", {values['flips'].mean():.1f} flips" if values["flips"].any() else ""
        axis.annotate(f"{value.mean:.2f} s{flips}", (value.high, row), (4, 0), textcoords="offset points", va="center",
                      fontsize=9)  # fmt: skip
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.margins(x=0.35)
    style.plain(axis, "Job completion time", "mean (s)")
    axis.grid(False, axis="y")
