"""Warm-up: the first requests of a run find the cluster empty, and can be left out of its summary by a stated rule."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tetrisim.metrics import definitions as define
from tetrisim.simulate import Result

Warmup = float | Literal["auto"]
"""The share of the requests that is not counted, or `auto`: as many as MSER-5 finds."""

BATCH = 5
LEAST_BATCHES = 10
"""In fewer batches there is nothing to find."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The first `requests` by arrival are not counted, by `rule`."""

    requests: int = 0
    rule: str = ""


def find_cut(runs: Sequence[define.Columns], warmup: Warmup) -> Cut:
    """What is not counted in runs that are compared: the same requests in all, so by `auto` the most that one asks for.

    `runs` are the request columns of each. A share of n requests is int(share * n). `auto` is MSER-5 on TTFT and on
    E2EL, whichever cuts later; where it finds no end of the warm-up in the first half of the requests, it cuts that
    half and the rule says so.
    """
    requests = len(runs[0]["status"])
    if warmup != "auto":
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup: expected a share from 0 to below 1, or 'auto', not {warmup:g}")
        return Cut(int(requests * warmup), f"a share of {warmup:g}") if warmup else Cut()
    rule = "MSER-5 on TTFT and E2EL"
    found = [_first_steady(rows, metric) for rows in runs for metric in (define.ttft, define.e2el)]
    if None in found:
        return Cut(requests // 2, f"{rule}: no end of the warm-up in the first half, so the run is short or not steady")
    return Cut(max(place for place in found if place is not None), rule)


def counted(result: Result, requests: int) -> Result:
    """The run without its first requests. Gaps between tokens are not kept by request, so there are none then."""
    if not requests:
        return result
    rows = {name: column[requests:] for name, column in result.request_columns.items()}
    gaps = {name: column[:0] for name, column in result.gap_columns.items()}
    return replace(result, request_columns=rows, gap_columns=gaps)


def mser5(series: define.Floats) -> int | None:
    """How many of the first values to leave out, a multiple of 5; None when that is not in the first half.

    MSER-5 (White, Cobb and Spratt 2000): of the means of 5 values each, leave out the first d that make the standard
    error of the mean of the k - d others the smallest: the sum of their squared deviations over (k - d)^2.
    """
    batches = len(series) // BATCH
    if batches < LEAST_BATCHES:
        return None
    means = series[: batches * BATCH].reshape(batches, BATCH).mean(axis=1)
    tail = (means - means.mean())[::-1]  # centred, or squares of large values would hide small differences
    left = np.arange(1, batches + 1)
    deviations = np.cumsum(tail**2) - np.cumsum(tail) ** 2 / left
    error = (deviations / left**2)[::-1][: batches // 2 + 1]
    best = int(np.argmin(error))
    return best * BATCH if best < batches // 2 else None


def _first_steady(rows: define.Columns, metric: define.Metric) -> int | None:
    """The place of the first request to count, among all; unserved requests are in no series."""
    best = mser5(metric(rows))
    return None if best is None else int(np.flatnonzero(define.completed(rows))[best])
