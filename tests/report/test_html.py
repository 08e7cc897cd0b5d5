import json
import re

import pytest
from handmade import served
from report import pages

from tetrisim.errors import OutputError
from tetrisim.metrics import definitions as define
from tetrisim.report.html import report_page


def data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def cells(page):
    return [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]


def test_a_run_has_its_numbers_and_what_was_left_out(tmp_path):
    page = report_page(pages.run(tmp_path / "run"))
    rows = cells(page)
    assert ["completed", "2"] in rows and ["rejected", "1"] in rows
    assert ["mean", "400"] in rows  # TTFT: 200 ms and 600 ms
    assert "of 3 requests 1 were rejected and 0 unfinished" in page
    assert "Step times: 25 % measured, 50 % interpolated, 25 % estimated (roofline of h100-sxm)." in page
    assert "Goodput counts requests with TTFT" in page
    assert "trace: azure-conv-like" in page, "the scenario is there to copy"


def test_requests_left_out_as_warmup_are_in_no_distribution_and_in_every_timeline(tmp_path):
    charts = data(report_page(pages.run(tmp_path / "run", warmup=0.34)))  # the first of three
    assert charts["ttft"]["series"][0]["x"] == [600, 600]
    window_s = 2.6 / len(charts["served"]["series"][0]["y"])
    assert sum(charts["served"]["series"][1]["y"]) * window_s == pytest.approx(2, rel=1e-4)


def test_a_comparison_marks_the_best_and_says_who_won(tmp_path):
    page = report_page(pages.comparison(tmp_path / "out"))
    assert re.search(r'<td>mean</td><td>[\d.]+</td><td class="best">[\d.]+</td><td>[\d.]+</td>', page), "vllm-v1: TTFT"
    assert "vllm-v1 wins on mean TTFT" in page
    charts = data(page)
    assert [line["name"] for line in charts["ttft"]["series"]] == ["vllm-v0", "vllm-v1", "tetriinfer"]
    assert [line["colour"] for line in charts["ttft"]["series"]] == ["#0072B2", "#D55E00", "#009E73"]
    assert charts["ttft"]["marks"] == [{"x": 500, "label": "SLO"}]
    assert charts["e2el"]["marks"] == []


def test_every_chart_of_the_page_has_its_data_and_its_place(tmp_path):
    for make in (pages.run, pages.seeds, pages.sweep, pages.plan):
        page = report_page(make(tmp_path / make.__name__))
        assert sorted(re.findall(r'data-chart="(\w+)"', page)) == sorted(data(page)), make.__name__


def test_the_breakdown_sums_to_the_mean_ttft_and_the_rest(tmp_path):
    page = report_page(pages.comparison(tmp_path / "out"))
    rows = served("vllm-v1", *pages.MEDIANS["vllm-v1"]).request_columns
    bars = {(row["label"], row["note"]): row["total"] for row in data(page)["first"]["rows"]}
    unit = {"s": 1.0, "ms": 1e3}[data(page)["first"]["unit"]]
    ttft = define.ttft(rows)
    assert bars["vllm-v1", ""] == pytest.approx(ttft.mean() * unit)
    slowest = sorted(ttft)[-20:]  # 5 % of 400
    assert bars["vllm-v1", "slowest 5 %"] == pytest.approx(sum(slowest) / 20 * unit)
    assert "Largest part of TTFT" in page and "Largest parts among the slowest 5 %" in page


def test_differences_over_seeds_are_shown_as_shares_of_the_first_system(tmp_path):
    page = report_page(pages.seeds(tmp_path / "out"))
    first, second = data(page)["seeds0"]["rows"]
    assert (first["label"], first["shown"], first["low"], first["high"]) == ("mean TTFT", False, -10, 5)
    assert (second["label"], second["shown"], second["mean"]) == ("p99 TPOT", True, -7.5)
    assert "vllm-v1 against vllm-v0: better on p99 TPOT; no difference shown on mean TTFT." in page


def test_a_run_where_nothing_completed_still_has_a_page(tmp_path):
    page = report_page(pages.unserved(tmp_path / "run"))
    assert "0 were rejected and 3 unfinished" in page
    assert data(page)["ttft"]["series"][0]["x"] == []


def test_a_sweep_has_a_value_a_point_and_says_what_could_not_be_run(tmp_path):
    page = report_page(pages.sweep(tmp_path / "out"))
    spec = data(page)["sweep"]
    assert [(dim["label"], dim["values"]) for dim in spec["dims"]] == [
        ("rate, /s", [5, 10]), ("system", ["vllm-v1", "x"]),
    ]  # fmt: skip
    assert [(row["at"], row["values"][0], row["half"][0]) for row in spec["rows"]] == [
        ([0, 0], 100, 5), ([0, 1], 101, 5), ([1, 0], 102, 5),
    ]  # fmt: skip
    assert [(metric["label"], metric["limit"]) for metric in spec["metrics"]] == [
        ("p99 TTFT, ms", 100), ("goodput, requests/s", None),
    ]  # fmt: skip
    assert "1 of 4 points cannot be run." in page and "no such thing x" in page
    assert "Best at rate 5 /s, system vllm-v1: p99 TTFT 100 ±5.00 ms (2 more whose intervals meet its own)" in page


