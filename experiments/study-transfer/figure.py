"""KV transfer by request (TetriInfer), by chunk and by layer, over links of several speeds."""

import numpy as np
from paper.scheduling import OTHER, OWN, TETRI, change, draw_line, mean_jct, run_variants

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

LINKS_GBIT = (25, 50, 100, 200, 400, 2400)
"""The last is NVLink's 300 GB/s."""
PLACES = {"request": TETRI, "chunk": OTHER, "layer": OWN}


def figure(scenario: Scenario) -> Findings:
    """What is sent at once, at each speed."""
    found = {speed: _runs(scenario, speed) for speed in LINKS_GBIT}
    slow, paper = found[LINKS_GBIT[0]], found[200]
    metrics: dict[str, Estimate | float] = {}
    for speed, rows in ((LINKS_GBIT[0], slow), (200, paper), (2400, found[2400])):
        for way in ("chunk", "layer"):
            metrics[f"by {way} against by request, JCT, {speed} Gbit/s (%)"] = change(
                rows[way]["jct"], rows["request"]["jct"]
            )
    metrics["by layer against by chunk, wait, 25 Gbit/s (%)"] = change(slow["layer"]["wait"], slow["chunk"]["wait"])
    metrics["by request, wait, 200 Gbit/s (ms)"] = estimate(1e3 * paper["request"]["wait"])
    metrics["by layer, wait, 200 Gbit/s (ms)"] = estimate(1e3 * paper["layer"]["wait"])

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        for way, place in PLACES.items():
            waits = [estimate(1e3 * rows[way]["wait"]) for rows in found.values()]
            draw_line(left, LINKS_GBIT, waits, place, f"by {way}")
            gains = [change(rows[way]["jct"], rows["request"]["jct"]) for rows in found.values()]
            draw_line(right, LINKS_GBIT, gains, place, f"by {way}", offset=(6, {"request": 8, "layer": -8}.get(way, 0)))
        for axis in (left, right):
            axis.set_xscale("log")
            axis.set_xticks(LINKS_GBIT, ["25", "50", "100", "200", "400", "NVLink"])
            axis.minorticks_off()
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        style.plain(left, "From first token to KV at the decode instance", "link (Gbit/s)", "mean (ms, log scale)")
        style.plain(right, "Job completion time against by request", "link (Gbit/s)", "mean JCT (%)")

    return Findings(metrics, draw, (10.0, 4.4))


def _runs(scenario, speed):
    link = {"bandwidth": f"{speed} Gbit/s", "latency": "5 us"}
    variants = {way: {"cluster.kv_link": {**link, "granularity": way}} for way in PLACES}
    return run_variants(scenario, variants, _measure)


def _measure(result):
    rows = result.request_columns
    return {"jct": mean_jct(result), "wait": float(np.nanmean(rows["transfer_end_s"] - rows["first_token_s"]))}
