"""Choose and compile the StepTimer of an instance: a measured profile where there is one, else the roofline."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tetrisim.errors import ProfileError
from tetrisim.latency import roofline
from tetrisim.latency.attention import Attention, RooflineAttention, TableAttention
from tetrisim.latency.grid import ESTIMATED, MEASURED, Curve, Slices
from tetrisim.latency.roofline import Shard
from tetrisim.latency.step import Dense, StepTimer, Terms
from tetrisim.latency.table import Profile, find_profile, read_profile

PROFILES = (Path(__file__).parents[1] / "_profiles", Path(__file__).parents[2] / "profiles")
"""Where committed profiles are: inside an installed package, or beside it in a checkout."""

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Of each size: seconds in all, of which measured, of which estimated."""

LARGEST = 2048
"""Tokens and sequences that the dense lists cover at first; they grow on demand."""


def build_timer(shard: Shard, ref: str, where: str, split_above: int | None = None) -> tuple[StepTimer, str]:
    """The timer, and a line of provenance. `ref` is `auto`, `roofline`, or the path of a profile (or a folder of them).

    A path that does not cover this GPU, model, dtype and tensor-parallel degree raises ProfileError; `auto` falls back
    on the roofline. Steps of more than `split_above` tokens split those over the shard's GPUs, not the weights (Shift
    Parallelism); attention is by heads either way, so it takes the same time and the KV cache stays where it is.
    """
    profile = _find(shard, ref, where)
    linear, head, attention = roofline_terms(shard) if profile is None else _table_terms(shard, profile)
    if split_above is not None and shard.tensor_parallel > 1:
        whole = replace(shard, tensor_parallel=1)
        table = _find(whole, ref if profile is None else str(profile.folder.parent), where, needed=False)
        rows = _roofline_linear(whole) if table is None else _table_linear(whole, table)
        linear = _shifted(linear, _split(shard, rows), split_above)
    named = f"{shard.gpu.name} {shard.model.name} {shard.dtype} tp{shard.tensor_parallel}"
    line = f"{named}: estimated by the roofline" if profile is None else profile.title
    if split_above is not None:
        line += f"; all-to-alls of steps above {split_above} tokens modelled"
    return StepTimer(Dense(linear, LARGEST), Dense(head, LARGEST), attention, shard.model.layers), line


def profile_folder(ref: str, gpu: str, model: str, dtype: str, tensor_parallel: int) -> Path | None:
    """Where the tables that `ref` means for a shard lie (see `build_timer`); None: there is the roofline alone."""
    if ref == "roofline":
        return None
    roots = PROFILES if ref == "auto" else (Path(ref),)
    found = (find_profile(root, gpu, model, dtype, tensor_parallel) for root in roots)
    return next((folder for folder in found if folder is not None), None)


def _find(shard: Shard, ref: str, where: str, needed: bool = True) -> Profile | None:
    wanted = (shard.gpu.name, shard.model.name, shard.dtype, shard.tensor_parallel)
    folder = profile_folder(ref, *wanted)
    if folder is None:
        if needed and ref not in ("auto", "roofline"):
            shape = "/".join((*wanted[:3], f"tp{wanted[3]}"))
            raise ProfileError(where, f"no profile.yaml in {ref}", f"a profile, or a folder that holds {shape}")
        return None
    profile = read_profile(folder)
    named = (profile.gpu, profile.model, profile.dtype, profile.tensor_parallel)
    if named != wanted:
        raise ProfileError(
            str(folder / "profile.yaml"), f"is of {' '.join(map(str, named))}", " ".join(map(str, wanted))
        )
    return profile


def roofline_terms(shard: Shard) -> tuple[Terms, Terms, Attention]:
    """Linear ops with their collectives, head with the host, and attention."""

    def head(sequences: np.ndarray) -> Columns:
        return estimated_alone(roofline.head_s(shard, sequences) + roofline.host_s(sequences))

    return _roofline_linear(shard), head, RooflineAttention(shard)


def _roofline_linear(shard: Shard) -> Terms:
    return lambda tokens: estimated_alone(roofline.linear_s(shard, tokens) + roofline.collectives_s(shard, tokens))


