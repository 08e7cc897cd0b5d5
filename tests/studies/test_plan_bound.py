"""The speed of light of two requests, worked by hand; that no simulation beats it is in test_plan.py.

    arrival  prompt  output
    A   0.0 s    250       3
    B   0.25 s   10        1

A step takes 10 ms at least and has 100 tokens at most, a token 1 ms in the best step, attention 2 us a pair of prompt
tokens and 10 us a token of context.

TTFT of A: 250 ms (three steps would be 30) and 2 us x 250 x 250 / 2 = 62.5 ms; of B: 10 ms and 0.1 ms. A token after
the first: 10 ms and 250 x 10 us = 12.5 ms for A. Two decodes of A: 2 ms and 501 tokens of context, 5.01 ms.
"""

from math import inf
from types import SimpleNamespace

import numpy as np
import pytest
from simulate.by_hand import Flat, timer

from tetrisim.latency.roofline import Shard
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.load import load, override
from tetrisim.scenario.model import load_model
from tetrisim.studies import plan_bound
from tetrisim.studies.judge import Criterion
from tetrisim.studies.plan_bound import SAFE, Pace, bound, most_rate, pace
from tetrisim.workload.trace import Trace

PACE = Pace(0.010, 0.001, 2e-6, 1e-5, 100)
TRACE = Trace("two", np.array([0.0, 0.25]), np.array([250, 10]), np.array([3, 1]))
PREFILL_S, DECODE_S = 0.3125 + 0.0101, 0.00701


def work(system="vllm-v1", percent=99.0, together=False, trace=TRACE, **slo):
    limits = {"ttft": None, "tpot": None, "e2el": None, **slo}
    scenario = override(load("default"), {"system": system, "slo": limits})
    paces = (PACE,) * len(scenario.cluster.pools)
    return plan_bound._Work(scenario, paces, trace, Criterion(percent, together, warmup=0.0))


def test_what_a_request_alone_takes_at_least():
    found = work(ttft="1 s", tpot="1 s", e2el="1 s")
    assert found.prefill_s == pytest.approx([0.3125, 0.0101])
    assert found.decode_s == pytest.approx([DECODE_S, 0])
    floors = {"TTFT": [0.3125, 0.0101], "TPOT": [0.0125, 0], "E2EL": [0.3375, 0.0101]}
    assert found.floors == {name: pytest.approx(values) for name, values in floors.items()}
    assert [found.floor(name) for name in floors] == pytest.approx([0.3125, 0.0125, 0.3375])


def test_a_short_prompt_takes_as_many_steps_as_it_has_chunks():
    """250 tokens of 0.01 ms each are 2.5 ms, three steps 30 ms."""
    quick = Pace(0.010, 1e-5, 0.0, 0.0, 100)
    scenario = override(load("default"), {"system": "vllm-v1", "slo": {"ttft": "1 s", "tpot": None}})
    found = plan_bound._Work(scenario, (quick,), TRACE, Criterion(99, warmup=0.0))
    assert found.floors["TTFT"] == pytest.approx([0.030, 0.010])


@pytest.mark.parametrize(("percent", "floor"), [(50, 0.0101), (51, 0.3125)])
def test_the_floor_of_a_percentile_is_that_of_one_of_the_requests(percent, floor):
    assert work(percent=percent, ttft="1 s").floor("TTFT") == pytest.approx(floor)


@pytest.mark.parametrize(("percent", "limit", "misses"), [(50, 300, False), (51, 300, True), (99, 313, False)])
def test_too_many_miss_when_more_are_late_than_may_be(percent, limit, misses):
    """A misses 300 ms and nobody 313 ms; one of two is a half."""
    found = work(percent=percent, ttft=f"{limit} ms")
    assert found.misses("TTFT") is found.misses("") is misses


def test_a_limit_between_tokens_judges_those_who_have_several():
    """A alone misses 12 ms: all of those judged on it, and half of the requests together."""
    assert work(percent=50, tpot="12 ms").misses("TPOT")
    assert not work(percent=50, together=True, tpot="12 ms").misses("TPOT")


