"""`tetrisim trace`: what each command prints, writes and refuses."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tetrisim.cli.main import app
from tetrisim.scenario.workload import WorkloadSpec
from tetrisim.workload.readers import read
from tetrisim.workload.trace import build

LINES = (
    '{"timestamp": 0, "input_length": 1025, "output_length": 4, "hash_ids": [0, 1, 2]}\n'
    '{"timestamp": 1000, "input_length": 1025, "output_length": 5, "hash_ids": [0, 1, 3]}\n'
    '{"timestamp": 4000, "input_length": 100, "output_length": 6, "hash_ids": [4], "user": "x"}\n'
    '{"timestamp": 9000, "input_length": 600, "output_length": 7, "hash_ids": [0, 5]}\n'
)
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,Conversation log\n118,GPT-4,417,276,693,API log\n"
)


def trace(*arguments):
    return CliRunner().invoke(app, ["trace", *map(str, arguments)])


def refused(*arguments):
    done = trace(*arguments)
    assert done.exit_code == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(LINES)
    return path


def test_info_as_text_and_json(file):
    text = trace("info", file).stdout
    assert "t.jsonl: 4 requests over 9 s, 0.3333 /s" in text
    # two blocks of the second prompt and one of the last, of 1025 + 1025 + 100 + 600 tokens
    assert "55.9% of prompt tokens (33.3% of blocks), with an endless cache" in text
    found = json.loads(trace("info", file, "--json").stdout)
    assert found["prefix"]["reusable_tokens"] == 1536 and found["span_s"] == 9.0
    assert found["output_tokens"]["mean"] == 5.5
    assert "all at once" in trace("info", "mixed").stdout
    assert json.loads(trace("info", "azure-code-like", "--requests", 50, "--json").stdout)["requests"] == 50


@pytest.mark.parametrize("name", ["t.jsonl", "mixed", "azure-code-like"])
def test_info_draws_a_picture(file, tmp_path, name):
    picture = tmp_path / "p.png"
    subject = file if name == "t.jsonl" else name
    assert trace("info", subject, "--out", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "exists already" in refused("info", subject, "--out", picture)
    assert ".png" in refused("info", subject, "--out", tmp_path / "p.doc")


def test_the_picture_shows_what_the_trace_tells(file):
    from tetrisim.report.trace_plot import trace_figure
    from tetrisim.workload.describe import facts

    def titles(opened):
        figure = trace_figure(opened, facts(opened))
        return [axis.get_title(loc="left") for axis in figure.get_axes()]

    everything = titles(read(file))
    assert [title.split()[0] for title in everything] == ["Lengths", "Gaps", "Prompt", "Arrivals"]
    assert titles(build(WorkloadSpec(trace="mixed"), 1)) == ["Lengths"]


def test_convert_says_what_is_lost(file, tmp_path):
    done = trace("convert", file, tmp_path / "t.csv", "--to", "csv")
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / 't.csv'}: 4 requests over 9 s, as csv\n"
    assert done.stderr == "lost: the hash ids of 9 blocks of 512 tokens: no two prompts share a prefix any more\n"
    assert read(tmp_path / "t.csv").arrival_s.tolist() == [0, 1, 4, 9]
    same = trace("convert", file, tmp_path / "again.jsonl", "--to", "mooncake")
    assert same.stderr == "" and read(tmp_path / "again.jsonl").hash_ids == read(file).hash_ids


def test_convert_tells_of_columns_and_rows_left_out(tmp_path):
    (tmp_path / "b.csv").write_text(BURST)
    done = trace("convert", tmp_path / "b.csv", tmp_path / "b.azure.csv", "--to", "azure")
    assert "warning: " in done.stderr and "1 failed rows" in done.stderr
    assert "lost: the columns Model, Log Type" in done.stderr and "lost: the date" in done.stderr
    assert read(tmp_path / "b.azure.csv").arrival_s.tolist() == [0, 113]


def test_sample_cuts_in_three_ways(file, tmp_path):
    done = trace("sample", file, tmp_path / "a.jsonl", "--requests", 2)
    assert "prefix reuse: 55.9% of prompt tokens before, 50.0% after" in done.stdout  # 1024 of 2050 tokens
    assert read(tmp_path / "a.jsonl").hash_ids == ((0, 1, 2), (0, 1, 3))
    assert trace("sample", file, tmp_path / "b.jsonl", "--from", "1s", "--to", "9s").exit_code == 0
    assert read(tmp_path / "b.jsonl").arrival_s.tolist() == [0, 3]
    assert trace("sample", file, tmp_path / "c.jsonl", "--from", "4 s").exit_code == 0
    assert read(tmp_path / "c.jsonl").arrival_s.tolist() == [0, 5]
    for name, seed in (("d", 1), ("e", 1), ("f", 2)):
        trace("sample", "azure-conv-like", tmp_path / f"{name}.csv", "--fraction", 0.5, "--seed", seed)
    first, again, other = ((tmp_path / f"{name}.csv").read_text() for name in "def")
    assert first == again != other and 900 < first.count("\n") < 1100


def test_scale(file, tmp_path):
    trace("scale", file, tmp_path / "a.jsonl", "--rate", "1")
    assert read(tmp_path / "a.jsonl").arrival_s.tolist() == pytest.approx([0, 1 / 3, 4 / 3, 3])
    trace("scale", file, tmp_path / "b.jsonl", "--rate", "20 /min")
    assert read(tmp_path / "b.jsonl").arrival_s.tolist() == [0, 1, 4, 9]
    trace("scale", file, tmp_path / "c.jsonl.gz", "--speed", 4)
    assert read(tmp_path / "c.jsonl.gz").arrival_s.tolist() == [0, 0.25, 1, 2.25]
    assert read(tmp_path / "c.jsonl.gz").hash_ids == read(file).hash_ids


def test_fit_prints_what_a_scenario_can_use(tmp_path):
    printed = trace("fit", "azure-conv-like")
    assert printed.exit_code == 0 and "# Fitted to azure-conv-like, 2000 requests." in printed.stdout
    (tmp_path / "printed.yaml").write_text(printed.stdout)
    done = trace("fit", "azure-conv-like", "--out", tmp_path / "written.yml")
    assert (tmp_path / "written.yml").read_text() == printed.stdout
    assert "KS distance" in done.stdout and f"trace: {tmp_path / 'written.yml'}" in done.stdout
    assert len(build(WorkloadSpec(trace=str(tmp_path / "printed.yaml"), requests=7), 1)) == 7
    forced = trace("fit", "azure-conv-like", "--lengths", "log-normal", "--gaps", "quantiles").stdout
    assert "sigma: " in forced and forced.index("gaps:") < forced.index("quantiles: [[")
    assert "the trace's prompt tokens do" not in forced


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "{}/t.json"], "did you mean '{}/t.jsonl'?"),
        (["info", "mixd"], "did you mean 'mixed'?"),
        (["info", "mixed", "--requests", "0"], "--requests: is not usable; expected at least 1"),
        (["convert", "{}/t.jsonl", "{}/new", "--to", "azur"], "did you mean 'azure'?"),
        (["convert", "{}/t.jsonl", "{}/t.jsonl", "--to", "csv"], "did you mean '{}/t-2.jsonl'?"),
        (["sample", "{}/t.jsonl", "{}/new"], "either --requests, or --from and --to, or --fraction"),
        (["sample", "{}/t.jsonl", "{}/new", "--requests", "2", "--fraction", "0.5"], "either --requests"),
        (["sample", "{}/t.jsonl", "{}/new", "--requests", "5"], "the file has 4 requests, 5 were asked for"),
        (["sample", "{}/t.jsonl", "{}/new", "--from", "10"], "--from: is '10'; expected a number with one of"),
        (["sample", "{}/t.jsonl", "{}/new", "--from", "10 s"], "no request arrives from 10 s on"),
        (["sample", "{}/t.jsonl", "{}/new", "--fraction", "2"], "--fraction: is 2"),
        (["scale", "{}/t.jsonl", "{}/new"], "either --rate or --speed"),
        (["scale", "{}/t.jsonl", "{}/new", "--rate", "[x"], "--rate: is '[x'"),
        (["scale", "{}/t.jsonl", "{}/new", "--rate", "0"], "--rate: is not usable; expected more than 0 /s"),
        (["scale", "mixed", "{}/new", "--speed", "2"], "all requests arrive at once"),
        (["scale", "{}/t.jsonl", "{}/new", "--speed", "0"], "--speed: is 0"),
        (["fit", "{}/t.jsonl"], "at least 10"),
        (["fit", "mixed", "--gaps", "gama"], "did you mean 'gamma'?"),
        (["fit", "mixed", "--lengths", "lognormal"], "did you mean 'log-normal'?"),
        (["fit", "mixed", "--out", "{}/fit.txt"], ".yaml or .yml"),
    ],
)
def test_refusals_are_one_line_and_leave_no_file(file, arguments, message):
    folder = str(file.parent)
    assert message.replace("{}", folder) in refused(*(argument.replace("{}", folder) for argument in arguments))
    assert [path.name for path in Path(folder).iterdir()] == ["t.jsonl"] and file.read_text() == LINES


def test_a_bad_row_is_named_by_its_line(file):
    file.write_text(LINES.replace('"input_length": 100', '"input_length": 0'))
    assert f"{file}:3: input_length is 0; expected a whole number from 1" in refused("info", file)
