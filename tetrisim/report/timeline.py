"""A run as a file for ui.perfetto.dev, in the trace-event format (JSON).

Each instance is a process with a track of its steps, a track of the KV it sends, and counters of its queue and its
memory. An arrow follows a request through the steps that prefill it, its transfer, and its first and last decode.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tetrisim import __version__
from tetrisim.cluster.steplog import Step, StepLog
from tetrisim.simulate import Result

Event = dict[str, Any]
Track = dict[str, int]

_FIRST = {"M": 0, "X": 1, "s": 2, "t": 2, "i": 3, "C": 3}
"""At one moment a slice comes before the arrows that hang on it."""


def save_timeline(path: Path, result: Result, log: StepLog) -> int:
    """Write the events, one a line; returns the size in bytes."""
    about = {"tetrisim": __version__, "system": result.scenario.system, "seed": result.scenario.seed}
    lines = ",\n".join(json.dumps(event, separators=(",", ":"), allow_nan=False) for event in events(result, log))
    # Perfetto knows the format by the first characters.
    text = f'{{"traceEvents":[\n{lines}\n],\n"displayTimeUnit":"ms","otherData":{json.dumps(about)}}}\n'
    path.write_text(text)
    return len(text)


def events(result: Result, log: StepLog) -> list[Event]:
    """All events in order of time; `ts` and `dur` are microseconds, to the nanosecond."""
    sends = list(_transfers(result, log))
    steps = list(_slices(log, result.simulated_s))
    found = [*_names(result, sends), *steps, *sends, *_counters(log), *_flips(result, log)]
    found += _arrows(log, sends)
    return sorted(found, key=lambda event: (event.get("ts", -1.0), _FIRST[event["ph"]]))


def _track(instance: int, sends: bool = False) -> Track:
    return {"pid": instance + 1, "tid": 2 * instance + 1 + sends}


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 3)


def _span(start_s: float, end_s: float) -> dict[str, float]:
    # Both ends are rounded, not the length, so that slices that follow each other never overlap.
    return {"ts": _us(start_s), "dur": round(_us(end_s) - _us(start_s), 3)}


def _names(result: Result, sends: list[Event]) -> Iterator[Event]:
    """What the tracks are called, instances in their own order."""
    senders = {send["tid"] for send in sends}
    for number, name in enumerate(result.instance_columns["instance"].tolist()):
        steps, out = _track(number), _track(number, sends=True)
        yield {"ph": "M", "name": "process_name", **steps, "args": {"name": name}}
        yield {"ph": "M", "name": "process_sort_index", **steps, "args": {"sort_index": number}}
        yield {"ph": "M", "name": "thread_name", **steps, "args": {"name": "steps"}}
        if out["tid"] in senders:
            yield {"ph": "M", "name": "thread_name", **out, "args": {"name": "KV sent"}}


def _slices(log: StepLog, until_s: float) -> Iterator[Event]:
    """The steps; one that a horizon cut off ends there."""
    for step in log.steps:
        args: dict[str, Any] = {}
        if step.prefills:
            args["prefill"] = [
                {"request": request, "tokens": tokens, "after": done} for request, tokens, done in step.prefills
            ]
        if step.decodes:
            args |= {"decode": list(step.decodes), "context_tokens": step.context_tokens}
        span = _span(step.start_s, min(step.end_s, until_s))
        yield {"ph": "X", "name": _title(step), **span, **_track(step.instance), "args": args}


def _title(step: Step) -> str:
    """As in `prefill 512 + decode 7`: tokens, and sequences."""
    parts = [f"prefill {sum(tokens for _, tokens, _ in step.prefills)}"] if step.prefills else []
    return " + ".join([*parts, f"decode {len(step.decodes)}"] if step.decodes else parts)


def _transfers(result: Result, log: StepLog) -> Iterator[Event]:
    """The KV on its way, on the track of its sender; it sends to one at a time."""
    rows = result.request_columns
    number = {name: place for place, name in enumerate(result.instance_columns["instance"].tolist())}
    for place in np.flatnonzero(~np.isnan(rows["transfer_start_s"])).tolist():
        start, request = float(rows["transfer_start_s"][place]), int(rows["request_id"][place])
        if not log.covers(start) or not (log.requests is None or request in log.requests):
            continue
        end = float(np.nan_to_num(rows["transfer_end_s"][place], nan=result.simulated_s))
        yield {
            "ph": "X", "name": f"KV of request {request}", **_span(start, end),
            **_track(number[rows["prefill_instance"][place]], sends=True),
            "args": {"request": request, "tokens": int(rows["prompt_tokens"][place])},
        }  # fmt: skip


def _counters(log: StepLog) -> Iterator[Event]:
    """Waiting requests and KV blocks, where they change."""
    last: dict[int, tuple[float, int, int]] = {}
    kept: dict[tuple[int, float], tuple[int, int]] = {}
    for held in log.holdings:
        kept[held.instance, held.at_s] = held.waiting, held.kv_blocks  # of one moment the last counts
    for (instance, at_s), (waiting, blocks) in kept.items():
        before = last.get(instance, (0.0, -1, -1))
        here = {"ph": "C", "ts": _us(at_s), **_track(instance)}
        if waiting != before[1]:
            yield {**here, "name": "waiting", "args": {"requests": waiting}}
        if blocks != before[2]:
            yield {**here, "name": "KV", "args": {"blocks": blocks}}
        last[instance] = at_s, waiting, blocks


def _flips(result: Result, log: StepLog) -> Iterator[Event]:
    """A mark where an instance changes its role."""
    flips, names = result.flip_columns, result.instance_columns["instance"].tolist()
    for name, role, at_s in zip(flips["instance"], flips["role"], flips["flip_s"].tolist(), strict=True):
        if log.covers(at_s):
            yield {"ph": "i", "s": "p", "name": f"turns to {role}", "ts": _us(at_s), **_track(names.index(name))}


def _arrows(log: StepLog, sends: Iterable[Event]) -> Iterator[Event]:
    """For each request an arrow along its slices: those that prefill it, its transfer, its first and last decode."""
    stops: dict[int, list[tuple[float, Track]]] = {}
    last: dict[int, tuple[float, Track]] = {}
    decoded: set[int] = set()
    for step in log.steps:
        here = _us(step.start_s), _track(step.instance)
        for request, _, _ in step.prefills:
            stops.setdefault(request, []).append(here)
        for request in step.decodes:
            if request not in decoded:
                stops.setdefault(request, []).append(here)
                decoded.add(request)
            else:
                last[request] = here
    for request, here in last.items():
        stops[request].append(here)
    for send in sends:
        here = send["ts"], {"pid": send["pid"], "tid": send["tid"]}
        stops.setdefault(send["args"]["request"], []).append(here)
    for request, places in stops.items():
        if len(places) < 2 or not (log.requests is None or request in log.requests):
            continue
        # The last stop is a "t", too: versions of Perfetto do not agree on which slice an "f" hangs.
        for phase, (ts, track) in zip("s" + "t" * len(places), sorted(places, key=lambda at: at[0]), strict=False):
            yield {"ph": phase, "cat": "request", "name": "request", "id": request, "ts": ts, **track}
