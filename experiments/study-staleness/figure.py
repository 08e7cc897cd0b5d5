"""The age of the loads that placement looks at: broadcasts every 10 ms to every 10 s (the paper: 100 ms)."""

from paper.scheduling import OTHER, OWN, TETRI, change, draw_line, hotspot, mean_jct, run_variants

from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate

PERIODS_S = (0.01, 0.1, 1.0, 3.0, 10.0)
POLICIES = {"heavy:light": "power-of-two", "least KV": "least-kv", "by number": "paper.scheduling:fewest_of_two"}
PLACES = {"heavy:light": TETRI, "least KV": OTHER, "by number": OWN}


def figure(scenario: Scenario) -> Findings:
    """Each policy at each period, against random placement, which needs no loads but for the room that there is."""
    base = run_variants(scenario, {"random": {"cluster.place.policy": "random"}}, _measure)["random"]
    found = {period: _runs(scenario, period) for period in PERIODS_S}
    fresh, usual, old = found[0.01], found[0.1], found[10.0]
    metrics: dict[str, Estimate | float] = {}
    for name in POLICIES:
        metrics[f"{name}, 100 ms against 10 ms, JCT (%)"] = change(usual[name]["jct"], fresh[name]["jct"])
        metrics[f"{name}, 10 s against 10 ms, JCT (%)"] = change(old[name]["jct"], fresh[name]["jct"])
        metrics[f"{name}, 10 s less 10 ms, hotspot"] = estimate(old[name]["hotspot"] - fresh[name]["hotspot"])
        metrics[f"{name}, 10 ms, against random, JCT (%)"] = change(fresh[name]["jct"], base["jct"])

    def draw(canvas):
        left, right = canvas.subplots(1, 2)
        hottest = estimate(base["hotspot"]).mean
        for name, place in PLACES.items():
            gains = [change(rows[name]["jct"], base["jct"]) for rows in found.values()]
            draw_line(left, PERIODS_S, gains, place, name)
            draw_line(right, PERIODS_S, [estimate(rows[name]["hotspot"]) for rows in found.values()], place, name)
        for axis, level in ((left, 0), (right, hottest)):
            axis.axhline(level, color="0.35", linestyle=":")
            axis.annotate("random", (0.3, level), (0, 3), textcoords="offset points", color="0.35", fontsize=9)
            axis.set_xscale("log")
            axis.set_xticks(PERIODS_S, ["10 ms", "100 ms", "1 s", "3 s", "10 s"])
            axis.minorticks_off()
        left.set_yscale("symlog", linthresh=4)
        left.set_ylim(-4, 500)
        left.set_yticks([-4, -2, 0, 2, 4, 10, 100], ["-4", "-2", "0", "2", "4", "10", "100"])
        right.set_yscale("log")
        right.set_yticks([1, 1.5, 2, 3, 4], ["1", "1.5", "2", "3", "4"])
        right.minorticks_off()
        style.plain(left, "Job completion time against random", "period of the broadcast", "mean JCT (%, log above 4)")
        style.plain(right, "Hotspots", "period of the broadcast", "most decoded tokens / mean (log scale)")

    return Findings(metrics, draw, (10.0, 4.4))


def _runs(scenario, period):
    variants = {
        name: {"cluster.place.policy": policy, "cluster.place.broadcast": f"{period} s"}
        for name, policy in POLICIES.items()
    }
    return run_variants(scenario, variants, _measure)


def _measure(result):
    return {"jct": mean_jct(result), "hotspot": hotspot(result)}
