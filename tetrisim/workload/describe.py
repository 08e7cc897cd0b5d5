"""What a trace is like: rate, burstiness, lengths, and how much of its prompts earlier prompts have begun with."""

from collections import OrderedDict
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tetrisim.workload.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

WINDOWS_S = (1, 10, 60, 600, 3600, 86400)
"""Windows in which arrivals are counted, where the trace is long enough."""
LEAST_WINDOWS = 20
"""Fewer windows than this say nothing about how counts vary."""
MOST_CACHES = 6
"""Cache sizes below the endless one."""


def facts(trace: Trace) -> dict[str, Any]:
    """The trace in numbers, ready for JSON; what it cannot tell is None (no gaps, no hash ids)."""
    gaps = np.diff(trace.arrival_s)
    span_s = float(gaps.sum())
    return {
        "trace": trace.name,
        "requests": len(trace),
        "span_s": span_s,
        "rate_per_s": len(gaps) / span_s if span_s else None,
        "gap_cv": float(gaps.std() / gaps.mean()) if span_s else None,
        "simultaneous": float((gaps == 0).mean()) if len(gaps) else 0.0,
        "dispersion": {f"{window_s} s": dispersion(trace.arrival_s, window_s) for window_s in windows(span_s)},
        "prompt_tokens": _column(trace.prompt_tokens),
        "output_tokens": _column(trace.output_tokens),
        "rank_correlation": rank_correlation(trace.prompt_tokens, trace.output_tokens),
        "prefix": None if trace.hash_ids is None else _prefix(trace),
    }


def _column(tokens: Ints) -> dict[str, float]:
    """Mean and percentiles as numpy interpolates them."""
    p50, p90, p99 = np.percentile(tokens, (50, 90, 99)).tolist()
    return {"mean": float(tokens.mean()), "p50": p50, "p90": p90, "p99": p99, "max": int(tokens.max())}


def windows(span_s: float) -> list[int]:
    """Those of WINDOWS_S of which the span holds enough."""
    return [window_s for window_s in WINDOWS_S if span_s >= LEAST_WINDOWS * window_s]


def dispersion(arrival_s: Floats, window_s: float) -> float:
    """Variance over mean of the counts in whole windows from the first arrival on; 1 for a Poisson process."""
    since_s = arrival_s - arrival_s[0]
    whole = int(since_s[-1] // window_s)
    # Only windows with arrivals are counted one by one: a sparse trace may have billions without.
    place = (since_s // window_s).astype(np.int64)
    counts = np.unique_counts(place[place < whole]).counts
    mean = counts.sum() / whole
    return float(((counts**2).sum() / whole - mean**2) / mean)


def rank_correlation(a: Ints, b: Ints) -> float | None:
    """Spearman's: the correlation of ranks, tied values sharing their mean rank; None where one is constant."""
    ranks: list[Floats] = []
    for column in (a, b):
        _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    if not (np.ptp(ranks[0]) and np.ptp(ranks[1])):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def reuse(trace: Trace) -> float:
    """The share of prompt tokens in leading blocks that earlier prompts had, with an endless cache."""
    if trace.hash_ids is None:
        return 0.0
    endless = sum(map(len, trace.hash_ids))
    return _reusable(trace, leading_runs(trace.hash_ids, endless)) / int(trace.prompt_tokens.sum())


def _prefix(trace: Trace) -> dict[str, Any]:
    assert trace.hash_ids is not None and trace.hash_block_tokens is not None
    block, prompt = trace.hash_block_tokens, int(trace.prompt_tokens.sum())
    ids = sum(map(len, trace.hash_ids))
    distinct = len(set().union(*trace.hash_ids))
    run = leading_runs(trace.hash_ids, distinct)
    reusable = _reusable(trace, run)
    by_cache = {size: _reusable(trace, leading_runs(trace.hash_ids, size // block)) for size in _sizes(block, distinct)}
    return {
        "block_tokens": block,
        "blocks": ids,
        "distinct_blocks": distinct,
        "block_hit_rate": float(run.sum() / ids) if ids else 0.0,
        "reusable_tokens": reusable,
        "token_hit_rate": reusable / prompt,
        "by_cache": [{"cache_tokens": size, "token_hit_rate": hit / prompt} for size, hit in by_cache.items()],
    }


def _sizes(block: int, distinct: int) -> list[int]:
    """Cache sizes in tokens, 1 or 3 times a power of ten, below what holds every block of the trace."""
    steps = (step * 10**power for power in range(2, 13) for step in (1, 3))
    return [size for size in steps if 8 * block <= size < distinct * block][-MOST_CACHES:]


def leading_runs(hash_ids: tuple[tuple[int, ...], ...], cache_blocks: int) -> Ints:
    """Blocks at the head of each prompt found in a cache of `cache_blocks` blocks of earlier prompts.

    The least recently used block goes first, and of one prompt the last block, as engines do; answers, and prompts
    under way at the same time, take no room here.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    found = np.zeros(len(hash_ids), dtype=np.int64)
    for request, ids in enumerate(hash_ids):
        run = 0
        for block in ids:
            if block not in cache:
                break
            run += 1
        found[request] = run
        for block in reversed(ids):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > cache_blocks:
            cache.popitem(last=False)
    return found


def _reusable(trace: Trace, run: Ints) -> int:
    """Tokens in the runs; at least one token of each prompt is left to compute, so its last block may not count."""
    block = cast(int, trace.hash_block_tokens)
    return int((np.minimum(run, (trace.prompt_tokens - 1) // block) * block).sum())
