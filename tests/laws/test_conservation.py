"""What no system and no policy may break: the same rows by windows and by steps, nothing lost, memory within bounds."""

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from laws.worlds import MOMENTS, assembled, policy_settings, rows, worlds

from tetrisim.cluster.engine import Engine
from tetrisim.errors import ScenarioError
from tetrisim.scenario.load import resolve
from tetrisim.scenario.presets import SYSTEMS
from tetrisim.simulate import Result, simulate

slow_draw = [HealthCheck.too_slow, HealthCheck.data_too_large]
MANY = settings(max_examples=150, deadline=None, suppress_health_check=slow_draw)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=slow_draw)


def run(document, exact_steps=False):
    """The result, or None for a world in which no request can be served at all."""
    try:
        return simulate(resolve(document), exact_steps)
    except ScenarioError as error:
        assert "can ever be served" in error.what
        return None


def kinds(of):
    """A class and all below it."""
    return [of, *(kind for below in of.__subclasses__() for kind in kinds(below))]


def emitted(result: Result) -> tuple[int, float]:
    """How many gaps between tokens there were, and their sum in seconds."""
    gaps = result.gap_columns
    steps, weight = gaps["steps"], gaps["weight"]
    total = weight * (steps * gaps["first_s"] + gaps["slope_s"] * (steps * (steps - 1) / 2))
    return int((steps * weight).sum()), float(total.sum())


def check_laws(document):
    """All laws of one run, and of the same run step by step."""
    result = run(document)
    if result is None:
        return
    by_steps = run(document, exact_steps=True)
    assert by_steps is not None
    found = rows(result)
    assert found == rows(by_steps)
    assert result.instance_columns["steps"].tolist() == by_steps.instance_columns["steps"].tolist()
    assert result.instance_columns["busy_s"].tolist() == by_steps.instance_columns["busy_s"].tolist()
    check_lives(found)
    requests = result.requests
    completed = requests[requests.status == "completed"]
    assert set(requests.status) <= ({"completed", "rejected"})  # without a horizon nothing is left over
    for count, total in (emitted(result), emitted(by_steps)):
        assert count == (completed.output_tokens - 1).sum()
        assert total == pytest.approx((completed.finish_s - completed.first_token_s).sum(), rel=1e-9, abs=1e-12)
    event(f"preemptions: {requests.preemptions.sum() > 0}")
    event(f"flips: {result.instance_columns['flips'].sum() > 0}")


def check_lives(found):
    """Moments come in order, as far as the request got; a rejected one got nowhere."""
    for life in zip(*(found[name] for name in MOMENTS), strict=True):
        moments = [moment for moment in life if moment is not None]
        assert moments == sorted(moments)
    for index, status in enumerate(found["status"]):
        reached = [name for name in MOMENTS if found[name][index] is not None]
        if status == "completed":
            assert {"prefill_start_s", "first_token_s", "finish_s"} <= set(reached)
            assert found["prefill_instance"][index]
        if status == "rejected":
            assert reached == ["arrival_s"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_windows_and_single_steps_give_the_same_rows_and_tokens(system):
    @MANY
    @given(worlds(system))
    def law(document):
        check_laws(document)

    law()


@pytest.mark.slow
@pytest.mark.parametrize(("overrides"), [case for _, case in policy_settings()], ids=[n for n, _ in policy_settings()])
def test_every_policy_keeps_the_laws(overrides):
    @FEW
    @given(worlds(overrides["system"], overrides))
    def law(document):
        check_laws(document)

    law()


@MANY
@given(worlds(horizon=True))
def test_a_horizon_shows_the_beginning_of_the_same_run(document):
    whole = run({key: value for key, value in document.items() if key != "horizon"})
    part = run(document)
    if whole is None or part is None or "horizon" not in document:
        return
    found, expected = rows(part), rows(whole)
    assert found["request_id"] == expected["request_id"]
    by_steps = rows(run(document, exact_steps=True))
    shown = ("first_token_s", "decode_start_s", "finish_s")
    assert [found[name] for name in (*shown, "status")] == [by_steps[name] for name in (*shown, "status")]
    for index, request in enumerate(found["request_id"]):
        for name in shown:
            at = expected[name][request]
            if at is not None and at != part.simulated_s:
                assert found[name][index] == (at if at < part.simulated_s else None)
        if found["status"][index] != "rejected":
            done = found["finish_s"][index] is not None
            assert found["status"][index] == ("completed" if done else "unfinished")


@settings(max_examples=120, deadline=None, suppress_health_check=slow_draw)
@given(worlds(), st.booleans())
def test_memory_stays_within_bounds_and_is_given_back(document, exact_steps):
    checked = 0
    complete = Engine.complete

    def watched(plan):
        def watched_plan(self):
            nonlocal checked
            checked += 1
            pieces = plan(self)
            self.kv.check()
            return pieces

        return watched_plan

    def watched_complete(self, pieces):
        done = complete(self, pieces)
        self.kv.check()
        return done

    with assembled() as clusters, pytest.MonkeyPatch.context() as patch:
        for kind in kinds(Engine):
            if "plan" in vars(kind):
                patch.setattr(kind, "plan", watched(vars(kind)["plan"]))
        patch.setattr(Engine, "complete", watched_complete)
        result = run(document, exact_steps)
    if result is None:
        return
    assert checked > 0 or set(result.requests.status) == {"rejected"}
    for instance in clusters[0].instances:
        assert instance.engine.idle
        assert instance.engine.kv.free == instance.engine.kv.capacity
        instance.engine.kv.check()
        assert instance.assigned == 0
    links = clusters[0].links
    if links is not None:
        moved = result.requests[~np.isnan(result.requests.transfer_start_s)]
        assert links.sent_tokens == links.received_tokens == moved.prompt_tokens.sum()
