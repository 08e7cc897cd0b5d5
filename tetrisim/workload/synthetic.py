"""Generators of the embedded catalog: the paper's workload classes, and traces that look like Azure's.

Every generator draws a fixed number of variates per request, row by row, so a longer trace begins with the
shorter one of the same seed. Public knowledge and fits behind the constants: traces/README.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from statistics import NormalDist
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tetrisim.scenario.sessions import SessionSpec
from tetrisim.workload.fits import CODE, CONV, GAP_LEVELS, LENGTH_LEVELS, TraceFit
from tetrisim.workload.sessions import session_lengths

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Lengths = tuple[Ints, Ints]

MAX_CONTEXT = 2048
"""OPT's positions: prompt + output of a ShareGPT-like request never exceed it."""
HEAVY_PREFILL = 512
"""A heavy prompt has more tokens than this (the paper's evaluation section, not its motivation section)."""
HEAVY_DECODE = 128
"""A heavy answer has more tokens than this; it is ShareGPT's median answer."""

# Log-normals before the cut at MAX_CONTEXT; after it their medians are ShareGPT's 18 and 128 tokens.
# Sigma from ShareGPT's published means in the vLLM paper, 161 and 338: mean / median = exp(sigma^2 / 2).
PROMPT_MEDIAN, PROMPT_SIGMA = 18.0, 2.09
OUTPUT_MEDIAN, OUTPUT_SIGMA = 134.0, 1.39

Range = tuple[int, int]
_ANY: Range = (0, MAX_CONTEXT - 1)
_LP: Range = (0, HEAVY_PREFILL)
_HP: Range = (HEAVY_PREFILL, MAX_CONTEXT - 1)
_LD: Range = (0, HEAVY_DECODE)
_HD: Range = (HEAVY_DECODE, MAX_CONTEXT - 1)
_CLASSES: dict[str, tuple[Range, Range]] = {
    "lpld": (_LP, _LD),
    "lphd": (_LP, _HD),
    "hpld": (_HP, _LD),
    "hphd": (_HP, _HD),
}
"""Class -> (prompt range, output range), each as (more than, at most) tokens."""


@dataclass(frozen=True, slots=True)
class Generator:
    """A trace of the catalog: `requests` is how many it makes when the user does not say."""

    summary: str
    requests: int
    lengths: Callable[[int, np.random.Generator], Lengths]
    arrivals: Callable[[int, np.random.Generator], Floats]


@cache
def _log_normal_cdf(median: float, sigma: float) -> Floats:
    """P(length <= k) for k = 0 .. MAX_CONTEXT, of a log-normal rounded up to whole tokens."""
    normal = NormalDist(np.log(median), sigma)
    return np.array([0.0] + [normal.cdf(np.log(k)) for k in range(1, MAX_CONTEXT + 1)])


def _class_lengths(prompts: Range, outputs: Range, draws: Floats) -> Lengths:
    """The ShareGPT-like pair conditioned on its ranges and on prompt + output <= MAX_CONTEXT, exactly.

    `draws` holds two uniforms a request. Inverting the conditional distribution needs no rejected draws.
    """
    prompt_cdf = _log_normal_cdf(PROMPT_MEDIAN, PROMPT_SIGMA)
    output_cdf = _log_normal_cdf(OUTPUT_MEDIAN, OUTPUT_SIGMA)
    lengths = np.arange(prompts[0] + 1, prompts[1] + 1)
    room = output_cdf[np.minimum(outputs[1], MAX_CONTEXT - lengths)] - output_cdf[outputs[0]]
    weights: Floats = np.cumsum(np.diff(prompt_cdf[prompts[0] : prompts[1] + 1]) * np.maximum(room, 0.0))
    prompt = lengths[weights.searchsorted(draws[:, 0] * weights[-1], side="right")]
    longest = np.minimum(outputs[1], MAX_CONTEXT - prompt)
    low = output_cdf[outputs[0]]
    # 1 - u is in (0, 1], so the level is above `low` and the answer longer than the range's lower end.
    level = low + (1.0 - draws[:, 1]) * (output_cdf[longest] - low)
    output = cast(Ints, output_cdf.searchsorted(level, side="left"))
    return prompt.astype(np.int64), np.clip(output, outputs[0] + 1, longest).astype(np.int64)


def sharegpt_lengths(prompts: Range, outputs: Range, n: int, rng: np.random.Generator) -> Lengths:
    """`n` ShareGPT-like (prompt, output) lengths in tokens, within the two (more than, at most) ranges."""
    return _class_lengths(prompts, outputs, rng.random((n, 2)))


def mixed_lengths(n: int, rng: np.random.Generator) -> Lengths:
    """`n` lengths in tokens, each of one of the paper's four classes with equal chance."""
    draws = rng.random((n, 3))
    which = (draws[:, 2] * len(_CLASSES)).astype(np.int64)
    prompt, output = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    for i, (prompts, outputs) in enumerate(_CLASSES.values()):
        mine = which == i
        prompt[mine], output[mine] = _class_lengths(prompts, outputs, draws[mine, :2])
    return prompt, output


def random_lengths(prompt: int, output: int, shortest: float, n: int, rng: np.random.Generator) -> Lengths:
    """`n` lengths in tokens, each drawn evenly from `shortest` times (rounded down) to one times the given one."""
    draws = rng.random((n, 2))
    most = np.array([prompt, output])
    least = np.maximum(1, (shortest * most).astype(np.int64))
    tokens = least + (draws * (most - least + 1)).astype(np.int64)
    return tokens[:, 0], tokens[:, 1]


