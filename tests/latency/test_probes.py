"""A machine that changes its speed while its steps are logged, and fixed work timed beside them that shows it."""

import json

import numpy as np
import pytest
from latency.test_fit_steps import GAP, batches, cost_s, error, timer

from tetrisim.errors import ProfileError
from tetrisim.latency.fit_steps import Engine, convert
from tetrisim.latency.probes import Probes, read_probes, usual_s
from tetrisim.latency.table import read_profile
from tetrisim.scenario.model import load_model

SPELL_S = 10.0


def slow_log(folder, probed):
    """A log of 2 spells at the usual speed, one at 1.5 times the time, and so on; probes every half second."""
    rows, now = [], 0.0
    for pieces, contexts in batches(900, 2):
        seconds = cost_s(pieces, contexts) * slow(now)
        batch = [[number, done, 1] for number, done in enumerate(contexts)]
        batch += [[len(batch) + number, done, new] for number, (new, done) in enumerate(pieces)]
        rows.append({"start_s": now, "dur_s": seconds - GAP, "batch": batch})
        now += seconds
    folder.mkdir()
    write(folder / "iterations.jsonl", rows)
    if probed:
        write(folder / "probes.jsonl", [{"at_s": at, "probe_s": {"a": 0.010 * slow(at), "b": 0.003 * slow(at)}}
                                        for at in np.arange(0.0, now, 0.5)])  # fmt: skip
    return folder


def slow(at):
    return 1.5 if at % (3 * SPELL_S) >= 2 * SPELL_S else 1.0


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def mean_error(table):
    return np.mean([error(table, *batch) for batch in batches(300, 77)])


def test_the_table_is_at_the_usual_speed(tmp_path):
    table, folder = timer(tmp_path, slow_log(tmp_path / "log", probed=True))
    assert abs(mean_error(table)) < 0.01
    assert read_profile(folder).meta["provenance"]["probes_us"] == {"a": 10_000.0, "b": 3_000.0}


def test_without_probes_it_is_at_the_mean_speed(tmp_path):
    table, _ = timer(tmp_path, slow_log(tmp_path / "log", probed=False))
    assert mean_error(table) > 0.05


def test_slowness_is_the_mean_of_all_work_around_a_moment():
    probes = Probes(np.array([0.0, 0.5, 5.0]), {"a": np.array([1.0, 3.0, 4.0]), "b": np.array([2.0, 2.0, 4.0])})
    found = probes.slowness({"a": 1.0, "b": 1.0}, np.array([-1.0, 0.5, 2.75, 9.0]))
    assert found == pytest.approx([2.0, 2.0, 3.0, 4.0])
    assert probes.slowness({"a": 2.0, "b": 4.0}, np.array([9.0])) == pytest.approx([1.5])


def test_usual_is_the_median_of_all_logs_together():
    logs = [Probes(np.arange(2.0), {"a": np.array(took)}) for took in ([1.0, 5.0], [2.0, 9.0])]
    assert usual_s(logs) == {"a": 3.5}


def test_a_log_without_probes_has_none(tmp_path):
    assert read_probes(tmp_path) is None


@pytest.mark.parametrize("line", ["{", "[1]", '{"at_s": 1, "probe_s": {}}', '{"at_s": 1, "probe_s": {"a": 0}}'])
def test_a_bad_row_is_named(tmp_path, line):
    good = json.dumps({"at_s": 0, "probe_s": {"a": 0.1}})
    (tmp_path / "probes.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(ProfileError, match="is no probe") as raised:
        read_probes(tmp_path)
    assert raised.value.where.endswith("probes.jsonl:2")


@pytest.mark.parametrize("last", [{"at_s": 0, "probe_s": {"a": 1}}, {"at_s": 2, "probe_s": {"b": 1}}])
def test_probes_out_of_order_or_of_other_work_are_refused(tmp_path, last):
    write(tmp_path / "probes.jsonl", [{"at_s": 1, "probe_s": {"a": 1}}, last])
    with pytest.raises(ProfileError, match="is no series"):
        read_probes(tmp_path)


def test_one_log_with_probes_and_one_without_do_not_go_together(tmp_path):
    logs = [slow_log(tmp_path / name, probed=name == "a") for name in "ab"]
    with pytest.raises(ProfileError, match="was not probed"):
        convert(logs, tmp_path / "out", Engine(load_model("llama-100m"), "cpu", "fp32"))
