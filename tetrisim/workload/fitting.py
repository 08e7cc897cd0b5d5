"""A generator fitted to a trace, and how far what it makes is from the trace."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tetrisim.errors import TraceError
from tetrisim.streams import stream
from tetrisim.workload.describe import dispersion, rank_correlation, windows
from tetrisim.workload.fits import GAP_LEVELS, LENGTH_LEVELS
from tetrisim.workload.generator import DriftSpec, GapSpec, GeneratorSpec, Knots, LengthSpec, generator
from tetrisim.workload.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LENGTH_LAWS = ("auto", "log-normal", "quantiles")
GAP_LAWS = ("auto", "gamma", "quantiles")

_LENGTHS = ("prompt_tokens", "output_tokens")
GOOD_KS = 0.05
"""The two-number law is taken where its KS distance is no more than this, or than chance gives so short a trace."""
SAMPLE = 100_000
"""Requests made to judge a fit: the KS distance of two such samples of one law is below 0.01."""


@dataclass(frozen=True, slots=True)
class Goodness:
    """One figure of the trace beside that of `SAMPLE` requests of the generator; `ks` where a law was fitted."""

    name: str
    law: str
    trace: float
    fitted: float
    ks: float | None = None
    rejected: str = ""
    """The simpler law that was not taken, with its KS distance."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A generator and, figure by figure, how good it is."""

    spec: GeneratorSpec
    goodness: tuple[Goodness, ...]


def fit(trace: Trace, lengths: str = "auto", gaps: str = "auto") -> Fit:
    """Fit lengths, their rank correlation and the gaps of a trace.

    "auto" takes the log-normal (of the trace's mean and deviation of logarithms) and the gamma law (of its rate and
    CV of gaps, the rate drifting where counts ask for it) where they are good enough (GOOD_KS), else the quantiles.
    `lengths` is one of LENGTH_LAWS, `gaps` one of GAP_LAWS. Raises TraceError below 10 requests.
    """
    if len(trace) < 10:
        raise TraceError(trace.name, f"has {len(trace)} requests", "at least 10 to fit a generator to")
    correlation = rank_correlation(trace.prompt_tokens, trace.output_tokens) or 0.0
    simple = _with_drift(trace, _spec(trace, correlation, "log-normal", "gamma"))
    exact = _spec(trace, correlation, "quantiles", "quantiles")
    distances = _distances(trace, _made(simple))
    # 1.36 / sqrt(n) is what a sample of the law itself exceeds in one of twenty cases.
    limit = max(GOOD_KS, 1.36 * len(trace) ** -0.5)
    poor = {name: distance > limit for name, distance in distances.items()}
    prompt, output = ((lengths == "quantiles") or (lengths == "auto" and poor[name]) for name in _LENGTHS)
    gap = gaps == "quantiles" or (gaps == "auto" and poor["gaps"])
    spec = replace(
        simple,
        prompt_tokens=(exact if prompt else simple).prompt_tokens,
        output_tokens=(exact if output else simple).output_tokens,
        gaps=(exact if gap else simple).gaps,
    )
    taken = {"prompt_tokens": prompt, "output_tokens": output, "gaps": gap}
    rejected = {name: distances[name] for name, quantiles in taken.items() if quantiles}
    return Fit(spec, tuple(_goodness(trace, spec, rejected)))


def _spec(trace: Trace, correlation: float, lengths: str, gaps: str) -> GeneratorSpec:
    return GeneratorSpec(
        requests=len(trace),
        prompt_tokens=_length_law(trace.prompt_tokens, lengths),
        output_tokens=_length_law(trace.output_tokens, lengths),
        rank_correlation=round(correlation, 4),
        gaps=_gap_law(np.diff(trace.arrival_s), gaps),
    )


def _length_law(tokens: Ints, law: str) -> LengthSpec:
    if law == "quantiles":
        return LengthSpec(quantiles=_knots(tokens, LENGTH_LEVELS))
    logs = np.log(tokens)
    return LengthSpec(_short(np.exp(logs.mean())), _short(logs.std()), longest=int(tokens.max()))


def _gap_law(gaps: Floats, law: str) -> GapSpec | None:
    """None where all requests arrive at once."""
    if not gaps.sum():
        return None
    rate = _short(len(gaps) / gaps.sum())
    if law == "quantiles":
        return GapSpec(rate, quantiles=_knots(gaps, (0.0, *GAP_LEVELS, 1.0)))
    variation = gaps.std() / gaps.mean()
    return GapSpec(rate, shape=_short(min(max(variation**-2.0, 1e-6), 1e9)) if variation else 1e9)


def _short(number: float) -> float:
    return float(f"{number:.5g}")


def _knots(values: NDArray[Any], levels: tuple[float, ...]) -> Knots:
    """Quantiles at the levels, without those in the middle of a run of equal ones."""
    found = [_short(value) for value in np.quantile(values, levels).tolist()]
    last = len(found) - 1
    kept = [i for i in range(len(found)) if i in (0, last) or not found[i - 1] == found[i] == found[i + 1]]
    return tuple((_short(levels[i]), found[i]) for i in kept)


