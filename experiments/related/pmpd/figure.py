"""Progressive precision: what fewer bits give to one request, and what is left of it in a batch."""

import numpy as np
from paper.scheduling import OTHER, OWN, TETRI, VLLM, WORST, draw_line, run_variants

from tetrisim.metrics import definitions as define
from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

POOL, ANSWER = "cluster.pools.0", 256
AT_ONCE = (1, 2, 4, 8, 16, 32)
TUNED = {f"{POOL}.max_num_batched_tokens": 512, f"{POOL}.async_scheduling": False}


def widths(high: int, low: int, **more: object) -> dict[str, object]:
    return {f"{POOL}.precision": {"high_bits": high, "low_bits": low, **more}}


STATIC = {tokens: widths(3, 2, high_tokens=tokens) for tokens in (0, ANSWER // 3, 2 * ANSWER // 3)}
VARIANTS = {
    "16 bits (V1)": {},
    "3 bits": widths(3, 3),
    "PMPD 3 to 2": STATIC[ANSWER // 3],
    "PMPD, split": widths(3, 2, high_tokens=ANSWER // 3, rule="split"),
    "PMPD, fused": widths(3, 2, high_tokens=ANSWER // 3, kernel="fused"),
}
PLACES = dict(zip(VARIANTS, (VLLM, OTHER, OWN, TETRI, WORST), strict=True))


def figure(scenario: Scenario) -> Findings:
    """Section 5 of arXiv 2410.13461 for one request, and the batch sizes that it leaves out."""
    alone = {
        "16": {}, "3": widths(3, 3), "2": widths(2, 2), "learned": widths(3, 2, schedule="learned", high_tokens=ANSWER),
        **{str(tokens): own for tokens, own in STATIC.items()},
    }  # fmt: skip
    one = run_variants(scenario, alone, _measure)
    many = {
        count: run_variants(
            scenario, {name: {**own, "workload.concurrency": count} for name, own in VARIANTS.items()}, _measure
        )
        for count in AT_ONCE
    }
    tuned = {
        count: run_variants(scenario, {"tuned": {**TUNED, "workload.concurrency": count}}, _measure)["tuned"]
        for count in (1, 16)
    }
    gain = {key: one["3"]["tpot"] / one[key]["tpot"] for key in (*map(str, STATIC), "learned")}
    third = str(ANSWER // 3)
    share = (one[third]["bits"] - 2) / (3 - 2)
    law = 1 / (share + (1 - share) * one["2"]["tpot"] / one["3"]["tpot"])
    metrics: dict[str, Estimate | float] = {
        "alone, speed of decode, 2 bits over 3": estimate(one["3"]["tpot"] / one["2"]["tpot"]),
        **{f"alone, speed of decode, high for {key} over 3 bits": estimate(values) for key, values in gain.items()},
        "alone, gain over what its share of tokens predicts": estimate(gain[third] / law),
        "alone, E2EL, prefill at 3 bits against 2 (%)": estimate(100 * (one["0"]["e2el"] / one["2"]["e2el"] - 1)),
        "alone, mean bits below 3, high for a third (%)": estimate(100 * (1 - one[third]["bits"] / 3)),
        "alone, E2EL, V1 over PMPD": estimate(one["16"]["e2el"] / one[third]["e2el"]),
        "alone, E2EL, tuned V1 over PMPD": estimate(tuned[1]["e2el"] / one[third]["e2el"]),
        "8 at once, tokens/s, PMPD over 3 bits": estimate(_over(many[8], "PMPD 3 to 2", "3 bits")),
        "8 at once, tokens/s, split over widest": estimate(_over(many[8], "PMPD, split", "PMPD 3 to 2")),
        "16 at once, tokens/s, PMPD over V1": estimate(_over(many[16], "PMPD 3 to 2", "16 bits (V1)")),
        "16 at once, tokens/s, PMPD over tuned V1": estimate(many[16]["PMPD 3 to 2"]["rate"] / tuned[16]["rate"]),
        "16 at once, tokens/s, fused what-if over V1": estimate(_over(many[16], "PMPD, fused", "16 bits (V1)")),
    }

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        for name in VARIANTS:
            points = [estimate(many[count][name]["rate"]) for count in AT_ONCE]
            at = len(AT_ONCE) - 1 if name != "PMPD, split" else 2
            draw_line(left, AT_ONCE, points, PLACES[name], name, (6, -8 if name == "3 bits" else 4), at=at)
        left.set_xscale("log", base=2)
        left.set_yscale("log")
        left.set_xticks(AT_ONCE, [str(count) for count in AT_ONCE])
        left.set_xlim(right=100)
        style.plain(left, "Decoded together", "requests at once", "output tokens/s")
        for row, key in enumerate(("2", *map(str, STATIC), "learned", "3", "16")):
            value, bits = estimate(one[key]["tpot"] * 1e3), one[key]["bits"].mean()
            right.barh(
                row,
                value.mean,
                0.6,
                xerr=value.half,
                color=style.colour(OWN if key in gain else OTHER),
                ecolor="0.3",
                capsize=3,
            )
            label = "whole weights" if key == "16" else f"{bits:.2f} bits"
            right.annotate(label, (value.high, row), (4, 0), textcoords="offset points", va="center", fontsize=9)
        names = ["2 bits", *(f"3, then 2 after {tokens}" for tokens in STATIC), "learned", "3 bits", "16 bits (V1)"]
        right.set_yticks(range(len(names)), names)
        right.invert_yaxis()
        right.margins(x=0.25)
        style.plain(right, "One request", "mean TPOT (ms)")
        right.grid(False, axis="y")

    return Findings(metrics, draw, (11.0, 4.2))


def _over(rows, name: str, base: str) -> np.ndarray:
    return rows[name]["rate"] / rows[base]["rate"]


def _measure(result):
    rows = result.request_columns
    return {
        "tpot": float(np.average(define.tpot(rows), weights=rows["output_tokens"][rows["output_tokens"] > 1] - 1)),
        "e2el": float(define.e2el(rows).mean()),
        "rate": float(rows["output_tokens"].sum() / define.duration(rows)),
        "bits": float(result.instance_columns["weight_bits"].mean()),  # one instance; NaN with whole weights
    }
