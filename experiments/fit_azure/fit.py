"""Fit the azure-like generators on Azure's 2023 traces and write tetrisim/workload/fits.py.

Run from the repository root: `python experiments/fit_azure/fit.py [folder of the traces] [file to write]`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tetrisim.workload.fits import TraceFit
from tetrisim.workload.readers import read
from tetrisim.workload.synthetic import GAP_LEVELS, LENGTH_LEVELS, fitted_gaps, normal_scores

Floats = NDArray[np.float64]

ROOT = Path(__file__).parents[2]
BINS = 12  # a multiple of three, so that terciles of the prompt fall on bin edges
WINDOWS_S = (1.0, 10.0, 60.0)
SHARES = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3)
SCALES = (3.0, 6.0, 12.0, 25.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0, 6400.0)
STARTS = ((0.04, 12.0, 0.04, 800.0), (0.0, 12.0, 0.06, 800.0), (0.01, 50.0, 0.08, 3200.0))
RUNS = 40


def dispersion(arrival_s: Floats, window_s: float) -> float:
    """Variance over mean of the counts in whole windows; 1 for a Poisson process."""
    counts, _ = np.histogram(arrival_s, np.arange(arrival_s[0], arrival_s[-1], window_s))
    return float(counts.var() / counts.mean())


def joint_ranks(prompt: NDArray[np.int64], output: NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    """Requests counted by (prompt rank, output rank) in BINS x BINS cells; ties are parted at random."""
    rng = np.random.default_rng(0)
    n = len(prompt)
    cells = np.zeros((BINS, BINS), dtype=int)
    ranks = [np.empty(n, dtype=int), np.empty(n, dtype=int)]
    for rank, column in zip(ranks, (prompt, output), strict=True):
        rank[np.lexsort((rng.random(n), column))] = np.arange(n)
    np.add.at(cells, (ranks[0] * BINS // n, ranks[1] * BINS // n), 1)
    return tuple(tuple(int(count) for count in row) for row in cells)


def gap_knots(gaps: Floats) -> Floats:
    """Quantiles of the gaps, scaled by a percent or two so that interpolating them keeps the mean."""
    knots = np.quantile(gaps, GAP_LEVELS, method="hazen")
    score = np.linspace(-8.0, 8.0, 400_001)
    density = np.exp(-(score**2) / 2)
    gap = np.exp(np.interp(score, normal_scores(), np.log(knots)))
    mean = float((gap * density).sum() / density.sum())
    print(f"  gap mean: real {gaps.mean():.5f} s, of the knots {mean:.5f} s")
    return knots * (gaps.mean() / mean)


def misfit(knots: Floats, memory: Sequence[tuple[float, float]], real: Floats) -> tuple[float, list[float]]:
    """Squared log ratio of the mean dispersion of RUNS traces to the real one's, and that mean."""
    fit = TraceFit((), (), (), tuple(knots), tuple(memory))
    found: list[list[float]] = []
    for seed in range(RUNS):
        # as many requests as the real trace, since dispersion over few windows is biased by slow modulation
        arrival_s = np.cumsum(fitted_gaps(fit, len(real), np.random.default_rng(seed)))
        found.append([dispersion(arrival_s, window_s) for window_s in WINDOWS_S])
    mean = np.mean(found, axis=0)
    goal = np.array([dispersion(real, window_s) for window_s in WINDOWS_S])
    return float((np.log(mean / goal) ** 2).sum()), [float(value) for value in mean]


def descend(start: Sequence[float], knots: Floats, real: Floats) -> tuple[float, list[float]]:
    """Coordinate descent over the grid from one start: (misfit, [share, scale, share, scale])."""
    score, best = np.inf, list(start)
    for _ in range(4):
        before = score
        for i in range(4):
            for value in SHARES if i % 2 == 0 else SCALES:
                trial = [*best[:i], value, *best[i + 1 :]]
                pairs = ((trial[0], trial[1]), (trial[2], trial[3]))
                if trial[1] < trial[3] and (found := misfit(knots, pairs, real)[0]) < score - 1e-9:
                    score, best = found, trial
        if score >= before - 1e-4:
            break
    return score, best


def fit_memory(knots: Floats, real: Floats) -> tuple[tuple[float, float], ...]:
    """Up to two (share, time scale in gaps) pairs: the best of the descents, with common random numbers."""
    score, best = min(descend(start, knots, real) for start in STARTS)
    pairs = tuple(pair for pair in ((best[0], best[1]), (best[2], best[3])) if pair[0] > 0)
    print("  memory", pairs, "misfit", round(score, 4), "dispersion", misfit(knots, pairs, real)[1])
    return pairs


def fit(path: Path) -> TraceFit:
    """The fit of one Azure trace file."""
    trace = read(path, "azure")
    real = trace.arrival_s
    print(path.name, len(real), "requests; dispersion", [dispersion(real, window_s) for window_s in WINDOWS_S])
    knots = gap_knots(np.diff(real))
    return TraceFit(
        prompt_tokens=tuple(np.quantile(trace.prompt_tokens, LENGTH_LEVELS)),
        output_tokens=tuple(np.quantile(trace.output_tokens, LENGTH_LEVELS)),
        joint=joint_ranks(trace.prompt_tokens, trace.output_tokens),
        gap_s=tuple(knots),
        memory=fit_memory(knots, real),
    )


def rows(values: Sequence[float], indent: str) -> str:
    """Numbers as source text, wrapped at 110 columns."""
    lines: list[str] = []
    line = indent
    for text in (f"{value:.5g}," for value in values):
        if len(line) + len(text) + 1 > 110:
            lines.append(line)
            line = indent
        line += text if line == indent else " " + text
    return "\n".join([*lines, line])


def source(name: str, fitted: TraceFit) -> str:
    """One fit as source text."""
    joint = "\n".join("        (" + ", ".join(map(str, row)) + ")," for row in fitted.joint)
    memory = ", ".join(f"({share:g}, {scale:g})" for share, scale in fitted.memory)
    parts = [f"{name} = TraceFit("]
    for field in ("prompt_tokens", "output_tokens"):
        parts.append(f"    {field}=(\n{rows(getattr(fitted, field), ' ' * 8)}\n    ),")
    parts.append(f"    joint=(\n{joint}\n    ),")
    parts.append(f"    gap_s=(\n{rows(fitted.gap_s, ' ' * 8)}\n    ),\n    memory=({memory},),\n)\n")
    return "\n".join(parts)


def main() -> None:
    """Fit both traces; keep everything above the marker in the file, rewrite what is below."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT.parent / "shared/data/traces/azure2023"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "tetrisim/workload/fits.py"
    marker = "# fmt: off\n"
    head = target.read_text().split(marker)[0]
    body = [source(name.upper(), fit(folder / f"AzureLLMInferenceTrace_{name}.csv.gz")) for name in ("conv", "code")]
    target.write_text(head + marker + "\n".join(body))
    print("wrote", target)


if __name__ == "__main__":
    main()
