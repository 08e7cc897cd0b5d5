"""The split of the instances between prefill and decode, for each of the paper's classes of requests."""

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator
from paper.scheduling import change, draw_line, mean_jct, run_variants

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

CLASSES = ("lphd", "lpld", "hphd", "mixed", "hpld")


def figure(scenario: Scenario) -> Findings:
    """Mean JCT of each split, and which is best, seed by seed."""
    total = sum(pool.instances for pool in scenario.cluster.pools)
    splits = range(1, total)
    found = {name: _jct(scenario, name, splits) for name in CLASSES}
    best = {name: splits[0] + np.argmin(rows, axis=0) for name, rows in found.items()}
    metrics: dict[str, Estimate | float] = {
        f"{name}, best number to prefill (of {total})": estimate(values) for name, values in best.items()
    }
    metrics["best number to prefill, HPLD less LPHD"] = estimate(best["hpld"] - best["lphd"])
    even = total // 2 - 1
    for name in CLASSES:
        metrics[f"{name}, even split against best, JCT (%)"] = change(found[name][even], found[name].min(axis=0))
    metrics["hpld, one to prefill against even, JCT (%)"] = change(found["hpld"][0], found["hpld"][even])
    metrics["lphd, all but one to prefill against even, JCT (%)"] = change(found["lphd"][-1], found["lphd"][even])

    def draw(canvas):
        axes = canvas.subplots(1, len(CLASSES), sharey=True)
        for axis, (name, rows) in zip(axes, found.items(), strict=True):
            _draw(axis, name, splits, [estimate(row) for row in rows], estimate(best[name]))
        axes[0].set_ylabel("mean JCT (s, log scale)")
        canvas.supxlabel(f"instances that prefill, of {total}", fontsize=10)

    return Findings(metrics, draw, (11.0, 4.0))


def _jct(scenario, name, splits):
    """Mean JCT (s): a row a split, a column a seed."""
    total = len(splits) + 1
    variants = {
        str(first): {
            "workload.trace": name, "cluster.pools.0.instances": first, "cluster.pools.1.instances": total - first
        }
        for first in splits
    }  # fmt: skip
    rows = run_variants(scenario, variants, lambda result: {"jct": mean_jct(result)})
    return np.array([values["jct"] for values in rows.values()])


def _draw(axis, name, splits, jct, best):
    axis.axvspan(best.low - 0.1, best.high + 0.1, color="0.88", linewidth=0)
    place = style.place_of("tetriinfer")
    draw_line(axis, splits, jct, place, "")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xticks(list(splits))
    style.plain(axis, f"{name.upper()}: best {best.mean:.1f}")
