"""Each policy on a view made by hand: the choice it has to make, and what it may not look at."""

import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetrisim.errors import ScenarioError
from tetrisim.policies import admission, batching, flipping, placement, prediction, routing
from tetrisim.policies.registry import POLICIES, find_policy
from tetrisim.scenario.cluster import FlipSpec, PoolSpec, PredictorSpec


def asked(number=0, prompt=100, predicted=200, heavy=False):
    return SimpleNamespace(id=number, prompt=prompt, predicted=predicted, heavy=heavy)


class Decodes:
    """Decode instances with (free tokens, heavy, light)."""

    def __init__(self, *loads):
        self.loads = [
            SimpleNamespace(free_tokens=free, capacity_tokens=1000, heavy=heavy, light=light)
            for free, heavy, light in loads
        ]
        self.count = len(loads)

    def snapshot(self, member):
        return self.loads[member]


def chosen(policy, view, request, draws=400):
    rng = random.Random(1)
    return Counter(policy(view, request, rng) for _ in range(draws))


@pytest.mark.parametrize("policy", [placement.power_of_two, placement.random])
def test_only_instances_with_room_for_the_request_are_drawn(policy):
    view = Decodes((299, 0, 0), (300, 0, 0), (0, 0, 0), (500, 0, 0))
    assert set(chosen(policy, view, asked())) == {1, 3}


@pytest.mark.parametrize("policy", [placement.power_of_two, placement.random, placement.least_kv])
def test_without_room_anywhere_a_request_is_held(policy):
    assert set(chosen(policy, Decodes((299, 0, 0), (10, 0, 0)), asked())) == {None}


@pytest.mark.parametrize("policy", [placement.power_of_two, placement.random, placement.least_kv])
def test_a_prediction_beyond_the_whole_memory_waits_for_all_of_it(policy):
    huge = asked(predicted=5000)
    assert set(chosen(policy, Decodes((999, 0, 0)), huge)) == {None}
    assert set(chosen(policy, Decodes((1000, 0, 0)), huge)) == {0}


def test_power_of_two_prefers_the_lower_share_of_heavy_decodes():
    view = Decodes((900, 4, 2), (900, 1, 2))
    picks = chosen(placement.power_of_two, view, asked(heavy=True), 4000)
    # The worse one is taken only when both draws fall on it: a quarter of the time.
    assert picks[0] / 4000 == pytest.approx(0.25, abs=0.03)


def test_power_of_two_spreads_heavy_decodes_over_empty_instances():
    view = Decodes((900, 1, 0), (900, 0, 0))
    assert chosen(placement.power_of_two, view, asked(heavy=True), 4000)[0] / 4000 == pytest.approx(0.25, abs=0.03)


def test_random_placement_is_uniform_even_when_room_is_rare():
    view = Decodes(*[(0, 0, 0)] * 98, (900, 0, 0), (900, 0, 0))
    picks = chosen(placement.random, view, asked(), 4000)
    assert set(picks) == {98, 99}
    assert picks[98] / 4000 == pytest.approx(0.5, abs=0.04)


def test_the_other_placements():
    view = Decodes((300, 0, 0), (900, 0, 0), (900, 0, 0))
    rng = random.Random(0)
    assert [placement.round_robin(view, asked(number), rng) for number in range(5)] == [0, 1, 2, 0, 1]
    assert placement.least_kv(view, asked(), rng) == 1
    assert placement.least_kv(Decodes((300, 0, 0)), asked(), rng) == 0, "just enough"
    assert [placement.imbalance(view, asked(number), rng) for number in range(4)] == [1, 2, 1, 2]
    assert placement.imbalance(view, asked(3, heavy=True), rng) == 0
    assert placement.imbalance(Decodes((1, 0, 0)), asked(), rng) == 0


def test_routing():
    loads = [5, 2, 9]
    view = SimpleNamespace(count=3, load=loads.__getitem__, least_loaded=lambda: 1)
    rng = random.Random(0)
    assert routing.least_loaded(view, asked(), rng) == 1
    assert [routing.round_robin(view, asked(number), rng) for number in range(4)] == [0, 1, 2, 0]
    picks = chosen(routing.random, view, asked(), 3000)
    assert [picks[member] / 3000 for member in range(3)] == pytest.approx([1 / 3] * 3, abs=0.04)
    picks = chosen(routing.power_of_two, view, asked(), 3000)
    # of nine pairs the least loaded wins five, the middle one three, the most loaded one
    assert [picks[member] / 3000 for member in range(3)] == pytest.approx([3 / 9, 5 / 9, 1 / 9], abs=0.04)


