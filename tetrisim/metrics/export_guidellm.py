"""GuideLLM's benchmarks.json: one benchmark with its metrics, by guidellm/benchmark/schemas/metrics.py.

time_per_output_token_ms: (last token - start) / output tokens, the first token included, weighted by output tokens.
inter_token_latency_ms: (last - first token) / (output tokens - 1), weighted by output tokens - 1, so that its mean is
vLLM's mean ITL and its percentiles are of requests. request_latency is in seconds. Percentiles are the smallest value
that the share does not exceed, nothing interpolated; 0 where a distribution is empty. requests_per_second and the token
rates are distributions over time: each event counts over half the time to its neighbours, those within 0.1 ms as one,
and the tokens of a request are spread evenly between its first and its last. SLO: a request of one output token has
no inter-token latency, so where there is a limit on it such a request is not determined; a rejected one misses.

A rejected request is errored, an unfinished one incomplete. Where there are any, only `successful` is written of the
distributions: how far an unfinished request got is not kept, and so `total` is not known. Left out, since a simulation
does not have them: configuration, scheduler state and delays, text, images, iterations, and the requests themselves.
"""

import numpy as np

from tetrisim.metrics import definitions as define
from tetrisim.metrics.definitions import Floats
from tetrisim.metrics.export import Record, Served

QUANTILES = {
    "p001": 0.001, "p01": 0.01, "p05": 0.05, "p10": 0.1, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95,
    "p99": 0.99, "p999": 0.999,
}  # fmt: skip

MERGED_S = 1e-4
"""Events this close are one."""

Pdf = tuple[Floats, Floats]
"""Values, and what each weighs."""


def guidellm_record(run: Served) -> Record:
    """A report with one benchmark."""
    rows = run.rows
    counts = {
        "successful": run.count("completed"), "errored": run.count("rejected"), "incomplete": run.count("unfinished"),
    }  # fmt: skip
    totals = counts | {"total": sum(counts.values())}
    arrival, finish = rows["arrival_s"], run.of_completed("finish_s")
    start = float(np.nanmin(arrival)) if np.isfinite(arrival).any() else 0.0
    end = float(finish.max()) if finish.size else start
    alone = totals["total"] == counts["successful"]
    metrics: Record = {"request_totals": totals}
    metrics |= {name: _by_status(summary, alone) for name, summary in _distributions(run, start, end).items()}
    metrics |= _goodput(run, start, end, alone)
    benchmark: Record = {"type_": "generative_benchmark"}
    if label := dict(run.facts).get("label"):
        benchmark["config"] = {"run_id": label}
    benchmark |= {"metrics": metrics, "start_time": start, "end_time": end, "duration": end - start}
    return {"metadata": {"version": 2}, "benchmarks": [benchmark]}


def _distributions(run: Served, start: float, end: float) -> Record:
    arrival, first, finish = (run.of_completed(name) for name in ("arrival_s", "first_token_s", "finish_s"))
    inputs, outputs = run.of_completed("prompt_tokens"), run.of_completed("output_tokens")
    gap = (finish - first) / np.maximum(outputs - 1, 1)
    shown, tokens = _token_times(first, finish, outputs)
    rates = {
        "requests_per_second": (finish, np.ones(finish.size)),
        "prompt_tokens_per_second": (first, inputs),
        "output_tokens_per_second": (shown, tokens),
        "tokens_per_second": (np.concatenate([first, shown]), np.concatenate([inputs, tokens])),
    }
    return {
        "requests_per_second": _rates(rates.pop("requests_per_second"), start, end),
        "request_concurrency": _concurrency(arrival, finish, start, end),
        "request_latency": _values(finish - arrival),
        "prompt_token_count": _values(inputs),
        "output_token_count": _values(outputs),
        "total_token_count": _values(inputs + outputs),
        "time_to_first_token_ms": _values(1e3 * (first - arrival)),
        "time_per_output_token_ms": _values(1e3 * (finish - arrival) / np.maximum(outputs, 1), outputs),
        "inter_token_latency_ms": _values(1e3 * gap, outputs - 1),
        **{name: _rates(events, start, end) for name, events in rates.items()},
    }


def _token_times(first: Floats, finish: Floats, outputs: Floats) -> Pdf:
    """When tokens were shown, and how many: evenly from the first to the last of each request."""
    tokens = outputs.astype(np.int64)
    request = np.repeat(np.arange(tokens.size), tokens)
    place = np.arange(request.size) - np.repeat(np.cumsum(tokens) - tokens, tokens)
    share = place / np.maximum(tokens - 1, 1)[request]
    return first[request] + share * (finish - first)[request], np.ones(request.size)


def _by_status(summary: Record, alone: bool) -> Record:
    if not alone:
        return {"successful": summary}
    nothing = _values(np.empty(0))
    return {"successful": summary, "errored": nothing, "incomplete": nothing, "total": summary}


