"""The clusters that a plan chooses among: GPU, system, tensor parallelism, batch caps, and instances of each role."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from tetrisim.errors import ScenarioError
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import GPUS, load_gpu
from tetrisim.scenario.load import override, resolve
from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.systems import SYSTEMS, find_system

Counts = tuple[int, ...]
"""Instances of each role, in the order of the family's roles."""

SYSTEM_NAMES = ("vllm-v1", "tetriinfer")
"""Beside the scenario's own: one that is colocated, one with prefill and decode pools."""
EVERY_COUNT = 16
"""Up to so many instances every number is a candidate; above, each an eighth more than the one before."""

_REPLACED = ("role", "instances", "tensor_parallel", "gpu", "kv_blocks")
"""Pool settings that a candidate does not take over from the scenario: they are what it varies, or follow from that."""
_SHORT = {"max_num_batched_tokens": "tokens", "chunk_tokens": "chunk", "max_num_seqs": "seqs"}


@dataclass(frozen=True, slots=True)
class Space:
    """What is tried. Empty `gpus`, `systems` mean the default ones; `most_gpus` None: as many as the rate calls for."""

    gpus: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    tensor_parallel: tuple[int, ...] = (1, 2, 4, 8)
    batched_tokens: tuple[int, ...] = (512, 2048, 8192)
    chunk_tokens: tuple[int, ...] = (512, 2048)
    seqs: tuple[int, ...] = (128, 512)
    most_gpus: int | None = None

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "batched_tokens", "chunk_tokens", "seqs"):
            values: tuple[int, ...] = getattr(self, name)
            if not values or min(values) < 1:
                raise ValueError(f"{name}: expected whole numbers of at least 1")


@dataclass(frozen=True)
class Family:
    """Clusters that differ in nothing but the number of instances of each role. `caps`: (role, setting, value)."""

    gpu: str
    system: str
    tensor_parallel: int
    roles: tuple[str, ...]
    caps: tuple[tuple[str, str, int], ...]

    @cached_property
    def name(self) -> str:
        """As in `h100-sxm tp1 vllm-v1 tokens=2048 seqs=128`."""
        caps = " ".join(f"{_SHORT[key]}={value}" for _, key, value in self.caps)
        return f"{self.gpu} tp{self.tensor_parallel} {self.system} {caps}".rstrip()

    def dollars(self, instances: int) -> float:
        """List price of an hour of so many instances."""
        return instances * self.tensor_parallel * load_gpu(self.gpu).price_per_hour


@dataclass(frozen=True)
class Candidate:
    """A cluster."""

    family: Family
    counts: Counts

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return sum(self.counts) * self.family.tensor_parallel

    @property
    def dollars_per_hour(self) -> float:
        """List price."""
        return self.family.dollars(sum(self.counts))

    @property
    def name(self) -> str:
        """As in `4 x h100-sxm tp1 ...`, or `3p+2d x ...`."""
        return f"{self.instances} x {self.family.name}"

    @property
    def instances(self) -> str:
        """`4`, or `3p+2d`."""
        if len(self.counts) == 1:
            return str(self.counts[0])
        return "+".join(f"{count}{role[0]}" for role, count in zip(self.family.roles, self.counts, strict=True))


def gpu_names(base: Scenario, space: Space) -> tuple[str, ...]:
    """The GPUs to try: all of the catalog that are GPUs, when none is named."""
    for name in space.gpus:
        load_gpu(name, "--gpu")
    if space.gpus:
        return tuple(dict.fromkeys(space.gpus))
    return tuple(name for name in GPUS if name != "cpu" or base.cluster.gpu == "cpu")


def system_names(base: Scenario, space: Space) -> tuple[str, ...]:
    """The systems to try. A resolved scenario, whose every policy is written out, has its own alone."""
    own = base.document.get("systems") or {}
    for name in space.systems:
        find_system(name, own, "--systems")
    if space.systems:
        return tuple(dict.fromkeys(space.systems))
    if "resolved_for" in base.document:
        return (base.system,)
    return tuple(name for name in dict.fromkeys((base.system, *SYSTEM_NAMES)) if name in SYSTEMS or name in own)


