"""The folder of a run or a comparison: written under a temporary name beside it, renamed when complete."""

import json
import os
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tetrisim import __version__
from tetrisim.errors import OutputError
from tetrisim.metrics.breakdown import PARTS, TO_FIRST_TOKEN, Parts, breakdown, means
from tetrisim.metrics.summary import Summary
from tetrisim.metrics.warmup import counted
from tetrisim.scenario.load import dump_yaml
from tetrisim.simulate import Result
from tetrisim.studies.compare import Comparison

Picture = Callable[[Path], object]
"""Draws the figure of the study into the file it is given."""

REQUEST_COLUMNS = (
    "request_id", "arrival_s", "prompt_tokens", "output_tokens", "predicted_tokens", "prefill_start_s",
    "first_token_s", "transfer_start_s", "transfer_end_s", "decode_start_s", "finish_s", "lost_prefill_s",
    "lost_decode_s", "cached_tokens", "recomputations", "preemptions", "prefill_instance", "decode_instance", "status",
    "class",
)  # fmt: skip
"""The columns of requests.parquet: times in seconds of the simulated clock; `class` where the workload has classes."""

SLOWEST = 0.05
"""The share of requests whose breakdown run.json also holds by itself: where the high percentiles come from."""


def check_free(folder: Path) -> None:
    """Raise OutputError, with the nearest free name, when there is something called `folder` already."""
    if folder.exists() or folder.is_symlink():
        base = folder if folder.name not in ("", "..") else folder.resolve() / "out"
        free = next(name for n in range(2, 10**6) if not (name := base.with_name(f"{base.name}-{n}")).exists())
        raise OutputError(str(folder), "exists already", "a folder that is not there yet", str(free))


def write_json(path: Path, value: object) -> None:
    """Write strict JSON that a person can read: a value that does not exist is null, never NaN."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def new_folder(folder: Path) -> Generator[Path]:
    """A temporary folder beside `folder` to write in; it takes that name at the end, or vanishes.

    Raises OutputError when `folder` exists or the disk refuses.
    """
    check_free(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        check_free(folder)
        partial.rename(folder)
    except OSError as error:
        raise OutputError(str(folder), f"cannot write: {error.strerror or error}", "a writable folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def save_run(folder: Path, result: Result, summary: Summary, picture: Picture) -> None:
    """Write requests.parquet, scenario.yaml (resolved), summary.csv, run.json, latency.png in a folder."""
    with new_folder(folder) as partial:
        _write_result(partial, result)
        _write_study(partial, [summary], [result], picture)


def save_comparison(folder: Path, comparison: Comparison, picture: Picture) -> None:
    """Write summary.csv, run.json, latency.png, scenario.yaml, and below them a folder for each system.

    The scenario.yaml beside summary.csv is what was compared, before any system filled in its presets.
    """
    with new_folder(folder) as partial:
        (partial / "scenario.yaml").write_text(yaml.safe_dump(comparison.scenario.document, sort_keys=False))
        for system, result in comparison.results.items():
            (partial / system).mkdir()
            _write_result(partial / system, result)
        _write_study(partial, comparison.summaries, list(comparison.results.values()), picture)


def _write_result(folder: Path, result: Result) -> None:
    # Heavy, and needed only once there is something to write.
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: result.request_columns[name] for name in REQUEST_COLUMNS if name in result.request_columns})
    pq.write_table(table, folder / "requests.parquet", compression="zstd")
    (folder / "scenario.yaml").write_text(dump_yaml(result.scenario))


def _write_study(
    folder: Path, summaries: Sequence[Mapping[str, Any]], results: Sequence[Result], picture: Picture
) -> None:
    import pandas as pd

    flat = [{**summary, "provenance": "; ".join(summary["provenance"])} for summary in summaries]
    pd.DataFrame(flat).to_csv(folder / "summary.csv", index=False)
    scenario = results[0].scenario  # seed and SLO are those of all
    runs = [_record(summary, result) for summary, result in zip(summaries, results, strict=True)]
    record = {"tetrisim": __version__, "seed": scenario.seed, "slo": asdict(scenario.slo), "runs": runs}
    write_json(folder / "run.json", record)
    picture(folder / "latency.png")


def _record(summary: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """Where the numbers of a run come from, what they took, and what its rows alone do not tell."""
    shares = ("measured_share", "interpolated_share", "estimated_share")
    parts = breakdown(counted(result, summary.get("warmup_requests", 0)))
    return {
        **{key: summary[key] for key in ("system", "wall_s", "simulated_s", *shares, "provenance")},
        **{key: summary[key] for key in ("warmup_requests", "warmup_rule") if key in summary},
        "breakdown": means(parts),
        "breakdown_slowest": _slowest(parts),
        "instances": _instances(result),
    }


def _slowest(parts: Parts) -> dict[str, float]:
    """Mean parts up to the first token of the slowest requests to it, and the others of the slowest after it."""
    mean: dict[str, float] = {}
    for among in (TO_FIRST_TOKEN, tuple(PARTS)[len(TO_FIRST_TOKEN) :]):
        total = sum(parts[part] for part in among)
        slow = np.argsort(-total, kind="stable")[: int(np.ceil(SLOWEST * np.size(total)))]
        mean |= means({part: parts[part][slow] for part in among})
    return mean


def _instances(result: Result) -> list[dict[str, Any]]:
    """A row an instance, with the tokens that its KV blocks hold; None for the times of one that never worked."""
    columns = {name: column.tolist() for name, column in result.instance_columns.items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    block_tokens = [pool.block_tokens for pool in result.scenario.cluster.pools for _ in range(pool.instances)]
    for row, tokens in zip(rows, block_tokens, strict=False):
        row["kv_tokens"] = row.get("kv_blocks", 0) * tokens
    return [{key: None if isinstance(v, float) and isnan(v) else v for key, v in row.items()} for row in rows]