class Members:
    """Instances by what they show; `cached` tokens of any request, `late_s` until its first token."""

    def __init__(self, *members, ttft_limit_s=1.0):
        self.members, self.count, self.ttft_limit_s = members, len(members), ttft_limit_s

    def usage(self, member):
        shown = {"block_tokens": 16, "capacity_blocks": 100, "free_blocks": 50, "waiting": 0, "expected": 0,
                 "cached": 0, "late_s": 0.0, "chunk_tokens": 512, **self.members[member]}  # fmt: skip
        return SimpleNamespace(
            **shown, waiting_blocks=lambda: shown["waiting"], expected_tokens=lambda: shown["expected"],
            cached_tokens=lambda _: shown["cached"], ttft_s=lambda *_: shown["late_s"],
        )  # fmt: skip


@pytest.mark.parametrize(
    "worse", [{"waiting": 2}, {"expected": 32}, {"free_blocks": 48}, {"capacity_blocks": 102}, {"cached": 0}]
)
def test_prefix_aware_routing_adds_blocks_to_prefill_to_blocks_in_use_or_wanted(worse):
    """Two blocks more of either kind are worse than one block of 16 tokens more to compute."""
    other = {"cached": 32}
    view = Members({**other, **worse}, {"cached": 16})
    assert routing.prefix_aware(view, asked(), None) == 1
    assert routing.prefix_aware(Members(other, {"cached": 16}), asked(), None) == 0


@pytest.mark.parametrize(
    ("prompt", "small_s", "chosen"),
    [(512, 0.9, 0), (512, 1.0, 0), (512, 1.1, 2), (513, 0.9, 2)],
)
def test_length_aware_routing_sends_short_prompts_in_time_to_small_chunks(prompt, small_s, chosen):
    """Of those of small chunks the first is the sooner, of those of large ones the last."""
    view = Members(
        {"chunk_tokens": 64, "late_s": small_s}, {"chunk_tokens": 64, "late_s": 2.0}, {"late_s": 0.1}, {"late_s": 0.2}
    )
    assert routing.length_aware(view, asked(prompt=prompt), None) == chosen


