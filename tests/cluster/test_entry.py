"""Routing by prefixes and by predicted TTFT, prefixes from peers, and who is turned away: by hand, and as laws."""

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from laws.test_conservation import check_laws, run
from laws.worlds import assembled, rows, worlds
from simulate.by_hand import KV_BYTES, in_ms, scenario, split, use_timer

from tetrisim.cluster.kvcache import PrefixCache
from tetrisim.cluster.request import Request
from tetrisim.errors import ScenarioError
from tetrisim.policies.registry import POLICIES
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate
from tetrisim.workload.trace import Trace

SOME = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
ENTRIES = "laws.entries"


@pytest.fixture(params=[False, True], ids=["windows", "steps"])
def by_hand(request, monkeypatch):
    """Runs (arrival in ms, prompt, output, ids of 16 tokens) on Mooncake; a step takes 10 ms and 1 ms a token."""
    use_timer(monkeypatch)

    def run_it(asked, prefills=2, fetch_ms_per_token=0.25, workload=None, system="mooncake", **cluster):
        pools = [
            {"role": "prefill", "instances": prefills, "block_tokens": 16, "kv_blocks": 100},
            {"role": "decode", "block_tokens": 16, "kv_blocks": 100},
        ]
        if system == "mooncake":
            fetch = {"bandwidth": f"{KV_BYTES / fetch_ms_per_token} kB/s", "latency": "2 ms"}
            cluster["fetch"] = {**fetch, **cluster.get("fetch", {})}
        else:
            pools = [{"role": "hybrid", "instances": prefills, "block_tokens": 16, "kv_blocks": 100}]
        made = resolve({"model": "opt-125m", "system": system, "workload": workload or {},
                            "cluster": {"gpu": "l40s", "pools": pools, **cluster}})  # fmt: skip
        times, prompts, outputs, ids = zip(*asked, strict=True)
        trace = Trace("by hand", np.array(times) / 1e3, np.array(prompts), np.array(outputs), tuple(ids), 16)
        return simulate(made, request.param, trace=trace)

    return run_it


def where(result):
    return [int(name[-1]) if name else None for name in result.request_columns["prefill_instance"]]


A, B, C = (1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12)


def test_a_prefix_is_computed_where_it_is_and_elsewhere_when_that_is_sooner(by_hand):
    # The first takes 10 + 64 ms at instance 0. At 100 ms three more ask for the same, and one token of each block of 16
    # is left to compute: 48 of 64 are found there. The second: 10 + 16 ms at 0. The third: 26 + 26 at 0, but at 1 the
    # fetch of 48 tokens takes 2 + 12 ms, and then 26. The fourth: 26 + 26 at 0, or 14 + 26 + 26 at 1. Second and fourth
    # then share a step of 10 + 32 ms.
    result = by_hand([(0, 64, 1, A), (100, 64, 1, A), (100, 64, 1, A), (100, 64, 1, A)])
    assert where(result) == [0, 0, 1, 0]
    assert in_ms(result, "first_token_s") == [74, 142, 140, 142]
    assert result.request_columns["cached_tokens"].tolist() == [0, 48, 48, 48]


def test_a_fetch_that_is_slower_than_computing_is_not_made(by_hand):
    # In turn, so the second goes to instance 1: 74 ms there. With 1 ms a token, fetching takes 50 and then 26: no.
    asked = [(0, 64, 1, A), (100, 64, 1, A)]
    slow = by_hand(asked, fetch_ms_per_token=1.0, route="round-robin")
    assert in_ms(slow, "first_token_s") == [74, 174]
    assert slow.request_columns["cached_tokens"].tolist() == [0, 0]
    fast = by_hand(asked, route="round-robin")  # 14 and then 26
    assert in_ms(fast, "first_token_s") == [74, 140]
    assert fast.request_columns["cached_tokens"].tolist() == [0, 48]
    never = by_hand(asked, route="round-robin", fetch={"policy": "never"})
    assert in_ms(never, "first_token_s") == [74, 174]


def test_fetches_wait_for_each_other_at_the_port_that_they_share(by_hand):
    # Two prefixes from instance 0 to 1 at 400 ms: one is there after 14 ms, the other 14 later, while the first one's
    # last 16 tokens are computed (414 to 440).
    asked = [(0, 64, 1, A), (100, 16, 1, ()), (200, 64, 1, B), (400, 64, 1, A), (400, 16, 1, ()), (400, 64, 1, B)]
    result = by_hand(asked, route="round-robin")
    assert where(result) == [0, 1, 0, 1, 0, 1]
    assert in_ms(result, "first_token_s") == [74, 126, 274, 440, 426, 466]


