"""QLLM's urgent requests: who waits how long, rung by rung, from static batches to steps that stop at an expert."""

from paper.scheduling import OTHER, OWN, VLLM, WORST, draw_line, run_variants

from tetrisim.metrics.summary import summarize
from tetrisim.report import style
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import simulate
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

POOL = "cluster.pools.0"
BASE = {"system": "run-to-completion"}
V1 = {"system": "vllm-v1"}
PRIORITY = {**V1, f"{POOL}.queue": "priority"}
LADDER = {name: {f"{POOL}.preempt": {"granularity": name}} for name in ("request", "iteration", "layer", "stage",
                                                                        "expert")}  # fmt: skip
TUNING = [(budget, seqs) for budget in (256, 512, 2048, 8192) for seqs in (32, 128, 256) if budget >= seqs]
"""Token budgets and batch caps of vLLM V1; the best of them is found on a seed of its own."""
RATES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
CODE = {"workload.trace": "azure-code-like", "workload.rate": "3 /s"}
"""Long prompts and short answers, where steps are long and seldom hold anybody urgent."""
SHOWN = {"static batches": (BASE, WORST), "vLLM V1": (V1, VLLM), "QLLM": (LADDER["expert"], OWN)}


def figure(scenario: Scenario) -> Findings:
    """The headline at the load that static batches just carry; the ladder there and on code; then over the load."""
    tuned = _tuned(scenario)
    chat = run_variants(
        scenario, {"base": BASE, "V1": V1, "V1 priority": PRIORITY, "tuned V1": tuned, **LADDER}, _times
    )
    code = run_variants(scenario, {name: {**own, **CODE} for name, own in {"V1 priority": PRIORITY, **LADDER}.items()},
                        _times)  # fmt: skip
    loads = {
        rate: run_variants(scenario, {name: {**own, "workload.rate": f"{rate} /s"} for name, (own, _) in SHOWN.items()},
                           _times)
        for rate in RATES
    }  # fmt: skip
    qllm, base = chat["expert"], chat["base"]
    metrics: dict[str, Estimate | float] = {
        "urgent TTFT, static batches over QLLM": estimate(base["ttft"] / qllm["ttft"]),
        "urgent TTFT at 2 /s, static batches over QLLM": estimate(
            loads[2.0]["static batches"]["ttft"] / loads[2.0]["QLLM"]["ttft"]),
        "urgent within 3 s at 4 /s, QLLM (%)": estimate(100 * loads[4.0]["QLLM"]["within"]),
        "urgent within 3 s at 4 /s, static batches (%)": estimate(100 * loads[4.0]["static batches"]["within"]),
        "urgent E2EL, static batches over QLLM": estimate(base["e2el"] / qllm["e2el"]),
        "output tokens/s, QLLM over static batches": estimate(qllm["rate"] / base["rate"]),
        "best-effort E2EL, QLLM over static batches": estimate(qllm["other"] / base["other"]),
        "best-effort E2EL, QLLM over vLLM V1": estimate(qllm["other"] / chat["V1"]["other"]),
    }  # fmt: skip
    for name in ("V1", "V1 priority", "tuned V1"):
        metrics[f"urgent TTFT, {name} over QLLM"] = estimate(chat[name]["ttft"] / qllm["ttft"])
    for place, rows in (("chat", chat), ("code", code)):
        for coarse, fine in (("request", "iteration"), ("iteration", "layer"), ("layer", "expert")):
            metrics[f"{place}, urgent TTFT, {coarse} over {fine}"] = estimate(rows[coarse]["ttft"] / rows[fine]["ttft"])
    metrics["code, urgent TTFT, V1 priority over QLLM"] = estimate(code["V1 priority"]["ttft"] / code["expert"]["ttft"])

    def draw(canvas):
        left, middle, right = canvas.subplots(1, 3, width_ratios=(1.2, 1, 1))
        for name, (_, place) in SHOWN.items():
            points = [estimate(loads[rate][name]["ttft"]) for rate in RATES]
            draw_line(left, RATES, points, place, name, (-4, -12 if name == "QLLM" else 12), at=4)
        left.set_yscale("log")
        left.axhline(3, color="0.5", linewidth=1)
        left.annotate("SLO", (RATES[0], 3), (0, 4), textcoords="offset points", color="0.4", fontsize=9)
        style.plain(left, "Urgent requests, chat", "requests/s", "mean TTFT (s, log scale)")
        _draw_ladder(middle, chat, "Chat, 1 request/s")
        _draw_ladder(right, code, "Code, 3 requests/s")

    return Findings(metrics, draw, (12.0, 4.2))


def _tuned(scenario: Scenario) -> dict[str, object]:
    """vLLM V1 by priority with the budget and cap that serve urgent requests fastest, on a seed that is not judged."""
    apart = override(scenario, {"seed": scenario.seed + 1000})
    options = [{**PRIORITY, f"{POOL}.max_num_batched_tokens": budget, f"{POOL}.max_num_seqs": seqs}
               for budget, seqs in TUNING]  # fmt: skip
    return min(options, key=lambda own: _times(simulate(override(apart, own)))["ttft"])


def _times(result):
    found = summarize(result)
    return {
        "ttft": found["urgent:mean_ttft_ms"] / 1e3,
        "e2el": found["urgent:mean_e2el_ms"] / 1e3,
        "within": found["urgent:slo_attainment"],
        "other": found["best-effort:mean_e2el_ms"] / 1e3,
        "rate": found["output_throughput"],
    }


def _draw_ladder(axis, rows, title):
    names = [*LADDER, "V1 priority"]
    for row, name in enumerate(names):
        value = estimate(rows[name]["ttft"])
        place = VLLM if name == "V1 priority" else OWN if name in ("layer", "stage", "expert") else OTHER
        axis.errorbar(value.mean, row, xerr=value.half, fmt="o", color=style.colour(place), markersize=8, capsize=3)
        shown = f"{value.mean:.3g} s" if value.mean > 1 else f"{value.mean * 1e3:.3g} ms"
        axis.annotate(shown, (value.high, row), (8, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_xscale("log")
    axis.set_xlim(0.02, 200)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    style.plain(axis, title, "mean TTFT of urgent requests (s, log scale)")
    axis.grid(False, axis="y")
