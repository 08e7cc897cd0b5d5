"""A measured run beside a predicted one: what is compared, what is not, and what is said of it."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from handmade import served
from typer.testing import CliRunner

from tetrisim.cli.main import app
from tetrisim.metrics.export import export
from tetrisim.metrics.summary import summarize
from tetrisim.studies.store import save_run

SMALL = ["--set", "workload.requests=40"]
RUN = served("vllm-v1", 0.2, 0.02, requests=100)


def tetrisim(*arguments):
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    """The folder of a predicted run of 100 requests."""
    return save(tmp_path / "run", RUN)


def save(folder, result):
    save_run(folder, result, summarize(result), lambda path: path.write_text("a picture"))
    return folder


def with_rows(**columns):
    return replace(RUN, request_columns={**RUN.request_columns, **columns})


def write(path, result=RUN, late_s=0.0, without=()):
    """The rows of a run as measured ones, tokens `late_s` later; those of `without` never came to a token."""
    rows = result.request_columns
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["request_id", "input_length", "output_length", "client_arrival_s", "first_token_s", "last_token_s"]
        )
        for n in range(len(rows["status"])):
            came = [float(rows[name][n] + late_s) for name in ("first_token_s", "finish_s")]
            lengths = (rows["prompt_tokens"][n], rows["output_tokens"][n], float(rows["arrival_s"][n]))
            writer.writerow([n, *lengths, *(["", ""] if n in without else came)])
    return path


def found(*arguments):
    done = tetrisim(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    record = json.loads(done.stdout)
    return record, {line["metric"]: line for line in record["lines"]}


def test_a_run_beside_itself_shows_no_difference(folder, tmp_path):
    record, lines = found(folder, write(tmp_path / "same.csv"))
    assert all(line["difference"] is None or abs(line["difference"]) < 1e-9 for line in lines.values())
    timed = [line for name, line in lines.items() if name.endswith("ms")]
    assert len(timed) == 15, "mean, median, p90, p95 and p99 of TTFT, TPOT and E2EL"
    assert not any(line["shown"] for line in timed)
    assert record["notes"][0] == "100 of 100 measured requests compared, each with its predicted self"
    said = tetrisim(folder, tmp_path / "same.csv").stdout
    assert said.count("no difference shown") == 15
    assert "25 % measured, 50 % interpolated, 25 % estimated (roofline of h100-sxm)" in said


def test_a_difference_is_the_predicted_less_the_measured(folder, tmp_path):
    """Every measured token 50 ms later: TTFT and E2EL are 50 ms more and TPOT is the same."""
    _, lines = found(folder, write(tmp_path / "late.csv", late_s=0.05))
    mean = summarize(RUN)["mean_ttft_ms"]
    assert lines["mean TTFT ms"]["measured"] == pytest.approx(mean + 50)
    assert lines["mean TTFT ms"]["predicted"] == pytest.approx(mean)
    assert lines["mean TTFT ms"]["difference"] == pytest.approx(-50 / (mean + 50))
    assert lines["mean TTFT ms"]["low"] <= lines["mean TTFT ms"]["difference"] <= lines["mean TTFT ms"]["high"] < 0
    assert lines["mean TTFT ms"]["shown"] and lines["p99 TTFT ms"]["shown"]
    assert not lines["mean TPOT ms"]["shown"]


def test_requests_that_cannot_be_compared_are_named(tmp_path):
    """Two without a measured end, one rejected in the prediction, and ten that were never measured: 87 are left."""
    status = RUN.request_columns["status"].astype(object).copy()
    status[7] = "rejected"
    predicted = save(tmp_path / "run", with_rows(status=status))
    measured = write(tmp_path / "some.csv", without=(3, 5))
    measured.write_text("\n".join(measured.read_text().splitlines()[:91]) + "\n")
    record, lines = found(predicted, measured)
    assert lines["completed"]["measured"] == lines["completed"]["predicted"] == 87
    told = " | ".join(record["notes"])
    assert "87 of 90 measured requests compared" in told
    assert "2 requests (3, 5) unfinished" in told
    assert "1 request (7) rejected in the prediction: in no metric" in told
    assert "10 requests (90, 91, 92, 93, 94, ...) predicted and not measured" in told
    keep = np.setdiff1d(np.arange(90), [3, 5, 7])
    ttft = (RUN.request_columns["first_token_s"] - RUN.request_columns["arrival_s"])[keep]
    assert lines["mean TTFT ms"]["predicted"] == pytest.approx(1e3 * ttft.mean())


def test_other_requests_are_compared_as_two_crowds(folder, tmp_path):
    other = with_rows(prompt_tokens=RUN.request_columns["prompt_tokens"] + 1)
    record, lines = found(folder, write(tmp_path / "other.csv", other))
    assert record["notes"][0].endswith("which are not the same requests")
    assert "each side by itself" in record["intervals"]
    ttft = lines["mean TTFT ms"]
    assert ttft["low"] < 0 < ttft["high"] and not ttft["shown"]


def test_warmup_leaves_the_same_requests_out_of_both(folder, tmp_path):
    measured = write(tmp_path / "late.csv", late_s=0.05)
    record, lines = found(folder, measured, "--warmup", "0.2")
    assert lines["completed"]["measured"] == lines["completed"]["predicted"] == 80
    assert "the first 20 of 100 measured requests by arrival are not counted (a share of 0.2)" in " ".join(
        record["notes"]
    )
    ttft = (RUN.request_columns["first_token_s"] - RUN.request_columns["arrival_s"])[20:]
    assert lines["mean TTFT ms"]["predicted"] == pytest.approx(1e3 * ttft.mean())


def bench(path, **values):
    path.write_text(json.dumps(values))
    return path


def test_the_summary_of_vllm_bench_serve(folder, tmp_path):
    mean = summarize(RUN)["mean_ttft_ms"]
    file = bench(tmp_path / "vllm.json", backend="vllm", duration=10.0, completed=100, mean_ttft_ms=2 * mean,
                 mean_itl_ms=100.0, p75_e2el_ms=1.0, request_goodput=3.0, total_input_tokens=5)  # fmt: skip
    record, lines = found(folder, file)
    assert lines["mean TTFT ms"]["difference"] == pytest.approx(-0.5)
    assert lines["mean TTFT ms"]["low"] is None and lines["mean TTFT ms"]["shown"] is None
    e2el = RUN.request_columns["finish_s"] - RUN.request_columns["arrival_s"]
    assert lines["p75 E2EL ms"]["predicted"] == pytest.approx(1e3 * np.percentile(e2el, 75)), "as asked of vLLM"
    assert lines["mean ITL ms"]["predicted"] == pytest.approx(50), "of summary.csv: the rows do not tell"
    assert "goodput req/s" not in lines
    assert any("goodput is not compared" in note for note in record["notes"])


def test_the_requests_of_vllm_bench_serve(folder, tmp_path):
    """A failed request is left out of both sides and named; the others are compared one by one."""
    rows = {name: column.tolist() for name, column in RUN.request_columns.items()}
    ttfts = [first - start for first, start in zip(rows["first_token_s"], rows["arrival_s"], strict=True)]
    itls = [[end - first] for end, first in zip(rows["finish_s"], rows["first_token_s"], strict=True)]
    errors = ["", "timeout", *[""] * 98]
    lists = {
        "input_lens": rows["prompt_tokens"], "output_lens": rows["output_tokens"], "ttfts": ttfts, "itls": itls,
        "start_times": rows["arrival_s"], "errors": errors,
    }  # fmt: skip
    file = bench(tmp_path / "detailed.json", **lists, p99_ttft_ms=1.0, mean_itl_ms=5.0)
    record, lines = found(folder, file)
    told = " ".join(record["notes"])
    assert "1 failed requests (1)" in told and "1 request (1) predicted and not measured" in told
    assert "ITL is not compared" in told and "mean ITL ms" not in lines
    assert lines["mean E2EL ms"]["difference"] == pytest.approx(0, abs=1e-9)
    whole = bench(tmp_path / "whole.json", **{**json.loads(file.read_text()), "errors": [""] * 100})
    assert found(folder, whole)[1]["mean ITL ms"]["difference"] == pytest.approx(50 / 5 - 1)


@pytest.mark.parametrize(
    ("tool", "metric"),
    [
        ("aiperf", "inter_token_latency avg ms"),
        ("guidellm", "time_per_output_token_ms mean"),
        ("guidellm", "request_latency p99 s"),
        ("aiperf", "benchmark_duration sec"),
    ],
)
def test_the_files_of_the_other_tools_by_their_own_definitions(folder, tmp_path, tool, metric):
    """A run of half the speed: every time is twice as long, and the run too."""
    rows = RUN.request_columns
    slow = with_rows(**{name: 2 * rows[name] for name in ("arrival_s", "first_token_s", "finish_s")})
    file = tmp_path / "tool.json"
    file.write_text(json.dumps(export(slow, tool)))
    _, lines = found(folder, file)
    assert lines[metric]["difference"] == pytest.approx(-0.5)


def test_what_the_prediction_does_not_have_is_said(folder, tmp_path):
    file = tmp_path / "aiperf.json"
    file.write_text(
        json.dumps({"inter_chunk_latency": {"unit": "ms", "avg": 5.0}, "request_count": {"unit": "requests", "avg": 9}})
    )
    said = tetrisim(folder, file).stdout
    assert "Not compared, since the prediction does not have it: inter_chunk_latency avg ms." in said


def test_a_system_of_a_comparison_and_a_scenario(tmp_path):
    measured = tmp_path / "measured.json"
    measured.write_text(CliRunner().invoke(app, ["run", "default", *SMALL, "--format", "vllm"]).stdout)
    made = tetrisim("default", "--systems", "vllm-v0,vllm-v1", *SMALL, "--out", tmp_path / "cmp")
    assert made.exit_code == 0, made.stderr
    _, folders = found(tmp_path / "cmp" / "vllm-v1", measured)
    _, scenario = found("default", measured, *SMALL, "--out", tmp_path / "out")
    for lines in (folders, scenario):
        assert lines["p99 ITL ms"]["difference"] == pytest.approx(0, abs=1e-9)
        assert lines["mean TPOT ms"]["difference"] == pytest.approx(0, abs=1e-9)
    saved = json.loads((tmp_path / "out" / "measured.json").read_text())
    assert {line["metric"]: line for line in saved["lines"]} == scenario
    refused = tetrisim(tmp_path / "cmp", measured)
    assert (refused.exit_code, "is a comparison; expected one of its runs" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["default"], "there is nothing to compare with; expected either --systems"),
        (["default", "same.csv", "--systems", "vllm-v0"], "--systems is given beside"),
        (["default", "same.csv", "--seeds", "3"], "one seed beside one measurement"),
        (["default", "same.csv", "--format", "vllm"], "no tool writes differences"),
        (["default", "nowhere.json"], "no such file"),
        (["default", "list.json"], "is a list"),
        (["default", "broken.json"], "is not JSON"),
        (["default", "other.json"], "holds none of their numbers"),
        (["default", "sweep.json"], "holds 2 benchmarks"),
        (["default", "odd.json"], "is not built as the tools build theirs"),
        (["default", "vllm.json", "--warmup", "0.1"], "has no single requests"),
        (["run", "same.csv", "--set", "seed=2"], "--set: is given with the folder"),
        (["empty", "same.csv"], "has no requests.parquet"),
        (["default", "same.csv", "--warmup", "1.0"], "a share from 0 to below 1"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    write(save(tmp_path / "run", RUN).parent / "same.csv")
    (tmp_path / "empty").mkdir()
    texts = {"list": "[]", "broken": "{", "other": '{"a": 1}', "sweep": '{"benchmarks": [{}, {}]}',
             "odd": '{"benchmarks": [1]}', "vllm": '{"mean_ttft_ms": 3}'}  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.json").write_text(text)
    done = tetrisim(*arguments, *SMALL) if arguments[0] == "default" else tetrisim(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr
