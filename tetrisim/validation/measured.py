"""What a real engine did to each request: arrival, first and last token, checked row by row.

Nothing is dropped silently: `notes` counts and names what is left out, and why. A record that contradicts itself is
refused with file and row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite, nan
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tetrisim.errors import TraceError
from tetrisim.workload.trace import Trace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ClockName = Literal["auto", "client", "queued"]

JOINING_S = 2e-3
"""How far the clocks of client and engine may be apart after they were joined (shared/data/README.md, section 6)."""

CLOCKS = {
    "client": "TTFT and E2EL from the moment the client (or the engine's front end) saw the request",
    "queued": "TTFT and E2EL from the moment the engine core took the request, which lags by up to one step",
}


class Row(NamedTuple):
    """One request as recorded; seconds, NaN where it was not recorded. `where` is file and row."""

    where: str
    number: int
    prompt: float
    output: float
    client: float = nan
    queued: float = nan
    scheduled: float = nan
    first: float = nan
    last: float = nan


@dataclass(frozen=True, slots=True)
class Measured:
    """A measured run, in order of arrival; seconds from the start of the recording.

    `number` is the request's place in the workload. `finished` are the requests that every metric is of; the others
    load the engine too, and are replayed. `scheduled_s` is None where the record does not say; `settings` is what it
    says about the engine: kv_blocks, max_num_seqs, max_num_batched_tokens, tensor_parallel, block_tokens,
    prefix_caching, async_scheduling.
    """

    path: Path
    kind: str
    clock: str
    number: Ints
    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    first_token_s: Floats
    last_token_s: Floats
    scheduled_s: Floats | None = None
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    hash_ids: tuple[tuple[int, ...], ...] | None = None

    def __len__(self) -> int:
        return len(self.number)

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Which requests came to their last token."""
        return np.isfinite(self.last_token_s)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns that metrics/definitions.py reads."""
        return {
            "arrival_s": self.arrival_s, "first_token_s": self.first_token_s, "finish_s": self.last_token_s,
            "output_tokens": self.output_tokens, "prompt_tokens": self.prompt_tokens,
            "status": np.where(self.finished, "completed", "unfinished"),
        }  # fmt: skip

    def trace(self, hash_ids: tuple[tuple[int, ...], ...] | None, hash_block_tokens: int | None) -> Trace:
        """The same requests at the same moments, from 0 s on."""
        at = self.arrival_s - self.arrival_s[0]
        return Trace(self.path.name, at, self.prompt_tokens, self.output_tokens, hash_ids, hash_block_tokens)


@dataclass
class Draft:
    """Rows as they were read, before anything is left out."""

    path: Path
    kind: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list[str])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    hash_ids: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    skipped: int = 0
    """Requests that a reader has left out already, and noted."""


def finish(draft: Draft, clock: ClockName = "auto") -> Measured:
    """Check the rows, leave out what cannot be replayed, choose the clock, and sort by arrival."""
    rows = draft.rows
    _check_lengths(rows)
    rows = _without(draft, rows, lambda row: row.output == 0, "no output tokens, so no token to time")
    chosen, note = _clock(draft, rows, clock)
    if note:
        draft.notes.append(note)
    rows = _without(draft, rows, lambda row: not isfinite(getattr(row, chosen)), "no arrival time")
    for row in rows:
        _check_order(row, chosen)
    unfinished = [row for row in rows if not isfinite(row.last)]
    if unfinished:
        draft.notes.append(f"{_named(unfinished)} unfinished: replayed, since they load the engine, but in no metric")
    if len(unfinished) == len(rows):
        raise TraceError(str(draft.path), "no request came to its last token", "a run with finished requests")
    return _arrange(draft, rows, chosen)


def _check_lengths(rows: Sequence[Row]) -> None:
    for row in rows:
        if not row.prompt >= 1 or row.prompt % 1:
            raise TraceError(row.where, f"input length is {row.prompt:g}", "a whole number of at least 1")
        if not row.output >= 0 or row.output % 1:
            raise TraceError(row.where, f"output length is {row.output:g}", "a whole number of at least 0")


def _without(draft: Draft, rows: list[Row], wrong: Callable[[Row], bool], why: str) -> list[Row]:
    out = [row for row in rows if wrong(row)]
    if out:
        draft.notes.append(f"{_named(out)} left out: {why}")
    kept = [row for row in rows if not wrong(row)]
    if not kept:
        raise TraceError(str(draft.path), f"all {len(rows)} requests have {why}", "requests that were served")
    return kept


def _named(rows: Sequence[Row]) -> str:
    """How many, and which (the first few)."""
    names = ", ".join(str(row.number) for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
    return f"{len(rows)} {'request' if len(rows) == 1 else 'requests'} ({names})"


def _clock(draft: Draft, rows: Sequence[Row], wanted: ClockName) -> tuple[str, str]:
    """The column that times are counted from, and what has to be said about it."""
    both = [row for row in rows if isfinite(row.client) and isfinite(row.queued)]
    ahead = [row for row in both if row.client - row.queued > JOINING_S]
    has_client = any(isfinite(row.client) for row in rows)
    has_queued = any(isfinite(row.queued) for row in rows)
    if wanted != "auto" and not (has_client if wanted == "client" else has_queued):
        raise TraceError(str(draft.path), f"records no '{wanted}' times", "the other clock, or 'auto'")
    if not ahead:
        chosen = wanted if wanted != "auto" else "client" if has_client else "queued"
        if both:
            lag = 1e3 * np.array([row.queued - row.client for row in both])
            draft.notes.append(
                f"hand-over from client to engine core: {lag.min():.1f} to {lag.max():.1f} ms, mean {lag.mean():.1f} ms"
            )
        return chosen, ""
    worst = max(ahead, key=lambda row: row.client - row.queued)
    skew = f"{1e3 * (worst.client - worst.queued):.1f} ms after the engine took it, by the two clocks"
    if wanted == "client":
        raise TraceError(
            worst.where, f"the client saw the request {skew}", "clocks joined to 2 ms, or times from queued_s"
        )
    note = f"clock skew: {_named(ahead)} seen by the client up to {skew}; the engine's own clock is used"
    return "queued", note


def _check_order(row: Row, chosen: str) -> None:
    """Moments of one request follow each other; between clocks, as far as these were joined."""
    names = [chosen, *(["queued"] if chosen == "client" else []), "scheduled", "first", "last"]
    known = [(name, getattr(row, name)) for name in names if isfinite(getattr(row, name))]
    for (early, at), (late, then) in pairwise(known):
        if then < at - (JOINING_S if early == "client" else 0.0):
            hint = "clock skew between client and engine?" if early == "client" else "times of one clock in order"
            raise TraceError(row.where, f"'{late}' comes {1e3 * (at - then):.3f} ms before '{early}'", hint)
    if isfinite(row.last) and not isfinite(row.first):
        raise TraceError(row.where, "has a last token and no first one", "both, or neither for an unfinished request")
    if row.output == 1 and isfinite(row.last) and row.last - row.first > JOINING_S:
        raise TraceError(row.where, "one output token at two moments", "first and last token together")


def _arrange(draft: Draft, rows: list[Row], chosen: str) -> Measured:
    arrival = np.array([getattr(row, chosen) for row in rows])
    if (back := int((np.diff(arrival) < 0).sum())) > 0:
        draft.notes.append(f"rows not in order of arrival ({back} go back): sorted")
    rows = [rows[place] for place in np.argsort(arrival, kind="stable")]
    one = sum(row.output == 1 for row in rows)
    if one:
        draft.notes.append(f"{one} requests of one output token have no TPOT")
    scheduled = np.array([row.scheduled for row in rows])
    ids = draft.hash_ids
    return Measured(
        path=draft.path,
        kind=draft.kind,
        clock=chosen,
        number=np.array([row.number for row in rows], dtype=np.int64),
        arrival_s=np.array([getattr(row, chosen) for row in rows]),
        prompt_tokens=np.array([int(row.prompt) for row in rows], dtype=np.int64),
        output_tokens=np.array([int(row.output) for row in rows], dtype=np.int64),
        first_token_s=np.array([row.first for row in rows]),
        last_token_s=np.array([row.last for row in rows]),
        scheduled_s=scheduled if bool(np.isfinite(scheduled).all()) else None,
        notes=tuple(draft.notes),
        settings=draft.settings,
        hash_ids=tuple(ids[row.number] for row in rows) if ids and all(row.number in ids for row in rows) else None,
    )
