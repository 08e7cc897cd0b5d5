"""`tetrisim profile measure`, without the command line: checks first, then one profile after the other."""

import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tetrisim.errors import ProfileError
from tetrisim.profiling.devices import catalog_name, check_device
from tetrisim.profiling.harness import Progress, Run
from tetrisim.profiling.plan import build_plan
from tetrisim.profiling.shape import ShardShape, shard_shape
from tetrisim.profiling.store import Store

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
DEFAULT_DTYPE = {"cpu": "fp32", "cuda": "bf16"}


@dataclass(frozen=True)
class Wish:
    """What to measure, as texts of the command line."""

    model: str
    device: str
    tp: str
    dtype: str | None
    budget: str
    out: Path
    gpu: str | None


def budget_s(text: str) -> float:
    """Seconds in a text such as 10m, 90s or 1h."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(s|m|min|h)\s*", text)
    if match is None or not 0 < float(match[1]) * _UNITS[match[2]] <= 7 * 86400:
        raise ProfileError("--budget", f"is '{text}'", "a time such as 10m, 90s or 1h")
    return float(match[1]) * _UNITS[match[2]]


def wished_shapes(wish: Wish) -> list[ShardShape]:
    """The shards to measure."""
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", wish.tp.replace(" ", "")):
        raise ProfileError("--tp", f"is '{wish.tp}'", "whole numbers, as in 1,2,4")
    dtype = wish.dtype or DEFAULT_DTYPE.get(wish.device, "bf16")
    return [shard_shape(wish.model, dtype, count) for count in sorted({int(part) for part in wish.tp.split(",")})]


def measure(wish: Wish, show: Callable[[str, Progress], None]) -> list[Path]:
    """The folders of the profiles; `show` gets the title of the one under way and its progress."""
    budget = budget_s(wish.budget)
    shapes = wished_shapes(wish)
    check_device(wish.device, shapes[0].dtype, wish.gpu)
    if find_spec("torch") is None:
        raise ProfileError("profile measure", "needs torch, which is not installed", "pip install 'tetrisim[profile]'")
    from tetrisim.profiling.bench import TorchBench, open_device
    from tetrisim.profiling.timer import device_facts

    end = time.monotonic() + budget
    device = open_device(wish.device, shapes[0].dtype)
    import torch  # pyright: ignore[reportMissingImports]

    facts = device_facts(device, torch.get_num_threads())
    gpu = catalog_name(wish.device, facts["device"], wish.gpu)
    stores = [Store(wish.out, gpu, shape, facts) for shape in shapes]
    folders: list[Path] = []
    for at, (shape, store) in enumerate(zip(shapes, stores, strict=True)):
        title = f"{gpu} {shape.model.name} {shape.dtype} tp{shape.tensor_parallel}"
        # What is left is shared evenly among the profiles still to come.
        until = time.monotonic() + (end - time.monotonic()) / (len(shapes) - at)
        bench = TorchBench(shape, device)
        Run(store, bench, until).measure(build_plan(shape, bench.limits), lambda progress, t=title: show(t, progress))
        folders.append(store.folder)
        del bench
        gc.collect()
        if wish.device == "cuda":
            torch.cuda.empty_cache()
    return folders
