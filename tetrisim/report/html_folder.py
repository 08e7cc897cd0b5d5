"""What a folder holds that a page can be made of: a run, a comparison, a sweep or a plan."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from tetrisim.errors import OutputError
from tetrisim.metrics.definitions import Columns

EXPECTED = "the folder that `run`, `compare`, `sweep` or `plan` wrote with --out"
_KINDS = {"plan.json": "plan", "sweep.json": "sweep", "run.json": "run"}
_COLUMNS = (
    "arrival_s", "prompt_tokens", "output_tokens", "prefill_start_s", "first_token_s", "transfer_start_s",
    "decode_start_s", "finish_s", "prefill_instance", "decode_instance", "status",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One system's run: its rows, its summary, what run.json records of it, and its resolved scenario as text."""

    system: str
    rows: Columns
    summary: Mapping[str, Any]
    record: Mapping[str, Any]
    scenario: str

    @property
    def counted(self) -> Columns:
        """The rows without those that the summary leaves out as warm-up."""
        cut = int(self.summary.get("warmup_requests") or 0)
        return {name: column[cut:] for name, column in self.rows.items()}


@dataclass(frozen=True)
class Runs:
    """A run (one part, `scenario` its own) or a comparison; `differences` where it was run under several seeds."""

    record: Mapping[str, Any]
    parts: Sequence[Part]
    scenario: str
    differences: Mapping[str, Any] | None


@dataclass(frozen=True)
class Study:
    """A sweep or a plan: what its JSON holds, and the texts kept with the answers of a plan, by their place in it.

    `slo` is that of a sweep's first run; it is empty where there is none.
    """

    kind: str
    content: Mapping[str, Any]
    texts: Mapping[str, str]
    slo: Mapping[str, float | None]


def read_folder(folder: Path) -> Runs | Study:
    """Read what a page needs; raises OutputError when the folder holds none of the four, or is damaged."""
    if not folder.is_dir():
        raise OutputError(str(folder), "is not a folder" if folder.exists() else "is not there", EXPECTED)
    name = next((name for name in _KINDS if (folder / name).is_file()), None)
    if name is None and (folder / "requests.parquet").is_file() and (folder.parent / "run.json").is_file():
        raise OutputError(str(folder), "is one run of a comparison", EXPECTED, str(folder.parent))
    if name is None:
        raise OutputError(str(folder), f"holds none of {', '.join(reversed(_KINDS))}", EXPECTED)
    content = _json(folder / name)
    try:
        return _runs(folder, content) if _KINDS[name] == "run" else _study(_KINDS[name], folder, content)
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as problem:
        lacks = f"lacks {problem}" if isinstance(problem, KeyError) else f"cannot be read ({problem})"
        raise OutputError(str(folder), lacks, f"{EXPECTED}, as it was written") from None


def _runs(folder: Path, record: dict[str, Any]) -> Runs:
    import pandas as pd

    table = pd.read_csv(folder / "summary.csv", dtype={"system": str}, keep_default_na=False, na_values=[""])
    summaries = [
        {key: None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")
    ]
    # A run has its rows beside run.json, a comparison has a folder a system.
    lone = (folder / "requests.parquet").is_file()
    parts = [
        _part(folder if lone else folder / str(own["system"]), summary, own)
        for summary, own in zip(summaries, record["runs"], strict=True)
    ]
    differences = folder / "differences.json"
    return Runs(record, parts, _scenario(folder), _json(differences) if differences.is_file() else None)


def _study(kind: str, folder: Path, content: dict[str, Any]) -> Study:
    if kind == "plan":
        kept = [path for name in ("serve.sh", "scenario.yaml") for path in folder.glob(f"*/{name}")]
        order = sorted(kept, key=lambda path: (int(path.parent.name.partition("-")[0] or 0), path.name != "serve.sh"))
        return Study(kind, content, {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in order}, {})
    first = next((str(row["key"]).split(" ")[0] for row in content["rows"] if row.get("status") == "ok"), "")
    record = folder / "runs" / first / "run.json"
    slo = _json(record).get("slo", {}) if first and record.is_file() else {}
    return Study(kind, content, {}, slo)


def _part(folder: Path, summary: Mapping[str, Any], record: Mapping[str, Any]) -> Part:
    # Heavy, and needed only for a folder with rows.
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "requests.parquet")
    for name in _COLUMNS:
        if name not in table.column_names:
            raise KeyError(f"column {name} of requests.parquet")
    rows = {name: table.column(name).to_numpy() for name in _COLUMNS}
    for name in ("prefill_instance", "decode_instance", "status"):
        rows[name] = np.asarray(rows[name], dtype=str)
    summary = {**summary, "provenance": record["provenance"]}
    return Part(str(record["system"]), rows, summary, record, _scenario(folder))


def _scenario(folder: Path) -> str:
    path = folder / "scenario.yaml"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise OutputError(str(path), f"cannot be read ({problem})", "the JSON that tetrisim wrote") from None
    if not isinstance(found, dict):
        raise OutputError(str(path), "holds no mapping", "the JSON that tetrisim wrote")
    return cast("dict[str, Any]", found)
