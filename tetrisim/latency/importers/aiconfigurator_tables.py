"""aiconfigurator's tables as they lie on disk: a `systems` folder, parquet files, and the functions they hold."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tetrisim.errors import ProfileError, nearest_name
from tetrisim.latency.bounds import Experts
from tetrisim.latency.grid import ESTIMATED, INTERPOLATED, MEASURED
from tetrisim.scenario.model import ModelSpec

PACKAGE = "aiconfigurator_core"
ENGINES = ("vllm", "sglang", "trtllm")
"""Whose kernels were measured, in the order in which one stands in for another."""
REPEAT = 2.0
"""Rows of one shape are runs of one measurement, and averaged, while they agree within this factor."""
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class System:
    """One GPU type of a `systems` folder."""

    name: str
    data: Path
    gpu: dict[str, float]
    node: dict[str, float]

    def own(self, kind: str, backend: str, file: str) -> Path | None:
        """The newest version of one engine's table, or None."""
        found = (self.data / kind / backend).glob(f"*/{file}")
        return max(found, key=lambda path: _version(path.parent.name), default=None)

    def optional(self, kind: str, backend: str, file: str) -> Path | None:
        """The same, else another engine's, whose kernels run on the same GPU."""
        return next(filter(None, (self.own(kind, engine, file) for engine in (backend, *ENGINES))), None)

    def table(self, kind: str, backend: str, file: str) -> Path:
        """The same; none at all raises ProfileError."""
        found = self.optional(kind, backend, file)
        if found is None:
            raise ProfileError(str(self.data / kind / backend), f"holds no {file}", f"<version>/{file}")
        return found

    def seconds(self, moved: np.ndarray) -> np.ndarray:
        """The origin's own estimate of an element-wise op: bytes over scaled bandwidth, plus a constant."""
        scale = self.gpu["mem_bw_empirical_scaling_factor"]
        return moved / (self.gpu["mem_bw"] * scale) + self.gpu["mem_empirical_constant_latency"]


def systems_folder(path: Path | None) -> Path:
    """The folder given, or the one inside the installed package, which is found and not imported."""
    if path is not None:
        if not path.is_dir():
            raise ProfileError(str(path), "is not a folder", "aiconfigurator's systems folder")
        return path
    spec = importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise ProfileError(
            "aiconfigurator",
            f"the package {PACKAGE} is not installed",
            "a PATH, or pip install 'tetrisim[aiconfigurator]'",
        )
    return Path(places[0]) / "systems"


