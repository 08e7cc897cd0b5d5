"""Readers of measured runs: rows as CSV, the JSON of `vllm bench serve`, or a recorded case of engine steps.

CSV: request_id, input_length, output_length, first_token_s, last_token_s, and client_arrival_s or queued_s (or only
planned_arrival_s); scheduled_s where known. An empty time is one that never came. Beside it, where there are such
files: meta.json or config.json (engine settings), requests.jsonl.gz (hash ids of the prompts' blocks).

JSON: what `vllm bench serve --save-result --save-detailed` writes. All of its times are the client's, so network and
tokenizing are in them, and they are replayed as they came even where the client held requests back.
"""

import csv
import json
from io import StringIO
from math import isfinite, nan
from pathlib import Path
from typing import Any, cast

from tetrisim.errors import TraceError, nearest_name
from tetrisim.validation.case import Case, read_case
from tetrisim.validation.measured import ClockName, Draft, Measured, Row, finish

REQUIRED = ("input_length", "output_length", "first_token_s", "last_token_s")
ARRIVALS = ("client_arrival_s", "planned_arrival_s", "queued_s")
DETAILED = ("input_lens", "output_lens", "ttfts", "itls", "start_times", "errors")
SETTINGS = {
    "max_num_seqs": "max_num_seqs", "max_num_batched_tokens": "max_num_batched_tokens", "kv_blocks": "kv_blocks",
    "tensor_parallel_size": "tensor_parallel", "block_size": "block_tokens", "enable_prefix_caching": "prefix_caching",
    "async_scheduling": "async_scheduling",
}  # fmt: skip
"""What vLLM calls a setting -> what a pool of ours calls it."""


def read_measured(path: Path, clock: ClockName = "auto") -> Measured:
    """The measured run in a file, or in the folder of a recorded case; TraceError with file and row."""
    if path.is_dir():
        rows = path / "requests.csv"
        return finish(_rows(rows) if rows.is_file() else _case(path), clock)
    text = _text(path)
    return finish(_bench(path, text) if text.lstrip().startswith("{") else _rows(path, text), clock)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        expected = "rows as CSV, the JSON of `vllm bench serve`, or the folder of a recorded case"
        raise TraceError(str(path), f"cannot be read: {reason}", expected) from None


def _rows(path: Path, text: str | None = None) -> Draft:
    reader = csv.DictReader(StringIO(_text(path) if text is None else text, newline=""))
    columns = list(reader.fieldnames or [])
    for column in REQUIRED:
        if column not in columns:
            expected = f"columns {', '.join(REQUIRED)}, and one of {', '.join(ARRIVALS)}"
            raise TraceError(f"{path}:1", f"column '{column}' is missing", expected, nearest_name(column, columns))
    if not set(columns) & set(ARRIVALS):
        raise TraceError(f"{path}:1", "no column says when requests arrived", "one of " + ", ".join(ARRIVALS))
    client = "client_arrival_s" if "client_arrival_s" in columns else "planned_arrival_s"
    if client not in columns:
        client = ""
    rows: list[Row] = []
    seen: dict[int, str] = {}
    for line, fields in enumerate(reader, 2):
        row = _row(f"{path}:{line}", len(rows), fields, client)
        if row.number in seen:
            raise TraceError(row.where, f"request_id {row.number} is there twice", f"one row each ({seen[row.number]})")
        seen[row.number] = row.where
        rows.append(row)
    if not rows:
        raise TraceError(f"{path}:2", "the file has no rows", "at least one request")
    draft = Draft(path, "request rows", rows, settings=_settings(path.parent))
    if client == "planned_arrival_s" and "queued_s" not in columns:
        draft.notes.append("only planned arrivals were recorded: how late they really came is in TTFT and E2EL")
    if any(path.parent.glob("iterations.jsonl*")) and (path.parent / "config.json").is_file():
        _add_ids(draft, read_case(path.parent))
    return draft


def _row(where: str, place: int, fields: dict[str | None, Any], client: str) -> Row:
    if None in fields or None in fields.values():
        raise TraceError(where, "has not one value a column", "as many as in the header")

    def number(column: str, empty: bool) -> float:
        text = str(fields.get(column, "")).strip()
        if not text and (empty or column not in fields):
            return nan
        try:
            value = float(text)
        except ValueError:
            value = nan
        if not isfinite(value):
            raise TraceError(where, f"{column} is '{text}'", "a number")
        return value

    identity = number("request_id", True)
    return Row(
        where, int(identity) if isfinite(identity) else place,
        number("input_length", False), number("output_length", False),
        number(client, True) if client else nan, number("queued_s", True), number("scheduled_s", True),
        number("first_token_s", True), number("last_token_s", True),
    )  # fmt: skip


