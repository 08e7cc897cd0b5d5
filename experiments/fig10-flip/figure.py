"""In place of Figure 10, a diagram: instances change role as the load drifts from prefill-heavy to decode-heavy.

The run drawn is that of the scenario's own seed: all instances over time, and one flip from near.
"""

from math import nan

import numpy as np
from paper.scheduling import TETRI, change, drifting_trace, mean_jct, merged, work_of

from tetrisim import override, simulate
from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import estimate, over_seeds

AROUND_MS = 150


def figure(scenario: Scenario) -> Findings:
    """Flips of every seed; their cost is a parameter, that nothing runs in it is not."""
    runs = over_seeds(scenario, _run)
    fixed = over_seeds(override(scenario, {"cluster.flip.policy": "never"}), _run)
    flips = [run.flip_columns for run in runs]
    cost_ms = np.concatenate([1e3 * (each["ready_s"] - each["flip_s"]) for each in flips])
    drain_ms = np.concatenate([1e3 * (each["flip_s"] - each["drain_s"]) for each in flips])
    metrics = {
        "flips a run": estimate([len(each["role"]) for each in flips]),
        "from the end of the drain to the new role (ms)": _mean(cost_ms),
        "drain (ms)": _mean(drain_ms),
        "requests run by an instance while it flips": float(sum(_in_flip(run) for run in runs)),
        "mean JCT against fixed roles (%)": change(
            np.array([mean_jct(run) for run in runs]), np.array([mean_jct(run) for run in fixed])
        ),
    }

    def draw(canvas):
        top, bottom = canvas.subplots(2, 1, gridspec_kw={"height_ratios": (3, 1)})
        _draw_all(top, runs[0])
        _draw_near(bottom, runs[0])

    return Findings(metrics, draw, (9.0, 5.4))


def _mean(values):
    return estimate(values) if len(values) else nan


def _run(scenario):
    return simulate(scenario, trace=drifting_trace(scenario))


def _in_flip(run):
    """Prefills and decodes that an instance runs between the end of its drain and its new role."""
    flips = run.flip_columns
    return sum(
        start < ready and end > flip
        for name, flip, ready in zip(flips["instance"], flips["flip_s"], flips["ready_s"], strict=True)
        for start, end, _ in work_of(run.request_columns, name)
    )


def _bars(axis, run, name, row, scale=1.0, origin=0.0):
    work = work_of(run.request_columns, name)
    for kind, alpha in ((True, 1.0), (False, 0.35)):
        for start, end in merged((start, end) for start, end, prefill in work if prefill == kind):
            left, width = (start - origin) * scale, (end - start) * scale
            axis.barh(row, width, 0.6, left, color=style.colour(TETRI), alpha=alpha, linewidth=0)


def _draw_all(axis, run):
    names = list(run.instance_columns["instance"])
    for row, name in enumerate(names):
        _bars(axis, run, name, row)
    flips = run.flip_columns
    for name, role, at in zip(flips["instance"], flips["role"], flips["flip_s"], strict=True):
        row = names.index(name)
        axis.plot([at, at], [row - 0.45, row + 0.45], color="black", linewidth=1.5)
        axis.annotate(f"to {role}", (at, row - 0.42), (3, 0), textcoords="offset points", fontsize=9, va="bottom")
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.8)
    axis.set_xlim(left=0)
    style.plain(axis, "Prefill (dark) and decode (pale) as the load drifts from prefill- to decode-heavy", "time (s)")
    axis.grid(False, axis="y")


def _draw_near(axis, run):
    """The flip with the longest drain."""
    flips = run.flip_columns
    if not len(flips["role"]):
        axis.set_axis_off()
        return
    which = int(np.argmax(flips["flip_s"] - flips["drain_s"]))
    name, role, drain, flip, ready = (flips[key][which] for key in ("instance", "role", "drain_s", "flip_s", "ready_s"))
    _bars(axis, run, name, 0, 1e3, flip)
    edges = [1e3 * (at - flip) for at in (drain, flip, ready)]
    axis.set_xlim(edges[0] - AROUND_MS, edges[2] + AROUND_MS)
    for at, text, side in zip(
        edges, ("given nothing new", "empty", f"ready to {role}"), ("left", "right", "left"), strict=True
    ):
        axis.axvline(at, color="black", linewidth=1.2)
        axis.annotate(
            text, (at, 0.62), (3 if side == "left" else -3, 0), textcoords="offset points", ha=side, fontsize=9
        )
    axis.set_yticks([0], [name])
    axis.set_ylim(-0.5, 0.95)
    title = f"Drain, then flip: {edges[1] - edges[0]:.0f} ms and {edges[2]:.0f} ms"
    style.plain(axis, title, f"time from the end of the drain, at {flip:.1f} s (ms)")
    axis.grid(False, axis="y")
