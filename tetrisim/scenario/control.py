"""What a cluster does beside serving: running requests that move, instances that change role by demand."""

from dataclasses import dataclass
from typing import Literal

from tetrisim.scenario.checks import not_negative, positive


@dataclass(frozen=True, slots=True)
class MigrateSpec:
    """Whether running requests move between instances, looked at once a `period_s`, and how their KV gets there.

    `live`: the KV is copied while the request goes on; what came meanwhile is copied in turn, and the request stops
    for the last copy: when at most `last_blocks` blocks are left, or in stage `stages`. `stop`: it stops for one copy
    of all. An instance is a source when it has fewer than `low_blocks` free blocks a request (those who wait count
    with what they want), and takes part in at most `at_once` moves each way. Bandwidth is that of each instance one
    way. With `at_first_token` the policy is also asked whenever a prefill has ended.

    For `flow` (TaiChi), the share of the KV blocks from which an instance of small chunks is `full`, and the share of
    the TPOT limit from which a request on one of large chunks is `late`.
    """

    policy: str = "never"
    period_s: float = 0.05
    mode: Literal["live", "stop"] = "live"
    stages: int = 3
    last_blocks: int = 16
    low_blocks: float = 3.0
    at_once: int = 1
    at_first_token: bool = False
    full: float = 0.95
    late: float = 0.96
    bandwidth_bytes_per_s: float = 25e9
    latency_s: float = 5e-6

    def __post_init__(self) -> None:
        positive(
            period=self.period_s, stages=self.stages, at_once=self.at_once, bandwidth=self.bandwidth_bytes_per_s
        )  # fmt: skip
        not_negative(last_blocks=self.last_blocks, low_blocks=self.low_blocks, latency=self.latency_s)
        for name, value in (("full", self.full), ("late", self.late)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}: expected above 0 and at most 1, not {value}")

    @property
    def on(self) -> bool:
        """Whether anybody ever moves."""
        return self.policy != "never"


@dataclass(frozen=True, slots=True)
class RatioSpec:
    """How many instances prefill and how many decode: looked at once a `period_s`, one changes its role at a time.

    `demand` (Arrow): a role at `expand` of its load or more gets an instance of one at `shrink` or less. `pending`
    (Splitwise): a role gets one when more than `prefill_tokens` prompt tokens wait an instance, or decodes want more
    than their memory, and the other role has neither. Either after so many looks in a row, and not within `cooldown_s`
    of the last change; `least` of each role stay.
    """

    policy: str = "fixed"
    period_s: float = 1.0
    expand: float = 1.0
    shrink: float = 0.5
    prefill_tokens: int = 8192
    confirmations: int = 3
    cooldown_s: float = 10.0
    least: int = 1

    def __post_init__(self) -> None:
        positive(
            period=self.period_s, confirmations=self.confirmations, least=self.least, prefill_tokens=self.prefill_tokens
        )  # fmt: skip
        not_negative(cooldown=self.cooldown_s)
        if not 0 <= self.shrink < self.expand:
            raise ValueError(f"shrink: expected from 0 to below expand ({self.expand}), not {self.shrink}")
