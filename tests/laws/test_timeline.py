"""A log of steps changes nothing, and what a timeline draws is all of the work."""

import pytest
from hypothesis import HealthCheck, given, settings
from laws.worlds import rows, worlds

from tetrisim.cluster.steplog import StepLog
from tetrisim.errors import ScenarioError
from tetrisim.report.timeline import events
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(worlds(horizon=True))
def test_slices_never_overlap_and_sum_to_the_busy_time(document):
    """Same rows; the slices of a track never overlap, and last as long as the instance was busy; arrows meet slices."""
    log = StepLog()
    try:
        result = simulate(resolve(document), log=log)
    except ScenarioError:
        return
    assert rows(result) == rows(simulate(resolve(document), exact_steps=True))
    found = events(result, log)
    busy = dict.fromkeys(range(1, 2 * len(result.instance_columns["busy_s"]) + 1), 0.0)
    ends, starts = dict(busy), set()
    for event in found:
        if event["ph"] == "X":
            assert event["ts"] >= ends[event["tid"]] - 1e-6
            ends[event["tid"]] = event["ts"] + event["dur"]
            busy[event["tid"]] += event["dur"]
            starts.add((event["tid"], event["ts"]))
        if event["ph"] in "st":
            assert (event["tid"], event["ts"]) in starts
    expected = (result.instance_columns["busy_s"] * 1e6).tolist()
    assert [busy[2 * number + 1] for number in range(len(expected))] == pytest.approx(expected, abs=0.01 * len(found))
    shown = {request for step in log.steps for request in step.decodes}
    done = result.requests[(result.requests.status == "completed") & (result.requests.recomputations == 0)]
    assert {*done.request_id[done.output_tokens > 1]} <= shown
