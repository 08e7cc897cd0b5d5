"""Static batches, iterations that anybody may join, and paged memory: the highest rate at a given latency."""

from paper.scheduling import OTHER, VLLM, WORST, change, run_variants
from paper.search import highest_rates

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

RESERVE = "cluster.pools.0.kv_reservation"
SYSTEMS = {
    "FasterTransformer": {"system": "fastertransformer"},
    "Orca (max)": {RESERVE: "longest"},
    "Orca (pow2)": {RESERVE: "power-of-two"},
    "Orca (oracle)": {RESERVE: "exact"},
    "vLLM V0": {"system": "vllm-v0"},
    "vLLM V1": {"system": "vllm-v1"},
}
PLACES = dict(zip(SYSTEMS, (WORST, OTHER, OTHER, OTHER, VLLM, style.place_of("vllm-v1")), strict=True))
TUNED = {
    f"{budget} tokens": {"system": "vllm-v1", "cluster.pools.0.max_num_batched_tokens": budget}
    for budget in (512, 1024, 4096)
}
LIMIT_S = 0.2
"""Mean E2EL per output token that still counts as sustained, several times what a lone request takes."""
LOWEST_PER_S = 0.05


def figure(scenario: Scenario) -> Findings:
    """The comparison of the vLLM paper (arXiv 2309.06180, figure 12), whose Orca reserves memory in three ways."""
    rates = {
        name: highest_rates(override(scenario, own), _over, [LOWEST_PER_S])[:, 0]
        for name, own in {**SYSTEMS, **TUNED}.items()
    }
    tuned = max(TUNED, key=lambda name: rates[name].mean())
    burst = {"workload.arrivals": "burst", "workload.rate": None}
    held = run_variants(scenario, {name: {**SYSTEMS[name], **burst} for name in SYSTEMS}, _held)
    v0, largest = rates["vLLM V0"], rates["Orca (max)"]
    metrics: dict[str, Estimate | float] = {
        "rate, Orca (max) over FasterTransformer": estimate(largest / rates["FasterTransformer"]),
        "rate, vLLM V0 over Orca (max)": estimate(v0 / largest),
        "rate, vLLM V0 over Orca (pow2)": estimate(v0 / rates["Orca (pow2)"]),
        "rate, vLLM V0 over Orca (oracle)": estimate(v0 / rates["Orca (oracle)"]),
        "rate, vLLM V0 over FasterTransformer": estimate(v0 / rates["FasterTransformer"]),
        "sequences held, vLLM V0 over Orca (oracle)": estimate(held["vLLM V0"]["held"] / held["Orca (oracle)"]["held"]),
        "sequences held, vLLM V0 over Orca (max)": estimate(held["vLLM V0"]["held"] / held["Orca (max)"]["held"]),
        "rate, vLLM V1 against V0 (%)": change(rates["vLLM V1"], v0),
        "rate, tuned V1 against V0 (%)": change(rates[tuned], v0),
    }

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        for axis, values, title, unit, digits in (
            (left, rates, f"Sustained at {LIMIT_S} s an output token", "requests/s", 2),
            (right, {name: held[name]["held"] for name in held}, "All at once: in memory", "mean sequences", 0),
        ):  # fmt: skip
            for row, name in enumerate(SYSTEMS):
                value = estimate(values[name])
                axis.barh(
                    row, value.mean, 0.6, xerr=value.half, color=style.colour(PLACES[name]), ecolor="0.3", capsize=3
                )
                axis.annotate(
                    f"{value.mean:.{digits}f}",
                    (value.high, row),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
            axis.set_yticks(range(len(SYSTEMS)), list(SYSTEMS))
            axis.invert_yaxis()
            axis.margins(x=0.15)
            style.plain(axis, title, unit)
            axis.grid(False, axis="y")

    return Findings(metrics, draw, (10.0, 3.8))


def _over(result):
    rows = result.request_columns
    return [float((define.e2el(rows) / rows["output_tokens"]).mean()) / LIMIT_S]


def _held(result):
    rows = result.request_columns
    inside = rows["finish_s"] - rows["prefill_start_s"]
    return {"held": float(inside.sum() / (rows["finish_s"].max() - rows["prefill_start_s"].min()))}
