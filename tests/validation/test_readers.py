"""What is read of a measured run, what is left out with a note, and what is refused with file and row."""

import json

import numpy as np
import pytest

from tetrisim.errors import TraceError
from tetrisim.validation.readers import read_measured

HEADER = (
    "request_id,planned_arrival_s,input_length,output_length,client_arrival_s,queued_s,scheduled_s,first_token_s,"
    "last_token_s"
)
GOOD = ("0,1.0,100,11,1.0,1.001,1.002,1.1,2.1", "1,2.0,50,1,2.0,2.004,2.1,2.3,2.3", "2,3.0,70,21,3.0,3.0,3.1,3.2,4.2")


def rows(tmp_path, *lines, header=HEADER):
    path = tmp_path / "requests.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def bench(tmp_path, **changes):
    record = {
        "input_lens": [10, 20, 30], "output_lens": [3, 2, 0], "ttfts": [0.5, 0.25, 0.0],
        "itls": [[0.1, 0.2], [0.05], []], "start_times": [100.0, 101.0, 102.0], "errors": ["", "", "timeout"],
    }  # fmt: skip
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({key: value for key, value in {**record, **changes}.items() if value is not None}))
    return path


def note(measured, word):
    (found,) = [text for text in measured.notes if word in text]
    return found


def test_rows_are_counted_from_the_client(tmp_path):
    measured = read_measured(rows(tmp_path, *GOOD))
    assert (measured.clock, len(measured)) == ("client", 3)
    assert measured.arrival_s.tolist() == [1.0, 2.0, 3.0]
    assert measured.scheduled_s.tolist() == [1.002, 2.1, 3.1]
    assert measured.finished.all()
    assert "0.0 to 4.0 ms, mean 1.7 ms" in note(measured, "hand-over")
    assert "1 requests of one output token" in note(measured, "TPOT")


def test_or_from_the_engine_when_asked(tmp_path):
    assert read_measured(rows(tmp_path, *GOOD), "queued").arrival_s.tolist() == [1.001, 2.004, 3.0]


def test_rows_out_of_order_are_sorted_and_it_is_said(tmp_path):
    measured = read_measured(rows(tmp_path, GOOD[2], GOOD[0], GOOD[1]))
    assert measured.number.tolist() == [0, 1, 2]
    assert "1 go back" in note(measured, "order of arrival")


def test_unfinished_requests_are_replayed_and_in_no_metric(tmp_path):
    measured = read_measured(rows(tmp_path, *GOOD, "7,3.5,40,9,3.5,3.5,,,"))
    assert len(measured) == 4
    assert measured.finished.tolist() == [True, True, True, False]
    assert measured.columns["status"].tolist() == ["completed"] * 3 + ["unfinished"]
    assert "1 request (7) unfinished" in note(measured, "unfinished")


def test_zero_length_outputs_are_left_out_and_named(tmp_path):
    measured = read_measured(rows(tmp_path, *GOOD, "9,3.5,40,0,3.5,3.5,3.6,3.7,3.7"))
    assert 9 not in measured.number
    assert "1 request (9) left out: no output tokens" in note(measured, "left out")


def test_a_skewed_client_clock_is_not_used(tmp_path):
    measured = read_measured(rows(tmp_path, "0,1.0,100,11,1.3,1.001,1.002,1.1,2.1", *GOOD[1:]))
    assert measured.clock == "queued"
    assert "1 request (0) seen by the client up to 299.0 ms after" in note(measured, "clock skew")


