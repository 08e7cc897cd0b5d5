"""Runs kept under the hash of all that made them: a folder that is there need not be simulated again."""

import fcntl
import json
import os
import shutil
import sys
import uuid
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import simpy

import tetrisim
from tetrisim.errors import OutputError
from tetrisim.latency.build import profile_folder
from tetrisim.scenario.model import load_model, model_names
from tetrisim.scenario.reader import dump
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.store import new_folder
from tetrisim.workload.trace import trace_names

Input = tuple[Any, ...]
"""What a scenario names outside the package: ("trace", path), ("model", path), ("policy", module), or ("profile",
profile, gpu, model, dtype, tensor_parallel)."""

RUN_FILES = ("requests.parquet", "scenario.yaml", "summary.csv", "run.json", "key.json", "summary.json")
"""What a kept run holds at least: the files of every run, what its key is the hash of, and the exact summary."""

_NOT_OF_A_RUN = ("cli", "report", "validation", "profiling", "_profiles", "_experiments", "__pycache__")
"""Parts of the package that no run imports (the import contracts see to it), and tables that are inputs."""


@cache
def versions() -> dict[str, str]:
    """What a worker must have as we have it: `code` is a hash of the package's files, as first seen by this process."""
    root = Path(tetrisim.__file__).parent
    code = sha256()
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and parts[0] not in _NOT_OF_A_RUN and "__pycache__" not in parts:
            code.update(repr((parts, path.read_bytes())).encode())
    return {
        "python": ".".join(map(str, sys.version_info[:2])),
        "tetrisim": tetrisim.__version__,
        "numpy": np.__version__,  # its random streams may change between versions
        "simpy": simpy.__version__,
        "code": code.hexdigest()[:16],
    }


def inputs(scenario: Scenario) -> list[Input]:
    """The files that a run of the scenario reads."""
    cluster, found = scenario.cluster, list[Input]()
    if scenario.workload.trace not in trace_names():
        found.append(("trace", scenario.workload.trace))
    if scenario.model not in model_names():
        found.append(("model", scenario.model))
    if scenario.profile != "roofline":
        model = load_model(scenario.model).name
        for pool in cluster.pools:
            shard = (pool.gpu or cluster.gpu, model, scenario.dtype, pool.tensor_parallel)
            found.append(("profile", scenario.profile, *shard))
    found += [("policy", name.partition(":")[0]) for name in cluster.policies if ":" in name]
    return list(dict.fromkeys(found))


def digest(item: Input) -> str:
    """A hash of the content of an input as this machine sees it; empty where there is none: the run says what is wrong.

    Of a policy of the user's own only the file that it stands in is read, not what that imports.
    """
    kind, ref, *shard = item
    if kind == "profile":
        folder = profile_folder(ref, *shard)
        return _digest(sorted(folder.iterdir()) if folder else [])
    if kind == "policy":
        origin = _origin(ref)
        return _digest([origin] if origin else [])
    return _digest([Path(ref)])


def import_roots(scenario: Scenario) -> list[str]:
    """The folders that the scenario's own policies are imported from."""
    roots: dict[str, None] = {}
    for kind, module, *_ in inputs(scenario):
        origin = _origin(module) if kind == "policy" else None
        if origin is not None:
            up = module.count(".") + (origin.name == "__init__.py")
            roots[str(origin.parents[up])] = None
    return list(roots)


def _origin(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _digest(files: Iterable[Path]) -> str:
    try:
        seen = [(file, file.stat()) for file in files if file.is_file()]
        parts = [(file.name, _file_digest(str(file), s.st_size, s.st_mtime_ns, s.st_ino)) for file, s in seen]
    except OSError:
        return ""
    return sha256(repr(parts).encode()).hexdigest() if parts else ""


@lru_cache(4096)
def _file_digest(path: str, *_: int) -> str:
    """Read again when size, time or inode have changed."""
    with open(path, "rb") as file:
        found = sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def run_key(scenario: Scenario) -> str:
    """32 hex digits of all that decides a run; where its files lie is no part of it."""
    return key_of(made_of(scenario))


def key_of(made: Mapping[str, Any]) -> str:
    """The key of what `made_of` says."""
    return sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]


