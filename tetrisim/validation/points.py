"""Steady-state points: rows of measured mean TTFT and TPOT at a concurrency, each simulated as that closed loop.

The layout is that of aiconfigurator's `silicon_sample.csv`. Which engine settings a row was measured with is known for
InferenceX's runs and taken as the engine's defaults for the others (loops.py). Rows that cannot be run, or that
contradict themselves, are left out with the reason.
"""

import csv
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from tetrisim.errors import ProfileError, TetrisimError, TraceError, nearest_name
from tetrisim.latency.importers import aiconfigurator
from tetrisim.latency.importers.aiconfigurator_tables import find_systems, systems_folder
from tetrisim.scenario.model import load_model, model_names
from tetrisim.validation.loops import DEFAULT_SEQS, Engine, Outcome, Point, Workers, run_loop

COLUMNS = ("id", "backend", "backend_version", "model_path", "system", "precision", "mode", "isl", "osl",
           "batch_size", "tp_size", "silicon_ttft_ms", "silicon_tpot_ms")  # fmt: skip
SAME_SHAPE = {"llama-3.3-70b": "llama-3.1-70b"}
"""Models that differ from one of the catalog in nothing but their weights."""
LABELS = ("all", "engine", "version", "model", "gpu", "dtype")
Row = Mapping[str, str]
Statistics = dict[str, float | int | None]


class _LeftOut(Exception):
    """Why a row is not run."""


