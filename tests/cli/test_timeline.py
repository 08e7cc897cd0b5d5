import json

import pytest
from laws.worlds import write_csv
from typer.testing import CliRunner

from tetrisim.cli.main import app

SMALL = ["--set", "workload.requests=30", "--set", "system=tetriinfer"]


def timeline(*arguments):
    return CliRunner().invoke(app, ["timeline", *map(str, arguments)])


def slices(path):
    return [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]


def test_a_scenario_and_the_folder_of_its_run_give_the_same_file(tmp_path):
    made = CliRunner().invoke(app, ["run", "default", *SMALL, "--out", str(tmp_path / "run")])
    assert made.exit_code == 0, made.output
    for source, name in (("default", "a"), (tmp_path / "run", "b")):
        done = timeline(source, "-o", tmp_path / name, *(SMALL if source == "default" else []))
        assert done.exit_code == 0, done.output
        assert "Open it at ui.perfetto.dev" in done.output
        assert "left out" not in done.output
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert len(slices(tmp_path / "a")) > 100


def test_a_span_a_limit_and_some_requests_make_it_smaller_and_that_is_said(tmp_path):
    done = timeline("default", *SMALL, "--from", "100 ms", "--to", "600 ms", "--steps", 50, "-o", tmp_path / "a")
    assert done.exit_code == 0, done.output
    assert done.stdout.split("\n")[1].split(" steps are left out: --from '")[0].split(" of ")[0].isdigit()
    shown = slices(tmp_path / "a")
    assert all(100e3 <= event["ts"] < 600e3 for event in shown)
    assert len([event for event in shown if not event["name"].startswith("KV")]) == 50
    done = timeline("default", *SMALL, "--requests", "3,7", "-o", tmp_path / "b")
    assert done.exit_code == 0, done.output
    arrows = [event for event in json.loads((tmp_path / "b").read_text())["traceEvents"] if event["ph"] == "s"]
    assert {event["id"] for event in arrows} == {3, 7}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "5"], "--from: is '5'; expected a number with one of the units"),
        (["--from", "-1 s"], "expected a time from 0 on"),
        (["--from", "2 s", "--to", "1 s"], "--to: '1 s' is not after 2 s"),
        (["--from", "1 h"], "nothing runs from 3600 s on; expected a time of the"),
        (["--requests", "1,x"], "--requests: is '1,x'"),
        (["--requests", "3,4711"], "--requests: there is no request 4711; expected 0 to 29"),
        (["--requests", "29", "--to", "10 ms"], "none of these requests runs from 0 s to 0.01 s"),
    ],
)
def test_what_cannot_be_shown_is_one_line(tmp_path, arguments, said):
    done = timeline("default", *SMALL, "-o", tmp_path / "a", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_comparison_and_a_taken_name_are_refused(tmp_path):
    trace = write_csv([(0.0, 10, 2)])
    arguments = ["compare", "default", "--systems", "vllm-v0,vllm-v1", "--set", f"workload={{trace: {trace}}}"]
    assert CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "cmp")]).exit_code == 0
    refused = timeline(tmp_path / "cmp", "-o", tmp_path / "a")
    assert refused.exit_code == 2
    assert "is a comparison; expected one of its runs" in refused.stderr
    assert "vllm-v1" in refused.stderr
    (tmp_path / "a").write_text("mine")
    refused = timeline(tmp_path / "cmp" / "vllm-v0", "-o", tmp_path / "a")
    assert refused.exit_code == 2 and "expected a file that is not there yet; did you mean" in refused.stderr
    assert (tmp_path / "a").read_text() == "mine"
    refused = timeline(tmp_path / "cmp" / "vllm-v0", "-o", tmp_path / "a" / "b")
    assert refused.exit_code == 2 and "expected a writable file" in refused.stderr
