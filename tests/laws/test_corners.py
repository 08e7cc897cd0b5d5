"""Little worlds that once broke a law, kept as they were found."""

import pytest
from laws.worlds import rows, write_csv, write_mooncake
from simulate.by_hand import in_ms, one, scenario, split, use_timer

from tetrisim.cluster.engine import Engine
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate


def doc(trace, system, *pools, **more):
    return {
        "model": "opt-125m",
        "system": system,
        "profile": "roofline",
        "workload": {"trace": trace},
        "cluster": {"gpu": "l40s", "pools": list(pools)},
        **more,
    }


def test_a_horizon_loses_no_request():
    trace = write_csv([(0.01 * i, 20, 5) for i in range(10)])
    result = simulate(resolve(doc(trace, "vllm-v1", {"role": "hybrid"}, horizon="45 ms")))
    assert result.request_columns["request_id"].tolist() == list(range(10))


def test_windows_and_steps_agree_when_a_decode_pool_recomputes():
    trace = write_csv([(0.0, 40, 27), (0.0, 83, 15), (0.0, 1, 1), (0.0, 1, 1), (0.0005, 16, 2)])
    document = doc(
        trace,
        "tetriinfer",
        {"role": "prefill", "kv_blocks": 176, "block_tokens": 1, "chunk_tokens": 8},
        {"role": "decode", "kv_blocks": 11, "max_num_seqs": 3, "preemption": "recompute"},
    )
    assert rows(simulate(resolve(document))) == rows(simulate(resolve(document), exact_steps=True))


def test_a_decode_pool_with_a_token_budget_serves():
    document = doc(
        write_csv([(0.0, 10, 5)]),
        "tetriinfer",
        {"role": "prefill"},
        {"role": "decode", "batching": "token-budget"},
        horizon="10 s",
    )
    assert simulate(resolve(document)).request_columns["status"].tolist() == ["completed"]


def test_hybrid_fixed_chunks_keep_their_blocks(monkeypatch):
    plan = Engine.plan
    monkeypatch.setattr(Engine, "plan", lambda self: self.kv.check() or plan(self))
    document = doc(
        write_csv([(0.0, 17, 1), (0.0, 8, 1)]),
        "vllm-v1",
        {"role": "hybrid", "batching": "fixed-chunks", "chunk_tokens": 8, "block_tokens": 1, "kv_blocks": 176},
    )
    assert rows(simulate(resolve(document))) == rows(simulate(resolve(document), exact_steps=True))


def test_all_decodes_preempted_by_a_partial_prefill():
    asked = [(0.0, 65, 1), (0.0, 65, 1), (0.0, 61, 3), (0.0, 33, 2)]
    pool = {
        "role": "hybrid",
        "kv_blocks": 176,
        "block_tokens": 1,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
        "long_prefill_tokens": 16,
    }
    result = simulate(resolve(doc(write_mooncake(asked, [0, 1, 0, 0], 1), "vllm-v1", pool)))
    assert set(result.request_columns["status"].tolist()) == {"completed"}


@pytest.mark.parametrize("exact", [False, True])
def test_a_swap_is_paid_once(monkeypatch, tmp_path, exact):
    use_timer(monkeypatch)
    result = simulate(
        scenario(tmp_path, [(0, 4, 8), (0, 4, 8)], **one("vllm-v0", kv_blocks=4, preemption="swap")), exact
    )
    block = 4 * 36_864 / 32e9 * 1e3  # ms over PCIe
    assert in_ms(result, "finish_s") == [round(99 + 2 * block, 9), round(132 + 4 * block, 9)]


def test_gaps_at_a_horizon_do_not_depend_on_windows(monkeypatch, tmp_path):
    use_timer(monkeypatch)
    made = scenario(tmp_path, [(0, 4, 50)], horizon="60 ms", **one("vllm-v0"))
    found = [
        int((r.gap_columns["steps"] * r.gap_columns["weight"]).sum()) for r in (simulate(made), simulate(made, True))
    ]
    assert found[0] == found[1]


def test_steps_and_busy_time_at_a_horizon_do_not_depend_on_windows(monkeypatch, tmp_path):
    use_timer(monkeypatch)
    made = scenario(tmp_path, [(0, 4, 50)], horizon="60 ms", **one("vllm-v0"))
    found = [
        (r.instance_columns["steps"].tolist(), r.instance_columns["busy_s"].tolist())
        for r in (simulate(made), simulate(made, True))
    ]
    assert found[0] == found[1]


def test_no_moment_lies_beyond_the_horizon(monkeypatch, tmp_path):
    use_timer(monkeypatch)
    made = scenario(tmp_path, [(0, 20, 5)], horizon="60 ms", **split())
    (end,) = in_ms(simulate(made), "transfer_end_s")
    assert end is None or end <= 60


def test_prefill_start_at_a_horizon_does_not_depend_on_windows():
    trace = write_csv([(0.0, 90, 2), (0.0, 90, 2), (0.0, 90, 2)])
    document = doc(trace, "tetriinfer", {"role": "prefill", "chunk_tokens": 8}, {"role": "decode"}, horizon="1 ms")
    assert rows(simulate(resolve(document))) == rows(simulate(resolve(document), exact_steps=True))


def test_windows_and_steps_agree_when_a_prefill_pool_caches_prefixes():
    asked = [(0.0, 33, 2), (0.0, 49, 4), (0.0005, 17, 2), (0.0005, 33, 2)]
    prefill = {"role": "prefill", "prefix_caching": True, "chunk_tokens": 32, "kv_blocks": 176, "block_tokens": 1}
    document = doc(
        write_mooncake(asked, [0, 0, 1, 1], 3),
        "tetriinfer",
        prefill,
        {"role": "decode", "kv_blocks": 256, "block_tokens": 1},
    )
    assert rows(simulate(resolve(document))) == rows(simulate(resolve(document), exact_steps=True))


def test_windows_and_steps_agree_when_roles_flip():
    asked = [
        (0.0, 25, 44),
        (0.002, 200, 48),
        (0.002, 63, 43),
        (0.0025, 16, 1),
        (0.0045, 200, 2),
        (0.0345, 200, 3),
        (0.0645, 89, 48),
        (0.0645, 16, 60),
        (0.0665, 33, 2),
    ]
    machines = {"block_tokens": 4, "instances": 2, "watermark": 0.05}
    document = doc(
        write_csv(asked),
        "tetriinfer",
        {"role": "prefill", "kv_blocks": 44, "chunk_tokens": 8, **machines},
        {"role": "decode", "kv_blocks": 100, **machines},
        model="llama-3.1-8b",
    )
    document["cluster"] |= {"gpu": "h100-sxm", "flip": {"policy": "idle", "after": "5 ms", "cost": "1 ms"}}
    assert rows(simulate(resolve(document))) == rows(simulate(resolve(document), exact_steps=True))


@pytest.mark.parametrize("exact", [False, True])
def test_gaps_of_a_request_preempted_twice_add_up(exact):
    trace = write_csv([(0.0, 77, 23), (0.0005, 10, 21), (0.001, 29, 21), (0.001, 10, 7)])
    pool = {"role": "hybrid", "kv_blocks": 11, "max_num_batched_tokens": 64, "max_num_seqs": 32}
    result = simulate(resolve(doc(trace, "vllm-v1", pool)), exact)
    g, q = result.gap_columns, result.requests
    total = (g["weight"] * (g["steps"] * g["first_s"] + g["slope_s"] * g["steps"] * (g["steps"] - 1) / 2)).sum()
    assert total == pytest.approx((q.finish_s - q.first_token_s).sum(), rel=1e-9)