@dataclass(frozen=True)
class PointsReport:
    """What was run, and what was left out with the reason."""

    file: str
    outcomes: list[Outcome]
    left_out: list[tuple[str, str]]

    def summary(self) -> dict[str, Any]:
        """Errors overall, by group and by degree, rank correlation, and every row; for JSON."""
        steps = sum(outcome.step_s for outcome in self.outcomes)
        return {
            "file": self.file,
            "points": len(self.outcomes),
            "left_out": [{"id": name, "reason": reason} for name, reason in self.left_out],
            "overall": statistics(self.outcomes),
            "groups": self._by("engine", "version", "model", "gpu", "dtype"),
            "by_tensor_parallel": self._by("engine", "version", "model", "gpu", "dtype", "tensor_parallel"),
            "rank": self._by("model", "gpu"),
            "within_tau": {name: within_tau(self.outcomes, name) for name in ("ttft", "tpot")},
            "estimated_share": sum(outcome.estimated_s for outcome in self.outcomes) / steps if steps else None,
            "rows": [_row(outcome) for outcome in self.outcomes],
        }

    def lines(self) -> list[str]:
        """The same as text, without the rows."""
        found = self.summary()
        total = len(self.outcomes) + len(self.left_out)
        lines = [f"{len(self.outcomes)} of {total} points run as closed loops; simulated against measured means"]
        lines += ["", f"{'':<53}{'points':>6}   TPOT: MAPE median   bias   tau   TTFT: MAPE median   bias   tau"]
        lines += [_line(group) for group in found["groups"]]
        lines += ["", "Kendall's tau within each model and GPU:"]
        lines += [_line(group) for group in found["rank"]]
        overall = dict(found["overall"]) | {f"tau_{name}": tau for name, tau in found["within_tau"].items()}
        lines += ["", _line({"all": "all points; tau within model and GPU", **overall})]
        if found["estimated_share"] is not None:
            lines.append(f"{found['estimated_share']:.0%} of the simulated step time is estimated, not measured")
        reasons = [reason for _, reason in self.left_out]
        lines += [f"left out: {reasons.count(reason):>3}  {reason}" for reason in dict.fromkeys(reasons)]
        return lines

    def _by(self, *keys: str) -> list[dict[str, Any]]:
        groups: dict[tuple[Any, ...], list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault(tuple(getattr(outcome.point, key) for key in keys), []).append(outcome)
        return [
            {**dict(zip(keys, group, strict=True)), **statistics(groups[group])} for group in sorted(groups, key=str)
        ]


def check_points(file: Path, profiles: Path | None) -> PointsReport:
    """Run every usable row of `file`; TraceError for a file of another layout, ProfileError for unusable tables.

    `profiles` is a folder of profiles, or of aiconfigurator's systems, from which profiles are composed for this one
    run; without it the tables of the installed package `aiconfigurator-core` are.
    """
    points, left_out = read_points(file)
    with tempfile.TemporaryDirectory(prefix="tetrisim-points-") as work:
        places, missing = _profiles(points, profiles, Path(work))
        left_out += missing
        jobs = [(point, places[point.name]) for point in points if point.name in places]
        workers = min(2, os.cpu_count() or 1)
        if workers == 1 or len(jobs) < 8:
            results = [_attempt(job) for job in jobs]
        else:
            with ProcessPoolExecutor(workers) as pool:
                results = list(pool.map(_attempt, jobs, chunksize=4))
    outcomes = [result for result in results if isinstance(result, Outcome)]
    left_out += [result for result in results if not isinstance(result, Outcome)]
    return PointsReport(file.name, outcomes, left_out)


def _attempt(job: tuple[Point, Path]) -> Outcome | tuple[str, str]:
    point, profile = job
    try:
        return run_loop(point, profile)
    except TetrisimError as error:
        return point.name, error.what


def read_points(file: Path) -> tuple[list[Point], list[tuple[str, str]]]:
    """The usable rows, and (id, reason) of the others."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            columns = list(reader.fieldnames or [])
            for column in COLUMNS:
                if column not in columns:
                    raise TraceError(f"{file}:1", f"column '{column}' is missing", "columns " + ", ".join(COLUMNS),
                                     nearest_name(column, columns))  # fmt: skip
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(str(file), f"cannot be read: {error}", "steady-state points as CSV") from None
    points: list[Point] = []
    left_out: list[tuple[str, str]] = []
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise TraceError(f"{file}:{number}", "has not one value a column", "a whole CSV file")
        name = row["id"] or f"line {number}"
        try:
            points.append(_point(name, row))
        except _LeftOut as reason:
            left_out.append((name, str(reason)))
    return points, left_out


def _point(name: str, row: Row) -> Point:
    engine, version, quantised = row["backend"], row["backend_version"], row.get("gemm_quant_mode", "")
    if engine not in DEFAULT_SEQS:
        raise _LeftOut(f"no model of the engine '{engine}'")
    if row["precision"] not in ("", "bf16", "fp8"):
        raise _LeftOut(f"no tables of precision '{row['precision']}'")
    if (why := _doubt(row)) is not None:
        raise _LeftOut(why)
    workers = _workers(row) if row["mode"] == "disagg" else None
    if workers is None:
        _whole_model(row, "")
    return Point(
        name, cast(Engine, engine), version, _model(row["model_path"]), _gpu(row["system"]),
        row["precision"] or "bf16",  # by fit of the rows that state none, says the data's own note
        "fp8_block" if quantised == "fp8_block" else "fp8",
        _count(row, "isl"), _count(row, "osl"), _concurrency(row),
        workers[1].tensor_parallel if workers else _count(row, "tp_size"),
        _number(row, "silicon_ttft_ms") * 1e-3, _number(row, "silicon_tpot_ms") * 1e-3, workers,
    )  # fmt: skip


def _doubt(row: Row) -> str | None:
    """Rows whose measured TPOT is 1.1 to 3 times below what their stated concurrency allows with full prompts."""
    vllm = row["backend"] == "vllm" and row["backend_version"] == "0.12.0"
    if (row["isl"], row["osl"]) == ("4000", "1000") and (vllm or row["backend_version"] == "1.2.0rc6.post1"):
        return "doubtful: 4000 to 1000 tokens of this version are faster than full prompts at that load can be"
    if vllm and row["model_path"] == "nvidia/Llama-3.1-8B-Instruct-FP8":
        return "doubtful: these runs are faster than full prompts at that load can be"
    return None


def _workers(row: Row) -> tuple[Workers, Workers]:
    found: list[Workers] = []
    for role in ("prefill_", "decode_"):
        _whole_model(row, role)
        counts = (_count(row, role + key) for key in ("num_workers", "tp_size", "batch_size"))
        found.append(Workers(*counts))
    return found[0], found[1]


def _whole_model(row: Row, role: str) -> None:
    for key, what in (("pp_size", "pipeline stages"), ("attention_dp_size", "data-parallel attention")):
        text = row.get(role + key, "")
        if text and float(text) > 1:
            raise _LeftOut(f"{what} are not modelled")


def _concurrency(row: Row) -> int:
    """The load named in the source, else the batch size, which is the same in a closed loop."""
    parts = [part.strip().split("=", 1) for part in row.get("silicon_data_source", "").split(";")]
    named = {part[0]: part[1] for part in parts if len(part) == 2}
    text = named.get("silicon_concurrency") or row["batch_size"]
    if not text:
        raise _LeftOut("the row does not say how many requests were in flight")
    return int(float(text))


def _model(path: str) -> str:
    name = path.rpartition("/")[2].lower().removeprefix("meta-")
    for suffix in ("-fp8", "-instruct"):
        name = name.removesuffix(suffix)
    name = SAME_SHAPE.get(name, name)
    if name not in model_names():
        raise _LeftOut(f"model '{path}' is not in the catalog")
    return name


def _gpu(system: str) -> str:
    if system not in aiconfigurator.SYSTEMS:
        raise _LeftOut(f"no tables of the system '{system}'")
    return aiconfigurator.SYSTEMS[system]


def _number(row: Row, column: str) -> float:
    try:
        value = float(row[column])
    except (KeyError, ValueError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise _LeftOut(f"{column} is no number above 0")
    return value


def _count(row: Row, column: str) -> int:
    return int(_number(row, column))


def _profiles(points: Sequence[Point], given: Path | None, work: Path) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """Point -> the folder that holds its profile, and the points that none can be composed for."""
    if given is not None and any(given.rglob("profile.yaml")):
        return {point.name: given for point in points}, []
    try:
        find_systems(systems_folder(given))
    except ProfileError as error:
        expected = "its systems, or imported profiles, with --profile DIR; or pip install 'tetrisim[aiconfigurator]'"
        raise ProfileError(error.where, error.what, expected) from None
    wanted: dict[tuple[str, str, str, bool, str, bool], set[int]] = {}
    for point in points:
        wanted.setdefault(_composition(point), set()).update(point.degrees)
    refused: dict[tuple[Any, ...], str] = {}
    for key, degrees in wanted.items():
        model, gpu, dtype, sequential, gemm, wide_kv = key
        for degree in sorted(degrees):
            try:
                aiconfigurator.convert(given, work / f"{sequential}-{gemm}-{wide_kv}", aiconfigurator.Wanted(
                    [load_model(model)], [gpu], [dtype], [degree], sequential, gemm, wide_kv))  # fmt: skip
            except ProfileError as error:
                refused[*key, degree] = f"no profile: {error.what}"
    places: dict[str, Path] = {}
    missing: list[tuple[str, str]] = []
    for point in points:
        key = _composition(point)
        reasons = [refused[*key, degree] for degree in sorted(point.degrees) if (*key, degree) in refused]
        if reasons:
            missing.append((point.name, reasons[0]))
        else:
            places[point.name] = work / f"{key[3]}-{key[4]}-{key[5]}"
    return places, missing


def _composition(point: Point) -> tuple[str, str, str, bool, str, bool]:
    gemm = point.gemm if point.dtype == "fp8" else "fp8"
    return point.model, point.gpu, point.dtype, point.sequential, gemm, point.wide_kv


def statistics(outcomes: Sequence[Outcome]) -> Statistics:
    """Errors of simulated against measured means: MAPE, median, signed mean (fractions), and Kendall's tau."""
    found: Statistics = {"points": len(outcomes)}
    for name in ("ttft", "tpot"):
        simulated, measured = _pair(outcomes, name)
        error = simulated / measured - 1
        found[f"mape_{name}"] = _or_none(np.mean, np.abs(error))
        found[f"median_{name}"] = _or_none(np.median, np.abs(error))
        found[f"bias_{name}"] = _or_none(np.mean, error)
        found[f"tau_{name}"] = kendall_tau(simulated, measured)
    return found


def _or_none(statistic: Callable[[np.ndarray], Any], values: np.ndarray) -> float | None:
    return float(statistic(values)) if values.size else None


def _pair(outcomes: Sequence[Outcome], name: str) -> tuple[np.ndarray, np.ndarray]:
    simulated = np.array([getattr(outcome, f"{name}_s") for outcome in outcomes], dtype=float)
    return simulated, np.array([getattr(outcome.point, f"{name}_s") for outcome in outcomes], dtype=float)


def _agreement(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Pairs in the same order minus pairs in opposite order, and the pairs that x and that y tell apart."""
    above = np.triu_indices(len(x), 1)
    a, b = (np.sign(values[:, None] - values[None, :])[above] for values in (x, y))
    return float((a * b).sum()), float((a != 0).sum()), float((b != 0).sum())


def kendall_tau(x: np.ndarray, y: np.ndarray) -> float | None:
    """Kendall's tau-b: 1 the same order, -1 the opposite one; None where all of x or of y are alike."""
    agreeing, apart_x, apart_y = _agreement(x, y)
    return agreeing / (apart_x * apart_y) ** 0.5 if apart_x and apart_y else None


def within_tau(outcomes: Sequence[Outcome], name: str) -> float | None:
    """Tau-b over the pairs of points that share model and GPU."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.point.model, outcome.point.gpu), []).append(outcome)
    sums = [_agreement(*_pair(group, name)) for group in groups.values()]
    agreeing, apart_x, apart_y = (sum(column) for column in zip(*sums, strict=True)) if sums else (0.0, 0.0, 0.0)
    return agreeing / (apart_x * apart_y) ** 0.5 if apart_x and apart_y else None


def _row(outcome: Outcome) -> dict[str, Any]:
    point = outcome.point
    return {
        "id": point.name, "engine": point.engine, "version": point.version, "model": point.model, "gpu": point.gpu,
        "dtype": point.dtype, "tensor_parallel": point.tensor_parallel, "concurrency": point.concurrency,
        "prompt_tokens": point.prompt_tokens, "output_tokens": point.output_tokens, "kv_blocks": outcome.kv_blocks,
        "preemptions": outcome.preemptions, "measured_ttft_ms": point.ttft_s * 1e3, "ttft_ms": outcome.ttft_s * 1e3,
        "measured_tpot_ms": point.tpot_s * 1e3, "tpot_ms": outcome.tpot_s * 1e3,
        "ttft_error": outcome.ttft_s / point.ttft_s - 1, "tpot_error": outcome.tpot_s / point.tpot_s - 1,
    }  # fmt: skip


def _line(group: Mapping[str, Any]) -> str:
    label = " ".join(str(group[key]) for key in LABELS if group.get(key))
    cells = [f"{label:<53}{group['points']:>6}"]
    for name in ("tpot", "ttft"):
        cells += [" " * 9, _percent(group[f"mape_{name}"]), _percent(group[f"median_{name}"])]
        cells += [_percent(group[f"bias_{name}"], "+"), _tau(group[f"tau_{name}"])]
    return "".join(cells)


def _percent(value: float | None, sign: str = "") -> str:
    return f"{'-':>7}" if value is None else f"{value:>{sign}7.1%}"


def _tau(value: float | None) -> str:
    return f"{'-':>6}" if value is None else f"{value:>6.2f}"
