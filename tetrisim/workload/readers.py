"""Trace files of the formats people have, read as a `Trace`; what is doubtful is refused by file and line."""

import csv
import gzip
import io
import json
import os
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

import numpy as np
from numpy.typing import NDArray

from tetrisim.errors import TraceError, nearest_name, unknown_name
from tetrisim.workload.generator import MAX_TOKENS
from tetrisim.workload.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK_ROWS = 100_000
"""Rows held as text at a time; keeps a file of millions of rows from filling the memory."""

MAX_SPAN_S = 1e9
"""Thirty years, as for a horizon: a longer trace is in another unit."""

Columns = tuple[str, str, str]
"""The names of the time, prompt and output columns, in this order."""
COLUMNS: dict[str, Columns] = {
    "azure": ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    "burstgpt": ("Timestamp", "Request tokens", "Response tokens"),
    "csv": ("timestamp", "input_length", "output_length"),
    "mooncake": ("timestamp", "input_length", "output_length"),
}
DERIVED = {"burstgpt": ("Total tokens",), "mooncake": ("hash_ids", "block_tokens")}
"""Further columns whose content a `Trace` keeps."""

_POWERS = tuple(2**power for power in range(13))
BLOCKS = ((512, False), (16, True), *((size, True) for size in _POWERS), *((size, False) for size in _POWERS))
"""(tokens, whether full blocks only) of a hash id, in the order in which they are tried: Mooncake's, vLLM's, others."""


@dataclass(frozen=True, slots=True)
class _File:
    """What error messages need: the file's name, the line of its first row, and its column names."""

    path: str
    first_line: int
    columns: Columns

    def error(self, row: int, what: str, expected: str = "", nearest: str = "") -> TraceError:
        """An error at a row counted from 0."""
        return TraceError(f"{self.path}:{self.first_line + row}", what, expected, nearest)


def read(path: str | os.PathLike[str], format: str = "auto") -> Trace:
    """The requests of a trace file (plain or gzipped), the first at 0 s; times in the unit of the format.

    "auto" decides by the first line. Raises TraceError with the file and line of the first fault.
    """
    if format not in ("auto", *READERS):
        raise unknown_name(TraceError, "workload.format", format, ["auto", *READERS])
    name = os.fspath(path)
    return READERS[detect(name) if format == "auto" else format](name)


def detect(path: str | os.PathLike[str]) -> str:
    """The format that a trace file's first line belongs to."""
    name = os.fspath(path)
    with _opened(name) as text:
        return _format_of(name, text.readline())


def other_columns(path: str | os.PathLike[str], format: str) -> tuple[str, ...]:
    """The columns (keys of the first line) of a file that `read` leaves aside, in the order of the file."""
    name = os.fspath(path)
    with _opened(name) as text:
        line = text.readline()
        names = _header(line) if format != "mooncake" else _record(_File(name, 1, COLUMNS[format]), 0, line)
    known = {*COLUMNS[format], *DERIVED.get(format, ())}
    return tuple(column for column in names if column not in known)


def read_azure(path: str) -> Trace:
    """Azure LLM inference trace; TIMESTAMP is UTC text with up to 100 ns digits."""
    file = _File(path, 2, COLUMNS["azure"])
    chunks = [(_datetimes(file, row, chunk[0]), *_tokens(file, row, chunk)) for row, chunk in _csv_chunks(file)]
    stamps, prompt, output = (np.concatenate(column) for column in zip(*chunks, strict=True))
    # Subtract as integers: as float64 seconds since 1970 the digits below a microsecond would be lost.
    time_s = (stamps - stamps[0]).astype("timedelta64[ns]").astype(np.int64) / 1e9
    return _checked(file, time_s, prompt, output)


def read_csv(path: str) -> Trace:
    """CSV with the columns timestamp, input_length, output_length; timestamp in SECONDS."""
    file = _File(path, 2, COLUMNS["csv"])
    return _checked(file, *_numeric_csv(file))


