"""Figure 3: what a prompt pays for the prompts it is batched with.

Simulated runs of vLLM V0: the prompts of a batch arrive at once and are prefilled in one step; latency is TTFT.
"""

import numpy as np
from paper import motivation

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings

LIGHTS = (0, 1, 3, 7, 15, 31, 63)
HEAVIES = (0, 1, 2, 3, 5, 7)
PANELS = (("light", "A light prompt"), ("heavy", "A heavy prompt"))


def figure(scenario: Scenario) -> Findings:
    """Twice: with the paper's tokens, and with the same shares of the knee of this model on this GPU."""
    choices = motivation.prompts(scenario)
    found = {choice.name: _slowdowns(scenario, choice) for choice in choices}
    metrics: dict[str, float] = {}
    for name, slow in found.items():
        light, heavy = slow["light", "light"], slow["light", "heavy"]
        metrics |= {
            f"LP with 7 LPs, {name} (x)": light[LIGHTS.index(7)],
            f"LP with 63 LPs, {name} (x)": light[LIGHTS.index(63)],
            f"LP with 3 HPs, {name} (x)": heavy[HEAVIES.index(3)],
            f"HP with 63 LPs, {name} (x)": slow["heavy", "light"][LIGHTS.index(63)],
            f"least step of any curve, {name} (x)": float(min((v[1:] / v[:-1]).min() for v in slow.values())),
        }
    return Findings(metrics, lambda canvas: _draw(canvas, scenario, choices, found), (10.0, 4.4))


def _slowdowns(scenario: Scenario, choice: motivation.Prompts) -> dict[tuple[str, str], np.ndarray]:
    """(the prompt, its company) -> its latency over that of being alone, for each size of the company."""
    tokens = {"light": choice.light, "heavy": choice.heavy}
    sizes = {"light": LIGHTS, "heavy": HEAVIES}
    pairs = [(own, other) for own in tokens for other in tokens]
    batches = [[tokens[own], *[tokens[other]] * count] for own, other in pairs for count in sizes[other]]
    times = iter(motivation.first_tokens_s(scenario, batches))
    seconds = {pair: np.array([next(times) for _ in sizes[pair[1]]]) for pair in pairs}
    return {pair: values / values[0] for pair, values in seconds.items()}


def _draw(canvas, scenario: Scenario, choices, found) -> None:
    axes = canvas.subplots(1, 2)
    for axis, (own, title) in zip(axes, PANELS, strict=True):
        for number, choice in enumerate(choices):
            _lines(axis, own, choice, found[choice.name], number)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlim(0.93, 100)
        axis.set_xticks([1 + count for count in LIGHTS], [str(count) for count in LIGHTS])
        axis.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
        axis.minorticks_off()
        axis.set_ylim(0.9)
        style.plain(axis, title, "other prompts in its step (log scale)", "times slower than alone (log scale)")
    motivation.paper_point(axes[0], 8, 2, "paper 2x", (-8, 13))
    motivation.paper_point(axes[0], 64, 8, "paper 8x", (6, -10))
    motivation.paper_point(axes[0], 4, 10, "paper > 10x", (-70, 6))
    motivation.paper_point(axes[1], 64, 3, "paper 3x", (-58, 8))
    lines = f"solid: the paper's tokens; dotted: the same shares of the knee, {choices[1].heavy} tokens"
    canvas.suptitle(f"{motivation.title(scenario)}\n{lines}", x=0.01, ha="left", fontsize=10)


def _lines(axis, own: str, choice: motivation.Prompts, slow, number: int) -> None:
    """Solid for the paper's tokens, thin and dotted for shares of the knee."""
    looks = {"linestyle": style.dash(2 if number else 0), "linewidth": 1.3 if number else 2.2}
    for other, sizes, place in (("light", LIGHTS, motivation.LIGHT), ("heavy", HEAVIES, motivation.HEAVY)):
        x, y = 1 + np.array(sizes), slow[own, other]
        axis.plot(x, y, color=style.colour(place), marker="." if number else "o", markersize=4, **looks)
        tokens = choice.light if other == "light" else choice.heavy
        motivation.label(axis, f"{other}, {tokens}", (x[-1], y[-1]), place, (6, -6 if number else 6))
