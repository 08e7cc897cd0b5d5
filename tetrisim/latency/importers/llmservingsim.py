"""LLMServingSim 2's per-op CSV tables (`dense`, `per_sequence`, `attention`, `skew`), as profiles.

What they cannot give, and what fills the gap: host overhead between steps (stated constant), the all-reduce of a
tensor-parallel shard (link model); both are labelled estimated.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from tetrisim.errors import ProfileError, nearest_name, unknown_name
from tetrisim.latency.importers.rows import csv_rows, packed_or_plain
from tetrisim.latency.importers.stage import CALLS_PER_LAYER, CALLS_PER_STEP, Draft, install
from tetrisim.latency.table import read_yaml
from tetrisim.scenario.gpu import GPUS
from tetrisim.scenario.model import load_model, model_names

KEPT = ("gpu", "vllm_version", "cuda_version", "profiled_at", "engine_effective")
COLUMNS = {
    "linear.csv": ("dense.csv", {"layer": "op", "tokens": "tokens", "time_us": "time_us"}),
    "head.csv": ("per_sequence.csv", {"layer": "op", "sequences": "sequences", "time_us": "time_us"}),
    "attention.csv": (
        "attention.csv",
        {
            "prefill_chunk": "prefill_tokens",
            "kv_prefill": "prefill_context",
            "n_decode": "decode_sequences",
            "kv_decode": "decode_context",
            "time_us": "time_us",
        },
    ),
    "skew.csv": (
        "skew.csv",
        {
            "pc": "prefill_tokens",
            "kp": "prefill_context",
            "n": "decode_sequences",
            "nb": "long_sequences",
            "kvs": "short_context",
            "kv_big": "long_context",
            "t_mean_us": "mean_us",
            "t_max_us": "long_us",
            "t_skew_us": "time_us",
        },
    ),
}
"""Our file -> theirs (gz accepted), and their column -> ours. Their times are microseconds too."""


def convert(source: Path, out: Path) -> list[Path]:
    """Write one profile for each `tp<k>` folder of `source` below `out`; returns the new folders.

    `source` holds `meta.yaml`. Every profile is read back before it is put in place; one that exists is not replaced.
    """
    meta = _meta(source / "meta.yaml")
    shards = sorted(folder for folder in source.glob("tp*") if folder.is_dir() and folder.name[2:].isdigit())
    if not shards:
        raise ProfileError(str(source), "has no folder tp<k>", "tp1, tp2, ... with dense.csv and attention.csv")
    gpu, model, dtype = _names(meta, source)
    drafts: list[Draft] = []
    for folder in shards:
        draft = Draft(
            gpu, load_model(model), dtype, int(folder.name[2:]),
            f"LLMServingSim tables of {meta['gpu']}, vLLM {meta['vllm_version']}, {meta['profiled_at']}",
            CALLS_PER_LAYER, CALLS_PER_STEP, {key: meta[key] for key in KEPT if key in meta},
        )  # fmt: skip
        for name, (theirs, columns) in COLUMNS.items():
            draft.tables[name] = (list(columns.values()), _rows(folder / theirs, columns))
            draft.origins[name] = packed_or_plain(folder / theirs)
        drafts.append(draft)
    return install(drafts, out)


def _meta(path: Path) -> dict[str, Any]:
    meta = read_yaml(path, "LLMServingSim's meta.yaml")
    for key in ("gpu", "hardware", "model", "variant", "vllm_version", "profiled_at"):
        if not isinstance(meta, dict) or key not in meta:
            raise ProfileError(str(path), f"key '{key}' is missing", "LLMServingSim's meta.yaml")
    return cast("dict[str, Any]", meta)


def _names(meta: dict[str, Any], source: Path) -> tuple[str, str, str]:
    """Their GPU and model in the words of the catalog."""
    where = str(source / "meta.yaml")
    flat = {name.replace("-", ""): name for name in GPUS}
    gpu = flat.get(str(meta["hardware"]).lower().replace("-", ""))
    if gpu is None:
        raise unknown_name(ProfileError, where, meta["hardware"], GPUS)
    model = str(meta["model"]).rsplit("/", 1)[-1].lower()
    if model not in model_names():
        raise unknown_name(ProfileError, where, model, model_names())
    return gpu, model, str(meta["variant"])


def _rows(source: Path, columns: dict[str, str]) -> Iterator[list[str]]:
    """Their rows one by one, so that a problem found later has the same line number in their file."""
    for where, row in csv_rows(source):
        for column in columns:
            if row.get(column) in (None, ""):
                expected = f"columns {', '.join(columns)}"
                raise ProfileError(where, f"no value for '{column}'", expected, nearest_name(column, row))
        yield [row[column] for column in columns]
