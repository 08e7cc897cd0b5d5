"""vLLM's own runs on a CPU, kept in experiments/live/data, against the table fitted to controlled batches."""

import importlib.util
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

LOADS = ("load-30", "load-60", "load-80", "blocks-65")
FOLDERS = [folder for folders in live.runs().values() for folder in folders]


def test_every_load_is_there_twice():
    assert {load: len(folders) for load, folders in live.runs().items()} == dict.fromkeys(LOADS, 2)


def test_the_table_is_what_the_controlled_batches_give(tmp_path):
    logs = [live.DATA / "calibrate-1", live.DATA / "calibrate-2"]
    made = read_profile(convert(logs, tmp_path, Engine(load_model("llama-100m"), "cpu", "fp32")))
    kept = read_profile(live.PROFILE / "cpu" / "llama-100m" / "fp32" / "tp1")
    assert made.attention == pytest.approx(kept.attention, rel=1e-3)
    for op, curve in (kept.linear | kept.head).items():
        again = (made.linear | made.head)[op]
        assert again.points == curve.points
        assert again.values == pytest.approx(curve.values, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_scheduler_forms_the_batches_of_the_real_run(folder):
    report = check_case(folder)
    assert report.equal == report.steps > 500


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_at_the_speed_that_the_machine_had_nothing_is_left_to_explain(folder):
    left = live.at_speed(folder, live.compare(folder))
    for metric in ("step", "TPOT", "E2EL"):
        assert abs(left.error(metric)) < 0.03, metric
    assert abs(left.error("TTFT")) < 0.08
