import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from handmade import served, three_requests

from tetrisim.errors import OutputError
from tetrisim.metrics.breakdown import TO_FIRST_TOKEN
from tetrisim.metrics.summary import summarize
from tetrisim.scenario.load import load
from tetrisim.studies.cache import Cache
from tetrisim.studies.compare import Comparison
from tetrisim.studies.store import REQUEST_COLUMNS, check_free, new_folder, save_comparison, save_run


def draw(path):
    path.write_bytes(b"a picture")


def save(folder, picture=draw):
    result = three_requests()
    save_run(folder, result, summarize(result), picture)
    return result


def test_a_run_leaves_rows_summary_scenario_record_and_picture(tmp_path):
    folder = tmp_path / "deep" / "run"
    result = save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "latency.png", "requests.parquet", "run.json", "scenario.yaml", "summary.csv",
    ]  # fmt: skip
    rows = pd.read_parquet(folder / "requests.parquet")
    assert tuple(rows.columns) == REQUEST_COLUMNS[:-1], "no classes in this workload"
    pd.testing.assert_frame_equal(rows, result.requests[list(REQUEST_COLUMNS[:-1])], check_dtype=False)
    stored = pq.ParquetFile(folder / "requests.parquet").metadata
    assert stored.row_group(0).column(0).compression == "ZSTD"
    assert load(folder / "scenario.yaml") == result.scenario
    assert pd.read_csv(folder / "summary.csv").loc[0, "mean_ttft_ms"] == pytest.approx(400)
    record = json.loads((folder / "run.json").read_text())
    assert record["tetrisim"] == "0.1.0"
    assert record["seed"] == result.scenario.seed
    assert record["runs"][0]["wall_s"] == 0.5
    assert record["slo"] == {"ttft_s": 0.5, "tpot_s": 0.02, "e2el_s": None}
    assert record["runs"][0]["estimated_share"] == 0.25
    assert record["runs"][0]["provenance"] == ["roofline of h100-sxm"]


def test_a_run_records_what_its_rows_do_not_tell(tmp_path):
    save(tmp_path / "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())["runs"][0]
    worked, idle = run["instances"]
    assert (worked["instance"], worked["busy_s"], worked["last_work_s"]) == ("hybrid-0", 0.9, 2.6)
    assert idle["first_work_s"] is None, "it never worked"
    assert sum(run["breakdown"].values()) == pytest.approx((0.3 + 0.6) / 2), "the mean E2EL"
    # Of two requests the slower one: to its first token 0.6 s, and after it 0.1 s of the other.
    slow = run["breakdown_slowest"]
    assert sum(slow[part] for part in TO_FIRST_TOKEN) == pytest.approx(0.6)
    assert sum(slow[part] for part in slow if part not in TO_FIRST_TOKEN) == pytest.approx(0.1)


def test_the_room_of_an_instance_is_its_blocks(tmp_path):
    base = three_requests()
    result = replace(base, instance_columns={**base.instance_columns, "kv_blocks": np.array([100, 200])})
    save_run(tmp_path / "run", result, summarize(result), draw)
    run = json.loads((tmp_path / "run" / "run.json").read_text())["runs"][0]
    assert [instance["kv_tokens"] for instance in run["instances"]] == [1600, 3200], "blocks of 16 tokens"


def test_requests_left_out_as_warmup_are_in_the_rows_and_not_in_the_breakdown(tmp_path):
    result = three_requests()
    save_run(tmp_path / "run", result, summarize(result, warmup=0.34), draw)  # the first of three
    run = json.loads((tmp_path / "run" / "run.json").read_text())["runs"][0]
    assert sum(run["breakdown"].values()) == pytest.approx(0.6)
    assert len(pd.read_parquet(tmp_path / "run" / "requests.parquet")) == 3


def test_a_comparison_has_a_folder_a_system_and_a_scenario_to_compare_again(tmp_path):
    scenario = load("default")
    results = {name: served(name, 0.2, 0.02) for name in ("vllm-v0", "tetriinfer")}
    comparison = Comparison(scenario, results, [summarize(result) for result in results.values()])
    save_comparison(tmp_path / "out", comparison, draw)
    assert list(pd.read_csv(tmp_path / "out" / "summary.csv")["system"]) == ["vllm-v0", "tetriinfer"]
    assert load(tmp_path / "out" / "scenario.yaml") == scenario
    for name, result in results.items():
        assert len(pd.read_parquet(tmp_path / "out" / name / "requests.parquet")) == 400
        assert load(tmp_path / "out" / name / "scenario.yaml") == result.scenario


def test_an_existing_folder_is_refused_untouched_with_a_free_name(tmp_path):
    taken = tmp_path / "run"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    (tmp_path / "run-2").mkdir()
    with pytest.raises(OutputError, match=r"exists already.*did you mean '.*run-3'"):
        save(taken)
    assert [path.name for path in taken.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, ValueError])
def test_a_failure_on_the_way_leaves_nothing(tmp_path, failure):
    def fail(path):
        assert len(list(path.parent.iterdir())) == 4, "the other files are there by now"
        raise failure

    with pytest.raises(failure):
        save(tmp_path / "run", picture=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_one_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot write"):
        save(tmp_path / "file" / "run")


def test_a_folder_made_by_someone_else_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(OutputError, match="exists already"), new_folder(tmp_path / "run"):
        (tmp_path / "run").mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_dangling_link_is_not_free(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError):
        check_free(tmp_path / "link")


def test_a_file_of_a_sweep_is_replaced_as_a_whole(tmp_path):
    cache = Cache(tmp_path)
    cache.write("sweep.json", "{}")
    cache.write("sweep.json", '{"a": 1}')
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("sweep.json", '{"a": 1}')]
