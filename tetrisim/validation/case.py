"""A recorded case read from its folder: configuration, requests and iterations, checked row by row."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, cast

from tetrisim.errors import TraceError
from tetrisim.textfile import read_lines

Row = dict[str, Any]

DEFAULTS: Row = {
    "policy": "fcfs", "async_scheduling": False, "chunked_prefill": True, "long_prefill_token_threshold": 0,
    "watermark": 0.0, "scheduler_reserve_full_isl": True,
}  # fmt: skip
"""What a config.json means that does not say otherwise: vLLM's defaults."""


@dataclass(frozen=True, slots=True)
class Case:
    """One case. Times in seconds from the start of the recording; requests in order of `submit_s`."""

    name: str
    config: Row
    requests: list[Row]
    iterations: list[Row]
    path: Path

    def where(self, iteration: int) -> str:
        """File and line of an iteration."""
        return f"{self.path}:{iteration + 1}"


def read_case(folder: Path) -> Case:
    """Read and check one case."""
    config = _config(folder / "config.json")
    requests = _requests(_file(folder, "requests"), config)
    path = _file(folder, "iterations")
    iterations = _iterations(path, {row["request_id"] for row in requests})
    return Case(folder.name, config, requests, iterations, path)


def _config(path: Path) -> Row:
    try:
        read: Any = json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise TraceError(str(path), f"cannot be read ({problem})", "a case's configuration as JSON") from None
    if not isinstance(read, dict):
        raise TraceError(str(path), "is not a JSON object", "a case's configuration")
    config: Row = DEFAULTS | cast("Row", read)
    for key in ("block_size", "num_gpu_blocks", "max_num_seqs", "max_num_batched_tokens"):
        _check(config, key, _positive, "a whole number above 0", str(path))
    _check(config, "long_prefill_token_threshold", _count, "a whole number", str(path))
    _check(config, "watermark", lambda value: _number(value) and 0 <= value < 1, "a fraction below 1", str(path))
    for key in ("enable_prefix_caching", "async_scheduling", "chunked_prefill", "scheduler_reserve_full_isl"):
        _check(config, key, lambda value: isinstance(value, bool), "true or false", str(path))
    _check(config, "policy", lambda value: value == "fcfs", "'fcfs', the only one simulated", str(path))
    return config


def _requests(path: Path, config: Row) -> list[Row]:
    rows: list[Row] = []
    seen: set[int] = set()
    for where, row in _rows(path):
        _check(row, "request_id", _count, "a whole number", where)
        _check(row, "submit_s", _number, "a number of seconds", where)
        _check(row, "input_length", _positive, "a whole number above 0", where)
        _check(row, "output_length", _positive, "a whole number above 0", where)
        if row["request_id"] in seen:
            raise TraceError(where, f"request_id {row['request_id']} comes a second time", "one row for each request")
        if rows and row["submit_s"] < rows[-1]["submit_s"]:
            raise TraceError(
                where, f"submit_s {row['submit_s']} after {rows[-1]['submit_s']}", "rows in order of submit_s"
            )
        if config["enable_prefix_caching"]:
            _check_hash_ids(row, row["input_length"] // config["block_size"], where)
        else:
            row.pop("hash_ids", None)
        seen.add(row["request_id"])
        rows.append(row)
    return rows


def _check_hash_ids(row: Row, needed: int, where: str) -> None:
    ids: Any = row.setdefault("hash_ids", [])
    if not (isinstance(ids, list) and all(_count(entry) for entry in cast("list[Any]", ids))):
        raise TraceError(where, f"hash_ids: {ids!r:.40}", "a list of whole numbers")
    held = len(cast("list[Any]", ids))
    if held < needed:
        raise TraceError(where, f"hash_ids: {held} of them", f"one for each of the prompt's {needed} full blocks")


def _iterations(path: Path, known: set[int]) -> list[Row]:
    rows: list[Row] = []
    for where, row in _rows(path):
        row.setdefault("i", len(rows))
        _check(row, "start_s", _number, "a number of seconds", where)
        if rows and row["start_s"] < rows[-1]["start_s"]:
            raise TraceError(where, f"start_s {row['start_s']} after {rows[-1]['start_s']}", "rows in order of start_s")
        _check(row, "batch", _is_batch, "[[request_id, tokens computed before, tokens computed now], ...]", where)
        _check(row, "preempted", _are_counts, "a list of request ids", where)
        if "blocks" in row:
            _check(row, "blocks", _are_counts, "a list of block counts", where)
        if "free_blocks" in row:
            _check(row, "free_blocks", _count, "a whole number", where)
        for number in [*(entry[0] for entry in row["batch"]), *row["preempted"]]:
            if number not in known:
                raise TraceError(where, f"unknown request_id {number}", "one of the requests of this case")
        rows.append(row)
    return rows


def _file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl"):
        if path.is_file():
            return path
    raise TraceError(str(folder), f"no {name}.jsonl.gz in it", f"{name}.jsonl.gz or {name}.jsonl beside config.json")


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(file and line, object) of each line."""
    lines = read_lines(path, TraceError, "JSON lines, plain or gzipped")
    if not lines:
        raise TraceError(str(path), "is empty", "one JSON object a line")
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        try:
            row: Any = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise TraceError(where, f"not a JSON object: {line[:60]!r}", "one JSON object a line")
        yield where, cast("Row", row)


def _check(row: Row, key: str, fits: Callable[[Any], bool], expected: str, where: str) -> None:
    if key not in row:
        raise TraceError(where, f"missing key '{key}'", expected)
    if not fits(row[key]):
        raise TraceError(where, f"{key}: {row[key]!r:.60}", expected)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _positive(value: Any) -> bool:
    return _count(value) and value > 0


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(_count(entry) for entry in cast("list[Any]", value))


def _is_batch(value: Any) -> bool:
    return isinstance(value, list) and all(_are_counts(entry) and len(entry) == 3 for entry in cast("list[Any]", value))