def test_what_is_being_computed_elsewhere_cannot_be_fetched_yet(by_hand):
    result = by_hand([(0, 64, 1, A), (10, 64, 1, A)], route="round-robin")
    assert in_ms(result, "first_token_s") == [74, 84]
    assert result.request_columns["cached_tokens"].tolist() == [0, 0]


def test_a_request_predicted_after_the_limit_is_turned_away(by_hand):
    # Just at the limit of 74 ms is in time. At 10 ms 64 of the first one's are left; at 74 ms, the moment of its token,
    # nothing is. The last: 53 left at 95, and 16 + 10 of its own are too many, 53 + 10 + 11 are not.
    asked = [(0, 64, 1, A), (10, 64, 1, B), (74, 64, 1, C), (95, 16, 1, ()), (95, 11, 1, ())]
    result = by_hand(asked, prefills=1, reject={"ttft": "74 ms"})
    assert result.request_columns["status"].tolist() == ["completed", "rejected", "completed", "rejected", "completed"]
    assert in_ms(result, "arrival_s") == [0, 10, 74, 95, 95]
    assert in_ms(result, "first_token_s") == [74, None, 148, None, 169]


def test_a_request_that_would_slow_the_decodes_below_the_limit_is_turned_away(by_hand):
    # A step of two decodes takes 12 ms; while one is being prefilled or decodes, a second is one too many.
    asked = [(0, 64, 10, A), (1, 64, 10, B), (80, 64, 10, B), (1000, 64, 10, C)]
    within = by_hand(asked, reject={"tpot": "12 ms"})  # the third would be a third one
    assert within.request_columns["status"].tolist() == ["completed", "completed", "rejected", "completed"]
    over = by_hand(asked, reject={"tpot": "11.9 ms"})
    assert over.request_columns["status"].tolist() == ["completed", "rejected", "rejected", "completed"]


def test_in_a_closed_loop_the_next_comes_for_one_who_is_turned_away(by_hand):
    asked = [(0, 64, 1, A), (0, 90, 1, ()), (0, 90, 1, ()), (0, 64, 1, B), (0, 10, 1, ())]
    loop = {"arrivals": "closed-loop", "concurrency": 1}
    result = by_hand(asked, prefills=1, workload=loop, reject={"ttft": "80 ms"})
    assert result.request_columns["status"].tolist() == ["completed", "rejected", "rejected", "completed", "completed"]
    assert in_ms(result, "arrival_s") == pytest.approx([0, 74, 74, 74, 148], abs=1e-9)
    assert in_ms(result, "first_token_s") == pytest.approx([74, None, None, 148, 168], abs=1e-9)


def test_the_prefix_aware_router_weighs_blocks_to_compute_against_blocks_in_use(by_hand):
    # At 80 ms instance 0 decodes the first one, with 5 blocks of 16 tokens. Its like would compute one block there
    # (64 - 48 tokens) and four at instance 1: 1 + 5 against 4.
    assert where(by_hand([(0, 64, 90, A), (80, 64, 2, A)], system="dynamo")) == [0, 1]
    # Without decodes nothing is in use, and the prefix is free: instance 0, though equal in load.
    result = by_hand([(0, 64, 2, A), (500, 64, 2, B), (1000, 64, 2, C), (1500, 64, 2, A)], system="dynamo", prefills=3)
    assert where(result) == [0, 0, 0, 0]


@pytest.mark.parametrize("exact", [False, True])
def test_who_shares_the_last_chunk_of_a_prompt_waits_until_that_begins(monkeypatch, tmp_path, exact):
    # Three chunks of 26 ms; the second request shares the third. A look at 30 ms: ten blocks of 4 are the first one's.
    use_timer(monkeypatch)
    seen = []

    def look(view, request, rng):
        usage = view.usage(0)
        seen.append((usage.free_blocks, usage.waiting, usage.waiting_blocks(), usage.pending_tokens()))
        return 0

    monkeypatch.setitem(POLICIES["route"], "least-loaded", look)
    simulate(
        scenario(tmp_path, [(0, 40, 1), (0, 8, 1), (30, 4, 1), (60, 4, 1)], **split(prefill={"queue": "fcfs"})), exact
    )
    # At 60 both are being computed and the third waits; how far they are shows at the end.
    assert seen[2:] == [(90, 1, 2, 48), (88, 1, 1, 52)]


def test_adopted_blocks_are_found_and_free():
    kv = PrefixCache(4, 16, 0, 16)
    asked = Request(0, 0, 64, 1, 0)
    asked.hash_ids = A
    kv.adopt(asked, 48)
    kv.check()
    assert kv.free == 4
    assert kv.cached(asked) == kv.foreseen(kv.names(asked), 0) == 48
    # The fourth block is blank; then the tail goes before the head.
    assert [kv.foreseen(kv.names(asked), taken) for taken in (1, 2, 3, 4)] == [48, 32, 16, 0]


