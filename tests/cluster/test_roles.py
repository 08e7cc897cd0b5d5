"""Instances that change role by demand, worked by hand: a step takes 10 ms whatever is in it."""

import pytest
from hypothesis import HealthCheck, event, given, settings
from laws.test_conservation import check_laws, run
from laws.worlds import rows, worlds
from simulate.by_hand import scenario, split, use_timer

from tetrisim.cluster.clock import ARRIVE, Alarm, Clock
from tetrisim.cluster.control import ControlTick
from tetrisim.errors import ScenarioError
from tetrisim.policies.ratio import demand, pending
from tetrisim.policies.registry import POLICIES
from tetrisim.scenario.control import RatioSpec
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate

SOME = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
QUICK = {"policy": "demand", "period": "1 ms", "confirmations": 1, "cooldown": "3 ms", "expand": 0.02, "shrink": 0.01}


class Role:
    def __init__(self, load=0.0, memory=0.0, pending_tokens=0, instances=2):
        self.load, self.memory, self.pending_tokens, self.instances = load, memory, pending_tokens, instances


def test_the_thresholds():
    spec = RatioSpec("demand")
    assert demand(Role(1.0), Role(0.5), spec) == "prefill"
    assert demand(Role(1.0), Role(0.51), spec) is None
    assert demand(Role(0.2), Role(1.7), spec) == "decode"
    assert demand(Role(2.0), Role(1.7), spec) is None
    spec = RatioSpec("pending")
    assert pending(Role(pending_tokens=16385), Role(memory=1.0), spec) == "prefill"
    assert pending(Role(pending_tokens=16384), Role(memory=1.0), spec) is None
    assert pending(Role(pending_tokens=16384), Role(memory=1.1), spec) == "decode"
    assert pending(Role(pending_tokens=16385), Role(memory=1.1), spec) is None


@pytest.mark.parametrize("exact", [False, True])
def test_three_looks_then_a_change_and_none_within_the_cooldown(monkeypatch, tmp_path, exact):
    # A thousand prompts of one chunk each at once: 10 s of work. The TTFT limit is 1 s, so at the looks of 1 s and 2 s
    # the load is 9 and 8; at 2 s that is the second of two confirmations. A decode instance with nothing on it changes
    # at once, and none after it: at 3 s the load is still 3.5 an instance, but within 10 s nobody follows.
    use_timer(monkeypatch, token_s=0.0)
    ratio = {"policy": "demand", "confirmations": 2}
    requests = [(0, 16, 1)] * 1000
    document = split(flip={"policy": "never", "cost": "0 s"}, ratio=ratio, decode={"instances": 3})
    result = simulate(scenario(tmp_path, requests, slo={"ttft": "1 s", "tpot": "100 ms"}, **document), exact)
    flips = {name: column.tolist() for name, column in result.flip_columns.items()}
    assert flips == {"instance": ["decode-0"], "role": ["prefill"], "drain_s": [2.0], "flip_s": [2.0], "ready_s": [2.0]}


@pytest.mark.parametrize("exact", [False, True])
def test_a_decode_instance_with_residents_is_given_nothing_new_and_changes_when_they_are_gone(
    monkeypatch, tmp_path, exact
):
    # Both decode instances have one request of 300 tokens, 10 ms each; at 1 s decode-0 is to go, and is empty at 3 s.
    use_timer(monkeypatch, token_s=0.0)
    ratio = {"policy": "demand", "confirmations": 1}
    requests = [(0, 4, 300), (0, 4, 300)] + [(1, 16, 1)] * 500
    document = split(flip={"policy": "never", "cost": "0 s"}, ratio=ratio, decode={"instances": 2},
                     place={"policy": "round-robin"}, prefill={"queue": "fcfs"})  # fmt: skip
    result = simulate(scenario(tmp_path, requests, slo={"ttft": "1 s", "tpot": "100 ms"}, **document), exact)
    flips = {name: column.tolist() for name, column in result.flip_columns.items()}
    done = result.requests.finish_s[0]
    assert flips["drain_s"] == [1.0]
    assert flips["flip_s"] == [float(int(done) + 1)]
    assert result.instances.role.tolist() == ["prefill", "prefill", "decode"]


@pytest.mark.parametrize("exact", [False, True])
def test_what_a_look_sees(monkeypatch, tmp_path, exact):
    # Two requests are prefilled at once, 26 ms each, sent in 18, and decode on decode-0 from 44 ms on in steps of 12,
    # while decode-1 has nothing. At 480 ms 64 tokens wait, in 4 chunks of 26 ms, for two prefill instances.
    seen = []

    def look(prefill, decode, spec):
        seen.append([(each.instances, each.load, each.memory, each.pending_tokens) for each in (prefill, decode)])

    monkeypatch.setitem(POLICIES["ratio"], "pending", look)
    use_timer(monkeypatch)
    document = split(flip={"policy": "never"}, ratio={"policy": "pending", "period": "240 ms"},
                     place={"policy": "imbalance", "heavy_tokens": 1},
                     predict={"policy": "oracle", "granularity_tokens": 1, "mode": "free"},
                     prefill={"instances": 2}, decode={"instances": 2})  # fmt: skip
    requests = [(0, 16, 60), (0, 16, 60), (475, 64, 1)]
    simulate(scenario(tmp_path, requests, slo={"ttft": "1 s", "tpot": "13 ms"}, **document), exact)
    prefill, decode = seen[1]
    assert prefill == (2, pytest.approx(4 * 0.026 / 2 / 1.0), 0.0, 64)
    # Since 240 ms twenty steps of 12 ms: half-way from the 11 ms of a batch of one to the limit. After 36 steps each
    # holds 52 tokens in 13 blocks, of 2 x 100.
    assert decode == (2, pytest.approx(0.5), pytest.approx(2 * 13 / 200), 0)


@SOME
@given(worlds("arrow", {"cluster": {"ratio": QUICK}, "decode": {"instances": 2}}))
def test_the_laws_hold_while_roles_change(document):
    check_laws(document)
    result = run(document)
    if result is not None:
        event(f"flips: {result.instance_columns['flips'].sum() > 0}")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds("arrow"))
def test_whoever_never_changes_role_is_the_plain_cluster(document):
    """Looks that change nothing have no effect."""

    def outcome(**ratio):
        try:
            return rows(simulate(resolve({**document, "cluster": {**document["cluster"], "ratio": ratio}})))
        except ScenarioError as error:
            return str(error)

    assert outcome(policy="fixed") == outcome(policy="demand", period="1 ms", expand=1e9)


def test_combinations_that_cannot_be_are_refused():
    with pytest.raises(ScenarioError, match="ratio"):
        resolve({"model": "opt-125m", "system": "vllm-v1", "cluster": {"gpu": "l40s", "ratio": {"policy": "demand"}}})
    with pytest.raises(ScenarioError, match="shrink"):
        resolve({"model": "opt-125m", "system": "arrow", "cluster": {"gpu": "l40s", "ratio": {"shrink": 2.0}}})


def test_a_control_tick_rings_once_a_period_and_ends_with_the_run():
    env, seen = Clock(initial_time=0), []
    work = [35]  # something else is still to happen until then
    env.arm(Alarm(lambda alarm: work.clear()), 35, ARRIVE)
    ControlTick(env, 10, lambda: bool(work)).start(lambda now: seen.append(now), lambda now: seen.append(-now))
    env.run()
    assert seen == [10, -10, 20, -20, 30, -30]
    assert env.now == 40  # the look that finds the run over
