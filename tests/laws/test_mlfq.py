"""FastServe: served time decides who runs, worked by hand; and with room for all it is a plain engine."""

import pytest
from hypothesis import HealthCheck, given, settings
from laws.worlds import rows, worlds
from simulate.by_hand import in_ms, one, scenario, use_timer

from tetrisim.cluster.mlfq import Levels
from tetrisim.errors import ScenarioError
from tetrisim.scenario.load import load, override, resolve
from tetrisim.scenario.preempt import MlfqSpec
from tetrisim.simulate import simulate

SOME = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def outcome(document):
    """The rows of a run, or why there are none."""
    try:
        return rows(simulate(resolve(document)))
    except ScenarioError as error:
        return str(error)


@SOME
@given(worlds("fastserve"))
def test_with_room_for_all_it_is_the_plain_engine(document):
    document["workload"].pop("classes", None)

    def runs(**own):
        roomy = {"kv_blocks": 20_000, "max_num_seqs": 64, "max_num_batched_tokens": 20_000, "watermark": 0.0}
        pools = [{**pool, **roomy, **own} for pool in document["cluster"]["pools"]]
        return outcome({**document, "cluster": {**document["cluster"], "pools": pools}})

    assert runs() == runs(mlfq=None, queue="fcfs")


def run(tmp_path, monkeypatch, asked, **pool):
    """A step takes 10 ms and 1 ms a token."""
    use_timer(monkeypatch)
    mlfq = {"quantum": "20 ms", **pool.pop("mlfq", {})}
    made = scenario(tmp_path, asked, **one("fastserve", **{"max_num_seqs": 1, "mlfq": mlfq, **pool}))
    result = simulate(made)
    assert rows(result) == rows(simulate(made, exact_steps=True))
    return result


def test_whoever_has_used_up_a_quantum_makes_way(tmp_path, monkeypatch):
    result = run(tmp_path, monkeypatch, [(0, 5, 8), (16, 1, 3)])
    # 0-15 the first prompt, 15-26 a decode: it has had 26 ms and is at level 1, which ends at 60. 26-37 the second's
    # prompt, 37-48 a decode: 22 ms, level 1, and the first came earlier. Four decodes to 92: 70 ms, level 2. 92-103 the
    # second's last; 103-125 the first's last two.
    assert in_ms(result, "first_token_s") == [15, 37]
    assert in_ms(result, "finish_s") == [125, 103]
    assert result.request_columns["preemptions"].tolist() == [2, 1]
    assert in_ms(result, "lost_decode_s") == [22 + 11, 44]


def test_a_long_prompt_enters_at_the_level_of_its_length(tmp_path, monkeypatch):
    # 70 tokens take 80 ms, so the second enters at level 2. The first is there, too, from 60 ms on, and came earlier.
    # It goes on until it has had 140 ms, with the step that ends at 15 + 12 * 11.
    result = run(tmp_path, monkeypatch, [(0, 5, 20), (1, 70, 1)])
    assert in_ms(result, "prefill_start_s") == [0, 147]


def test_whoever_has_starved_comes_first(tmp_path, monkeypatch):
    # As above, but 50 ms after it came the second is at level 0: it starts with the step after that of 48 to 59.
    result = run(tmp_path, monkeypatch, [(0, 5, 20), (1, 70, 1)], mlfq={"starvation": "50 ms"})
    assert in_ms(result, "prefill_start_s") == [0, 59]


@pytest.mark.parametrize(("preemption", "again"), [("swap", 0), ("recompute", 1)])
def test_memory_is_taken_from_those_who_do_not_run(tmp_path, monkeypatch, preemption, again):
    # Six blocks of 4 tokens: 12 and 8 prompt tokens do not leave room for both to grow.
    asked = [(0, 12, 12), (1, 8, 3)]
    result = run(tmp_path, monkeypatch, asked, kv_blocks=6, max_num_seqs=2, preemption=preemption)
    assert (result.request_columns["status"] == "completed").all()
    assert result.request_columns["recomputations"].sum() == again
    assert result.request_columns["preemptions"].sum() > 0


def test_levels_double():
    levels, ms = Levels(MlfqSpec(quantum_s=0.01)), 10**12  # levels end at 10, 30, 70, 150, ... ms
    assert [levels.entry(length * ms) for length in (1, 10, 11, 20, 21, 40, 41)] == [0, 0, 1, 1, 2, 2, 3]
    assert [levels.at(0, served * ms) for served in (0, 9, 10, 29, 30, 69, 70)] == [
        (0, 10 * ms), (0, 10 * ms), (1, 30 * ms), (1, 30 * ms), (2, 70 * ms), (2, 70 * ms), (3, 150 * ms)]  # fmt: skip
    assert levels.at(2, 0) == (2, 40 * ms) and levels.at(2, 40 * ms) == (3, 120 * ms)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("async_scheduling", True, "without async_scheduling"), ("queue", "fcfs", "queue 'priority'"),
     ("mlfq.quantum", "0 s", "from 1 us"), ("mlfq.ratio", 1, "more than 1")],
)  # fmt: skip
def test_what_it_cannot_do_is_refused(key, value, said):
    of = override(load("default"), {"system": "fastserve", "cluster.pools.0.mlfq": {"ratio": 2}})
    with pytest.raises(ScenarioError) as caught:
        override(of, {f"cluster.pools.0.{key}": value})
    assert said in str(caught.value)
