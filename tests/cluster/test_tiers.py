"""KV between turns, worked by hand: a step takes 10 ms and 1 ms a token, the host link 1 ms a token, 12 layers.

A first turn of 16 tokens that shows two leaves 16 tokens in four full blocks (the last token has no KV) at 37 ms. Its
user goes on in the same tick, and asks for 20 tokens in all, 4 of them new: 14 ms of work, 14/12 ms a layer.
"""

import numpy as np
import pytest
from simulate.by_hand import KV_BYTES, in_ms, one, use_timer

from tetrisim.cluster.tiered import stalled
from tetrisim.cluster.tiers import TierStore
from tetrisim.errors import ScenarioError
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate
from tetrisim.workload.sessions import Turns
from tetrisim.workload.trace import Trace

FIRST, SECOND = (0, 0, 0, 16, 2), (0, 0, 100, 20, 1)
"""Turns as (session, milliseconds to read, to type, prompt, output)."""


@pytest.fixture(autouse=True)
def ten_ms_and_one_a_token(monkeypatch):
    use_timer(monkeypatch)


@pytest.fixture(params=[False, True], ids=["windows", "steps"])
def run(request):
    """Run turns on V1 with `tiers` beneath it, and `hints`; in host memory alone unless said."""

    def made(turns, tiers=(), hints=None, users=1, luck=0.5, pool=(), **cluster):
        session, read, typing, prompts, outputs = np.array(turns).T
        draws = np.broadcast_to(np.reshape(luck, (-1, 1)), (len(turns), 3))
        whose = Turns(session, read / 1e3, typing / 1e3, draws)
        trace = Trace("by hand", np.zeros(len(turns)), prompts, outputs, turns=whose)
        slow = f"{KV_BYTES} kB/s"
        document = one("vllm-v1", async_scheduling=False, **dict(pool))
        document["cluster"] |= {"hints": hints, **cluster}
        if tiers is not None:
            document["cluster"]["tiers"] = {"keep_on_gpu": False, "host_link": slow, "disk_read": slow, "network": slow,
                                            "network_latency": "2 ms", "writes": "free", **dict(tiers)}  # fmt: skip
        workload = {"trace": "chat-sessions", "arrivals": "closed-loop", "concurrency": users}
        return simulate(resolve({"model": "opt-125m", **document, "workload": workload}), request.param, trace=trace)

    return made


def second_ttft(result):
    return in_ms(result, "first_token_s")[1] - in_ms(result, "arrival_s")[1]


def test_users_read_type_and_ask(run):
    result = run([FIRST, (0, 5, 8, 20, 1), (1, 3, 0, 6, 1)])
    assert in_ms(result, "arrival_s") == pytest.approx([0, 37 + 13, 37 + 13 + 17 + 14 / 12 - 1 + 3], abs=1e-6)


@pytest.mark.parametrize(
    ("load", "ttft_ms"),
    [("layer", 16 + 14 / 12), ("whole", 16 + 14), ("apart", 16 + 14)],
)
def test_a_turn_waits_for_its_layers(run, load, ttft_ms):
    result = run([FIRST, SECOND], {"load": load})
    assert in_ms(result, "finish_s")[0] == 37
    assert result.request_columns["cached_tokens"].tolist() == [0, 16]
    assert second_ttft(result) == pytest.approx(ttft_ms)


def test_behind_a_fast_link_it_waits_for_the_first_layer_alone(run):
    result = run([FIRST, SECOND], {"host_link": f"{2 * KV_BYTES} kB/s"})
    assert second_ttft(result) == pytest.approx(8 / 12 + 14)


def test_what_stays_in_the_gpu_need_not_be_loaded(run):
    assert second_ttft(run([FIRST, SECOND], {"keep_on_gpu": True})) == pytest.approx(14)


def test_nothing_kept_is_computed_again(run):
    result = run([FIRST, SECOND], {"host": "0 GB", "disk": "0 GB"})
    assert second_ttft(result) == pytest.approx(30)
    assert result.request_columns["cached_tokens"].tolist() == [0, 0]


