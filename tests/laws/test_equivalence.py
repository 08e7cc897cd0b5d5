"""The same in, the same out; common random numbers; and a mechanism that is off leaves the plain baseline."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws.worlds import requests, rows, worlds, write_csv, write_mooncake

import tetrisim.policies
from tetrisim.errors import ScenarioError
from tetrisim.policies.batching import TokenBudget
from tetrisim.scenario.load import dump_yaml, override, resolve
from tetrisim.scenario.presets import SYSTEMS
from tetrisim.simulate import simulate

SOME = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

CHILD = """
import json, sys
from laws.worlds import rows
from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate
print(json.dumps([rows(simulate(resolve(document))) for document in json.load(sys.stdin)]))
"""


def outcome(document):
    """The rows of a run, or why there are none."""
    try:
        return rows(simulate(resolve(document)))
    except ScenarioError as error:
        return str(error)


def busy(system, seed=0, **cluster):
    """Two hundred requests through a loaded little cluster with several instances of each role."""
    pools = [{"role": role, "instances": 2, "kv_blocks": 400} for role in SYSTEMS[system].pools]
    return {
        "model": "llama-3.1-8b",
        "system": system,
        "profile": "roofline",
        "workload": {"trace": "azure-conv-like", "requests": 200, "arrivals": "poisson", "rate": "30 /s"},
        "cluster": {"gpu": "h100-sxm", "pools": pools, **cluster},
        "seed": seed,
    }


@SOME
@given(worlds())
def test_twice_the_same_in_one_process(document):
    assert outcome(document) == outcome(document)


def test_the_same_in_other_processes_under_other_hash_seeds():
    documents = [busy(system) for system in SYSTEMS]
    documents += [busy("tetriinfer", route="random", place={"policy": "random"}, predict={"policy": "bucket"})]
    here = [rows(simulate(resolve(document))) for document in documents]
    # Not one run: but those of systems whose mechanism has nothing to do here are vLLM V1's.
    assert len({json.dumps(found["finish_s"]) for found in here}) > 5
    root = Path(__file__).parents[2]
    for hash_seed in ("1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
        child = subprocess.run(
            [sys.executable, "-c", CHILD], input=json.dumps(documents), env=environment, capture_output=True, text=True
        )
        assert child.returncode == 0, child.stderr
        assert json.loads(child.stdout) == here


def test_another_seed_is_another_run():
    assert outcome(busy("vllm-v1", 1))["finish_s"] != outcome(busy("vllm-v1", 2))["finish_s"]


def test_systems_under_one_seed_see_the_same_requests_and_the_same_guesses():
    predict = {"predict": {"policy": "bucket", "granularity_tokens": 50, "accuracy": 0.6}}
    found = {system: outcome(busy(system, **predict)) for system in SYSTEMS}
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "predicted_tokens"):
        assert all(each[name] == found["vllm-v1"][name] for each in found.values())
    assert len(set(found["vllm-v1"]["predicted_tokens"])) > 3


def test_only_the_predictor_is_shown_output_lengths():
    folder = Path(tetrisim.policies.__file__).parent
    files = {file.name: ast.parse(file.read_text()) for file in folder.glob("*.py")}
    readers = {
        name
        for name, tree in files.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id) in ("output", "outputs", "output_tokens",
                                                                            "finish_step", "generated")
    }  # fmt: skip
    assert readers == {"prediction.py"}


@SOME
@given(requests(), st.randoms(use_true_random=False), st.sampled_from(list(SYSTEMS)))
def test_who_guesses_nothing_cannot_tell_long_outputs_from_short_ones(asked, random, system):
    """With outputs exchanged among requests, all goes alike until the first of either run finishes."""
    outputs = [output + 1 for _, _, output in asked]
    random.shuffle(outputs)
    other = [(at, prompt, output) for (at, prompt, _), output in zip(asked, outputs, strict=True)]
    asked = [(at, prompt, output + 1) for at, prompt, output in asked]
    pools = [{"role": role, "instances": 2, "kv_blocks": 400} for role in SYSTEMS[system].pools]
    runs = []
    for trace in (asked, other):
        cluster = {"gpu": "l40s", "pools": pools, "predict": {"policy": "none"}}
        document = {"model": "opt-125m", "system": system, "profile": "roofline", "cluster": cluster,
                    "workload": {"trace": write_csv(trace)}}  # fmt: skip
        runs.append(rows(simulate(resolve(document))))
    until = min(min(run["finish_s"]) for run in runs)
    for name in ("prefill_start_s", "first_token_s", "transfer_start_s", "decode_start_s"):
        first, second = ([at if at is not None and at < until else None for at in run[name]] for run in runs)
        assert first == second


@SOME
@given(worlds("sarathi"))
def test_sarathi_with_v1s_budget_is_v1(document):
    for pool in document["cluster"]["pools"]:
        pool |= {"max_num_batched_tokens": 64, "max_num_seqs": 8, "async_scheduling": False}
    assert outcome(document) == outcome({**document, "system": "vllm-v1"})


@SOME
@given(worlds("vllm-v1"))
def test_prefix_caching_changes_nothing_where_no_prefixes_are_named(document):
    asked = [(0.001 * number, 20 + 7 * number, 5 + 3 * number) for number in range(8)]
    document["workload"] = {"trace": write_csv(asked)}

    def cached(flag):
        pools = [{**pool, "prefix_caching": flag} for pool in document["cluster"]["pools"]]
        return outcome({**document, "cluster": {**document["cluster"], "pools": pools}})

    assert cached(True) == cached(False)


@SOME
@given(worlds("vllm-v1"), requests())
def test_where_nothing_is_shared_blocks_told_apart_are_as_good_as_counted_ones(document, asked):
    """The cache that knows each block against plain counting, on a trace whose ids never repeat, nobody preempted."""
    asked = [*asked, (asked[-1][0], 33, 2)]  # its length says that a block has 16 tokens
    document["workload"] = {"trace": write_mooncake(asked, [0] * len(asked), shared=0)}

    def cached(flag):
        pools = [{**pool, "kv_blocks": 20_000, "prefix_caching": flag} for pool in document["cluster"]["pools"]]
        return outcome({**document, "cluster": {**document["cluster"], "pools": pools}})

    assert cached(True) == cached(False)


def test_a_shared_prefix_is_computed_once():
    """Two prompts of 64 tokens, the second after the first, 48 of them the same: the second is as short as 16."""
    asked = [(0.0, 64, 1), (1.0, 64, 1), (2.0, 33, 1)]

    def first_token_of_the_second(shared):
        trace = write_mooncake(asked, [0, 0, 1], shared)
        document = {"model": "llama-3.1-8b", "system": "vllm-v1", "profile": "roofline",
                    "workload": {"trace": trace}, "cluster": {"gpu": "h100-sxm"}}  # fmt: skip
        return outcome(document)["first_token_s"][1] - 1.0

    alone = {"model": "llama-3.1-8b", "system": "vllm-v1", "profile": "roofline",
             "workload": {"trace": write_csv([(0.0, 64, 1)])}, "cluster": {"gpu": "h100-sxm"}}  # fmt: skip
    whole = outcome(alone)["first_token_s"][0]
    assert first_token_of_the_second(0) == pytest.approx(whole, abs=1e-12)
    # Not the attention over the prefix, but the work of 48 tokens is saved.
    assert first_token_of_the_second(3) < first_token_of_the_second(2) < first_token_of_the_second(0)


@SOME
@given(worlds("tetriinfer", {"prefill": {"queue_batch": 1}}))
def test_groups_of_one_are_first_come_first_served(document):
    prefill, decode = document["cluster"]["pools"]
    fcfs = [{**prefill, "queue": "fcfs"}, decode]
    assert outcome(document) == outcome({**document, "cluster": {**document["cluster"], "pools": fcfs}})


@SOME
@given(worlds("tetriinfer"))
def test_an_endless_wait_for_flips_is_never_flipping(document):
    found = outcome({**document, "cluster": {**document["cluster"], "flip": {"policy": "idle", "after": "1000 h"}}})
    assert found == outcome({**document, "cluster": {**document["cluster"], "flip": {"policy": "never"}}})


@pytest.mark.parametrize("system", ["vllm-v0", "vllm-v1"])
def test_one_request_alone_takes_one_prefill_whatever_the_system(system):
    document = {"model": "llama-3.1-8b", "system": system, "profile": "roofline",
                "workload": {"trace": write_csv([(0.0, 700, 30), (100.0, 1500, 20)])},
                "cluster": {"gpu": "h100-sxm"}}  # fmt: skip
    other = {**document, "system": "sarathi", "cluster": {"gpu": "h100-sxm", "pools": [
        {"role": "hybrid", "max_num_batched_tokens": 8192}]}}  # fmt: skip
    found, expected = outcome(document), outcome(other)
    assert found["finish_s"] == expected["finish_s"]
    assert found["first_token_s"] == expected["first_token_s"]


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(1, 10_000))
def test_the_token_budget_is_kept_and_used(remaining, scheduled, budget):
    take = TokenBudget(budget).prefill_tokens(remaining, min(scheduled, budget))
    assert take == min(remaining, budget - min(scheduled, budget))
    assert TokenBudget(10**9).prefill_tokens(remaining, scheduled) == remaining


SETTINGS = {
    "seed": st.integers(0, 1000),
    "horizon": st.sampled_from([None, "3 s", "0.1 s", "123.456 ms", "2 h"]),
    "dtype": st.sampled_from(["bf16", "fp16", "fp8", "fp32"]),
    "workload.rate": st.floats(0.001, 1e6).map(lambda rate: f"{rate!r} /s"),
    "workload.arrivals": st.sampled_from(["poisson", "constant", "gamma"]),
    "cluster.instances": st.integers(2, 9),
    "cluster.gpu": st.sampled_from(["l40s", "h200-sxm", "rtx-4090"]),
    "cluster.kv_link": st.floats(0, 10).map(lambda at: {"bandwidth": "25 GB/s", "latency": f"{at!r} ms"}),
    "cluster.place.broadcast": st.floats(1e-3, 1e3).map(lambda at: f"{at!r} ms"),
    "cluster.predict.accuracy": st.floats(0, 1),
    "slo.ttft": st.floats(1e-6, 1e6).map(lambda at: f"{at!r} us"),
}


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({}, optional=SETTINGS), st.sampled_from(list(SYSTEMS)))
def test_a_dumped_scenario_loads_to_an_equal_one(changes, system):
    start = {"model": "llama-3.1-8b", "workload": {"requests": 10, "rate": "5 /s"}, "cluster": {"gpu": "h100-sxm"}}
    scenario = override(resolve({**start, "system": system}), changes)
    again = resolve(yaml.safe_load(dump_yaml(scenario)))
    assert again == scenario
    assert dump_yaml(again) == dump_yaml(scenario)
