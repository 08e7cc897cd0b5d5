"""The JSON of `vllm bench serve --save-result`, by the definitions of its calculate_metrics().

TPOT: (e2el - ttft) / (output tokens - 1) of each request with more than one. ITL: all gaps of all requests, pooled.
Goodput: a request of one output token has a TPOT of 0. Rates: over the time from the first request sent to the end of
the last. A distribution of nothing is 0, as it writes. Requests that were rejected or unfinished are `failed`.

Left out, since a simulation does not have them: date, tokenizer_id, generated texts, the client's queue, the most
tokens in a second (max_output_tokens_per_s) and the lists of --save-detailed (both need the moments of single tokens).
"""

from collections.abc import Sequence

import numpy as np

from tetrisim.metrics import definitions as define
from tetrisim.metrics.definitions import Floats, Itl
from tetrisim.metrics.export import Record, Served

PERCENTS = (50.0, 90.0, 95.0, 99.0)
"""`--metric-percentiles 50,90,95,99`; vLLM's default is 99 alone."""


def vllm_record(run: Served, percents: Sequence[float] = PERCENTS) -> Record:
    """What it writes, with these percentiles of TTFT, TPOT, ITL and E2EL."""
    rows = run.rows
    seconds = define.duration(rows)
    completed = run.count("completed")
    inputs, outputs = (int(run.of_completed(column).sum()) for column in ("prompt_tokens", "output_tokens"))
    record: Record = {
        **_load(run),
        "duration": seconds,
        "completed": completed,
        "failed": len(rows["status"]) - completed,
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": define.per_second(completed, seconds),
        "request_goodput": define.goodput(rows, run.slo) if run.slo.limits else None,
        "output_throughput": define.per_second(outputs, seconds),
        "total_token_throughput": define.per_second(inputs + outputs, seconds),
        "max_concurrent_requests": _most_at_once(run),
    }
    for name, values in (("ttft", define.ttft(rows)), ("tpot", define.tpot(rows)), ("e2el", define.e2el(rows))):
        if name == "e2el" and run.itl is not None:
            record |= _statistics("itl", run.itl, percents)
        record |= _statistics(name, values, percents)
    return record


def _load(run: Served) -> Record:
    facts = dict(run.facts)
    record: Record = {"label": facts["label"]} if "label" in facts else {}
    if "model" in facts:
        record["model_id"] = facts["model"]
    record["num_prompts"] = len(run.rows["status"])
    if "rate_per_s" in facts:
        record["request_rate"] = facts["rate_per_s"]
    return record | {"max_concurrency": facts.get("concurrency")}


def _statistics(name: str, values: Floats | Itl, percents: Sequence[float]) -> Record:
    if isinstance(values, Itl):
        mean, std = values.mean or 0.0, values.std or 0.0
        at = [value or 0.0 for value in values.percentiles([50.0, *percents])]
    elif values.size:
        mean, std, at = float(values.mean()), float(values.std()), np.percentile(values, [50.0, *percents]).tolist()
    else:
        mean, std, at = 0.0, 0.0, [0.0] * (1 + len(percents))
    words = ("mean", "median", "std", *(f"p{percent:g}" for percent in percents))
    return {f"{word}_{name}_ms": value * 1e3 for word, value in zip(words, (mean, at[0], std, *at[1:]), strict=True)}


def _most_at_once(run: Served) -> int:
    """The most requests that were there at any moment of the same second, seconds counted from the first arrival."""
    start, end = run.of_completed("arrival_s"), run.of_completed("finish_s")
    if not start.size:
        return 0
    first, last = (np.floor(moments - start.min()).astype(np.int64) for moments in (start, end))
    change = np.bincount(first, minlength=int(last.max()) + 2) - np.bincount(last + 1, minlength=int(last.max()) + 2)
    return int(change.cumsum().max())
