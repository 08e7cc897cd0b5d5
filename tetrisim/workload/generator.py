"""Generators that a person writes or `tetrisim trace fit` prints: lengths, how they go together, and gaps, as YAML."""

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml
from numpy.typing import NDArray

from tetrisim.errors import ScenarioError, TraceError
from tetrisim.scenario.reader import dump, read
from tetrisim.workload.synthetic import Generator, at_once, slow_noise
from tetrisim.yamltext import parse_yaml

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Knots = tuple[tuple[float, ...], ...]
"""(level, value) pairs of a quantile function, straight lines in between; levels rise from 0 to 1."""

GENERATOR_SUFFIXES = (".yaml", ".yml")
"""`workload.trace` with one of these is the file of a generator, not of requests."""
MAX_TOKENS = 10**9
"""More tokens than this in one request is taken for a mistake."""


@dataclass(frozen=True, slots=True)
class LengthSpec:
    """Tokens of a prompt or an answer: log-normal with `median` and `sigma`, or by its `quantiles`.

    Rounded to whole tokens from 1 to `longest`.
    """

    median: float | None = None
    sigma: float | None = None
    quantiles: Knots | None = None
    longest: int | None = None

    def __post_init__(self) -> None:
        if self.quantiles is None:
            if self.median is None or not 0 < self.median <= MAX_TOKENS:
                raise ValueError("median: expected tokens above 0, as in 1020 (or quantiles in its place)")
            if self.sigma is None or not 0 <= self.sigma <= 10:
                raise ValueError("sigma: expected from 0 to 10: the standard deviation of the logarithm")
        elif self.median is not None or self.sigma is not None:
            raise ValueError("quantiles: expected without median and sigma: one law or the other")
        else:
            _check_knots(self.quantiles, 1, MAX_TOKENS)
        if self.longest is not None and not 1 <= self.longest <= MAX_TOKENS:
            raise ValueError(f"longest: expected from 1 to {MAX_TOKENS} tokens")


@dataclass(frozen=True, slots=True)
class DriftSpec:
    """A rate that wanders: `sigma` is the deviation of its logarithm, `gaps` over how many its memory falls by e."""

    sigma: float
    gaps: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma <= 3:
            raise ValueError("sigma: expected from 0 to 3: the standard deviation of the rate's logarithm")
        if not 1 <= self.gaps <= 1e9:
            raise ValueError("gaps: expected from 1 to 1e9")


@dataclass(frozen=True, slots=True)
class GapSpec:
    """Gaps between arrivals with mean 1 / rate, independent but for the `drift` of the rate.

    Gamma with `shape` (1 is Poisson, below is burstier), or in the proportions of `quantiles`.
    """

    rate_per_s: float
    shape: float | None = None
    quantiles: Knots | None = None
    drift: DriftSpec | None = None

    def __post_init__(self) -> None:
        if not 1e-6 <= self.rate_per_s <= 1e9:
            raise ValueError("rate: expected more than 0 /s: from 1e-6 to 1e9")
        if self.shape is not None and not 1e-6 <= self.shape <= 1e9:
            raise ValueError("shape: expected more than 0: from 1e-6 to 1e9")
        if self.quantiles is not None:
            if self.shape is not None:
                raise ValueError("quantiles: expected without shape: one law or the other")
            _check_knots(self.quantiles, 0, 1e30)
            if not knots_mean(self.quantiles) > 0:
                raise ValueError("quantiles: expected some gap above 0")


@dataclass(frozen=True, slots=True)
class GeneratorSpec:
    """How many requests unless the workload says, their lengths, and their gaps (without: all at t = 0).

    `rank_correlation` is Spearman's, of prompt and output tokens, by a Gaussian copula.
    """

    requests: int
    prompt_tokens: LengthSpec
    output_tokens: LengthSpec
    rank_correlation: float = 0.0
    gaps: GapSpec | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.requests <= 10**9:
            raise ValueError("requests: expected at least 1 and at most 10^9")
        if not -1 <= self.rank_correlation <= 1:
            raise ValueError("rank_correlation: expected from -1 to 1")


