"""A `Trace` as a file of any format that `readers.py` reads, and what that format cannot hold."""

import gzip
import io
import json
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tetrisim.errors import OutputError, TraceError, unknown_name
from tetrisim.workload.readers import COLUMNS, tells_block
from tetrisim.workload.trace import Trace

Floats = NDArray[np.float64]

AZURE_DAY = "1970-01-01"
"""A trace counts from its first request; Azure's format wants a date."""


@contextmanager
def new_file(path: Path) -> Generator[Path, None, None]:
    """A temporary name beside `path` to write to; it takes that name at the end, or vanishes.

    Raises OutputError when there is something called `path` already, or the disk refuses.
    """
    _check_free(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        _check_free(path)
        partial.rename(path)
    except OSError as error:
        raise OutputError(str(path), f"cannot write: {error.strerror or error}", "a writable file") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _check_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        names = (path.with_name(f"{path.name.partition('.')[0]}-{n}{''.join(path.suffixes)}") for n in range(2, 10**6))
        free = next(name for name in names if not name.exists())
        raise OutputError(str(path), "exists already", "a file that is not there yet", str(free))


def write(trace: Trace, path: str | os.PathLike[str], format: str) -> None:
    """Write a new file in a format, gzipped where the name ends in .gz; `losses` tells what it leaves out."""
    if format not in WRITERS:
        raise unknown_name(TraceError, "format", format, WRITERS)
    with new_file(Path(path)) as partial, open(partial, "wb") as raw:
        # Neither a name nor a time in the gzip header: the same trace gives the same bytes.
        zipped = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if Path(path).suffix == ".gz" else raw
        with zipped, io.TextIOWrapper(zipped, encoding="utf-8", newline="") as text:
            text.writelines(WRITERS[format](trace))


def losses(trace: Trace, format: str) -> list[str]:
    """What of the trace a file of the format does not hold, a sentence each."""
    lost: list[str] = []
    if trace.hash_ids is not None and format != "mooncake":
        ids = sum(map(len, trace.hash_ids))
        lost.append(
            f"the hash ids of {ids} blocks of {trace.hash_block_tokens} tokens: no two prompts share a prefix any more"
        )
    if format == "azure":
        lost.append(f"the date: the times count from {AZURE_DAY} 00:00:00, when the first request arrives")
        worst_s = float(np.abs(_hundred_ns(trace.arrival_s) / 1e7 - trace.arrival_s).max())
        if worst_s > 1e-9:
            lost.append(f"digits of time below 100 ns (at most {worst_s * 1e9:.0f} ns off)")
    return lost


def _csv(trace: Trace) -> Iterator[str]:
    yield ",".join(COLUMNS["csv"]) + "\n"
    for row in zip(*_columns(trace), strict=True):
        yield "{!r},{},{}\n".format(*row)


def _burstgpt(trace: Trace) -> Iterator[str]:
    yield ",".join((*COLUMNS["burstgpt"], "Total tokens")) + "\n"
    for time_s, prompt, output in zip(*_columns(trace), strict=True):
        yield f"{time_s!r},{prompt},{output},{prompt + output}\n"


def _azure(trace: Trace) -> Iterator[str]:
    yield ",".join(COLUMNS["azure"]) + "\n"
    stamps = np.datetime64(AZURE_DAY, "ns") + (_hundred_ns(trace.arrival_s) * 100).astype("timedelta64[ns]")
    for stamp, prompt, output in zip(np.datetime_as_string(stamps).tolist(), *_columns(trace)[1:], strict=True):
        yield f"{stamp[:-2].replace('T', ' ')},{prompt},{output}\n"  # seven digits, as Azure has


def _mooncake(trace: Trace) -> Iterator[str]:
    # Whole nanoseconds where those are the time to its last binary digit: 52.0001, not 52.000099999999996.
    short = np.round(trace.arrival_s * 1e3, 6)
    near = np.abs(short / 1e3 - trace.arrival_s) <= np.spacing(trace.arrival_s)
    time_ms = np.where(near, short, trace.arrival_s * 1e3).tolist()
    _, prompt, output = _columns(trace)
    stated = trace.hash_block_tokens if trace.hash_ids is not None and not tells_block(trace) else None
    for row, ms in enumerate(time_ms):
        record: dict[str, object] = {
            "timestamp": int(ms) if ms.is_integer() else ms,
            "input_length": prompt[row],
            "output_length": output[row],
        }
        if trace.hash_ids is not None:
            record["hash_ids"] = trace.hash_ids[row]
        if stated is not None and row == 0:
            record["block_tokens"] = stated
        yield json.dumps(record) + "\n"


def _columns(trace: Trace) -> tuple[list[float], list[int], list[int]]:
    return trace.arrival_s.tolist(), trace.prompt_tokens.tolist(), trace.output_tokens.tolist()


def _hundred_ns(arrival_s: Floats) -> NDArray[np.int64]:
    return np.rint(arrival_s * 1e7).astype(np.int64)


WRITERS: dict[str, Callable[[Trace], Iterator[str]]] = {
    "azure": _azure,
    "mooncake": _mooncake,
    "burstgpt": _burstgpt,
    "csv": _csv,
}
"""Format -> its file as text, piece by piece."""
