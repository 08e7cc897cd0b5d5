"""What every importer ends with: the new profiles are written aside, read back, checked, and then put in place."""

import csv
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tetrisim.errors import OutputError, ProfileError
from tetrisim.latency.check import Errors, check_profile, choose_interpolation, rounded
from tetrisim.latency.grid import SOURCES
from tetrisim.latency.table import KEYS, read_profile
from tetrisim.scenario.model import ModelSpec

CALLS_PER_LAYER = {
    "layernorm": 2, "qkv_proj": 1, "rotary_emb": 1, "o_proj": 1, "gate_up_proj": 1, "act_fn": 1, "down_proj": 1,
}  # fmt: skip
CALLS_PER_STEP = {"embedding": 1, "final_layernorm": 1, "lm_head": 1, "sampler": 1}
"""How often a layer and a step of a Llama-like model call each op, by the names that our tables have."""

Rows = Iterable[Sequence[Any]]


@dataclass
class Draft:
    """A profile that is not yet on disk."""

    gpu: str
    model: ModelSpec
    dtype: str
    tensor_parallel: int
    source: str
    calls_per_layer: dict[str, int]
    calls_per_step: dict[str, int]
    provenance: dict[str, Any]
    tables: dict[str, tuple[Sequence[str], Rows]] = field(default_factory=dict[str, tuple[Sequence[str], Rows]])
    """File -> its columns and rows."""
    includes: tuple[str, ...] = ()
    origins: dict[str, Path] = field(default_factory=dict[str, Path])
    """File -> the file that it repeats row by row: problems are reported there."""
    errors: Errors = field(default_factory=dict[str, dict[str, float | int | str]])
    """Leave-one-out errors that only the importer can know."""

    def add(self, name: str, rows: Iterable[tuple[tuple[Any, ...], float, int]]) -> None:
        """A table of (key, seconds, source) in the order of the keys."""
        columns = (*KEYS[name], "time_us", "source")
        ordered = sorted(rows, key=lambda row: row[0])
        self.tables[name] = (
            columns,
            [(*key, f"{seconds * 1e6:.6g}", SOURCES[source]) for key, seconds, source in ordered],
        )

    @property
    def place(self) -> Path:
        """Its folder below the root of profiles."""
        return Path(self.gpu, self.model.name, self.dtype, f"tp{self.tensor_parallel}")


def install(drafts: Sequence[Draft], out: Path) -> list[Path]:
    """Write the drafts below `out` and return their folders; nothing is left behind when one of them is not sound.

    A profile that exists is not replaced (OutputError). A value that cannot be, or a time that beats the card's
    physics, raises ProfileError with file and row.
    """
    for draft in drafts:
        if draft.model.experts and "gate_up_proj" in draft.calls_per_layer:
            raise ProfileError("--model", f"{draft.model.name} has experts", "a dense model: these tables have none")
    targets = [out / draft.place for draft in drafts]
    for target in targets:
        if target.exists():
            raise OutputError(str(target), "exists already", "a new folder")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".import-") as work:
            staged = [Path(work) / str(number) for number in range(len(drafts))]
            for draft, stage in zip(drafts, staged, strict=True):
                stage.mkdir()
                _write(draft, stage)
            for stage, target in zip(staged, targets, strict=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                stage.rename(target)
    except OSError as error:
        raise OutputError(str(out), f"cannot be written: {error.strerror}", "a folder of yours") from None
    finally:
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return targets


def _write(draft: Draft, stage: Path) -> None:
    for name, (columns, rows) in draft.tables.items():
        with (stage / name).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
    meta: dict[str, Any] = {
        "gpu": draft.gpu, "model": draft.model.name, "dtype": draft.dtype, "tensor_parallel": draft.tensor_parallel,
        "source": draft.source, "calls_per_layer": draft.calls_per_layer, "calls_per_step": draft.calls_per_step,
        "shape": asdict(draft.model), "provenance": draft.provenance,
    }  # fmt: skip
    if draft.model.experts:
        model = draft.model
        meta["experts"] = {"count": model.experts, "active": model.active_experts, "intermediate": model.intermediate}
    if draft.includes:
        meta["includes"] = list(draft.includes)
    path = stage / "profile.yaml"
    try:
        path.write_text(yaml.safe_dump(meta, sort_keys=False))
        interpolation, errors = choose_interpolation(read_profile(stage))
        meta |= {"interpolation": interpolation, "errors": rounded(draft.errors | errors)}
        path.write_text(yaml.safe_dump(meta, sort_keys=False))
        hard = [finding for finding in check_profile(stage) if finding.hard]
        if hard:
            more = f" (and {len(hard) - 1} more)" if len(hard) > 1 else ""
            raise ProfileError(hard[0].where, hard[0].what + more, hard[0].expected)
    except ProfileError as error:
        raise _at_origin(error, draft, stage) from None


def _at_origin(error: ProfileError, draft: Draft, stage: Path) -> ProfileError:
    """The error named after the file that the user knows, not after the copy that is about to vanish."""
    where = error.where
    for name, origin in draft.origins.items():
        where = where.replace(str(stage / name), str(origin))
    where = where.replace(str(stage), str(draft.place))
    return ProfileError(where, error.what, error.expected, error.nearest)
