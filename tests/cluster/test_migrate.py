"""Running requests move between instances: worked by hand, and in random worlds where everybody moves all the time."""

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from laws.test_conservation import check_laws, check_lives, run
from laws.worlds import assembled, rows, worlds
from simulate.by_hand import KV_BYTES, in_ms, scenario, use_timer

from tetrisim.cluster.batch import DecodeBatch
from tetrisim.cluster.request import Request
from tetrisim.errors import ScenarioError
from tetrisim.metrics.breakdown import breakdown
from tetrisim.metrics.definitions import e2el
from tetrisim.policies.migration import balance, defragment, flow
from tetrisim.policies.registry import POLICIES
from tetrisim.scenario.control import MigrateSpec
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate

MANY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
MOVERS = "laws.movers"


@st.composite
def restless(draw):
    """A world in which moves begin every millisecond, over links that take a step or several for a copy."""
    migrate = {
        "policy": draw(st.sampled_from([f"{MOVERS}:in_turn", f"{MOVERS}:once"])),
        "period": draw(st.sampled_from(["1 ms", "2 ms", "7 ms"])),
        "mode": draw(st.sampled_from(["live", "live", "stop"])),
        "last_blocks": draw(st.sampled_from([0, 1, 4])),
        "stages": draw(st.sampled_from([1, 3, 20])),
        "at_once": draw(st.sampled_from([1, 3])),
        "bandwidth": draw(st.sampled_from(["100 MB/s", "1 GB/s", "30 GB/s"])),
    }
    system = draw(st.sampled_from(["llumnix", "llumnix", "vllm-v0", "tetriinfer"]))
    pool = {"instances": draw(st.sampled_from([2, 3])), "async_scheduling": False}
    cluster = {"migrate": migrate, "flip": {"policy": "never"}}
    return draw(worlds(system, {"hybrid": pool, "decode": {"instances": 2}, "cluster": cluster}))


@MANY
@given(restless())
def test_windows_and_single_steps_give_the_same_rows_whoever_moves(document):
    check_laws(document)


@MANY
@given(restless(), st.booleans())
def test_whoever_moves_memory_stays_within_bounds_and_is_given_back(document, exact_steps):
    with assembled() as clusters:
        result = run(document, exact_steps)
    if result is None:
        return
    for instance in clusters[0].instances:
        engine = instance.engine
        assert engine.idle
        engine.kv.check()
        assert engine.kv.free == engine.kv.capacity
        assert instance.assigned == 0
    check_lives(rows(result))
    moves = result.move_columns
    for outcome in ("moved", "finished", "preempted", "no room", "recomputed"):
        event(f"{outcome}: {(moves['outcome'] == outcome).any()}")
    moved = moves["outcome"] == "moved"
    assert not np.isnan(moves["stop_s"][moved]).any()
    assert (moves["end_s"] >= moves["start_s"]).all()
    parts = breakdown(result)
    assert sum(parts.values()) == pytest.approx(e2el(result.request_columns), abs=1e-12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds("llumnix"))
def test_without_moves_and_its_dispatch_llumnix_is_v1(document):
    off = {"route": "least-loaded", "migrate": {"policy": "never"}}
    pools = [{**pool, "async_scheduling": False} for pool in document["cluster"]["pools"]]
    cluster = {**document["cluster"], "pools": pools}
    own = outcome({**document, "cluster": {**cluster, **off}})
    assert own == outcome({**document, "system": "vllm-v1", "cluster": cluster})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds("llumnix", {"cluster": {"migrate": {"policy": f"{MOVERS}:nobody", "period": "1 ms"}}}))
def test_a_policy_that_moves_nobody_changes_nothing(document):
    """The engines that could let requests go, and a tick a millisecond, against the plain ones without a tick."""
    plain = {**document["cluster"], "migrate": {"policy": "never"}}
    assert outcome(document) == outcome({**document, "cluster": plain})


def outcome(document):
    try:
        return rows(simulate(resolve(document)))
    except ScenarioError as error:
        return str(error)


