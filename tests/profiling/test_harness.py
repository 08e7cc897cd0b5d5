import importlib.util
from pathlib import Path

import pytest
import yaml

from tetrisim.errors import ProfileError
from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import Shard
from tetrisim.latency.table import read_profile
from tetrisim.profiling.harness import FLOOR_US, ROUNDS, Run, above_line, summarize
from tetrisim.profiling.plan import Limits, build_plan
from tetrisim.profiling.shape import shard_shape
from tetrisim.profiling.store import Store
from tetrisim.scenario.gpu import load_gpu

_spec = importlib.util.spec_from_file_location("fake", Path(__file__).parent / "fake.py")
fake = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake)

SHAPE = shard_shape("llama-100m", "fp32", 1)
PLAN = build_plan(SHAPE, Limits(250_000))


def store(out, **changes):
    return Store(out, "cpu", SHAPE, fake.DEVICE | changes)


def measure(out, bench, budget=1e9):
    kept = store(out)
    return kept, Run(kept, bench, bench.now + budget, bench.clock).measure(PLAN)


def test_a_whole_run_is_a_profile_the_simulator_reads(tmp_path):
    bench = fake.FakeBench()
    kept, progress = measure(tmp_path, bench)
    assert progress.done == len(PLAN) and kept.folder == tmp_path / "cpu/llama-100m/fp32/tp1"
    profile = read_profile(kept.folder)
    assert profile.linear["qkv_proj"].at(128) == (pytest.approx(138e-6), True)
    assert profile.host.at(16)[0] == pytest.approx(5e-6)
    assert profile.skew  # (time - mean) / (long - mean) = (size / 2) / (1.5 size)
    assert list(profile.skew.values()) == pytest.approx([1 / 3] * len(profile.skew), abs=1e-3)
    timer, title = build_timer(Shard(SHAPE.model, load_gpu("cpu"), "fp32", 1), str(tmp_path), "latency")
    assert timer.step(80, [(64, 100)], 16, 16 * 300, 400) > 0 and "Fake" in title
    meta = yaml.safe_load((kept.folder / "profile.yaml").read_text())
    assert meta["provenance"]["kernels"] == {"attention": "none"}
    assert meta["provenance"]["rows"] == kept.count == len(bench.prepared)
    assert meta["provenance"]["samples"] == ROUNDS * kept.count
    assert [path.name for path in kept.folder.iterdir() if path.name.startswith(".")] == []


def test_a_second_run_measures_nothing_again(tmp_path):
    measure(tmp_path, fake.FakeBench())
    before = {path.name: path.read_text() for path in (tmp_path / "cpu/llama-100m/fp32/tp1").glob("*.csv")}
    bench = fake.FakeBench()
    kept, progress = measure(tmp_path, bench)
    assert bench.prepared == [] and progress.done == len(PLAN)
    assert {path.name: path.read_text() for path in kept.folder.glob("*.csv")} == before


def test_a_short_budget_leaves_a_usable_profile_and_the_next_run_goes_on(tmp_path):
    coarse = [task for unit in PLAN if unit.level == 0 for task in unit.tasks]
    bench = fake.FakeBench()
    kept, _ = measure(tmp_path, bench, budget=0.001 * ROUNDS * (len(coarse) + 50))
    assert len(coarse) <= kept.count < len(coarse) + 120  # the unit under way gets fewer rounds
    build_timer(Shard(SHAPE.model, load_gpu("cpu"), "fp32", 1), str(tmp_path), "latency")
    second = fake.FakeBench()
    kept, progress = measure(tmp_path, second)
    assert progress.done == len(PLAN) and not set(second.prepared) & set(bench.prepared[: kept.count]) & set(coarse)
    assert yaml.safe_load((kept.folder / "profile.yaml").read_text())["provenance"]["rows"] == kept.count


def test_a_budget_below_the_coarse_grid_is_refused_and_kept_out_of_sight(tmp_path):
    with pytest.raises(ProfileError, match=r"--budget: ended after \d+ of \d+ units .*; expected a longer one"):
        measure(tmp_path, fake.FakeBench(), budget=0.2)
    parent = tmp_path / "cpu/llama-100m/fp32"
    assert [path.name for path in parent.iterdir()] == [".tp1.partial"]
    bench = fake.FakeBench()
    rows = sum(len(path.read_text().splitlines()) - 1 for path in (parent / ".tp1.partial").glob("*.csv"))
    kept, _ = measure(tmp_path, bench)
    assert rows > 0 and len(bench.prepared) == kept.count - rows
    assert [path.name for path in parent.iterdir()] == ["tp1"]


@pytest.mark.parametrize("at", [1, 700, 3000, 5000])
def test_an_interrupt_leaves_whole_rows(tmp_path, at):
    bench = fake.FakeBench()
    bench.interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path, bench)
    kept = store(tmp_path)
    assert kept.count <= at
    if kept.folder.name == "tp1":
        build_timer(Shard(SHAPE.model, load_gpu("cpu"), "fp32", 1), str(tmp_path), "latency")
    measure(tmp_path, fake.FakeBench())


