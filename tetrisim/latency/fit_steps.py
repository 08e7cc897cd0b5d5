"""A profile from the log of an engine's own steps: which batch, how long (profiles/README.md, "Step logs").

What a log of whole steps can tell apart, and no more, with T new tokens over s sequences, a prefill of `chunk` tokens
over `cached` ones (several in one step count as the one with their work), and decodes over `context` cached tokens:

    t = f(T) + h(s) + pair * chunk * (cached + chunk / 2) + reread * cached + context_token * sum(context)

f and h are straight lines between knots and never fall; no coefficient is below 0. The fit is least squares on relative
errors, so that it aims at the mean step; steps far off (OUTLIER) count as if they were that far off. What a step costs
between its end and the start of the next one, while the engine has work, is the median such gap, added to every step.
Where the machine's speed was probed beside the steps (`probes`), each is first put at the usual speed.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from tetrisim.errors import ProfileError
from tetrisim.latency.attention import equivalent_prefill
from tetrisim.latency.bounds import bounds
from tetrisim.latency.check import Errors, rounded
from tetrisim.latency.grid import INTERPOLATED, between
from tetrisim.latency.importers.stage import Draft, install
from tetrisim.latency.probes import read_probes, usual_s
from tetrisim.latency.roofline import Shard
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import DTYPE_BYTES, ModelSpec
from tetrisim.textfile import read_lines

KINDS = ("prefill", "decode", "mixed")
FEWEST = 20
"""Steps of a kind below which nothing is said about it."""
MOST_KNOTS = 16
OUTLIER = 0.3
"""Relative error beyond which a step pulls no harder."""
ROUNDS = 10
HELD_OUT = 5
"""Every so-manieth batch shape is kept out for the printed errors; the written table is fitted to all."""
CHUNK_RATIO = 1.2
"""Chunks this far apart: attention grows with their square."""
KEPT = ("vllm", "package", "cpu", "cpus", "cpu_threads", "gpu", "date", "block_size", "max_num_seqs",
        "max_num_batched_tokens", "async_scheduling", "enable_prefix_caching")  # fmt: skip
"""What a profile repeats of config.json."""
LEAST_S = 1e-9
"""A table holds no zeros."""

Entry = tuple[int, int, int]
"""Request, tokens computed before, new tokens."""


@dataclass(frozen=True, slots=True)
class Step:
    """One logged step; seconds."""

    start_s: float
    duration_s: float
    batch: tuple[Entry, ...]


@dataclass(frozen=True)
class Shapes:
    """Steps as columns: what the model looks at, one entry a step."""

    tokens: np.ndarray
    sequences: np.ndarray
    chunk: np.ndarray
    cached: np.ndarray
    """The one prefill with the attention work of all pieces, as the step timer sees them (`equivalent_prefill`)."""
    decodes: np.ndarray
    context: np.ndarray
    """Cached tokens of all decodes."""

    @property
    def pairs(self) -> np.ndarray:
        """Query-key pairs of the prefill."""
        return self.chunk * (self.cached + 0.5 * self.chunk)

    @property
    def kind(self) -> np.ndarray:
        """Index into KINDS."""
        return np.where(self.decodes == 0, 0, np.where(self.sequences == self.decodes, 1, 2))


@dataclass(frozen=True)
class Fitted:
    """The coefficients, seconds; values of f and h at their knots."""

    tokens: list[int]
    linear_s: np.ndarray
    sequences: list[int]
    head_s: np.ndarray
    pair_s: float
    reread_s: float
    context_s: float

    def predict(self, shapes: Shapes) -> np.ndarray:
        """Seconds of each step."""
        line, head = _hats(shapes.tokens, self.tokens), _hats(shapes.sequences, self.sequences)[:, 1:]
        rises = np.diff(self.linear_s, prepend=0.0), np.diff(self.head_s)
        rest = self.pair_s * shapes.pairs + self.reread_s * shapes.cached + self.context_s * shapes.context
        return line @ rises[0] + head @ rises[1] + rest


def read_steps(path: Path) -> list[Step]:
    """The steps of a log: a folder with iterations.jsonl(.gz), or such a file; a bad row raises ProfileError."""
    names = ("iterations.jsonl.gz", "iterations.jsonl")
    file = next((path / name for name in names if (path / name).is_file()), path) if path.is_dir() else path
    lines = read_lines(file, ProfileError, "iterations.jsonl or iterations.jsonl.gz")
    steps = [_step(line, f"{file}:{number}") for number, line in enumerate(lines, 1)]
    return [step for step in steps if step.batch]


def _step(line: str, where: str) -> Step:
    try:
        row: Any = json.loads(line)
        batch = tuple((int(a), int(b), int(c)) for a, b, c in row["batch"])
        step = Step(float(row["start_s"]), float(row["dur_s"]), batch)
    except (ValueError, TypeError, KeyError):
        raise ProfileError(
            where, "is no step", "JSON with start_s, dur_s and batch [[request, computed before, new tokens], ...]"
        ) from None
    if not (0 < step.duration_s < float("inf")) or any(before < 0 or new < 1 for _, before, new in batch):
        raise ProfileError(where, "holds a value that cannot be", "dur_s and new tokens above 0, computed at least 0")
    return step


def shapes_of(steps: Iterable[Step]) -> Shapes:
    """What the model looks at; one new token over cached ones is a decode, all else prefill."""
    rows: list[tuple[float, ...]] = []
    for step in steps:
        pieces = [(new, before) for _, before, new in step.batch if new > 1 or before == 0]
        contexts = [before for _, before, new in step.batch if new == 1 and before > 0]
        rows.append((
            sum(new for _, _, new in step.batch), len(step.batch),
            *(equivalent_prefill(pieces) if pieces else (0.0, 0.0)),
            len(contexts), sum(contexts),
        ))  # fmt: skip
    return Shapes(*np.array(rows, dtype=float).reshape(-1, 6).T)


def between_steps_s(steps: Sequence[Step]) -> float:
    """The median time from a step's end to the next one's start where a request of the one also runs in the other."""
    gaps = [
        after.start_s - before.start_s - before.duration_s
        for before, after in pairwise(steps)
        if {entry[0] for entry in before.batch} & {entry[0] for entry in after.batch}
    ]
    return max(0.0, float(np.median(gaps))) if gaps else 0.0


def fit(shapes: Shapes, seconds: np.ndarray) -> Fitted:
    """The model's coefficients by non-negative least squares on relative errors."""
    tokens, sequences = _knots(shapes.tokens), _knots(shapes.sequences)
    columns = np.hstack([
        _hats(shapes.tokens, tokens), _hats(shapes.sequences, sequences)[:, 1:],
        np.stack([shapes.pairs, shapes.cached, shapes.context], axis=1),
    ])  # fmt: skip
    scale = np.maximum(columns.max(axis=0), 1.0)
    columns = columns / scale
    found = np.zeros(len(scale))
    weight = 1 / seconds
    for _ in range(ROUNDS):
        found = _nonnegative(columns * weight[:, None], seconds * weight)
        # Relative to the fit, not to the step: that would weigh slow steps less, and fall short of the mean.
        guess = columns @ found
        off = abs(seconds / guess - 1)
        weight = np.sqrt(np.minimum(1.0, OUTLIER / np.maximum(off, 1e-12))) / guess
    found = found / scale
    line, head = len(tokens), len(tokens) + len(sequences) - 1
    return Fitted(
        tokens,
        np.cumsum(found[:line]),
        sequences,
        np.concatenate([[0.0], np.cumsum(found[line:head])]),
        *(float(value) for value in found[head:]),
    )


