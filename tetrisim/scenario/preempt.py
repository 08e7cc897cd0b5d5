"""How requests get ahead of work that is under way."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PreemptSpec:
    """Urgent requests (priority 0) first, in batches of `max_num_seqs`; see cluster/suspend.py (QLLM).

    `granularity`: where running work without urgent members stops for one that has come: when all of its requests are
    done, at the end of the iteration, of a layer, of a stage (attention, or the experts), or of one expert. `switch_s`
    is what it takes to go on with a step that was stopped, computing nothing again.
    """

    granularity: Literal["request", "iteration", "layer", "stage", "expert"] = "expert"
    switch_s: float = 100e-6

    @property
    def inside(self) -> bool:
        """Whether a step may be stopped before its end."""
        return self.granularity not in ("request", "iteration")

    def __post_init__(self) -> None:
        if not 0 <= self.switch_s <= 1:
            raise ValueError("switch: expected from 0 s to 1 s")


@dataclass(frozen=True, slots=True)
class MlfqSpec:
    """A multi-level feedback queue (FastServe): level i lasts `quantum_s` * `ratio`^i of served time.

    A request enters at the first level that covers its prefill, and is at level 0 again after `starvation_s` without
    service.
    """

    quantum_s: float = 0.01
    ratio: float = 2.0
    starvation_s: float = 3.0

    def __post_init__(self) -> None:
        if not 1e-6 <= self.quantum_s <= 1e6:
            raise ValueError("quantum: expected from 1 us to 1e6 s")
        if not 1.01 <= self.ratio <= 1e6:
            raise ValueError(f"ratio: expected more than 1 (from 1.01 on), not {self.ratio}")
        if not 1e-6 <= self.starvation_s <= 1e9:
            raise ValueError("starvation: expected more than 0 s and at most 1e9 s")
