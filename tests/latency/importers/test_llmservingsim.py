import gzip
import shutil
from pathlib import Path

import pytest

from tetrisim.errors import ProfileError
from tetrisim.latency.check import check_profile
from tetrisim.latency.importers.llmservingsim import convert
from tetrisim.latency.table import read_profile

SHARED = (
    Path(__file__).parents[3].parent / "shared" / "data" / "profiles" / "llmservingsim" / "RTXPRO6000" / "Llama-3.1-8B"
)
META = """
gpu: NVIDIA RTX PRO 6000
hardware: RTXPRO6000
model: meta-llama/Llama-3.1-8B
variant: bf16
vllm_version: 0.19.0
profiled_at: today
"""
LAYERS = ("layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj", "embedding",
          "final_layernorm")  # fmt: skip


def source(tmp_path, dense=None):
    """Two shards of a card that takes 100 us and 1 us a token, whatever the op."""
    folder = tmp_path / "source"
    (folder / "tp1").mkdir(parents=True)
    (folder / "meta.yaml").write_text(META)
    rows = dense or [f"{op},{tokens},{100 + tokens}" for op in LAYERS for tokens in (1, 2, 4, 8)]
    (folder / "tp1" / "dense.csv").write_text("layer,tokens,time_us\n" + "\n".join(rows) + "\n")
    head = [f"{op},{n},{700 + n}" for op in ("lm_head", "sampler") for n in (1, 2, 4)]
    (folder / "tp1" / "per_sequence.csv").write_text("layer,sequences,time_us\n" + "\n".join(head) + "\n")
    attention = [
        f"{c},{p},{n},{kv},{20 + c + p / 10 + n + n * kv / 100}"
        for c, p in ((0, 0), (16, 0), (16, 64), (32, 0), (32, 64))
        for n, kv in ((0, 0), (1, 16), (1, 64), (2, 16), (2, 64))
        if c or n
    ]
    text = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n" + "\n".join(attention) + "\n"
    (folder / "tp1" / "attention.csv.gz").write_bytes(gzip.compress(text.encode()))
    skew = ["0,0,2,1,16,64,30,60,45"]
    (folder / "tp1" / "skew.csv").write_text("pc,kp,n,nb,kvs,kv_big,t_mean_us,t_max_us,t_skew_us\n" + "\n".join(skew))
    return folder


def test_a_small_folder_with_its_skew(tmp_path):
    (folder,) = convert(source(tmp_path), tmp_path / "out")
    profile = read_profile(folder)
    assert folder == tmp_path / "out/rtx-pro-6000/llama-3.1-8b/bf16/tp1"
    assert profile.linear["o_proj"].at(3)[0] == pytest.approx(103e-6)
    assert profile.skew == {(0, 2): pytest.approx(0.5)}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("o_proj,8,-1", "dense.csv:4: time_us is '-1'"),
        ("o_proj,8,nan", "dense.csv:4: time_us is 'nan'"),
        ("o_proj,8", "dense.csv:4: has not one value a column"),
        ("qkv_proj,8,100", "dense.csv:4: the point ('qkv_proj', 8) is there twice"),
        ("gate_up_proj,4096,0.2", "dense.csv:4: gate_up_proj, tokens 4096 takes 0.2 us, faster than the peak"),
    ],
)
def test_bad_rows_are_named_in_their_file(tmp_path, row, said):
    folder = source(tmp_path, ["qkv_proj,8,108", "qkv_proj,1,101", row])
    with pytest.raises(ProfileError) as caught:
        convert(folder, tmp_path / "out")
    assert f"{folder}/tp1/{said}" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_truncated_gzip_is_one_line(tmp_path):
    folder = source(tmp_path)
    packed = folder / "tp1" / "attention.csv.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ProfileError, match=r"attention.csv.gz: cannot be read to its end"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not here")
def test_the_shared_tables_predict_themselves(tmp_path):
    small = tmp_path / "tp1-only"
    small.mkdir()
    shutil.copy(SHARED / "meta.yaml", small)
    shutil.copytree(SHARED / "tp1", small / "tp1")
    (folder,) = convert(small, tmp_path / "out")
    errors = read_profile(folder).meta["errors"]
    assert all(error["median"] <= 0.02 for op, error in errors.items() if not op.startswith("attention"))
    assert all(error["median"] <= 0.03 for op, error in errors.items() if op.startswith("attention"))
    assert [str(finding) for finding in check_profile(folder) if finding.hard] == []
