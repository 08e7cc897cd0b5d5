"""Requests that share prefixes: chats that repeat what was said before, all behind one system prompt."""

from dataclasses import dataclass

import numpy as np

from tetrisim.policies.views import LoadView, RequestView, Rng
from tetrisim.scenario.scenario import Scenario
from tetrisim.streams import stream
from tetrisim.workload.trace import Trace

BLOCK_TOKENS = 512
"""Tokens that an id of a trace names, as in Mooncake's."""


@dataclass(frozen=True)
class Chats:
    """Lengths and habits; the lengths that are drawn are log-normal.

    The first prompt: `first` (median, sigma). Each later one holds the one before it and its answer, and `more` tokens.
    After each turn another one follows with probability `again`, on average `pause_s` after the answer would be there.
    All begin with the same `common` tokens, and of what the first prompts hold beyond them, `shared` is one of
    `families` documents.
    """

    first: tuple[float, float]
    more: tuple[float, float]
    output: tuple[float, float]
    again: float
    pause_s: float
    common: int = BLOCK_TOKENS
    shared: float = 0.0
    families: int = 1
    longest: int = 120_000


MOONCAKE = Chats(first=(4400, 1.2), more=(2300, 1.1), output=(270, 0.7), again=0.37, pause_s=60.0)
"""Like the conversation trace of Mooncake (FAST'25): 12,000 tokens a prompt (median 6,900), 343 an answer; of the
prompts' blocks 37 % have been seen before, and three requests in five share but the first block with anybody."""


def chats(scenario: Scenario, law: Chats) -> Trace:
    """As many requests as the workload says, at its rate: turns of chats that begin at random times."""
    workload, rng = scenario.workload, stream(scenario.seed, "chats")
    assert workload.requests and workload.rate_per_s
    n = workload.requests
    turns = rng.geometric(1 - law.again, n)
    begin_s = np.cumsum(rng.exponential(turns.mean() / workload.rate_per_s, n))
    rows: list[tuple[float, int, int, tuple[int, ...]]] = []
    next_id, common = law.families * (law.longest // BLOCK_TOKENS + 1), law.common // BLOCK_TOKENS
    for start_s, count in zip(begin_s.tolist(), turns.tolist(), strict=True):
        at, prompt = start_s, law.common + int(_drawn(rng, law.first))
        document = int(rng.integers(law.families)) * (law.longest // BLOCK_TOKENS + 1)
        ids = list(range(common)) + [
            document + common + place for place in range(int(law.shared * prompt) // BLOCK_TOKENS - common)
        ]
        for _ in range(count):
            prompt, output = min(prompt, law.longest), max(1, int(_drawn(rng, law.output)))
            missing = max(0, prompt // BLOCK_TOKENS - len(ids))
            ids += range(next_id, next_id + missing)
            next_id += missing + 1
            rows.append((at, prompt, output, (*ids[: prompt // BLOCK_TOKENS], next_id - 1)))
            at += float(rng.exponential(law.pause_s))
            prompt += output + int(_drawn(rng, law.more))
    # Early on there are few later turns: begin when the longest chats could have been going on for a while.
    rows.sort(key=lambda row: row[0])
    rows = rows[n // 4 :][:n]
    return Trace(
        "chats",
        np.array([row[0] for row in rows]) - rows[0][0],
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows]),
        tuple(row[3] for row in rows),
        BLOCK_TOKENS,
    )


def _drawn(rng: np.random.Generator, law: tuple[float, float]) -> float:
    median, sigma = law
    return float(rng.lognormal(np.log(median), sigma))


def unseen_prefixes(view: LoadView, request: RequestView, rng: Rng) -> int:
    """A routing policy: the cost of `prefix-aware` with nothing found of any prompt that comes."""

    def cost(member: int) -> float:
        usage = view.usage(member)
        held = usage.capacity_blocks - usage.free_blocks + usage.waiting_blocks()
        return usage.expected_tokens() / usage.block_tokens + held

    return min(range(view.count), key=cost)