def _with_drift(trace: Trace, spec: GeneratorSpec) -> GeneratorSpec:
    """The spec with a drifting rate, where that halves how far its dispersions are from the trace's.

    Only beside gamma gaps, and only where some dispersion is a fifth off: quantiles hold the spread that a drift adds.
    Counts of gaps with a rate of log-normal drift (sigma, memory t) disperse in windows w by about
    (exp(sigma^2) - 1) * rate * w * g(w / t) more than those of the gaps alone, with g(x) = 2 (x - 1 + exp(-x)) / x^2.
    """
    span_s = float(trace.arrival_s[-1] - trace.arrival_s[0])
    window_s = np.array(windows(span_s), dtype=np.float64)
    goal = _dispersions(trace, window_s)
    if spec.gaps is None or spec.gaps.shape is None or len(window_s) < 2 or not goal.all():
        return spec
    alone = _dispersions(_made(spec), window_s)
    if np.abs(np.log(alone / goal)).max() < 0.2:
        return spec
    sigma, memory_s = (grid.ravel() for grid in np.meshgrid(np.linspace(0, 2, 201), span_s / 2.0 ** np.arange(1, 12)))
    x = window_s / memory_s[:, None]
    more = np.expm1(sigma**2)[:, None] * spec.gaps.rate_per_s * window_s * 2 * (x + np.expm1(-x)) / x**2
    best = int(np.argmin((np.log((alone + more) / goal) ** 2).sum(axis=1)))
    drift = DriftSpec(_short(sigma[best]), max(1.0, round(memory_s[best] * spec.gaps.rate_per_s)))
    # What the drift adds to the variation of the gaps is taken from the gamma law.
    shape = _short(1 / max((1 + 1 / spec.gaps.shape) / np.exp(drift.sigma**2) - 1, 1e-6))
    drifting = replace(spec, gaps=replace(spec.gaps, shape=shape, drift=drift))
    found = _dispersions(_made(drifting), window_s)
    before, after = (float((np.log(these / goal) ** 2).sum()) for these in (alone, found))
    return drifting if after < before / 2 else spec


def _dispersions(trace: Trace, window_s: Floats) -> Floats:
    return np.array([dispersion(trace.arrival_s, size_s) for size_s in window_s.tolist()])


def _made(spec: GeneratorSpec) -> Trace:
    made = generator(spec)
    arrival_s = made.arrivals(SAMPLE, stream(1, "arrivals"))
    return Trace("fitted", arrival_s, *made.lengths(SAMPLE, stream(1, "lengths")))


def _columns(trace: Trace) -> dict[str, NDArray[Any]]:
    return {name: getattr(trace, name) for name in _LENGTHS} | {"gaps": np.diff(trace.arrival_s)}


def _distances(trace: Trace, made: Trace) -> dict[str, float]:
    ours = _columns(made)
    return {name: ks_distance(column, ours[name]) for name, column in _columns(trace).items()}


def ks_distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Kolmogorov and Smirnov's distance: the largest difference of two samples' shares of values up to any x."""
    at = np.concatenate((a, b))
    shares = [cast(Ints, np.sort(sample).searchsorted(at, side="right")) / len(sample) for sample in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def _goodness(trace: Trace, spec: GeneratorSpec, rejected: dict[str, float]) -> Iterator[Goodness]:
    made = _made(spec)
    distances, ours = _distances(trace, made), _columns(made)
    for name, column in _columns(trace).items():
        if name == "gaps" and spec.gaps is None:
            return
        simple = "gamma" if name == "gaps" else "log-normal"
        law = "quantiles" if getattr(spec, name).quantiles else simple
        refused = f"{simple}: KS {rejected[name]:.3f}" if name in rejected else ""
        unit = "mean gap (s)" if name == "gaps" else f"mean {name.replace('_', ' ')}"
        yield Goodness(unit, law, float(column.mean()), float(ours[name].mean()), distances[name], refused)
        if name == "output_tokens":
            theirs = rank_correlation(trace.prompt_tokens, trace.output_tokens) or 0.0
            made_rank = rank_correlation(made.prompt_tokens, made.output_tokens) or 0.0
            yield Goodness("rank correlation", "Gaussian copula", theirs, made_rank)
    gaps = (np.diff(trace.arrival_s), ours["gaps"])
    variation, fitted_variation = (float(gap.std() / gap.mean()) for gap in gaps)
    yield Goodness("CV of gaps", "", variation, fitted_variation)
    for window_s in windows(float(trace.arrival_s[-1] - trace.arrival_s[0])):
        theirs, fitted = (dispersion(arrival_s, window_s) for arrival_s in (trace.arrival_s, made.arrival_s))
        yield Goodness(f"dispersion, {window_s} s", "", theirs, fitted)
