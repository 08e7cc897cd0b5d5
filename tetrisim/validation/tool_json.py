"""The numbers that benchmark tools write of a whole run: `vllm bench serve`, AIPerf, GuideLLM."""

import json
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, cast

from tetrisim.errors import TraceError
from tetrisim.metrics.export import Format, Record

EXPECTED = "rows of requests (CSV), or the JSON of `vllm bench serve`, AIPerf or GuideLLM"
TOOLS = {"vllm": "vllm bench serve", "aiperf": "AIPerf", "guidellm": "GuideLLM"}

_VLLM = re.compile(r"(mean|median|p\d+(?:\.\d+)?)_(ttft|tpot|itl|e2el)_ms")
_VLLM_REST = {
    "duration": "duration s", "request_throughput": "requests/s", "output_throughput": "output tokens/s",
    "total_token_throughput": "tokens/s in and out", "request_goodput": "goodput req/s",
    "max_concurrent_requests": "most at once", "completed": "completed", "failed": "failed",
    "total_input_tokens": "input tokens", "total_output_tokens": "output tokens",
}  # fmt: skip
_AIPERF = ("time_to_first_token", "inter_token_latency", "inter_chunk_latency", "request_latency",
           "output_token_throughput_per_user")  # fmt: skip
_AIPERF_REST = ("benchmark_duration", "request_throughput", "output_token_throughput", "total_token_throughput",
                "request_count", "error_request_count", "total_isl", "total_osl")  # fmt: skip
_GUIDELLM = ("time_to_first_token_ms", "time_per_output_token_ms", "inter_token_latency_ms", "request_latency")
_GUIDELLM_REST = ("requests_per_second", "request_concurrency", "output_tokens_per_second", "tokens_per_second")
_STATISTICS = ("avg", "mean", "median", "p50", "p90", "p95", "p99")


class ToolResult(NamedTuple):
    """A file: which tool wrote it, and what is in it."""

    tool: Format
    record: Record


def read_tool(path: Path) -> ToolResult | None:
    """What a tool wrote; None where the file is something else than a JSON object, as rows of requests are.

    Raises TraceError for JSON that none of the tools wrote, and for a GuideLLM report of several benchmarks.
    """
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return None
    if text.lstrip().startswith("["):
        raise TraceError(str(path), "is a list", f"one run: {EXPECTED}")
    if not text.lstrip().startswith("{"):
        return None
    try:
        result = _recognized(path, cast("Record", json.loads(text)))
        known = headline(result.tool, result.record)
    except ValueError as error:
        raise TraceError(str(path), f"is not JSON ({error})", EXPECTED) from None
    except (AttributeError, TypeError):
        raise TraceError(str(path), "is not built as the tools build theirs", EXPECTED) from None
    if not known and "ttfts" not in result.record:
        raise TraceError(str(path), "holds none of their numbers", EXPECTED)
    return result


def _recognized(path: Path, record: Record) -> ToolResult:
    benchmarks = record.get("benchmarks")
    if isinstance(benchmarks, list):
        if len(cast("list[Any]", benchmarks)) != 1:
            raise TraceError(str(path), f"holds {len(cast('list[Any]', benchmarks))} benchmarks", "one of GuideLLM's")
        return ToolResult("guidellm", record)
    if any(isinstance(record.get(name), dict) for name in (*_AIPERF, *_AIPERF_REST)):
        return ToolResult("aiperf", record)
    return ToolResult("vllm", record)


def check_measured(path: Path) -> None:
    """Raise TraceError when there is no file to read."""
    if not path.exists():
        raise TraceError(str(path), "cannot be read: no such file", EXPECTED)
    read_tool(path)


def headline(tool: Format, record: Mapping[str, Any]) -> dict[str, int | float]:
    """The numbers of a record that are worth a line, by a name in the tool's own words."""
    named = {"vllm": _vllm, "aiperf": _aiperf, "guidellm": _guidellm}[tool](record)
    return {
        name: value
        for name, value in named.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    }


def percents(record: Mapping[str, Any]) -> tuple[float, ...]:
    """The percentiles that a vLLM record has."""
    found = {match[1] for key in record if (match := _VLLM.fullmatch(key)) and match[1].startswith("p")}
    return tuple(sorted(float(word[1:]) for word in found))


def vllm_name(key: str) -> str:
    """A key of vLLM as a line is named: `mean TTFT ms`."""
    match = _VLLM.fullmatch(key)
    return f"{match[1]} {match[2].upper()} ms" if match else _VLLM_REST[key]


def _vllm(record: Mapping[str, Any]) -> dict[str, Any]:
    keys = [key for key in record if _VLLM.fullmatch(key) and not key.startswith("p50_")]
    order = ("ttft", "tpot", "itl", "e2el")
    keys.sort(key=lambda key: order.index(key.split("_")[1]))  # stable: statistics as they came
    return {vllm_name(key): record.get(key) for key in (*keys, *_VLLM_REST)}


def _aiperf(record: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (*_AIPERF, *_AIPERF_REST):
        values = record.get(name)
        if isinstance(values, dict):
            of = cast("dict[str, Any]", values)
            wanted = _STATISTICS if name in _AIPERF else ("avg",)
            found |= {f"{name} {word if name in _AIPERF else ''} {of.get('unit')}": of.get(word) for word in wanted}
    return {" ".join(name.split()): value for name, value in found.items()}


def _guidellm(record: Mapping[str, Any]) -> dict[str, Any]:
    benchmark = cast("dict[str, Any]", record["benchmarks"][0])
    metrics = cast("dict[str, Any]", benchmark.get("metrics", {}))
    found: dict[str, Any] = {}
    for name in (*_GUIDELLM, *_GUIDELLM_REST):
        served = (metrics.get(name) or {}).get("successful") or {}
        flat = {**served, **(served.get("percentiles") or {})}
        wanted = [word for word in _STATISTICS if word != "p50"] if name in _GUIDELLM else ["mean"]
        unit = " s" if name == "request_latency" else ""  # the others have theirs in their names
        found |= {f"{name} {word}{unit}": flat.get(word) for word in wanted}
    found["duration s"] = benchmark.get("duration")
    for status, count in (metrics.get("request_totals") or {}).items():
        found[f"request_totals {status}"] = count
    return found
