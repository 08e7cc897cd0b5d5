"""Timelines of runs worked by hand: a step takes 10 ms and 1 ms a token, the link 2 ms and 1 ms a token."""

import json

import pytest
from simulate.by_hand import one, scenario, split, use_timer

from tetrisim.cluster.steplog import StepLog
from tetrisim.report.timeline import events, save_timeline
from tetrisim.simulate import simulate

TWO = [(0, 10, 3), (5, 25, 2)]
PREFILL, LINK, DECODE = {"pid": 1, "tid": 1}, {"pid": 1, "tid": 2}, {"pid": 2, "tid": 3}


@pytest.fixture(autouse=True)
def ten_ms_and_one_a_token(monkeypatch):
    use_timer(monkeypatch)


@pytest.fixture
def logged(tmp_path):
    def run(requests, log=None, **document):
        log = log or StepLog()
        return simulate(scenario(tmp_path, requests, **document), log=log), log

    return run


def slices(found):
    """(start, length) in ms, track and name of every slice."""
    return [(e["ts"] / 1e3, e["dur"] / 1e3, e["tid"], e["name"]) for e in found if e["ph"] == "X"]


def test_every_event_of_a_run_through_prefill_link_and_decode(logged):
    """Prefill 0-26 of the first, 26-52 and 52-78 of the second; link 26-38, 78-105; decode 38-49-60, 105-116."""
    found = events(*logged(TWO, **split()))

    def name(what, value, track):
        return {"ph": "M", "name": what, **track, "args": {"sort_index" if "index" in what else "name": value}}

    def step(title, ts, dur, track, **args):
        return {"ph": "X", "name": title, "ts": ts * 1e3, "dur": dur * 1e3, **track, "args": args}

    def piece(request, tokens, after=0):
        return {"prefill": [{"request": request, "tokens": tokens, "after": after}]}

    def arrow(ph, request, ts, track):
        return {"ph": ph, "cat": "request", "name": "request", "id": request, "ts": ts * 1e3, **track}

    def waiting(ts, count, track):
        return {"ph": "C", "ts": ts * 1e3, **track, "name": "waiting", "args": {"requests": count}}

    def held(ts, blocks, track):
        return {"ph": "C", "ts": ts * 1e3, **track, "name": "KV", "args": {"blocks": blocks}}

    assert found == [
        name("process_name", "prefill-0", PREFILL),
        name("process_sort_index", 0, PREFILL),
        name("thread_name", "steps", PREFILL),
        name("thread_name", "KV sent", LINK),
        name("process_name", "decode-0", DECODE),
        name("process_sort_index", 1, DECODE),
        name("thread_name", "steps", DECODE),
        step("prefill 10", 0, 26, PREFILL, **piece(0, 10)),
        arrow("s", 0, 0, PREFILL),
        waiting(0, 0, PREFILL),
        held(0, 3, PREFILL),
        waiting(5, 1, PREFILL),
        step("prefill 16", 26, 26, PREFILL, **piece(1, 16)),
        step("KV of request 0", 26, 12, LINK, request=0, tokens=10),
        arrow("t", 0, 26, LINK),
        arrow("s", 1, 26, PREFILL),
        waiting(26, 0, PREFILL),
        held(26, 10, PREFILL),
        step("decode 1", 38, 11, DECODE, decode=[0], context_tokens=10),
        arrow("t", 0, 38, DECODE),
        held(38, 7, PREFILL),
        waiting(38, 0, DECODE),
        held(38, 3, DECODE),
        step("decode 1", 49, 11, DECODE, decode=[0], context_tokens=11),
        arrow("t", 0, 49, DECODE),
        step("prefill 9", 52, 26, PREFILL, **piece(1, 9, after=16)),
        arrow("t", 1, 52, PREFILL),
        held(60, 0, DECODE),
        step("KV of request 1", 78, 27, LINK, request=1, tokens=25),
        arrow("t", 1, 78, LINK),
        step("decode 1", 105, 11, DECODE, decode=[1], context_tokens=25),
        arrow("t", 1, 105, DECODE),
        held(105, 0, PREFILL),
        held(105, 7, DECODE),
        held(116, 0, DECODE),
    ]


def test_a_step_that_prefills_beside_decodes_names_both(logged):
    # 0-20 prefill of 10; 20-50 a decode and 19 of 25; 50-67 a decode and the other 6; 67-78 one decode
    document = one("vllm-v1", max_num_batched_tokens=20, async_scheduling=False)
    found = events(*logged(TWO, **document))
    assert slices(found) == [
        (0, 20, 1, "prefill 10"), (20, 30, 1, "prefill 19 + decode 1"), (50, 17, 1, "prefill 6 + decode 1"),
        (67, 11, 1, "decode 1"),
    ]  # fmt: skip


def test_a_span_and_a_limit_cut_slices_arrows_and_counters(logged):
    result, log = logged(TWO, StepLog(0.026, 0.1, limit=3), **split())
    found = events(result, log)
    # Four steps start in the span; the fourth, at 52, is beyond the limit and ends the log.
    assert slices(found) == [(26, 26, 1, "prefill 16"), (26, 12, 2, "KV of request 0"), (38, 11, 3, "decode 1"),
                             (49, 11, 3, "decode 1")]  # fmt: skip
    assert (log.left_out, log.ends_s) == (1, 0.052)
    assert {e["ts"] for e in found if e["ph"] == "C"} <= {26e3, 38e3, 49e3}
    assert [e["id"] for e in found if e["ph"] in "st"] == [0, 0, 0]  # the second has one stop alone


def test_only_the_steps_of_some_requests(logged):
    found = events(*logged(TWO, StepLog(requests=frozenset({1})), **split()))
    assert {name for *_, name in slices(found)} == {"prefill 16", "prefill 9", "KV of request 1", "decode 1"}
    assert {e["id"] for e in found if e["ph"] in "st"} == {1}


def test_what_a_horizon_cuts_off_ends_there(logged):
    found = events(*logged(TWO, horizon="30 ms", **split()))
    assert slices(found) == [(0, 26, 1, "prefill 10"), (26, 4, 1, "prefill 16"), (26, 4, 2, "KV of request 0")]


def test_a_change_of_role_is_marked(logged):
    flips = {"flip": {"policy": "idle", "after": "100 ms", "cost": "1 ms"}}
    settings = split(prefill={"instances": 2}, **flips)
    result, log = logged([(0, 10, 2), (400, 10, 2), (800, 10, 2)], **settings)
    marks = [e for e in events(result, log) if e["ph"] == "i"]
    assert len(marks) == result.instance_columns["flips"].sum() > 0
    assert marks[0]["name"] == "turns to decode"


def test_the_file_is_json_that_begins_as_perfetto_expects(logged, tmp_path):
    result, log = logged(TWO, **split())
    path = tmp_path / "a.pftrace"
    assert save_timeline(path, result, log) == path.stat().st_size
    text = path.read_text()
    assert text.startswith('{"traceEvents":[')
    assert json.loads(text)["traceEvents"] == json.loads(json.dumps(events(result, log)))
    assert [file.name for file in tmp_path.glob("*pftrace*")] == ["a.pftrace"]
