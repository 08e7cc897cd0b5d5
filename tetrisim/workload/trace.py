"""A trace, and how a `WorkloadSpec` becomes one: read or generate, cut, then lay out the arrivals."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tetrisim.errors import TraceError, nearest_name, unknown_name
from tetrisim.scenario.sessions import SessionSpec
from tetrisim.scenario.workload import SESSIONS, WorkloadSpec
from tetrisim.streams import stream
from tetrisim.workload.generator import GENERATOR_SUFFIXES, load_generator
from tetrisim.workload.sessions import Turns, draw_turns, session_lengths
from tetrisim.workload.synthetic import CATALOG, RANDOM_OUTPUT, RANDOM_PROMPT, Generator, random_lengths

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value, so no generated __eq__
class Trace:
    """Requests in arrival order, as columns.

    `arrival_s` (seconds) never decreases and starts at 0 or later; token counts are at least 1. `hash_ids`
    names the blocks of each prompt, `hash_block_tokens` tokens each (the last may be part-filled): same id,
    same block after the same prefix. Both are None where the trace does not tell. `turns`: whose turns they are.
    """

    name: str
    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    hash_ids: tuple[tuple[int, ...], ...] | None = None
    hash_block_tokens: int | None = None
    turns: Turns | None = None

    def __len__(self) -> int:
        return len(self.arrival_s)


def build(spec: WorkloadSpec, seed: int) -> Trace:
    """The requests of one run; the same spec and seed give the same requests.

    Lengths and arrivals come from streams of their own ("lengths", "arrivals"), so changing the one leaves
    the other as it was, and a generator asked for more requests begins with the same ones. A path that ends in
    .yaml is a generator's; a relative one is taken from the working directory. Raises TraceError for an unusable
    file, name, count or rate.
    """
    if spec.trace in CATALOG:
        trace = _generate(spec, CATALOG[spec.trace], seed)
    elif Path(spec.trace).suffix in GENERATOR_SUFFIXES:
        trace = _generate(spec, load_generator(spec.trace), seed)
    elif Path(spec.trace).exists():
        trace = _from_file(spec)
    else:
        names = trace_names()
        what = f"'{spec.trace}' is neither a trace of the catalog nor an existing file"
        expected = "a path, or one of " + ", ".join(names)
        raise TraceError("workload.trace", what, expected, nearest_name(spec.trace, names))
    return replace(trace, arrival_s=_arrivals(spec, trace.arrival_s, seed))


def trace_names() -> tuple[str, ...]:
    """The names of the embedded catalog."""
    return tuple(CATALOG)


def describe(name: str) -> str:
    """One line on a trace of the catalog; raises TraceError for a name that is not in it."""
    if name not in CATALOG:
        raise unknown_name(TraceError, "trace", name, CATALOG)
    return CATALOG[name].summary


def _generate(spec: WorkloadSpec, generator: Generator, seed: int) -> Trace:
    n = generator.requests if spec.requests is None else spec.requests
    rng = stream(seed, "lengths")
    if spec.trace == SESSIONS:
        law = spec.sessions or SessionSpec()
        prompt, output, session = session_lengths(law, n, rng)
        return Trace(spec.trace, np.zeros(n), prompt, output, turns=draw_turns(law, session, seed))
    if spec.trace == "random":
        tokens = (spec.prompt_tokens or RANDOM_PROMPT, spec.output_tokens or RANDOM_OUTPUT)
        prompt, output = random_lengths(*tokens, spec.shortest, n, rng)
    else:
        prompt, output = generator.lengths(n, rng)
    arrival_s = generator.arrivals(n, stream(seed, "arrivals")) if spec.arrivals == "trace" else np.zeros(n)
    return Trace(Path(spec.trace).name, arrival_s, prompt, output)


def _from_file(spec: WorkloadSpec) -> Trace:
    from tetrisim.workload.readers import read  # readers make Traces, so they import this module

    trace = read(spec.trace, spec.format)
    n = len(trace) if spec.requests is None else spec.requests
    if n > len(trace):
        what = f"the file has {len(trace)} requests, {n} were asked for"
        raise TraceError(spec.trace, what, f"requests: at most {len(trace)}")
    return replace(
        trace,
        arrival_s=trace.arrival_s[:n],
        prompt_tokens=trace.prompt_tokens[:n],
        output_tokens=trace.output_tokens[:n],
        hash_ids=None if trace.hash_ids is None else trace.hash_ids[:n],
    )


def _arrivals(spec: WorkloadSpec, own_s: Floats, seed: int) -> Floats:
    """Arrival times in seconds under the spec's law; random laws begin with a drawn gap, the others at 0."""
    n, rate = len(own_s), spec.rate_per_s
    if spec.arrivals == "trace":
        return own_s if rate is None else _rescaled(spec, own_s, rate)
    if spec.arrivals == "burst":
        if rate is not None:
            raise TraceError("workload.rate", "a burst has no rate", "no rate, or arrivals: poisson")
        return np.zeros(n)
    if spec.arrivals == "closed-loop":
        return np.zeros(n)  # the scheduler knows when they come: when others leave
    assert rate is not None, "WorkloadSpec asks for a rate with these arrivals"
    if spec.arrivals == "constant":
        return np.arange(n, dtype=np.float64) / rate
    rng = stream(seed, "arrivals")
    if spec.arrivals == "poisson":
        return np.cumsum(rng.standard_exponential(n)) / rate
    return np.cumsum(rng.standard_gamma(spec.burstiness, n)) / (spec.burstiness * rate)


def _rescaled(spec: WorkloadSpec, own_s: Floats, rate: float) -> Floats:
    """The trace's own gaps, stretched so that its n - 1 gaps take (n - 1) / rate seconds."""
    span = float(own_s[-1] - own_s[0])
    if span <= 0:
        what = f"all {len(own_s)} requests of '{spec.trace}' arrive at once, so there are no gaps to rescale"
        raise TraceError("workload.rate", what, "no rate, or arrivals: poisson")
    return (own_s - own_s[0]) / span * ((len(own_s) - 1) / rate)
