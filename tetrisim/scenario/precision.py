"""Weights of few bits, and when a request may do with fewer."""

from dataclasses import dataclass
from typing import Literal

CLASSES = (0.371, 0.242, 0.117, 0.270)
"""How often PMPD's learned scheduler, as released for Zephyr, keeps the high width for 0, 1/3, 2/3 or all tokens."""


@dataclass(frozen=True, slots=True)
class PrecisionSpec:
    """Progressive precision (PMPD, arXiv 2410.13461): an answer begins at `high_bits` a weight and ends at `low_bits`.

    Prefill always runs at the high width. `schedule` says after how many tokens of its answer a request steps down:
    `static` after `high_tokens`, `learned` after 0, 1/3, 2/3 or all of `high_tokens` by the shares of a trained
    scheduler, `predicted` and `oracle` after `high_share` of the predicted or true answer. Requests of both widths in
    one step run by `rule`: all at the `widest`, all at the `narrowest`, or `split` in two reads of the weights. The
    kernel reads `bit-planes` for at most 8 rows, and expands the weights for a dense GEMM above; or it is `fused`, a
    what-if that no library has.
    """

    high_bits: int = 3
    low_bits: int = 2
    schedule: Literal["static", "learned", "predicted", "oracle"] = "static"
    high_tokens: int = 85
    high_share: float = 1 / 3
    rule: Literal["widest", "narrowest", "split"] = "widest"
    kernel: Literal["bit-planes", "fused"] = "bit-planes"

    def __post_init__(self) -> None:
        if not 1 <= self.low_bits <= self.high_bits <= 16:
            raise ValueError(f"low_bits: expected from 1 to high_bits ({self.high_bits}), which is at most 16")
        if self.high_tokens < 0:
            raise ValueError("high_tokens: expected at least 0")
        if not 0 <= self.high_share <= 1:
            raise ValueError("high_share: expected from 0 to 1")
