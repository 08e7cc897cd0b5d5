"""When an instance changes role between prefill and decode."""

from tetrisim.policies.views import FlipView
from tetrisim.scenario.cluster import FlipSpec


def never(view: FlipView, spec: FlipSpec) -> bool:
    """Roles are fixed."""
    return False


def idle(view: FlipView, spec: FlipSpec) -> bool:
    """TetriInfer: after a minute with nothing to do, while the other role has work and a peer keeps this one."""
    return view.idle_s >= spec.after_s and view.peers > 1 and view.other_role_works


def watermark(view: FlipView, spec: FlipSpec) -> bool:
    """Nearly idle for a period while the other role is nearly full (the paper's example: under 10 % for a minute)."""
    return view.busy < spec.low and view.other_role_busy > spec.high and view.peers > 1
