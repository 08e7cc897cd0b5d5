"""Sessions under every system: the same rows by windows and by steps, and KV that stays between turns within bounds."""

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from laws.test_conservation import check_laws, run
from laws.worlds import assembled, machines, rows, worlds

from tetrisim.assemble import assemble
from tetrisim.cluster.engine import Engine
from tetrisim.cluster.steplog import StepLog
from tetrisim.errors import ScenarioError
from tetrisim.scenario.load import resolve
from tetrisim.scenario.presets import SYSTEMS
from tetrisim.simulate import simulate

slow_draw = [HealthCheck.too_slow, HealthCheck.data_too_large]
MANY = settings(max_examples=60, deadline=None, suppress_health_check=slow_draw)
FEW = settings(max_examples=12, deadline=None, suppress_health_check=slow_draw)
OFF = {"host": "0 GB", "disk": "0 GB"}


@st.composite
def chats(draw):
    """A few users of short sessions, whose pauses are about as long as a few steps."""
    law = {
        "turns": draw(st.sampled_from([1, 2, 4])),
        "prompt_tokens": draw(st.sampled_from([5, 20])),
        "prompt_sigma": 0.8,
        "output_tokens": draw(st.sampled_from([3, 30])),
        "output_sigma": 1.0,
        "longest_tokens": 200,  # may fit nowhere
        "read": draw(st.sampled_from(["0 s", "1 ms", "20 ms"])),
        "typing": draw(st.sampled_from(["0 s", "1 ms", "20 ms"])),
    }
    return {"trace": "chat-sessions", "requests": draw(st.sampled_from([2, 12, 30])), "arrivals": "closed-loop",
            "concurrency": draw(st.sampled_from([1, 3, 8])), "sessions": law}  # fmt: skip


@st.composite
def tiers(draw):
    """Tiers of which a session or two fill one, behind links about as slow as steps."""
    link = st.sampled_from(["10 MB/s", "100 MB/s", "30 GB/s"])
    return {
        "host": draw(st.sampled_from(["0 GB", "3 MB", "30 MB", "1 GB"])),
        "disk": draw(st.sampled_from(["0 GB", "5 MB", "1 GB"])),
        "keep_on_gpu": draw(st.booleans()),
        "host_link": draw(link),
        "disk_read": draw(link),
        "network": draw(link),
        "remote": draw(st.sampled_from([True, True, False])),
        "load": draw(st.sampled_from(["layer", "whole", "apart"])),
        "writes": draw(st.sampled_from(["free", "duplex", "shared"])),
    }


@st.composite
def hints(draw):
    """Hints of any quality, or none."""
    if draw(st.booleans()):
        return None
    return {
        "lead": draw(st.sampled_from(["typing", "pause"])),
        "missed": draw(st.sampled_from([0.0, 0.5])),
        "spurious": draw(st.sampled_from([0.0, 0.6])),
        "expire": draw(st.sampled_from(["2 ms", "10 s"])),
        "rebind_above": draw(st.sampled_from([None, 1.0])),
    }


@st.composite
def tiered(draw):
    """A small cluster that keeps KV between turns."""
    pool = draw(machines("hybrid"))
    pool |= {"max_num_batched_tokens": 64, "prefix_caching": True, "instances": draw(st.sampled_from([1, 2, 3]))}
    route = draw(st.sampled_from(["least-loaded", "session-sticky", "random", "round-robin"]))
    cluster = {"gpu": "l40s", "pools": [pool], "route": route, "tiers": draw(tiers()), "hints": draw(hints())}
    return {"model": "opt-125m", "system": "vllm-v1", "profile": "roofline", "workload": draw(chats()),
            "cluster": cluster, "seed": draw(st.integers(0, 3))}  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_sessions_keep_the_laws_under_every_system(system):
    @FEW
    @given(worlds(system), chats())
    def law(document, workload):
        document = {**document, "workload": workload}
        try:
            assemble(resolve(document), False, None)
        except ScenarioError as error:  # some systems refuse sessions in so many words
            assert "beside sessions" in error.what
        else:
            check_laws(document)

    law()


@MANY
@given(tiered())
def test_tiers_and_hints_keep_the_laws(document):
    check_laws(document)


