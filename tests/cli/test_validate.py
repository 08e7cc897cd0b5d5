"""`tetrisim validate` in its three modes, `tetrisim calibrate`, and what they say of bad input."""

import json
import sys
import types
from dataclasses import dataclass

import pytest
from cli.shell import tetrisim
from validation.made import scenario, simulated, tables

from tetrisim.scenario.load import dump_yaml


@pytest.fixture
def world(tmp_path):
    """A scenario file, and a run that it made."""
    made = scenario(tables(tmp_path))
    (tmp_path / "scenario.yaml").write_text(dump_yaml(made))
    requests = [(0.004 * n, 20 + 7 * (n % 9), 3 + (5 * n) % 17) for n in range(60)]
    return tmp_path / "scenario.yaml", simulated(tmp_path / "run.csv", made, requests)


@dataclass
class Said:
    given: tuple

    def summary(self):
        return {"given": [str(value) for value in self.given]}

    def lines(self):
        return ["one", "two"]


def test_measured_prints_errors_and_writes_a_folder(world, tmp_path):
    path, rows = world
    done = tetrisim("validate", path, "--measured", rows, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "E2EL mean ms" in done.stdout and "+0.0%" in done.stdout
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["report.json", "requests.csv", "scenario.yaml", "validation.png"]
    assert (tmp_path / "out" / "validation.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "out" / "requests.csv").read_text().splitlines()) == 61
    assert tetrisim("validate", path, "--measured", rows, "--out", tmp_path / "out").exit_code == 2


def test_json_is_one_object(world):
    path, rows = world
    assert json.loads(tetrisim("validate", path, "--measured", rows, "--json").stdout)["compared"] == 60


def test_large_errors_are_no_failure(world, tmp_path):
    path, rows = world
    done = tetrisim("validate", path, "--measured", rows, "--profile", "roofline", "--json")
    assert done.exit_code == 0
    summary = json.loads(done.stdout)
    assert summary["step_time_shares"]["estimated"] == 1 and abs(summary["latencies"]["E2EL"]["mean"]["error"]) > 0.1


@pytest.mark.parametrize(
    ("option", "module", "function", "given"),
    [
        (["--steps", "DIR"], "steps", "check_steps", ["DIR"]),
        (["--points", "FILE"], "points", "check_points", ["FILE", "None"]),
        (["--points", "FILE", "--profile", "P"], "points", "check_points", ["FILE", "P"]),
    ],
)
def test_the_other_modes_hand_over_and_print(monkeypatch, option, module, function, given):
    stub = types.ModuleType(module)
    setattr(stub, function, lambda *values: Said(values))
    monkeypatch.setitem(sys.modules, f"tetrisim.validation.{module}", stub)
    assert tetrisim("validate", *option).stdout == "one\ntwo\n"
    assert json.loads(tetrisim("validate", *option, "--json").stdout) == {"given": given}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["validate"], "nothing to compare with; expected one of --measured"),
        (["validate", "--steps", "a", "--points", "b"], "--steps and --points; expected one of"),
        (["validate", "--measured", "rows.csv"], "no scenario; expected a scenario with --measured"),
        (["validate", "default", "--steps", "a"], "scenario 'default'; expected no scenario with --steps"),
        (["validate", "default", "--measured", "nowhere.csv"], "nowhere.csv: cannot be read"),
        (["validate", "nowhere.yaml", "--measured", "nowhere.csv"], "nowhere.yaml: cannot read"),
        (["calibrate", "default", "--measured", "nowhere.csv", "--out", "x"], "nowhere.csv: cannot be read"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, said):
    done = tetrisim(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr


def test_calibrate_writes_a_profile_that_a_scenario_can_name(world, tmp_path):
    path, rows = world
    done = tetrisim("calibrate", path, "--measured", rows, "--part", "0.4", "--out", tmp_path / "fitted")
    assert done.exit_code == 0, done.stderr
    assert "errors on the" in done.stdout and "before" in done.stdout
    used = tetrisim("validate", path, "--measured", rows, "--profile", tmp_path / "fitted")
    assert "FITTED to run.csv" in used.stdout
    assert "FITTED" not in tetrisim("validate", path, "--measured", rows).stdout, "never applied silently"
