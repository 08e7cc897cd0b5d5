"""Classes of requests: who is urgent gets ahead, no work is done twice, and without anybody urgent all is plain."""

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from laws.worlds import rows, worlds
from simulate.by_hand import in_ms, one, scenario, use_timer

from tetrisim.cluster.interrupt import Boundaries, InterruptibleInstance
from tetrisim.errors import ScenarioError
from tetrisim.metrics.summary import summarize
from tetrisim.scenario.load import load, override, resolve
from tetrisim.simulate import simulate
from tetrisim.workload.classes import draw_classes
from tetrisim.workload.trace import build

SIMULATE = import_module("tetrisim.simulate")  # `tetrisim.simulate` is the function
SOME = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
GRANULARITIES = ["request", "iteration", "layer", "stage", "expert"]
NOBODY = {"urgent": {"share": 0.0}, "other": {"share": 1.0, "priority": 1}}


def classed(share, requests=400, rate="8 /s", **document):
    """Chat on two A100 that hold Mixtral; so much of it urgent."""
    classes = {"urgent": {"share": share, "slo": {"ttft": "3 s"}}, "other": {"share": 1 - share, "priority": 1}}
    return resolve({
        "model": "mixtral-8x7b", "system": "qllm", "profile": "roofline",
        "workload": {"trace": "azure-conv-like", "requests": requests, "arrivals": "poisson", "rate": rate,
                     "classes": classes},
        "cluster": {"gpu": "a100-80gb", "instances": 1, "tensor_parallel": 2}, **document,
    })  # fmt: skip


def outcome(document):
    """The rows of a run without their class, or why there are none."""
    try:
        return rows(simulate(resolve(document)))
    except ScenarioError as error:
        return str(error)


def test_classes_are_drawn_by_share_and_leave_the_rest_alone():
    of = classed(0.2, 5000)
    result = simulate(replace(of, workload=replace(of.workload, requests=500)))
    plain = simulate(override(of, {"system": "vllm-v1", "workload.requests": 500, "workload.classes": {}}))
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert result.request_columns[name].tolist() == plain.request_columns[name].tolist()
    assert "class" not in plain.request_columns
    drawn = draw_classes(of.workload.classes, 5000, of.seed)
    assert (drawn == 0).mean() == pytest.approx(0.2, abs=0.02)
    more = draw_classes(classed(0.5).workload.classes, 5000, of.seed)
    assert (more[drawn == 0] == 0).all(), "common random numbers: who was urgent stays so"
    trace = build(of.workload, of.seed)
    assert abs(np.corrcoef(drawn, trace.prompt_tokens)[0, 1]) < 0.05


def test_each_class_is_judged_by_its_own_slo(tmp_path, monkeypatch):
    use_timer(monkeypatch)
    asked = [(0, 10, 1), (100, 10, 1), (200, 60, 1), (300, 60, 1)]  # first tokens after 20, 20, 70 and 70 ms
    result = simulate(scenario(tmp_path, asked, **one("vllm-v0"), slo={"ttft": "1 s"}))
    workload = resolve({**result.scenario.document, "workload": {**result.scenario.document["workload"], "classes": {
        "strict": {"share": 0.5, "slo": {"ttft": "50 ms"}}, "lax": {"share": 0.5}}}}).workload  # fmt: skip
    columns = {**result.request_columns, "class": np.array(["strict", "lax", "strict", "lax"], dtype=object)}
    summary = summarize(replace(result, scenario=replace(result.scenario, workload=workload), request_columns=columns))
    assert summary["slo_attainment"] == 0.75
    assert (summary["strict:slo_attainment"], summary["lax:slo_attainment"]) == (0.5, 1.0)
    assert summary["strict:mean_ttft_ms"] == pytest.approx(45) and summary["lax:p99_ttft_ms"] == pytest.approx(69.5)
    assert (summary["lax:median_ttft_ms"], summary["lax:p90_ttft_ms"]) == pytest.approx((45, 65))
    assert summary["request_goodput"] == pytest.approx(3 / 0.37)
    assert summary["strict:request_goodput"] + summary["lax:request_goodput"] == pytest.approx(3 / 0.37)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"a": {"share": 0.5}}, "workload.classes: is not usable; expected shares that add up to 1, not 0.5"),
        ({"a": {"share": 1.5}}, "workload.classes.a.share: is not usable; expected between 0 and 1"),
        ({"a": {"share": 1, "priorty": 1}}, "workload.classes.a.priorty: unknown key"),
        ({"a": 1}, "workload.classes.a: is 1; expected a mapping"),
        ({"a:b": {"share": 1}}, "workload.classes.a:b.name: is not usable; expected text without a colon"),
    ],
)
def test_wrong_classes_are_refused(classes, said):
    with pytest.raises(ScenarioError) as caught:
        override(load("default"), {"workload.classes": classes})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("async_scheduling", True, "without async_scheduling"),
        ("preemption", "swap", "with preemption 'recompute'"),
        ("queue", "fcfs", "queue 'priority'"),
        ("batching", "token-budget", "batching 'prefill-first'"),
    ],
)
def test_what_a_step_that_stops_cannot_do_is_refused(key, value, said):
    with pytest.raises(ScenarioError) as caught:
        override(classed(0.2), {f"cluster.pools.0.{key}": value})
    assert said in str(caught.value) and "cluster.pools.0.preempt" in str(caught.value)


