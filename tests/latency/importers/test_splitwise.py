from pathlib import Path

import pytest
from latency.importers import tiny

from tetrisim.errors import ProfileError
from tetrisim.latency.build import build_timer
from tetrisim.latency.importers.splitwise import convert
from tetrisim.latency.roofline import Shard
from tetrisim.latency.table import read_profile
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "profiles" / "splitwise"


def table(tmp_path, edit=lambda row: row):
    path = tmp_path / "perf_model.csv"
    path.write_text(tiny.csv_text(tiny.SPLITWISE, [edit(row) for row in tiny.splitwise_rows()]))
    return path


def timer_of(folder, gpu="h100-sxm", cut=8):
    return build_timer(Shard(load_model("llama-2-70b"), load_gpu(gpu), "bf16", cut), str(folder), "profile")[0]


def test_measured_phases_come_back(tmp_path):
    """The median of three runs, all-reduce and host overhead included, at measured shapes."""
    folders = convert(table(tmp_path), tmp_path / "out")
    assert [folder.name for folder in folders] == ["tp4", "tp8"]
    timer = timer_of(tmp_path / "out")
    measured = {(row[2], row[3]): row[5:7] for row in tiny.splitwise_rows() if row[7] == 8 and row[4] == 128}
    middle = {shape: [time / 1.02 for time in times] for shape, times in measured.items()}
    prompt = timer.step(2048, [(2048, 0)], 0, 0, 0) * 1e-12
    assert prompt == pytest.approx(middle[2048, 1][0], rel=0.01), "the roofline's attention is read between its points"
    token = timer.step(16, [], 16, 16 * 576, 576) * 1e-12
    assert token == pytest.approx(middle[512, 16][1], rel=1e-4)
    assert timer.step(16, [], 16, 16 * 4000, 4000) > timer.step(16, [], 16, 16 * 576, 576)


def test_nothing_counts_as_measured(tmp_path):
    (folder,) = convert(table(tmp_path), tmp_path / "out", shards=[8])
    profile = read_profile(folder)
    assert profile.includes == {"host", "all_reduce"}
    assert profile.estimated_attention == set(profile.attention)
    timer = timer_of(tmp_path / "out")
    timer.step(16, [], 16, 16 * 576, 576)
    assert timer.measured == 0
    assert 0 < timer.estimated < timer.total


def test_a_batch_that_did_not_fit_is_left_out(tmp_path):
    path = table(tmp_path, lambda row: [*row[:5], row[5] / 9, row[6], row[7]] if row[3] == 32 else row)
    (folder, _) = convert(path, tmp_path / "out")
    assert read_profile(folder).meta["provenance"]["batches left out"] == [32]
    assert 32 not in read_profile(folder).linear["whole_step"].points


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda row: [*row[:5], -1.0, *row[6:]], "csv:2: prompt_time is '-1.0'"),
        (lambda row: [*row[:5], "nan", *row[6:]], "csv:2: prompt_time is 'nan'"),
        (lambda row: [*row[:2], 0.5, *row[3:]], "csv:2: prompt_size is '0.5'"),
        (lambda row: row[:6], "csv:2: has not one value a column"),
        (lambda row: [*row[:5], row[5] / 1e3, row[6] / 1e3, row[7]], "less than its attention alone"),
        (lambda row: [*row[:5], row[5] * 1e3, row[6] * 1e3, row[7]], "expected microseconds"),
        (lambda row: ["gpt-3", *row[1:]], "has no rows of Llama-2-70B"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, edit, said):
    with pytest.raises(ProfileError) as caught:
        convert(table(tmp_path, edit), tmp_path / "out")
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared tables are not here")
def test_the_shared_table(tmp_path):
    assert len(convert(SHARED, tmp_path)) == 6
    timer = timer_of(tmp_path)
    assert timer.step(4096, [(4096, 0)], 0, 0, 0) * 1e-12 == pytest.approx(390.3, rel=0.01)
    assert timer.step(64, [], 64, 64 * 576, 576) * 1e-12 == pytest.approx(50.2, rel=0.01)
