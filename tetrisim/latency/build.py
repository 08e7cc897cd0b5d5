"""Choose and compile the StepTimer of an instance: a measured profile where there is one, else the roofline."""

from pathlib import Path

import numpy as np

from tetrisim.errors import ProfileError
from tetrisim.latency import roofline
from tetrisim.latency.attention import RooflineAttention, TableAttention
from tetrisim.latency.grid import ESTIMATED, MEASURED, Curve
from tetrisim.latency.roofline import Shard
from tetrisim.latency.step import Dense, StepTimer, Terms
from tetrisim.latency.table import Profile, find_profile, read_profile
from tetrisim.scenario.model import DTYPE_BYTES

PROFILES = (Path(__file__).parents[1] / "_profiles", Path(__file__).parents[2] / "profiles")
"""Where committed profiles are: inside an installed package, or beside it in a checkout."""

LARGEST = 2048
"""Tokens and sequences that the dense lists cover at first; they grow on demand."""


def build_timer(shard: Shard, ref: str, where: str) -> tuple[StepTimer, str]:
    """The timer, and a line of provenance. `ref` is `auto`, `roofline`, or the path of a profile (or a folder of them).

    A path that does not cover this GPU, model, dtype and tensor-parallel degree raises ProfileError; `auto` falls back
    on the roofline.
    """
    wanted = (shard.gpu.name, shard.model.name, shard.dtype, shard.tensor_parallel)
    folder = None
    if ref == "auto":
        folder = next((found for root in PROFILES if (found := find_profile(root, *wanted))), None)
    elif ref != "roofline":
        folder = find_profile(Path(ref), *wanted)
        if folder is None:
            shape = "/".join((*wanted[:3], f"tp{wanted[3]}"))
            raise ProfileError(where, f"no profile.yaml in {ref}", f"a profile, or a folder that holds {shape}")
    if folder is None:
        return _roofline_timer(shard), f"{' '.join(map(str, wanted[:3]))} tp{wanted[3]}: estimated by the roofline"
    profile = read_profile(folder)
    named = (profile.gpu, profile.model, profile.dtype, profile.tensor_parallel)
    if named != wanted:
        raise ProfileError(
            str(folder / "profile.yaml"), f"is of {' '.join(map(str, named))}", " ".join(map(str, wanted))
        )
    return _table_timer(shard, profile), profile.title


def _roofline_timer(shard: Shard) -> StepTimer:
    def linear(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seconds = roofline.linear_s(shard, tokens) + roofline.collectives_s(shard, tokens)
        return seconds, np.zeros(len(tokens)), seconds

    def head(sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seconds = roofline.head_s(shard, sequences) + roofline.host_s(sequences)
        return seconds, np.zeros(len(sequences)), seconds

    return StepTimer(Dense(linear, LARGEST), Dense(head, LARGEST), RooflineAttention(shard), shard.model.layers)


def _table_timer(shard: Shard, profile: Profile) -> StepTimer:
    layers = shard.model.layers
    calls = {op: count * layers for op, count in profile.calls_per_layer.items()}
    calls |= profile.calls_per_step
    for op in calls:
        if op not in profile.linear and op not in profile.head:
            raise ProfileError(
                str(profile.folder), f"op '{op}' of profile.yaml has no rows", "rows in linear.csv or head.csv"
            )
    linear_ops = [(profile.curve(op), calls.get(op, 0)) for op in profile.linear]
    head_ops = [(profile.curve(op), calls.get(op, 0)) for op in profile.head]
    attention = TableAttention(
        profile.attention,
        profile.skew,
        str(profile.folder / "attention.csv"),
        profile.estimated_attention,
        profile.interpolation.get("attention_prefill") == "smooth",
    )

    def linear(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _add(_sum(linear_ops, tokens), _reduces(shard, profile, tokens))

    def head(sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _add(_sum(head_ops, sequences), _host(profile, sequences))

    typed: tuple[Terms, Terms] = (linear, head)
    return StepTimer(Dense(typed[0], LARGEST), Dense(typed[1], LARGEST), attention, layers)


def _reduces(shard: Shard, profile: Profile, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two all-reduces of every layer."""
    if "all_reduce" in profile.includes:
        return _sum([], tokens)
    if profile.all_reduce is None or shard.tensor_parallel == 1:
        seconds = roofline.collectives_s(shard, tokens)
        return seconds, np.zeros(len(tokens)), seconds
    # Activations stay at 16 bits where the weights have 8.
    sizes = tokens * shard.model.hidden * max(2, DTYPE_BYTES[shard.dtype])
    return _sum([(profile.all_reduce, 2 * shard.model.layers)], sizes)


def _host(profile: Profile, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if "host" in profile.includes:
        return _sum([], sequences)
    if profile.host is None:
        seconds = roofline.host_s(sequences)
        return seconds, np.zeros(len(sequences)), seconds
    return _sum([(profile.host, 1)], sequences)


def _sum(ops: list[tuple[Curve, int]], sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seconds of several ops over `sizes`; a size is measured, interpolated or estimated for each op by itself."""
    total, measured, estimated = np.zeros((3, len(sizes)))
    for curve, calls in ops:
        points, values = np.array(curve.points, dtype=float), np.array(curve.values)
        sources = np.array(curve.sources)
        seconds = np.interp(sizes, points, values)
        if len(points) > 1:
            slope = (values[-1] - values[-2]) / (points[-1] - points[-2])
            seconds = seconds + np.maximum(0.0, sizes - points[-1]) * max(0.0, slope)
        seconds = seconds * calls
        total += seconds
        low = np.clip(np.searchsorted(points, sizes, side="right") - 1, 0, len(points) - 1)
        exact = points[low] == sizes
        high = np.where(exact, low, np.minimum(low + 1, len(points) - 1))
        outside = (sizes < points[0]) | (sizes > points[-1])
        guessed = outside | (sources[low] == ESTIMATED) | (sources[high] == ESTIMATED)
        measured += np.where(exact & (sources[low] == MEASURED), seconds, 0.0)
        estimated += np.where(guessed, seconds, 0.0)
    return total, measured, estimated


def _add(*terms: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    total, measured, estimated = (sum(columns) for columns in zip(*terms, strict=True))
    return np.asarray(total), np.asarray(measured), np.asarray(estimated)