# --- priority at the end of an iteration ----------------------------------------------------------------------------


@SOME
@given(worlds("vllm-v1"))
def test_priority_among_equals_is_first_come_first_served(document):
    def queued(queue):
        pools = [{**pool, "queue": queue, "preemption": "recompute"} for pool in document["cluster"]["pools"]]
        workload = {key: value for key, value in document["workload"].items() if key != "classes"}
        return outcome({**document, "workload": workload, "cluster": {**document["cluster"], "pools": pools}})

    by_rank, plain = queued("priority"), queued("fcfs")
    if isinstance(plain, str):
        assert by_rank == plain
        return
    for name, column in plain.items():  # where memory is short, a lone decode step is timed by another sum
        assert by_rank[name] == (pytest.approx(column, abs=1e-12) if name.endswith("_s") else column), name


def ranked(tmp_path, monkeypatch, priorities, asked, **pool):
    """A run of requests with these priorities on an engine that serves by priority."""
    use_timer(monkeypatch)
    classes = {str(number): {"share": 0.0, "priority": number} for number in range(3)}
    classes["0"]["share"] = 1.0
    document = {**one("vllm-v1", queue="priority", async_scheduling=False, **pool)}
    made = scenario(tmp_path, asked, **document)
    made = resolve({**made.document, "workload": {**made.document["workload"], "classes": classes}})
    monkeypatch.setattr(SIMULATE, "draw_classes", lambda *_: np.array(priorities))
    result = simulate(made)
    assert rows(result) == rows(simulate(made, exact_steps=True))
    return result


def test_who_is_more_urgent_is_prefilled_first(tmp_path, monkeypatch):
    asked = [(0, 10, 2), (1, 10, 1), (2, 10, 1), (3, 10, 1)]
    result = ranked(tmp_path, monkeypatch, [1, 2, 1, 0], asked, max_num_batched_tokens=11)
    # 0-20 the first; 20-41 its decode beside the last one's prompt; 41-62 the third's and a token of the second's
    assert in_ms(result, "first_token_s") == [20, 81, 62, 41]


def test_the_least_urgent_loses_its_memory_first(tmp_path, monkeypatch):
    # Seven blocks of 4 tokens: two prompts of 12 tokens and a block to grow. Whoever came first was admitted first.
    for priorities, victim in (([0, 1], 1), ([1, 0], 0), ([0, 0], 1)):
        asked = [(0, 12, 5), (5, 12, 5)]
        result = ranked(tmp_path, monkeypatch, priorities, asked, kv_blocks=7)
        assert result.request_columns["preemptions"].tolist() == [int(number == victim) for number in range(2)]


# --- steps that stop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_without_anybody_urgent_it_is_a_plain_static_batch(granularity):
    """Bit for bit, memory running out and prefix sharing included."""

    @SOME
    @given(worlds("qllm"))
    def law(document):
        document["workload"]["classes"] = NOBODY
        for pool in document["cluster"]["pools"]:
            pool["preempt"]["granularity"] = granularity
        plain = [
            {**pool, "preempt": None, "batching": "static", "queue": "fcfs"} for pool in document["cluster"]["pools"]
        ]
        assert outcome(document) == outcome({**document, "cluster": {**document["cluster"], "pools": plain}})

    law()


@SOME
@given(worlds("qllm"), st.sampled_from(["layer", "stage", "expert"]))
def test_where_all_are_urgent_no_step_stops(document, granularity):
    document["workload"].pop("classes", None)

    def runs(granularity):
        pools = [{**pool, "preempt": {"granularity": granularity}} for pool in document["cluster"]["pools"]]
        return outcome({**document, "cluster": {**document["cluster"], "pools": pools}})

    assert runs(granularity) == runs("iteration")


def test_worlds_have_steps_that_stop(monkeypatch):
    """The laws over all systems would say little of steps that stop if none did; `find` raises when there is none."""
    stops = 0
    cut = InterruptibleInstance._on_cut

    def counted(self, alarm):
        nonlocal stops
        stops += alarm is self._pending
        cut(self, alarm)

    def stopping(document):
        nonlocal stops
        stops = 0
        outcome(document)
        return stops > 0

    monkeypatch.setattr(InterruptibleInstance, "_on_cut", counted)
    assert stopping(find(worlds("qllm"), stopping, settings=settings(SOME, max_examples=2000, phases=[Phase.generate])))


