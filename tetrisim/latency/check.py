"""Is a profile sound? Physics, order, scaling and holes; and how well its own points predict each other."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from tetrisim.errors import ProfileError, TetrisimError
from tetrisim.latency.attention import TableAttention
from tetrisim.latency.bounds import Work, bounds, experts_of, shape_of
from tetrisim.latency.grid import ESTIMATED, Curve
from tetrisim.latency.leftout import (
    FITS,
    Fit,
    left_out,
    mixed_errors,
    pair_differences,
    slice_errors,
    summary,
    summed_errors,
)
from tetrisim.latency.table import KEYS, Cell, Profile, Row, read_profile, read_rows
from tetrisim.scenario.gpu import GPUS

CACHE_BYTES = 256 * 2**20
"""Twice the largest L2 cache of today's cards. A smaller working set may stay in it, in whole or in part, when a
benchmark repeats one call: then beating the memory is a warning."""
TOLERANCE = 0.95
"""Share of the physical bound below which a time is impossible; data-sheet rates and clocks are no closer than this."""
IN_CACHE = 0.1
"""The same where the working set may sit in the cache: no cache is ten times as fast as the memory."""
DROP = 0.10
"""A larger size may take this much less time (a kernel switch) before it is worth a word."""
GAP = 4.0
"""Neighbouring points further apart than this factor are a hole in the grid."""
FAR = 100.0
"""Linear ops whose times are in the median this far from the bound are in the wrong unit."""
OUTLIER = 1.5
"""A point this far off the line through its neighbours, with neighbours that agree with each other, is an outlier."""

Errors = dict[str, dict[str, float | int | str]]
Summary = tuple[float, float, int]
"""Median, 90th percentile, points."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: `hard` when the profile cannot be used with it, else noise worth a look."""

    where: str
    what: str
    expected: str
    hard: bool

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; expected {self.expected}" if self.expected else "")


def check_profile(folder: Path) -> list[Finding]:
    """All that is wrong with a profile, hard findings first; a malformed file is one hard finding."""
    try:
        profile = read_profile(folder)
        TableAttention(profile.attention, {}, str(folder / "attention.csv"))
        bound = bounds(shape_of(profile), experts_of(profile)) if profile.gpu in GPUS else None
    except TetrisimError as error:
        return [Finding(error.where, error.what, error.expected, hard=True)]
    tables = {name: read_rows(folder / name, keys) for name, keys in KEYS.items() if name != "skew.csv"}
    found = list(_named_as_placed(profile))
    if bound is None:
        where = str(folder / "profile.yaml")
        found.append(
            Finding(where, f"GPU '{profile.gpu}' has no data sheet here: its physics is not checked", "", False)
        )
    else:
        found += [*_physics(profile, tables, bound), *_units(profile, tables, bound)]
    for name, groups in _series(tables).items():
        for label, series in groups.items():
            found += _order(f"{folder / name}", label, series)
    found += _scaling(profile)
    return sorted(found, key=lambda finding: not finding.hard)


def _named_as_placed(profile: Profile) -> Iterator[Finding]:
    """The provenance names the GPU, model, dtype and degree of the folder that it lies in, where it lies in one."""
    path = profile.folder.resolve()
    if path.name[:2] != "tp" or not path.name[2:].isdigit():
        return
    named = (profile.gpu, profile.model, profile.dtype, f"tp{profile.tensor_parallel}")
    if path.parents[2].name in GPUS and path.parts[-4:] != named:
        yield Finding(str(profile.folder / "profile.yaml"), f"names {'/'.join(named)}", "/".join(path.parts[-4:]), True)


