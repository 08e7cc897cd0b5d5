"""Figure 1: how long prompts and answers are, by task.

Conversation is our ShareGPT-like generator. The paper's summarisation and writing sets are not here; the classes of
its evaluation that it names after them stand in: HPLD (prompt > 512, answer <= 128) and LPHD (the other way round).
"""

from dataclasses import replace

import numpy as np
from paper import motivation

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import estimate, over_seeds
from tetrisim.workload.trace import Trace, build

STAND_INS = {"summarisation (stand-in: HPLD)": "hpld", "writing (stand-in: LPHD)": "lphd"}
GRID = np.unique(np.geomspace(1, 2048, 160).round())


def figure(scenario: Scenario) -> Findings:
    """Ten samples of each task."""
    tasks = {"conversation (ShareGPT-like)": scenario.workload.trace, **STAND_INS}
    samples = over_seeds(scenario, lambda each: {name: _sample(each, trace) for name, trace in tasks.items()})
    talk = next(iter(tasks))
    metrics = {}
    for kind in ("prompt", "answer"):
        lengths = [{name: _lengths(trace, kind) for name, trace in sample.items()} for sample in samples]
        metrics[f"conversation, median {kind} (tokens)"] = estimate([np.median(each[talk]) for each in lengths])
        ends = [np.percentile(np.concatenate(list(each.values())), (1, 99)) for each in lengths]
        metrics[f"{kind}s, 99th over 1st percentile"] = estimate([high / low for low, high in ends])

    def draw(canvas):
        for axis, kind, paper in zip(canvas.subplots(1, 2, sharey=True), ("prompt", "answer"), (18, 128), strict=True):
            for place, name in enumerate(tasks):
                _cdf(axis, [_lengths(sample[name], kind) for sample in samples], name, (4, 5, 6)[place], kind)
            motivation.paper_point(axis, paper, 0.5, f"paper: median {paper}", (-92, 8))
            axis.set_xscale("log")
            axis.set_xlim(0.9, 2300)
            axis.xaxis.set_major_formatter("{x:g}")
            title = {"prompt": "Prompts", "answer": "Answers"}[kind]
            style.plain(axis, title, f"{kind} (tokens, log scale)", "share of requests" if kind == "prompt" else "")

    return Findings(metrics, draw, (9.6, 3.9))


def _sample(scenario: Scenario, trace: str) -> Trace:
    return build(replace(scenario.workload, trace=trace), scenario.seed)


def _lengths(trace: Trace, kind: str) -> np.ndarray:
    return trace.prompt_tokens if kind == "prompt" else trace.output_tokens


def _cdf(axis, samples: list[np.ndarray], name: str, place: int, kind: str) -> None:
    """Mean over the seeds, in a band of 95 %."""
    shares = np.array([np.searchsorted(np.sort(sample), GRID, side="right") / len(sample) for sample in samples])
    points = [estimate(column) for column in shares.T]
    mean = np.array([point.mean for point in points])
    low, high = np.array([point.low for point in points]), np.array([point.high for point in points])
    axis.fill_between(GRID, low, high, color=style.colour(place), alpha=0.3, linewidth=0)
    axis.plot(GRID, mean, color=style.colour(place), linestyle=style.dash(place - 4))
    at, offset = {
        ("prompt", 4): (0.66, (9, -4)), ("prompt", 5): (0.12, (-118, 0)), ("prompt", 6): (0.8, (-112, 4)),
        ("answer", 4): (0.1, (8, -5)), ("answer", 5): (0.86, (-122, 0)), ("answer", 6): (0.3, (7, -6)),
    }[kind, place]  # fmt: skip
    short = name if kind == "prompt" else name.split(" (")[0]
    motivation.label(axis, short.replace(" (", "\n("), (float(np.interp(at, mean, GRID)), at), place, offset)
