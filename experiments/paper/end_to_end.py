"""What Figures 11 to 15 share: one workload class, end to end, in the paper's metrics (notes, sections 4.2 and 6)."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tetrisim.metrics import definitions as define
from tetrisim.metrics.summary import summarize
from tetrisim.report import style
from tetrisim.scenario.load import with_system
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Result
from tetrisim.studies.compare import compare
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import Estimate, estimate, over_seeds

NAMES = {"vllm": "vLLM", "vllm-x2": "two vLLM", "ts-roce": "TS-RoCE", "ts-nvlink": "TS-NVLink"}
"""Entries of the scenario's `systems:`; the first is what the others are compared with."""

LOOKS = {
    "vllm": (style.place_of("vllm-v0"), "-", "o", 1.0),
    "vllm-x2": (style.place_of("vllm-v0"), (0, (5, 2)), "s", 0.55),
    "ts-roce": (style.place_of("tetriinfer"), "-", "D", 1.0),
    "ts-nvlink": (style.place_of("tetriinfer"), (0, (1, 1.5)), "v", 0.55),
}
"""Colour, dash and marker of a line; opacity of a bar."""

SIGNS = {"o": "●", "s": "■", "D": "◆", "v": "▼"}
"""The markers as characters."""

CHANGES = {"TTFT (%)": "mean_ttft_ms", "JCT (%)": "mean_e2el_ms", "resource (%)": "gpu_seconds"}
LINKS = "JCT, RoCE v NVLink (%)"
READINGS = {"perf/$": "perf_per_dollar", "perf/$, plain": "perf_per_dollar_ratio"}


def against(runs: Sequence[Mapping[str, Result]], system: str, base: str) -> dict[str, Estimate]:
    """What `system` changes against `base`, in % and seed by seed, and both readings of perf/$."""
    pairs: list[tuple[Mapping[str, float], Mapping[str, float]]] = []
    for run in runs:
        baseline = summarize(run[base])
        pairs.append((summarize(run[system], baseline), baseline))
    found = {name: estimate([100 * (own[key] / old[key] - 1) for own, old in pairs]) for name, key in CHANGES.items()}
    return found | {name: estimate([own[key] for own, _ in pairs]) for name, key in READINGS.items()}


def end_to_end(scenario: Scenario, paper: float) -> Findings:
    """Figure 11, 12, 13, 14 or 15; `paper` is the perf/$ it gives."""
    runs = over_seeds(scenario, lambda each: compare(each, NAMES).results)
    found = {name: against(runs, name, "vllm") for name in NAMES if name != "vllm"}
    equal = against(runs, "ts-roce", "vllm-x2")
    metrics = found["ts-roce"] | {LINKS: against(runs, "ts-roce", "ts-nvlink")["JCT (%)"]}
    metrics |= {f"v two vLLM: {name}": equal[name] for name in (*CHANGES, "perf/$")}

    def draw(canvas):
        (ttft, jct), (seconds, dollars) = canvas.subplots(2, 2)
        _distribution(ttft, runs, define.ttft, "mean_ttft_ms")
        ttft.set_xscale("log")
        ttft.xaxis.set_major_formatter("{x:g}")
        style.plain(ttft, "Time to first token", "TTFT (s, log scale)", "share of requests")
        _distribution(jct, runs, define.e2el, "mean_e2el_ms")
        style.plain(jct, "Job completion time", "JCT (s)", "share of requests")
        _seconds(seconds, runs)
        _dollars(dollars, found, paper)
        canvas.suptitle(_title(scenario), x=0.01, ha="left", fontsize=10)

    return Findings(metrics, draw, (9.6, 6.4))


def _title(scenario: Scenario) -> str:
    pool, workload = scenario.cluster.pools[0], scenario.workload
    hardware = f"{scenario.model} on {scenario.cluster.gpu}, TP={pool.tensor_parallel} an instance"
    cap = with_system(scenario, "vllm").cluster.pools[0].max_num_seqs
    return f"{workload.trace.upper()}: {workload.requests} requests at t = 0; {hardware}; vLLM's batch is at most {cap}"