def _physics(profile: Profile, tables: Mapping[str, dict[Row, Cell]], bound: Work) -> Iterator[Finding]:
    """Rows faster than the card's memory or arithmetic allows; those a cache explains are one warning an op."""
    cached: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for name, table in tables.items():
        for key, cell in table.items():
            limit = bound(name, key)
            if limit is None or cell.source == ESTIMATED or cell.seconds >= TOLERANCE * limit.seconds:
                continue
            soft = limit.bytes < CACHE_BYTES and cell.seconds >= max(
                TOLERANCE * limit.compute, IN_CACHE * limit.seconds
            )
            what = (
                f"{_named(name, key)} takes {cell.seconds * 1e6:.4g} us, faster than the {limit.what} of {profile.gpu}"
            )
            expected = f"at least {limit.seconds * 1e6:.4g} us"
            finding = Finding(f"{profile.folder / name}:{cell.line}", what, expected, not soft)
            if soft:
                cached[name, str(key[0]) if KEYS[name][0] == "op" else ""].append(finding)
            else:
                yield finding
    for rows in cached.values():
        more = f", as {len(rows) - 1} more rows" if len(rows) > 1 else ""
        yield Finding(rows[0].where, f"{rows[0].what} (may sit in its cache{more})", rows[0].expected, False)


def _units(profile: Profile, tables: Mapping[str, dict[Row, Cell]], bound: Work) -> Iterator[Finding]:
    """Times that are all a thousandfold too long are in another unit (too short ones beat physics already)."""
    for name in ("linear.csv", "head.csv", "attention.csv"):
        far: list[float] = []
        for key, cell in tables[name].items():
            limit = bound(name, key)
            # Small sizes are all launch time, so only rows with real work tell the unit.
            if limit is not None and limit.seconds > 20e-6:
                far.append(cell.seconds / limit.seconds)
        if far and float(np.median(far)) > FAR:
            yield Finding(
                str(profile.folder / name), f"times are {np.median(far):.0f} times the roofline's", "microseconds", True
            )


