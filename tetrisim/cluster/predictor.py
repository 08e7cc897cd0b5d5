"""What the length predictor costs the prefill instance it runs on.

A small model reads each prompt beside (or before) the large one: about a tenth of its prefill time (notes, section 8).
"""

from tetrisim.cluster.engine import Piece
from tetrisim.scenario.cluster import PredictorSpec


class Predictor:
    """Slows chunks down: every one in sequential mode, in parallel mode those of requests that others were before."""

    __slots__ = ("_always", "permille")

    def __init__(self, spec: PredictorSpec) -> None:
        free = spec.mode == "free" or spec.policy == "none"
        self.permille = 0 if free else round(1000 * spec.cost)
        """Of a chunk's own time, in whole numbers: chunks run on as one event add up exactly."""
        self._always = spec.mode == "sequential"

    def slows(self, pieces: list[Piece]) -> int:
        """Thousandths that a chunk takes longer."""
        if self._always or not self.permille:
            return self.permille
        for request, _ in pieces:
            if request.arrival < request.prefill_start:
                return self.permille
        return 0
