import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from latency.importers import tiny

from tetrisim.errors import OutputError, ProfileError
from tetrisim.latency.build import build_timer
from tetrisim.latency.check import check_profile
from tetrisim.latency.grid import ESTIMATED, INTERPOLATED, MEASURED
from tetrisim.latency.importers.aiconfigurator import SEQUENTIAL_HOST_S, Wanted, convert, prefix_s
from tetrisim.latency.importers.aiconfigurator_tables import Gemm
from tetrisim.latency.roofline import Shard
from tetrisim.latency.table import read_profile
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "profiles" / "aiconfigurator"
TICKS = 1e-15


def wanted(tmp_path, shards=(1,), dtypes=("bf16",), gpus=()):
    return Wanted([load_model(str(tiny.model(tmp_path)))], gpus, dtypes, shards)


def imported(tmp_path, **choices):
    tiny.systems(tmp_path / "systems")
    return [
        read_profile(folder) for folder in convert(tmp_path / "systems", tmp_path / "out", wanted(tmp_path, **choices))
    ]


def test_one_profile_for_each_dtype_and_degree(tmp_path):
    profiles = imported(tmp_path, shards=(1, 2), dtypes=("bf16", "fp8"))
    assert [(p.dtype, p.tensor_parallel) for p in profiles] == [("bf16", 1), ("bf16", 2), ("fp8", 1), ("fp8", 2)]
    assert {p.gpu for p in profiles} == {"h100-sxm"}
    assert profiles[0].meta["provenance"]["versions"]["gemm"] == "0.24.0", "the newest, by number and not by letter"


def test_another_engines_kernels_stand_in_for_a_table_that_is_missing(tmp_path):
    """Not every GPU has the tables of every engine; the provenance says whose they are."""
    tiny.systems(tmp_path / "systems")
    (attention,) = (tmp_path / "systems").glob("**/attention/vllm")
    attention.rename(attention.with_name("trtllm"))
    (folder,) = convert(tmp_path / "systems", tmp_path / "out", wanted(tmp_path))
    profile = read_profile(folder)
    assert profile.attention[0, 0, 4, 1023] == pytest.approx(tiny.decode_s(4, 1023, 4), rel=1e-4)
    versions = profile.meta["provenance"]["versions"]
    assert versions["generation_attention"].startswith("trtllm ") and versions["gemm"] == "0.24.0"


def test_a_step_is_the_sum_of_its_ops(tmp_path):
    """Three decodes over 1,023 tokens, by hand: GEMMs and attention of two layers, LM head, and what bytes say."""
    (profile,) = imported(tmp_path)
    model = load_model(str(tiny.model(tmp_path)))
    timer, _ = build_timer(Shard(model, load_gpu("h100-sxm"), "bf16", 1), str(tmp_path / "out"), "profile")
    matrices = [(3072, 1024), (1024, 2048), (6144, 1024), (1024, 3072)]
    layer = sum(tiny.gemm_s(4, n, k) for n, k in matrices) + tiny.decode_s(4, 1023, 4)

    def moved(elements):
        return 3e-6 + 2 * elements * 4 / (3.35e12 * 0.8)

    layer += 2 * moved(4 * 1024) + moved(2 * 20 * 128) + moved(6144 + 3072)
    step = 2 * layer + moved(4 * 1024) + moved(2 * 1024)  # the final norm, and the embedding
    step += tiny.gemm_s(4, 8000, 1024) + 3e-6 + 12 * 8000 * 4 / (3.35e12 * 0.8)
    step += 2e-4 + 2e-6 * 4  # the stated host overhead
    assert timer.step(4, [], 4, 4 * 1023, 1023) * TICKS == pytest.approx(step, rel=1e-4)
    assert profile.linear["qkv_proj"].sources[0] == INTERPOLATED, "n=3072 lies between 2,048 and 4,096"
    assert profile.linear["o_proj"].sources[0] == MEASURED
    assert set(profile.linear["layernorm"].sources) == {ESTIMATED}


