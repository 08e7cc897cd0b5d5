"""Figure 4: what a decode pays for prompts in its iteration, and a prompt for decodes in its step.

Simulated runs: decodes run alone, prompts of one output token join midway. The decode's iteration is longer by what its
finish is later; the prompt's latency is its step's, from start to first token.
"""

import numpy as np
from paper import motivation
from paper.motivation import HEAVY_DECODE, LIGHT_DECODE, Meeting

from tetrisim.report import style
from tetrisim.scenario.load import with_system
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings

PROMPTS = (0, 1, 2, 3, 5, 7)
DECODES = (0, 1, 3, 7, 15, 31, 63, 127)
OUTPUTS = {"light": LIGHT_DECODE, "heavy": HEAVY_DECODE}
PLACES = {"light": motivation.LIGHT, "heavy": motivation.HEAVY}
PROMPT_KINDS = tuple(PLACES)

Curves = dict[tuple[str, str], np.ndarray]
"""(decode, prompt) -> times slower, for each size of the company."""


def figure(scenario: Scenario) -> Findings:
    """With the paper's tokens, and the 5x also with shares of the knee of this model on this GPU."""
    choice, shares = motivation.prompts(scenario)
    apart = with_system(scenario, "vllm-v0")
    decode = {"beside": _iterations(scenario, choice), "behind": _iterations(apart, choice)}
    knee, prefill = _iterations(scenario, shares), _prefills(scenario, choice)
    metrics = {
        "LD with 1 HP in its iteration (x)": float(decode["beside"]["light", "heavy"][1]),
        "HD with 1 HP in its iteration (x)": float(decode["beside"]["heavy", "heavy"][1]),
        "LD with 1 HP before its iteration, V0 (x)": float(decode["behind"]["light", "heavy"][1]),
        "LD with 1 HP of the knee's tokens (x)": float(knee["light", "heavy"][1]),
    }
    for short, prompt in (("LP", "light"), ("HP", "heavy")):
        metrics |= {
            f"{short} with 7 LDs (x)": float(prefill[prompt][DECODES.index(7)]),
            f"{short} with 127 LDs (x)": float(prefill[prompt][-1]),
        }
    title = motivation.title(scenario)
    return Findings(metrics, lambda canvas: _draw(canvas, title, choice, decode, prefill), (10.0, 4.4))


def _iterations(scenario: Scenario, choice: motivation.Prompts) -> Curves:
    """One decode's iteration, over one without prompts."""
    pairs = [(decode, prompt) for decode in OUTPUTS for prompt in PROMPT_KINDS]
    met = motivation.meet(
        scenario,
        [
            Meeting(1, OUTPUTS[decode], (getattr(choice, prompt),) * count)
            for decode, prompt in pairs
            for count in PROMPTS
        ],
    )
    times = iter(each.together / each.alone for each in met)
    return {pair: np.array([next(times) for _ in PROMPTS]) for pair in pairs}


def _prefills(scenario: Scenario, choice: motivation.Prompts) -> dict[str, np.ndarray]:
    """The step of one prompt, light or heavy, among light decodes, over one without decodes."""
    slower: dict[str, np.ndarray] = {}
    for prompt in PROMPT_KINDS:
        tokens = (getattr(choice, prompt),)
        met = motivation.meet(scenario, [Meeting(count, LIGHT_DECODE, tokens) for count in DECODES])
        seconds = np.array([each.prefill for each in met])
        slower[prompt] = seconds / seconds[0]
    return slower


def _draw(canvas, title: str, choice: motivation.Prompts, decode: dict[str, Curves], prefill) -> None:
    left, right = canvas.subplots(1, 2)
    behind, place = decode["behind"]["light", "heavy"], style.place_of("vllm-v0")
    left.plot(PROMPTS, behind, color=style.colour(place), linestyle=style.dash(2))
    motivation.label(left, "heavy prompts in V0,\nwhere decodes wait", (PROMPTS[4], behind[4]), place, (-122, 16))
    _iteration_lines(left, choice, decode["beside"])
    motivation.paper_point(left, 1, 5, "paper 5x", (9, -4))
    left.set_yscale("log")
    left.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    left.minorticks_off()
    style.plain(left, "A decode's iteration", "prompts that join it", "times slower than without (log scale)")
    for prompt, place in PLACES.items():
        right.plot(1 + np.array(DECODES), prefill[prompt], color=style.colour(place), marker="o", markersize=4)
        motivation.label(right, f"{prompt} prompt", (1 + DECODES[-1], prefill[prompt][-1]), place, (6, 0))
    right.axhline(2.5, color="0.5", linestyle=style.dash(2), linewidth=1)
    motivation.label(right, "paper: up to 2.5x, from more than 7 on", (1, 2.5), motivation.PAPER, (2, -9))
    right.set_xscale("log", base=2)
    right.set_xlim(0.93, 420)
    right.set_ylim(0)
    right.set_xticks([1 + count for count in DECODES], [str(count) for count in DECODES])
    style.plain(right, "A prompt's step", "light decodes in it (log scale)", "times slower than alone")
    canvas.suptitle(title, x=0.01, ha="left", fontsize=10)


def _iteration_lines(axis, choice: motivation.Prompts, slower: Curves) -> None:
    """A light decode solid, a heavy one dashed; they nearly coincide."""
    for (decode, prompt), values in slower.items():
        dash = style.dash(1 if decode == "heavy" else 0)
        axis.plot(PROMPTS, values, marker="o", markersize=4, color=style.colour(PLACES[prompt]), linestyle=dash)
    for prompt, place in PLACES.items():
        text = f"{prompt} prompts, {getattr(choice, prompt)} tokens\n(light and heavy decodes alike)"
        at = (PROMPTS[4], slower["light", prompt][4])
        motivation.label(axis, text, at, place, (-40, 20 if prompt == "light" else -30))
