"""Single changes to a scenario, as the settings of `--set`: more machines, other shapes, other systems."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tetrisim.errors import ScenarioError
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import GPUS, GpuSpec, load_gpu
from tetrisim.scenario.load import override
from tetrisim.scenario.presets import SYSTEMS
from tetrisim.scenario.reader import dump
from tetrisim.scenario.scenario import Scenario
from tetrisim.units import text

FASTER_GPUS = 3
"""How many of the faster GPUs are tried, the cheapest first."""
MORE_MEMORY = 0.95
"""The share of GPU memory that is tried where less is used."""

RIVALS = ("vllm-v1", "sarathi", "tetriinfer")
"""The systems tried beside the scenario's own ones: one token budget, a small one, and prefill apart from decode."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is different, in words and as dotted settings."""

    name: str
    settings: Mapping[str, object]

    @property
    def flags(self) -> str:
        """The `--set` text that reproduces it, for a shell."""
        return " ".join(f"--set {shlex.quote(f'{key}={value}')}" for key, value in self.settings.items())


@dataclass(frozen=True, slots=True)
class Refused:
    """A change that this scenario cannot take, and why."""

    name: str
    why: str


def apply(scenario: Scenario, change: Change) -> Scenario:
    """The scenario with a change; ScenarioError where it is not valid, or where something else overrides it."""
    changed = override(scenario, change.settings)
    written = dump(changed)
    own = f"systems.{changed.system}."
    for key, value in change.settings.items():
        if _find(written, key.removeprefix(own)) != value:
            raise ScenarioError(key, "has no effect", "no entry of systems: or rule of the system that decides it")
    return changed


def improvements(scenario: Scenario) -> list[Change]:
    """Single changes that may make it faster."""
    keys = _Keys(scenario)
    return [
        *(change for index in range(len(scenario.cluster.pools)) for change in _grown(keys, index)),
        *_moved(keys),
        *_linked(keys),
        *(change for index in range(len(scenario.cluster.pools)) for change in _reshaped(keys, index)),
        *_faster(keys),
        *_systems(scenario),
    ]


