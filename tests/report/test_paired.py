"""The table and the sentences of differences over seeds."""

import io
import json

from rich.console import Console
from typer.testing import CliRunner

from tetrisim.cli.main import app
from tetrisim.report.paired import NAMES, paired_table, signed, verdicts
from tetrisim.studies.compare import METRICS

SMALL = ["compare", "default", "--systems", "vllm-v0,vllm-v1", "--set", "workload.requests=100"]


def row(metric, low, high, system="new", seeds=4):
    mean = (low + high) / 2
    value = {"mean": mean, "low": low, "high": high}
    shown = not low <= 0 <= high
    base = {"mean": 50.0, "low": 48.0, "high": 52.0}
    return {"system": system, "metric": metric, "baseline": base, "difference": value, "seeds": seeds, "shown": shown}


def study(*rows):
    return {"seeds": 4, "baseline": "old", "differences": list(rows)}


def test_every_metric_that_is_compared_has_a_name():
    assert tuple(NAMES) == METRICS


def test_less_latency_is_better_and_less_goodput_is_worse():
    less = [row(metric, -3, -1) for metric in ("mean_ttft_ms", "request_goodput")]
    more = [row(metric, 1, 3) for metric in ("p99_tpot_ms", "perf_per_dollar")]
    said = ["new against old: better on mean TTFT, perf/$; worse on goodput, p99 TPOT."]
    assert verdicts(study(*less, *more)) == said


def test_no_difference_shown_is_said():
    missing = {**row("p99_e2el_ms", 0, 0), "difference": None, "seeds": 0}
    assert verdicts(study(row("mean_ttft_ms", -1, 3), row("mean_e2el_ms", -1, 3), missing)) == [
        "new against old: no difference shown on mean TTFT, mean E2EL; no value in two seeds for p99 E2EL."
    ]


def test_a_cell_holds_the_difference_its_interval_and_fewer_seeds():
    out = io.StringIO()
    rows = (row("mean_ttft_ms", -3.0, 1.0), row("p99_ttft_ms", 1.0, 3.0, seeds=2))
    Console(file=out, width=200).print(paired_table(study(*rows)))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "mean TTFT ms 50.0 ±2.00 -1.00 (-3.00 to +1.00)" in lines
    assert "p99 TTFT ms 50.0 ±2.00 +2.00 (+1.00 to +3.00) 2 of 4 seeds" in lines
    assert (signed(-0.5), signed(0.0), signed(1500.0)) == ("-0.50", "+0.00", "+1500")


def test_the_command_prints_and_saves_them(tmp_path):
    done = CliRunner().invoke(app, [*SMALL, "--seeds", "3", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.stderr
    assert "Means over 3 seeds, and differences from vllm-v0" in done.stdout
    assert "vllm-v1 against vllm-v0: " in done.stdout
    told = CliRunner().invoke(app, [*SMALL, "--seeds", "3", "--json"])
    found = json.loads(told.stdout)
    saved = json.loads((tmp_path / "out" / "differences.json").read_text())
    assert saved["differences"] == found["differences"]
    assert [run["seed"] for run in found["summaries"]] == [1, 1, 2, 2, 3, 3]
    assert (tmp_path / "out" / "vllm-v1" / "requests.parquet").exists()


def test_without_seeds_nothing_is_new(tmp_path):
    plain, one = (CliRunner().invoke(app, [*SMALL, "--json", *more]).stdout for more in ([], ["--seeds", "1"]))
    assert [[run["system"] for run in json.loads(text)] for text in (plain, one)] == [["vllm-v0", "vllm-v1"]] * 2
    out = CliRunner().invoke(app, [*SMALL, "--out", str(tmp_path / "out")])
    assert "seeds" not in out.stdout
    assert not (tmp_path / "out" / "differences.json").exists()
