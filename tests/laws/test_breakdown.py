"""The parts of a request's life: nothing is left over and nothing is counted twice, whatever the system."""

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from laws.worlds import policy_settings, requests, worlds, write_csv

from tetrisim.errors import ScenarioError
from tetrisim.metrics.breakdown import PARTS, TO_FIRST_TOKEN, breakdown, means
from tetrisim.metrics.definitions import e2el, ttft
from tetrisim.scenario.load import resolve
from tetrisim.scenario.presets import SYSTEMS
from tetrisim.simulate import simulate

slow_draw = [HealthCheck.too_slow, HealthCheck.data_too_large]
MANY = settings(max_examples=100, deadline=None, suppress_health_check=slow_draw)
FEW = settings(max_examples=10, deadline=None, suppress_health_check=slow_draw)
ROUNDING = 1e-12
"""Moments are some seconds long: their differences are right to about a femtosecond."""


def check_parts(document):
    """The parts sum, as TTFT and as E2EL, and none is negative; returns them, or None where nobody is served."""
    try:
        result = simulate(resolve(document))
    except ScenarioError as error:
        assert "can ever be served" in error.what
        return None
    parts, rows = breakdown(result), result.request_columns
    assert tuple(parts) == tuple(PARTS)
    assert sum(parts.values()) == pytest.approx(e2el(rows), abs=ROUNDING)
    assert sum(parts[part] for part in TO_FIRST_TOKEN) == pytest.approx(ttft(rows), abs=ROUNDING)
    for part, values in parts.items():
        assert values.size == 0 or values.min() >= -ROUNDING, part
    done = result.requests[result.requests.status == "completed"]
    lost = parts["prefill_preemption_s"] + parts["decode_preemption_s"]
    moves = result.move_columns
    stopped = np.isin(done.request_id, moves["request_id"][~np.isnan(moves["stop_s"])])  # for its last copy
    assert (lost[(done.preemptions == 0) & ~stopped] == 0).all()
    assert (lost[done.preemptions > 0] > 0).all()
    assert (parts["prefill_s"] > 0).all()
    assert (parts["decode_s"][(done.output_tokens > 1) & (done.preemptions == 0)] > 0).all()
    for part in ("transfer_wait_s", "transfer_s"):
        assert (parts[part][done.transfer_start_s.isna()] == 0).all()
    event(f"lost: {(lost > 0).any()}, in prefill: {(parts['prefill_preemption_s'] > 0).any()}")
    return parts


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_parts_sum_to_the_whole(system):
    @MANY
    @given(worlds(system, horizon=True))
    def law(document):
        check_parts(document)

    law()


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [case for _, case in policy_settings()], ids=[n for n, _ in policy_settings()])
def test_the_parts_sum_to_the_whole_under_every_policy(overrides):
    @FEW
    @given(worlds(overrides["system"], overrides))
    def law(document):
        check_parts(document)

    law()


@MANY
@given(worlds(), requests())
def test_whoever_is_alone_has_no_part_but_work_and_transfer(document, asked):
    """Every request on its own, ten seconds after the last: own work is then all of the span, to the femtosecond."""
    alone = [(10.0 * number, prompt, output) for number, (_, prompt, output) in enumerate(asked)]
    document["workload"] = {"trace": write_csv(alone)}
    parts = check_parts(document)
    if parts is not None:
        works = {"prefill_s", "decode_s", "transfer_s"}
        assert {part for part, values in parts.items() if np.abs(values).sum() > 1e-11} <= works
        assert sum(means(parts).values()) == pytest.approx(sum(means(parts)[part] for part in works), abs=1e-12)