def _goodput(run: Served, start: float, end: float, alone: bool) -> Record:
    slo, rows = run.slo, run.rows
    if not slo.limits:
        return {"slo_attainment": None, "slo_determined_requests": 0, "request_goodput": None}
    outputs = run.of_completed("output_tokens")
    known = outputs > 1 if slo.tpot_s is not None else np.ones(outputs.size, dtype=bool)
    first, whole = define.ttft(rows), define.e2el(rows)
    good = known.copy()
    for values, limit in (
        (first, slo.ttft_s), ((whole - first) / np.maximum(outputs - 1, 1), slo.tpot_s), (whole, slo.e2el_s),
    ):  # fmt: skip
        if limit is not None:
            good &= values <= limit
    determined = int(known.sum()) + run.count("rejected")
    if not determined:
        return {"slo_attainment": None, "slo_determined_requests": 0, "request_goodput": None}
    ends = run.of_completed("finish_s")[good]
    return {
        "slo_attainment": int(good.sum()) / determined,
        "slo_determined_requests": determined,
        "request_goodput": _by_status(_rates((ends, np.ones(ends.size)), start, end), alone),
    }


def _values(values: Floats, weights: Floats | None = None, count: int | None = None) -> Record:
    """DistributionSummary.from_values: like values are one, weightless ones are none."""
    weights = np.ones(values.size) if weights is None else weights
    count = round(float(weights.sum())) if count is None else count
    unlike, where = np.unique(values, return_inverse=True)
    weight = np.bincount(where, weights=weights, minlength=unlike.size)
    unlike, weight = unlike[weight > 0], weight[weight > 0]
    if not unlike.size:
        zeros = dict.fromkeys(("mean", "median", "mode", "variance", "std_dev", "min", "max"), 0.0)
        return {**zeros, "count": count, "total_sum": 0.0, "percentiles": dict.fromkeys(QUANTILES, 0.0)}
    share = weight / weight.sum()
    cumulative = np.cumsum(share)
    places = {name: min(int(np.searchsorted(cumulative, q)), unlike.size - 1) for name, q in QUANTILES.items()}
    percentiles = {name: float(unlike[place]) for name, place in places.items()}
    mean = float((unlike * share).sum())
    variance = float(((unlike - mean) ** 2 * share).sum())
    return {
        "mean": mean, "median": percentiles["p50"], "mode": float(unlike[np.argmax(share)]), "variance": variance,
        "std_dev": variance**0.5, "min": float(unlike[0]), "max": float(unlike[-1]), "count": count,
        "total_sum": mean * count, "percentiles": percentiles,
    }  # fmt: skip


def _rates(events: Pdf, start: float, end: float) -> Record:
    """rate_distribution_from_timings: events per second, over half the time to the neighbours of each moment."""
    times = np.concatenate([[start], events[0], [end]])
    amounts = np.concatenate([[0.0], events[1], [0.0]])
    inside = (times >= start) & (times <= end)
    times, amounts = _merged(times[inside], amounts[inside])
    if times.size < 2:
        return _values(np.empty(0), count=times.size)
    middles = (times[1:] + times[:-1]) / 2
    edges = np.concatenate([[times[0]], middles, [times[-1]]])
    spans = np.diff(edges)
    spans[-1] = max(spans[-1], 1e-6)
    return _values(amounts / spans, spans, round(float(amounts.sum())))


def _concurrency(begin: Floats, finish: Floats, start: float, end: float) -> Record:
    """concurrency_distribution_from_timings: requests there at once, weighted by time."""
    change = np.concatenate([np.ones(begin.size), -np.ones(finish.size)])
    times, change = _merged(np.concatenate([begin, finish]), change)
    if not times.size:
        return _values(np.empty(0))
    if times[0] > start:  # GuideLLM begins its window with nobody there
        times, change = np.concatenate([[start], times]), np.concatenate([[0.0], change])
    there = np.maximum(np.cumsum(change), 0)
    if end > times[-1]:
        times, there = np.append(times, end), np.append(there, there[-1])
    spans = np.diff(times)
    if not (spans > 0).any():
        return _values(np.empty(0), count=begin.size)
    return _values(there[:-1], spans, begin.size)


def _merged(times: Floats, amounts: Floats) -> Pdf:
    """Moments in order, each with the amounts of all within 0.1 ms after it."""
    unlike, where = np.unique(times, return_inverse=True)
    amount = np.bincount(where, weights=amounts, minlength=unlike.size)
    ends = np.searchsorted(unlike, unlike + MERGED_S, side="right").tolist()
    starts: list[int] = []
    place = 0
    while place < unlike.size:
        starts.append(place)
        place = ends[place]
    return unlike[starts], np.array(np.add.reduceat(amount, starts) if starts else [], dtype=float)
