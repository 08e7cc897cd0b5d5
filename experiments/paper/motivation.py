"""What Figures 1 to 5 share: the lengths called light and heavy, and requests brought together in one step.

The paper's motivation section has its own thresholds, not those of its evaluation (notes, section 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tetrisim.errors import ScenarioError
from tetrisim.latency.build import build_timer
from tetrisim.latency.knee import saturation_tokens
from tetrisim.latency.roofline import Shard
from tetrisim.latency.step import StepTimer
from tetrisim.report import style
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import simulate
from tetrisim.workload.trace import Trace

LIGHT_PREFILL, HEAVY_PREFILL = 18, 512
"""Prompt tokens: ShareGPT's median, and where OPT-13B saturates the paper's V100s."""
LIGHT_DECODE, HEAVY_DECODE = 99, 513
"""Generated tokens: light is "below 100", heavy "above 512"."""

LIGHT, HEAVY, PAPER = 4, 5, 6
"""Places of their colours; those of the systems are left to the systems."""

_APART_S = 1000.0
"""Between batches that shall not meet: much longer than any of them runs."""

_Row = tuple[float, int, int]
"""Arrival in seconds, prompt tokens, output tokens."""


@dataclass(frozen=True)
class Prompts:
    """Tokens of a light and a heavy prompt, and how they were chosen."""

    name: str
    light: int
    heavy: int


@dataclass(frozen=True)
class Meeting:
    """So many decodes of one length, and the prompts that join them midway."""

    decodes: int
    output: int
    prompts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Met:
    """Seconds of a decode iteration without and with the prompts, and from the prompts' start to their first token."""

    alone: float
    together: float
    prefill: float


def build(scenario: Scenario) -> tuple[StepTimer, str]:
    """The step times of the scenario's first pool, and where they come from."""
    pool = scenario.cluster.pools[0]
    gpu = load_gpu(pool.gpu or scenario.cluster.gpu)
    return build_timer(
        Shard(load_model(scenario.model), gpu, scenario.dtype, pool.tensor_parallel), scenario.profile, "profile"
    )


def prompts(scenario: Scenario) -> tuple[Prompts, Prompts]:
    """The paper's tokens, and the same shares of the saturation point of this model on this GPU."""
    knee = saturation_tokens(build(scenario)[0])
    light = max(1, round(knee * LIGHT_PREFILL / HEAVY_PREFILL))
    return Prompts("paper's tokens", LIGHT_PREFILL, HEAVY_PREFILL), Prompts("shares of the knee", light, knee)


def title(scenario: Scenario) -> str:
    """Model, GPUs and the source of the step times, in one line."""
    pool = scenario.cluster.pools[0]
    return (
        f"{scenario.model} {scenario.dtype} on {scenario.cluster.gpu}, TP={pool.tensor_parallel}; step times: "
        + (build(scenario)[1].split(": ")[-1])
    )


def first_tokens_s(scenario: Scenario, batches: Sequence[Sequence[int]]) -> list[float]:
    """TTFT of the first prompt of each batch (prompt tokens); a batch arrives at once, long after the one before it."""
    rows = [(index * _APART_S, prompt, 1) for index, batch in enumerate(batches) for prompt in batch]
    columns = run(scenario, rows)
    firsts = np.cumsum([0, *(len(batch) for batch in batches[:-1])])
    return (columns["first_token_s"] - columns["arrival_s"])[firsts].tolist()


def meet(scenario: Scenario, meetings: Sequence[Meeting]) -> list[Met]:
    """What each meeting costs. It runs twice: the run without prompts says when midway is, and how long without."""
    starts = [index * _APART_S for index in range(len(meetings))]
    rows = [
        (start, LIGHT_PREFILL, each.output)
        for start, each in zip(starts, meetings, strict=True)
        for _ in range(each.decodes)
    ]
    alone = _finishes(run(scenario, rows) if rows else {}, meetings, starts)
    joined = [
        ((first + last) / 2, prompt, 1)
        for (first, last), each in zip(alone, meetings, strict=True)
        for prompt in each.prompts
    ]
    columns = run(scenario, rows + joined)
    together = _finishes(columns, meetings, starts)
    met: list[Met] = []
    for index, each in enumerate(meetings):
        iteration = (alone[index][1] - alone[index][0]) / (each.output - 1)
        late = together[index][1] - alone[index][1]
        met.append(Met(iteration, iteration + late, _prefill_s(columns, starts[index], each)))
    return met


def run(scenario: Scenario, rows: Sequence[_Row]) -> dict[str, np.ndarray]:
    """The rows of a run of these requests; all of them must be served."""
    arrival, prompt, output = (np.array(column) for column in zip(*sorted(rows), strict=True))
    trace = Trace("co-batched", arrival.astype(float), prompt.astype(np.int64), output.astype(np.int64))
    columns = simulate(scenario, trace=trace).request_columns
    refused = int((columns["status"] != "completed").sum())
    if refused:
        raise ScenarioError("cluster.pools.0", f"{refused} of the probe's requests cannot be served", "more GPU memory")
    return columns


def _of(columns: dict[str, np.ndarray], start: float) -> np.ndarray:
    return (columns["arrival_s"] >= start) & (columns["arrival_s"] < start + _APART_S)


def _finishes(
    columns: dict[str, np.ndarray], meetings: Sequence[Meeting], starts: Sequence[float]
) -> list[tuple[float, float]]:
    """First token and finish of each meeting's decodes; its start where it has none."""
    spans: list[tuple[float, float]] = []
    for start, each in zip(starts, meetings, strict=True):
        if each.decodes == 0:
            spans.append((start, start))
            continue
        decodes = _of(columns, start) & (columns["output_tokens"] == each.output)
        spans.append((float(columns["first_token_s"][decodes].max()), float(columns["finish_s"][decodes].max())))
    return spans


def _prefill_s(columns: dict[str, np.ndarray], start: float, meeting: Meeting) -> float:
    """From the step that takes the prompts up to their first token: that step's length, where they fit into one."""
    if not meeting.prompts:
        return 0.0
    joined = _of(columns, start) & (columns["output_tokens"] == 1)
    return float(columns["first_token_s"][joined].max() - columns["prefill_start_s"][joined].min())


def label(axis, text: str, at: tuple[float, float], place: int, offset: tuple[float, float] = (5, 0)) -> None:
    """A line's name beside a point of it; dark enough to read where its colour is light."""
    axis.annotate(
        text, at, offset, textcoords="offset points", va="center", fontsize=9, path_effects=style.HALO,
        color={LIGHT: "#1b6e9c", HEAVY: "#9a6a00"}.get(place, style.colour(place)), annotation_clip=False,
    )  # fmt: skip


def paper_point(axis, x: float, y: float, text: str, offset: tuple[float, float] = (7, 7)) -> None:
    """What the paper says, as an open circle with its words."""
    axis.plot([x], [y], "o", markersize=7, markerfacecolor="none", markeredgecolor="black", zorder=5)
    label(axis, text, (x, y), PAPER, offset)