def savings(scenario: Scenario) -> list[Change]:
    """Single changes that cost less: fewer instances or GPUs, or cheaper ones."""
    keys = _Keys(scenario)
    changes: list[Change] = []
    for index, pool in enumerate(scenario.cluster.pools):
        name, tensor_parallel = keys.name(index), pool.tensor_parallel
        if pool.instances > 1:
            changes.append(Change(f"-1 {name} instance", {keys.pool(index, "instances"): pool.instances - 1}))
        if tensor_parallel % 2 == 0:
            what = f"{name} tensor_parallel {tensor_parallel // 2}"
            changes.append(Change(what, {keys.pool(index, "tensor_parallel"): tensor_parallel // 2}))
    cheaper = {gpu.name: gpu for old in keys.gpus for gpu in GPUS.values() if gpu.price_per_hour < old.price_per_hour}
    return changes + _on_gpus(keys, [gpu for gpu in cheaper.values() if gpu.name != "cpu"])


def unavailable(scenario: Scenario) -> list[Refused]:
    """Changes that there is nothing to try of, and why."""
    cluster, found = scenario.cluster, list[Refused]()
    if cluster.kv_link is None:
        found.append(Refused("a faster link", "hybrid instances send no KV cache"))
    elif cluster.kv_link.granularity == "layer":
        found.append(Refused("KV sent layer by layer", "it is already"))
    keys = _Keys(scenario)
    for index, pool in enumerate(cluster.pools):
        name = keys.name(index)
        if pool.max_num_seqs is None:
            found.append(Refused(f"{name} max_num_seqs", "it has no limit"))
        if pool.kv_blocks is not None:
            found.append(Refused(f"{name} memory_utilization", "its kv_blocks are given"))
        elif pool.memory_utilization >= MORE_MEMORY:
            found.append(Refused(f"{name} memory_utilization", f"it is {pool.memory_utilization:g}"))
    others = [
        name for name in SYSTEMS if name not in (*RIVALS, scenario.system, *(scenario.document.get("systems") or {}))
    ]
    found.append(Refused(f"systems {', '.join(others)}", "`tetrisim compare` runs them"))
    if not any(_faster_than(gpu) for gpu in keys.gpus):
        found.append(Refused("a faster GPU", "the catalog has none"))
    return found


class _Keys:
    """Where a scenario keeps its settings: in `cluster`, or in the entry of its own system."""

    def __init__(self, scenario: Scenario) -> None:
        self.cluster = scenario.cluster
        own = (scenario.document.get("systems") or {}).get(scenario.system) or {}
        self._own: Mapping[str, Any] = own.get("cluster") or {}
        self._prefix = f"systems.{scenario.system}."

    def at(self, key: str) -> str:
        """The dotted key of `cluster.KEY` where it counts."""
        return f"{self._prefix if key.split('.')[0] in self._own else ''}cluster.{key}"

    def pool(self, index: int, key: str) -> str:
        """The dotted key of a pool's setting."""
        return self.at(f"pools.{index}.{key}")

    def name(self, index: int) -> str:
        """A pool in words: its role, and its index where it shares that."""
        roles = [pool.role for pool in self.cluster.pools]
        return roles[index] if roles.count(roles[index]) == 1 else f"{roles[index]} (pool {index})"

    @property
    def gpus(self) -> list[GpuSpec]:
        """The GPU of each pool."""
        return [load_gpu(pool.gpu or self.cluster.gpu) for pool in self.cluster.pools]


def _find(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = document[int(part)] if isinstance(document, list) else (document or {}).get(part)
    return document


def _grown(keys: _Keys, index: int) -> Iterator[Change]:
    pool, name = keys.cluster.pools[index], keys.name(index)
    yield Change(f"+1 {name} instance", {keys.pool(index, "instances"): pool.instances + 1})
    wide = {keys.pool(index, "tensor_parallel"): pool.tensor_parallel * 2}
    yield Change(f"{name} tensor_parallel {pool.tensor_parallel * 2}", wide)
    if pool.instances % 2 == 0:
        half = {keys.pool(index, "instances"): pool.instances // 2, **wide}
        yield Change(f"{name} tensor_parallel {pool.tensor_parallel * 2}, half the instances", half)


def _moved(keys: _Keys) -> Iterator[Change]:
    """An instance from one pool to another of the other role, where both have the same GPUs."""
    pools = keys.cluster.pools
    for giver, one in enumerate(pools):
        for taker, other in enumerate(pools):
            alike = (one.tensor_parallel, one.gpu) == (other.tensor_parallel, other.gpu)
            if one.role != other.role and alike and one.instances > 1:
                settings = {
                    keys.pool(giver, "instances"): one.instances - 1,
                    keys.pool(taker, "instances"): other.instances + 1,
                }
                yield Change(f"1 instance from {keys.name(giver)} to {keys.name(taker)}", settings)


def _linked(keys: _Keys) -> Iterator[Change]:
    link = keys.cluster.kv_link
    if link is None:
        return
    for times in (2, 4):
        speed = text(link.bandwidth_bytes_per_s * times, "_bytes_per_s")
        yield Change(f"link {times} times as fast", {keys.at("kv_link.bandwidth"): speed})
    if link.granularity != "layer":
        yield Change("KV sent layer by layer", {keys.at("kv_link.granularity"): "layer"})


def _reshaped(keys: _Keys, index: int) -> Iterator[Change]:
    """Other steps, seats and memory of a pool on the same GPUs."""
    pool, name = keys.cluster.pools[index], keys.name(index)
    budget = _budget(pool)
    if budget is not None:
        size = getattr(pool, budget)
        for other in (size // 2, size * 2):
            yield Change(f"{name} {budget} {other}", {keys.pool(index, budget): other})
    if pool.max_num_seqs is not None:
        seats = pool.max_num_seqs * 2
        yield Change(f"{name} max_num_seqs {seats}", {keys.pool(index, "max_num_seqs"): seats})
    if pool.kv_blocks is None and pool.memory_utilization < MORE_MEMORY:
        what = f"{name} memory_utilization {MORE_MEMORY}"
        yield Change(what, {keys.pool(index, "memory_utilization"): MORE_MEMORY})


def _budget(pool: PoolSpec) -> str | None:
    """The setting that says how many tokens a step of the pool takes."""
    if pool.batching == "decode-only":
        return None
    fixed = pool.batching == "fixed-chunks" or pool.max_num_batched_tokens is None
    return "chunk_tokens" if fixed else "max_num_batched_tokens"


def _faster_than(old: GpuSpec) -> list[GpuSpec]:
    """GPUs of the catalog that are slower in nothing and faster in arithmetic or memory, the cheapest first."""

    def speeds(gpu: GpuSpec) -> tuple[float, float]:
        return gpu.flops_per_s, gpu.memory_bytes_per_s

    faster = [
        gpu
        for gpu in GPUS.values()
        if speeds(gpu) != speeds(old) and all(new >= was for new, was in zip(speeds(gpu), speeds(old), strict=True))
    ]
    return sorted(faster, key=lambda gpu: gpu.price_per_hour)[:FASTER_GPUS]


def _faster(keys: _Keys) -> list[Change]:
    found = {gpu.name: gpu for old in keys.gpus for gpu in _faster_than(old)}
    return _on_gpus(keys, list(found.values()))


def _on_gpus(keys: _Keys, gpus: list[GpuSpec]) -> list[Change]:
    """Other GPUs for all pools at once, and for each pool where there are several."""
    pools, changes = keys.cluster.pools, list[Change]()
    for gpu in gpus:
        if all(pool.gpu is None for pool in pools):
            changes.append(Change(f"all on {gpu.name}", {keys.at("gpu"): gpu.name}))
            if len(pools) == 1:
                continue
        changes += [
            Change(f"{keys.name(index)} on {gpu.name}", {keys.pool(index, "gpu"): gpu.name})
            for index, pool in enumerate(pools)
            if (pool.gpu or keys.cluster.gpu) != gpu.name
        ]
    return changes


def _systems(scenario: Scenario) -> list[Change]:
    names = (*RIVALS, *(scenario.document.get("systems") or {}))
    return [Change(f"system {name}", {"system": name}) for name in dict.fromkeys(names) if name != scenario.system]
