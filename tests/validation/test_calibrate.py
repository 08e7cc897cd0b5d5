"""A fit finds what was changed, says that it is one, and is judged on what it has not seen."""

import csv

import pytest
import yaml
from validation.made import scenario, simulated, tables

from tetrisim.errors import OutputError, ProfileError, TraceError
from tetrisim.latency.table import read_profile
from tetrisim.scenario.load import override
from tetrisim.simulate import simulate
from tetrisim.validation.calibrate import calibrate
from tetrisim.validation.readers import read_measured
from tetrisim.validation.scorecard import error

REQUESTS = [
    (0.1 * group, 6 + 3 * ((group + member) % 9), 3 + (5 * group + member) % 17)
    for group in range(24)
    for member in range(1 + group % 4)
]
"""Groups of one to four that come together and never meet another, so who shares a step is always the same."""


def scaled(rows, factor):
    return [rows[0], *([*row[:-1], row[-1] * factor] for row in rows[1:])]


@pytest.fixture
def truth(tmp_path):
    """A run on other tables: 300 us more of host overhead, everything else a tenth slower."""
    from latency.folders import tables as small

    files = {name: scaled(rows, 1.1) for name, rows in small().items() if name != "host.csv"}
    files["host.csv"] = [["sequences", "time_us"], [1, 400], [4, 430]]
    real = scenario(tables(tmp_path, "real", files=files))
    return read_measured(simulated(tmp_path / "run.csv", real, REQUESTS))


def test_a_fit_finds_both_numbers_and_holds_on_what_it_has_not_seen(tmp_path, truth):
    world = scenario(tables(tmp_path))
    fit = calibrate(world, truth, tmp_path / "fitted")
    assert fit.host_us == pytest.approx(300, abs=3)
    assert fit.scale == pytest.approx(1.1, abs=0.002)
    assert fit.fitted + fit.held == 60
    assert error(fit.before["E2EL"]["mean"]) < -0.1
    assert abs(error(fit.after["E2EL"]["mean"])) < 0.002
    assert "held_back_requests" in fit.summary() and "before" in fit.lines()[1]


def test_the_profile_says_that_it_is_fitted(tmp_path, truth):
    calibrate(scenario(tables(tmp_path)), truth, tmp_path / "fitted")
    profile = read_profile(tmp_path / "fitted")
    assert profile.source.startswith("FITTED to run.csv (host +") and "made by hand" in profile.source
    assert yaml.safe_load((tmp_path / "fitted" / "profile.yaml").read_text())["fitted"]["requests"] > 10
    for name in ("linear.csv", "host.csv", "attention.csv"):
        with (tmp_path / "fitted" / name).open() as file:
            assert {row["source"] for row in csv.DictReader(file)} == {"estimated"}
    used = simulate(override(scenario(tmp_path / "fitted"), {"workload.requests": 20}))
    assert "FITTED" in used.provenance[0] and used.time_shares["measured"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fitted", "real", "run.csv", "tables"]


def test_what_cannot_be_fitted_is_refused(tmp_path, truth):
    world = scenario(tables(tmp_path))
    with pytest.raises(ProfileError, match="no table to lay a fit over"):
        calibrate(scenario("roofline"), truth, tmp_path / "fitted")
    with pytest.raises(TraceError, match="requests with several tokens finished before"):
        calibrate(world, truth, tmp_path / "fitted", part=0.01)
    with pytest.raises(TraceError, match="a fraction of the run"):
        calibrate(world, truth, tmp_path / "fitted", part=1.0)
    with pytest.raises(OutputError, match="exists already"):
        calibrate(world, truth, tmp_path)