def _distribution(axis, runs: Sequence[Mapping[str, Result]], metric: Callable, mean_key: str) -> None:
    """The requests of all seeds pooled; a mark with its 95 % interval at the mean over seeds. Names stand above."""
    for row, (name, (place, dash, sign, _)) in enumerate(LOOKS.items()):
        values = np.sort(np.concatenate([metric(run[name].request_columns) for run in runs]))
        share = np.arange(1, len(values) + 1) / len(values)
        mean = estimate([summarize(run[name])[mean_key] / 1e3 for run in runs])
        colour, width = style.colour(place), 1.8
        if name.startswith("ts"):  # the two links nearly coincide: one is drawn inside the other
            colour, width = (colour, 4.5) if name == "ts-roce" else ("black", 1.2)
        axis.plot(values, share, color=colour, linestyle=dash, linewidth=width)
        axis.errorbar(
            mean.mean, np.interp(mean.mean, values, share), xerr=mean.half, color=colour, marker=sign, markersize=7,
            markeredgecolor="white", capsize=3, zorder=4,
        )  # fmt: skip
        label = f"{SIGNS[sign]} {NAMES[name]}, mean {mean.mean:.3g} s"
        at = (0.01 + 0.5 * (row // 2), 0.93 - 0.09 * (row % 2))
        axis.text(*at, label, transform=axis.transAxes, color=colour, fontsize=9, fontweight="bold")
    axis.set_yticks(np.linspace(0, 1, 6))
    axis.set_ylim(0, 1.25)


def _seconds(axis, runs: Sequence[Mapping[str, Result]]) -> None:
    """Resource usage time, a bar a system."""
    for row, name in enumerate(NAMES):
        used = estimate([summarize(run[name])["gpu_seconds"] for run in runs])
        place, _, _, alpha = LOOKS[name]
        axis.barh(row, used.mean, color=style.colour(place), alpha=alpha, height=0.6)
        axis.errorbar(used.mean, row, xerr=used.half, color="0.2", capsize=3)
        axis.text(used.high, row, f"  {used.mean:.3g}", va="center", fontsize=9)
    axis.set_yticks(range(len(NAMES)), NAMES.values())
    axis.margins(x=0.12)
    axis.invert_yaxis()
    style.plain(axis, "Resource usage time", "GPU-seconds from first to last work of each instance")


def _dollars(axis, found: Mapping[str, Mapping[str, Estimate]], paper: float) -> None:
    """Both readings of perf/$ against vLLM: filled the paper's, hollow the plain ratio."""
    for row, (name, metrics) in enumerate(found.items()):
        colour = style.colour(LOOKS[name][0])
        for reading, face in zip(READINGS, (colour, "white"), strict=True):
            value = metrics[reading]
            axis.errorbar(value.mean, row, xerr=value.half, color=colour, marker="o", mfc=face, capsize=3)
            axis.annotate(
                f"{value.mean:.2f}", (value.mean, row), (0, 7), textcoords="offset points", ha="center", fontsize=9
            )
    for at, dash, text in ((1, "-", "vLLM"), (paper, ":", f"paper {paper:g}")):
        axis.axvline(at, color="0.4", linestyle=dash, linewidth=1.2)
        side = "left" if at > min(1, paper) else "right"
        axis.annotate(text, (at, len(found) - 0.55), fontsize=9, color="0.3", ha=side)
    axis.margins(x=0.15)
    axis.set_yticks(range(len(found)), [NAMES[name] for name in found])
    axis.set_ylim(len(found) - 0.5, -0.5)
    style.plain(
        axis, "Performance per dollar, vLLM = 1", "filled: (1 + cut of JCT) / cost; hollow: ratio of JCT / cost"
    )
