"""Length prediction from useless to perfect: what it does to completion times, preemptions and hotspots.

Regret is what mean JCT is above that with exact lengths, seed by seed. Accuracy is the share of requests whose range is
hit, the others are one range off; useless is another request's range; none predicts 0 tokens for all.
"""

from collections.abc import Mapping

import numpy as np
from paper.scheduling import OTHER, OWN, TETRI, change, draw_line, hotspot, mean_jct, run_variants

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

ACCURACIES = (0.0, 0.5, 0.75, 1.0)
WIDTHS = {50: OWN, 200: TETRI, 400: OTHER}
"""Tokens of a range -> place of its colour; 200 is TetriInfer's."""
ENDS = {"oracle": "exact lengths", "shuffled": "useless", "none": "none"}


def figure(scenario: Scenario) -> Findings:
    """Accuracy by granularity, then bias and drift at one accuracy each."""
    rows = run_variants(scenario, _variants(), _measure)
    regret = {name: change(values["jct"], rows["oracle"]["jct"]) for name, values in rows.items()}
    useless, exact = rows["shuffled"], rows["oracle"]
    metrics: dict[str, Estimate | float] = {f"regret, {ENDS[name]} (%)": regret[name] for name in ("shuffled", "none")}
    metrics |= {f"regret, all ranges of {width} hit (%)": regret[_name(width, 1.0)] for width in WIDTHS}
    metrics |= {f"regret, 75 % of ranges of {width} hit (%)": regret[_name(width, 0.75)] for width in WIDTHS}
    metrics |= {
        "useless against all ranges of 200 hit, JCT (%)": change(useless["jct"], rows[_name(200, 1.0)]["jct"]),
        "useless less exact, preemptions a request": estimate(useless["preemptions"] - exact["preemptions"]),
        "useless less exact, hotspot": estimate(useless["hotspot"] - exact["hotspot"]),
        "no range of 200 hit less all, hotspot": estimate(
            rows[_name(200, 0.0)]["hotspot"] - rows[_name(200, 1.0)]["hotspot"]
        ),
        "exact, placed by number against heavy:light, JCT (%)": regret["oracle, by number"],
        "exact, placed at random against heavy:light, JCT (%)": regret["oracle, random"],
        "errors too short, regret (%)": regret["bias -1"],
        "errors too long, regret (%)": regret["bias 1"],
        "accuracy drifting from 75 to 25 %, regret (%)": regret["drift 0.5"],
    }

    def draw(canvas):
        (jct, swaps), (hot, errors) = canvas.subplots(2, 2)
        _draw(jct, {name: [regret[_name(name, a)] for a in ACCURACIES] for name in WIDTHS}, regret, "Regret")
        jct.set_ylabel("mean JCT above that of exact lengths (%)", fontsize=9)
        for axis, key, title in ((swaps, "preemptions", "Preemptions"), (hot, "hotspot", "Hotspots")):
            values = {name: estimate(row[key]) for name, row in rows.items()}
            _draw(axis, {name: [values[_name(name, a)] for a in ACCURACIES] for name in WIDTHS}, values, title)
        swaps.set_ylabel("a request")
        hot.set_ylabel("most decoded tokens / mean of instances", fontsize=9)
        _draw_errors(errors, regret)

    return Findings(metrics, draw, (8.8, 6.6))


def _name(width: int, accuracy: float) -> str:
    return f"{width} tokens, {accuracy:g}"


def _variants() -> Mapping[str, Mapping[str, object]]:
    def predict(**settings):
        return {f"cluster.predict.{key}": value for key, value in settings.items()}

    variants = {name: predict(policy=name) for name in ENDS}
    variants |= {
        _name(width, accuracy): predict(granularity_tokens=width, accuracy=accuracy)
        for width in WIDTHS
        for accuracy in ACCURACIES
    }
    placed = {"random": "random", "by number": "paper.scheduling:fewest_of_two"}
    variants |= {
        f"oracle, {name}": {**variants["oracle"], "cluster.place.policy": policy} for name, policy in placed.items()
    }
    variants |= {f"bias {bias}": predict(accuracy=0.5, bias=bias) for bias in (-1, 1)}
    variants |= {f"drift {drift}": predict(accuracy=0.75, drift=drift) for drift in (0.25, 0.5)}
    return variants


def _measure(result):
    preemptions = float(np.mean(result.request_columns["preemptions"]))
    return {"jct": mean_jct(result), "preemptions": preemptions, "hotspot": hotspot(result)}


def _draw(axis, lines, values, title):
    percent = [100 * accuracy for accuracy in ACCURACIES]
    order = sorted(WIDTHS, key=lambda width: lines[width][-1].mean)
    for shift, (width, place) in enumerate(WIDTHS.items()):
        x = [at + 1.5 * (shift - 1) for at in percent]
        draw_line(axis, x, lines[width], place, f"{width}", (8, 9 * (order.index(width) - 1)))
    for name, text in ENDS.items():
        value = values[name]
        axis.axhspan(value.low, value.high, color="0.5", alpha=0.13, linewidth=0)
        axis.axhline(value.mean, color="0.35", linewidth=1, linestyle=":")
        axis.annotate(text, (-16, value.mean), (0, 0), textcoords="offset points", fontsize=8.5, va="center",
                      color="0.25", path_effects=style.HALO)  # fmt: skip
    axis.set_xlim(-17, 114)
    style.plain(axis, f"{title}, by tokens of a range", "ranges hit (%)")


def _draw_errors(axis, regret):
    bars = {
        "too short": "bias -1", "either way": _name(200, 0.5), "too long": "bias 1",
        "none": _name(200, 0.75), "25 points": "drift 0.25", "50 points": "drift 0.5",
    }  # fmt: skip
    for row, (text, name) in enumerate(bars.items()):
        at, value = row + (0.6 if row > 2 else 0), regret[name]
        axis.errorbar(value.mean, at, xerr=value.half, color=style.colour(TETRI), marker="o", capsize=3)
        axis.annotate(text, (value.mean, at), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    axis.axvline(0, color="0.35", linewidth=1)
    axis.set_yticks([1, 4.6], ["errors are\n(50 % hit)", "drift\n(from 75 % hit)"])
    axis.set_ylim(6.2, -0.8)
    style.plain(axis, "Bias and drift, ranges of 200", "regret (%)")
    axis.grid(False, axis="y")
