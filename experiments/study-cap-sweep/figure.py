"""vLLM's batch cap, which the paper does not give, against every number of Figures 11 to 15."""

from collections.abc import Mapping, Sequence

import numpy as np
from paper.end_to_end import CHANGES, against

from tetrisim.metrics.summary import summarize
from tetrisim.report import style
from tetrisim.scenario.load import override, with_system
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Result, simulate
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate, over_seeds

CAPS = (16, 24, 32, 48, 64, 96, 128, 256)
BASES = {"vllm": ("v one vLLM", "-"), "vllm-x2": ("v two vLLM", (0, (5, 2)))}
OURS = ("ts-roce", 0)
PAPER = {"lphd": (-97, -47, -38, 2.4), "mixed": (-85, -50, -21, 1.9), "lpld": (-44, -40, 0, 1.4),
         "hphd": (None, -19, 7, 1.1), "hpld": (-9, -23, 43, 0.86)}  # fmt: skip
"""Change of mean TTFT, mean JCT and resource usage time in %, and perf/$ (notes, section 4.2), in order of perf/$."""

METRICS = (*CHANGES, "perf/$")
"""The rows of the picture."""

Run = Mapping[tuple[str, int], Result]
"""What each system did under one seed: baseline and cap, or `OURS`."""


def figure(scenario: Scenario) -> Findings:
    """Five classes, eight caps, one and two vLLM instances."""
    runs = {name: over_seeds(override(scenario, {"workload.trace": name}), _run) for name in PAPER}
    found = {name: {key: against(own, OURS, key) for key in own[0] if key != OURS} for name, own in runs.items()}

    def draw(canvas):
        axes = canvas.subplots(len(METRICS), len(PAPER), sharex=True, sharey="row")
        for column, (name, paper) in enumerate(PAPER.items()):
            for row, (metric, said) in enumerate(zip(METRICS, paper, strict=True)):
                _panel(axes[row, column], found[name], metric, said)
            axes[0, column].set_title(name.upper(), loc="left", fontweight="bold", fontsize=11)
            axes[-1, column].set_xlabel("vLLM's batch cap")
        for axis, metric in zip(axes[:, 0], METRICS, strict=True):
            axis.set_ylabel(f"change of {metric}" if metric in CHANGES else metric)
        _names(axes[1, 0], found[next(iter(PAPER))])
        requests, where = scenario.workload.requests, f"{scenario.model} on {scenario.cluster.gpu}"
        title = f"TetriInfer (RoCE) against vLLM; {requests} requests at t = 0, {where}; bands are 95 % intervals"
        canvas.suptitle(title, x=0.01, ha="left", fontsize=10)

    return Findings(_metrics(runs), draw, (11, 8))


def _run(scenario: Scenario) -> Run:
    found = {OURS: simulate(scenario)}
    for base in BASES:
        for cap in CAPS:
            capped = override(scenario, {f"systems.{base}.cluster.pools.0.max_num_seqs": cap})
            found[base, cap] = simulate(with_system(capped, base))
    return found


def _metrics(runs: Mapping[str, Sequence[Run]]) -> dict[str, Estimate]:
    """The order of perf/$ at a cap of 32; how the gain in JCT changes with the cap; JCT on equal GPUs."""
    dollar = {name: _each(own, ("vllm", 32), "perf_per_dollar") for name, own in runs.items()}
    others = np.minimum.reduce([dollar["lpld"], dollar["lphd"], dollar["mixed"]])
    metrics = {
        "perf/$ at 32: HPLD": estimate(dollar["hpld"]),
        "perf/$ at 32: HPHD less HPLD": estimate(dollar["hphd"] - dollar["hpld"]),
        "perf/$ at 32: least other less HPHD": estimate(others - dollar["hphd"]),
        "perf/$ at 32: LPHD less Mixed": estimate(dollar["lphd"] - dollar["mixed"]),
    }
    for name, own in runs.items():
        first, last = (_each(own, ("vllm", cap), "mean_e2el_ms") for cap in (CAPS[0], CAPS[-1]))
        metrics[f"JCT at 256 less at 16: {name.upper()} (points)"] = estimate(100 * (last - first))
    for name, own in runs.items():
        equal = _each(own, ("vllm-x2", CAPS[-1]), "mean_e2el_ms")
        metrics[f"JCT v two vLLM at 256: {name.upper()} (%)"] = estimate(100 * (equal - 1))
    return metrics


def _each(runs: Sequence[Run], base: tuple[str, int], key: str) -> np.ndarray:
    """Seed by seed: performance per dollar against `base`, or any other key as a ratio to its."""
    found: list[float] = []
    for run in runs:
        baseline = summarize(run[base])
        own = summarize(run[OURS], baseline)
        found.append(own[key] if key == "perf_per_dollar" else own[key] / baseline[key])
    return np.array(found)


def _panel(axis, found: Mapping[tuple[str, int], Mapping[str, Estimate]], metric: str, said: float | None) -> None:
    """One metric of one class over the caps; the paper's value across."""
    for base, (_, dash) in BASES.items():
        values = [found[base, cap][metric] for cap in CAPS]
        colour = style.colour(style.place_of("tetriinfer"))
        axis.plot(CAPS, [value.mean for value in values], color=colour, linestyle=dash, linewidth=1.8)
        axis.fill_between(CAPS, [v.low for v in values], [v.high for v in values], color=colour, alpha=0.25, lw=0)
    axis.axhline(1 if metric == "perf/$" else 0, color="0.5", linewidth=1)
    if said is not None:
        axis.axhline(said, color="0.2", linestyle=":", linewidth=1.4)
        axis.annotate(
            f"paper {said:g}",
            (CAPS[-1], said),
            (0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            path_effects=style.HALO,
        )
    style.plain(axis)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")


def _names(axis, found: Mapping[tuple[str, int], Mapping[str, Estimate]]) -> None:
    for (base, (name, _)), below in zip(BASES.items(), (-30, 6), strict=True):
        at = (CAPS[-1], found[base, CAPS[-1]]["JCT (%)"].mean)
        axis.annotate(name, at, (0, below), textcoords="offset points", ha="right", fontsize=9, fontweight="bold",
                      color=style.colour(style.place_of("tetriinfer")), path_effects=style.HALO)  # fmt: skip