def _series(tables: Mapping[str, dict[Row, Cell]]) -> dict[str, dict[str, dict[int, Cell]]]:
    """Every table cut into lines along which time should grow: file -> label -> size -> cell."""
    lines: dict[str, dict[str, dict[int, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for name, table in tables.items():
        for key, cell in table.items():
            if name == "attention.csv":
                chunk, cached, n, context = key
                if n == 0:
                    lines[name][f"prefill over {cached} cached, tokens"][chunk] = cell
                elif chunk == 0:
                    lines[name][f"decode of {n} sequences, context"][context] = cell
            elif name == "moe.csv":
                lines[name][f"experts over {key[0]} tokens, active experts"][key[1]] = cell
            elif name == "collective.csv":
                lines[name][f"{key[0]} of {key[2]} GPUs, bytes"][key[1]] = cell
            elif name == "host.csv":
                lines[name]["host, sequences"][key[0]] = cell
            else:
                lines[name][f"{key[0]}, {KEYS[name][-1]}"][key[1]] = cell
    return lines


def _order(path: str, label: str, cells: dict[int, Cell]) -> Iterator[Finding]:
    """Monotone within noise, no holes, no outliers."""
    sizes = sorted(cells)
    times = [cells[size].seconds for size in sizes]
    worst: tuple[float, int] | None = None
    for i in range(1, len(sizes)):
        spread = (cells[sizes[i]].spread or 0.0) + (cells[sizes[i - 1]].spread or 0.0)
        drop = 1 - (times[i] + 3 * spread) / times[i - 1]
        if drop > DROP and (worst is None or drop > worst[0]):
            worst = (drop, i)
        if sizes[i - 1] > 1 and sizes[i] > GAP * sizes[i - 1]:
            where = f"{path}:{cells[sizes[i]].line}"
            yield Finding(where, f"{label}: nothing between {sizes[i - 1]} and {sizes[i]}", "points in between", False)
    if worst is not None:
        drop, i = worst
        what = f"{label}: {sizes[i]} takes {drop:.0%} less than {sizes[i - 1]}"
        yield Finding(f"{path}:{cells[sizes[i]].line}", what, "time that grows with size, within noise", False)
    odd = [i for i in range(1, len(sizes) - 1) if _is_outlier(sizes, times, i, cells[sizes[i]].spread or 0.0)]
    if odd:
        more = f" (as do {len(odd) - 1} more)" if len(odd) > 1 else ""
        what = f"{label}: {sizes[odd[0]]} takes {times[odd[0]] * 1e6:.4g} us, far off the line of its neighbours{more}"
        yield Finding(f"{path}:{cells[sizes[odd[0]]].line}", what, "points near the line, or a finer grid", False)


def _is_outlier(sizes: list[int], times: list[float], i: int, spread: float) -> bool:
    """Off the line through its neighbours, which agree with each other; not where a kernel switch was looked for."""
    before, here, after = sizes[i - 1 : i + 2]
    if here - before == 1 or after - here == 1:
        return False
    line = times[i - 1] + (here - before) / (after - before) * (times[i + 1] - times[i - 1])
    apart = max(times[i - 1], times[i + 1]) / min(times[i - 1], times[i + 1])
    return apart < OUTLIER and not (line - 3 * spread) / OUTLIER < times[i] < (line + 3 * spread) * OUTLIER


def _scaling(profile: Profile) -> Iterator[Finding]:
    """A smaller shard is not slower, nor faster than its share, at large token counts; the degrees lie side by side."""
    for sibling in sorted(profile.folder.parent.glob("tp*")):
        cut = sibling.name[2:]
        if not cut.isdigit() or int(cut) >= profile.tensor_parallel or not (sibling / "profile.yaml").is_file():
            continue
        try:
            other = read_profile(sibling)
        except ProfileError:
            continue  # its own check names what is wrong with it
        share = other.tensor_parallel / profile.tensor_parallel
        for op in sorted({"qkv_proj", "o_proj", "gate_up_proj", "down_proj"} & set(profile.linear) & set(other.linear)):
            top = min(profile.linear[op].points[-1], other.linear[op].points[-1])
            ratio = profile.linear[op].at(top)[0] / other.linear[op].at(top)[0]
            if not 0.7 * share < ratio < 1.1:
                what = f"{op} at {top} tokens takes {ratio:.2f} of {sibling.name}'s time"
                yield Finding(str(profile.folder / "linear.csv"), what, f"between {share:.2f} and 1", False)


def _named(name: str, key: Row) -> str:
    return ", ".join(f"{column} {value}" for column, value in zip(KEYS[name], key, strict=True)).removeprefix("op ")


def choose_interpolation(profile: Profile) -> tuple[dict[str, str], Errors]:
    """Per op the method with the smallest leave-one-out error, and those errors; `linear` is left out of the first.

    Decodes and mixed batches are always linear: a run of decode steps is summed in closed form. `linear_layer` is the
    error of all measured linear ops of a layer together; `one_token` is how far an op's rows one token apart differ.
    """
    chosen: dict[str, str] = {}
    errors: Errors = {}
    layer: list[tuple[Curve, int, Fit]] = []
    for op, curve in (profile.linear | profile.head).items():
        if all(source == ESTIMATED for source in curve.sources):
            continue
        _note(op, {method: summary(left_out(curve, fit)) for method, fit in FITS.items()}, chosen, errors)
        pairs, calls = pair_differences(curve), profile.calls_per_layer.get(op, 0)
        if op in errors and pairs:
            errors[op]["one_token"] = float(np.median(pairs))
        if op in errors and calls:
            layer.append((curve, calls, FITS[chosen.get(op, "linear")]))
    if len(layer) > 1:
        _add("linear_layer", summary(summed_errors(layer)), "as its ops", errors)
    attention = {point: time for point, time in profile.attention.items() if point not in profile.estimated_attention}
    curve = Curve({c: time for (c, kp, n, _), time in attention.items() if c > 0 and kp == 0 and n == 0})
    # Where a chunk was measured over several prefixes too, the rest of its slice tells the point that is left out.
    over = slice_errors({(c, kp): time for (c, kp, n, _), time in attention.items() if c > 0 and n == 0})
    by_method = {method: summary([*left_out(curve, fit), *over]) for method, fit in FITS.items()}
    _note("attention_prefill", by_method, chosen, errors)
    decodes = slice_errors({(n, kv): time for (c, _, n, kv), time in attention.items() if c == 0 and n > 0})
    _add("attention_decode", summary(decodes), "linear", errors)
    mixed, how = mixed_errors(attention)
    _add("attention_mixed", summary(mixed), how, errors)
    routed = slice_errors({(active, tokens): time for (tokens, active), time in profile.moe.items()})
    _add("moe", summary(routed), "linear", errors)
    if profile.all_reduce is not None:
        _add("all_reduce", summary(left_out(profile.all_reduce, FITS["linear"])), "linear", errors)
    return chosen, errors


def _note(op: str, error: dict[str, Summary], chosen: dict[str, str], errors: Errors) -> None:
    method = min(error, key=lambda name: error[name][0])
    if error[method][2] and method != "linear":
        chosen[op] = method
    _add(op, error[method], method, errors)


def _add(op: str, error: Summary, method: str, errors: Errors) -> None:
    median, p90, points = error
    if points:
        errors[op] = {"median": median, "p90": p90, "points": points, "interpolation": method}


def rounded(errors: Errors) -> Errors:
    """Four decimals are more than the noise leaves."""
    return {
        op: {key: round(value, 4) if isinstance(value, float) else value for key, value in error.items()}
        for op, error in errors.items()
    }


def store_errors(folder: Path) -> Errors:
    """Write `interpolation` and `errors` into profile.yaml, and return the errors."""
    interpolation, errors = choose_interpolation(read_profile(folder))
    path = folder / "profile.yaml"
    meta = cast("dict[str, Any]", yaml.safe_load(path.read_text()))
    meta["errors"] = (meta.get("errors") or {}) | rounded(errors)
    meta["interpolation"] = interpolation
    new = path.with_name(".profile.yaml")
    new.write_text(yaml.safe_dump(meta, sort_keys=False))
    new.replace(path)
    return errors


def compare(one: Profile, other: Profile) -> dict[str, Summary]:
    """Op -> median of `one`/`other`, the 90th percentile of |ratio - 1|, and points; at the points of `one`.

    Profiles of different GPUs raise ProfileError.
    """
    if one.gpu != other.gpu:
        raise ProfileError(str(other.folder), f"is of {other.gpu}", f"a profile of {one.gpu}")
    ratios: dict[str, list[float]] = defaultdict(list)
    for op, curve in (one.linear | one.head).items():
        there = other.linear.get(op) or other.head.get(op)
        for x, value in zip(curve.points, curve.values, strict=True):
            if there is not None and there.at(x)[1]:
                ratios[op].append(value / there.at(x)[0])
    table = TableAttention(other.attention, {}, str(other.folder / "attention.csv"), other.estimated_attention)
    for (c, cached, n, context), time in one.attention.items():
        value, inside = table.decode(n, context) if c == 0 else table.mixed(c, cached, n, context)
        kind = "attention_decode" if c == 0 else "attention_mixed" if n else "attention_prefill"
        if inside and (c, cached, n, context) not in one.estimated_attention:
            ratios[kind].append(time / value)
    if one.all_reduce is not None and other.all_reduce is not None:
        for x, value in zip(one.all_reduce.points, one.all_reduce.values, strict=True):
            if other.all_reduce.at(x)[1]:
                ratios["all_reduce"].append(value / other.all_reduce.at(x)[0])
    return {
        op: (float(np.median(r)), float(np.quantile(np.abs(np.array(r) - 1), 0.9)), len(r)) for op, r in ratios.items()
    }
