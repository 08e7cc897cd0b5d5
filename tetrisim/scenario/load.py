"""Scenario files: YAML in, a resolved Scenario out, and back."""

import copy
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml

from tetrisim.errors import ScenarioError, nearest_name
from tetrisim.scenario.cluster import LinkSpec
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import ModelSpec, load_model
from tetrisim.scenario.presets import SYSTEMS, System
from tetrisim.scenario.reader import dump, read, yaml_fields
from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.systems import default_budget, find_system, merge, pools_for
from tetrisim.yamltext import parse_yaml


def load(path: str | Path) -> Scenario:
    """The scenario in a YAML file; `default` is the embedded one.

    Paths in the file are relative to its folder. Raises ScenarioError with the place, the expectation and the nearest
    valid name.
    """
    where = Path(path)
    if str(path) == "default":
        text = (resources.files("tetrisim.scenario") / "catalog" / "default.yaml").read_text()
        where = Path()
    else:
        try:
            text = where.read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file"
            raise ScenarioError(str(path), f"cannot read: {reason}", "a scenario YAML file, or 'default'") from None
    try:
        document = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ScenarioError(str(path), "is not YAML: " + " ".join(str(error).split()), "a scenario") from None
    if not isinstance(document, dict):
        raise ScenarioError(str(path), "holds no mapping", "keys such as model, system, workload, cluster")
    return resolve(_anchor(cast("dict[str, Any]", document), where.parent))


def override(scenario: Scenario, settings: Mapping[str, object]) -> Scenario:
    """The scenario with dotted keys set, as in `{"cluster.pools.0.instances": 4}`; resolved and checked again.

    Where the user has written no pools, an index goes to those of the system, which are then written down as machines
    alone: their policies stay those of whatever system runs on them. A part of the link goes to the system's link.
    """
    late = {key: value for key, value in settings.items() if key.startswith(("cluster.pools.", "cluster.kv_link."))}
    if 0 < len(late) < len(settings):  # another system has other pools, so it comes first
        early = {key: value for key, value in settings.items() if key not in late}
        return override(override(scenario, early), late)
    document = copy.deepcopy(scenario.document)
    for key, value in settings.items():
        link = scenario.cluster.kv_link
        if key.startswith("cluster.kv_link.") and link is not None and "kv_link" not in document.get("cluster", {}):
            document.setdefault("cluster", {})["kv_link"] = dump(link)
        if key.startswith("cluster.pools.") and "pools" not in document.get("cluster", {}):
            cluster: dict[str, Any] = document.setdefault("cluster", {})
            cluster["pools"] = [
                {"role": pool.role, "instances": pool.instances, "tensor_parallel": pool.tensor_parallel}
                for pool in scenario.cluster.pools
            ]
            cluster.pop("instances", None)
            cluster.pop("tensor_parallel", None)
        _set(document, key, value)
    return resolve(_anchor(document, Path()))


def with_system(scenario: Scenario, system: str) -> Scenario:
    """The same machines, model and workload under another serving system."""
    return resolve({**scenario.document, "system": system})


def dump_yaml(scenario: Scenario) -> str:
    """The resolved scenario as YAML that loads to an equal one."""
    written = {**dump(scenario), "resolved_for": scenario.system}
    if scenario.system not in SYSTEMS:
        own = scenario.document["systems"][scenario.system]
        written["systems"] = {scenario.system: {"base": own.get("base", scenario.system)}}
    # libyaml's writer gives the same text in a quarter of the time, where it is there.
    return yaml.dump(written, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)