def test_joining_errors_of_two_milliseconds_are_no_skew(tmp_path):
    assert read_measured(rows(tmp_path, "0,1.0,100,11,1.0025,1.001,1.002,1.1,2.1")).clock == "client"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0,1.0,100,11,1.0,1.1,1.05,1.2,2.1", "requests.csv:2: 'scheduled' comes 50.000 ms before 'queued'"),
        ("0,1.0,100,11,1.0,1.0,1.0,2.2,2.1", "'last' comes 100.000 ms before 'first'"),
        ("0,1.0,100,11,1.0,1.0,1.0,,2.1", "has a last token and no first one"),
        ("0,1.0,100,1,1.0,1.0,1.0,1.5,2.1", "one output token at two moments"),
        ("0,1.0,0,11,1.0,1.0,1.0,1.5,2.1", "input length is 0"),
        ("0,1.0,100,2.5,1.0,1.0,1.0,1.5,2.1", "output length is 2.5"),
        ("0,1.0,100,-1,1.0,1.0,1.0,1.5,2.1", "output length is -1"),
        ("0,1.0,100,eleven,1.0,1.0,1.0,1.5,2.1", "output_length is 'eleven'"),
        ("0,1.0,100,11,1.0,1.0,1.0,nan,2.1", "first_token_s is 'nan'"),
        ("0,1.0,100", "has not one value a column"),
        ("0,1.0,100,11,1.0,1.0,,,", "no request came to its last token"),
        ("0,1.0,100,0,1.0,1.0,1.0,1.5,1.5", "all 1 requests have no output tokens"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path, line, said):
    with pytest.raises(TraceError) as refused:
        read_measured(rows(tmp_path, line))
    assert said in str(refused.value)


def test_a_first_token_before_the_client_asked_is_clock_skew(tmp_path):
    header = "input_length,output_length,client_arrival_s,first_token_s,last_token_s"
    with pytest.raises(TraceError, match="clock skew between client and engine"):
        read_measured(rows(tmp_path, "100,11,5.0,1.1,2.1", header=header))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("input_length,output_length,queued_s,first_token_s,last_tokens", "did you mean 'last_tokens'"),
        ("input_length,output_length,first_token_s,last_token_s", "no column says when requests arrived"),
    ],
)
def test_missing_columns_are_named(tmp_path, header, said):
    with pytest.raises(TraceError) as refused:
        read_measured(rows(tmp_path, "1,1,1,1,1", header=header))
    assert said in str(refused.value)


def test_a_request_twice_is_refused(tmp_path):
    with pytest.raises(TraceError, match="request_id 0 is there twice"):
        read_measured(rows(tmp_path, GOOD[0], GOOD[0]))


def test_engine_settings_stand_beside_the_rows(tmp_path):
    (tmp_path / "meta.json").write_text(
        json.dumps({"num_gpu_blocks": 101, "engine_kwargs": {"max_num_seqs": 8, "tensor_parallel_size": 2}})
    )
    settings = read_measured(rows(tmp_path, *GOOD)).settings
    assert settings == {"kv_blocks": 100, "max_num_seqs": 8, "tensor_parallel": 2}  # less vLLM's null block


def test_bench_serve_times_are_the_clients(tmp_path):
    measured = read_measured(bench(tmp_path))
    assert measured.number.tolist() == [0, 1]
    assert measured.arrival_s.tolist() == [100.0, 101.0]
    assert measured.first_token_s.tolist() == [100.5, 101.25]
    assert np.allclose(measured.last_token_s, [100.8, 101.3])
    assert "1 failed requests (2)" in note(measured, "failed")
    assert "network" in note(measured, "client's")


def test_bench_serve_says_when_the_client_held_back_and_trusts_its_latencies(tmp_path):
    measured = read_measured(bench(tmp_path, max_concurrency=4, latencies=[0.9, 0.4, 0.0]))
    assert "max_concurrency 4" in note(measured, "held requests back")
    assert np.allclose(measured.last_token_s, [100.9, 101.4])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"itls": None}, "key 'itls' is missing; expected a result saved with --save-result --save-detailed"),
        ({"ttfts": [0.1]}, "lists of different lengths"),
        ({"errors": ["x", "x", "x"]}, "all 3 requests failed"),
    ],
)
def test_bench_results_without_the_details_are_refused(tmp_path, changes, said):
    with pytest.raises(TraceError) as refused:
        read_measured(bench(tmp_path, **changes))
    assert said in str(refused.value)


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "x.csv", tmp_path / "none.csv"):
        with pytest.raises(TraceError, match="cannot be read"):
            read_measured(path)
