"""Cut, thin and speed up a trace."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tetrisim.errors import TraceError
from tetrisim.workload.trace import Trace


def between(trace: Trace, from_s: float, to_s: float) -> Trace:
    """The requests that arrive from `from_s` up to, not including, `to_s` seconds after the first; moved to 0."""
    since_s = trace.arrival_s - trace.arrival_s[0]
    kept = np.flatnonzero((since_s >= from_s) & (since_s < to_s))
    if not len(kept):
        what = f"no request arrives from {from_s:g} s on" + (f" and before {to_s:g} s" if to_s < np.inf else "")
        raise TraceError("--from, --to", what, f"times within 0 and {since_s[-1]:.6g} s")
    return select(trace, kept)


def thin(trace: Trace, fraction: float, rng: np.random.Generator) -> Trace:
    """Each request kept with chance `fraction`; a smaller fraction of the same seed keeps some of the same.

    The rate keeps its shape over time and falls to `fraction` of it, and an index of dispersion D in windows becomes
    1 + fraction * (D - 1): a thinned Poisson process is Poisson.
    """
    if not 0 < fraction <= 1:
        raise TraceError("--fraction", f"is {fraction:g}", "above 0 and at most 1, as in 0.1")
    kept = np.flatnonzero(rng.random(len(trace)) < fraction)
    if not len(kept):
        raise TraceError("--fraction", f"{fraction:g} of {len(trace)} requests keeps none", "a larger fraction")
    return select(trace, kept)


def faster(trace: Trace, speed: float) -> Trace:
    """The same requests with every gap divided by `speed`."""
    if not 0 < speed < 1e12:
        raise TraceError("--speed", f"is {speed:g}", "more than 0, as in 2 for twice as fast")
    return replace(trace, arrival_s=trace.arrival_s / speed)


def select(trace: Trace, kept: NDArray[np.int64]) -> Trace:
    """The requests at these places (in order), the first at 0 s."""
    hash_ids = None if trace.hash_ids is None else tuple(trace.hash_ids[place] for place in kept.tolist())
    return replace(
        trace,
        arrival_s=trace.arrival_s[kept] - trace.arrival_s[kept[0]],
        prompt_tokens=trace.prompt_tokens[kept],
        output_tokens=trace.output_tokens[kept],
        hash_ids=hash_ids,
    )