def test_linked_keys_are_one_axis(tmp_path):
    (tmp_path / "out").mkdir()
    rows = [{"a": a, "b": b, "status": "ok", "key": "", "p99_ttft_ms": a * 1.0} for a, b in ((1, 3), (2, 2))]
    study = {"kind": "sweep", "grid": {"a,b": [[1, 3], [2, 2]]}, "rows": rows}
    (tmp_path / "out" / "sweep.json").write_text(json.dumps(study))
    spec = data(report_page(tmp_path / "out"))["sweep"]
    assert spec["dims"][0]["names"] == ["1, 3", "2, 2"]
    assert [row["at"] for row in spec["rows"]] == [[0], [1]]


def test_a_plan_ranks_its_clusters_and_says_what_to_run(tmp_path):
    page = report_page(pages.plan(tmp_path / "out"))
    assert "First in rank: 2 x x, 6.00 $/h. 1 of the 2 simulated clusters meet the SLO." in page
    points = data(page)["front"]["points"]
    assert [(point["name"], point["hollow"], point["pareto"]) for point in points] == [
        ("2 x x", False, True), ("1 x x", True, False),
    ]  # fmt: skip
    assert "vllm serve x" in page and "too small: x" in page


@pytest.mark.parametrize("make", [pages.evil, pages.sweep, pages.plan])
def test_text_of_the_data_is_text_of_the_page(tmp_path, make):
    folder = tmp_path / "<b onmouseover=alert(1)>"
    page = report_page(make(folder) if make is pages.evil else make(folder, pages.EVIL))
    style = re.search(r"<style>.*?</style>", page, re.S)[0]
    scripts = re.findall(r"<script[^>]*>", page)
    assert scripts == ['<script type="application/json" id="data">', "<script>"], "ours alone"
    assert "<img" not in page.replace(style, "") and "<b onmouseover" not in page
    assert "&lt;script&gt;document.title=&#x27;owned&#x27;" in page, "it is shown"


@pytest.mark.parametrize("make", [pages.seeds, pages.sweep, pages.plan])
def test_nothing_in_the_page_asks_for_anything_outside_it(tmp_path, make):
    page = report_page(make(tmp_path / "out"))
    assert re.findall(r"\b(?:src|srcset|action|data)\s*=|@import|<link|<iframe|<base", page) == []
    assert re.findall(r"url\((?!#| *\" *\+|#)[^)]", page.replace('"url(#" + id', "")) == []
    assert [link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith("#")] == []
    assert "default-src 'none'" in page


def test_a_long_run_makes_no_larger_a_page(tmp_path):
    small = len(report_page(pages.comparison(tmp_path / "small", 2000)))
    large = len(report_page(pages.comparison(tmp_path / "large", 20_000)))
    assert large < 1.1 * small < 500_000
    assert "A curve is drawn through 400 of its requests" in report_page(tmp_path / "large")


def test_the_same_folder_makes_the_same_page(tmp_path):
    pages.comparison(tmp_path / "out")
    assert report_page(tmp_path / "out") == report_page(tmp_path / "out")


def test_a_folder_of_something_else_is_one_line(tmp_path):
    with pytest.raises(OutputError, match=r"holds none of run.json, sweep.json, plan.json; expected the folder that"):
        report_page(tmp_path)
    with pytest.raises(OutputError, match="is not there"):
        report_page(tmp_path / "nowhere")
    pages.comparison(tmp_path / "out")
    with pytest.raises(OutputError, match=r"is one run of a comparison; expected the folder.*did you mean '.*out'\?"):
        report_page(tmp_path / "out" / "vllm-v1")
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        report_page(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.json", "{", "cannot be read"),
        ("run.json", "[]", "holds no mapping"),
        ("run.json", "{}", "lacks 'runs'"),
        ("run.json", '{"runs": 3}', "cannot be read"),
        ("summary.csv", None, "cannot be read"),
        ("summary.csv", "system\na\nb\n", "cannot be read"),
        ("requests.parquet", "PAR1", "cannot be read"),
        ("requests.parquet", None, "requests.parquet"),
        ("plan.json", "{}", "lacks 'candidates'"),
        ("plan.json", '{"candidates": [3]}', "holds what it should not"),
        ("sweep.json", '{"rows": [], "grid": 3}', "holds what it should not"),
    ],
)
def test_a_damaged_folder_is_one_line(tmp_path, name, text, said):
    folder = pages.run(tmp_path / "run")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(OutputError, match=said) as raised:
        report_page(folder)
    assert str(folder) in str(raised.value)


def test_a_folder_without_what_was_added_later_still_has_a_page(tmp_path):
    folder = pages.run(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text())
    del record["slo"]
    for key in ("breakdown", "breakdown_slowest", "instances"):
        del record["runs"][0][key]
    (folder / "run.json").write_text(json.dumps(record))
    page = report_page(folder)
    assert "did not keep the breakdown" in page and "limits of the SLO are not recorded" in page
