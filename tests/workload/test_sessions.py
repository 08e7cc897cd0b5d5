"""Sessions: each turn goes on from what was said, by the law that the spec writes, the same for a longer trace."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tetrisim.scenario.sessions import SessionSpec
from tetrisim.scenario.workload import WorkloadSpec
from tetrisim.workload.trace import build


def chats(requests=2000, seed=1, **law):
    spec = WorkloadSpec(trace="chat-sessions", requests=requests, sessions=SessionSpec(**law))
    return build(spec, seed)


def said_before(trace):
    """Tokens of each turn's session before it."""
    same = np.diff(trace.turns.session, prepend=-1) == 0
    before = np.roll(trace.prompt_tokens + trace.output_tokens, 1)
    return np.where(same, before, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 80), st.integers(0, 40), st.integers(0, 2**40), st.sampled_from([1.0, 1.5, 8.0]),
    st.sampled_from([2, 60, 16_384]),
)  # fmt: skip
def test_a_turn_goes_on_from_what_was_said(few, more, seed, turns, longest):
    law = {"turns": turns, "longest_tokens": longest}
    short, long = chats(few, seed, **law), chats(few + more, seed, **law)
    for name in ("prompt_tokens", "output_tokens"):
        assert np.array_equal(getattr(long, name)[:few], getattr(short, name))
    for name in ("session", "read_s", "typing_s", "luck"):
        assert np.array_equal(getattr(long.turns, name)[:few], getattr(short.turns, name))
    assert (short.prompt_tokens > said_before(short)).all() and (short.output_tokens >= 1).all()
    assert (short.prompt_tokens + short.output_tokens <= longest).all()
    assert (short.prompt_tokens - said_before(short) <= 2048).all() and (short.output_tokens <= 2048).all()
    steps = np.diff(short.turns.session)
    assert short.turns.session[0] == 0 and ((steps == 0) | (steps == 1)).all()
    if turns == 1:
        assert (steps == 1).all()


def test_the_law_is_the_specs():
    trace = chats(60_000, longest_tokens=10**9, prompt_sigma=1.0, output_sigma=1.0, read_s=20.0, typing_s=5.0)
    assert np.bincount(trace.turns.session).mean() == pytest.approx(5.75, rel=0.02)
    assert np.median(trace.prompt_tokens - said_before(trace)) == pytest.approx(18, abs=1)
    assert np.median(trace.output_tokens) == pytest.approx(134, rel=0.02)
    assert trace.turns.read_s.mean() == pytest.approx(20, rel=0.02)
    assert trace.turns.typing_s.mean() == pytest.approx(5, rel=0.02)
    assert np.corrcoef(trace.turns.read_s, trace.turns.typing_s)[0, 1] == pytest.approx(0, abs=0.02)
    assert np.sort(trace.turns.luck[:, 0])[:: 60_000 // 4] == pytest.approx([0, 0.25, 0.5, 0.75], abs=0.01)


def test_another_pace_says_the_same_and_another_seed_does_not():
    quick, slow = chats(read_s=1.0), chats(read_s=2.0)
    assert np.array_equal(quick.prompt_tokens, slow.prompt_tokens)
    assert slow.turns.read_s == pytest.approx(2 * quick.turns.read_s)
    assert not np.array_equal(quick.prompt_tokens, chats(seed=2).prompt_tokens)
    assert build(replace(WorkloadSpec(trace="chat-sessions", requests=9), sessions=None), 1).turns is not None
