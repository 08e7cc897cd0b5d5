"""How urgent requests get ahead of work that is under way."""

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
