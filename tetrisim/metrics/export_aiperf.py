"""AIPerf's profile_export_aiperf.json: a record for each metric, with its unit, by the classes of aiperf/metrics/types.

inter_token_latency: (request latency - TTFT) / (output tokens - 1) of each request with more than one, which vLLM calls
TPOT; inter_chunk_latency: all gaps pooled, vLLM's ITL. output_token_throughput_per_user: the mean of 1 / ITL, not 1 /
the mean. A good request meets every limit, and one of a single output token has no ITL and so meets none on it.
`sum`, `count` and p1 to p99 (linear) belong to metrics of each request; the others have `avg` alone. A rejected request
is an error; where there are any, adj_<metric> counts them as infinite (null here), with percentiles of the nearest
rank. An unfinished request is in no metric, and makes the run incomplete.

Left out, since a simulation does not have them: time_to_second_token (needs the moments of single tokens), what needs
the text or the server's own reports, the configuration, and the moment of day.
"""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from tetrisim.metrics import definitions as define
from tetrisim.metrics.definitions import Floats
from tetrisim.metrics.export import Record, Served

PERCENTS = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0)
PER_USER = "tokens/sec/user"


def aiperf_record(run: Served) -> Record:
    """What it writes; a metric without a value is not there."""
    rows = run.rows
    done, failed = run.count("completed"), run.count("rejected")
    inputs, outputs = run.of_completed("prompt_tokens"), run.of_completed("output_tokens")
    ttft, latency, per_token = define.ttft(rows), define.e2el(rows), define.tpot(rows)
    in_ms = {
        "time_to_first_token": ttft,
        "request_latency": latency,
        "decode_duration": latency - ttft,
        "inter_token_latency": per_token,
    }
    metrics = {name: _record(values * 1e3, "ms") for name, values in in_ms.items()}
    if run.itl is not None:
        metrics["inter_chunk_latency"] = _gaps(run)
    metrics |= {
        "output_token_throughput_per_user": _record(1 / per_token[per_token > 0], PER_USER),
        "e2e_output_token_throughput": _record(outputs[latency > 0] / latency[latency > 0], PER_USER),
        "prefill_throughput_per_user": _record(inputs[ttft > 0] / ttft[ttft > 0], PER_USER),
        "input_sequence_length": _record(inputs, "tokens"),
        "output_sequence_length": _record(outputs, "tokens"),
        "output_token_count": _record(outputs, "tokens"),
        **_totals(run, float(inputs.sum()), float(outputs.sum())),
    }
    if failed:
        metrics |= {f"adj_{name}": _adjusted(values * 1e3, failed) for name, values in in_ms.items() if values.size}
    unfinished = run.count("unfinished")
    head: Record = {"schema_version": "1.4", "is_complete": not unfinished}
    if unfinished:
        head["incomplete_reason"] = f"{unfinished} of {done + failed + unfinished} requests unfinished"
    if label := dict(run.facts).get("label"):
        head["run_info"] = {"run_label": label}
    return head | {name: record for name, record in metrics.items() if record}


def _totals(run: Served, inputs: float, outputs: float) -> Record:
    """The metrics of the whole run; rates are over benchmark_duration: first request to last response, if completed."""
    done, failed = run.count("completed"), run.count("rejected")
    good = _good(run)
    seconds = float(run.of_completed("finish_s").max() - run.of_completed("arrival_s").min()) if done else None
    counts = {"request_count": done, "error_request_count": failed, "completed_request_count": done + failed}
    rates = {
        "request_throughput": (done, "requests/sec"),
        "output_token_throughput": (outputs, "tokens/sec"),
        "input_token_throughput": (inputs, "tokens/sec"),
        "total_token_throughput": (inputs + outputs, "tokens/sec"),
        "goodput": (good, "requests/sec"),
    }
    scalars: dict[str, tuple[float | None, str]] = {name: (count or None, "requests") for name, count in counts.items()}
    if seconds:
        scalars |= {name: (None if n is None else n / seconds, unit) for name, (n, unit) in rates.items()}
    scalars |= {
        "benchmark_duration": (seconds, "sec"),
        "request_error_rate": (100 * failed / (done + failed) if done + failed else None, "%"),
        "good_request_count": (good, "requests"),
        "good_request_fraction": (good / (done + failed) if good is not None and done + failed else None, "ratio"),
        **{name: (inputs, "tokens") for name in ("total_isl",) if done},
        **{name: (outputs, "tokens") for name in ("total_osl", "total_output_tokens") if done},
    }
    return {name: {"unit": unit, "avg": value} for name, (value, unit) in scalars.items() if value is not None}


def _good(run: Served) -> int | None:
    """Requests that have every metric that has a limit, and are within it; None without limits."""
    slo, rows = run.slo, run.rows
    if not slo.limits:
        return None
    several = run.rows["output_tokens"] > 1
    judged = rows if slo.tpot_s is None else {name: column[several] for name, column in rows.items()}
    return define.good(judged, slo)


def _record(values: Floats, unit: str) -> Record:
    if not values.size:
        return {}
    points = dict(zip(_names(), np.percentile(values, PERCENTS).tolist(), strict=True))
    return {
        "unit": unit, "avg": float(values.mean()), **points, "min": float(values.min()), "max": float(values.max()),
        "std": float(values.std()), "count": int(values.size), "sum": float(values.sum()),
    }  # fmt: skip


def _gaps(run: Served) -> Record:
    itl = run.itl
    if itl is None or itl.mean is None or itl.std is None:
        return {}
    count = float(itl.weights.sum())
    at = [1e3 * value for value in itl.percentiles(PERCENTS) if value is not None]
    points = dict(zip(_names(), at, strict=True))
    return {
        "unit": "ms", "avg": 1e3 * itl.mean, **points, "min": 1e3 * float(itl.values[0]),
        "max": 1e3 * float(itl.values[-1]), "std": 1e3 * itl.std, "count": round(count), "sum": 1e3 * itl.mean * count,
    }  # fmt: skip


def _adjusted(values: Floats, failed: int) -> Record:
    """With so many infinite values more; `std` does not exist, and infinity is written as null."""
    inflated = np.concatenate([values, np.full(failed, np.inf)])
    points = np.percentile(inflated, PERCENTS, method="nearest").tolist()
    named = {"avg": np.inf, **dict(zip(_names(), points, strict=True)), "min": float(inflated.min()), "max": np.inf}
    finite = {name: value if isfinite(value) else None for name, value in named.items()}
    return {"unit": "ms", **finite, "count": int(inflated.size), "sum": None}


def _names() -> Sequence[str]:
    return [f"p{percent:g}" for percent in PERCENTS]