@st.composite
def flowing(draw):
    """A small world of TaiChi: large chunks and small ones, memory often full, every other request late."""
    document = draw(worlds("taichi", {"hybrid": {"instances": 1, "async_scheduling": False}}))
    [pool] = document["cluster"]["pools"]
    seats = min(pool["max_num_seqs"], 8)
    pools = [{**pool, "max_num_seqs": seats, "max_num_batched_tokens": budget} for budget in (64, 8)]
    pools[draw(st.integers(0, 1))]["instances"] = 2
    migrate = {"period": "2 ms", "full": draw(st.sampled_from([0.3, 0.7])), "late": 0.5,
               "at_first_token": draw(st.booleans())}  # fmt: skip
    document["cluster"] |= {"pools": pools, "migrate": migrate}
    document["slo"] = {"ttft": "10 ms", "tpot": draw(st.sampled_from(["1 ms", "20 ms"]))}
    return document


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(flowing())
def test_windows_and_single_steps_give_the_same_rows_while_decodes_flow(document):
    check_laws(document)
    result = run(document)
    if result is not None:
        event(f"moved: {(result.move_columns['outcome'] == 'moved').any()}")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds("taichi"))
def test_without_kinds_and_moves_taichi_is_v1(document):
    off = {"route": "least-loaded", "migrate": {"policy": "never"}}
    pools = [{**pool, "async_scheduling": False} for pool in document["cluster"]["pools"]]  # one budget for both kinds
    cluster = {**document["cluster"], "pools": pools}
    own = outcome({**document, "cluster": {**cluster, **off}})
    assert own == outcome({**document, "system": "vllm-v1", "cluster": cluster})


class Member:
    """A MemberView with the requests that it decodes, as (blocks, tokens shown, share of the TPOT limit)."""

    def __init__(self, chunk_tokens, free_blocks, *decodes, waiting=0, capacity_blocks=100):
        self.chunk_tokens, self.free_blocks, self.capacity_blocks = chunk_tokens, free_blocks, capacity_blocks
        self._decodes = [Running(*each) for each in decodes]
        self.requests, self.preempted, self._waiting = len(decodes) + (waiting > 0), False, waiting

    def decodes(self):
        return self._decodes

    def waiting_blocks(self):
        return self._waiting


class Running:
    def __init__(self, blocks, shown=5, tpot_share=0.1):
        self.blocks, self.shown, self.tpot_share = blocks, shown, tpot_share


def chosen(policy, members, **spec):
    """Moves as (blocks of the request, from, to)."""
    return [(who.blocks, source, target) for who, source, target in policy(members, MigrateSpec(**spec))]


def test_balance_moves_the_shortest_where_the_difference_shrinks():
    # Virtual loads: -5/2, -60/1, -80/1. The fullest with the emptiest: 5 blocks go to the third.
    members = [Member(64, 5, (30,), (5,)), Member(64, 60, (40,)), Member(64, 80, (20,))]
    assert chosen(balance, members) == [(5, 0, 2)]
    # Those who wait have taken theirs already: 12 free, 10 wanted, three requests.
    assert chosen(balance, [Member(64, 12, (30,), (5,), waiting=10), Member(64, 80, (20,))]) == [(5, 0, 1)]
    assert chosen(balance, [Member(64, 12, (30,), (5,)), Member(64, 80, (20,))]) == []
    # Nobody at all is the emptiest.
    assert chosen(balance, [Member(64, 5, (30,), (5,)), Member(64, 80, (20,)), Member(64, 100)]) == [(5, 0, 2)]
    # Loads of -32/2 and -60/1 would become -62/1 and -30/2: the difference would turn round.
    assert chosen(balance, [Member(64, 32, (38,), (30,)), Member(64, 60, (40,))], low_blocks=20) == []
    # The only request of a full instance would only change places.
    assert chosen(balance, [Member(64, 2, (98,)), Member(64, 98, (2,))]) == []


def test_defragmenting_makes_room_for_the_first_that_waits():
    """It wants 10 blocks: the first instance has 4 beside three decodes, -(4 - 10) / 4 = 1.5 of load, the second 40."""

    def member(free, *decodes, wants=0, preempted=False):
        made = Member(64, free, *decodes)
        made.decoding, made.preempted, made.first_waiting_blocks = len(decodes), preempted, lambda: wants
        return made

    full = member(4, (30,), (8,), (12,), wants=10)
    others = [member(40, (20,)), member(60, (20,))]
    assert chosen(defragment, [full, *others], low_blocks=0) == [(8, 0, 2)]
    assert chosen(defragment, [others[0], full], low_blocks=0) == [(8, 1, 0)]
    assert chosen(defragment, [member(14, (8,), wants=10), *others], low_blocks=0) == [], "there is room"
    assert chosen(defragment, [member(14, (8,), wants=10), *others], low_blocks=3) == [(8, 0, 2)], "of 2 each"
    assert chosen(defragment, [member(50, (8,), preempted=True), *others], low_blocks=0) == [(8, 0, 2)]
    assert chosen(defragment, [member(4, wants=10), *others], low_blocks=0) == [], "nobody can leave"