@pytest.mark.parametrize(("typing", "ttft_ms"), [(100, 14), (16, 14), (4, 14), (2, 14 + 14 / 12), (0, 16 + 14 / 12)])
def test_a_hint_brings_it_while_the_user_types(run, typing, ttft_ms):
    result = run([FIRST, (0, 100, typing, 20, 1)], hints={})
    assert second_ttft(result) == pytest.approx(ttft_ms)


def test_an_oracle_knows_from_the_beginning_of_the_pause(run):
    result = run([FIRST, (0, 100, 0, 20, 1)], hints={"lead": "pause"})
    assert second_ttft(result) == pytest.approx(14)


def test_a_missed_hint_helps_nobody(run):
    assert second_ttft(run([FIRST, SECOND], hints={"missed": 0.51})) == pytest.approx(16 + 14 / 12)
    assert second_ttft(run([FIRST, SECOND], hints={"missed": 0.5})) == pytest.approx(14)  # the luck is 0.5


def test_from_the_disk_it_comes_over_the_disks_link(run):
    tiers = {"host": "0 GB", "disk_read": f"{KV_BYTES / 2} kB/s"}
    assert second_ttft(run([FIRST, SECOND], tiers)) == pytest.approx(32 + 14 / 12)


def test_a_hint_raises_it_from_disk_to_host_to_gpu(run):
    """Room in the host for one session of 16 tokens: a second one sends the first to the disk."""
    turns = [FIRST, (0, 0, 500, 20, 1), (1, 0, 100, 16, 2)]
    room = {"host": f"{17 * KV_BYTES} B"}
    assert second_ttft(run(turns, room, users=2)) == pytest.approx(16 + 14 / 12)  # straight from the disk
    for typing, ttft_ms in ((500, 14), (17, 15 + 14 / 12)):  # 16 ms to the host, 1 of 16 to the GPU
        turns[1] = (0, 500 - typing, typing, 20, 1)
        assert second_ttft(run(turns, room, {}, users=2)) == pytest.approx(ttft_ms)


def test_another_instance_pulls_it_over_the_network(run):
    both = {"pool": {"instances": 2}, "route": "round-robin"}
    result = run([FIRST, SECOND], **both)
    assert result.requests.prefill_instance.tolist() == ["hybrid-0", "hybrid-1"]
    assert second_ttft(result) == pytest.approx(2 + 16 + 14 / 12)
    assert second_ttft(run([FIRST, SECOND], {"remote": False}, **both)) == pytest.approx(30)
    for keep in (False, True):
        assert second_ttft(run([FIRST, SECOND], {"keep_on_gpu": keep}, {}, **both)) == pytest.approx(14)
    # 2 + 16 ms to the other host, then 16 to its GPU, of which the last 14 are left to wait for
    assert second_ttft(run([FIRST, (0, 70, 20, 20, 1)], hints={}, **both)) == pytest.approx(14 + 14 / 12)


def to_0_1_0_2(view, request, rng):
    """A route policy: the first turns of two sessions to one instance, their second turns to two others."""
    return (0, 1, 0, 2)[request.id]


def test_two_who_pull_from_one_instance_share_its_port(run):
    """2 + 16 ms over the network and 16 to the GPU; the second waits 18 ms for the sender's port."""
    turns = [FIRST, (0, 200, 0, 20, 1), (1, 0, 0, 16, 2), (1, 200, 0, 20, 1)]
    cluster = {"pool": {"instances": 3}, "route": f"{__name__}:to_0_1_0_2"}
    result = run(turns, {"load": "apart"}, users=2, **cluster)
    ttft = [
        first - came for first, came in zip(in_ms(result, "first_token_s"), in_ms(result, "arrival_s"), strict=True)
    ]
    assert [ttft[1], ttft[3]] == pytest.approx([34 + 14, 18 + 34 + 14])


