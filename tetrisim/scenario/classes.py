"""Classes of requests: their share of the workload, how urgent they are, and what serves them well."""

from dataclasses import dataclass

from tetrisim.scenario.slo import SloSpec

URGENT = 0
"""The priority of latency-sensitive requests; any larger number may wait for them."""


@dataclass(frozen=True, slots=True)
class LimitsSpec(SloSpec):
    """An SLO of which only the limits that are given count."""

    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """One class. Its requests are drawn at random; a lower `priority` is served first, 0 is urgent.

    Without an `slo` of its own a class is judged by the scenario's.
    """

    name: str
    share: float
    priority: int = URGENT
    slo: LimitsSpec | None = None

    def __post_init__(self) -> None:
        if not self.name or ":" in self.name:
            raise ValueError(f"name: expected text without a colon, not '{self.name}'")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share: expected between 0 and 1, not {self.share}")
        if self.priority < 0:
            raise ValueError(f"priority: expected at least 0, not {self.priority}")


def check_classes(classes: tuple[ClassSpec, ...]) -> None:
    """Raise ValueError unless names differ and shares add up to 1."""
    if not classes:
        return
    if len({each.name for each in classes}) < len(classes):
        raise ValueError("classes: expected names that differ")
    total = sum(each.share for each in classes)
    if abs(total - 1) > 1e-9:
        raise ValueError(f"classes: expected shares that add up to 1, not {total:g}")
