import re

import pytest
from typer.testing import CliRunner

from tetrisim.cli.main import app

SMALL = ["--set", "workload.requests=60"]


def call(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def report(folder, out):
    done = call("report", folder, "-o", out)
    assert done.exit_code == 0, done.output
    assert re.fullmatch(rf"{out}: 0\.[\d]+ MB\. Open it in a browser; it needs no network\.\n", done.stdout)
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    made = call("run", "default", *SMALL, "--set", "system=tetriinfer", "--warmup", "0.1", "--out", folder)
    assert made.exit_code == 0, made.output
    return folder


def test_a_run_becomes_a_page(run, tmp_path):
    page = report(run, tmp_path / "deep" / "report.html")
    assert "tetriinfer: a simulated run" in page
    assert "llama-3.1-8b · 4 × h100-sxm · 60 requests of azure-conv-like" in page
    assert "Warm-up: the first 6 of 60 requests" in page
    assert "tetriinfer: load by instance" in page and "KV cache in use" in page


def test_a_comparison_over_seeds_becomes_a_page(tmp_path):
    arguments = ["compare", "default", "--systems", "vllm-v1,tetriinfer", "--seeds", "2", *SMALL]
    assert call(*arguments, "--out", tmp_path / "out").exit_code == 0
    page = report(tmp_path / "out", tmp_path / "report.html")
    assert "vllm-v1 and tetriinfer compared, over 2 seeds" in page
    assert "tetriinfer against vllm-v1" in page
    assert page.count("<details") == 3, "the scenario, and that of each system"


def test_a_sweep_becomes_a_page(tmp_path):
    made = call("sweep", "default", "--grid", "cluster.instances=1..2", *SMALL, "--out", tmp_path / "out")
    assert made.exit_code == 0, made.output
    page = report(tmp_path / "out", tmp_path / "report.html")
    assert "A sweep of cluster.instances" in page
    assert "All 2 points were run, and all requests served." in page
    assert "Step time: 100 % estimated" in page


def test_a_file_that_is_there_is_not_replaced(run, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    done = call("report", run, "-o", tmp_path / "report.html")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "exists already" in done.stderr and "report-2.html" in done.stderr
    assert (tmp_path / "report.html").read_text() == "mine"


def test_what_cannot_be_reported_is_one_line_and_leaves_nothing(run, tmp_path):
    for folder, said in (
        (tmp_path, "holds none of run.json"),
        (run / "run.json", "is not a folder"),
        ("x", "is not there"),
    ):
        done = call("report", folder, "-o", tmp_path / "report.html")
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert (
            said in done.stderr and "expected the folder that `run`, `compare`, `sweep` or `plan` wrote" in done.stderr
        )
    (tmp_path / "file").write_text("")
    done = call("report", run, "-o", tmp_path / "file" / "report.html")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
