"""Recorded steps read and compared: a record of two requests by hand, and everything that can be wrong with one."""

import gzip
import json
import re

import pytest

from tetrisim.errors import TraceError
from tetrisim.validation.steps import check_steps

CONFIG = {"block_size": 4, "num_gpu_blocks": 9, "max_num_seqs": 2, "max_num_batched_tokens": 6,
          "enable_prefix_caching": False}  # fmt: skip
REQUESTS = [
    {"request_id": 0, "submit_s": 0.0, "input_length": 5, "output_length": 2},
    {"request_id": 1, "submit_s": 0.15, "input_length": 7, "output_length": 1},
]
# 5 tokens; then the decode, and 5 of the 7 that came in between; then the other 2. The first takes two blocks.
STEPS = [
    {"i": 0, "start_s": 0.1, "batch": [[0, 0, 5]], "preempted": [], "blocks": [2], "free_blocks": 6},
    {"i": 1, "start_s": 0.2, "batch": [[0, 5, 1], [1, 0, 5]], "preempted": [], "blocks": [2, 2], "free_blocks": 4},
    {"i": 2, "start_s": 0.3, "batch": [[1, 5, 2]], "preempted": [], "blocks": [2], "free_blocks": 6},
]


def case(folder, config=CONFIG, requests=REQUESTS, iterations=STEPS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, rows in (("requests", requests), ("iterations", iterations)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def edited(rows, number, **changes):
    """Rows with one of them changed; None takes a key away."""
    row = {key: value for key, value in {**rows[number], **changes}.items() if value is not None}
    return [*rows[:number], row, *rows[number + 1 :]]


def test_a_record_by_hand_is_the_same_in_every_step(tmp_path):
    report = check_steps(case(tmp_path / "mine"))
    entry = {"case": "mine", "steps": 3, "equal_steps": 3, "first_difference": None}
    assert report.summary() == {"cases": 1, "steps": 3, "equal_steps": 3, "by_case": [entry]}
    assert report.lines() == ["mine: 3 of 3 steps equal", "3 of 3 steps equal (100.00 %), 1 of 1 cases whole"]


@pytest.mark.parametrize(
    ("wrong", "key", "simulated"),
    [
        ({"batch": [[1, 0, 5], [0, 5, 1]]}, "batch", [[0, 5, 1], [1, 0, 5]]),
        ({"batch": [[0, 5, 1], [1, 0, 4]]}, "batch", [[0, 5, 1], [1, 0, 5]]),
        ({"preempted": [1]}, "preempted", []),
        ({"blocks": [2, 1]}, "blocks", [2, 2]),
        ({"free_blocks": 5}, "free_blocks", 4),
    ],
)
def test_the_first_difference_is_told_in_full_and_ends_the_case(tmp_path, wrong, key, simulated):
    case(tmp_path / "b_wrong", iterations=edited(STEPS, 1, **wrong))
    case(tmp_path / "a_right")
    report = check_steps(tmp_path)
    assert (report.steps, report.equal) == (6, 4)
    assert [entry.case for entry in report.cases] == ["a_right", "b_wrong"]
    difference = report.cases[1].difference
    assert difference["where"].endswith("iterations.jsonl:2")
    assert difference["i"] == 1
    assert difference["differs"] == {key: {"recorded": wrong[key], "simulated": simulated}}
    json.dumps(report.summary())
    text = "\n".join(report.lines())
    assert f"{key}: recorded  {wrong[key]}" in text
    assert "4 of 6 steps equal (66.67 %), 1 of 2 cases whole" in text


def test_a_request_is_seen_only_when_it_was_handed_over(tmp_path):
    folder = case(tmp_path, requests=edited(REQUESTS, 1, submit_s=0.25))
    assert check_steps(folder).cases[0].difference["i"] == 1


def test_with_async_scheduling_seat_and_blocks_are_free_one_step_later(tmp_path):
    config = {**CONFIG, "max_num_seqs": 1, "async_scheduling": True}
    rows = [
        {"start_s": 0.1, "batch": [[0, 0, 5]], "preempted": [], "free_blocks": 6},
        {"start_s": 0.2, "batch": [[0, 5, 1]], "preempted": [], "free_blocks": 6},
        {"start_s": 0.3, "batch": [], "preempted": [], "free_blocks": 8},
        {"start_s": 0.4, "batch": [[1, 0, 6]], "preempted": [], "free_blocks": 6},
    ]
    assert check_steps(case(tmp_path, config, iterations=rows)).cases[0].difference is None
    assert check_steps(case(tmp_path, CONFIG | {"max_num_seqs": 1}, iterations=rows)).cases[0].equal == 2


def test_files_may_be_zipped(tmp_path):
    folder = case(tmp_path)
    for name in ("requests", "iterations"):
        plain = folder / f"{name}.jsonl"
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    assert check_steps(folder).equal == 3


BAD = [
    ({"config": {**CONFIG, "block_size": 0}}, "config.json: block_size: 0"),
    ({"config": {key: CONFIG[key] for key in list(CONFIG)[1:]}}, "config.json: missing key 'block_size'"),
    ({"config": {**CONFIG, "policy": "priority"}}, "config.json: policy: 'priority'"),
    ({"config": {**CONFIG, "watermark": 1.5}}, "config.json: watermark: 1.5"),
    ({"config": {**CONFIG, "max_num_seqs": 7}}, "config.json: max_num_batched_tokens"),
    ({"config": [1]}, "config.json: is not a JSON object"),
    ({"requests": edited(REQUESTS, 1, submit_s=None)}, "requests.jsonl:2: missing key 'submit_s'"),
    ({"requests": edited(REQUESTS, 1, submit_s=-1.0)}, "requests.jsonl:2: submit_s -1.0 after 0.0"),
    ({"requests": edited(REQUESTS, 1, request_id=0)}, "requests.jsonl:2: request_id 0 comes a second time"),
    ({"requests": edited(REQUESTS, 0, output_length=0)}, "requests.jsonl:1: output_length: 0"),
    ({"requests": edited(REQUESTS, 0, input_length="5")}, "requests.jsonl:1: input_length: '5'"),
    ({"requests": []}, "requests.jsonl: is empty"),
    ({"iterations": edited(STEPS, 2, batch=[[2, 0, 5]])}, "iterations.jsonl:3: unknown request_id 2"),
    ({"iterations": edited(STEPS, 2, preempted=[9])}, "iterations.jsonl:3: unknown request_id 9"),
    ({"iterations": edited(STEPS, 1, batch=[[0, 5]])}, "iterations.jsonl:2: batch: [[0, 5]]"),
    ({"iterations": edited(STEPS, 1, preempted=None)}, "iterations.jsonl:2: missing key 'preempted'"),
    ({"iterations": edited(STEPS, 2, start_s=0.15)}, "iterations.jsonl:3: start_s 0.15 after 0.2"),
    ({"iterations": edited(STEPS, 2, start_s=float("nan"))}, "iterations.jsonl:3: start_s: nan"),
    ({"iterations": edited(STEPS, 0, free_blocks=-1)}, "iterations.jsonl:1: free_blocks: -1"),
    (
        {"config": {**CONFIG, "enable_prefix_caching": True}},
        "requests.jsonl:1: hash_ids: 0 of them; expected one for each",
    ),
    (
        {"config": {**CONFIG, "enable_prefix_caching": True}, "requests": edited(REQUESTS, 0, hash_ids=["a"])},
        "requests.jsonl:1: hash_ids: ['a']",
    ),
]


@pytest.mark.parametrize(("parts", "message"), BAD, ids=[message for _, message in BAD])
def test_what_cannot_be_used_is_refused_by_file_and_line(tmp_path, parts, message):
    with pytest.raises(TraceError, match=re.escape(message)) as refused:
        check_steps(case(tmp_path, **parts))
    assert "\n" not in str(refused.value)


def test_broken_lines_and_missing_files_are_refused(tmp_path):
    folder = case(tmp_path / "one")
    with (folder / "iterations.jsonl").open("a") as file:
        file.write('{"i": 3, "start\n')
    with pytest.raises(TraceError, match=r"iterations.jsonl:4: not a JSON object"):
        check_steps(folder)
    (folder / "iterations.jsonl").write_bytes(gzip.compress(b"{}")[:-9])
    with pytest.raises(TraceError, match=r"iterations.jsonl: cannot be read"):
        check_steps(folder)
    (folder / "iterations.jsonl").unlink()
    with pytest.raises(TraceError, match=r"one: no iterations.jsonl.gz in it"):
        check_steps(folder)
    with pytest.raises(TraceError, match=r"nowhere: there is no such folder"):
        check_steps(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match=r"empty: no config.json in it"):
        check_steps(tmp_path / "empty")