def test_decodes_flow_to_small_chunks_and_the_longest_back_when_memory_is_full():
    first, late = (10, 1, 0.0), (20, 50, 0.97)
    members = [Member(64, 50, first, late, (30, 9, 0.5)), Member(8, 62), Member(8, 70)]
    # Room at 95 %: 57 and 65. The first token's goes to the emptier, which then has 55, so the late one to the other.
    assert chosen(flow, members) == [(10, 0, 2), (20, 0, 1)]
    # One of small chunks at 98 %: 3 blocks too many; the longest answer goes, and one is enough.
    members = [Member(64, 50), Member(8, 2, (40, 100, 0.5), (10, 300, 0.5), (20, 200, 0.5), (28, 9, 0.5))]
    assert chosen(flow, members) == [(10, 1, 0)]
    assert chosen(flow, [Member(64, 50, first), Member(64, 50)]) == []


def two(migrate, **pool):
    """Two hybrid instances of vLLM V1, blocks of 4 tokens; the link takes 1 ms and 1 ms a token."""
    settings = {"role": "hybrid", "instances": 2, "block_tokens": 4, "kv_blocks": 100, "max_num_seqs": 8,
                "max_num_batched_tokens": 100, "async_scheduling": False, **pool}  # fmt: skip
    link = {"bandwidth": f"{KV_BYTES} kB/s", "latency": "1 ms"}
    cluster = {"gpu": "l40s", "route": "round-robin", "pools": [settings],
               "migrate": {"policy": f"{MOVERS}:once", "period": "1 s", "last_blocks": 0, **link, **migrate},
               }  # fmt: skip
    return {"system": "vllm-v1", "cluster": cluster}


@pytest.fixture(params=[False, True], ids=["windows", "steps"])
def run_by_hand(request, tmp_path, monkeypatch):
    use_timer(monkeypatch, token_s=0.0)  # every step takes 10 ms
    return lambda requests, **document: simulate(scenario(tmp_path, requests, **document), request.param)


def moves(result):
    columns = result.move_columns
    moments = [[None if at != at else round(at * 1e3, 6) for at in columns[name].tolist()]
               for name in ("start_s", "stop_s", "end_s")]  # fmt: skip
    return list(zip(*moments, *(columns[name].tolist() for name in ("stages", "tokens", "outcome")), strict=True))


def test_a_live_migration_by_hand(run_by_hand):
    # Prompt of 20 tokens; token 1 at 10 ms, then one each 10 ms. At 1000 ms the step that ends then has not ended:
    # 99 tokens are shown, 98 of them with KV, so 118 are copied first: until 1119 ms. Then 130 tokens have KV, and 12
    # more are copied until 1132 ms. In stage 3 it stops with the step that ends at 1140 ms, with 114 tokens shown and
    # 133 with KV; the last 3 take 4 ms. The other instance is at rest and starts at once.
    result = run_by_hand([(0, 20, 200)], **two({}))
    assert moves(result) == [(1000, 1140, 1144, 3, 133, "moved")]
    assert in_ms(result, "finish_s") == [2004]
    assert in_ms(result, "lost_decode_s") == [4]
    assert result.instances.steps.tolist() == [114, 86]
    assert result.instances.last_work_s.tolist() == pytest.approx([1.14, 2.004])


def test_what_a_policy_sees_of_who_decodes(run_by_hand, monkeypatch):
    # As above at 1000 ms: 118 tokens in blocks of 4, 99 shown, the 98 after the first in 990 ms of the 20 ms each.
    seen = []

    def look(members, spec):
        seen.extend((who.blocks, who.shown, who.tpot_share) for who in members[0].decodes())
        return []

    monkeypatch.setitem(POLICIES["migrate"], "balance", look)
    run_by_hand([(0, 20, 101)], slo={"tpot": "20 ms"}, **two({"policy": "balance"}))
    assert seen == [(30, 99, pytest.approx(990 / 98 / 20))]


def test_stop_and_copy_by_hand(run_by_hand):
    # Told at 1000 ms, it stops with the step that ends then: 100 tokens shown, 119 with KV, all copied until 1120 ms.
    result = run_by_hand([(0, 20, 200)], **two({"mode": "stop"}))
    assert moves(result) == [(1000, 1000, 1120, 1, 119, "moved")]
    assert in_ms(result, "finish_s") == [2120]
    assert in_ms(result, "lost_decode_s") == [120]


LIMITS = {"stages": 9, "last_blocks": 1}
ROOMY = {"kv_blocks": 300, "max_num_batched_tokens": 400}


