"""The broadcast is old news by design, and an instance that has been idle for a minute changes its role."""

import pytest
from simulate.by_hand import in_ms, scenario, split, use_timer

from tetrisim.simulate import simulate

# Prompts of 4 tokens: a chunk takes 10 ms, the link 2 + 4 ms, and each decode step 10 ms.
AS_SEEN = {"decode": {"instances": 2}, "place": {"policy": "least-kv", "broadcast": "100 ms"}}


@pytest.fixture(autouse=True)
def ten_ms_a_step(monkeypatch):
    use_timer(monkeypatch, token_s=0.0)


@pytest.mark.parametrize("exact", [False, True])
def test_placement_sees_the_loads_of_the_last_tick(tmp_path, exact):
    rows = [(0, 4, 50), (20, 4, 50), (70, 4, 50), (120, 4, 50)]
    result = simulate(scenario(tmp_path, rows, **split(**AS_SEEN)), exact)
    # Placed at 10, 30 and 80 ms: all as of the start, both empty, so all on the first. At 130 ms the tick of 100 shows
    # three there.
    assert in_ms(result, "first_token_s") == [10, 30, 80, 130]
    assert result.requests.decode_instance.tolist() == ["decode-0", "decode-0", "decode-0", "decode-1"]


def test_what_happens_at_a_tick_is_not_in_its_broadcast(tmp_path):
    # The first that decodes is placed at exactly 100 ms; the second, right after, still sees two empty instances.
    rows = [(0, 4, 1), (90, 4, 50), (91, 4, 50), (190, 4, 50)]
    result = simulate(scenario(tmp_path, rows, **split(**AS_SEEN)))
    assert in_ms(result, "first_token_s") == [10, 100, 110, 200]
    assert result.requests.decode_instance.tolist() == ["", "decode-0", "decode-0", "decode-1"]


@pytest.mark.parametrize("exact", [False, True])
def test_a_broadcast_counts_the_steps_that_had_ended_in_the_middle_of_a_window(tmp_path, exact):
    # The first decodes from 16 ms on, and has a hundred tokens by the tick of 1000 ms, all in one window. The second,
    # 40 tokens from 972 ms on, has far fewer, so the third, placed at 1015 ms, joins it.
    rows = [(0, 4, 300), (900, 40, 300), (1005, 4, 10)]
    result = simulate(scenario(tmp_path, rows, **split(**AS_SEEN)), exact)
    assert in_ms(result, "transfer_end_s")[1] == 972
    assert result.requests.decode_instance.tolist() == ["decode-0", "decode-1", "decode-1"]


FLIP = {"policy": "idle", "after": "60 s", "cost": "6 ms"}


def flipped(monkeypatch, folder, requests, **cluster):
    """Steps of a second: one request of 200 tokens keeps a decode instance busy for minutes."""
    use_timer(monkeypatch, step_s=1.0, token_s=0.0)
    predict = {"predict": {"policy": "oracle"}, "place": {"policy": "imbalance", "heavy_tokens": 150}}
    return simulate(scenario(folder, requests, **split(**predict, flip=FLIP, **cluster)))


def test_a_prefill_instance_idle_for_a_minute_decodes(monkeypatch, tmp_path):
    # The second request is placed at 60.001 s on the first decode instance, which was prefill-1 until 60 s; its KV is
    # there at 60.004 s and has to wait for the end of the flip.
    rows = [(0, 1, 200), (59_001, 1, 150)]
    result = flipped(monkeypatch, tmp_path, rows, prefill={"instances": 2})
    assert in_ms(result, "transfer_end_s")[1] == 60_004
    assert in_ms(result, "decode_start_s")[1] == 60_006
    assert result.requests.decode_instance.tolist() == ["decode-0", "prefill-1"]
    assert result.instances.role.tolist() == ["prefill", "decode", "decode"]
    assert result.instances.flips.tolist() == [0, 1, 0]


def test_the_minute_counts_from_the_last_work(monkeypatch, tmp_path):
    # Both prefill instances work for a second and send for 3 ms: a look at 60 s is too early, the next is at 61.003 s.
    result = flipped(monkeypatch, tmp_path, [(0, 1, 200), (0, 1, 200)], prefill={"instances": 2})
    assert result.flip_columns["flip_s"].tolist() == [61.003]


def test_how_busy_an_instance_is_is_of_the_last_minute_alone(monkeypatch, tmp_path):
    # From 41 s on prompts of a second each keep both prefill instances busy for 20 s: for 19 of the first minute and 1
    # of the second, while the decode instance works all the time.
    use_timer(monkeypatch, step_s=1.0, token_s=0.0)
    rows = [(0, 1, 200)] + [(41_000, 1, 1)] * 40
    pools = {"prefill": {"instances": 2, "chunk_tokens": 1}}
    result = simulate(scenario(tmp_path, rows, **split(flip={**FLIP, "policy": "watermark"}, **pools)))
    assert result.flip_columns["flip_s"].tolist() == [120.0]


def test_one_instance_of_each_role_always_stays(monkeypatch, tmp_path):
    result = flipped(monkeypatch, tmp_path, [(0, 1, 400)], prefill={"instances": 3})
    assert sorted(result.instances.role) == ["decode", "decode", "decode", "prefill"]
    assert result.instances.flips.sum() == 2


def test_nobody_flips_before_a_minute_of_idleness(monkeypatch, tmp_path):
    result = flipped(monkeypatch, tmp_path, [(0, 1, 58)], prefill={"instances": 2})
    assert in_ms(result, "finish_s") == [58_003]
    assert result.instances.flips.sum() == 0


def test_nobody_flips_while_the_other_role_has_nothing_to_do(monkeypatch, tmp_path):
    result = flipped(monkeypatch, tmp_path, [(0, 1, 2), (100_000, 1, 2)], prefill={"instances": 2})
    assert result.instances.flips.sum() == 0


def test_an_instance_that_is_to_change_role_is_given_nothing_new_and_changes_when_it_is_empty(monkeypatch, tmp_path):
    # Steps of a second. At 60 s both prefill instances have worked for less than 6 s, the decode instance for 59 s:
    # prefill-0, which has just begun the prompt of 59.4 s, is to go. What comes at 60.1 s and 60.2 s is prefill-1's,
    # one after the other; prefill-0 is empty at 60.4 s, and the report of 60.5 s shows it.
    watermark = {**FLIP, "policy": "watermark"}
    rows = [(0, 1, 200), (59_400, 1, 1), (60_100, 1, 1), (60_200, 1, 1)]
    use_timer(monkeypatch, step_s=1.0, token_s=0.0)
    pools = {"prefill": {"instances": 2, "queue": "fcfs", "chunk_tokens": 1}}
    result = simulate(scenario(tmp_path, rows, **split(flip=watermark, **pools)))
    assert result.requests.prefill_instance.tolist() == ["prefill-0", "prefill-0", "prefill-1", "prefill-1"]
    assert in_ms(result, "finish_s")[1:] == [60_400, 61_100, 62_100]
    assert result.instances.role.tolist() == ["decode", "prefill", "decode"]
    assert result.instances.flips.tolist() == [1, 0, 0]
    flip = {name: column.tolist() for name, column in result.flip_columns.items()}
    assert flip == {"instance": ["prefill-0"], "role": ["decode"], "drain_s": [60.0], "flip_s": [60.5],
                    "ready_s": [60.506]}  # fmt: skip