def test_disturbed_rounds_are_repeated_and_left_out(tmp_path):
    bench = fake.FakeBench(disturbed=lambda turn: 0.5 if turn % 2 else 0.0)
    kept, progress = measure(tmp_path, bench)
    assert progress.disturbed > 0
    assert {row["samples"] for row in kept.rows["linear.csv"].values()} <= {5.0, 7.0}


def test_a_row_that_does_not_fit_is_named(tmp_path):
    row = ("attention.csv", (0, 0, 64, 2047))
    kept, progress = measure(tmp_path, fake.FakeBench(fails=[row]))
    assert row not in kept and progress.skipped == ["attention.csv (0, 0, 64, 2047): out of memory"]
    assert kept.folder.name == "tp1"


@pytest.mark.parametrize("fact, value", [("device", "Other"), ("torch", "9"), ("threads", 2)])
def test_rows_of_two_set_ups_never_mix(tmp_path, fact, value):
    kept, _ = measure(tmp_path, fake.FakeBench())
    with pytest.raises(ProfileError, match=f"tp1/profile.yaml: was measured with {fact} '.*'; expected '{value}'"):
        store(tmp_path, **{fact: value})
    meta = yaml.safe_load((kept.folder / "profile.yaml").read_text())
    (kept.folder / "profile.yaml").write_text(yaml.safe_dump(meta | {"gpu": "l40s"}))
    with pytest.raises(ProfileError, match=r"profile.yaml: is of l40s llama-100m fp32 1; expected cpu"):
        store(tmp_path)
    (kept.folder / "profile.yaml").write_text("gpu: cpu\nsource: elsewhere\n")
    with pytest.raises(ProfileError, match=r"profile.yaml: is no profile of this harness"):
        store(tmp_path)
    (kept.folder / "profile.yaml").unlink()
    with pytest.raises(ProfileError, match=r"profile.yaml: is missing"):
        store(tmp_path)
    (tmp_path / "profile.yaml").write_text("gpu: cpu\n")
    with pytest.raises(ProfileError, match="is a profile; expected --out to name a folder of profiles"):
        store(tmp_path)


@pytest.mark.parametrize(
    "old, new", [("qkv_proj,16,", "qkv_proj,x,"), (",7\n", "\n"), ("26.000", "nan"), ("26.000", "-1")]
)
def test_a_broken_row_is_named(tmp_path, old, new):
    kept, _ = measure(tmp_path, fake.FakeBench())
    path = kept.folder / "linear.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ProfileError, match=r"linear.csv:\d+: "):
        store(tmp_path)


def test_rows_of_wide_spread_are_measured_again_once_the_plan_is_done(tmp_path):
    kept, _ = measure(tmp_path, fake.FakeBench())
    wide = ("linear.csv", ("o_proj", 128))
    kept.add({wide: {"time_us": 999.0, "spread_us": 500.0, "samples": 7.0}})
    bench = fake.FakeBench()
    kept, _ = measure(tmp_path, bench)
    assert bench.prepared == [wide] and kept.rows[wide[0]][wide[1]]["time_us"] == 138.0
    assert yaml.safe_load((kept.folder / "profile.yaml").read_text())["provenance"]["rows"] == kept.count


def test_a_row_above_the_line_of_its_neighbours_is_looked_at_again_and_the_quicker_look_stays(tmp_path):
    """A disturbance as long as a unit leaves its spread narrow; a slow kernel is slow the second time too."""
    slowed, slow = ("linear.csv", ("o_proj", 128)), ("linear.csv", ("o_proj", 512))
    kept, _ = measure(tmp_path, fake.FakeBench())
    kept.add({task: {"time_us": 900.0, "spread_us": 1.0, "samples": 7.0} for task in (slowed, slow)})
    wide = ("linear.csv", ("o_proj", 2048))
    kept.add({wide: {"time_us": 2058.0, "spread_us": 500.0, "samples": 7.0}})
    bench = fake.FakeBench(slow={slow: 900.0, wide: 3000.0})
    kept, _ = measure(tmp_path, bench)
    assert kept.rows["linear.csv"][wide[1]]["time_us"] == 2058.0, "the second look was slower"
    assert set(bench.prepared) == {slowed, slow, wide} and kept.rows["linear.csv"][slowed[1]]["time_us"] == 138.0
    assert kept.rows["linear.csv"][slow[1]]["time_us"] == 900.0


def test_how_far_a_row_is_above_the_line():
    rows = {
        ("a", 1): {"time_us": 10.0},
        ("a", 3): {"time_us": 24.0},
        ("a", 5): {"time_us": 30.0},
        ("b", 2): {"time_us": 1.0},
    }
    assert [above_line(rows, key) for key in rows] == pytest.approx([0, 0.2, 0, 0])


def test_the_summary_is_a_median_with_the_quartiles_distance():
    row = summarize([{"time_us": value} for value in (5.0, 1.0, 2.0, 3.0, 100.0)])
    assert row == {"time_us": 3.0, "spread_us": 3.0, "samples": 5.0}
    assert summarize([{"time_us": -4.0}])["time_us"] == FLOOR_US
