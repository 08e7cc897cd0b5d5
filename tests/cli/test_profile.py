import pytest
from latency.importers import tiny
from typer.testing import CliRunner

from tetrisim.cli.main import app


def tetrisim(*arguments):
    return CliRunner().invoke(app, ["profile", *map(str, arguments)])


@pytest.fixture
def imported(tmp_path):
    tiny.systems(tmp_path / "systems")
    arguments = ["import", "aiconfigurator", tmp_path / "systems", "--model", tiny.model(tmp_path)]
    done = tetrisim(*arguments, "--tp", "1,2", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.count("worst leave-one-out error") == 2
    return tmp_path / "out"


def test_check_prints_errors_and_draws(imported):
    done = tetrisim("check", imported, "--plot", "--write")
    assert done.exit_code == 0, done.stderr
    assert "attention_decode" in done.stdout
    pictures = list(imported.rglob("profile.png"))
    assert len(pictures) == 2
    assert pictures[0].read_bytes().startswith(b"\x89PNG")


def test_check_against_another(imported):
    shard = imported / "h100-sxm/tiny-llama/bf16"
    done = tetrisim("check", shard / "tp1", "--against", shard / "tp2")
    assert done.exit_code == 0, done.stderr
    assert "median ratio" in done.stdout


def test_a_bad_profile_is_exit_code_2_and_one_line_a_problem(imported):
    path = imported / "h100-sxm/tiny-llama/bf16/tp1/linear.csv"
    path.write_text(path.read_text() + "o_proj,3,-1,measured\n")
    done = tetrisim("check", imported)
    assert done.exit_code == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert str(path) in errors[0]
    assert "tp2" in done.stdout, "the other one is still checked"


def test_list_and_show(imported):
    done = tetrisim("list", "--profiles", imported)
    assert done.stdout.count("h100-sxm tiny-llama bf16") == 2
    done = tetrisim("show", "h100-sxm", "tiny-llama", "--profiles", imported)
    assert "gemm: 0.24.0" in done.stdout
    assert "attention_decode" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import", "aiconfigurater"], "did you mean 'aiconfigurator'"),
        (["import", "splitwise"], "PATH: is missing"),
        (["import", "vidur", "."], "--model: is missing"),
        (["import", "splitwise", ".", "--model", "llama-2-70b"], "--model: is not a choice"),
        (["import", "splitwise", ".", "--tp", "two"], "--tp: is 'two'"),
        (["import", "splitwise", ".", "--dtype", "bf16,fp16"], "one dtype with splitwise"),
        (["import", "vidur", ".", "--model", "llama-3.1-8"], "did you mean 'llama-3.1-8b'"),
        (["check", "nowhere"], "nowhere: holds no profile.yaml"),
        (["list", "--profiles", "nowhere"], "nowhere: holds no profile.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    done = tetrisim(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_show_names_the_nearest(imported):
    assert "did you mean 'h100-sxm'" in tetrisim("show", "h100", "tiny-llama", "--profiles", imported).stderr
    assert "did you mean 'tiny-llama'" in tetrisim("show", "h100-sxm", "tiny", "--profiles", imported).stderr