@MANY
@given(tiered())
def test_what_is_kept_is_within_bounds_and_no_byte_is_lost(document):
    """And the same bytes move by windows and by single steps."""
    moved = [bytes_moved(document, exact_steps) for exact_steps in (False, True)]
    assert moved[0] == moved[1]
    if moved[0] is not None:
        event(f"moved: {any(sent for sent, _ in moved[0])}, called off: {any(off for _, off in moved[0])}")


def bytes_moved(document, exact_steps):
    """Run a world and check its books; returns the bytes sent and called off on every link."""
    plan = Engine.plan

    def watched_plan(self):
        pieces = plan(self)
        self.kv.check()
        return pieces

    with assembled() as clusters, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "plan", watched_plan)
        if run(document, exact_steps) is None:
            return None
    store = clusters[0].machines.tiers
    moved = []
    for node in store.nodes:
        assert node.instance.engine.kv.free == node.instance.engine.kv.capacity
        node.instance.engine.kv.check()
        assert not node.stalls
        for link in node.links:
            assert link.idle
            assert link.sent_bytes == link.received_bytes + link.cancelled_bytes
            moved.append((link.sent_bytes, link.cancelled_bytes))
    for kept in store.kept.values():
        assert kept.moving is None and kept.on_ready is None
        assert kept.home is not None or kept.loaded == store.layers
        assert kept.home is None or kept in (kept.home.host if kept.tier == "host" else kept.home.disk).entries
    return moved


@FEW
@given(tiered())
def test_a_log_of_steps_changes_nothing(document):
    expected = run(document, exact_steps=True)
    if expected is not None:
        log = StepLog()
        assert rows(simulate(resolve(document), log=log)) == rows(expected)
        busy = sum(step.end_s - step.start_s for step in log.steps)  # the wait for layers is part of a step
        assert busy == pytest.approx(expected.instance_columns["busy_s"].sum(), abs=1e-9)


@MANY
@given(tiered())
def test_hints_and_tiers_change_times_and_never_tokens(document):
    found = [run({**document, "cluster": {**document["cluster"], **change}}) for change in
             ({}, {"hints": None}, {"hints": None, "tiers": None})]  # fmt: skip
    if found[0] is None:
        return
    for name in ("prompt_tokens", "output_tokens", "status"):
        assert len({tuple(result.request_columns[name].tolist()) for result in found}) == 1


@MANY
@given(tiered())
def test_with_the_gpu_as_the_one_tier_and_room_for_all_it_is_v1_with_its_prefix_cache(document):
    """Hints off, nothing below the GPU and nothing ever evicted: bit for bit the plain system.

    Sessions stay where they are: a prefix cache would also find what earlier turns left elsewhere, the tiers do not.
    """
    pool = {**document["cluster"]["pools"][0], "kv_blocks": 20_000}
    plain = {**document["cluster"], "pools": [pool], "tiers": None, "hints": None, "route": "session-sticky"}
    one = {**OFF, "keep_on_gpu": True, "remote": False, "load": document["cluster"]["tiers"]["load"]}
    expected = run({**document, "cluster": plain})
    if expected is None:
        return
    assert rows(run({**document, "cluster": {**plain, "tiers": one}})) == rows(expected)
    event(f"found something: {expected.request_columns['cached_tokens'].sum() > 0}")


@MANY
@given(tiered())
def test_without_any_tier_it_is_the_plain_engine(document):
    """Nothing is kept anywhere: bit for bit V1 without its prefix cache, where nobody is preempted."""
    pool = {**document["cluster"]["pools"][0], "kv_blocks": 20_000, "prefix_caching": False}
    plain = {**document["cluster"], "pools": [pool], "tiers": None, "hints": None}
    expected = run({**document, "cluster": plain})
    if expected is not None:
        found = run({**document, "cluster": {**plain, "tiers": {**OFF, "keep_on_gpu": False}}})
        assert rows(found) == rows(expected)


def test_a_plain_trace_leaves_nothing_behind():
    """Tiers and hints are for turns; other requests are served as by the plain system."""
    document = {"model": "opt-125m", "system": "vllm-v1", "profile": "roofline", "seed": 1,
                "workload": {"trace": "azure-conv-like", "requests": 100}, "cluster": {"gpu": "l40s"}}  # fmt: skip
    both = {**document, "cluster": {"gpu": "l40s", "tiers": {}, "hints": {}}}
    assert rows(simulate(resolve(both))) == rows(simulate(resolve(document)))
