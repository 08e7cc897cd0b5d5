"""Figure 2: prefill saturates the GPU at some size of a step, decode only slowly. Step times, without a scheduler."""

from math import log

import numpy as np
from paper import motivation

from tetrisim.latency.knee import MOST_TOKENS, saturation_tokens
from tetrisim.latency.step import StepTimer
from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.units import TICKS_PER_S

BATCHES = np.array([2**power for power in range(10)])
CONTEXT = 82
"""Cached tokens of each decode: ShareGPT's median prompt and half of its median answer."""
MOST = 2048
"""Prompt tokens: the positions of OPT-13B."""


def figure(scenario: Scenario) -> Findings:
    """One prompt a step, from 1 token on; decodes of equal context, one step each."""
    timer, _ = motivation.build(scenario)
    knee = saturation_tokens(timer)
    tokens = np.arange(1, MOST_TOKENS + 1)
    prefill_s = np.array([_prefill_s(timer, int(size)) for size in tokens])
    rate = tokens / prefill_s
    decode = BATCHES / [timer.step(n, [], n, n * CONTEXT, CONTEXT) / TICKS_PER_S for n in BATCHES.tolist()]
    slopes = np.diff(decode) / np.diff(BATCHES)
    share = rate / rate.max()
    metrics = {
        "prefill saturation point (tokens)": float(knee),
        "lowest prefill rate past it, of the plateau": float(share[knee - 1 : MOST].min()),
        "prefill rate at 512 tokens, of the plateau": float(share[511]),
        "growth of prefill time past it (exponent)": log(_prefill_s(timer, 4 * knee) / _prefill_s(timer, knee), 4),
        "least gain of decode rate as the batch doubles (%)": 100 * float((decode[1:] / decode[:-1] - 1).min()),
        "steepest decode slope over the one before": float((slopes[1:] / slopes[:-1]).max()),
    }

    def draw(canvas):
        first, second, third = canvas.subplots(1, 3)
        seen = tokens <= MOST
        for axis, values in ((first, rate / 1e3), (second, prefill_s * 1e3)):
            axis.plot(tokens[seen], values[seen], color=style.colour(motivation.LIGHT), linewidth=2)
            axis.plot([knee], values[[knee - 1]], "o", color=style.colour(motivation.PAPER))
            axis.axvline(512, color="0.55", linestyle=style.dash(2), linewidth=1)
            axis.set_xlim(0, MOST)
            axis.set_ylim(0)
            axis.set_xticks(range(0, MOST + 1, 512))
        motivation.label(first, f"knee: {knee} tokens", (knee, rate[knee - 1] / 1e3), motivation.PAPER, (8, -12))
        motivation.label(first, "paper's knee: 512", (512, 0), motivation.PAPER, (4, 12))
        style.plain(first, "Prefill throughput", "prompt tokens in the step", "thousand tokens/s")
        style.plain(second, "Prefill latency", "prompt tokens in the step", "ms")
        third.plot(BATCHES, decode / 1e3, color=style.colour(motivation.HEAVY), marker="o", markersize=4)
        third.set_ylim(0)
        third.set_xlim(0)
        third.set_xticks([1, 64, 128, 256, 512])
        style.plain(third, f"Decode throughput, context {CONTEXT}", "sequences in the batch", "thousand tokens/s")
        canvas.suptitle(motivation.title(scenario), x=0.01, ha="left", fontsize=10)

    return Findings(metrics, draw, (11.0, 3.6))


def _prefill_s(timer: StepTimer, tokens: int) -> float:
    return timer.prefill(tokens, 1, tokens, 0) / TICKS_PER_S
