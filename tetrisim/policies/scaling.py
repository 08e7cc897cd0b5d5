"""Whether to add an instance (1), to remove one (-1), or neither (0)."""

from tetrisim.policies.views import FleetView
from tetrisim.scenario.scale import ScaleSpec


def fixed(view: FleetView, spec: ScaleSpec) -> int:
    """Neither, ever."""
    return 0


def load(view: FleetView, spec: ScaleSpec) -> int:
    """Dynamo's load-based planner: by KV memory in use, and by requests that wait."""
    if view.kv_use > spec.kv_high or view.waiting > spec.queue_high:
        return 1
    return -1 if view.kv_use < spec.kv_low and view.waiting < spec.queue_low else 0
