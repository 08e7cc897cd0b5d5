"""DistServe: goodput per GPU by split and parallelism, against vLLM, as the TPOT limit tightens."""

from collections.abc import Mapping

import numpy as np
from paper.scheduling import OTHER, OWN, VLLM, WORST, draw_line
from paper.search import highest_rates

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Result
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

LIMITS_S = ((0.25, 0.1), (0.25, 0.05), (0.25, 0.03), (0.2, 0.1))
"""TTFT and TPOT: the paper's, two tighter ones, and those of its simulator's example."""
MISSES = 0.1

Settings = Mapping[str, object]


def _split(prefill: int, prefill_gpus: int, decode: int, decode_gpus: int) -> tuple[Settings, int]:
    pools = [{"role": "prefill", "instances": prefill, "tensor_parallel": prefill_gpus},
             {"role": "decode", "instances": decode, "tensor_parallel": decode_gpus}]  # fmt: skip
    return {"cluster.pools": pools}, prefill * prefill_gpus + decode * decode_gpus


def _vllm(system: str, gpus: int, **pool: object) -> tuple[Settings, int]:
    return {"system": system, "cluster.pools": [{"role": "hybrid", "tensor_parallel": gpus, **pool}]}, gpus


SPLITS = {
    "P1 D1": _split(1, 1, 1, 1),
    "2 P1, D1": _split(2, 1, 1, 1),
    "P2 D1": _split(1, 2, 1, 1),
    "P2 D2": _split(1, 2, 1, 2),
    "2 P2, D2": _split(2, 2, 1, 2),
    "P4 D2": _split(1, 4, 1, 2),
    "P4 D4": _split(1, 4, 1, 4),
}
"""GPUs of an instance after its letter."""
V0 = {"V0, 1 GPU": _vllm("vllm-v0", 1), "V0, 2 GPUs": _vllm("vllm-v0", 2)}
V1 = {"V1, 1 GPU": _vllm("vllm-v1", 1), "V1, 2 GPUs": _vllm("vllm-v1", 2)}
TUNED = V1 | {f"V1, {tokens}": _vllm("vllm-v1", 2, max_num_batched_tokens=tokens) for tokens in (512, 1024)}


def figure(scenario: Scenario) -> Findings:
    """Figure 8 (a) of arXiv 2401.09670."""
    rates = {name: _per_gpu(scenario, *made) for name, made in (SPLITS | V0 | TUNED).items()}
    # Each system is taken at its best, on the mean of the seeds, under each limit.
    own, v0, v1, tuned = (_best(rates, names) for names in (SPLITS, V0, V1, TUNED))
    alone = rates["V0, 1 GPU"]
    best = max(SPLITS, key=lambda name: rates[name][:, 0].mean())
    metrics: dict[str, Estimate | float] = {
        "goodput/GPU over V0 on 1 GPU": estimate(own[:, 0] / alone[:, 0]),
        "goodput/GPU over V0 on 1 GPU, TTFT 0.2 s": estimate(own[:, 3] / alone[:, 3]),
        "goodput/GPU over V0 on 1 GPU, TPOT 0.03 s": estimate(own[:, 2] / alone[:, 2]),
        "goodput/GPU over V0 at its best": estimate(own[:, 0] / v0[:, 0]),
        "goodput/GPU over V0 at its best, TPOT 0.03 s": estimate(own[:, 2] / v0[:, 2]),
        "goodput/GPU over V1": estimate(own[:, 0] / v1[:, 0]),
        "goodput/GPU over tuned V1": estimate(own[:, 0] / tuned[:, 0]),
        "goodput/GPU over tuned V1, TPOT 0.03 s": estimate(own[:, 2] / tuned[:, 2]),
        "the best split over P2 D1": estimate(rates[best][:, 0] / rates["P2 D1"][:, 0]),
        "requests/s/GPU at 0.2 s and 0.1 s, P1 D1": estimate(rates["P1 D1"][:, 3]),
        "requests/s/GPU at 0.2 s and 0.1 s, best": estimate(own[:, 3]),
    }

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        names = [*SPLITS, *V0, *TUNED]
        for row, name in enumerate(names):
            value = estimate(rates[name][:, 0])
            place = OWN if name in SPLITS else VLLM if name in V0 else OTHER
            left.barh(row, value.mean, 0.65, xerr=value.half, color=style.colour(place), ecolor="0.3", capsize=2)
            left.annotate(f"{value.mean:.1f}", (value.high, row), (4, 0), textcoords="offset points", va="center",
                          fontsize=8)  # fmt: skip
        left.set_yticks(range(len(names)), names, fontsize=8)
        left.invert_yaxis()
        left.margins(x=0.12)
        style.plain(left, "TTFT 0.25 s, TPOT 0.1 s", "requests/s a GPU at 90 % attainment")
        left.grid(False, axis="y")
        lines = {"DistServe": (own, OWN), "V0, 1 GPU": (alone, WORST), "V0": (v0, VLLM), "V1, tuned": (tuned, OTHER)}
        for (name, (values, place)), above in zip(lines.items(), (-2, -8, -2, 0), strict=True):
            points = [estimate(values[:, at]) for at in (2, 1, 0)]
            draw_line(right, [30, 50, 100], points, place, name, (6, above))
        right.set_xlim(25, 125)
        right.set_ylim(0)
        style.plain(right, "Each at its best, TTFT 0.25 s", "TPOT limit (ms)", "requests/s a GPU")

    return Findings(metrics, draw, (10.0, 4.4))


def _per_gpu(scenario: Scenario, settings: Settings, gpus: int) -> np.ndarray:
    return highest_rates(override(scenario, settings), _misses, [2.0 * gpus] * len(LIMITS_S)) / gpus


def _best(rates: Mapping[str, np.ndarray], names: Mapping[str, object]) -> np.ndarray:
    chosen = [max(names, key=lambda name: rates[name][:, at].mean()) for at in range(len(LIMITS_S))]
    return np.stack([rates[name][:, at] for at, name in enumerate(chosen)], axis=1)


def _misses(result: Result) -> list[float]:
    """For each pair of limits, the share of requests that miss one, as a share of the share that may."""
    rows = result.request_columns
    first, whole = define.ttft(rows), define.e2el(rows)
    each = (whole - first) / np.maximum(rows["output_tokens"][define.completed(rows)] - 1, 1)
    return [float(1 - ((first <= ttft) & (each <= tpot)).mean()) / MISSES for ttft, tpot in LIMITS_S]