def gate(running=3, free=20, growth=5, shortest=10):
    return SimpleNamespace(
        running=running, free_blocks=free, blocks=lambda tokens: -(-tokens // 16),
        growth=lambda steps: growth * steps // 10, shortest_remaining=lambda: shortest,
    )  # fmt: skip


def test_greedy_admits_whatever_fits_now():
    assert admission.greedy(gate(free=0), asked())


def test_reserve_static_wants_room_for_the_predicted_whole():
    # 100 + 200 tokens take 19 blocks
    assert admission.reserve_static(gate(free=19), asked())
    assert not admission.reserve_static(gate(free=18), asked())


def test_reserve_dynamic_looks_as_far_as_the_shortest_job():
    # in 10 steps: 110 tokens take 7 blocks, and the batch grows by 5
    assert admission.reserve_dynamic(gate(free=12), asked())
    assert not admission.reserve_dynamic(gate(free=11), asked())


@pytest.mark.parametrize("policy", [admission.reserve_static, admission.reserve_dynamic])
def test_an_empty_batch_admits_in_any_case(policy):
    assert policy(gate(running=0, free=0), asked())


@given(st.integers(1, 3000), st.integers(0, 600))
def test_what_a_step_takes_of_a_prompt(remaining, scheduled):
    def take(name, **pool):
        policy = POLICIES["batching"][name](PoolSpec(role="hybrid", max_num_seqs=1, **pool))
        return policy.prefill_tokens(remaining, min(scheduled, 512)), policy

    room = 512 - min(scheduled, 512)
    assert take("token-budget", max_num_batched_tokens=512)[0] == min(remaining, room)
    assert take("token-budget", max_num_batched_tokens=512, long_prefill_tokens=20)[0] == min(remaining, room, 20)
    whole, policy = take("prefill-first", max_num_batched_tokens=512)
    assert whole == (remaining if remaining <= room or scheduled == 0 else 0)
    assert not policy.mixes and policy.padded == 0
    chunk, policy = take("fixed-chunks", chunk_tokens=512)
    assert (chunk, policy.mixes, policy.padded) == (min(remaining, room), False, 512)
    assert take("decode-only")[0] == (remaining if scheduled == 0 else 0)


def test_the_oracle_knows_and_none_does_not():
    outputs, rng = np.array([1, 50, 700]), np.random.default_rng(0)
    assert prediction.oracle(outputs, PredictorSpec(), rng).tolist() == [1, 50, 700]
    assert prediction.none(outputs, PredictorSpec(), rng).tolist() == [0, 0, 0]


def test_a_perfect_classifier_says_the_lower_end_of_the_range():
    spec = PredictorSpec(policy="bucket", granularity_tokens=200, accuracy=1.0)
    outputs = np.array([1, 199, 200, 201, 399, 400, 1000])
    assert prediction.bucket(outputs, spec, np.random.default_rng(0)).tolist() == [0, 0, 200, 200, 200, 400, 1000]


def test_a_classifier_is_right_as_often_as_stated_and_otherwise_one_range_off():
    spec = PredictorSpec(policy="bucket", granularity_tokens=100, accuracy=0.75)
    outputs = np.random.default_rng(1).integers(1, 1000, 40_000)
    off = (prediction.bucket(outputs, spec, np.random.default_rng(2)) - outputs // 100 * 100) // 100
    assert set(off.tolist()) == {-1, 0, 1}
    assert (off == 0).mean() == pytest.approx(0.75, abs=0.01)
    lowest = outputs < 100
    assert set(off[lowest].tolist()) == {0, 1}
    assert (off[~lowest] == 1).sum() / (off[~lowest] != 0).sum() == pytest.approx(0.5, abs=0.02)


def test_the_bias_of_a_classifier_says_which_way_it_errs_and_the_drift_how_much_it_loses():
    outputs = np.full(40_000, 550)
    spec = PredictorSpec(policy="bucket", granularity_tokens=100, accuracy=0.8, bias=0.5, drift=0.6)
    off = (prediction.bucket(outputs, spec, np.random.default_rng(3)) - 500) // 100
    assert (off == 1).sum() / (off != 0).sum() == pytest.approx(0.75, abs=0.02)
    assert (off[:4000] == 0).mean() == pytest.approx(0.77, abs=0.02)  # 0.80 at the first, 0.74 a tenth of the way on
    assert (off[-4000:] == 0).mean() == pytest.approx(0.23, abs=0.02)


def test_a_useless_predictor_keeps_the_spread_of_lengths_and_knows_nothing_of_each():
    outputs = np.random.default_rng(4).integers(0, 1000, 40_000)
    spec = PredictorSpec(policy="shuffled", granularity_tokens=100)
    guess = prediction.shuffled(outputs, spec, np.random.default_rng(5))
    assert sorted(guess.tolist()) == sorted((outputs // 100 * 100).tolist())
    assert np.corrcoef(outputs, guess)[0, 1] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    ("busy", "peers", "others", "flips"),
    [(0.09, 2, 0.91, True), (0.1, 2, 0.91, False), (0.09, 2, 0.9, False), (0.09, 1, 0.91, False)],
)
def test_a_nearly_idle_instance_changes_sides_when_the_other_role_is_nearly_full(busy, peers, others, flips):
    view = SimpleNamespace(busy=busy, peers=peers, other_role_busy=others)
    assert flipping.watermark(view, FlipSpec()) is flips


@pytest.mark.parametrize(
    ("idle_s", "peers", "busy", "flips"),
    [(60.0, 2, True, True), (59.9, 2, True, False), (60.0, 1, True, False), (60.0, 2, False, False)],
)
def test_an_instance_flips_after_a_minute_with_a_peer_and_work_on_the_other_side(idle_s, peers, busy, flips):
    view = SimpleNamespace(idle_s=idle_s, peers=peers, other_role_works=busy)
    assert flipping.idle(view, FlipSpec()) is flips
    assert not flipping.never(view, FlipSpec())


def test_both_draws_of_power_of_two_may_be_the_first_member():
    """Members 0 and 1 have room, 2 has none: each of the two is chosen by its own load, however they are drawn."""
    full, heavy, light = (SimpleNamespace(free_tokens=free, capacity_tokens=100, heavy=number, light=0)
                          for free, number in ((0, 0), (100, 5), (100, 1)))  # fmt: skip
    view = SimpleNamespace(count=3, snapshot=lambda member: (light, heavy, full)[member])
    request = SimpleNamespace(prompt=10, predicted=0, heavy=True)
    rng = random.Random(1)
    chosen = [placement.power_of_two(view, request, rng) for _ in range(3000)]
    # The heavier one only when both draws fall on it.
    assert chosen.count(1) / 3000 == pytest.approx(0.25, abs=0.06)


def test_a_policy_of_ones_own_is_named_by_module_and_function():
    assert find_policy("route", "os.path:join", "cluster.route").__name__ == "join"
    with pytest.raises(ScenarioError) as caught:
        find_policy("route", "os.path:joinn", "cluster.route")
    assert caught.value.where == "cluster.route"
    assert caught.value.expected == "module:function of your own"


@pytest.mark.parametrize("kind", POLICIES)
def test_every_registered_name_is_found_and_a_wrong_one_is_not(kind):
    for name, policy in POLICIES[kind].items():
        assert find_policy(kind, name, "here") is policy
        with pytest.raises(ScenarioError) as caught:
            find_policy(kind, name + "x", "here")
        assert caught.value.nearest == name


def test_batching_policies_fall_back_on_the_chunk():
    pool = PoolSpec(role="hybrid", max_num_seqs=8, chunk_tokens=300)
    assert batching.token_budget(pool).prefill_tokens(1000, 0) == 300