def test_the_stop_of_a_live_migration_does_not_grow_with_the_context(run_by_hand):
    stops = {mode: [] for mode in ("live", "stop")}
    for mode, found in stops.items():
        for prompt in (20, 300):
            result = run_by_hand([(0, prompt, 200)], **two({**LIMITS, "mode": mode}, **ROOMY))
            found.append(in_ms(result, "lost_decode_s")[0])
    assert stops["live"][0] <= 10 and stops["live"][1] <= 10
    assert stops["stop"][1] - stops["stop"][0] == pytest.approx(280)


def test_a_request_that_finishes_while_it_is_copied_stays(run_by_hand):
    # 105 tokens: the last at 1050 ms, in the middle of the first copy. The second request then finds the link free.
    result = run_by_hand([(0, 20, 105), (1500, 4, 80)], **two({}))
    assert moves(result)[0] == (1000, None, 1050, 1, 118, "finished")
    assert in_ms(result, "finish_s")[0] == 1050


def test_without_room_at_the_destination_nobody_leaves(run_by_hand):
    # At 1000 ms the other one holds 398 of its 400 tokens.
    result = run_by_hand([(0, 20, 150), (0, 300, 101)], **two({}, max_num_batched_tokens=400))
    assert moves(result) == []
    assert in_ms(result, "finish_s") == [1500, 1010]


def test_a_destination_that_runs_out_sends_nobody_to_recompute(run_by_hand):
    # At 1000 ms the other one holds 269 tokens in 68 of 102 blocks, and keeps 30 for the 118 tokens to come. At 1119 ms
    # it holds 281 in 71, so one block is left where three more are wanted: the request goes on where it is.
    result = run_by_hand([(0, 20, 150), (0, 172, 200)], **two({}, kv_blocks=102))
    assert moves(result) == [(1000, None, 1119, 2, 118, "no room")]
    assert in_ms(result, "finish_s")[0] == 1500
    assert result.requests.preemptions.tolist() == [0, 0]


def test_blocks_held_for_one_that_comes_are_not_there_for_those_who_run(run_by_hand):
    # As above, but the copy is under way for more than a second. Of 102 blocks 30 are held, so the other request can
    # have 72: with 288 tokens of KV, 117 shown, it is preempted. At 1500 ms the first one has finished where it was, so
    # its blocks are free: the other's 289 tokens are computed again in 3 steps, which show the 118th of 200.
    result = run_by_hand([(0, 20, 150), (0, 172, 200)], **two({"latency": "1 s"}, kv_blocks=102))
    assert moves(result) == [(1000, None, 1500, 1, 118, "finished")]
    assert result.requests.preemptions.tolist() == [0, 1]
    assert in_ms(result, "finish_s") == [1500, 1500 + 30 + 820]


def test_what_a_step_does_elsewhere_comes_after_all_that_ends_with_it(run_by_hand):
    # In lock step. The second request is copied to the first instance from 1000 ms on and finishes at 1050 ms, so 30
    # blocks are free there: for the third, which wants 50 of 39. The step that begins at 1050 ms is planned by then.
    rows = [(0, 20, 300), (0, 20, 105), (1010, 200, 1)]
    result = run_by_hand(rows, **two({"policy": f"{MOVERS}:back"}))
    assert moves(result) == [(1000, None, 1050, 1, 118, "finished")]
    assert in_ms(result, "prefill_start_s")[2] == 1060
    assert in_ms(result, "first_token_s")[2] == 1090  # beside a decode, 99 tokens a step


def test_a_batch_forgets_who_has_left_for_another_one():
    """By chance it is to finish there with the same step as it would have here: this batch must not let it finish."""
    here, there = DecodeBatch(4), DecodeBatch(4)
    stays, goes = Request(0, 0, 8, 6, 0), Request(1, 0, 8, 10, 0)
    for sequence, request in enumerate((stays, goes)):
        request.generated, request.sequence = 1, sequence
        here.join(request, 8)
    here.advance(2)
    there.advance(2)
    context = here.leave(goes)
    here.forget(goes)
    there.join(goes, context)
    assert goes.finish_step == 9
    here.advance(3)
    assert here.finished() == [stays]
    here.advance(4)
    assert here.finished() == []
    there.advance(7)
    assert there.finished() == [goes]


def test_combinations_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ScenarioError, match="async_scheduling"):
        resolve({"model": "opt-125m", **two({}, async_scheduling=True)})
    with pytest.raises(ScenarioError, match="stages"):
        resolve({"model": "opt-125m", **two({"stages": 0})})