def _check_knots(knots: Knots, least: float, most: float) -> None:
    if any(len(pair) != 2 for pair in knots):
        raise ValueError("quantiles: expected [level, value] pairs, as in [[0, 1], [0.5, 900], [1, 4000]]")
    levels, values = [pair[0] for pair in knots], [pair[1] for pair in knots]
    if len(knots) < 2 or levels[0] != 0 or levels[-1] != 1 or any(np.diff(levels) <= 0):
        raise ValueError("quantiles: expected levels that rise from 0 to 1")
    if not least <= values[0] or values[-1] > most or any(np.diff(values) < 0):
        raise ValueError(f"quantiles: expected values from {least} up that never fall")


def knots_mean(knots: Knots) -> float:
    """The mean of what the quantile function draws."""
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(knots))


def load_generator(path: str) -> Generator:
    """The generator in a YAML file; raises TraceError with the file and the key of what is wrong."""
    try:
        document: object = parse_yaml(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise TraceError(path, f"cannot be read ({reason})", "a generator's YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else path
        raise TraceError(where, f"is not YAML ({getattr(error, 'problem', None) or error})", "a generator") from None
    try:
        spec = read(GeneratorSpec, document, "")
    except ScenarioError as error:
        where = ": ".join(part for part in (path, error.where.strip(".")) if part)
        raise TraceError(where, error.what, error.expected, error.nearest) from None
    return generator(spec)


def dump_generator(spec: GeneratorSpec) -> str:
    """YAML that `load_generator` reads as an equal generator."""
    return yaml.dump(_in_lines(dump(spec)), Dumper=_Dumper, sort_keys=False, width=110)


class _Pairs(list[Any]):
    """A list that is written in a line, not an item a line."""


class _Dumper(yaml.SafeDumper):
    pass


def _represent(dumper: yaml.SafeDumper, pairs: _Pairs) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", pairs, flow_style=True)


_Dumper.add_representer(_Pairs, _represent)


def _in_lines(value: Any) -> Any:
    """Lists marked to be written in lines, and whole numbers without their .0."""
    if isinstance(value, dict):
        return {key: _in_lines(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return _Pairs(_in_lines(item) for item in cast("list[Any]", value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def generator(spec: GeneratorSpec) -> Generator:
    """What a spec makes: a longer trace begins with the shorter one of the same seed."""
    arrivals = at_once if spec.gaps is None else partial(_arrivals, spec.gaps)
    return Generator("a generator of the user's", spec.requests, partial(_lengths, spec), arrivals)


def _arrivals(gaps: GapSpec, n: int, rng: np.random.Generator) -> Floats:
    if gaps.quantiles is not None:
        drawn = _by_knots(gaps.quantiles, rng.random(n)) / knots_mean(gaps.quantiles)
    else:
        shape = 1.0 if gaps.shape is None else gaps.shape
        drawn = rng.standard_gamma(shape, n) / shape
    if gaps.drift is not None:
        # Of a stream of its own, so that it is the same for a longer trace.
        noise = slow_noise(rng.spawn(1)[0].standard_normal(n), gaps.drift.gaps)
        drawn *= np.exp(gaps.drift.sigma * noise - gaps.drift.sigma**2 / 2.0)
    drawn[:1] = 0.0
    return np.cumsum(drawn) / gaps.rate_per_s


def _lengths(spec: GeneratorSpec, n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    score = rng.standard_normal((n, 2))
    # Spearman's rank correlation of two normal scores as a correlation of the scores themselves.
    shared = 2.0 * math.sin(math.pi / 6.0 * spec.rank_correlation)
    second = shared * score[:, 0] + (1.0 - shared**2) ** 0.5 * score[:, 1]
    return _tokens(spec.prompt_tokens, score[:, 0]), _tokens(spec.output_tokens, second)


def _tokens(law: LengthSpec, score: Floats) -> Ints:
    if law.quantiles is None:
        assert law.median is not None and law.sigma is not None
        # A log-normal's tail has no end: what is beyond the longest is as long as the longest.
        tokens = law.median * np.exp(np.minimum(law.sigma * score, 50.0))
    else:
        level = np.fromiter(map(math.erfc, (score / -math.sqrt(2.0)).tolist()), np.float64, len(score)) / 2.0
        tokens = _by_knots(law.quantiles, level)
    longest = MAX_TOKENS if law.longest is None else law.longest
    return np.clip(np.rint(tokens), 1, longest).astype(np.int64)


def _by_knots(knots: Knots, level: Floats) -> Floats:
    levels, values = np.array(knots, dtype=np.float64).T
    return cast(Floats, np.interp(level, levels, values))