def test_instances_that_the_work_needs_by_its_deadlines():
    """Prompts are due 500 ms after they came, A's decodes 40 ms later: by 500 ms 312.5 ms of work, no later as much."""
    each, together = work(ttft="500 ms", tpot="20 ms").needs()
    assert each == pytest.approx((0.3125 / 0.5,)) and together == pytest.approx(0.3125 / 0.5)
    each, together = work("tetriinfer", ttft="500 ms", tpot="20 ms").needs()
    assert each == pytest.approx((0.3125 / 0.5, DECODE_S / 0.54)) and together == pytest.approx(0.3125 / 0.5)
    # An end-to-end limit is one on the prefill, too, and both are due by then.
    each, together = work("tetriinfer", e2el="400 ms").needs()
    assert each == pytest.approx((0.3125 / 0.4, DECODE_S / 0.4)) and together == pytest.approx(
        (0.3125 + DECODE_S) / 0.4
    )


def test_the_largest_pieces_are_forgiven_as_often_as_a_limit_may_be_missed():
    """Half of two may miss: of the prompts A's is left out; of both kinds of work two pieces, A's and B's prompts."""
    each, together = work("tetriinfer", percent=50, ttft="500 ms").needs()
    assert each == pytest.approx((0.0101 / 0.75, 0.0)) and together == 0.0


def test_work_and_deadlines():
    demand = plan_bound._Demand(np.array([2.0, 1.0, 4.0]), np.array([1.0, 3.0, 2.0]), 0)
    assert demand.instances(0.0, inf) == 3.0  # 3 by 1, 4 by 2, 6 by 4
    assert demand.instances(1.0, inf) == 4.0  # 4 by 2: a second after the start
    assert demand.instances(1.0, 1.5) == 0.0
    spared = plan_bound._Demand(np.array([2.0, 1.0, 4.0]), np.array([1.0, 3.0, 2.0]), 1)
    assert spared.instances(0.0, inf) == 0.75  # the 3 left out: 1 by 2, 3 by 4
    assert spared.instances(0.0, 2.0) == 0.5


@pytest.mark.parametrize(
    ("batching", "settings", "largest"),
    [
        ("token-budget", {"max_num_batched_tokens": 300}, 300),
        ("token-budget", {}, 512),
        ("prefill-first", {"max_num_batched_tokens": 300}, 2000),
        ("fixed-chunks", {}, 2000),
        ("decode-only", {"max_num_seqs": 64}, 64),
        ("decode-only", {"max_num_seqs": None}, 100),
        ("of-my-own", {}, 0),
    ],
)
def test_the_largest_step_of_up_to_100_requests_of_up_to_2000_tokens(batching, settings, largest):
    """A recomputed request runs whole where prompts are not cut; a batching that nobody knows may do anything."""
    pool = PoolSpec("hybrid", batching=batching, chunk_tokens=512, **settings)
    assert plan_bound._largest_step(pool, 2000, 100) == largest


def test_the_highest_rate_is_where_the_work_fills_the_cluster(monkeypatch):
    """A thousand prompts of 10.1 ms a second apart, due 10 s after: n instances can do (n - 10.1 ms a rate) x 1000 s.

    By the last deadline, (999 / r + 10) s, there are 10.1 s of work: r = 999 / (10.1 / n - 10) of one instance.
    """
    many = Trace("many", np.arange(1000.0), np.full(1000, 10), np.ones(1000, dtype=int))
    scenario = override(load("default"), {"system": "vllm-v1", "slo": {"ttft": "10 s", "tpot": None}})
    monkeypatch.setattr(plan_bound, "paces", lambda *_: (PACE,))
    found = most_rate(scenario, [many], Criterion(99.95, warmup=0.0), (1,))
    assert found == pytest.approx(999 / (1000 * 0.0101 - 10), rel=2e-3)


class Queried(Flat):
    """Attention of 0.1 ms a cached token, and 5 ms whatever the context."""

    def decode(self, sequences, context):
        return sequences * (5e-3 + context * 1e-4), False