def read_burstgpt(path: str) -> Trace:
    """BurstGPT; Timestamp in SECONDS.

    Rows with zero response tokens are documented as failed requests that carry no work: they are left out,
    with a warning that counts them.
    """
    file = _File(path, 2, COLUMNS["burstgpt"])
    time_s, prompt, output = _numeric_csv(file)
    _check_times(file, time_s)
    worked = np.flatnonzero(output != 0)
    if failed := len(output) - len(worked):
        if not len(worked):
            raise TraceError(path, "every row has zero response tokens (a failure)", "a request that was served")
        warnings.warn(f"{path}: {failed} failed rows (zero response tokens) left out", stacklevel=3)
    return _checked(file, time_s[worked], prompt[worked], output[worked], worked)


def read_mooncake(path: str) -> Trace:
    """Mooncake JSONL; timestamp in MILLISECONDS, hash_ids (optional) one per block of the prompt.

    The block size is what the first line's `block_tokens` states, else what the lengths say: 512 tokens with a
    part-filled last block (Mooncake's own), else 16 tokens and full blocks only, else the smallest power of two
    that fits every line; anything else is refused.
    """
    file = _File(path, 1, COLUMNS["mooncake"])
    chunks: list[tuple[Floats, Floats, Floats]] = []
    ids: list[Any] = []
    stated: Any = None
    for row, records in _json_chunks(file):
        stated = stated if row else records[0].get("block_tokens")
        columns = [[record[name] for record in records] for name in file.columns]
        chunks.append((_numbers(file, row, 0, columns[0]), *_tokens(file, row, columns)))
        ids.extend(record.get("hash_ids") for record in records)
    time_ms, prompt, output = (np.concatenate(column) for column in zip(*chunks, strict=True))
    trace = _checked(file, time_ms / 1e3, prompt, output)
    if all(blocks is None for blocks in ids):
        return trace
    hash_ids = _hash_ids(file, ids)
    block = _block_tokens(file, trace.prompt_tokens, hash_ids, stated)
    return Trace(trace.name, trace.arrival_s, trace.prompt_tokens, trace.output_tokens, hash_ids, block)


READERS: dict[str, Callable[[str], Trace]] = {
    "azure": read_azure,
    "mooncake": read_mooncake,
    "burstgpt": read_burstgpt,
    "csv": read_csv,
}


