"""How a system of presets.py and what the user writes become one cluster."""

from collections.abc import Mapping
from typing import Any, cast

from tetrisim.errors import ScenarioError, unknown_name
from tetrisim.scenario.gpu import GpuSpec
from tetrisim.scenario.presets import SYSTEMS, Fragment, System

_OWN = ("base", "cluster", "dtype", "profile")
"""What an entry of `systems:` may set: systems are compared on the same model, requests, SLO and seed."""

_HARDWARE = ("tensor_parallel", "gpu", "block_tokens", "kv_blocks", "memory_utilization")
"""Pool settings that belong to the machines, and so stay when another system takes them over."""


def merge(base: Fragment, over: Fragment) -> dict[str, Any]:
    """`over` laid on `base`; mappings merge key by key, anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            value = merge(cast(Fragment, inner), cast(Fragment, value))
        merged[key] = value
    return merged


def find_system(name: object, own: Fragment, where: str) -> tuple[System, Fragment]:
    """A preset, or an entry of the user's `systems:` (a preset named by `base`, with overrides)."""
    for label, other in own.items():
        _check_own(label, other)
    entry = own.get(str(name), {})
    base = entry.get("base", name)
    if str(base) not in SYSTEMS:
        raise unknown_name(ScenarioError, where, name, [*SYSTEMS, *own])
    return SYSTEMS[str(base)], {key: value for key, value in entry.items() if key != "base"}


def _check_own(label: str, entry: object) -> None:
    """An entry of `systems:` has a preset as its base (its own name will do), and leaves the requests alone."""
    where = f"systems.{label}"
    if not isinstance(entry, Mapping):
        raise ScenarioError(where, "is not a mapping", "overrides, as in {base: vllm-v1, cluster: ...}")
    written = cast(Fragment, entry)
    if "/" in label or label in (".", ".."):
        raise ScenarioError(where, "cannot name the folder of its run", "a name without '/'")
    if "base" not in written and label not in SYSTEMS:
        raise ScenarioError(f"{where}.base", "is missing", "one of " + ", ".join(SYSTEMS))
    if str(written.get("base", label)) not in SYSTEMS:
        raise unknown_name(ScenarioError, f"{where}.base", written["base"], SYSTEMS)
    for key in written:
        if key not in _OWN:
            raise ScenarioError(f"{where}.{key}", "cannot differ between systems", "one of " + ", ".join(_OWN))


def default_budget(gpu: GpuSpec, batching: object, max_positions: int) -> dict[str, int]:
    """vLLM's own `max_num_batched_tokens` and `max_num_seqs`, for a pool whose user names none.

    V1 as a server: 8192 and 1024 from 70 GiB on (A100 excepted), else 2048 and 256 (vllm/engine/arg_utils.py). V0
    takes whole prompts, so its budget is at least the longest one. Other batchings have no such defaults.
    """
    if batching == "prefill-first":
        return {"max_num_batched_tokens": max(2048, max_positions), "max_num_seqs": 256}
    if batching == "token-budget":
        large = gpu.memory_bytes >= 70 * 2**30 and not gpu.name.startswith("a100")
        tokens, seqs = (8192, 1024) if large else (2048, 256)
        return {"max_num_batched_tokens": tokens, "max_num_seqs": seqs}
    return {}


def pools_for(system: System, cluster: Fragment, where: str) -> list[dict[str, Any]]:
    """The pools a system runs on the user's machines, each laid over the preset of its role.

    Pools of other roles than the system has are turned into its roles on the same instances (an odd one goes to
    decode), so that every system is compared on equal GPUs. Without pools, `instances` and `tensor_parallel` say how
    many there are.
    """
    return _of_kinds(system, _of_roles(system, cluster, where))


def _of_kinds(system: System, pools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each pool laid over the kind in its place; a pool that is alone is shared out between the kinds."""
    kinds = system.kinds
    if len(kinds) > 1 and len(pools) == 1:
        total = pools[0].get("instances", 1)
        if isinstance(total, int) and total >= len(kinds):
            counts = [(total + place) // len(kinds) for place in range(len(kinds))]
            pools = [{**pools[0], "instances": count} for count in counts]
    return [merge(kind, pool) for kind, pool in zip(kinds, pools, strict=False)] + pools[len(kinds) :]


def _of_roles(system: System, cluster: Fragment, where: str) -> list[dict[str, Any]]:
    roles = list(system.pools)
    shape = {key: cluster[key] for key in ("instances", "tensor_parallel") if key in cluster}
    written = cluster.get("pools")
    if written is None:
        return [merge(system.pools[role], pool) for role, pool in _split(roles, shape, f"{where}.instances")]
    if shape:
        raise ScenarioError(f"{where}.{next(iter(shape))}", "given beside pools", "one of the two")
    if not isinstance(written, list) or not written or not all(isinstance(pool, Mapping) for pool in written):
        raise ScenarioError(f"{where}.pools", "is not a list of pools", "as in [{role: prefill, instances: 2}, ...]")
    if all(pool.get("role") in roles for pool in written):
        return [merge(system.pools[pool["role"]], pool) for pool in written]
    if not all(pool.get("role", "hybrid") in ("prefill", "decode", "hybrid") for pool in written):
        return [dict(pool) for pool in written]  # the reader of the values names the wrong role
    hardware = {tuple((key, pool.get(key)) for key in _HARDWARE) for pool in written}
    if len(hardware) > 1:
        raise ScenarioError(f"{where}.pools", "instances differ, so they cannot all take the roles of this system",
                            f"pools of roles {', '.join(roles)}, or overrides under systems:")  # fmt: skip
    same = {key: value for key, value in hardware.pop() if value is not None}
    total = {"instances": sum(pool.get("instances", 1) for pool in written), **same}
    return [merge(system.pools[role], pool) for role, pool in _split(roles, total, f"{where}.pools")]


def _split(roles: list[str], shape: Fragment, where: str) -> list[tuple[str, dict[str, Any]]]:
    """The instances shared out between the roles; too few for one each raises ScenarioError."""
    total = shape.get("instances", len(roles))
    if not isinstance(total, int) or isinstance(total, bool):
        raise ScenarioError(where, f"'{total}' is not a whole number", "how many instances there are")
    if total < len(roles):
        raise ScenarioError(where, f"{total} instances", f"at least {len(roles)}: one each for {', '.join(roles)}")
    if len(roles) == 1:
        return [(roles[0], {**shape, "role": roles[0], "instances": total})]
    first = total // 2
    return [
        (role, {**shape, "role": role, "instances": count})
        for role, count in zip(roles, (first, total - first), strict=True)
    ]