def test_the_pace_of_a_step_of_10_ms_and_1_ms_a_token(monkeypatch):
    """The least step has one token, the best 100. A pair of OPT-125M: 12 layers x 4 x 768 FLOP at half the peak."""
    flat = timer()
    flat.attention = Queried()
    monkeypatch.setattr(plan_bound, "build_timer", lambda *_: (flat, "by hand"))
    shard = Shard(load_model("opt-125m"), load_gpu("l40s"), "bf16", 1)
    found = pace.__wrapped__(shard, "roofline", None, 100, True)
    assert (found.step_s, found.token_s, found.most_tokens) == pytest.approx((0.011 * SAFE, 0.0011 * SAFE, 100))
    assert found.pair_s == pytest.approx(12 * 4 * 768 / (load_gpu("l40s").flops_per_s / 2), rel=1e-8)
    assert found.context_s == pytest.approx(12 * 1e-4)


@pytest.mark.parametrize(
    ("prefill", "decode", "output", "refused"),
    [(15, 99, 30, 0.5), (16, 99, 30, 0.0), (16, 17, 30, 0.5), (16, 18, 30, 0.0), (16, 18, 39, 0.0), (16, 18, 40, 0.5)],
)
def test_what_fits_nowhere(prefill, decode, output, refused):
    """A prompt of 250 in blocks of 16; a decode also holds its answer, but for the last token."""
    scenario = override(load("default"), {"system": "tetriinfer"})
    assert [pool.block_tokens for pool in scenario.cluster.pools] == [16, 16]
    bars = [SimpleNamespace(blocks=blocks) for blocks in (prefill, decode)]
    trace = Trace("two", TRACE.arrival_s, TRACE.prompt_tokens, np.array([output, 1]))
    assert plan_bound._refused(scenario, bars, trace, Criterion(99, warmup=0.0)) == refused


@pytest.mark.parametrize(("output", "refused"), [(2, 0.0), (3, 0.5)])
def test_what_is_longer_than_the_model_fits_nowhere(output, refused):
    """Llama 3.1 has 131,072 positions."""
    trace = Trace("two", TRACE.arrival_s, np.array([131_070, 10]), np.array([output, 1]))
    bars = [SimpleNamespace(blocks=10**6)]
    scenario = override(load("default"), {"system": "vllm-v1"})
    assert plan_bound._refused(scenario, bars, trace, Criterion(99, warmup=0.0)) == refused


def test_two_limits_that_different_requests_miss(monkeypatch):
    """A alone misses 300 ms to its first token, one of 100 tokens alone 500 ms in all: each is half, together all."""
    trace = Trace("two", TRACE.arrival_s, TRACE.prompt_tokens, np.array([3, 100]))
    monkeypatch.setattr(plan_bound, "paces", lambda *_: (PACE,))
    slo = {"ttft": "300 ms", "tpot": None, "e2el": "500 ms"}
    scenario = override(load("default"), {"system": "vllm-v1", "slo": slo})
    said = [bound(scenario, [trace], Criterion(50, together, warmup=0.0)).ruled_out for together in (False, True)]
    assert said == ["", "too many requests miss one of the limits even alone"]
    loose = override(scenario, {"slo.e2el": "2 s"})
    assert bound(loose, [trace], Criterion(50, True, warmup=0.0)).ruled_out == "", "A alone misses"


@pytest.mark.parametrize(("percent", "kind"), [(50, ""), (51, "memory")])
def test_more_that_fit_nowhere_than_may_miss(monkeypatch, percent, kind):
    """A's 250 + 3 tokens do not fit in 15 blocks of 16: one of two."""
    monkeypatch.setattr(plan_bound, "memory_bars", lambda _: (SimpleNamespace(blocks=15),))
    monkeypatch.setattr(plan_bound, "paces", lambda *_: (PACE,))
    scenario = override(load("default"), {"system": "vllm-v1", "slo": {"ttft": "1 s", "tpot": None}})
    found = bound(scenario, [TRACE], Criterion(percent, warmup=0.0))
    assert (found.kind, "50.0 % of the requests fit nowhere: the KV blocks hold 240 tokens" in found.ruled_out) == (
        kind, bool(kind),
    )  # fmt: skip
