"""A closed loop worked by hand: a step takes 10 ms and 1 ms a token."""

import numpy as np
import pytest
from simulate.by_hand import in_ms, one, resolve, scenario, use_timer

from tetrisim.errors import ScenarioError
from tetrisim.metrics.summary import summarize
from tetrisim.simulate import simulate

THREE = [(0, 10, 2)] * 3


@pytest.fixture(autouse=True)
def ten_ms_and_one_a_token(monkeypatch):
    use_timer(monkeypatch)


@pytest.fixture(params=[False, True], ids=["windows", "steps"])
def run(request, tmp_path):
    def looped(requests, horizon=None, **workload):
        document = one("vllm-v1", async_scheduling=False)
        made = scenario(tmp_path, requests, **document)
        loop = {**made.document["workload"], "arrivals": "closed-loop", **workload}
        end = {} if horizon is None else {"horizon": horizon}
        return simulate(resolve({**made.document, "workload": loop, **end}), request.param)

    return looped


def test_the_next_enters_when_one_leaves(run):
    result = run(THREE, concurrency=1)
    # 0-20 prefill, 20-31 a decode; then the next, whatever the trace says of arrivals
    assert in_ms(result, "arrival_s") == [0, 31, 62]
    assert in_ms(result, "first_token_s") == [20, 51, 82]
    assert in_ms(result, "finish_s") == [31, 62, 93]
    assert summarize(result)["mean_ttft_ms"] == pytest.approx(20)


def test_so_many_at_once_and_time_to_think(run):
    result = run(THREE, concurrency=2, think="5 ms")
    # 0-30 two prefills, 30-42 two decodes; 5 ms later the third
    assert in_ms(result, "arrival_s") == [0, 0, 47]
    assert in_ms(result, "finish_s") == [42, 42, 78]


def test_more_places_than_requests(run):
    assert in_ms(run(THREE, concurrency=50), "arrival_s") == [0, 0, 0]


def test_who_cannot_be_served_does_not_stop_the_loop(run):
    result = run([(0, 10, 2), (0, 500, 2), (0, 10, 2)], concurrency=1)
    assert in_ms(result, "arrival_s") == [0, 31, 31]
    assert result.request_columns["status"].tolist() == ["completed", "rejected", "completed"]
    assert in_ms(result, "finish_s") == [31, None, 62]


def test_a_horizon_before_some_have_come(run):
    result = run(THREE, concurrency=1, horizon="40 ms")
    assert in_ms(result, "arrival_s") == [0, 31, None]
    assert result.request_columns["status"].tolist() == ["completed", "unfinished", "unfinished"]
    assert summarize(result)["duration"] == pytest.approx(0.031)


def test_never_more_than_so_many():
    """The entries after the first seven are the ends of others."""
    document = {
        "model": "opt-125m", "profile": "roofline", "seed": 1, **one("vllm-v1", kv_blocks=2000, max_num_seqs=64),
        "workload": {"trace": "random", "prompt_tokens": 60, "output_tokens": 40, "shortest": 0.5, "requests": 80,
                     "arrivals": "closed-loop", "concurrency": 7},
    }  # fmt: skip
    rows = simulate(resolve(document)).request_columns
    arrivals, ends = np.sort(rows["arrival_s"]), np.sort(rows["finish_s"])
    assert (arrivals[:7] == 0).all()
    assert arrivals[7:] == pytest.approx(ends[: 80 - 7], abs=1e-12), "each enters when one leaves"


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ({"arrivals": "closed-loop"}, "concurrency"),
        ({"arrivals": "closed-loop", "concurrency": 0}, "concurrency"),
        ({"arrivals": "closed-loop", "concurrency": 4, "rate": 2}, "rate"),
        ({"arrivals": "closed-loop", "concurrency": 4, "think": "-1 s"}, "think"),
        ({"concurrency": 4}, "concurrency"),
        ({"think": "1 s"}, "think"),
        ({"trace": "mixed", "prompt_tokens": 5}, "prompt_tokens"),
        ({"trace": "mixed", "shortest": 0.5}, "shortest"),
        ({"trace": "random", "output_tokens": 0}, "output_tokens"),
        ({"trace": "random", "shortest": 0.0}, "shortest"),
    ],
)
def test_what_makes_no_loop_is_refused(workload, said):
    with pytest.raises(ScenarioError) as caught:
        resolve({"model": "opt-125m", "workload": workload, **one("vllm-v1")})
    assert caught.value.where == f"workload.{said}"