def _settings(folder: Path) -> dict[str, Any]:
    """Engine settings from meta.json or config.json, in our words; vLLM's null block is not counted."""
    found: dict[str, Any] = {}
    for name in ("meta.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            meta: Any = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise TraceError(str(path), f"cannot be read ({error})", "engine settings as JSON") from None
        flat = {**meta, **meta.get("engine_kwargs", {})} if isinstance(meta, dict) else {}
        found |= {ours: flat[theirs] for theirs, ours in SETTINGS.items() if flat.get(theirs) is not None}
        blocks = flat.get("num_gpu_blocks") or flat.get("num_gpu_blocks_override")
        if isinstance(blocks, int):
            found["kv_blocks"] = blocks - 1
    return found


def _case(folder: Path) -> Draft:
    """A recorded case; a request is scheduled when the first step that holds it starts."""
    case = read_case(folder)
    begun: dict[int, float] = {}
    for step in case.iterations:
        for number, _, _ in step["batch"]:
            begun.setdefault(number, step["start_s"])
    rows: list[Row] = []
    for line, row in enumerate(case.requests, 1):
        number, where = row["request_id"], f"{folder / 'requests.jsonl'}:{line}"
        times = [row.get(key) for key in ("submit_s", "first_token_s", "last_token_s")]
        queued, first, last = (nan if time is None else float(time) for time in times)
        client = row["timestamp"] / 1e3 if "timestamp" in row else nan
        rows.append(Row(where, number, row["input_length"], row["output_length"],
                        client, queued, begun.get(number, nan), first, last))  # fmt: skip
    draft = Draft(folder, "recorded case", rows, settings=_settings(folder))
    _add_ids(draft, case)
    return draft


def _add_ids(draft: Draft, case: Case) -> None:
    if case.config["enable_prefix_caching"]:
        draft.hash_ids = {row["request_id"]: tuple(row["hash_ids"]) for row in case.requests}


def _bench(path: Path, text: str) -> Draft:
    """`vllm bench serve`: ttfts and itls from when the client sent the request; E2EL is their sum, or `latencies`."""
    try:
        read: Any = json.loads(text)
    except ValueError as error:
        raise TraceError(str(path), f"is not JSON ({error})", "the result of `vllm bench serve`") from None
    record = cast("dict[str, Any]", read)
    for key in DETAILED:
        if key not in record:
            hint = "a result saved with --save-result --save-detailed"
            raise TraceError(str(path), f"key '{key}' is missing", hint, nearest_name(key, record))
    columns = {key: cast("list[Any]", record[key]) for key in DETAILED}
    sizes = {key: len(column) for key, column in columns.items()}
    if len(set(sizes.values())) != 1:
        raise TraceError(str(path), f"lists of different lengths: {sizes}", "one entry a request in each")
    latencies: list[Any] | None = record.get("latencies")
    rows: list[Row] = []
    failed: list[str] = []
    for place, values in enumerate(zip(*columns.values(), strict=True)):
        prompt, output, ttft, itl, start, problem = values
        if problem or (not output and not ttft):
            failed.append(str(place))
            continue
        whole = float(latencies[place]) if latencies else ttft + sum(itl)
        where = f"{path}: request {place}"
        rows.append(Row(where, place, prompt, output, start, first=start + ttft, last=start + max(whole, ttft)))
    draft = Draft(path, "vllm bench serve", rows, skipped=len(failed))
    if not rows:
        raise TraceError(str(path), f"all {len(failed)} requests failed", "requests that were served")
    if failed:
        names = ", ".join(failed[:5]) + (", ..." if len(failed) > 5 else "")
        draft.notes.append(
            f"{len(failed)} failed requests ({names}) left out and not replayed: what load they were is unknown"
        )
    if record.get("max_concurrency"):
        draft.notes.append(
            f"the client held requests back (max_concurrency {record['max_concurrency']}): replayed at the moments "
            "they were sent, though a slower or faster engine would have been sent them at others"
        )
    draft.notes.append("all times are the client's: network, tokenizing and front end are in the measured side alone")
    return draft