def test_of_an_adopted_prefix_as_much_is_kept_as_there_are_free_blocks():
    kv = PrefixCache(4, 16, 0, 16)
    other, asked = Request(0, 0, 48, 1, 0), Request(1, 0, 80, 1, 0)
    other.hash_ids, asked.hash_ids = (1, 2, 77), (1, 2, 3, 4, 5)
    kv.admit(other, 0, 48)
    kv.adopt(asked, 64)  # two are there and in use, one is free
    kv.check()
    assert kv.free == 1
    assert kv.cached(asked) == 48


@st.composite
def eager(draw):
    """Worlds in which whatever can be fetched is, over slow links, and some are turned away."""
    fetch = {"policy": f"{ENTRIES}:longest", "bandwidth": draw(st.sampled_from(["100 MB/s", "3 GB/s"]))}
    reject = {"ttft": draw(st.sampled_from(["3 ms", "20 ms", "1 s"])), "tpot": draw(st.sampled_from([None, "9 ms"]))}
    cluster = {"fetch": fetch, "reject": reject, "flip": {"policy": "idle", "after": "3 ms", "cost": "1 ms"}}
    cluster["route"] = draw(st.sampled_from(["round-robin", "least-ttft", f"{ENTRIES}:by_all_there_is"]))
    machines = {"prefill": {"instances": draw(st.sampled_from([2, 3]))}, "decode": {"instances": 2}}
    return draw(worlds("mooncake", {"cluster": cluster, **machines}))


@SOME
@given(eager())
def test_windows_and_single_steps_give_the_same_rows_whatever_is_fetched(document):
    check_laws(document)


@SOME
@given(eager(), st.booleans())
def test_bytes_fetched_arrive_and_blocks_are_given_back(document, exact_steps):
    with assembled() as clusters:
        result = run(document, exact_steps)
    if result is None:
        return
    [cluster] = clusters
    ports = getattr(cluster.scheduler, "ports", {})
    sent = {way: sum(port.sent_bytes for (_, own), port in ports.items() if own == way) for way in ("in", "out")}
    assert sent["in"] == sent["out"]
    for port in ports.values():
        assert port.idle
        assert port.sent_bytes == port.received_bytes
    for instance in cluster.instances:
        instance.engine.kv.check()
        assert instance.engine.idle
        assert instance.engine.kv.free == instance.engine.kv.capacity
        assert instance.assigned == 0
    event(f"fetched: {sent['in'] > 0}")
    event(f"turned away: {(result.requests.status == 'rejected').any()}")


@SOME
@given(st.sampled_from(["vllm-v1", "vllm-v0", "tetriinfer", "mooncake", "orca"]), st.data())
def test_what_a_router_sees_does_not_depend_on_windows(system, data):
    many = {role: {"instances": 3} for role in ("hybrid", "prefill")}
    check_laws(data.draw(worlds(system, {"cluster": {"route": f"{ENTRIES}:by_all_there_is"}, **many})))


@SOME
@given(worlds("mooncake"))
def test_whoever_fetches_nothing_and_turns_nobody_away_is_plain(document):
    def own(route, fetch, reject):
        cluster = {**document["cluster"], "route": route, "fetch": {"policy": fetch}, "reject": {"policy": reject}}
        return outcome({**document, "cluster": cluster})

    plain = own("least-loaded", "never", "never")
    assert own("least-loaded", f"{ENTRIES}:nowhere", f"{ENTRIES}:nobody") == plain
    assert own("least-loaded", f"{ENTRIES}:nowhere", "late") == plain  # within 30 s


@SOME
@given(worlds("dynamo"))
def test_without_its_router_dynamo_is_v1(document):
    document["cluster"]["route"] = "least-loaded"
    assert outcome(document) == outcome({**document, "system": "vllm-v1"})


def outcome(document):
    try:
        return rows(simulate(resolve(document)))
    except ScenarioError as error:
        return str(error)


@pytest.mark.parametrize(
    ("system", "cluster", "what"),
    [
        ("vllm-v1", {"fetch": {"policy": "if-sooner"}}, "cluster.fetch: .* with prefill pools"),
        ("vllm-v1", {"reject": {"policy": "late", "tpot": "1 ms"}}, "tpot expected with prefill and decode"),
        ("mooncake", {"reject": {"ttft": "0 s"}}, "cluster.reject.ttft: .* more than 0"),
        ("mooncake", {"fetch": {"bandwidth": "0 B/s"}}, "cluster.fetch.bandwidth: .* more than 0"),
        ("mooncake", {"fetch": {"policy": "if-faster"}}, "if-sooner"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(system, cluster, what):
    document = {"model": "opt-125m", "system": system, "workload": {"requests": 3},
                "cluster": {"gpu": "l40s", **cluster}}  # fmt: skip
    with pytest.raises(ScenarioError, match=what):
        simulate(resolve(document))
