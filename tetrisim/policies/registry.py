"""Every policy by name. A user's own is named `module:function` in the scenario."""

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import Any

from tetrisim.errors import ScenarioError, unknown_name
from tetrisim.policies import (
    admission,
    batching,
    flipping,
    migration,
    placement,
    prediction,
    queueing,
    ratio,
    routing,
    scaling,
)

POLICIES: dict[str, dict[str, Any]] = {
    "batching": {
        "token-budget": batching.token_budget,
        "prefill-first": batching.prefill_first,
        "whole-prompts": batching.whole_prompts,
        "static": batching.static,
        "fixed-chunks": batching.fixed_chunks,
        "decode-only": batching.decode_only,
    },
    "queue": {
        "fcfs": None,
        "sjf": queueing.shortest_first,
        "ljf": queueing.longest_first,
        "priority": queueing.by_priority,
    },
    "admission": {
        "greedy": admission.greedy,
        "reserve-static": admission.reserve_static,
        "reserve-dynamic": admission.reserve_dynamic,
    },
    "route": {
        "least-loaded": routing.least_loaded,
        "round-robin": routing.round_robin,
        "random": routing.random,
        "power-of-two": routing.power_of_two,
        "session-sticky": routing.session_sticky,
        "virtual-load": routing.virtual_load,
        "length-aware": routing.length_aware,
        "prefix-aware": routing.prefix_aware,
        "least-ttft": routing.least_ttft,
    },
    "reject": {"never": None, "late": routing.reject_late},
    "fetch": {"never": None, "if-sooner": routing.fetch_if_sooner},
    "place": {
        "power-of-two": placement.power_of_two,
        "random": placement.random,
        "round-robin": placement.round_robin,
        "least-kv": placement.least_kv,
        "pull": placement.pull,
        "imbalance": placement.imbalance,
    },
    "predict": {
        "oracle": prediction.oracle,
        "bucket": prediction.bucket,
        "shuffled": prediction.shuffled,
        "none": prediction.none,
    },
    "migrate": {
        "never": migration.never,
        "balance": migration.balance,
        "defragment": migration.defragment,
        "flow": migration.flow,
    },
    "ratio": {"fixed": ratio.fixed, "demand": ratio.demand, "pending": ratio.pending},
    "scale": {"fixed": scaling.fixed, "load": scaling.load},
    "flip": {"never": flipping.never, "idle": flipping.idle, "watermark": flipping.watermark},
}


FORESEEING = ("prefix-aware", "least-ttft", "length-aware")
"""Routes that look ahead, for which the scheduler remembers who waits where."""


def find_policy(kind: str, name: str, where: str) -> Any:
    """The policy called `name`; an unknown one raises ScenarioError with the nearest."""
    known: Mapping[str, Any] = POLICIES[kind]
    if name in known:
        return known[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise unknown_name(ScenarioError, where, name, known)
    try:
        policy = getattr(import_module(module), function)
    except Exception as error:  # the user's own code runs here: a syntax error, a name that is not there
        what = f"cannot use '{name}': {type(error).__name__}: {error}"
        raise ScenarioError(where, what, "module:function of your own") from None
    kin = next(each for each in known.values() if each is not None)
    arguments = len(signature(kin).parameters)
    try:
        signature(policy).bind(*range(arguments))
    except (TypeError, ValueError):
        expected = f"a function of {arguments} arguments, as in tetrisim/policies"
        raise ScenarioError(where, f"cannot use '{name}'", expected) from None
    return policy
