"""Where prefill saturates: the step size from which more tokens mostly take longer."""

from tetrisim.latency.step import StepTimer

MOST_TOKENS = 8192
"""vLLM's largest default of tokens a step: no larger one is looked at."""

SHARE = 0.9
"""Of the plateau's throughput."""


def saturation_tokens(timer: StepTimer, most_tokens: int = MOST_TOKENS, share: float = SHARE) -> int:
    """The fewest prompt tokens in one step that run at `share` of the plateau, prefill's highest throughput.

    Each step holds one fresh prompt of 1 to `most_tokens` tokens. Larger steps can fall below again where a matrix
    needs one more wave of tiles, as measured tables show just above powers of two; a chunk of this size does not meet
    them. The steps looked at enter the timer's ledger.
    """
    rates = [tokens / timer.prefill(tokens, 1, tokens, 0) for tokens in range(1, most_tokens + 1)]
    enough = share * max(rates)
    return next(tokens for tokens, rate in enumerate(rates, start=1) if rate >= enough)
