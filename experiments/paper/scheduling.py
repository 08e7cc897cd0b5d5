"""What the figures of the schedulers share: several variants on the same seeds, and lines with intervals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

import tetrisim
from tetrisim.metrics import definitions as define
from tetrisim.policies.prediction import bucket
from tetrisim.policies.views import PlacementView, RequestView, Rng
from tetrisim.report import style
from tetrisim.scenario.cluster import PredictorSpec
from tetrisim.streams import stream
from tetrisim.studies.seeds import SEEDS, Estimate, estimate, over_seeds
from tetrisim.workload.trace import Trace, build

Settings = Mapping[str, object]
Values = dict[str, np.ndarray]
"""Measure -> its values, one a seed."""

VLLM, TETRI = style.place_of("vllm-v0"), style.place_of("tetriinfer")
OTHER, OWN, WORST = 4, 3, 6
"""Places of colours: vLLM's choice, TetriInfer's, that of neither, one that is ours, the worst case."""


def run_variants(
    scenario: tetrisim.Scenario,
    variants: Mapping[str, Settings],
    measure: Callable[[tetrisim.Result], Mapping[str, float]],
    trace: Callable[[tetrisim.Scenario], object] | None = None,
    seeds: int = SEEDS,
) -> dict[str, Values]:
    """Each variant under the same seeds, so that their requests are the same: variant -> measure -> values by seed.

    `trace` makes the requests where the scenario's workload does not.
    """
    found: dict[str, Values] = {}
    for name, settings in variants.items():
        varied = tetrisim.override(scenario, settings) if settings else scenario
        rows = over_seeds(
            varied, lambda each: measure(tetrisim.simulate(each, trace=trace(each) if trace else None)), seeds
        )
        found[name] = {key: np.array([row[key] for row in rows], dtype=float) for key in rows[0]}
    return found


def change(values: np.ndarray, base: np.ndarray) -> Estimate:
    """Change against `base` in %, seed by seed."""
    return estimate(100 * (values / base - 1))


def prompts_only(scenario: tetrisim.Scenario):
    """The scenario's requests with answers of one token: the prefill gives it, so nothing is decoded."""
    trace = build(scenario.workload, scenario.seed)
    return replace(trace, output_tokens=np.ones_like(trace.output_tokens))


def mean_jct(result: tetrisim.Result) -> float:
    """Mean job completion time (s)."""
    return float(define.e2el(result.request_columns).mean())


def mean_ttft(result: tetrisim.Result) -> float:
    """Mean time to first token (s)."""
    return float(define.ttft(result.request_columns).mean())


def draw_line(
    axis,
    x: Sequence[float],
    points: Sequence[Estimate],
    place: int,
    name: str,
    offset: tuple[float, float] = (6, 0),
    at: int = -1,
) -> None:
    """Means with their 95 % intervals; the name stands `offset` points from the one numbered `at`."""
    means, halves = [point.mean for point in points], [point.half for point in points]
    look = {"color": style.colour(place), "linestyle": style.dash(place)}
    axis.errorbar(x, means, halves, marker="o", markersize=4, capsize=3, **look)
    style.name_line(axis, name, (x[at], means[at]), place, offset)


def drifting_trace(scenario: tetrisim.Scenario) -> Trace:
    """Requests that drift evenly from prefill-heavy to decode-heavy, as many as the workload says.

    Prefill-heavy: 500 to 1500 tokens in, 2 to 4 out. Decode-heavy: 16 to 64 in, 300 to 700 out. The first kind begins
    at the workload's rate and ends at none; the second ends at half of that rate.
    """
    workload, rng = scenario.workload, stream(scenario.seed, "drift")
    assert workload.requests and workload.rate_per_s
    n = workload.requests
    # Both rates change evenly, so their sum does: from `rate` to half of it, 3/4 on average.
    span_s = n / (0.75 * workload.rate_per_s)
    at = (2 - np.sqrt(4 - 3 * rng.random(n))) * span_s  # inverse of the share of requests that have come by then
    at.sort()
    done = at / span_s
    decode = rng.random(n) < done / (2 - done)
    prompts = np.where(decode, rng.integers(16, 65, n), rng.integers(500, 1501, n))
    outputs = np.where(decode, rng.integers(300, 701, n), rng.integers(2, 5, n))
    return Trace("drifting", at, prompts, outputs)


def work_of(rows: Mapping[str, np.ndarray], instance: str) -> list[tuple[float, float, bool]]:
    """Start, end (s) and whether it is a prefill, of each prefill and decode that an instance ran."""
    spans: list[tuple[float, float, bool]] = []
    for kind, start, end in (("prefill", "prefill_start_s", "first_token_s"), ("decode", "decode_start_s", "finish_s")):
        mine = (rows[f"{kind}_instance"] == instance) & (rows[end] > rows[start])
        spans += zip(rows[start][mine], rows[end][mine], [kind == "prefill"] * int(mine.sum()), strict=True)
    return sorted(spans)


def merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The times at which at least one of the spans is under way."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def hotspot(result: tetrisim.Result) -> float:
    """Tokens decoded by the decode instance that decoded most, over the mean of all."""
    rows, instances = result.request_columns, result.instance_columns
    tokens = [
        int(rows["output_tokens"][rows["decode_instance"] == name].sum())
        for name in instances["instance"][instances["role"] == "decode"]
    ]
    return max(tokens) / float(np.mean(tokens))


def fewest_of_two(view: PlacementView, request: RequestView, rng: Rng) -> int:
    """A placement policy: of two instances drawn at random, the one with fewer decodes."""
    first, second = rng.randrange(view.count), rng.randrange(view.count)
    one, two = view.snapshot(first), view.snapshot(second)
    return first if one.heavy + one.light <= two.heavy + two.light else second


def upper_end(outputs: np.ndarray, spec: PredictorSpec, rng: np.random.Generator) -> np.ndarray:
    """A predictor: the upper end of the range that `bucket` gives the lower end of."""
    return bucket(outputs, spec, rng) + spec.granularity_tokens