def _knots(values: np.ndarray) -> list[int]:
    """Where straight lines may bend: the values themselves when few, else evenly spread over their logs."""
    known = np.unique(values).astype(int)
    if len(known) <= MOST_KNOTS:
        return [int(value) for value in known]
    wanted = np.geomspace(known[0], known[-1], MOST_KNOTS)
    return sorted({int(known[np.argmin(abs(known - value))]) for value in wanted})


def _hats(x: np.ndarray, knots: list[int]) -> np.ndarray:
    """One column for the height at the first knot and one for each rise to the next; the last rise goes on beyond."""
    columns = [np.ones(len(x))]
    for low, high in pairwise(knots):
        top = np.inf if high == knots[-1] else 1.0
        columns.append(np.clip((x - low) / (high - low), 0.0, top))
    return np.stack(columns, axis=1)


def _nonnegative(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares with no coefficient below 0 (Lawson and Hanson's active set)."""
    found = np.zeros(columns.shape[1])
    free = np.zeros(len(found), dtype=bool)
    least = 1e-10 * float(abs(columns.T @ target).max())
    for _ in range(10 * len(found)):
        pull = np.where(free, -np.inf, columns.T @ (target - columns @ found))
        if pull.max() <= least:
            break
        free[pull.argmax()] = True
        while True:
            trial = np.zeros(len(found))
            trial[free] = np.linalg.lstsq(columns[:, free], target, rcond=None)[0]
            low = free & (trial <= 0)
            if not low.any():
                break
            found += (found[low] / (found[low] - trial[low] + 1e-300)).min() * (trial - found)
            free &= found > 1e-15
            found[~free] = 0.0
        found = trial
    return found


def held_out_errors(steps: Sequence[Step], seconds: np.ndarray) -> Errors:
    """Kind of step -> error on batch shapes that the fit did not see: median, p90, bias of the sum, points."""
    shapes = shapes_of(steps)
    names = [tuple(sorted((before // 16, new) for _, before, new in step.batch)) for step in steps]
    order = sorted(set(names))
    random.Random(0).shuffle(order)
    out = {name for at, name in enumerate(order) if at % HELD_OUT == 0}
    kept = np.array([name not in out for name in names])
    if kept.sum() < FEWEST:
        return {}
    fitted = fit(_take(shapes, kept), seconds[kept])
    errors: Errors = {}
    for index, kind in enumerate(KINDS):
        chosen = ~kept & (shapes.kind == index)
        if chosen.any():
            guess, truth = fitted.predict(_take(shapes, chosen)), seconds[chosen]
            off = abs(guess / truth - 1)
            errors[f"{kind}_steps"] = {
                "median": float(np.median(off)), "p90": float(np.quantile(off, 0.9)),
                "bias": float(guess.sum() / truth.sum() - 1), "points": int(chosen.sum()), "interpolation": "linear",
            }  # fmt: skip
    return errors


def _take(shapes: Shapes, chosen: np.ndarray) -> Shapes:
    return Shapes(*(column[chosen] for column in vars(shapes).values()))


@dataclass(frozen=True)
class Engine:
    """Whose steps the log holds; names of the catalog."""

    model: ModelSpec
    gpu: str
    dtype: str
    tensor_parallel: int = 1

    @property
    def shard(self) -> Shard:
        """One GPU's part."""
        return Shard(self.model, load_gpu(self.gpu, "--gpu"), self.dtype, self.tensor_parallel)


def facts(log: Path) -> dict[str, Any]:
    """What config.json beside a log's steps says of its engine; empty where there is none."""
    path = log / "config.json" if log.is_dir() else log.with_name("config.json")
    if not path.is_file():
        return {}
    try:
        read: Any = json.loads(path.read_text())
    except ValueError:
        read = None
    if not isinstance(read, dict):
        raise ProfileError(str(path), "is no JSON object", "model, gpu, dtype and tensor_parallel, or no such file")
    return cast("dict[str, Any]", read)


def convert(logs: Sequence[Path], out: Path, engine: Engine) -> Path:
    """Fit the logs together and write the profile below `out`; returns its folder."""
    if engine.dtype not in DTYPE_BYTES:
        raise ProfileError("--dtype", f"is '{engine.dtype}'", "one of " + ", ".join(DTYPE_BYTES))
    shard = engine.shard
    every = [read_steps(path) for path in logs]
    steps = [step for log in every for step in log]
    usual, slowness = at_usual_speed(logs, every)
    shapes = shapes_of(steps)
    counts = {kind: int((shapes.kind == index).sum()) for index, kind in enumerate(KINDS)}
    for kind in KINDS[:2]:
        if counts[kind] < FEWEST:
            raise ProfileError(", ".join(map(str, logs)), f"holds {counts[kind]} {kind} steps", f"{FEWEST} or more")
    gap = float(np.median([between_steps_s(log) for log in every]))
    seconds = (np.array([step.duration_s for step in steps]) + gap) / slowness
    draft = Draft(
        engine.gpu, engine.model, engine.dtype, engine.tensor_parallel,
        f"fitted to {len(steps)} logged engine steps, host time and all-reduces inside",
        {}, {"whole_step": 1, "per_sequence": 1},
        {"logs": [path.name for path in logs], "steps": counts, "between_steps_us": round(1e6 * gap, 1),
         "probes_us": {name: round(1e6 * seconds, 1) for name, seconds in usual.items()},
         "engine": {key: value for key, value in facts(logs[0]).items() if key in KEPT}},
        includes=("host", "all_reduce"),
    )  # fmt: skip
    fitted = fit(shapes, seconds)
    draft.add("linear.csv", _curve("whole_step", fitted.tokens, fitted.linear_s))
    draft.add("head.csv", _curve("per_sequence", fitted.sequences, fitted.head_s))
    draft.add("attention.csv", _attention(fitted, shapes, shard))
    folder = install([draft], out)[0]
    # Straight lines were fitted, so straight lines are read, and the errors that count are those of whole steps.
    meta = yaml.safe_load((folder / "profile.yaml").read_text())
    meta |= {"interpolation": {}, "errors": rounded(held_out_errors(steps, seconds))}
    (folder / "profile.yaml").write_text(yaml.safe_dump(meta, sort_keys=False))
    return folder


def at_usual_speed(logs: Sequence[Path], every: Sequence[Sequence[Step]]) -> tuple[dict[str, float], np.ndarray]:
    """Usual seconds of each probe (none where nobody probed), and for every step the time over usual time around it."""
    probes = [read_probes(path if path.is_dir() else path.parent) for path in logs]
    known = [one for one in probes if one]
    if not known:
        return {}, np.ones(sum(map(len, every)))
    usual = usual_s(known)
    slowness: list[np.ndarray] = []
    for path, one, steps in zip(logs, probes, every, strict=True):
        if one is None or one.took_s.keys() != usual.keys():
            raise ProfileError(str(path), "was not probed as the other logs were", "the same probes beside all or none")
        slowness.append(one.slowness(usual, np.array([step.start_s + step.duration_s / 2 for step in steps])))
    return usual, np.concatenate(slowness)


def _curve(op: str, knots: list[int], seconds: np.ndarray) -> list[tuple[tuple[Any, ...], float, int]]:
    return [((op, x), max(LEAST_S, float(time)), INTERPOLATED) for x, time in zip(knots, seconds, strict=True)]


def _attention(fitted: Fitted, shapes: Shapes, shard: Shard) -> list[tuple[tuple[Any, ...], float, int]]:
    """One layer's share at the corners of what was logged; in between it is linear but for the chunk.

    No share is below what physics allows: a log may leave a part too small to be told from the rest of the step.
    """
    least, decoding = bounds(shard), shapes.decodes > 0
    longest = int(np.ceil((shapes.context[decoding] / shapes.decodes[decoding]).max()))
    most, chunk = int(shapes.decodes.max()), max(2, int(np.ceil(shapes.chunk.max())))
    decodes = [(n, kv) for n in sorted({1, max(2, most)}) for kv in sorted({1, max(2, longest)})]
    chunks = sorted({1, *between([1, chunk], CHUNK_RATIO), chunk})
    prefills = [(c, kp) for c in chunks for kp in (0, max(1, int(np.ceil(shapes.cached.max()))))]

    def seconds(c: int, kp: int, n: int, kv: int) -> float:
        prefill = fitted.pair_s * c * (kp + 0.5 * c) + fitted.reread_s * kp if c else 0.0
        bound = least("attention.csv", (c, kp, n, kv))
        return max(bound.seconds if bound else LEAST_S, (prefill + fitted.context_s * n * kv) / shard.model.layers)

    points = [(0, 0, *decode) for decode in decodes] + [(*prefill, 0, 0) for prefill in prefills]
    points += [(*prefill, *decode) for prefill in prefills for decode in decodes]
    return [(point, seconds(*point), INTERPOLATED) for point in points]
