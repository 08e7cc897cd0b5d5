"""A plan against worked sums, against simulating every candidate, and against its own bounds."""

from dataclasses import replace
from itertools import pairwise

import pytest

from tetrisim.errors import TetrisimError
from tetrisim.report.plan_plot import front
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.load import load, override, resolve
from tetrisim.scenario.memory import kv_blocks, memory_bar
from tetrisim.scenario.model import load_model
from tetrisim.studies import plan_families, plan_search
from tetrisim.studies.capacity import capacity
from tetrisim.studies.judge import Criterion
from tetrisim.studies.plan import plan
from tetrisim.studies.plan_bound import bound, most_rate
from tetrisim.studies.plan_families import Sampled, chosen
from tetrisim.studies.plan_record import Goal
from tetrisim.studies.plan_search import Task, look, search, verdict
from tetrisim.studies.plan_space import Candidate, Family, Space, count_grid, counts_of, families, scenario_of
from tetrisim.workload.trace import build

P90 = Criterion(90.0)
SMALL = Space(("a100-80gb", "h100-sxm"), (), (1, 2), (2048,), (512,), (128,), most_gpus=5)


@pytest.fixture
def base():
    """The embedded scenario, 400 requests of Poisson arrivals."""
    return override(load("default"), {"workload.requests": 400, "workload.arrivals": "poisson"})


def task(base, seeds=(1, 2), criterion=P90):
    return Task(base, criterion, 400, seeds)


def decided(base, candidate, rate, seeds=(1, 2)):
    """The verdict of long runs."""
    every = task(base, seeds)
    requests = base.workload.requests
    return verdict([look(every, candidate, rate, requests, seed) for seed in seeds], P90)


class TestMemory:
    def test_the_bar_of_llama_8b_on_an_h100_is_the_sum_on_paper(self):
        """Weights: 32 layers of 218,103,808 and two tables of 128,256 x 4,096, 2 bytes each. Activations: 2,048 tokens
        of 2 x (2 x 4,096 + 2 x 28,672) bytes, and 256 rows of 128,256 logits of 4 bytes. A block: 16 x 131,072."""
        pool = load("default").cluster.pools[0]
        pool = replace(pool, max_num_batched_tokens=2048, max_num_seqs=256)
        bar = memory_bar(pool, load_gpu("h100-sxm"), load_model("llama-3.1-8b"), "bf16")
        assert bar.total == 80 * 2**30
        assert bar.usable == pytest.approx(77_309_411_328)
        assert bar.weights == 16_059_990_016
        assert bar.activations == 268_435_456 + 131_334_144
        assert bar.runtime == 805_306_368
        assert bar.block_bytes == 2_097_152
        assert bar.blocks == 28_631 == kv_blocks(pool, load_gpu("h100-sxm"), load_model("llama-3.1-8b"), "bf16", "")
        assert bar.kv == 28_631 * 2_097_152
        assert bar.weights + bar.activations + bar.runtime + bar.kv <= bar.usable

    def test_what_does_not_fit_is_ruled_out_with_the_bar(self, base):
        large = override(base, {"model": "llama-3.1-70b", "cluster.gpu": "b200-sxm"})
        found = plan(large, Goal(rate_per_s=1.0), replace(SMALL, gpus=("l40s",)), P90, seeds=1)
        assert not found.answers and found.simulated == 0
        assert {each.kind for each in found.left} == {"memory"}
        assert "43.2 GiB usable a GPU, 65.7 weights" in str(found.left[-1].reason)
        assert found.summary()["nearest_miss"]["binds"].startswith("GPU memory: llama-3.1-70b does not fit on 2 x l40s")


