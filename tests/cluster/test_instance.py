"""Windows: a run of decode steps is one event; what comes in the middle joins at the end of the step in progress."""

import pytest
from simulate.by_hand import in_ms, one, scenario, split, use_timer

from tetrisim.simulate import simulate

# A decode step over S cached tokens takes 10 + 0.1 S ms, a prefill of c tokens 10 ms. After a prompt of 10 tokens at
# t = 0 the steps of a single request take 11.0, 11.1, 11.2, ... ms and end at 10 + 11.0 = 21.0, 32.1, 43.3, 54.6, ...
ENDS = [10.0]
for step in range(10):
    ENDS.append(round(ENDS[-1] + 11.0 + 0.1 * step, 9))


@pytest.fixture
def run(monkeypatch, tmp_path):
    use_timer(monkeypatch, token_s=0.0, context_s=1e-4)
    return lambda requests, exact=False, **document: simulate(scenario(tmp_path, requests, **document), exact)


def test_the_steps_of_a_window_grow_with_the_context(run):
    assert ENDS[-1] == 10 + 10 * (11.0 + 11.9) / 2
    assert in_ms(run([(0, 10, 11)], **one("vllm-v0")), "finish_s") == [ENDS[-1]]


@pytest.mark.parametrize(
    ("arrival", "joins"),
    [(10.001, ENDS[1]), (20.999, ENDS[1]), (21, ENDS[1]), (21.001, ENDS[2]), (32.1, ENDS[2]), (43.3, ENDS[3]),
     (45, ENDS[4]), (54.599999, ENDS[4]), (54.6, ENDS[4]), (54.600001, ENDS[5]), (112, ENDS[9]), (ENDS[9], ENDS[9])],
)  # fmt: skip
@pytest.mark.parametrize("exact", [False, True])
def test_an_arrival_joins_at_the_end_of_the_step_in_progress(run, arrival, joins, exact):
    result = run([(0, 10, 11), (arrival, 5, 1)], exact, **one("vllm-v0"))
    assert in_ms(result, "prefill_start_s")[1] == joins
    assert in_ms(result, "finish_s")[1] == joins + 10
    # the first request loses the 10 ms of that prefill, and goes on where it was
    assert in_ms(result, "finish_s")[0] == ENDS[-1] + 10


def test_two_arrivals_in_one_step_join_together(run):
    result = run([(0, 10, 11), (45, 5, 1), (50, 6, 1)], **one("vllm-v0"))
    assert in_ms(result, "prefill_start_s")[1:] == [ENDS[4], ENDS[4]]


def test_an_arrival_without_a_seat_changes_nothing(run):
    alone = run([(0, 10, 11)], **one("vllm-v0", max_num_seqs=1))
    result = run([(0, 10, 11), (45, 5, 1)], **one("vllm-v0", max_num_seqs=1))
    assert in_ms(result, "finish_s")[0] == in_ms(alone, "finish_s")[0] == ENDS[-1]
    assert in_ms(result, "prefill_start_s")[1] == ENDS[-1]


def test_kv_that_arrives_in_the_middle_of_a_window_joins_at_the_end_of_the_step(run):
    # Prompts of 10 and 5 tokens arrive together; each takes a chunk of 10 ms, then 2 + 10 and 2 + 5 ms on the link.
    rows = [(0, 10, 11), (5, 5, 2)]
    result = run(rows, **split(prefill={"chunk_tokens": 10}))
    assert in_ms(result, "transfer_end_s") == [22, 29]
    assert in_ms(result, "decode_start_s") == [22, 33]  # the first step takes 11 ms
    # 33: 10 + 0.1 (11 + 5) = 11.6 ms for the two; then the first alone over 12 tokens and more
    assert in_ms(result, "finish_s") == [round(33 + 11.6 + sum(11.2 + 0.1 * j for j in range(8)), 9), 44.6]
