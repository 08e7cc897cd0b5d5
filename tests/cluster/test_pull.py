"""Decode instances that pull: what is not pulled stays at the prefill instance, so that this fills up. By hand."""

import pytest
from simulate.by_hand import in_ms, scenario, split, use_timer

from tetrisim.simulate import simulate


@pytest.mark.parametrize("exact", [False, True])
def test_no_more_is_pulled_while_a_twentieth_of_the_memory_waits(monkeypatch, tmp_path, exact):
    # Decode takes one request at a time, 400 tokens of memory. A step takes 10 ms and 1 ms a token, chunks 16 tokens,
    # the link 2 ms and 1 ms a token. The first, of 16 tokens, is pulled at once, at 26 ms, is there at 44 and decodes
    # until 77 (3 steps of 11). Of the others at most one waits when the next is ready: 16 tokens, and 20 are too many.
    place = {"policy": "pull", "broadcast": "5 ms"}
    machines = split(decode={"max_num_seqs": 1}, place=place)
    result = simulate(scenario(tmp_path, [(0, 16, 4)] * 4, **machines), exact)
    assert in_ms(result, "transfer_start_s") == [26, 52, 78, 104]
    # Answers of 20: the first decodes until 44 + 19 * 11 = 253; the second is pulled at 52, the third at 78 (16 wait),
    # and then 32 wait, until the second begins at 253: 16 wait, and the fourth is pulled at the next look, 255.
    result = simulate(scenario(tmp_path, [(0, 16, 20)] * 4, **machines), exact)
    assert in_ms(result, "first_token_s") == [26, 52, 78, 104]
    assert in_ms(result, "decode_start_s")[:2] == [44, 253]
    assert in_ms(result, "transfer_start_s") == [26, 52, 78, 255]


@pytest.mark.parametrize("exact", [False, True])
def test_what_is_not_pulled_keeps_its_blocks_and_stops_the_prefill(monkeypatch, tmp_path, exact):
    machines = split(
        prefill={"kv_blocks": 8}, decode={"max_num_seqs": 1}, place={"policy": "pull", "broadcast": "5 ms"}
    )
    result = simulate(scenario(tmp_path, [(0, 16, 20)] * 6, **machines), exact)
    assert in_ms(result, "transfer_start_s")[:4] == [26, 52, 78, 255]
    # Two prompts fill its 32 tokens: the fourth and fifth, until the fourth is sent (255 + 18); then the sixth starts.
    assert in_ms(result, "first_token_s") == [26, 52, 78, 104, 130, 299]


@pytest.fixture(autouse=True)
def clear_times(monkeypatch):
    use_timer(monkeypatch)
