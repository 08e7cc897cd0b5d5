"""All that a run needs, as one frozen value."""

from dataclasses import dataclass, field
from typing import Any, Literal

from tetrisim.scenario.cluster import ClusterSpec
from tetrisim.scenario.slo import SloSpec
from tetrisim.scenario.workload import SESSIONS, WorkloadSpec


@dataclass(frozen=True, slots=True)
class Scenario:
    """A resolved scenario: no defaults left to guess.

    `document` is what the user wrote; changing the system or a value means changing it and resolving again, so every
    scenario passes the same checks. It takes no part in comparisons.
    """

    model: str
    system: str
    workload: WorkloadSpec
    cluster: ClusterSpec
    slo: SloSpec = field(default_factory=SloSpec)
    dtype: Literal["bf16", "fp16", "fp32", "fp8"] = "bf16"
    profile: str = "auto"
    seed: int = 0
    horizon_s: float | None = None
    document: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.workload.trace == SESSIONS and self.workload.arrivals != "closed-loop":
            raise ValueError(f"workload.arrivals: expected 'closed-loop' with trace '{SESSIONS}', its users' number")
        if self.seed < 0:
            raise ValueError("seed: expected at least 0")
        if self.horizon_s is not None and not 0 < self.horizon_s <= 1e9:
            raise ValueError("horizon: expected more than 0 s and at most 1e9 s")