def fitted_lengths(fit: TraceFit, n: int, rng: np.random.Generator) -> Lengths:
    """`n` lengths in tokens with the fit's marginal quantiles and its joint distribution of ranks."""
    draws = rng.random((n, 3))
    weights: Floats = np.cumsum(np.asarray(fit.joint, dtype=np.float64))
    bins = len(fit.joint)
    cell = cast(Ints, weights.searchsorted(draws[:, 0] * weights[-1], side="right"))
    prompt_rank = (cell // bins + draws[:, 1]) / bins
    output_rank = (cell % bins + draws[:, 2]) / bins
    prompt = np.rint(np.interp(prompt_rank, LENGTH_LEVELS, fit.prompt_tokens))
    output = np.rint(np.interp(output_rank, LENGTH_LEVELS, fit.output_tokens))
    return np.maximum(prompt, 1).astype(np.int64), np.maximum(output, 1).astype(np.int64)


def fitted_gaps(fit: TraceFit, n: int, rng: np.random.Generator) -> Floats:
    """`n` gaps in seconds: the fit's quantiles, driven by white noise plus slow Gaussian noise per memory."""
    draws = rng.standard_normal((n, 1 + len(fit.memory)))
    score = draws[:, 0] * (1.0 - sum(share for share, _ in fit.memory)) ** 0.5
    for column, (share, scale_gaps) in enumerate(fit.memory, start=1):
        score += share**0.5 * slow_noise(draws[:, column], scale_gaps)
    log_gap = np.log(np.array(fit.gap_s, dtype=np.float64))
    return np.exp(cast(Floats, np.interp(score, normal_scores(), log_gap)))


def fitted_arrivals(fit: TraceFit, n: int, rng: np.random.Generator) -> Floats:
    """`n` arrival times in seconds, the first at 0, with the fit's rate and burstiness."""
    gaps = fitted_gaps(fit, n, rng)
    gaps[:1] = 0.0
    return np.cumsum(gaps)


def slow_noise(white: Floats, scale_gaps: float) -> Floats:
    """Unit-variance AR(1) noise whose correlation falls by e in `scale_gaps` gaps."""
    keep = float(np.exp(-1.0 / scale_gaps))
    steps = white * np.sqrt(1.0 - keep * keep)
    steps[:1] = white[:1]  # start in the stationary distribution
    # numpy has no recursive filter; accumulate over floats runs ten million steps a second
    return np.fromiter(accumulate(steps.tolist(), lambda level, step: keep * level + step), np.float64)


@cache
def normal_scores() -> Floats:
    """The standard normal's quantiles at GAP_LEVELS: where the knots of the gaps stand."""
    normal = NormalDist()
    return np.array([normal.inv_cdf(level) for level in GAP_LEVELS])


def at_once(n: int, rng: np.random.Generator) -> Floats:
    """A workload without arrivals of its own: all at t = 0."""
    return np.zeros(n)


def _paper_class(name: str, text: str) -> Generator:
    prompts, outputs = _CLASSES[name]
    return Generator(text, 128, partial(sharegpt_lengths, prompts, outputs), at_once)


RANDOM_PROMPT, RANDOM_OUTPUT = 1024, 128
"""Tokens of `trace: random` when the user names none: the defaults of `vllm bench serve --dataset-name random`."""

CATALOG: dict[str, Generator] = {
    "random": Generator(
        "prompt_tokens (1024) and output_tokens (128) as given, or even between `shortest` times and one times them",
        128,
        partial(random_lengths, RANDOM_PROMPT, RANDOM_OUTPUT, 1.0),
        at_once,
    ),
    "azure-conv-like": Generator(
        "chat like Azure's production of November 2023: 5.5 requests/s, prompts ~1155, answers ~211 tokens",
        2000,
        partial(fitted_lengths, CONV),
        partial(fitted_arrivals, CONV),
    ),
    "azure-code-like": Generator(
        "code completion like Azure's of November 2023: very bursty 2.6/s, prompts ~2048, answers ~28 tokens",
        2000,
        partial(fitted_lengths, CODE),
        partial(fitted_arrivals, CODE),
    ),
    "sharegpt-mixed": Generator(
        "ShareGPT-like chat: median prompt 18, median answer 128, at most 2048 together; all at t = 0",
        2000,
        partial(sharegpt_lengths, _ANY, _ANY),
        at_once,
    ),
    "chat-sessions": Generator(
        "turns of ShareGPT-like chats of 5.75 turns, in a closed loop of users who read and type (`sessions`)",
        2000,
        lambda n, rng: session_lengths(SessionSpec(), n, rng)[:2],
        at_once,
    ),
    "lpld": _paper_class("lpld", "the paper's LPLD (chat): ShareGPT-like, prompt <= 512, answer <= 128; all at t = 0"),
    "lphd": _paper_class(
        "lphd", "the paper's LPHD (creation): ShareGPT-like, prompt <= 512, answer > 128; all at t = 0"
    ),
    "hpld": _paper_class(
        "hpld", "the paper's HPLD (summaries): ShareGPT-like, prompt > 512, answer <= 128; all at t = 0"
    ),
    "hphd": _paper_class("hphd", "the paper's HPHD: ShareGPT-like, prompt > 512, answer > 128; all at t = 0"),
    "mixed": Generator(
        "the paper's Mixed: each request of one of the four classes with equal chance; all at t = 0",
        128,
        mixed_lengths,
        at_once,
    ),
}
"""Catalog name -> generator."""
