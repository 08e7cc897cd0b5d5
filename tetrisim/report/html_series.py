"""The lines of a page, from the rows of a run: distributions, and what the cluster held over time.

A line has as many points as the eye can tell apart, whatever the number of requests; means over a window are exact.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tetrisim.metrics.definitions import Columns, Floats, completed

CDF_POINTS = 400
WINDOWS = 240
"""Windows of a timeline; rates, which are noisier, use a quarter of them."""
INSTANCES = 48
"""Instances with a row of their own in the picture of load."""

STATES = ("waiting", "prefill", "moving to decode", "decode")


def cdf(values: Floats) -> tuple[Floats, Floats]:
    """Values in order and the percentage up to each: all of them, or CDF_POINTS, denser towards the slowest.

    The first value stands twice, from 0 % on. Both are empty where there are no values.
    """
    n = values.size
    order = np.sort(values)
    if n > CDF_POINTS:
        half = CDF_POINTS // 2
        ranks = np.concatenate([np.linspace(0, n - 1, half), n - np.geomspace(1, n, half)])
        rank = np.unique(np.round(ranks).astype(int))
    else:
        rank = np.arange(n)
    return np.append(order[:1], order[rank]), np.append(np.zeros(min(n, 1)), (rank + 1) / max(n, 1) * 100)


def edges_of(simulated_s: float, windows: int = WINDOWS) -> Floats:
    """The ends of the windows of a timeline, from the start of the run."""
    return np.linspace(0.0, simulated_s or 1.0, windows + 1)


def moments(rows: Columns, end_s: float) -> dict[str, Floats]:
    """When each admitted request entered its states, and its end; what it never reached is put at `end_s`.

    A completed request that has no decode of its own decodes from its first token on.
    """
    kept = np.asarray(rows["status"]) != "rejected"
    done = completed(rows)[kept]
    names = ("arrival_s", "prefill_start_s", "first_token_s", "decode_start_s", "finish_s")
    times = {name: np.asarray(rows[name], dtype=float)[kept] for name in names}
    undecoded = done & np.isnan(times["decode_start_s"])
    times["decode_start_s"] = np.where(undecoded, times["first_token_s"], times["decode_start_s"])
    return {name: np.where(np.isnan(column), end_s, column) for name, column in times.items()}


def in_states(rows: Columns, edges: Floats, end_s: float) -> list[Floats]:
    """Mean number of requests in each of `STATES`, over each window; `end_s` is the end of the run."""
    at = list(moments(rows, end_s).values())
    return [_occupancy(start, end, edges) for start, end in pairwise(at)]


def output_rate(rows: Columns, edges: Floats) -> Floats:
    """Output tokens per second: one at the first token, the others evenly from the start of the decode to the end."""
    return np.diff(_produced(rows, edges)) / np.diff(edges)


def finish_rate(rows: Columns, edges: Floats) -> Floats:
    """Requests finished per second."""
    return np.histogram(rows["finish_s"][completed(rows)], edges)[0] / np.diff(edges)


def arrival_rate(rows: Columns, edges: Floats) -> Floats:
    """Requests arrived per second, rejected ones included."""
    return np.histogram(rows["arrival_s"], edges)[0] / np.diff(edges)


def ttft_by_arrival(rows: Columns, edges: Floats, percent: float) -> Floats:
    """A percentile of the TTFT (s) of the completed requests that arrived in each window; NaN where none did."""
    done = completed(rows)
    window = np.searchsorted(edges, rows["arrival_s"][done], side="right") - 1
    waited = rows["first_token_s"][done] - rows["arrival_s"][done]
    groups = (waited[window == place] for place in range(edges.size - 1))
    return np.array([np.percentile(own, percent) if own.size else np.nan for own in groups])


def _produced(rows: Columns, at: Floats) -> Floats:
    """Output tokens produced up to each moment, of requests that completed."""
    done = completed(rows)
    times = moments({name: np.asarray(column)[done] for name, column in rows.items()}, 0.0)
    first, start, finish = times["first_token_s"], times["decode_start_s"], times["finish_s"]
    later = rows["output_tokens"][done] - 1.0
    span = finish - start
    long = span > 0
    slope = later[long] / span[long]
    ramps = _ramp(start[long], slope, at) - _ramp(finish[long], slope, at)
    return ramps + _steps(first, np.ones(first.size), at) + _steps(finish[~long], later[~long], at)


def kv_tokens(rows: Columns, at: Floats) -> Floats:
    """Tokens in the contexts of requests on the instance that decodes them, at each moment; completed ones alone.

    Held from the start of the prefill, or of the transfer where another instance prefilled, to the end. A prefix
    that several share counts for each of them.
    """
    done = completed(rows)
    own = {name: np.asarray(column)[done] for name, column in rows.items()}
    moved = own["prefill_instance"] != own["decode_instance"]
    arrived = np.where(np.isnan(own["transfer_start_s"]), own["first_token_s"], own["transfer_start_s"])
    start = np.where(moved, arrived, own["prefill_start_s"])
    prompt, output = own["prompt_tokens"].astype(float), own["output_tokens"].astype(float)
    # The first token, made where the prefill was, is held here when the rest of the context is.
    produced = _produced({**own, "first_token_s": np.maximum(own["first_token_s"], start)}, at)
    return _steps(start, prompt, at) - _steps(own["finish_s"], prompt + output, at) + produced


def spans(rows: Columns, end_s: float) -> tuple[np.ndarray, Floats, Floats]:
    """Every stay of a request on an instance: its name, from when, until when."""
    at = moments(rows, end_s)
    kept = np.asarray(rows["status"]) != "rejected"
    names = np.concatenate([rows["prefill_instance"][kept], rows["decode_instance"][kept]])
    starts = np.concatenate([at["prefill_start_s"], at["decode_start_s"]])
    ends = np.concatenate([at["first_token_s"], at["finish_s"]])
    there = (names != "") & (ends > starts)
    return names[there], starts[there], ends[there]


def busy_instances(rows: Columns, edges: Floats, end_s: float) -> Floats:
    """Mean number of instances with at least one request on them, over each window."""
    names, starts, ends = spans(rows, end_s)
    if not names.size:
        return np.zeros(edges.size - 1)
    _, code = np.unique(names, return_inverse=True)
    order = np.lexsort((starts, code))
    # Each instance's times are moved past those of the one before, so that one pass merges the stays of all.
    shift = code[order] * 2.0 * end_s
    begins, reach = starts[order] + shift, np.maximum.accumulate(ends[order] + shift)
    opens = np.append(True, begins[1:] > reach[:-1])
    last = np.append(np.flatnonzero(opens)[1:] - 1, begins.size - 1)
    until: Floats = np.asarray(reach - shift, dtype=float)
    return _occupancy(starts[order][opens], until[last], edges)


def load_by_instance(rows: Columns, instances: Sequence[str], edges: Floats, end_s: float) -> list[Floats]:
    """Mean number of requests on each instance, over each window."""
    names, starts, ends = spans(rows, end_s)
    return [_occupancy(starts[names == name], ends[names == name], edges) for name in instances]


def kv_capacity(instances: Sequence[Mapping[str, Any]], rows: Columns) -> int:
    """Tokens that the KV blocks of the instances that decode hold together; 0 where the run did not record it."""
    decode = set(np.unique(rows["decode_instance"])) | {
        row["instance"] for row in instances if row["role"] in ("hybrid", "decode")
    }
    return sum(int(row.get("kv_tokens") or 0) for row in instances if row["instance"] in decode)


def _occupancy(starts: Floats, ends: Floats, edges: Floats) -> Floats:
    """Mean number of intervals [start, end) over each window."""
    ones = np.ones(starts.size)
    held = np.diff(_ramp(starts, ones, edges) - _ramp(ends, ones, edges)) / np.diff(edges)
    return np.maximum(held, 0.0)  # rounding may leave a little less than nothing


def _ramp(starts: Floats, slopes: Floats, at: Floats) -> Floats:
    """The sum of slope * max(0, t - start), at each moment t."""
    order = np.argsort(starts, kind="stable")
    begun = np.searchsorted(starts[order], at, side="right")
    slope = np.append(0.0, np.cumsum(slopes[order]))
    offset = np.append(0.0, np.cumsum(slopes[order] * starts[order]))
    return slope[begun] * at - offset[begun]


def _steps(moments: Floats, weights: Floats, at: Floats) -> Floats:
    """The sum of the weights up to each moment."""
    order = np.argsort(moments, kind="stable")
    total = np.append(0.0, np.cumsum(weights[order]))
    return total[np.searchsorted(moments[order], at, side="right")]
