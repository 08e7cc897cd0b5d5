"""The metrics of each class of requests, beside those of all."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tetrisim.metrics import definitions as define
from tetrisim.simulate import Result

STATISTICS = ("mean", "median", "p90", "p99")
TIMES: Mapping[str, define.Metric] = {"ttft": define.ttft, "tpot": define.tpot, "e2el": define.e2el}


def by_class(result: Result) -> dict[str, Any]:
    """Keys `<class>:<metric>`, as in `best-effort:mean_ttft_ms`; nothing where the workload has no classes.

    Goodput counts a class's requests within its own limits, over the duration of the whole run.
    """
    scenario = result.scenario
    found: dict[str, Any] = {}
    seconds = define.duration(result.request_columns)
    for each in scenario.workload.classes:
        member = np.asarray(result.request_columns["class"]) == each.name
        rows = {name: column[member] for name, column in result.request_columns.items()}
        good, submitted = define.good(rows, each.slo or scenario.slo), int(member.sum())
        values: dict[str, Any] = {
            "submitted": submitted,
            "completed": int(define.completed(rows).sum()),
            "request_goodput": define.per_second(good, seconds),
            "slo_attainment": good / submitted if submitted else None,
        }
        for name, metric in TIMES.items():
            times = metric(rows)
            found_ms = [1e3 * times.mean(), *(1e3 * np.percentile(times, (50, 90, 99)))] if times.size else [None] * 4
            for statistic, value in zip(STATISTICS, found_ms, strict=True):
                values[f"{statistic}_{name}_ms"] = None if value is None else float(value)
        found |= {f"{each.name}:{key}": value for key, value in values.items()}
    return found
