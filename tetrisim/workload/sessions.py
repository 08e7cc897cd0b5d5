"""Sessions by their law: who says what in which turn, and how long users read and type before it."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tetrisim.scenario.sessions import SessionSpec
from tetrisim.streams import stream

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """One entry a request: which `session` it is a turn of, and what goes before it.

    A session's turns follow each other. `read_s` and `typing_s` pass between the turn before (or the start) and its
    request. `luck` holds three even draws a turn that decide on hints, the same for every system.
    """

    session: Ints
    read_s: Floats
    typing_s: Floats
    luck: Floats


def draw_turns(spec: SessionSpec, session: Ints, seed: int) -> Turns:
    """The times and the luck of turns whose sessions are known."""
    n = len(session)
    waits = stream(seed, "waits").standard_exponential((n, 2)) * [spec.read_s, spec.typing_s]
    return Turns(session, waits[:, 0], waits[:, 1], stream(seed, "hints").random((n, 3)))


def session_lengths(spec: SessionSpec, n: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Prompt and output tokens of `n` turns, and their sessions: numbers from 0, in order.

    What is drawn for a turn depends on its number alone, so more turns begin with the same ones.
    """
    draws = rng.standard_normal((n, 3))
    most, turn = spec.longest_tokens, spec.longest_turn_tokens
    said = _tokens(spec.prompt_tokens, spec.prompt_sigma, draws[:, 0], min(turn, most - 1)).tolist()
    answers = _tokens(spec.output_tokens, spec.output_sigma, draws[:, 1], min(turn, most)).tolist()
    ends = (draws[:, 2] < _normal_quantile(1 / spec.turns)).tolist()
    rows: list[tuple[int, int, int]] = []
    number = context = 0
    for new, answer, last in zip(said, answers, ends, strict=True):
        if context + new + answer > most:
            number, context = number + bool(context), 0
            answer = min(answer, most - new)  # a turn may be too long by itself
        rows.append((context + new, answer, number))
        context += new + answer
        if last:
            number, context = number + 1, 0
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]


def _normal_quantile(level: float) -> float:
    return float("inf") if level >= 1 else NormalDist().inv_cdf(level)


def _tokens(median: int, sigma: float, score: Floats, most: int) -> Ints:
    tokens = median * np.exp(np.minimum(sigma * score, 50.0))
    return np.clip(np.rint(tokens), 1, most).astype(np.int64)
