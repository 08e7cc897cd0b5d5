from pathlib import Path

import pytest
from latency.importers import tiny

from tetrisim.errors import ProfileError
from tetrisim.latency.grid import ESTIMATED, MEASURED
from tetrisim.latency.importers.vidur import Wanted, convert
from tetrisim.latency.table import read_profile
from tetrisim.scenario.model import load_model

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "profiles" / "vidur_network"


def wanted(tmp_path, cut=2, gpus=()):
    return Wanted([load_model(str(tiny.model(tmp_path)))], gpus, [cut])


def test_linear_ops_and_collectives_are_measured_and_the_rest_is_the_rooflines(tmp_path):
    tiny.vidur(tmp_path / "profiling")
    (folder,) = convert(tmp_path / "profiling", tmp_path / "out", wanted(tmp_path))
    profile = read_profile(folder)
    assert tiny.times(profile, "gate_up_proj")[512] == pytest.approx(tiny.gemm_s(512, 3072, 1024), rel=1e-5)
    assert set(profile.linear["gate_up_proj"].sources) == {MEASURED}
    assert set(profile.head["whole_head"].sources) == {ESTIMATED}
    assert profile.estimated_attention == set(profile.attention)
    assert profile.all_reduce is not None
    assert profile.all_reduce.at(2**20)[0] == pytest.approx(1e-5 + 2**20 / 2e11, rel=1e-5)


def test_a_model_of_other_sizes_is_not_served(tmp_path):
    tiny.vidur(tmp_path / "profiling")
    with pytest.raises(ProfileError, match=r"no rows of the sizes of llama-3.1-8b at tensor parallel 2"):
        convert(tmp_path / "profiling", tmp_path / "out", Wanted([load_model("llama-3.1-8b")], [], [2]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("num_tokens", "tokens"), "column 'num_tokens' is missing"),
        (lambda text: text[: text.rindex(",")], "has not one value a column"),
        (lambda text: text.replace("\n0.0", "\n-0.0", 1), "mlp.csv:2: time_stats.emb.median is '-0.0"),
    ],
)
def test_bad_input_names_file_and_row(tmp_path, change, said):
    path = tiny.vidur(tmp_path / "profiling")
    path.write_text(change(path.read_text()))
    with pytest.raises(ProfileError) as caught:
        convert(tmp_path / "profiling", tmp_path / "out", wanted(tmp_path))
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder(tmp_path):
    with pytest.raises(ProfileError, match="holds no table of a100 or h100"):
        convert(tmp_path, tmp_path / "out", wanted(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not here")
def test_the_shared_network_tables(tmp_path):
    folders = convert(SHARED, tmp_path, Wanted([load_model("llama-2-70b")], [], [8]))
    assert [folder.parents[2].name for folder in folders] == ["a100-80gb", "h100-sxm"]
    profile = read_profile(folders[1])
    assert set(profile.linear["whole_linear"].sources) == {ESTIMATED}
    assert profile.meta["errors"]["all_reduce"]["median"] < 0.02
