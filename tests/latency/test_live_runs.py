"""vLLM's own runs on a CPU, kept in experiments/live/data, against the table fitted to controlled batches."""

import gzip
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from tetrisim.latency.fit_steps import Engine, convert
from tetrisim.latency.table import read_profile
from tetrisim.scenario.model import load_model
from tetrisim.validation.steps import check_case

LIVE = Path(__file__).parents[2] / "experiments" / "live"
_spec = importlib.util.spec_from_file_location("live_compare", LIVE / "compare.py")
live = importlib.util.module_from_spec(_spec)
sys.modules["live_compare"] = live
_spec.loader.exec_module(live)

LOADS = ("load-30", "load-60", "load-80", "blocks-45")
FOLDERS = [folder for folders in live.runs().values() for folder in folders]
each_run = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def test_every_load_is_there_twice():
    assert {load: len(folders) for load, folders in live.runs().items()} == dict.fromkeys(LOADS, 2)


def test_the_table_is_what_the_controlled_batches_give(tmp_path):
    logs = [live.DATA / "calibrate-1", live.DATA / "calibrate-2"]
    made = read_profile(convert(logs, tmp_path, Engine(load_model("llama-100m"), "cpu", "fp32")))
    kept = read_profile(live.PROFILE / "cpu" / "llama-100m" / "fp32" / "tp1")
    assert made.meta["provenance"]["probes_us"] == kept.meta["provenance"]["probes_us"]
    assert made.attention == pytest.approx(kept.attention, rel=1e-3)
    for op, curve in (kept.linear | kept.head).items():
        again = (made.linear | made.head)[op]
        assert again.points == curve.points
        assert again.values == pytest.approx(curve.values, rel=1e-3, abs=1e-5)


@each_run
def test_the_scheduler_forms_the_batches_of_the_real_run(folder):
    report = check_case(folder)
    assert report.equal == report.steps > 500


@each_run
def test_at_the_probed_speed_every_target_is_met(folder):
    one = live.probed(folder)
    for metric in ("step", "TPOT", "E2EL"):
        assert abs(one.error(metric)) < 0.05, metric
    assert abs(one.error("TTFT")) < 0.10


@each_run
def test_the_plain_table_is_off_by_what_the_speed_was(folder):
    one, probed = live.plain(folder), live.probed(folder)
    assert abs(one.error("step")) < 0.10
    assert one.step_bias == pytest.approx(1 / probed.speed - 1, abs=0.03)


def test_the_probed_speed_owes_nothing_to_the_steps_of_the_run(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(FOLDERS[0], folder)
    path = folder / "iterations.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    text = "".join(json.dumps(row | {"dur_s": row["dur_s"] / 2}) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()))
    assert live.probed(folder).simulated == live.probed(FOLDERS[0]).simulated
