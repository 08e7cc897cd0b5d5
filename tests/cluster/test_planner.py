"""Instances added and removed as the load changes: by hand, and as laws."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.test_conservation import check_laws
from laws.worlds import rows, worlds
from simulate.by_hand import in_ms, one, scenario, use_timer

from tetrisim.errors import ScenarioError
from tetrisim.metrics.summary import summarize
from tetrisim.policies.registry import POLICIES
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate

SOME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCALE = {"policy": "load", "period": "100 ms", "startup": "50 ms"}


@pytest.fixture(params=[False, True], ids=["windows", "steps"])
def by_hand(request, monkeypatch, tmp_path):
    """Runs requests of 4 tokens in (arrival in ms, output) on two instances that serve one at a time."""
    use_timer(monkeypatch)

    def run_it(asked, **scale):
        machines = one("vllm-v0", instances=2, max_num_seqs=1)
        machines["cluster"]["scale"] = {**SCALE, **scale}
        return simulate(scenario(tmp_path, [(at, 4, output) for at, output in asked], **machines), request.param)

    return run_it


def where(result):
    return [int(name[-1]) for name in result.request_columns["prefill_instance"]]


def test_one_comes_when_requests_wait_and_one_goes_when_nobody_does(by_hand):
    # 14 ms of prefill, 29 decodes of 11 ms. Two wait at 100 ms, so a second instance serves from 150 on: not for the
    # one that comes at 120, but for that of 160. Nobody waits from 1000 on, and at 1200 the second has been there for
    # eleven looks: it is given nothing more, and is off at the next, 1300. At 5100 one waits again; the second serves
    # from 5150 on.
    asked = [(0, 30), (0, 30), (0, 30), (120, 1), (160, 30), (5010, 30), (5011, 30), (5200, 30)]
    result = by_hand(asked, grace=10)
    assert where(result) == [0, 0, 0, 0, 1, 0, 0, 1]
    assert in_ms(result, "first_token_s") == [14, 347, 680, 1013, 174, 5024, 5357, 5214]
    assert result.instance_columns["off_s"].tolist() == [0, 3.8]
    # The first from 0 to 5676 ms, the second from 160 to 5533 without the 3800 that it was off.
    assert summarize(result)["gpu_seconds"] == pytest.approx(5.676 + 5.533 - 0.16 - 3.8, rel=1e-12)
    assert "modelled: an instance serves 0.05 s after it was added" in result.provenance


def test_one_that_goes_serves_first_what_it_has(by_hand):
    # Both work until 1103 and 1104 ms. At 100 nobody waits, and the second is given nothing more; the one that comes at
    # 500 waits for the first, and nobody can be added. The second is off at 1200, and is added at 2100.
    asked = [(0, 100), (1, 100), (500, 10), (2010, 30), (2011, 30), (2200, 30)]
    result = by_hand(asked, initial=2, grace=0)
    assert where(result) == [0, 1, 0, 0, 0, 1]
    assert in_ms(result, "finish_s")[:3] == [1103, 1104, 1216]
    assert result.instance_columns["off_s"].tolist() == [0, 0.9]


@pytest.mark.parametrize("exact", [False, True])
def test_what_a_look_sees(monkeypatch, tmp_path, exact):
    # Two instances of 100 blocks of 4 tokens, one request at a time each: 4 tokens in 14 ms and 11 ms a decode. At
    # 100 ms each has decoded 7 of them: 11 tokens in 3 blocks. Of five requests three wait.
    seen = []
    policy = lambda view, spec: seen.append((view.instances, view.kv_use, view.waiting)) or 0  # noqa: E731
    monkeypatch.setitem(POLICIES["scale"], "load", policy)
    use_timer(monkeypatch)
    machines = one("vllm-v0", instances=2, max_num_seqs=1)
    machines["cluster"]["scale"] = {**SCALE, "initial": 2}
    simulate(scenario(tmp_path, [(0, 4, 30)] * 5, **machines), exact)
    assert seen[0] == (2, pytest.approx(2 * 3 / 200), 1.5)


@SOME
@given(st.sampled_from(["vllm-v1", "dynamo", "vllm-v0"]), st.data())
def test_windows_and_single_steps_give_the_same_rows_whoever_comes_and_goes(system, data):
    limits = {"kv_high": 0.3, "kv_low": 0.2, "queue_high": 0.3, "queue_low": 0.2, "grace": 0}
    scale = {"policy": "load", "period": "2 ms", "startup": data.draw(st.sampled_from(["0 s", "3 ms"])), **limits}
    check_laws(data.draw(worlds(system, {"cluster": {"scale": scale}, "hybrid": {"instances": 3}})))


@SOME
@given(worlds("dynamo", {"hybrid": {"instances": 3}}))
def test_a_planner_that_never_acts_changes_nothing(document):
    def outcome(scale):
        try:
            return rows(simulate(resolve({**document, "cluster": {**document["cluster"], "scale": scale}})))
        except ScenarioError as error:
            return str(error)

    never = {"policy": "load", "initial": 3, "kv_high": 1.0, "queue_high": 1e9, "kv_low": 0.0, "queue_low": 0.0}
    assert outcome({**never, "period": "1 ms"}) == outcome({"policy": "fixed"})


def test_scaling_is_for_hybrid_pools():
    document = {"model": "opt-125m", "system": "mooncake", "workload": {"requests": 3},
                "cluster": {"gpu": "l40s", "scale": SCALE}}  # fmt: skip
    with pytest.raises(ScenarioError, match=r"cluster.scale: .* hybrid pools"):
        resolve(document)