def families(base: Scenario, space: Space) -> Iterator[Family | tuple[str, str]]:
    """Every family; or a name and the reason, where there can be no such cluster."""
    for gpu, system, cut in product(gpu_names(base, space), system_names(base, space), space.tensor_parallel):
        bare = Family(gpu, system, cut, _roles(base, system), ())
        try:
            pools = scenario_of(base, Candidate(bare, (1,) * len(bare.roles))).cluster.pools
        except ScenarioError as error:
            yield bare.name, str(error)
            continue
        for caps in product(*(_caps(pool, space) for pool in pools)):
            yield Family(gpu, system, cut, bare.roles, tuple(cap for each in caps for cap in each))


def _roles(base: Scenario, system: str) -> tuple[str, ...]:
    return tuple(find_system(system, base.document.get("systems") or {}, "--systems")[0].pools)


def _caps(pool: PoolSpec, space: Space) -> list[tuple[tuple[str, str, int], ...]]:
    """The batch caps to try of a pool: those that its batching heeds."""
    tokens = [(pool.role, "max_num_batched_tokens", value) for value in space.batched_tokens]
    seqs = [(pool.role, "max_num_seqs", value) for value in space.seqs]
    if pool.batching == "fixed-chunks":
        return [((pool.role, "chunk_tokens", value),) for value in space.chunk_tokens]
    if pool.batching == "token-budget" and pool.role != "decode":
        if pool.role == "prefill":
            seqs = [(pool.role, "max_num_seqs", min(pool.max_num_seqs or 256, min(space.batched_tokens)))]
        # vLLM refuses a budget below the number of sequences: each needs a token a step.
        return [(most, seat) for most in tokens for seat in seqs if most[2] >= seat[2]] or [()]
    return [(seat,) for seat in seqs]


def count_grid(most: int) -> list[int]:
    """Numbers of instances to try, up to `most`."""
    grid = list(range(1, min(most, EVERY_COUNT) + 1))
    while grid and grid[-1] < most:
        grid.append(min(most, grid[-1] + grid[-1] // 8))
    return grid


def counts_of(family: Family, most_gpus: int) -> list[Counts]:
    """Every choice of instances on at most so many GPUs, the cheapest first."""
    most = most_gpus // family.tensor_parallel
    grid = count_grid(most)
    every = product(*[grid] * len(family.roles))
    return sorted((counts for counts in every if sum(counts) <= most), key=lambda counts: (sum(counts), counts))


def largest_counts(family: Family, most: int) -> list[Counts]:
    """The choices that use all of at most so many instances."""
    if len(family.roles) == 1:
        return [(most,)] if most else []
    return [(first, most - first) for first in count_grid(most - 1)]


def scenario_of(
    base: Scenario,
    candidate: Candidate,
    rate_per_s: float | None = None,
    requests: int | None = None,
    seed: int | None = None,
) -> Scenario:
    """The user's scenario on the machines of a candidate; policies and links that it writes down stay."""
    family = candidate.family
    document = copy.deepcopy(base.document)
    cluster: dict[str, Any] = {key: value for key, value in (document.get("cluster") or {}).items()}
    kept = _by_role(cluster)
    entry = (document.get("systems") or {}).get(family.system)
    own: dict[str, Any] = entry.get("cluster") or {} if isinstance(entry, Mapping) else {}
    for role, settings in _by_role(own).items():
        kept[role] = {**kept.get(role, {}), **settings}
    for place in (cluster, own):
        for key in ("pools", "instances", "tensor_parallel", "gpu"):
            place.pop(key, None)
    pools: list[dict[str, Any]] = [
        {
            **kept.get(role, {}),
            "role": role,
            "instances": count,
            "tensor_parallel": family.tensor_parallel,
            **{key: value for at, key, value in family.caps if at == role},
        }
        for role, count in zip(family.roles, candidate.counts, strict=True)
    ]
    document |= {"system": family.system, "cluster": {**cluster, "gpu": family.gpu, "pools": pools}}
    changes = {"workload.rate": rate_per_s, "workload.requests": requests, "seed": seed}
    given = {key: value for key, value in changes.items() if value is not None}
    return override(resolve(document), given) if given else resolve(document)


def _by_role(cluster: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the user wrote of the first pool of each role, save what a candidate replaces."""
    found: dict[str, dict[str, Any]] = {}
    written: object = cluster.get("pools")
    pools: Sequence[Any] = written if isinstance(written, list) else []
    for pool in pools:
        found.setdefault(
            str(pool.get("role", "hybrid")), {key: value for key, value in pool.items() if key not in _REPLACED}
        )
    return found
