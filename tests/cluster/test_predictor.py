"""The length predictor shares the prefill instance: a chunk of 16 tokens takes 26 ms, and a tenth more beside it."""

import pytest
from simulate.by_hand import in_ms, scenario, split, use_timer

from tetrisim.simulate import simulate


@pytest.fixture(autouse=True)
def ten_ms_and_one_a_token(monkeypatch):
    use_timer(monkeypatch)


def first_tokens(folder, requests, exact=False, **predict):
    document = split(predict={"policy": "bucket", "cost": 0.1, **predict}, prefill={"queue": "fcfs"})
    return in_ms(simulate(scenario(folder, requests, **document), exact), "first_token_s")


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [("free", [26, 52, 104]), ("parallel", [26, 54.6, 111.8]), ("sequential", [28.6, 57.2, 114.4])],
)
def test_a_predictor_slows_down_those_who_waited_or_everybody(tmp_path, mode, expected, exact):
    # The first finds the instance idle; the other two wait, the last one in two chunks.
    rows = [(0, 16, 1), (1, 16, 1), (2, 32, 1)]
    assert first_tokens(tmp_path, rows, exact, mode=mode) == expected


@pytest.mark.parametrize("exact", [False, True])
def test_a_chunk_is_slowed_down_when_any_request_in_it_waited(tmp_path, exact):
    # 0-26 16 of 24 tokens; 26-54.6 the other 8 with 8 of one that came in the meantime
    assert first_tokens(tmp_path, [(0, 24, 1), (1, 8, 1)], exact, mode="parallel") == [54.6, 54.6]


def test_without_a_predictor_nothing_is_slowed_down(tmp_path):
    rows = [(0, 16, 1), (1, 16, 1)]
    assert first_tokens(tmp_path, rows, policy="none", mode="sequential") == [26, 52]