def made_of(scenario: Scenario) -> dict[str, Any]:
    """What the key is the hash of."""
    resolved: dict[str, Any] = {**dump(scenario), "model": load_model(scenario.model).name}
    named: list[Any] = []
    for item in inputs(scenario):
        kind, ref, *shard = item
        named.append([kind, Path(ref).name if kind in ("trace", "model") else ref, *shard, digest(item)])
        if kind == "trace":
            resolved["workload"]["trace"] = Path(ref).name
        if kind == "profile":
            resolved["profile"] = named[-1][1] = "tables" if named[-1][-1] else "none"
    return {"scenario": resolved, "inputs": named, **versions()}


class Cache:
    """The folder of a sweep: `runs/<key>/`, and the sweep's own files beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"

    def has(self, key: str, files: Iterable[str] = RUN_FILES) -> bool:
        """Whether a finished run is there; one that lacks a file, or has an empty one, is not."""
        try:
            return all((self.runs / key / name).stat().st_size for name in files)
        except OSError:
            return False

    def put(self, key: str, files: Mapping[str, bytes]) -> None:
        """Keep a run: written under another name, then renamed; raises OutputError when the disk refuses."""
        final = self.runs / key
        partial = self.runs / f".{key}.{uuid.uuid4().hex}.partial"
        try:
            partial.mkdir(parents=True)
            for name, content in files.items():
                (partial / name).write_bytes(content)
            if final.exists() and not self.has(key, files):
                shutil.rmtree(final)
            try:
                partial.rename(final)
            except OSError:
                if not self.has(key):  # else another sweep was first, with the same content
                    raise
        except OSError as error:
            raise self._refused(error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def summary(self, key: str) -> dict[str, Any]:
        """The summary of a run, as `summarize` made it."""
        return json.loads((self.runs / key / "summary.json").read_text())

    def write(self, name: str, text: str) -> None:
        """Replace a file of the sweep in one move."""
        partial = self.folder / f".{name}.{uuid.uuid4().hex}.partial"
        try:
            partial.write_text(text)
            partial.replace(self.folder / name)
        except OSError as error:
            raise self._refused(error) from error
        finally:
            partial.unlink(missing_ok=True)

    def clean(self) -> None:
        """Remove what a killed sweep left half-written; only for one that is alone here."""
        for partial in (*self.folder.glob(".*.partial"), *self.runs.glob(".*.partial")):
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(str(self.folder), f"cannot write: {error.strerror or error}", "a writable folder")


@contextmanager
def open_cache(folder: Path, first: str) -> Generator[Cache]:
    """The folder of a sweep, made with `first` as its sweep.json where there is none; other folders are refused.

    Several sweeps may have it open at once. What a killed one left half-written goes when one opens it alone.
    """
    if not _is_sweep(folder):
        _make(folder, first)
    kept = Cache(folder)
    try:
        kept.runs.mkdir(exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OutputError(str(folder), f"cannot write: {error.strerror}", "a writable folder") from error
    try:
        _clean_alone(kept, lock)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield kept
    finally:
        _clean_alone(kept, lock)
        os.close(lock)


def _clean_alone(kept: Cache, lock: int) -> None:
    with suppress(OSError):  # others are at work, or the file system has no locks
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        kept.clean()


def _make(folder: Path, first: str) -> None:
    try:
        with new_folder(folder) as partial:
            (partial / "sweep.json").write_text(first)
    except OutputError as error:
        if _is_sweep(folder):
            return  # another sweep was first
        expected = f"{error.expected}, or one that a sweep made" if "exists" in error.what else error.expected
        raise OutputError(error.where, error.what, expected, error.nearest) from error


def _is_sweep(folder: Path) -> bool:
    try:
        return json.loads((folder / "sweep.json").read_text())["kind"] == "sweep"
    except (OSError, ValueError, KeyError, TypeError):
        return False