def resolve(document: dict[str, Any]) -> Scenario:
    """A Scenario from what the user wrote, with the presets of its system filled in beneath."""
    known = [*yaml_fields(Scenario), "systems", "resolved_for"]
    for key in document:
        if key not in known:
            raise ScenarioError(str(key), "unknown key", "one of " + ", ".join(known), nearest_name(key, known))
    own = document.get("systems") or {}
    if not isinstance(own, Mapping):
        raise ScenarioError("systems", "is not a mapping", "overrides by system name")
    name = document.get("system", "vllm-v1")
    system, overrides = find_system(name, cast("Mapping[str, Any]", own), "system")
    if document.get("resolved_for") not in (None, name):
        raise ScenarioError(
            "system",
            f"'{name}' on a scenario resolved for {document['resolved_for']}, whose every policy is written out",
            "the file that was resolved",
        )
    merged = merge({key: value for key, value in document.items() if key not in ("systems", "resolved_for")}, overrides)
    merged = {"workload": {}, **merged, "system": str(name)}
    cluster = merged.get("cluster")
    if not isinstance(cluster, dict):
        raise ScenarioError("cluster", "is missing", "a mapping with gpu and pools")
    model = load_model(str(merged.get("model")))
    merged["cluster"] = _cluster(system, cast("dict[str, Any]", cluster), model)
    scenario = read(Scenario, merged, "")
    _check_shards(scenario, model)
    return _keep(scenario, document)


def _cluster(system: System, written: dict[str, Any], model: ModelSpec) -> dict[str, Any]:
    """The cluster with its system's presets, pools shared out, and vLLM's own budgets where none is named."""
    pools = pools_for(system, written, "cluster")
    for index, pool in enumerate(pools):
        gpu = load_gpu(
            str(pool.get("gpu", written.get("gpu"))), f"cluster.pools.{index}.gpu" if "gpu" in pool else "cluster.gpu"
        )
        budget = default_budget(gpu, pool.get("batching"), model.max_positions)
        pools[index] = {**{key: value for key, value in budget.items() if key not in pool}, **pool}
    cluster = merge(
        system.cluster, {key: value for key, value in written.items() if key not in ("instances", "tensor_parallel")}
    )
    if "kv_link" in written:
        cluster["kv_link"] = written["kv_link"]  # a link is described as a whole: no half of it comes from a preset
    if "hybrid" in system.pools and cluster.pop("kv_link", None) is not None:
        read(LinkSpec, written["kv_link"], "cluster.kv_link")  # not used here, but not wrong either
    return {**cluster, "pools": pools}


def _check_shards(scenario: Scenario, model: ModelSpec) -> None:
    """A model is cut by heads: their number must divide."""
    for index, pool in enumerate(scenario.cluster.pools):
        cut = pool.tensor_parallel
        if model.heads % cut or (model.kv_heads % cut and cut % model.kv_heads):
            where = f"cluster.pools.{index}.tensor_parallel"
            raise ScenarioError(where, f"{cut} does not divide the {model.heads} heads of {model.name}", "a divisor")


def _keep(scenario: Scenario, document: dict[str, Any]) -> Scenario:
    object.__setattr__(scenario, "document", document)
    return scenario


def _anchor(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths made absolute: those that exist beside the scenario file, else beside the caller."""

    def anchored(value: object) -> object:
        if isinstance(value, str):
            for base in (folder, Path()):
                if ("/" in value or "." in value) and (base / value).exists():
                    return str((base / value).resolve())
        return value

    document = dict(document)
    for key in ("model", "profile"):
        if key in document:
            document[key] = anchored(document[key])
    if isinstance(document.get("workload"), dict) and "trace" in document["workload"]:
        document["workload"] = {**document["workload"], "trace": anchored(document["workload"]["trace"])}
    return document


def _set(document: Any, key: str, value: object) -> None:
    """Set a dotted key, making mappings on the way; list items are named by their index."""
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if isinstance(document, list):
            document = _item(cast("list[Any]", document), part, ".".join(parents[: depth + 1]))
        elif isinstance(document, dict):
            document = cast("dict[str, Any]", document).setdefault(part, {})
        else:
            raise ScenarioError(".".join(parents[:depth]), "is a single value", f"a mapping to set '{part}' in")
    if isinstance(document, list):
        _item(cast("list[Any]", document), last, key)
        document[int(last)] = value
    elif isinstance(document, dict):
        document[last] = value
    else:
        raise ScenarioError(".".join(parents), "is a single value", f"a mapping to set '{last}' in")


def _item(items: list[Any], part: str, path: str) -> Any:
    if not part.isdigit() or int(part) >= len(items):
        raise ScenarioError(path, f"no item '{part}'", f"an index from 0 to {len(items) - 1}")
    return items[int(part)]
