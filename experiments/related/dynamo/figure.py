"""A router that knows what is cached where, against routers that do not, as more of the prompts is shared."""

from collections.abc import Mapping

import numpy as np
from paper.prefixes import Chats, chats
from paper.scheduling import OTHER, OWN, TETRI, VLLM, WORST, Values, change, draw_line, run_variants

from tetrisim.metrics import definitions as define
from tetrisim.metrics.summary import summarize
from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Result
from tetrisim.streams import stream
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate
from tetrisim.workload.trace import Trace

SHARES = (0.0, 0.25, 0.5, 0.75)
"""Of a prompt, what is the beginning of one of a hundred documents."""
TALK = Chats(first=(3000, 0.6), more=(300, 0.8), output=(150, 0.7), again=0.75, pause_s=8.0, common=0, longest=30_000)
"""Chats of four turns on average."""
ROUTES = {
    "round-robin": {"cluster.route": "round-robin"},
    "least-loaded": {"cluster.route": "least-loaded"},
    "prefixes unseen": {"cluster.route": "paper.prefixes:unseen_prefixes"},
    "prefix-aware": {},
}
TUNED = {
    f"{budget} tokens": {"cluster.route": "least-loaded", "cluster.pools.0.max_num_batched_tokens": budget}
    for budget in (2048, 16384)
}
SHOWN = {name: own for name, own in ROUTES.items() if name != "least-loaded"}
TIDE, TIDE_S = 1600, 300.0
PLACES = dict(zip(ROUTES, (WORST, VLLM, TETRI, OWN), strict=True))


def _documents(share: float) -> Chats:
    return Chats(first=(6000, 0.5), more=(1, 0.1), output=(150, 0.7), again=0.0, pause_s=1.0, common=0, shared=share,
                 families=100, longest=30_000)  # fmt: skip


def figure(scenario: Scenario) -> Findings:
    """The router of the Dynamo documentation: overlap_score_weight 1, temperature 0, events without delay."""
    found = {share: _run(scenario, _documents(share)) for share in SHARES}
    talk = _run(scenario, TALK, tuned=True)
    best = min(("least-loaded", *TUNED), key=lambda name: talk[name]["ttft"].mean())
    metrics: dict[str, Estimate | float] = {}
    for share, runs in found.items():
        for base in ("round-robin", "prefixes unseen"):
            metrics[f"mean TTFT, {base} over prefix-aware, {100 * share:.0f} % shared"] = _over(runs, base)
    gains = np.array([runs["prefixes unseen"]["ttft"] / runs["prefix-aware"]["ttft"] for runs in found.values()])
    metrics["the last, 75 % over 25 % shared"] = estimate(gains[3] / gains[1])
    metrics["chats, mean TTFT, round-robin over prefix-aware"] = _over(talk, "round-robin")
    metrics["chats, mean TTFT, V1 (least-loaded) over prefix-aware"] = _over(talk, "least-loaded")
    metrics["chats, mean TTFT, tuned V1 over prefix-aware"] = _over(talk, best)
    metrics["chats, p99 TTFT, V1 (least-loaded) over prefix-aware"] = _over(talk, "least-loaded", "p99")
    for name in ROUTES:
        metrics[f"chats, prompt tokens found, {name} (%)"] = estimate(100 * talk[name]["hit"])
    metrics["chats, busiest over mean instance, prefix-aware"] = estimate(talk["prefix-aware"]["skew"])
    metrics |= _planned(scenario)

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        for name, above, at in zip(SHOWN, (4, 4, -7), (0, -1, -1), strict=True):
            points = [estimate(1e3 * runs[name]["ttft"]) for runs in found.values()]
            draw_line(left, [100 * share for share in SHARES], points, PLACES[name], name, (7, above), at)
        left.set_xlim(-4, 110)
        left.set_ylim(0)
        style.plain(left, "Documents", "of each prompt shared (%)", "mean TTFT (ms)")
        for row, name in enumerate((*ROUTES, *TUNED)):
            value = estimate(1e3 * talk[name]["ttft"])
            place = PLACES.get(name, OTHER)
            right.barh(row, value.mean, 0.6, xerr=value.half, color=style.colour(place), ecolor="0.3", capsize=3)
            note = f"{value.mean:.0f} ms, {100 * talk[name]['hit'].mean():.0f} % found"
            right.annotate(note, (value.high, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
        right.set_yticks(range(len(ROUTES) + len(TUNED)), [*ROUTES, *(f"least-loaded,\n{name}" for name in TUNED)])
        right.invert_yaxis()
        right.margins(x=0.45)
        style.plain(right, "Chats of four turns", "mean TTFT (ms)")
        right.grid(False, axis="y")

    return Findings(metrics, draw, (10.0, 3.8))


def _run(scenario: Scenario, law: Chats, tuned: bool = False) -> dict[str, Values]:
    def trace(own: Scenario) -> Trace:
        return chats(own, law)

    return run_variants(scenario, {**ROUTES, **TUNED} if tuned else SHOWN, _times, trace)


def _planned(scenario: Scenario) -> dict[str, Estimate | float]:
    """The load-based planner on a tide that rises from nearly nothing and falls again."""
    scale = {"policy": "load", "period": "10 s", "startup": "20 s", "initial": 1}
    runs = run_variants(scenario, {"planner": {"cluster.scale": scale}, "all": {}}, _cost, _tide)
    return {
        "tide, planner, GPU-seconds against all four (%)": change(runs["planner"]["cost"], runs["all"]["cost"]),
        "tide, planner, within 1 s and 50 ms (%)": estimate(100 * runs["planner"]["good"]),
        "tide, all four, within 1 s and 50 ms (%)": estimate(100 * runs["all"]["good"]),
    }


def _tide(scenario: Scenario) -> Trace:
    """TIDE_S of requests like the documents', none of them shared; the rate is 1 - cos of the time."""
    rng = stream(scenario.seed, "tide")
    at = np.sort(rng.random(2 * TIDE) * TIDE_S)
    at = at[rng.random(2 * TIDE) < (1 - np.cos(2 * np.pi * at / TIDE_S)) / 2]
    prompts, outputs = (rng.lognormal(np.log(median), sigma, len(at)) for median, sigma in ((6000, 0.5), (150, 0.7)))
    return Trace("tide", at, 1 + prompts.astype(int), 1 + outputs.astype(int))


def _cost(result: Result) -> Mapping[str, float]:
    summary = summarize(result)
    return {"cost": summary["gpu_seconds"], "good": summary["slo_attainment"]}


def _over(runs: Mapping[str, Values], base: str, key: str = "ttft") -> Estimate:
    return estimate(runs[base][key] / runs["prefix-aware"][key])


def _times(result: Result) -> Mapping[str, float]:
    rows, ttft = result.request_columns, define.ttft(result.request_columns)
    busy = result.instance_columns["busy_s"]
    return {
        "ttft": float(ttft.mean()),
        "p99": float(np.quantile(ttft, 0.99)),
        "hit": float(rows["cached_tokens"].sum() / rows["prompt_tokens"].sum()),
        "skew": float(busy.max() / busy.mean()),
    }
