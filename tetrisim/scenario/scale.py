"""How many instances are in use as the load changes."""

from dataclasses import dataclass

from tetrisim.scenario.checks import not_negative, positive


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """How many instances serve, looked at once a `period_s`; at most one is added or removed a look.

    `fixed`: all. `load` (Dynamo's planner): `initial` at first. One more when the KV memory in use is above `kv_high`
    or more than `queue_high` requests an instance wait; one less when both are below `kv_low` and `queue_low`, but not
    within `grace` looks after one was added, and `least` stay. A new one serves after `startup_s`; one that goes serves
    first what it has. An instance that is off costs nothing.
    """

    policy: str = "fixed"
    period_s: float = 30.0
    startup_s: float = 60.0
    initial: int = 1
    least: int = 1
    grace: int = 3
    kv_high: float = 0.9
    kv_low: float = 0.5
    queue_high: float = 0.5
    queue_low: float = 0.2

    def __post_init__(self) -> None:
        positive(period=self.period_s, initial=self.initial, least=self.least)
        not_negative(startup=self.startup_s, grace=self.grace)
        for name, low, high in (("kv", self.kv_low, self.kv_high), ("queue", self.queue_low, self.queue_high)):
            if not 0 <= low < high:
                raise ValueError(f"{name}_low: expected from 0 to below {name}_high ({high}), not {low}")
