"""Stall-free batches: how long a running request waits when a prompt comes, and the rate at a limit on that wait."""

import numpy as np
from paper.scheduling import OTHER, VLLM, draw_line
from paper.search import highest_rates

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import simulate
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate
from tetrisim.workload.trace import Trace

POOL = "cluster.pools.0"
SYSTEMS = {
    "vLLM V0": {"system": "vllm-v0"},
    "Sarathi, 512": {"system": "sarathi"},
    "Sarathi, 2048": {"system": "sarathi", f"{POOL}.max_num_batched_tokens": 2048},
    "vLLM V1": {"system": "vllm-v1"},
}
TUNED = {
    str(budget): {"system": "vllm-v1", f"{POOL}.max_num_batched_tokens": budget, f"{POOL}.max_num_seqs": 128}
    for budget in (256, 512, 1024)
}
PLACES = dict(zip(SYSTEMS, (VLLM, style.place_of("sarathi"), OTHER, style.place_of("vllm-v1")), strict=True))
OFFSETS = {"vLLM V1": 9, "Sarathi, 2048": -9}
"""Points by which two names that would meet are moved apart."""
PROMPTS = (512, 1024, 2048, 4096, 8192)
LIMITS_S = {"strict": 0.1, "relaxed": 0.5}
"""Limits on the 99th percentile of the gaps between tokens, the paper's for a 7B model."""
QUEUE_S = 2.0
"""And on the median time in the queue, so that a rate is one that lasts."""
FIRST_PER_S = 0.5


def figure(scenario: Scenario) -> Findings:
    """The stall that the paper's figure 1 shows, and the capacities of its figure 10."""
    stalls = {name: [_stall_s(override(scenario, own), prompt) for prompt in PROMPTS] for name, own in SYSTEMS.items()}
    rates: dict[tuple[str, str], np.ndarray] = {}
    for name, own in {**SYSTEMS, **TUNED}.items():
        columns = highest_rates(override(scenario, own), _over, [FIRST_PER_S] * len(LIMITS_S)).T
        rates |= {(name, level): column for level, column in zip(LIMITS_S, columns, strict=True)}
    best = {level: max((rates[budget, level] for budget in TUNED), key=np.mean) for level in LIMITS_S}
    metrics: dict[str, Estimate | float] = {
        "longest gap, prompts of 8192 over 512, V0": stalls["vLLM V0"][-1] / stalls["vLLM V0"][0],
        "longest gap, prompts of 8192 over 512, Sarathi": stalls["Sarathi, 512"][-1] / stalls["Sarathi, 512"][0],
        **{
            f"capacity, {level}, Sarathi over V0": estimate(
                np.maximum(rates["Sarathi, 512", level], rates["Sarathi, 2048", level]) / rates["vLLM V0", level]
            )
            for level in LIMITS_S
        },
        **{
            f"capacity, {level}, V1 over V0": estimate(rates["vLLM V1", level] / rates["vLLM V0", level])
            for level in LIMITS_S
        },
        **{
            f"capacity, {level}, tuned V1 over V0": estimate(best[level] / rates["vLLM V0", level])
            for level in LIMITS_S
        },
    }

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        for name in SYSTEMS:
            draw_line(
                left,
                PROMPTS,
                [Estimate(1e3 * each) for each in stalls[name]],
                PLACES[name],
                name,
                (6, OFFSETS.get(name, 0)),
            )
        left.set_xlim(right=PROMPTS[-1] * 1.35)
        left.set_ylim(bottom=0)
        style.plain(left, "A prompt comes while 16 decode", "prompt (tokens)", "longest gap between tokens (ms)")
        for column, level in enumerate(LIMITS_S):
            for row, name in enumerate(SYSTEMS):
                value = estimate(rates[name, level])
                at = row + 0.4 * column - 0.2
                right.barh(
                    at,
                    value.mean,
                    0.36,
                    xerr=value.half,
                    color=style.colour(PLACES[name]),
                    alpha=1 - 0.45 * column,
                    ecolor="0.3",
                    capsize=3,
                )
                right.annotate(
                    f"{value.mean:.1f}, {level}",
                    (value.high, at),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8.5,
                )
        right.set_yticks(range(len(SYSTEMS)), list(SYSTEMS))
        right.invert_yaxis()
        right.margins(x=0.25)
        style.plain(right, "Sustained, p99 gap <= 0.1 s (strict), 0.5 s (relaxed)", "requests/s")
        right.grid(False, axis="y")

    return Findings(metrics, draw, (11.0, 4.2))


def _stall_s(scenario: Scenario, prompt: int) -> float:
    """The longest gap of requests that decode when a prompt of this length comes."""
    requests = Trace(
        "a prompt", np.append(np.zeros(16), 2.0), np.append(np.full(16, 64), prompt), np.append(np.full(16, 400), 2)
    )
    gaps = simulate(scenario, trace=requests).gap_columns
    return float((gaps["first_s"] + np.maximum(gaps["slope_s"], 0) * (gaps["steps"] - 1)).max())


def _over(result):
    """For each limit: gaps and queue over theirs, the larger of the two."""
    rows = result.request_columns
    [gap_s] = define.itl(result.gap_columns).percentiles((99.0,))
    assert gap_s is not None
    queue = float(np.median(rows["prefill_start_s"] - rows["arrival_s"])) / QUEUE_S
    return [max(gap_s / limit_s, queue) for limit_s in LIMITS_S.values()]