def _split(shard: Shard, rows: Terms) -> Terms:
    """Tokens split over the GPUs: each runs the whole weights over its rows, and two all-to-alls a layer."""

    def linear(tokens: np.ndarray) -> Columns:
        each = np.ceil(tokens / shard.tensor_parallel)  # padded, so that every GPU has as many
        return _add(rows(each), estimated_alone(roofline.all_to_alls_s(shard, each * shard.tensor_parallel)))

    return linear


def _shifted(few: Terms, many: Terms, above: int) -> Terms:
    """`few` for up to `above` tokens, `many` for more."""

    def linear(tokens: np.ndarray) -> Columns:
        seconds, measured, estimated = (
            np.where(tokens > above, high, low) for low, high in zip(few(tokens), many(tokens), strict=True)
        )
        return seconds, measured, estimated

    return linear


def _table_terms(shard: Shard, profile: Profile) -> tuple[Terms, Terms, Attention]:
    calls = _calls(shard, profile)
    head_ops = [(profile.curve(op), calls.get(op, 0)) for op in profile.head]

    def head(sequences: np.ndarray) -> Columns:
        return _add(_sum(head_ops, sequences), _host(profile, sequences))

    attention = TableAttention(
        profile.attention,
        profile.skew,
        str(profile.folder / "attention.csv"),
        profile.estimated_attention,
        profile.interpolation.get("attention_prefill") == "smooth",
    )
    return _table_linear(shard, profile), head, attention


def _table_linear(shard: Shard, profile: Profile) -> Terms:
    calls = _calls(shard, profile)
    ops = [(profile.curve(op), calls.get(op, 0)) for op in profile.linear]
    if not shard.model.experts or "whole_step" in calls:
        return lambda tokens: _add(_sum(ops, tokens), _reduces(shard, profile, tokens))
    return lambda tokens: _add(_sum(ops, tokens), _reduces(shard, profile, tokens), _routed(shard, profile, tokens))


def _routed(shard: Shard, profile: Profile, tokens: np.ndarray) -> Columns:
    """The routed experts of all layers, at the mean number of experts that the tokens reach.

    Where the profile has none, the roofline's, router included.
    """
    layers = shard.model.layers
    if not profile.moe:
        return estimated_alone(layers * roofline.experts_s(shard, tokens))
    slices = Slices({(active, count): seconds for (count, active), seconds in profile.moe.items()})
    pairs = zip(roofline.reached(shard.model, tokens).tolist(), tokens.tolist(), strict=True)
    found = [slices.at(active, count) for active, count in pairs]
    seconds = layers * np.array([max(0.0, value) for value, _ in found])
    outside = np.array([not inside for _, inside in found])
    return seconds, np.zeros(len(tokens)), np.where(outside, seconds, 0.0)


def _calls(shard: Shard, profile: Profile) -> dict[str, int]:
    """How often a step calls each op; one without rows raises ProfileError."""
    calls = {op: count * shard.model.layers for op, count in profile.calls_per_layer.items()}
    calls |= profile.calls_per_step
    for op in calls:
        if op not in profile.linear and op not in profile.head:
            raise ProfileError(
                str(profile.folder), f"op '{op}' of profile.yaml has no rows", "rows in linear.csv or head.csv"
            )
    return calls


def _reduces(shard: Shard, profile: Profile, tokens: np.ndarray) -> Columns:
    """The two all-reduces of every layer."""
    if "all_reduce" in profile.includes:
        return _sum([], tokens)
    if profile.all_reduce is None or shard.tensor_parallel == 1:
        return estimated_alone(roofline.collectives_s(shard, tokens))
    sizes = tokens * shard.model.hidden * shard.activation_bytes
    return _sum([(profile.all_reduce, 2 * shard.model.layers)], sizes)


def _host(profile: Profile, sequences: np.ndarray) -> Columns:
    if "host" in profile.includes:
        return _sum([], sequences)
    if profile.host is None:
        return estimated_alone(roofline.host_s(sequences))
    return _sum([(profile.host, 1)], sequences)


def _sum(ops: list[tuple[Curve, int]], sizes: np.ndarray) -> Columns:
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


def estimated_alone(seconds: np.ndarray) -> Columns:
    """Times of which nothing was measured."""
    return seconds, np.zeros(len(seconds)), seconds


def _add(*terms: Columns) -> Columns:
    total, measured, estimated = (sum(columns) for columns in zip(*terms, strict=True))
    return np.asarray(total), np.asarray(measured), np.asarray(estimated)
