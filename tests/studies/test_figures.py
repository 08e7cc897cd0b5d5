"""A figure's findings against what is expected of it."""

import csv

import pytest

from tetrisim.errors import ScenarioError
from tetrisim.studies.figures import find_figures, judge, run_figure, save_verdicts, verdict_table
from tetrisim.studies.seeds import Estimate

HEADER = "metric,paper,low,high,kind,reason\n"


def expected(folder, *rows):
    (folder / "expected.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return folder


def test_a_value_is_judged_by_its_band_or_by_its_direction(tmp_path):
    folder = expected(tmp_path, "jct,-40 %,-60,-30,band,", "ttft,lower,,0,direction,", "cost,0.86,,1,direction,the cap")
    verdicts = judge(folder, {"jct": Estimate(-45.0, 2.0, 10), "ttft": -0.1, "cost": 1.2})
    assert [row.verdict for row in verdicts] == ["within band", "direction holds", "does not hold"]
    assert [row.reason for row in verdicts] == ["", "", "the cap"]
    assert verdicts[0].ours.half == 2.0
    assert verdict_table(verdicts).splitlines()[2] == f"| {folder.name} | jct | -40 % | -45 ± 2 | within band |"


@pytest.mark.parametrize("metrics", [{"jct": 1.0}, {"jct": 1.0, "ttft": 2.0, "cost": 3.0}])
def test_what_is_expected_and_what_is_found_are_the_same_metrics(tmp_path, metrics):
    folder = expected(tmp_path, "jct,1,0,2,band,", "ttft,1,0,2,band,")
    with pytest.raises(ScenarioError, match=r"expected\.csv"):
        judge(folder, metrics)


def test_a_figure_is_found_by_its_number_or_its_whole_name():
    assert [folder.name for folder in find_figures(["fig09"])] == ["fig09-transfer"]
    assert find_figures(["fig09-transfer"]) == find_figures(["fig09"])
    assert len(find_figures()) >= 1
    with pytest.raises(ScenarioError) as refused:
        find_figures(["fig9-transfer"])
    assert refused.value.nearest == "fig09-transfer"


def test_a_figure_takes_its_model_from_the_settings(tmp_path):
    [folder] = find_figures(["fig09"])
    findings, verdicts = run_figure(folder, {})
    assert findings.metrics["512 tokens over 200 Gbit/s (ms)"] == pytest.approx(512 * 819_200 / 25e9 * 1e3)
    assert {row.verdict for row in verdicts} == {"within band"}
    other, _ = run_figure(folder, {"model": "llama-3.1-8b", "cluster.gpu": "h100-sxm", "dtype": "bf16"})
    assert other.metrics["512 tokens over 200 Gbit/s (ms)"] == pytest.approx(512 * 131_072 / 25e9 * 1e3)
    save_verdicts(tmp_path / "figures.csv", verdicts)
    with (tmp_path / "figures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["paper"] for row in rows] == ["16.8", "1.40"]
