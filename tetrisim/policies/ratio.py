"""Which role is to get an instance of the other one: "prefill", "decode", or None for neither."""

from tetrisim.policies.views import RoleView
from tetrisim.scenario.control import RatioSpec

Choice = str | None


def fixed(prefill: RoleView, decode: RoleView, spec: RatioSpec) -> Choice:
    """As many of each as there were."""
    return None


def demand(prefill: RoleView, decode: RoleView, spec: RatioSpec) -> Choice:
    """Arrow: the role that is at its limit, from one with slack (thresholds as in Narwhal)."""
    if prefill.load >= spec.expand and decode.load <= spec.shrink:
        return "prefill"
    if decode.load >= spec.expand and prefill.load <= spec.shrink:
        return "decode"
    return None


def pending(prefill: RoleView, decode: RoleView, spec: RatioSpec) -> Choice:
    """Splitwise: by prompt tokens that wait, and by memory; nobody lends who is short himself."""
    crowded = prefill.pending_tokens > spec.prefill_tokens * prefill.instances
    full = decode.memory > 1
    if crowded == full:
        return None
    return "prefill" if crowded else "decode"