@contextmanager
def _opened(path: str) -> Generator[TextIO, None, None]:
    """The file as text, unzipped if it is gzipped; what goes wrong while it is open becomes a TraceError."""
    try:
        with open(path, "rb") as raw:
            zipped = raw.peek(2)[:2] == b"\x1f\x8b"
            plain = gzip.GzipFile(fileobj=raw) if zipped else raw
            with io.TextIOWrapper(plain, encoding="utf-8-sig", newline="") as text:
                yield text
    except IsADirectoryError:
        raise TraceError(path, "is a directory", "a trace file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise TraceError(path, f"broken gzip file ({problem})", "a whole .gz file") from None
    except UnicodeDecodeError:
        raise TraceError(path, "is not text", "CSV or JSON lines in UTF-8, plain or gzipped") from None
    except csv.Error as problem:
        raise TraceError(path, f"is not CSV ({problem})", "comma-separated values") from None
    except OSError as problem:
        raise TraceError(path, f"cannot be read ({problem.strerror or problem})", "a readable file") from None


def _format_of(path: str, line: str) -> str:
    """The format a first line belongs to; the nearest CSV format if only some columns are there."""
    if not line.strip():
        raise TraceError(f"{path}:1", "the file is empty or starts with a blank line", "a header or a JSON object")
    if line.lstrip().startswith("{"):
        return "mooncake"
    header = _header(line)
    shared = {kind: len(set(header) & set(COLUMNS[kind])) for kind in ("azure", "burstgpt", "csv")}
    kind = max(shared, key=lambda kind: shared[kind])
    if not shared[kind]:
        known = "; ".join(f"{kind}: {', '.join(COLUMNS[kind])}" for kind in shared)
        raise TraceError(f"{path}:1", f"unknown header {line.strip()[:60]!r}", f"JSON lines, or columns {known}")
    return kind


def _header(line: str) -> list[str]:
    return [name.strip() for row in csv.reader([line]) for name in row]


def _csv_chunks(file: _File) -> Iterator[tuple[int, list[Sequence[str]]]]:
    """(first row, [time, prompt, output] as text) of up to CHUNK_ROWS rows at a time; every row is whole."""
    with _opened(file.path) as text:
        header = _header(text.readline())
        for name in file.columns:
            if header.count(name) != 1:
                what = f"missing column '{name}'" if name not in header else f"column '{name}' appears twice"
                expected = "columns " + ", ".join(file.columns)
                raise TraceError(f"{file.path}:1", what, expected, nearest_name(name, set(header) - {name}))
        wanted = [header.index(name) for name in file.columns]
        reader, row = csv.reader(text), 0
        while rows := list(islice(reader, CHUNK_ROWS)):
            if set(map(len, rows)) != {len(header)}:
                rows = _whole_rows(file, row, rows, len(header), reader)
            columns = list(zip(*rows, strict=True))
            if columns:
                yield row, [columns[i] for i in wanted]
            row += len(rows)
        if row == 0:
            raise TraceError(f"{file.path}:2", "the file has no rows", "at least one request")


def _whole_rows(
    file: _File, row: int, rows: list[list[str]], fields: int, rest: Iterator[list[str]]
) -> list[list[str]]:
    """The rows without blank ones at the end of the file; any other row of a wrong width is refused."""
    bad = next(i for i, fields_of_row in enumerate(rows) if len(fields_of_row) != fields)
    if not any(rows[bad:]) and not any(rest):
        return rows[:bad]
    what = f"{len(rows[bad])} fields" if rows[bad] else "blank line"
    raise file.error(row + bad, what, f"{fields} fields, as in the header")


def _json_chunks(file: _File) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(first row, records) of up to CHUNK_ROWS lines at a time; every record has the columns of the file."""
    with _opened(file.path) as text:
        row = 0
        while lines := list(islice(text, CHUNK_ROWS)):
            blank_end = len(lines) < CHUNK_ROWS
            while blank_end and lines and not lines[-1].strip():
                lines.pop()
            records = [_record(file, row + i, line) for i, line in enumerate(lines)]
            if records:
                yield row, records
            row += len(lines)
        if row == 0:
            raise TraceError(f"{file.path}:1", "the file is empty", "at least one request")


def _record(file: _File, row: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise file.error(row, f"not JSON: {line.strip()[:60]!r}", "one JSON object a line") from None
    if not isinstance(record, dict):
        raise file.error(row, f"not an object: {line.strip()[:60]!r}", "one JSON object a line")
    for name in file.columns:
        if name not in record:
            known = "keys " + ", ".join(file.columns)
            raise file.error(
                row,
                f"missing key '{name}'",
                known,
                nearest_name(name, map(str, cast(dict[str, Any], record))),
            )
    return cast(dict[str, Any], record)


def _numeric_csv(file: _File) -> tuple[Floats, Floats, Floats]:
    chunks = [(_numbers(file, row, 0, chunk[0]), *_tokens(file, row, chunk)) for row, chunk in _csv_chunks(file)]
    time_s, prompt, output = (np.concatenate(column) for column in zip(*chunks, strict=True))
    return time_s, prompt, output


def _numbers(file: _File, row: int, column: int, values: Sequence[Any]) -> Floats:
    """A column as finite numbers; only when that fails is the bad row looked for."""
    try:
        found = np.fromiter(map(float, values), np.float64, len(values))
        bad = np.flatnonzero(~np.isfinite(found))
    except (ValueError, TypeError, OverflowError):
        found, bad = np.empty(0), [next(i for i, value in enumerate(values) if not _is_number(value))]
    if len(bad):
        name = file.columns[column]
        raise file.error(row + int(bad[0]), f"{name} is {values[bad[0]]!r}", "a number")
    return found


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def _tokens(file: _File, row: int, columns: Sequence[Sequence[Any]]) -> tuple[Floats, Floats]:
    return _numbers(file, row, 1, columns[1]), _numbers(file, row, 2, columns[2])


def _datetimes(file: _File, row: int, values: Sequence[str]) -> NDArray[np.datetime64]:
    """UTC text to nanoseconds; a zone is accepted only if it says UTC."""
    texts = [value.strip().removesuffix("Z").removesuffix("+00:00") for value in values]
    found = _datetimes_or_none(texts)
    if found is None:
        bad = next(i for i, text in enumerate(texts) if _datetimes_or_none([text]) is None)
        expected = "a UTC time such as 2023-11-16 18:17:03.9799600"
        raise file.error(row + bad, f"{file.columns[0]} is {values[bad]!r}", expected)
    return found


def _datetimes_or_none(texts: list[str]) -> NDArray[np.datetime64] | None:
    # numpy drops a zone such as +02:00 with no more than a warning, and reads "2023" and "NaT" as times
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = np.array(texts, dtype="datetime64[ns]")
    except (ValueError, Warning):
        return None
    whole = min(map(len, texts)) >= len("2023-11-16 18:17:03")
    return found if whole and not np.isnat(found).any() else None


def _check_times(file: _File, time_s: Floats, rows: Ints | None = None) -> None:
    """Times must not be negative nor go back."""
    negative = np.flatnonzero(time_s < 0)
    back = np.flatnonzero(np.diff(time_s) < 0) + 1
    if len(negative) and file.columns[0] != COLUMNS["azure"][0]:
        raise file.error(int(negative[0]), f"{file.columns[0]} is negative", "0 or more")
    if len(back):
        raise file.error(int(back[0]), f"{file.columns[0]} is earlier than in the row before", "rows in time order")
    late = np.flatnonzero(time_s - time_s[:1] > MAX_SPAN_S)
    if len(late):
        raise file.error(int(late[0]), f"{file.columns[0]} is 30 years after the first", "a trace of at most 1e9 s")


def _checked(file: _File, time_s: Floats, prompt: Floats, output: Floats, rows: Ints | None = None) -> Trace:
    """The trace, once its times are in order and its lengths are whole and positive.

    `rows` says where each request stands in the file when some rows were left out.
    """
    if rows is None:
        _check_times(file, time_s)
    for name, column in zip(file.columns[1:], (prompt, output), strict=True):
        bad = np.flatnonzero((column < 1) | (column > MAX_TOKENS) | (column != np.floor(column)))
        if len(bad):
            row = int(bad[0] if rows is None else rows[bad[0]])
            raise file.error(row, f"{name} is {column[bad[0]]:.15g}", f"a whole number from 1 to {MAX_TOKENS}")
    name = Path(file.path).name
    return Trace(name, time_s - time_s[0], prompt.astype(np.int64), output.astype(np.int64))


def _hash_ids(file: _File, ids: list[Any]) -> tuple[tuple[int, ...], ...]:
    for row, blocks in enumerate(ids):
        if blocks is None:
            raise file.error(row, "missing key 'hash_ids'", "hash_ids in every line or in none")
        if not isinstance(blocks, list) or not {int}.issuperset(map(type, cast(list[Any], blocks))):
            raise file.error(row, f"hash_ids is {str(cast(object, blocks))[:60]}", "a list of whole numbers")
    return tuple(map(tuple, ids))


def _block_tokens(file: _File, prompt: Ints, hash_ids: tuple[tuple[int, ...], ...], stated: Any) -> int:
    """Tokens per block: as stated, else the first of BLOCKS whose number of ids every row has."""
    counts = np.fromiter(map(len, hash_ids), np.int64, len(hash_ids))
    if stated is not None and (type(stated) is not int or not 0 < stated <= MAX_TOKENS):
        raise file.error(0, f"block_tokens is {stated!r}", f"a whole number from 1 to {MAX_TOKENS}")
    sizes = BLOCKS if stated is None else ((stated, False), (stated, True))
    wrong: list[Ints] = []
    for block, full_only in sizes:
        rows = np.flatnonzero(counts != _blocks(prompt, block, full_only))
        if not len(rows):
            return block
        wrong.append(rows)
    likeliest = min(range(len(sizes)), key=lambda place: len(wrong[place]))  # it fits the most rows
    row, (block, full_only) = int(wrong[likeliest][0]), sizes[likeliest]
    kind = f"{'full ' if full_only else ''}{block}-token blocks"
    what = f"{counts[row]} hash_ids for a prompt of {prompt[row]} tokens"
    raise file.error(row, what, f"{_blocks(prompt, block, full_only)[row]}, one for each of its {kind}")


def _blocks(prompt: Ints, block: int, full_only: bool) -> Ints:
    return prompt // block if full_only else -(-prompt // block)


def tells_block(trace: Trace) -> bool:
    """Whether `read` would find the trace's block size from its lengths alone."""
    assert trace.hash_ids is not None
    try:
        found = _block_tokens(_File("", 1, COLUMNS["mooncake"]), trace.prompt_tokens, trace.hash_ids, None)
    except TraceError:
        return False
    return found == trace.hash_block_tokens