def find_systems(folder: Path) -> dict[str, System]:
    """Name -> system; `folder` is the whole `systems` folder, or one of a single system beside its yaml."""
    systems: dict[str, System] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*/*.yaml")]):
        places = (folder / "data" / path.stem, path.parent / path.stem, path.parent)
        data = next((place for place in places if (place / "gemm").is_dir()), None)
        if data is not None:
            systems[path.stem] = _system(path, data)
    if not systems:
        raise ProfileError(str(folder), "holds no system", "<system>.yaml beside <system>/gemm/ or data/<system>/gemm/")
    return systems


def _system(path: Path, data: Path) -> System:
    try:
        meta = cast("dict[str, Any]", yaml.safe_load(path.read_text()))
        gpu = {key: float(meta["gpu"][key]) for key in ("mem_bw", "mem_bw_empirical_scaling_factor",
                                                        "mem_empirical_constant_latency")}  # fmt: skip
        node = {key: float(meta["node"][key]) for key in ("num_gpus_per_node", "intra_node_bw", "p2p_latency")}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(str(path), "cannot be read: " + " ".join(str(error).split()), "a system's yaml") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ProfileError(str(path), f"key {error} is missing or no number", "a system's yaml") from None
    return System(path.stem, data, gpu, node)


def _version(text: str) -> tuple[int, ...]:
    digits = "".join(letter if letter.isdigit() else " " for letter in text)
    return tuple(map(int, digits.split()))


def read_columns(
    path: Path, numbers: Sequence[str], texts: Sequence[str] = (), optional: Sequence[str] = ()
) -> Columns:
    """Columns of a parquet file by name, `latency` (ms) as seconds in `seconds`; `optional` ones that lack are 0.

    A missing column, or a latency that is no number above 0, raises ProfileError with the row.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ProfileError(str(path), "cannot be read: " + " ".join(str(error).split()), "a parquet file") from None
    for name in (*numbers, *texts, "latency"):
        if name not in table.column_names:
            wanted = ", ".join((*numbers, *texts, "latency"))
            nearest = nearest_name(name, table.column_names)
            raise ProfileError(str(path), f"column '{name}' is missing", f"columns {wanted}", nearest)
    columns = {name: np.asarray(table[name].to_pylist(), dtype=object) for name in texts}
    for name in (*numbers, *optional, "latency"):
        if name not in table.column_names:
            columns[name] = np.zeros(table.num_rows)
            continue
        try:
            columns[name] = np.asarray(table[name].to_numpy(), dtype=float)
        except (TypeError, ValueError):
            raise ProfileError(str(path), f"column '{name}' does not hold numbers", "numbers") from None
        wrong = ~(np.isfinite(columns[name]) & (columns[name] > 0 if name == "latency" else columns[name] >= 0))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ProfileError(f"{path}: row {row}", f"{name} is {columns[name][row]}", "a number above 0")
    columns["seconds"] = columns.pop("latency") * 1e-3
    columns["row"] = np.arange(table.num_rows)
    return columns


def experts(path: Path, model: ModelSpec, cut: int, dtype: str) -> dict[tuple[int, int], float]:
    """(tokens, experts that get any of them) -> seconds of a layer's routed experts; empty for a shape without rows.

    Of several routings the most even one: `balanced` deals tokens out in turn; of a power law's draws it is taken that
    they reach as many experts as even ones. An engine uses the fastest of several kernels.
    """
    shape = {
        "hidden_size": model.hidden, "inter_size": model.intermediate, "topk": model.active_experts,
        "num_experts": model.experts, "moe_tp_size": cut, "moe_ep_size": 1,
    }  # fmt: skip
    columns = read_columns(path, ("num_tokens", *shape), ("moe_dtype", "distribution"))
    wanted = columns["moe_dtype"] == dtype
    for name, value in shape.items():
        wanted &= columns[name] == value
    rows = keep(columns, wanted.astype(bool))
    routings = sorted(set(rows["distribution"].tolist()))  # "balanced", then the power laws by their exponent
    if not routings:
        return {}
    found = points(path, keep(rows, rows["distribution"] == routings[0]), ("num_tokens",), fastest=True)
    even = Experts(model.experts, model.active_experts, model.intermediate)
    dealt = routings[0] == "balanced"
    return {
        (tokens, min(model.experts, tokens * even.active) if dealt else even.reached(tokens)): seconds
        for (tokens,), seconds in found.items()
    }


def check_device(path: Path, name: str) -> None:
    """Refuse a table that says it was measured on another device."""
    if "device" not in pq.read_schema(path).names:
        return
    for row, device in enumerate(pq.read_table(path, columns=["device"])["device"].to_pylist()):
        if name not in str(device):
            raise ProfileError(f"{path}: row {row}", f"is of device '{device}'", f"an {name}")


def keep(columns: Columns, wanted: np.ndarray) -> Columns:
    """The rows where `wanted` holds."""
    return {name: values[wanted] for name, values in columns.items()}


def points(path: Path, columns: Columns, keys: Sequence[str], fastest: bool = False) -> dict[tuple[int, ...], float]:
    """Key -> seconds: the fastest of repeated runs, or their mean, and then runs that disagree raise ProfileError."""
    runs: dict[tuple[int, ...], list[int]] = {}
    for place, key in enumerate(zip(*(columns[name].astype(int).tolist() for name in keys), strict=True)):
        runs.setdefault(key, []).append(place)
    seconds = columns["seconds"].tolist()
    for key, places in runs.items():
        times = [seconds[place] for place in places]
        if max(times) > REPEAT * min(times) and not fastest:
            named = ", ".join(f"{name} {value}" for name, value in zip(keys, key, strict=True))
            rows = " and ".join(str(columns["row"][place]) for place in places[:2])
            raise ProfileError(f"{path}: rows {rows}", f"the point ({named}) is there with {min(times) * 1e3:g} and "
                               f"{max(times) * 1e3:g} ms", "one time a point")  # fmt: skip
    best = min if fastest else fmean
    return {key: float(best([seconds[place] for place in places])) for key, places in runs.items()}


class Gemm:
    """Seconds of Y[m,n] = X[m,k] W^T over the measured m, at any n and k.

    Between shapes time is blended linearly in n and in k: leave-one-out over the tables of four GPUs says that this
    beats blending time a FLOP or a byte, in logs or not (median 1.6 to 2.5 % along k, 2 to 5 % along n).
    """

    def __init__(self, path: Path, dtype: str) -> None:
        columns = read_columns(path, ("m", "n", "k"), ("gemm_dtype",))
        known = sorted(set(columns["gemm_dtype"].tolist()))
        if dtype not in known:
            raise ProfileError(str(path), f"has no {dtype} rows", f"one of {', '.join(known)}")
        found = points(path, keep(columns, columns["gemm_dtype"] == dtype), ("m", "n", "k"))
        self.path, self.dtype = path, dtype
        self.m, self.n, self.k = (np.array(sorted({key[axis] for key in found})) for axis in range(3))
        self.times = np.full((len(self.n), len(self.k), len(self.m)), np.nan)
        keys = np.array(list(found))
        at = (np.searchsorted(axis, keys[:, i]) for axis, i in ((self.n, 1), (self.k, 2), (self.m, 0)))
        self.times[tuple(at)] = list(found.values())

    def at(self, n: int, k: int) -> tuple[dict[int, float], int]:
        """m -> seconds for one shape, and whether it was measured, interpolated or estimated.

        Outside the table, and where the largest products are absent, the nearest shape is scaled by n*k.
        """
        if not (self.n[0] <= n and self.k[0] <= k):
            raise ProfileError(str(self.path), f"cannot serve n={n}, k={k}", f"n >= {self.n[0]}, k >= {self.k[0]}")
        (i, j, u), (p, q, v) = _cell(self.n, n), _cell(self.k, k)
        corners = self.times[np.ix_([i, j], [p, q])]
        inside = n <= self.n[-1] and k <= self.k[-1] and not np.isnan(corners).all(axis=2).any()
        if inside:
            low, high = corners[0] + u * (corners[1] - corners[0])
            times, source = low + v * (high - low), MEASURED if u in (0.0, 1.0) and v in (0.0, 1.0) else INTERPOLATED
        else:
            there = ~np.isnan(self.times).all(axis=2)
            apart = np.abs(np.log(self.n / n))[:, None] + np.abs(np.log(self.k / k))
            a, b = np.unravel_index(int(np.argmin(np.where(there, apart, np.inf))), there.shape)
            times, source = self.times[a, b] * (n * k / (self.n[a] * self.k[b])), ESTIMATED
        return {int(m): float(time) for m, time in zip(self.m, times, strict=True) if not np.isnan(time)}, source

    def left_out(self) -> dict[str, float | int | str]:
        """The error at each shape of real size without it, by blending its neighbours in n and in k."""
        errors: list[np.ndarray] = []
        for axis, sizes in ((0, self.n), (1, self.k)):
            x, times = sizes.astype(float), np.moveaxis(self.times, axis, 0)
            if len(x) < 3:
                continue
            weight = ((x[1:-1] - x[:-2]) / (x[2:] - x[:-2])).reshape(-1, 1, 1)
            error = np.abs((times[:-2] + weight * (times[2:] - times[:-2])) / times[1:-1] - 1)
            other = self.k if axis == 0 else self.n
            errors.append(error[x[1:-1] >= 1024][:, other >= 1024].ravel())
        flat = np.concatenate([np.empty(0), *errors])
        flat = flat[~np.isnan(flat)]
        if not flat.size:
            return {}
        return {"median": float(np.median(flat)), "p90": float(np.quantile(flat, 0.9)), "points": int(flat.size),
                "interpolation": "linear in n and k"}  # fmt: skip


def _cell(axis: np.ndarray, x: float) -> tuple[int, int, float]:
    """The neighbours of `x` and the weight of the upper one; the same neighbour twice where `x` is on the axis."""
    high = min(int(np.searchsorted(axis, x)), len(axis) - 1)
    if axis[high] <= x or high == 0:
        return high, high, 0.0
    return high - 1, high, float((x - axis[high - 1]) / (axis[high] - axis[high - 1]))


class Heads:
    """One attention table, cut to one head dimension and KV dtype, without sliding windows."""

    def __init__(self, path: Path, head_dim: int, kv_dtype: str, size: str) -> None:
        keys = ("num_heads", "num_key_value_heads", "batch_size", size)
        texts = ("attn_dtype", "kv_cache_dtype")
        columns = read_columns(path, (*keys, "head_dim", "step"), texts, ("window_size",))
        wanted = (columns["kv_cache_dtype"] == kv_dtype) & (columns["attn_dtype"] == "bfloat16")
        wanted &= (columns["head_dim"] == head_dim) & (columns["window_size"] == 0)
        if not wanted.any():
            known = sorted(
                {f"{int(d)}/{kv}" for d, kv in zip(columns["head_dim"], columns["kv_cache_dtype"], strict=True)}
            )
            raise ProfileError(
                str(path), f"has no rows of head_dim {head_dim} with a {kv_dtype} KV cache", ", ".join(known)
            )
        self.path = path
        self.heads: dict[tuple[int, int], dict[tuple[int, int], float]] = {}
        for (heads, kv, batch, x), time in points(path, keep(columns, wanted), keys).items():
            self.heads.setdefault((heads, kv), {})[batch, x] = time

    def of(self, heads: int, kv_heads: int) -> tuple[dict[tuple[int, int], float], int]:
        """(batch, size) -> seconds of a shard with these heads, and its source.

        Attention of one sequence with f*h heads is that of f sequences with h heads each (the same blocks of work), so
        shapes that were not measured are served by the smallest such f, labelled estimated.
        """
        for split in range(1, kv_heads + 1):
            known = self.heads.get((heads // split, kv_heads // split))
            if heads % split or kv_heads % split or known is None:
                continue
            if split == 1:
                return known, MEASURED
            if folded := _folded(known, split):
                return folded, ESTIMATED
        shapes = ", ".join(f"{h}/{kv}" for h, kv in sorted(self.heads, key=lambda s: abs(s[0] - heads))[:5])
        raise ProfileError(
            str(self.path), f"cannot serve {heads} heads over {kv_heads} KV heads", f"heads/KV heads like {shapes}"
        )


def _folded(known: dict[tuple[int, int], float], split: int) -> dict[tuple[int, int], float]:
    """Batch b as b*split of the smaller shape, linear between the measured batches."""
    slices: dict[int, dict[int, float]] = {}
    for (batch, x), time in known.items():
        slices.setdefault(x, {})[batch] = time
    folded: dict[tuple[int, int], float] = {}
    for x, times in slices.items():
        batches = sorted(times)
        for batch in batches:
            if batches[0] <= batch * split <= batches[-1]:
                folded[batch, x] = float(np.interp(batch * split, batches, [times[b] for b in batches]))
    return folded
