"""Cut, thinned, sped up: by hand, and what thinning does to a process."""

import numpy as np
import pytest

from tetrisim.errors import TraceError
from tetrisim.workload.describe import dispersion
from tetrisim.workload.reshape import between, faster, thin
from tetrisim.workload.trace import Trace

HAND = Trace(
    "hand",
    np.array([0.0, 1.0, 2.0, 5.0]),
    np.array([10, 20, 30, 40]),
    np.array([1, 2, 3, 4]),
    ((1,), (1, 2), (1, 3), (4, 5)),
    16,
)


def made(arrival_s: np.ndarray) -> Trace:
    ones = np.ones(len(arrival_s), dtype=np.int64)
    return Trace("made", arrival_s, ones, ones)


def test_between_takes_its_start_and_leaves_its_end() -> None:
    cut = between(HAND, 1.0, 5.0)
    assert cut.arrival_s.tolist() == [0.0, 1.0]
    assert (cut.prompt_tokens.tolist(), cut.output_tokens.tolist()) == ([20, 30], [2, 3])
    assert cut.hash_ids == ((1, 2), (1, 3)) and cut.hash_block_tokens == 16
    assert len(between(HAND, 0.0, np.inf)) == 4
    with pytest.raises(TraceError, match=r"no request arrives from 3 s on and before 4 s; .*within 0 and 5 s"):
        between(HAND, 3.0, 4.0)


def test_faster_divides_every_gap() -> None:
    assert faster(HAND, 2.0).arrival_s.tolist() == [0.0, 0.5, 1.0, 2.5]
    assert faster(HAND, 0.5).arrival_s.tolist() == [0.0, 2.0, 4.0, 10.0]
    for speed in (0.0, -1.0, float("nan")):
        with pytest.raises(TraceError, match="--speed"):
            faster(HAND, speed)


def test_thinning_is_seeded_and_nested() -> None:
    whole = made(np.arange(10_000.0))
    kept = [thin(whole, fraction, np.random.default_rng(7)) for fraction in (0.2, 0.5, 1.0)]
    assert len(kept[2]) == 10_000
    assert [len(cut) / 10_000 for cut in kept[:2]] == pytest.approx([0.2, 0.5], abs=0.015)
    # gaps are whole seconds from the first that was kept, so places can be told from times
    rng = np.random.default_rng(7).random(10_000)
    assert kept[0].arrival_s.tolist() == (np.flatnonzero(rng < 0.2) - np.flatnonzero(rng < 0.2)[0]).tolist()
    assert set(np.flatnonzero(rng < 0.2)) < set(np.flatnonzero(rng < 0.5))


def test_thinning_keeps_the_shape_of_the_rate_and_brings_dispersion_nearer_to_one() -> None:
    rng = np.random.default_rng(3)
    # pairs, at a rate that doubles half-way
    gaps = np.concatenate((rng.standard_exponential(100_000), rng.standard_exponential(200_000) / 2))
    whole = made(np.repeat(np.cumsum(gaps) - gaps[0], 2))
    cut = thin(whole, 0.25, np.random.default_rng(1))
    half = whole.arrival_s[-1] / 2
    assert (cut.arrival_s > half).mean() == pytest.approx((whole.arrival_s > half).mean(), abs=0.01)
    first = whole.arrival_s[whole.arrival_s < half]
    thinned = cut.arrival_s[cut.arrival_s < half]
    assert dispersion(first, 10.0) == pytest.approx(2.0, rel=0.05)
    assert dispersion(thinned, 10.0) == pytest.approx(1 + 0.25 * (2 - 1), rel=0.05)


def test_thinning_refuses_what_leaves_nothing() -> None:
    for fraction in (0.0, 1.5, float("nan")):
        with pytest.raises(TraceError, match="above 0 and at most 1"):
            thin(HAND, fraction, np.random.default_rng(1))
    with pytest.raises(TraceError, match="keeps none"):
        thin(HAND, 1e-9, np.random.default_rng(1))