def test_a_model_with_norms_of_queries_and_keys_pays_for_them(tmp_path):
    """Qwen3: two more kernels a layer, over 16 and 4 heads of 128 on one GPU."""
    plain, normed = load_model(str(tiny.model(tmp_path))), load_model(str(tiny.model(tmp_path)))
    normed = replace(normed, name="normed", qk_norm=True)
    tiny.systems(tmp_path / "systems")
    folders = convert(tmp_path / "systems", tmp_path / "out", Wanted([plain, normed], (), ("bf16",), (1,)))
    times = []
    for model, folder in zip((plain, normed), folders, strict=True):
        timer, _ = build_timer(Shard(model, load_gpu("h100-sxm"), "bf16", 1), str(folder), "profile")
        times.append(timer.step(4, [], 4, 4 * 1023, 1023) * TICKS)
    moved = sum(3e-6 + 2 * 2 * heads * 128 * 4 / (3.35e12 * 0.8) for heads in (16, 4))
    assert times[1] - times[0] == pytest.approx(2 * moved, rel=1e-3), "two layers"


def test_an_engine_that_schedules_between_steps_has_its_measured_host_time(tmp_path):
    tiny.systems(tmp_path / "systems")
    choices = replace(wanted(tmp_path), sequential=True)
    (folder,) = convert(tmp_path / "systems", tmp_path / "out", choices)
    host = read_profile(folder).host
    assert dict(zip(host.points, host.values, strict=True)) == pytest.approx(SEQUENTIAL_HOST_S)
    assert set(host.sources) == {ESTIMATED}, "another host than the card's"


def test_block_scaled_gemms_are_their_own_rows(tmp_path):
    tiny.systems(tmp_path / "systems")
    rows = tiny.gemm_rows()
    blocks = [
        row | {"gemm_dtype": "fp8_block", "latency": 2 * row["latency"]} for row in rows if row["gemm_dtype"] == "fp8"
    ]
    for file in (tmp_path / "systems").rglob("gemm_perf.parquet"):
        tiny.write(file, [*rows, *blocks])
    profiles = []
    for gemm in ("fp8", "fp8_block"):
        choices = replace(wanted(tmp_path, dtypes=("fp8",)), fp8=gemm)
        (folder,) = convert(tmp_path / "systems", tmp_path / gemm, choices)
        profiles.append(read_profile(folder))
    one, block = (profile.linear["o_proj"] for profile in profiles)
    assert block.values == pytest.approx([2 * value for value in one.values], rel=1e-5)
    assert profiles[0].head["lm_head"].values == profiles[1].head["lm_head"].values, "16 bits in both"


def test_a_16_bit_cache_beside_fp8_weights_has_its_own_rows(tmp_path):
    tiny.systems(tmp_path / "systems")
    rows = tiny.attention_rows("generation")
    slower = [row | {"latency": row["latency"] * (2 if row["kv_cache_dtype"] == "bfloat16" else 1)} for row in rows]
    for file in (tmp_path / "systems").rglob("generation_attention_perf.parquet"):
        tiny.write(file, slower)
    times = []
    for wide in (False, True):
        choices = replace(wanted(tmp_path, dtypes=("fp8",)), wide_kv=wide)
        (folder,) = convert(tmp_path / "systems", tmp_path / str(wide), choices)
        times.append(read_profile(folder).attention[0, 0, 64, 4095])
    assert times[1] == pytest.approx(2 * times[0], rel=1e-5)


def test_prefill_and_decode_of_one_step_add_up_and_say_so(tmp_path):
    imported(tmp_path)
    shard = Shard(load_model(str(tiny.model(tmp_path))), load_gpu("h100-sxm"), "bf16", 1)
    timer, _ = build_timer(shard, str(tmp_path / "out"), "profile")
    seconds, measured = timer.attention.mixed(512, 0, 8, 511)
    assert seconds == pytest.approx(tiny.prefill_s(512, 16) + tiny.decode_s(8, 511, 4), rel=1e-6)
    assert not measured


def test_all_reduce_counts_elements_and_takes_the_graph_rows(tmp_path):
    (profile,) = imported(tmp_path, shards=(2,))
    assert profile.all_reduce is not None
    seconds, inside = profile.all_reduce.at(2 * 2**20)
    assert (seconds, inside) == (pytest.approx(5e-6 + 2**21 / 2e11, rel=1e-5), True)


def test_kv_heads_that_were_not_measured_are_folded(tmp_path):
    """32 heads over 8 KV heads are twice as many sequences of 16 over 4."""
    tiny.systems(tmp_path / "systems")
    path = tiny.model(tmp_path)
    path.write_text(path.read_text().replace('"num_attention_heads": 16', '"num_attention_heads": 32')
                    .replace('"num_key_value_heads": 4', '"num_key_value_heads": 8'))  # fmt: skip
    for rows in ("context", "generation"):
        file = tmp_path / f"systems/h100_sxm/attention/vllm/0.24.0/{rows}_attention_perf.parquet"
        two = [row | {"batch_size": 2, "latency": row["latency"] * 2} for row in tiny.attention_rows("context")]
        if rows == "context":
            tiny.change(file, lambda old, two=two: old + two)
    (folder,) = convert(tmp_path / "systems", tmp_path / "out", Wanted([load_model(str(path))], (), ("bf16",), (1,)))
    profile = read_profile(folder)
    assert profile.attention[0, 0, 4, 1023] == pytest.approx(tiny.decode_s(8, 1023, 4), rel=1e-5)
    assert profile.attention[512, 0, 0, 0] == pytest.approx(2 * tiny.prefill_s(512, 16), rel=1e-5)
    assert (0, 0, 4, 1023) in profile.estimated_attention


