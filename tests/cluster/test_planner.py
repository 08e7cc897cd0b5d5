"""Instances added and removed as the load changes: by hand, and as laws."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.test_conservation import check_laws
from laws.worlds import rows, worlds
from simulate.by_hand import in_ms, one, scenario, use_timer

from tetrisim.errors import ScenarioError
from tetrisim.metrics.summary import summarize
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate

SOME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCALE = {"policy": "load", "period": "100 ms", "startup": "50 ms"}


@pytest.mark.parametrize("exact", [False, True])
def test_one_comes_when_requests_wait_and_one_goes_when_nobody_does(monkeypatch, tmp_path, exact):
    # One request at a time: 14 ms of prefill, 29 decodes of 11 ms. Two wait at 100 ms, so the second instance serves
    # from 150 on, and takes the one that comes at 160. At 700 ms nobody waits: the second, idle, is given nothing more
    # and is off at the next look, 800. At 5100 one waits again; the second serves from 5150 on.
    use_timer(monkeypatch)
    machines = one("vllm-v0", instances=2, max_num_seqs=1)
    machines["cluster"]["scale"] = SCALE
    asked = [(0, 4, 30), (0, 4, 30), (0, 4, 30), (160, 4, 30), (5010, 4, 30), (5011, 4, 30), (5200, 4, 30)]
    result = simulate(scenario(tmp_path, asked, **machines), exact)
    assert [int(name[-1]) for name in result.request_columns["prefill_instance"]] == [0, 0, 0, 1, 0, 0, 1]
    assert in_ms(result, "first_token_s") == [14, 347, 680, 174, 5024, 5357, 5214]
    assert result.instance_columns["off_s"].tolist() == [0, 4.3]
    # The first from 0 to 5676 ms, the second from 160 to 5533 without the 4300 that it was off.
    assert summarize(result)["gpu_seconds"] == pytest.approx(5.676 + 5.533 - 0.16 - 4.3, rel=1e-12)
    assert "modelled: an instance serves 0.05 s after it was added" in result.provenance


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