ASKED: list[int] = []
"""What `in_turn` answers, from the last to the first."""


def in_turn(view, request, rng):
    """A route policy that says something else each time it is asked."""
    return ASKED.pop()


def test_what_is_called_to_the_wrong_instance_is_called_off(run):
    """A hint has it pulled to instance 1 and is forgotten; 10 ms later, 8 early, the turn comes to instance 2."""
    ASKED[:] = [2, 1, 0]
    cluster = {"pool": {"instances": 3}, "route": f"{__name__}:in_turn"}
    result = run([FIRST, (0, 200, 10, 20, 1)], {"load": "apart"}, {"expire": "2 ms"}, **cluster)
    assert result.requests.prefill_instance.tolist() == ["hybrid-0", "hybrid-2"]
    assert second_ttft(result) == pytest.approx(2 + 16 + 16 + 14)


def test_what_decodes_take_for_a_while_is_lost_to_who_waits(run):
    """Ten blocks, four of them kept; another's context grows from 16 to 33 tokens, nine blocks, and goes."""
    turns = [FIRST, (0, 0, 900, 20, 1), (1, 0, 100, 16, 18)]
    tiers = {"keep_on_gpu": True, "host": "0 GB", "disk": "0 GB"}
    for blocks, found in ((13, 16), (10, 0)):
        result = run(turns, tiers, users=2, pool={"kv_blocks": blocks})
        assert result.request_columns["cached_tokens"].tolist() == [0, found, 0]


def test_whoever_comes_back_stays_where_it_was_under_sticky_routing(run):
    turns = [FIRST, SECOND, (1, 0, 90, 16, 200)]
    result = run(turns, users=2, pool={"instances": 2}, route="session-sticky")
    assert result.requests.prefill_instance.tolist() == ["hybrid-0", "hybrid-0", "hybrid-0"]


def test_two_at_once_share_the_link(run):
    """Both hints at the same moment, 20 ms ahead: the first is loaded in 16 ms, the second in 32."""
    late = (0, 200, 20, 20, 1)
    turns = [FIRST, late, (1, 0, 0, 16, 2), (1, *late[1:])]
    result = run(turns, {"load": "apart"}, {}, users=2)
    first, second = (in_ms(result, "arrival_s")[place] for place in (1, 3))
    assert first == second
    # 20 ms after the hints both come; the first joins a step at once, the second when it is there, 12 ms later
    assert in_ms(result, "prefill_start_s")[1] == first
    assert in_ms(result, "first_token_s")[1] == pytest.approx(first + 14)
    assert in_ms(result, "first_token_s")[3] == pytest.approx(first + 14 + 14)


def test_hinted_kv_never_takes_a_block_that_a_request_wants(run):
    """Ten blocks: a hinted session's four, free as they are, are gone when a prompt of 40 tokens wants all ten."""
    turns = [FIRST, (0, 20, 100, 20, 1), (1, 100, 0, 32, 8)]
    alone = run([(1, 100, 0, 32, 8)], hints={}, pool={"kv_blocks": 10})
    result = run(turns, hints={}, users=2, pool={"kv_blocks": 10})
    took = [in_ms(found, "finish_s")[-1] - in_ms(found, "arrival_s")[-1] for found in (alone, result)]
    assert took[0] == pytest.approx(took[1])
    assert result.request_columns["cached_tokens"].tolist() == [0, 16, 0]


def test_a_stale_choice_can_be_made_anew_at_arrival(run):
    """Bound to instance 0 by a hint, it finds three others there, of whom no hint told; instance 1 is free."""
    turns = [FIRST, (0, 0, 300, 20, 1)] + [(number, 290, 0, 16, 40) for number in (1, 2, 3)]
    where = {}
    for above in (None, 1.0):
        cluster = {"pool": {"instances": 2}, "route": f"{__name__}:turns_to_the_first"}
        result = run(turns, hints={"missed": 0.1, "rebind_above": above}, users=4, luck=[1, 1, 0, 0, 0], **cluster)
        where[above] = result.requests.prefill_instance.tolist()
    assert where[None] == ["hybrid-0"] * 5
    assert where[1.0] == ["hybrid-0", "hybrid-1", *["hybrid-0"] * 3]


