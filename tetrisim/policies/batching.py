"""What a step runs: how many prompt tokens of a request join it, and whether decodes ride along."""

import sys
from dataclasses import dataclass
from typing import Protocol

from tetrisim.scenario.cluster import PoolSpec


class Batching(Protocol):
    """A batching policy: constants of the step's shape, and one choice."""

    @property
    def mixes(self) -> bool:
        """Decodes run in every step, prefill takes what is left of it (False: a step prefills or decodes)."""
        ...

    @property
    def padded(self) -> int:
        """Tokens to which a prefill step is padded, 0 for none."""
        ...

    def prefill_tokens(self, remaining: int, scheduled: int) -> int:
        """How many of a prompt's `remaining` tokens join a step of `scheduled` tokens so far; 0 ends the step."""
        ...


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """vLLM V1 and Sarathi: decodes first, then prompts in order, each cut to what is left of the budget.

    A request that is alone is not cut to `long_prefill`; vLLM has more of them share the budget so.
    """

    budget: int
    long_prefill: int = sys.maxsize
    chunked: bool = True
    mixes: bool = True
    padded: int = 0

    @property
    def limits(self) -> bool:
        """Whether one request may get less than the budget."""
        return self.long_prefill < self.budget

    @property
    def unlimited(self) -> "TokenBudget":
        """The same without a limit on one request."""
        return TokenBudget(self.budget, chunked=self.chunked)

    def prefill_tokens(self, remaining: int, scheduled: int) -> int:
        """At most `long_prefill` tokens of one request a step, at most `budget` in all; not `chunked`: all or none."""
        take, room = min(remaining, self.long_prefill), self.budget - scheduled
        if take > room:
            take = room if self.chunked else 0
        return take


@dataclass(frozen=True, slots=True)
class PrefillFirst:
    """vLLM V0: whole prompts while they fit the budget, and no decode beside them."""

    budget: int
    mixes: bool = False
    padded: int = 0

    def prefill_tokens(self, remaining: int, scheduled: int) -> int:
        """All or nothing; a prompt longer than the budget runs alone (a recomputed request may be)."""
        return remaining if scheduled == 0 or scheduled + remaining <= self.budget else 0


@dataclass(frozen=True, slots=True)
class Static(PrefillFirst):
    """FasterTransformer: as above, but only when nobody decodes."""


@dataclass(frozen=True, slots=True)
class FixedChunks:
    """TetriInfer: prompts cut and merged into chunks of one size, the last one padded with zeros."""

    padded: int
    mixes: bool = False

    def prefill_tokens(self, remaining: int, scheduled: int) -> int:
        """What is left of the chunk."""
        room = self.padded - scheduled
        return remaining if remaining < room else room


@dataclass(frozen=True, slots=True)
class DecodeOnly:
    """No prefill at all, but for the recomputation of preempted requests, one at a time."""

    mixes: bool = False
    padded: int = 0

    def prefill_tokens(self, remaining: int, scheduled: int) -> int:
        """A recomputed request runs alone."""
        return remaining if scheduled == 0 else 0


def token_budget(pool: PoolSpec) -> Batching:
    """`max_num_batched_tokens` a step, at most `long_prefill_tokens` of one prompt."""
    return TokenBudget(pool.max_num_batched_tokens or pool.chunk_tokens, pool.long_prefill_tokens or sys.maxsize)


def prefill_first(pool: PoolSpec) -> Batching:
    """`max_num_batched_tokens` of whole prompts a step."""
    return PrefillFirst(pool.max_num_batched_tokens or pool.chunk_tokens)


def fixed_chunks(pool: PoolSpec) -> Batching:
    """`chunk_tokens` a step."""
    return FixedChunks(pool.chunk_tokens)


def decode_only(pool: PoolSpec) -> Batching:
    """Nothing to set."""
    return DecodeOnly()


def whole_prompts(pool: PoolSpec) -> Batching:
    """Orca: waiting prompts join the decodes whole, as many as there are seats (or up to `max_num_batched_tokens`)."""
    return TokenBudget(pool.max_num_batched_tokens or sys.maxsize, chunked=False)


def static(pool: PoolSpec) -> Batching:
    """`max_num_batched_tokens` of whole prompts, or all that there are seats for."""
    return Static(pool.max_num_batched_tokens or sys.maxsize)
