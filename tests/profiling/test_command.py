import importlib.util

import pytest
import typer
from typer.testing import CliRunner

from tetrisim.cli.measure import measure_command

TORCH = importlib.util.find_spec("torch") is not None
GOOD = {"--model": "llama-100m", "--device": "cpu", "--budget": "1m"}

app = typer.Typer()
app.command()(measure_command)


def run(tmp_path, **options):
    words = GOOD | {f"--{name}": value for name, value in options.items()} | {"--out": str(tmp_path)}
    return CliRunner().invoke(app, [word for pair in words.items() for word in pair])


@pytest.mark.skipif(TORCH, reason="torch is installed here")
def test_without_torch_the_command_says_what_to_install(tmp_path):
    result = run(tmp_path)
    assert result.exit_code == 2 and list(tmp_path.iterdir()) == []
    assert result.stderr == (
        "error: profile measure: needs torch, which is not installed; expected pip install 'tetrisim[profile]'\n"
    )


@pytest.mark.parametrize(
    "options, line",
    [
        ({"model": "llama-100"}, "--model: unknown name 'llama-100'"),
        ({"dtype": "int3"}, "--dtype: unknown name 'int3'"),
        ({"tp": "1,x"}, "--tp: is '1,x'; expected whole numbers"),
        ({"tp": "5"}, "--tp: 5 does not divide the 12 heads"),
        ({"budget": "soon"}, "--budget: is 'soon'; expected a time"),
        ({"device": "tpu"}, "--device: unknown device 'tpu'; expected cuda or cpu"),
        ({"dtype": "fp8"}, "--dtype: fp8 has no matrix multiplication on a CPU"),
        ({"gpu": "h100-sxm"}, "--gpu: 'h100-sxm' is no cpu device"),
    ],
)
def test_bad_wishes_get_one_line_and_write_nothing(tmp_path, options, line):
    result = run(tmp_path, **options)
    assert result.exit_code == 2 and list(tmp_path.iterdir()) == []
    assert result.stderr.startswith(f"error: {line}") and result.stderr.count("\n") == 1


@pytest.mark.skipif(not TORCH, reason="needs torch, which CI does not install")
def test_without_a_gpu_cuda_is_refused(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    result = run(tmp_path, device="cuda")
    assert result.exit_code == 2 and "--device: torch sees no CUDA GPU" in result.stderr