@pytest.mark.parametrize(
    ("slo", "rate"),
    [
        ({"ttft": "120 ms", "tpot": "12 ms"}, 20.0),
        ({"ttft": "1 s", "tpot": "6 ms"}, 10.0),
        ({"ttft": "300 ms", "tpot": "40 ms"}, 90.0),
        ({"ttft": None, "tpot": None, "e2el": "2500 ms"}, 30.0),
    ],
)
def test_nothing_that_a_bound_rules_out_meets_the_slo(base, slo, rate):
    base = override(base, {"slo": slo, "workload.requests": 150})
    space = Space(("l40s", "h100-sxm"), ("vllm-v0", "vllm-v1", "tetriinfer"), (1, 4), (512,), (512,), (32, 512))
    ruled_out = 0
    for family in families(base, space):
        assert isinstance(family, Family)
        one = scenario_of(base, Candidate(family, (1,) * len(family.roles)), rate)
        limit = bound(one, [build(one.workload, seed) for seed in (1, 2)], P90)
        if limit.ruled_out:  # whatever the number of instances
            counts = [(16 // len(family.roles),) * len(family.roles)]
        else:
            counts = [counts for counts in counts_of(family, 32) if not limit.allows(counts)][-1:]
        for each in counts:
            ruled_out += 1
            said = decided(base, Candidate(family, each), rate)
            assert not said.meets, (Candidate(family, each).name, limit.ruled_out or limit.needs, said.margin)
    assert ruled_out >= 5, "the test says something"


@pytest.mark.parametrize("system", ["vllm-v1", "tetriinfer"])
def test_no_capacity_exceeds_the_bound_on_the_rate(base, system):
    family = next(each for each in families(base, replace(SMALL, systems=(system,))) if isinstance(each, Family))
    candidate = Candidate(family, (2,) if len(family.roles) == 1 else (1, 2))
    one = scenario_of(base, candidate, 1.0)
    most = most_rate(one, [build(one.workload, 1)], P90, candidate.counts)
    sustained = capacity(scenario_of(base, candidate), P90, seeds=1)
    assert 0.05 * most < sustained.found[0].met.rate_per_s < most


def test_a_bound_leaves_out_what_a_prefix_cache_may_hold(base, tmp_path):
    """Every prompt is the same 1,024 tokens: after the first, one token of each is computed."""
    rows = [
        f'{{"timestamp": {n * 10}, "input_length": 1024, "output_length": 2, "hash_ids": [1, 2]}}' for n in range(400)
    ]
    (tmp_path / "same.jsonl").write_text("\n".join(rows) + "\n")
    base = override(base, {"workload": {"trace": str(tmp_path / "same.jsonl"), "arrivals": "trace"}})
    base = override(base, {"cluster.gpu": "l40s", "slo": {"ttft": "60 ms", "tpot": None}})
    family = Family("l40s", "vllm-v1", 1, ("hybrid",), (("hybrid", "max_num_batched_tokens", 2048),))
    one = scenario_of(base, Candidate(family, (1,)), 20.0)
    assert decided(base, Candidate(family, (1,)), 20.0).meets
    assert bound(one, [build(one.workload, 1)], P90).allows((1,))


class TestBruteForce:
    @pytest.mark.parametrize("system", ["vllm-v1", "tetriinfer"])
    def test_the_cheapest_set_is_that_of_simulating_every_candidate(self, base, system):
        rate, space = 18.0, replace(SMALL, systems=(system,))
        found = plan(base, Goal(rate_per_s=rate, answers=1), space, P90, seeds=2)
        meeting: dict[Candidate, float] = {}
        every = [Candidate(family, counts) for family in families(base, space) for counts in counts_of(family, 5)]
        for candidate in every:
            if decided(base, candidate, rate).meets:
                meeting[candidate] = candidate.dollars_per_hour
        assert found.candidates == len(every)
        cheapest = {candidate for candidate, price in meeting.items() if price <= min(meeting.values()) + 1e-9}
        ours = [
            row for row in found.ranked if row.candidate.dollars_per_hour == found.ranked[0].candidate.dollars_per_hour
        ]
        assert {row.candidate for row in ours} == cheapest
        assert found.simulated < len(every), "and it took less"
        missing = {row.candidate for row in found.rows if row.stage == "final" and not row.meets}
        assert not missing & set(meeting)

    def test_the_most_for_some_gpus_is_the_best_of_all_capacities(self, base):
        space = replace(SMALL, tensor_parallel=(1,), gpus=("h100-sxm",))
        base = override(base, {"workload.requests": 250})
        found = plan(base, Goal(gpus=3), space, P90, seeds=1)
        every = {
            counts: capacity(scenario_of(base, Candidate(family, counts)), P90, seeds=1).rate.mean
            for family in families(base, space)
            for counts in counts_of(family, 3)
        }
        best = found.ranked[0]
        assert best.capacity.rate.mean == pytest.approx(max(every.values()))
        assert [row.rank for row in found.ranked] == list(range(1, len(found.ranked) + 1))
        assert best.meets and all(one.share(P90) >= 0.9 for one in best.looks), "every seed meets at the written rate"

    def test_money_buys_what_it_buys(self, base):
        found = plan(base, Goal(dollars_per_hour=7.0), replace(SMALL, systems=("vllm-v1",)), P90, seeds=2)
        assert all(row.candidate.dollars_per_hour <= 7 for row in found.rows)
        assert {row.candidate.name for row in found.rows} | {each.name for each in found.left} == {
            "3 x a100-80gb tp1 vllm-v1 tokens=2048 seqs=128", "1 x a100-80gb tp2 vllm-v1 tokens=2048 seqs=128",
            "2 x h100-sxm tp1 vllm-v1 tokens=2048 seqs=128", "1 x h100-sxm tp2 vllm-v1 tokens=2048 seqs=128",
        }  # fmt: skip


class TestSearch:
    def test_the_smallest_is_found_in_few_runs_whatever_it_is(self, base, monkeypatch):
        family = Family("h100-sxm", "vllm-v1", 1, ("hybrid",), ())
        for least in (1, 2, 7, 30, 64):
            looked: list[int] = []

            def run(_, candidate, *__, least=least, looked=looked):
                looked.append(candidate.counts[0])
                return Told(candidate.counts[0] >= least)

            monkeypatch.setattr(plan_search, "look", run)
            found = search(task(base), 10.0, (family, counts_of(family, 64), float("inf")))
            assert found.contenders == ((least,),)
            assert len(set(looked)) <= 12
            seen = set(looked) | {counts[0] for _, counts in found.left_out}
            assert seen == set(count_grid(64)), "everything is looked at or left out with a reason"

    def test_pools_grow_apart(self, base, monkeypatch):
        """Three for prefill and two for decode: neither makes up for the other."""
        family = Family("h100-sxm", "tetriinfer", 1, ("prefill", "decode"), ())
        enough = lambda counts: counts[0] >= 3 and counts[1] >= 2  # noqa: E731
        monkeypatch.setattr(plan_search, "look", lambda _, candidate, *__: Told(enough(candidate.counts)))
        found = search(task(base), 10.0, (family, counts_of(family, 12), float("inf")))
        assert found.contenders == ((3, 2),)

    def test_prices_bound_the_search(self, base, monkeypatch):
        family = Family("h100-sxm", "vllm-v1", 1, ("hybrid",), ())
        monkeypatch.setattr(plan_search, "look", lambda *_: Told(False))
        found = search(task(base), 10.0, (family, counts_of(family, 9), 12.0))
        assert found.contenders == () and [counts for reason, counts in found.left_out if "12.00 $/h" in reason] == [
            (count,) for count in range(5, 10)
        ]


class Told:
    """A look that was decided beforehand."""

    def __init__(self, meets):
        self.meets = meets

    def status(self, _):
        return plan_search.MEETS if self.meets else plan_search.MISSES


def test_clear_misses_leave_room_for_luck(base):
    """400 requests, 360 judged, 36 may miss: 36 + 6 x 6 + 3 = 75 more or less is unclear, not a miss."""
    one = look(task(base), Candidate(Family("h100-sxm", "vllm-v1", 1, ("hybrid",), ()), (4,)), 10.0, 400, 1)
    for late, said in ((36, "meets"), (37, "unclear"), (75, "unclear"), (76, "misses")):
        judged = replace(one.probe, within={"TTFT": 1 - late / 360, "TPOT": 1.0})
        assert replace(one, probe=judged).status(P90) == said


class TestSpace:
    def test_counts_are_all_small_numbers_and_then_an_eighth_more_each(self):
        assert count_grid(16) == list(range(1, 17))
        assert count_grid(30) == [*range(1, 17), 18, 20, 22, 24, 27, 30]
        family = Family("h100-sxm", "tetriinfer", 2, ("prefill", "decode"), ())
        assert counts_of(family, 6) == [(1, 1), (1, 2), (2, 1)]

    def test_what_the_scenario_says_of_policies_stays(self):
        base = resolve({
            "model": "llama-3.1-8b",
            "system": "mine",
            "workload": {"trace": "azure-conv-like", "requests": 400, "arrivals": "poisson", "rate": "5 /s"},
            "cluster": {"gpu": "l40s", "route": "round-robin",
                        "pools": [{"role": "hybrid", "instances": 3, "memory_utilization": 0.8, "kv_blocks": 900}]},
            "systems": {"mine": {"base": "vllm-v1", "cluster": {"pools": [{"role": "hybrid", "watermark": 0.02}]}}},
        })  # fmt: skip
        family = Family("h100-sxm", "mine", 2, ("hybrid",), (("hybrid", "max_num_seqs", 64),))
        found = scenario_of(base, Candidate(family, (5,)), 7.0, 300, 9)
        (pool,) = found.cluster.pools
        assert (found.cluster.gpu, pool.instances, pool.tensor_parallel, pool.max_num_seqs) == ("h100-sxm", 5, 2, 64)
        assert (pool.memory_utilization, pool.watermark, pool.kv_blocks) == (0.8, 0.02, None)
        assert found.cluster.route == "round-robin"
        assert (found.workload.rate_per_s, found.workload.requests, found.seed) == (7.0, 300, 9)

    def test_caps_are_those_that_the_batching_heeds(self, base):
        space = Space(("h100-sxm",), ("vllm-v0", "vllm-v1", "tetriinfer"), (1,), (256, 2048), (512,), (128, 512))
        names = [each.name.removeprefix("h100-sxm tp1 ") for each in families(base, space)]
        assert names == [
            "vllm-v0 seqs=128", "vllm-v0 seqs=512", "vllm-v1 tokens=256 seqs=128", "vllm-v1 tokens=2048 seqs=128",
            "vllm-v1 tokens=2048 seqs=512", "tetriinfer chunk=512 seqs=128", "tetriinfer chunk=512 seqs=512",
        ]  # fmt: skip

    def test_what_is_impossible_says_why(self, base):
        found = plan(base, Goal(rate_per_s=5.0), replace(SMALL, tensor_parallel=(3,)), P90, seeds=1)
        assert not found.answers and found.families == 0
        assert "3 does not divide the 32 heads" in found.left[0].reason
        assert "Not possible: a100-80gb tp3 vllm-v1" in str(found)


class TestSampling:
    @pytest.fixture
    def many(self, base):
        return [each for each in families(base, Space()) if isinstance(each, Family)]

    def test_too_many_families_are_sampled_and_the_good_ones_found(self, many, monkeypatch):
        monkeypatch.setattr(plan_families, "MOST_FAMILIES", 100)
        monkeypatch.setattr(plan_families, "SAMPLED", 80)

        def value(family):
            return (
                load_gpu(family.gpu).price_per_hour * family.tensor_parallel + sum(cap[2] for cap in family.caps) / 1e4
            )

        def best_of_run():
            source, seen = chosen(many, seed=0), []
            assert isinstance(source, Sampled)
            for wave in source.waves():
                for family in wave:
                    seen.append(family)
                    source.tell(family, value(family))
            return seen

        seen = best_of_run()
        assert len(seen) == len(set(seen)) and 60 <= len(seen) < 80 + plan_families.WAVE < len(many)
        assert sorted(map(value, many)).index(min(map(value, seen))) < 5
        assert seen == best_of_run(), "the same seed, the same proposals"

    def test_a_plan_says_that_it_sampled_and_what_it_left(self, base, monkeypatch):
        monkeypatch.setattr(plan_families, "MOST_FAMILIES", 2)
        monkeypatch.setattr(plan_families, "SAMPLED", 3)
        monkeypatch.setattr(plan_families, "WAVE", 1)
        found = plan(base, Goal(rate_per_s=10.0), replace(SMALL, most_gpus=3), P90, seeds=1)
        assert found.sampled and found.answers
        left = [each for each in found.left if each.kind == "not sampled"]
        assert left and all(each.candidates and "optuna proposed" in each.reason for each in left)
        assert "optuna's TPE" in str(found)

    def test_without_optuna_it_says_what_to_install(self, many, monkeypatch):
        monkeypatch.setattr(plan_families, "MOST_FAMILIES", 100)

        def missing(name):
            raise ImportError(name)

        monkeypatch.setattr(plan_families, "import_module", missing)
        with pytest.raises(
            TetrisimError, match=r"holds 320 families .* pip install 'tetrisim\[plan\]', or fewer of --gpu"
        ):
            chosen(many, 0)


def test_ranks_prices_and_reasons_add_up(base):
    found = plan(base, Goal(rate_per_s=20.0), SMALL, P90, seeds=3)
    said = found.summary()
    rows = {row["name"]: row for row in said["candidates"]}
    assert len(rows) == said["counts"]["simulated"]
    assert said["counts"]["simulated"] + sum(said["counts"]["pruned"].values()) == said["counts"]["candidates"]
    ranked = [row for row in said["candidates"] if row["rank"] is not None]
    assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
    assert all(one["dollars_per_hour"] <= other["dollars_per_hour"] for one, other in pairwise(ranked))
    assert all(row["meets"] and row["stage"] == "final" and row["seeds"] == 3 for row in ranked)
    assert said["answers"][0] == ranked[0]["name"]
    for row in ranked:
        tokens = row["tokens_per_s_per_gpu"] * row["gpus"]
        assert row["dollars_per_million_tokens"] == pytest.approx(row["dollars_per_hour"] / tokens / 3600 * 1e6)
        assert row["dollars_per_hour"] == row["gpus"] * load_gpu(row["gpu"]).price_per_hour
        assert row["ttft_ms"] <= 500 and row["tpot_ms"] <= 20
    front = [row for row in said["candidates"] if row["pareto"]]
    assert front and all(row["meets"] for row in front)
    keys = ("tokens_per_s_per_gpu", "tokens_per_s_per_user")
    for row in front:
        assert not any(all(other[key] > row[key] for key in keys) and other["dollars_per_million_tokens"]
                       < row["dollars_per_million_tokens"] for other in ranked)  # fmt: skip


def test_settings_without_effect_show_no_difference(base):
    """128 and 512 seats are the same to a cluster that never fills them."""
    space = replace(SMALL, gpus=("h100-sxm",), systems=("vllm-v1",), tensor_parallel=(1,), seqs=(256, 512))
    found = plan(base, Goal(rate_per_s=15.0), space, P90, seeds=3)
    first, second = found.summary()["candidates"][:2]
    assert first["dollars_per_hour"] == second["dollars_per_hour"] and second["rank"] == 2
    assert second["against_previous"]["shown"] is False
    assert second["against_previous"]["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_processes_do_not_change_the_answer(base):
    space = replace(SMALL, gpus=("h100-sxm",))
    one, two = (plan(base, Goal(rate_per_s=20.0), space, P90, seeds=2, jobs=jobs).summary() for jobs in (1, 2))
    for each in (one, two):
        del each["wall_s"]
    assert one == two


@pytest.mark.parametrize("goal", [{}, {"rate_per_s": 1.0, "gpus": 2}, {"gpus": 0}, {"rate_per_s": float("inf")}])
def test_a_goal_is_one_positive_number(goal):
    with pytest.raises(ValueError, match="goal: expected"):
        Goal(**goal)


def test_the_front_of_the_picture_is_what_nobody_beats_on_both_axes():
    points = [(10, 5.0, True), (20, 4.0, True), (15, 3.0, True), (30, 1.0, True), (40, 9.0, False), (30, 0.5, True)]
    rows = [{"tokens_per_s_per_user": user, "price": price, "meets": meets} for user, price, meets in points]
    assert [(row["tokens_per_s_per_user"], row["price"]) for row in front(rows, "price", True)] == [
        (10, 5.0), (20, 4.0), (30, 1.0),
    ]  # fmt: skip
    assert [(row["tokens_per_s_per_user"], row["price"]) for row in front(rows, "price", False)] == [(30, 0.5)]
