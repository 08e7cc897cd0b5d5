"""One run as one flat record, under the key names of `vllm bench serve`."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tetrisim.metrics import definitions as define
from tetrisim.metrics.warmup import Cut, Warmup, counted, find_cut
from tetrisim.scenario.gpu import load_gpu
from tetrisim.simulate import Result

Summary = dict[str, Any]
"""Plain Python values that JSON can hold; None where a value does not exist."""

STATISTICS = ("mean", "median", "p90", "p99")
_PERCENTS = (50.0, 90.0, 99.0)
_SOURCES = ("measured", "interpolated", "estimated")


def summarize(result: Result, baseline: Mapping[str, Any] | None = None, warmup: Warmup | Cut = 0.0) -> Summary:
    """The metrics of a run: times in ms under keys that end in _ms, others in seconds, tokens and requests.

    With j the reduction of mean E2EL against `baseline` and c the ratio of dollars, `perf_per_dollar` is (1 + j) / c,
    the definition that reproduces all five of TetriInfer's published values (arXiv 2401.11181, figures 11 to 15);
    `perf_per_dollar_ratio` is the plain ratio, 1 / (1 - j) / c. A run without a baseline is its own. Raises
    RuntimeError when requests were lost.

    `warmup` (metrics/warmup.py) leaves out the first requests: all counts, times and rates are of the others, rates
    over the time from the first of their arrivals to the last of their ends. ITL is then None, since the gaps between
    tokens are not kept by request; GPU-seconds and dollars stay those of the whole run. `vllm bench serve` counts all.
    """
    cut = warmup if isinstance(warmup, Cut) else find_cut([result.request_columns], warmup)
    result = counted(result, cut.requests)
    rows = result.request_columns
    counts = _counts(result)
    seconds = define.duration(rows)
    done = define.completed(rows)
    output_tokens = int(rows["output_tokens"][done].sum())
    good = define.good(rows, result.scenario.slo, result.scenario.workload.classes)
    itl = define.itl(result.gap_columns)
    summary: Summary = {
        "system": result.scenario.system,
        **counts,
        "warmup_requests": cut.requests,
        "warmup_rule": cut.rule,
        "duration": seconds,
        "request_throughput": define.per_second(counts["completed"], seconds),
        "output_throughput": define.per_second(output_tokens, seconds),
        "total_token_throughput": define.per_second(output_tokens + int(rows["prompt_tokens"][done].sum()), seconds),
        "request_goodput": define.per_second(good, seconds),
        "slo_attainment": good / counts["submitted"] if counts["submitted"] else None,
        **_distribution("ttft", define.ttft(rows)),
        **_distribution("tpot", define.tpot(rows)),
        **_milliseconds("itl", [itl.mean, *itl.percentiles(_PERCENTS)]),
        **_distribution("e2el", define.e2el(rows)),
        "preemptions": int(rows["preemptions"].sum()),
        **_usage(result),
    }
    summary |= _per_dollar(summary, baseline or summary)
    return summary | _by_class(result) | _sources(result)


def _by_class(result: Result) -> Summary:
    """Keys `<class>:<metric>`, as in `best-effort:mean_ttft_ms`; nothing where the workload has no classes.

    Goodput counts a class's requests within its own limits, over the duration of the whole run.
    """
    scenario = result.scenario
    found: Summary = {}
    seconds = define.duration(result.request_columns)
    for each in scenario.workload.classes:
        member = np.asarray(result.request_columns["class"]) == each.name
        rows = {name: column[member] for name, column in result.request_columns.items()}
        good, submitted = define.good(rows, each.slo or scenario.slo), int(member.sum())
        values: Summary = {
            "submitted": submitted,
            "completed": int(define.completed(rows).sum()),
            "request_goodput": define.per_second(good, seconds),
            "slo_attainment": good / submitted if submitted else None,
        }
        for name, metric in define.TIMES.items():
            values |= _distribution(name, metric(rows))
        found |= {f"{each.name}:{key}": value for key, value in values.items()}
    return found


def _counts(result: Result) -> dict[str, int]:
    status = np.asarray(result.request_columns["status"])
    counts = {name: int((status == name).sum()) for name in ("completed", "rejected", "unfinished")}
    submitted = int(result.request_columns["arrival_s"].size)
    if sum(counts.values()) != submitted:
        raise RuntimeError(f"requests were lost: {counts} do not add up to {submitted} submitted")
    return {"submitted": submitted, **counts}


def _distribution(name: str, seconds: define.Floats) -> dict[str, float | None]:
    if not seconds.size:
        return _milliseconds(name, [None] * len(STATISTICS))
    return _milliseconds(name, [float(seconds.mean()), *map(float, np.percentile(seconds, _PERCENTS))])


def _milliseconds(name: str, values: Iterable[float | None]) -> dict[str, float | None]:
    return {
        f"{statistic}_{name}_ms": None if value is None else value * 1e3
        for statistic, value in zip(STATISTICS, values, strict=True)
    }


def _usage(result: Result) -> dict[str, float]:
    """GPU-seconds from first to last work of each instance (the paper's resource usage time), and dollars.

    The time that an instance is off in between costs nothing.
    """
    instances = result.instance_columns
    worked = instances["last_work_s"] - instances["first_work_s"] - instances.get("off_s", 0.0)
    gpu_seconds = instances["gpus"] * np.where(np.isnan(worked), 0.0, worked)
    prices = np.array([load_gpu(str(name)).price_per_hour / 3600 for name in instances["gpu"]])
    return {"gpu_seconds": float(gpu_seconds.sum()), "dollars": float((gpu_seconds * prices).sum())}


def _per_dollar(own: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, float | None]:
    if not all((own["mean_e2el_ms"], base["mean_e2el_ms"], own["dollars"], base["dollars"])):
        return {"perf_per_dollar": None, "perf_per_dollar_ratio": None}
    cost = own["dollars"] / base["dollars"]
    return {
        "perf_per_dollar": (2 - own["mean_e2el_ms"] / base["mean_e2el_ms"]) / cost,
        "perf_per_dollar_ratio": base["mean_e2el_ms"] / own["mean_e2el_ms"] / cost,
    }


def _sources(result: Result) -> Summary:
    total = sum(result.time_shares.values())
    shares = {f"{source}_share": result.time_shares.get(source, 0.0) / total if total else None for source in _SOURCES}
    return {
        **shares,
        "provenance": list(result.provenance),
        "simulated_s": float(result.simulated_s),
        "wall_s": float(result.wall_s),
    }