def test_a_cached_prefix_costs_its_share():
    fresh = {chunk: 1e-9 * chunk**2 for chunk in (64, 128, 256, 512, 1024, 2048, 4096)}
    single = {1: 1e-6, 4095: 1e-6}
    assert prefix_s(fresh, single, 1024, 1024) == pytest.approx(1e-9 * (2048**2 - 1024**2), rel=1e-6)
    walking = 64**2 * 1e-9 + 2048 * (256**2 - 128**2) * 1e-9 / 128
    assert prefix_s(fresh, single, 64, 2048) == pytest.approx(walking), "too short to fill the card"
    assert prefix_s(fresh, {1: 1e-6, 4095: 1.0}, 64, 4095) == 1.0, "at least one reading of the cache"


def test_a_shape_outside_the_table_is_scaled_and_estimated(tmp_path):
    tiny.systems(tmp_path / "systems")
    gemm = Gemm(tmp_path / "systems/h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet", "bfloat16")
    times, source = gemm.at(128256, 4096)
    assert source == ESTIMATED
    assert times[8192] == pytest.approx(tiny.gemm_s(8192, 8192, 4096) * 128256 / 8192)
    assert gemm.at(1024, 1024)[1] == MEASURED


def test_times_that_only_a_cache_explains_are_raised(tmp_path):
    data = tiny.systems(tmp_path / "systems")
    path = data / "attention/vllm/0.24.0/generation_attention_perf.parquet"
    small = 2**27 // 2048  # tokens whose keys and values an L2 cache may hold
    tiny.change(
        path,
        lambda rows: [
            row | {"latency": row["latency"] / (4 if row["batch_size"] * row["step"] < small else 1)} for row in rows
        ],
    )
    (folder,) = convert(tmp_path / "systems", tmp_path / "out", wanted(tmp_path))
    profile = read_profile(folder)
    assert profile.attention[0, 0, 8, 4095] == pytest.approx(8 * 4095 * 2048 / 3.35e12, rel=1e-5)
    assert (0, 0, 8, 4095) in profile.estimated_attention


def test_the_installed_package_is_found_and_not_imported(tmp_path, monkeypatch):
    tiny.systems(tmp_path / "systems", nested=True)
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "aiconfigurator_core" else None)
    assert convert(None, tmp_path / "out", wanted(tmp_path)) == [tmp_path / "out/h100-sxm/tiny-llama/bf16/tp1"]
    assert "aiconfigurator_core" not in sys.modules


def test_without_path_and_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProfileError, match=r"not installed.*tetrisim\[aiconfigurator\]"):
        convert(None, tmp_path / "out", wanted(tmp_path))


