"""The least loaded instance, found in O(log n), against looking at all of them; and routing as a whole."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate.by_hand import in_ms, one, scenario, split, use_timer

from tetrisim.cluster.scheduler import LoadIndex
from tetrisim.simulate import simulate


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.booleans()), max_size=300))
def test_the_index_finds_the_first_of_the_least_loaded(count, changes):
    index = LoadIndex([SimpleNamespace(number=10 + member) for member in range(count)])
    loads = [0] * count
    assert index.count == count
    for where, load, up in changes:
        member = index.least_loaded() if where % 2 else where % count
        if up:
            index.grow(member, load)
            loads[member] += load
        else:
            load = min(load, loads[member])
            index.shrink(10 + member, load)
            loads[member] -= load
        assert index.least_loaded() == loads.index(min(loads))
        assert [index.load(each) for each in range(count)] == loads


def test_members_that_stay_keep_their_load():
    one, two, three = (SimpleNamespace(number=number) for number in range(3))
    index = LoadIndex([one, two])
    index.grow(0, 5)
    index.grow(1, 3)
    index.change([two, three])
    assert [index.load(member) for member in range(index.count)] == [3, 0]
    assert index.least_loaded() == 1


@pytest.fixture
def clear_times(monkeypatch):
    use_timer(monkeypatch)


def test_prefill_load_is_counted_in_prompt_tokens(clear_times, tmp_path):
    # The long prompt keeps the first instance loaded with 64 tokens until it is done; three short ones go to the other.
    rows = [(0, 64, 1), (1, 16, 1), (2, 16, 1), (3, 16, 1), (4, 16, 1), (5, 16, 1)]
    result = simulate(scenario(tmp_path, rows, **split(prefill={"instances": 2})))
    # loads seen: (0,0) (64,0) (64,16) (64,32) (64,48) (64,64): a tie goes to the first
    assert result.requests.prefill_instance.str[-1].astype(int).tolist() == [0, 1, 1, 1, 1, 0]


def test_hybrid_load_is_counted_in_unfinished_requests(clear_times, tmp_path):
    machines = one("vllm-v1", instances=2)
    result = simulate(scenario(tmp_path, [(0, 64, 30), (1, 1, 1), (30, 1, 1), (31, 1, 1), (32, 1, 1)], **machines))
    # loads seen: (0,0) (1,0) (1,0) since the second has finished at 12 ms, (1,1), (2,1)
    assert in_ms(result, "finish_s")[1] == 12
    assert result.requests.prefill_instance.str[-1].astype(int).tolist() == [0, 1, 1, 0, 1]