def stopped(tmp_path, monkeypatch, asked, urgent, seqs=8, granularity="layer", switch="0.5 ms"):
    """A run on a model of 12 layers: a step takes 10 ms and 1 ms a token; the requests of `urgent` are."""
    use_timer(monkeypatch)
    made = scenario(tmp_path, asked, **one("qllm", max_num_seqs=seqs, preempt={"granularity": granularity,
                                                                               "switch": switch}))  # fmt: skip
    made = resolve({**made.document, "workload": {**made.document["workload"], "classes": NOBODY}})
    monkeypatch.setattr(SIMULATE, "draw_classes",
                        lambda *_: np.array([int(number not in urgent) for number in range(len(asked))]))  # fmt: skip
    result = simulate(made)
    assert rows(result) == rows(simulate(made, exact_steps=True))
    return result


def test_a_decode_step_stops_and_goes_on_with_who_has_come(tmp_path, monkeypatch):
    asked = [(0, 1, 4), (0, 1, 4), (26.3, 5, 2)]
    result = stopped(tmp_path, monkeypatch, asked, {2})
    # 0-12 two prompts; 12-24 decodes of 1 ms a layer; the next stops at 27, after 3 of 12 layers. 27-42 a prompt of 5.
    # Then 0.5 ms; 3 layers of the newcomer alone, 11 / 4 = 2.75 ms; 9 layers of all three, 13 * 3 / 4 = 9.75 ms: 55.
    assert in_ms(result, "first_token_s") == [12, 12, 42]
    assert in_ms(result, "finish_s") == [67, 67, 55]
    assert in_ms(result, "lost_decode_s") == [15, 15, 0]
    assert result.request_columns["preemptions"].tolist() == [1, 1, 0]
    gaps = result.gap_columns
    waited = sorted((round(first * 1e3, 9), int(w)) for first, w in zip(gaps["first_s"], gaps["weight"], strict=True))
    assert waited == [(12, 2), (12, 2), (13, 1), (31, 2)]


def test_a_prefill_stops_and_goes_on_where_it_was(tmp_path, monkeypatch):
    result = stopped(tmp_path, monkeypatch, [(0, 26, 1), (4, 2, 1)], {1})
    # A step of 36 ms, 3 ms a layer, stops at 6. 6-18 the prompt of 2; 0.5 ms, and the 30 ms that were left.
    assert in_ms(result, "prefill_start_s") == [0, 6]
    assert in_ms(result, "first_token_s") == [48.5, 18]
    assert in_ms(result, "lost_prefill_s") == [12, 0]


def test_who_has_no_place_in_the_batch_keeps_what_it_has_computed(tmp_path, monkeypatch):
    asked = [(0, 1, 4), (0, 1, 4), (26.3, 5, 2)]
    result = stopped(tmp_path, monkeypatch, asked, {2}, seqs=2, switch="0 s")
    # As above up to 42; then the first and the newcomer: 2.75 ms of one and 12 * 3 / 4 = 9 ms of both, to 53.75. The
    # newcomer is done. The second's third token lacks 9 of 12 layers, the first's lacks all: again 2.75 + 9, to 65.5.
    # The first is done, the second's last token takes 11.
    assert in_ms(result, "finish_s") == [65.5, 76.5, 53.75]


def test_requests_in_one_step_stop_it_once(tmp_path, monkeypatch):
    result = stopped(tmp_path, monkeypatch, [(0, 26, 1), (4, 2, 1), (5, 2, 1)], {1, 2})
    assert in_ms(result, "first_token_s") == [6 + 14 + 0.5 + 30, 20, 20]


def test_urgent_work_does_not_stop(tmp_path, monkeypatch):
    result = stopped(tmp_path, monkeypatch, [(0, 26, 1), (4, 2, 1)], {0, 1})
    assert in_ms(result, "first_token_s") == [36, 48]


@pytest.mark.parametrize(
    ("granularity", "place", "expected"),
    [
        ("layer", 0.1, 0.5), ("layer", 0.5, 0.5), ("layer", 0.51, 1.0),
        ("stage", 0.1, 0.375), ("stage", 0.375, 0.375), ("stage", 0.38, 0.5), ("stage", 0.9, 1.0),
        ("expert", 0.1, 0.375), ("expert", 0.38, 0.4), ("expert", 0.4, 0.4), ("expert", 0.499, 0.5),
    ],
)  # fmt: skip
def test_boundaries_of_two_layers_whose_experts_take_a_quarter(granularity, place, expected):
    assert Boundaries(granularity, 2, 5, lambda _: 25).after(place, 1, 100) == pytest.approx(expected)


def test_the_finer_the_boundary_the_shorter_the_wait():
    """Mean TTFT of the urgent falls along the ladder, and no finer rung waits longer for its boundary."""
    means = []
    for granularity in GRANULARITIES:
        of = override(classed(0.2), {"cluster.pools.0.preempt.granularity": granularity})
        means.append(summarize(simulate(of))["urgent:mean_ttft_ms"])
    assert means == sorted(means, reverse=True)
    places = np.linspace(0, 0.999, 200)
    layer, stage, expert = (
        np.array([Boundaries(each, 32, 8, lambda _: 60).after(place, 1, 100) for place in places])
        for each in ("layer", "stage", "expert")
    )
    assert (places - 1e-9 <= expert).all() and (expert <= stage).all() and (stage <= layer + 1e-9).all()
