"""`tetrisim profile fit-steps`: the log's own config.json says what the command does not."""

import json

from latency.test_fit_steps import log
from typer.testing import CliRunner

from tetrisim.cli.main import app


def fit_steps(*arguments):
    return CliRunner().invoke(app, ["profile", "fit-steps", *map(str, arguments)])


def test_a_log_that_names_its_engine_needs_no_options(tmp_path):
    folder = log(tmp_path / "log")
    (folder / "config.json").write_text(json.dumps({"model": "llama-100m", "gpu": "cpu", "dtype": "fp32"}))
    done = fit_steps(folder, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    for kind in ("prefill_steps", "decode_steps", "mixed_steps"):
        assert kind in done.stdout
    assert (tmp_path / "out/cpu/llama-100m/fp32/tp1/profile.yaml").is_file()


def test_what_nobody_says_is_asked_for(tmp_path):
    done = fit_steps(log(tmp_path / "log"), "--model", "llama-100m", "--dtype", "fp32")
    assert done.exit_code == 2
    assert "--gpu" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unknown_gpu_is_one_line(tmp_path):
    done = fit_steps(log(tmp_path / "log"), "--model", "llama-100m", "--dtype", "fp32", "--gpu", "cpux")
    assert done.exit_code == 2
    assert "did you mean 'cpu'" in done.stderr