def turns_to_the_first(view, request, rng):
    """A route policy that ignores load."""
    return 0


def test_spurious_hints_are_about_sessions_that_are_over(run, monkeypatch):
    """One for each true one: the ended session's KV is brought to the GPU, and nobody is later for it."""
    turns = [(0, 0, 0, 16, 2), (1, 200, 20, 16, 2), (1, 200, 100, 20, 1)]
    told, call = [], TierStore.call
    monkeypatch.setattr(TierStore, "call", lambda store, number, turn, now: told.append(turn.session)
                        or call(store, number, turn, now))  # fmt: skip
    right = in_ms(run(turns, hints={}), "finish_s")
    assert told == [0, 1, 1]
    told.clear()
    assert in_ms(run(turns, hints={"spurious": 0.5, "expire": "150 ms"}), "finish_s") == right
    assert told == [0, 0, 1, 0, 1]  # none before a session is over


@pytest.mark.parametrize(
    ("stalls", "whole", "ticks"),
    [
        ([(1, 0), (4, 0)], False, 40),
        ([(1, 15), (4, 15)], False, 15 + 40),  # all of it from the first layer on
        ([(2, 15), (4, 15)], False, 15 + 30),
        ([(1, 10), (4, 40)], False, 50),  # layer by layer just in time
        ([(1, 10), (4, 100)], False, 110),
        ([(1, 10), (4, 100)], True, 140),
        ([(1, -10), (4, -1)], True, 40),
    ],
)
def test_a_step_of_four_layers(stalls, whole, ticks):
    assert stalled(40, 0, stalls, 4, whole) == ticks


@pytest.mark.parametrize(
    ("change", "where", "expected"),
    [
        ({"hints": {}}, "cluster.hints", "tiers"),
        ({"tiers": {}, "migrate": {"policy": "balance"}}, "cluster.", "without"),
        ({"tiers": {"load": "layers"}}, "cluster.tiers.load", "layer, whole, apart"),
        ({"tiers": {"host": "-1 GB"}}, "cluster.tiers.host", "at least 0"),
        ({"tiers": {"network": "0 GB/s"}}, "cluster.tiers.network", "more than 0"),
        ({"tiers": {}, "hints": {"missed": 1.5}}, "cluster.hints.missed", "from 0 to 1"),
        ({"tiers": {}, "hints": {"spurious": 1.0}}, "cluster.hints.spurious", "from 0 to 0.99"),
        ({"tiers": {}, "hints": {"rebind_above": 0.5}}, "cluster.hints.rebind_above", "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(change, where, expected):
    with pytest.raises(ScenarioError) as caught:
        resolve({"model": "opt-125m", "system": "vllm-v1", "cluster": {"gpu": "l40s", **change}})
    assert caught.value.where.startswith(where)
    assert expected in caught.value.expected


@pytest.mark.parametrize(
    ("workload", "where", "expected"),
    [
        ({"arrivals": "trace", "concurrency": None}, "workload.arrivals", "closed-loop"),
        ({"trace": "mixed", "sessions": {}}, "workload.sessions", "chat-sessions"),
        ({"think": "1 s"}, "workload.think", "0"),
        ({"sessions": {"turns": 0.5}}, "workload.sessions.turns", "at least 1"),
    ],
)
def test_sessions_that_cannot_be_are_refused(workload, where, expected):
    chats = {"trace": "chat-sessions", "arrivals": "closed-loop", "concurrency": 2, **workload}
    with pytest.raises(ScenarioError) as caught:
        resolve({"model": "opt-125m", "workload": chats, "cluster": {"gpu": "l40s"}})
    assert caught.value.where == where
    assert expected in caught.value.expected