def test_an_existing_profile_is_not_replaced(tmp_path):
    imported(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        convert(tmp_path / "systems", tmp_path / "out", wanted(tmp_path))


GEMM = "gemm/vllm/0.24.0/gemm_perf.parquet"
CONTEXT = "attention/vllm/0.24.0/context_attention_perf.parquet"
REDUCE = "comm/vllm/0.24.0/custom_allreduce_perf.parquet"


def spoil(key, value, row=3):
    return lambda rows: [old | {key: value} if number == row else old for number, old in enumerate(rows)]


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        (GEMM, lambda rows: [{k: v for k, v in row.items() if k != "n"} for row in rows], "column 'n' is missing"),
        (GEMM, spoil("latency", float("nan")), "row 3: latency is nan"),
        (GEMM, spoil("latency", -1.0), "row 3: latency is -1.0"),
        (GEMM, lambda rows: [*rows, rows[5] | {"latency": 99.0}], "rows 5 and 560: the point"),
        (GEMM, lambda rows: [row | {"latency": row["latency"] / 1e3} for row in rows], "faster than the"),
        (GEMM, lambda rows: [row | {"latency": row["latency"] * 1e3} for row in rows], "expected microseconds"),
        (GEMM, lambda rows: [row | {"device": "NVIDIA A100"} for row in rows], "row 0: is of device 'NVIDIA A100'"),
        (GEMM, lambda rows: [row | {"m": "x"} for row in rows], "column 'm' does not hold numbers"),
        (GEMM, lambda rows: [row for row in rows if row["gemm_dtype"] == "fp8"], "has no bfloat16 rows"),
        (GEMM, lambda rows: [row for row in rows if row["k"] > 1024], "cannot serve n=3072, k=1024"),
        (CONTEXT, lambda rows: [row for row in rows if row["num_heads"] == 8], "cannot serve 16 heads over 4"),
        (CONTEXT, lambda rows: [row | {"head_dim": 64} for row in rows], "no rows of head_dim 128"),
        (REDUCE, lambda rows: [row | {"num_gpus": 4} for row in rows], "has no all-reduce of 2 GPUs"),
    ],
)
def test_bad_tables_are_one_line_and_leave_nothing(tmp_path, file, edit, said):
    data = tiny.systems(tmp_path / "systems")
    tiny.change(data / file, edit)
    with pytest.raises(ProfileError) as caught:
        convert(tmp_path / "systems", tmp_path / "out", wanted(tmp_path, shards=(1, 2)))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_truncated_parquet_is_one_line(tmp_path):
    data = tiny.systems(tmp_path / "systems")
    (data / GEMM).write_bytes((data / GEMM).read_bytes()[:500])
    with pytest.raises(ProfileError, match=r"gemm_perf.parquet: cannot be read"):
        convert(tmp_path / "systems", tmp_path / "out", wanted(tmp_path))


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"gpus": ("h200-sxm",)}, "did you mean 'h100-sxm'"),
        ({"dtypes": ("fp32",)}, "--dtype: is 'fp32'"),
        ({"shards": (3,)}, "--tp: 3 does not divide"),
    ],
)
def test_what_the_folder_cannot_serve(tmp_path, choices, said):
    tiny.systems(tmp_path / "systems")
    with pytest.raises(ProfileError, match=said):
        convert(tmp_path / "systems", tmp_path / "out", wanted(tmp_path, **choices))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not here")
def test_the_shared_tables_pass_the_check(tmp_path):
    choice = Wanted([load_model("llama-3.1-70b")], ["h100-sxm"], ["bf16", "fp8"], [4])
    for folder in convert(SHARED, tmp_path, choice):
        assert [str(finding) for finding in check_profile(folder) if finding.hard] == []
        errors = read_profile(folder).meta["errors"]
        assert errors["attention_decode"]["median"] < 0.03
        assert errors["gemm_shapes"]["median"] < 0.04


def test_experts_are_read_where_their_shape_was_measured(tmp_path):
    """Eight experts, two a token, 10 us an expert and 0.1 us a token; not a power law's rows, nor another cut's."""
    data = tiny.systems(tmp_path / "systems")
    config = {**tiny.MODEL, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    (tmp_path / "moe").mkdir()
    (tmp_path / "moe" / "config.json").write_text(json.dumps(config))
    model = load_model(str(tmp_path / "moe" / "config.json"))
    row = {"device": "NVIDIA H100", "moe_dtype": "bfloat16", "hidden_size": 1024, "inter_size": 3072, "topk": 2,
           "num_experts": 8, "moe_ep_size": 1}  # fmt: skip
    tiny.write(data / "moe/vllm/0.24.0/moe_perf.parquet", [
        {**row, "moe_tp_size": cut, "distribution": how, "num_tokens": tokens,
         "latency": (0.01 * min(8, 2 * tokens) + 1e-4 * tokens) * (3 if how != "balanced" or cut == 4 else 1)}
        for cut in (1, 4) for how in ("power_law_1.2", "balanced") for tokens in (1, 2, 16, 64)
    ])  # fmt: skip
    one, two = (
        read_profile(folder)
        for folder in convert(tmp_path / "systems", tmp_path / "out", Wanted([model], (), ("bf16",), (1, 2)))
    )
    assert one.moe == pytest.approx({(1, 2): 20.1e-6, (2, 4): 40.2e-6, (16, 8): 81.6e-6, (64, 8): 86.4e-6})
    assert one.meta["experts"] == {"count": 8, "active": 2, "intermediate": 3072}
    assert "gate_up_proj" not in one.linear and one.calls_per_layer["router"] == 1
    assert not two.moe and "router" not in two.calls_per_layer, "that cut was not measured: the roofline's experts"
