"""Figure 5: what heavy decodes cost the light ones in their batch.

Simulated runs of vLLM V0: a snapshot of a batch of 128 whose slots are always refilled with their own kind. Each slot's
request arrives as a prompt with the tokens it has generated so far, then all decode together for `STEPS` iterations.
"""

import numpy as np
from paper import motivation

from tetrisim.errors import ScenarioError
from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.streams import stream
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate, over_seeds
from tetrisim.workload.synthetic import MAX_CONTEXT, sharegpt_lengths

BATCH = 128
SHARES = (0, 16, 32, 48, 64)
STEPS = 8
PROMPT = motivation.LIGHT_PREFILL
LIGHT_RANGE = (19, 100)
"""Light answers: 20 to 100 tokens, as (more than, at most)."""
HEAVY_RANGE = (motivation.HEAVY_DECODE - 1, MAX_CONTEXT - PROMPT)
POPULATION = 4096
READINGS = ("ShareGPT-like answers", "answers of 513 tokens")
LABELS = {READINGS[0]: "ShareGPT-\nlike, > 512", READINGS[1]: "513 tokens"}


def figure(scenario: Scenario) -> Findings:
    """Ten snapshots; the paper names no lengths, so heavy answers are ShareGPT-like above 512, or just above it."""
    runs = over_seeds(scenario, _iterations_s)
    iteration = {name: np.array([run[name] for run in runs]) for name in READINGS}
    slower = {name: 100 * (times / times[:, :1] - 1) for name, times in iteration.items()}
    less = {name: 100 * (times[:, :1] / times - 1) for name, times in iteration.items()}
    metrics: dict[str, Estimate | float] = {}
    for name in READINGS:
        metrics[f"throughput, half heavy: {name} (%)"] = estimate(less[name][:, -1])
        metrics[f"iteration, half heavy: {name} (%)"] = estimate(slower[name][:, -1])

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        for axis, changes, paper in ((left, less, -16), (right, slower, 23)):
            for number, name in enumerate(READINGS):
                place = (motivation.HEAVY, motivation.LIGHT)[number]
                points = [estimate(column) for column in changes[name].T]
                mean, half = [point.mean for point in points], [point.half for point in points]
                looks = {"color": style.colour(place), "linestyle": style.dash(number), "marker": "o", "markersize": 4}
                axis.errorbar(SHARES, mean, half, capsize=3, **looks)
                motivation.label(axis, LABELS[name], (SHARES[-1], mean[-1]), place, (7, 0))
            motivation.paper_point(axis, 64, paper, f"paper {paper:+d} %", (7, 0))
            axis.set_xlim(-3, 84)
            axis.set_xticks(SHARES)
        style.plain(left, "Decode throughput", f"heavy decodes among {BATCH}", "% against light decodes alone")
        style.plain(right, "Decode iteration", f"heavy decodes among {BATCH}", "% against light decodes alone")
        canvas.suptitle(motivation.title(scenario), x=0.01, ha="left", fontsize=10)

    return Findings(metrics, draw, (10.0, 4.0))


def _iterations_s(scenario: Scenario) -> dict[str, list[float]]:
    """Mean length of an iteration for each share of heavy decodes, by reading of "heavy"."""
    rng = stream(scenario.seed, "lengths")
    light = _contexts(LIGHT_RANGE, rng)
    heavy = dict(zip(READINGS, (_contexts(HEAVY_RANGE, rng), _contexts((512, 513), rng)), strict=True))
    return {
        name: [_iteration_s(scenario, np.where(np.arange(BATCH) < count, longer, light)) for count in SHARES]
        for name, longer in heavy.items()
    }


def _contexts(outputs: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Cached tokens of each slot at a random moment: long answers hold a slot for longer, and are anywhere in it."""
    _, answers = sharegpt_lengths((PROMPT - 1, PROMPT), outputs, POPULATION, rng)
    held = rng.choice(answers, BATCH, p=answers / answers.sum())
    return PROMPT + (rng.random(BATCH) * (held - STEPS)).astype(np.int64)


def _iteration_s(scenario: Scenario, contexts: np.ndarray) -> float:
    columns = motivation.run(scenario, [(0.0, int(context), STEPS + 1) for context in contexts])
    begun, ended = columns["first_token_s"].max(), columns["finish_s"]
    if begun > ended.min():
        raise ScenarioError("cluster.pools.0", f"{BATCH} decodes do not fit the KV memory at once", "more GPU memory")
    return float(ended.max() - begun) / STEPS
