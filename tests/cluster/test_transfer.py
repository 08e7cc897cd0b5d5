"""KV on the link: size over bandwidth plus latency, to the tick, one transfer at a time through each port."""

import pytest
from simulate.by_hand import KV_BYTES, in_ms, scenario, split, use_timer

from tetrisim.simulate import simulate


@pytest.fixture(autouse=True)
def ten_ms_a_step(monkeypatch):
    use_timer(monkeypatch, token_s=0.0)


def run(folder, requests, **cluster):
    return simulate(scenario(folder, requests, **split(**cluster)))


def test_two_transfers_into_one_port_wait_for_each_other(tmp_path):
    # Two prefill instances end their prompts at 10 ms; the decode instance takes one transfer (2 + 6 ms), then one.
    result = run(tmp_path, [(0, 6, 2), (0, 5, 2)], prefill={"instances": 2})
    assert in_ms(result, "first_token_s") == [10, 10]
    assert in_ms(result, "transfer_start_s") == [10, 18]
    assert in_ms(result, "transfer_end_s") == [18, 25]


def test_two_transfers_out_of_one_port_wait_for_each_other(tmp_path):
    cluster = {"decode": {"instances": 2}, "place": {"policy": "round-robin"}}
    result = run(tmp_path, [(0, 6, 2), (0, 7, 2)], prefill={"queue": "fcfs"}, **cluster)
    assert set(result.requests.decode_instance) == {"decode-0", "decode-1"}
    assert in_ms(result, "transfer_start_s") == [10, 18]
    assert in_ms(result, "transfer_end_s") == [18, 27]


def test_transfers_between_different_ports_run_side_by_side(tmp_path):
    cluster = {"decode": {"instances": 2}, "place": {"policy": "round-robin"}}
    result = run(tmp_path, [(0, 6, 2), (0, 7, 2)], prefill={"instances": 2}, **cluster)
    assert in_ms(result, "transfer_start_s") == [10, 10]
    assert in_ms(result, "transfer_end_s") == [18, 19]


@pytest.mark.parametrize(
    ("bandwidth", "table_ms"),
    [("200 Gbit/s", {18: 0.59, 128: 4.2, 512: 16.8, 1024: 33.6, 2040: 66.8}),
     ("300 GB/s", {18: 0.05, 128: 0.35, 512: 1.40, 1024: 2.80, 2040: 5.57})],
)  # fmt: skip
def test_opt_13b_takes_the_times_of_the_papers_networks(tmp_path, bandwidth, table_ms):
    """819,200 bytes a token (notes on TetriInfer, section 3), over its RoCE and its NVLink."""
    link = {"bandwidth": bandwidth, "latency": "0 s"}
    rows = [(200 * number, prompt, 2) for number, prompt in enumerate(table_ms)]
    document = split(kv_link=link, prefill={"kv_blocks": 1000, "chunk_tokens": 2048}, decode={"kv_blocks": 1000})
    result = simulate(scenario(tmp_path, rows, **{**document, "model": "opt-13b", "dtype": "fp16"}))
    took = [end - start for start, end in zip(*(in_ms(result, f"transfer_{at}_s") for at in ("start", "end")),
                                              strict=True)]  # fmt: skip
    rate = 25e9 if "Gbit" in bandwidth else 300e9
    for milliseconds, (prompt, about) in zip(took, table_ms.items(), strict=True):
        assert milliseconds == pytest.approx(about, rel=0.02, abs=0.005)
        assert milliseconds == pytest.approx(prompt * 819_200 / rate * 1e3, abs=1e-8)


def test_the_prompts_blocks_stay_at_the_prefill_instance_until_they_are_sent(tmp_path):
    # Room for one prompt of 16 tokens: the second begins when the first has left (10 + 2 + 16 ms).
    result = run(tmp_path, [(0, 16, 2), (0, 16, 2)], prefill={"kv_blocks": 5})
    assert in_ms(result, "prefill_start_s") == [0, 28]


@pytest.mark.parametrize(("granularity", "left_ms"), [("request", 40), ("chunk", 20), ("layer", 40 - (30 - 30 / 36))])
def test_what_is_sent_beside_the_prefill_is_not_left_for_its_end(tmp_path, granularity, left_ms):
    # 40 tokens in chunks of 16, 16 and 8 take 30 ms, and 40 ms on the link. By chunk the link has worked since 10 ms,
    # by layer since 10/12 ms: a twelfth of the first chunk.
    link = {"bandwidth": f"{KV_BYTES} kB/s", "latency": "2 ms", "granularity": granularity}
    result = run(tmp_path, [(0, 40, 2)], kv_link=link)
    assert in_ms(result, "first_token_s") == in_ms(result, "transfer_start_s") == [30]
    assert in_ms(result, "transfer_end_s") == pytest.approx([32 + left_ms])


@pytest.mark.parametrize(("granularity", "left_ms"), [("chunk", 8), ("layer", 8 / 12)])
def test_over_a_fast_link_the_last_piece_is_left(monkeypatch, tmp_path, granularity, left_ms):
    use_timer(monkeypatch, step_s=0.1, token_s=0.0)  # a chunk takes 100 ms, so the link is done with the one before
    link = {"bandwidth": f"{KV_BYTES} kB/s", "latency": "2 ms", "granularity": granularity}
    result = run(tmp_path, [(0, 40, 2)], kv_link=link)
    assert in_ms(result, "transfer_end_s") == pytest.approx([302 + left_ms])
