"""Chats of several turns, whose users read and type in between."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """The law of sessions: each turn's prompt is all that was said before, and something new.

    The number of turns is geometric with mean `turns`. New tokens and answers are log-normal by median and sigma, each
    at most `longest_turn_tokens`; a session ends before its context passes `longest_tokens`. Before each turn its user
    reads for `read_s` and types for `typing_s`, both exponential with these means; the front end knows that a turn is
    coming when typing begins.

    Lengths as of `sharegpt-mixed`, 5.75 turns as CachedAttention counts in ShareGPT, typing as SYMPHONY's mean lead;
    the time to read is ours.
    """

    turns: float = 5.75
    prompt_tokens: int = 18
    prompt_sigma: float = 2.09
    output_tokens: int = 134
    output_sigma: float = 1.39
    longest_turn_tokens: int = 2048
    longest_tokens: int = 16_384
    read_s: float = 20.0
    typing_s: float = 11.3

    def __post_init__(self) -> None:
        if not 1 <= self.turns <= 1e6:
            raise ValueError(f"turns: expected a mean of at least 1 and at most 10^6, not {self.turns}")
        for name in ("prompt", "output"):
            if not 1 <= getattr(self, f"{name}_tokens") <= 10**9:
                raise ValueError(f"{name}_tokens: expected a median of at least 1 and at most 10^9")
            if not 0 <= getattr(self, f"{name}_sigma") <= 10:
                raise ValueError(f"{name}_sigma: expected from 0 to 10: the standard deviation of the logarithm")
        if not 2 <= self.longest_tokens <= 10**9:
            raise ValueError("longest_tokens: expected at least 2 and at most 10^9")
        if not 1 <= self.longest_turn_tokens <= 10**9:
            raise ValueError("longest_turn_tokens: expected at least 1 and at most 10^9")
        for name, value in (("read", self.read_s), ("typing", self.typing_s)):
            if not 0 <= value <= 1e6:
                raise ValueError(f"{name}: expected from 0 s to 1e6 s")
