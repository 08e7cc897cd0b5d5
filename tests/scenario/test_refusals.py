"""What cannot be run is refused in one line: where, what was expected, and the nearest valid name."""

import pytest

from tetrisim.assemble import assemble
from tetrisim.errors import ScenarioError
from tetrisim.scenario.load import load, resolve

SPLIT = [{"role": "prefill"}, {"role": "decode"}]


def document(**changes):
    """A good scenario with dotted keys replaced; None takes one out."""
    made = {
        "model": "llama-3.1-8b",
        "system": "tetriinfer",
        "profile": "roofline",
        "workload": {"trace": "mixed", "requests": 10},
        "cluster": {"gpu": "h100-sxm", "pools": [dict(pool) for pool in SPLIT]},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        inner = made
        for part in parents:
            inner = inner[int(part)] if isinstance(inner, list) else inner.setdefault(part, {})
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return made


def refused(made, build=False):
    with pytest.raises(ScenarioError) as caught:
        scenario = resolve(made)
        if build:
            assemble(scenario, exact_steps=False, hash_block_tokens=None)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_scenario_that_all_cases_start_from_is_good():
    assert assemble(resolve(document()), exact_steps=False, hash_block_tokens=None).instances


@pytest.mark.parametrize(
    ("changes", "where", "expected", "nearest"),
    [
        # unknown keys and names, at every depth
        ({"modle": "x"}, "modle", "one of model, ", "model"),
        ({"workload__request": 3}, "workload.request", "one of trace, ", "requests"),
        ({"cluster__pools__0__chunk_token": 3}, "cluster.pools.0.chunk_token", "one of role, ", "chunk_tokens"),
        ({"cluster__flip__afer": "1 s"}, "cluster.flip.afer", "one of policy, after, cost", "after"),
        ({"model": "llama-3.1-8"}, "model", "llama-3.1-8b", "llama-3.1-8b"),
        ({"system": "tetrinfer"}, "system", "one of ", "tetriinfer"),
        ({"cluster__gpu": "h100"}, "cluster.gpu", "a100-80gb", "h100-sxm"),
        ({"cluster__pools__1__gpu": "h100"}, "cluster.pools.1.gpu", "a100-80gb", "h100-sxm"),
        ({"cluster__pools__0__role": "prefil"}, "cluster.pools.0.role", "one of prefill, decode, hybrid", "prefill"),
        ({"dtype": "bf61"}, "dtype", "one of bf16, fp16, fp32, fp8", "bf16"),
        ({"workload__arrivals": "poison"}, "workload.arrivals", "one of trace, poisson", "poisson"),
        # units and types
        ({"slo__ttft": "1 sec"}, "slo.ttft", "'100 ms'", ""),
        ({"slo__ttft": 1.5}, "slo.ttft", "'100 ms'", ""),
        ({"cluster__kv_link": {"bandwidth": "200 Gb"}}, "cluster.kv_link.bandwidth", "'200 Gbit/s'", ""),
        ({"cluster__kv_link": {"bandwidth": 200}}, "cluster.kv_link.bandwidth", "'200 Gbit/s'", ""),
        ({"workload__rate": "5 s"}, "workload.rate", "'10 /s'", ""),
        ({"workload__requests": 1.5}, "workload.requests", "a whole number", ""),
        ({"workload__requests": "10"}, "workload.requests", "a whole number", ""),
        ({"seed": True}, "seed", "a whole number", ""),
        ({"cluster__predict": {"accuracy": float("nan")}}, "cluster.predict.accuracy", "a finite number", ""),
        # values out of range
        ({"seed": -1}, "seed", "at least 0", ""),
        ({"horizon": "0 s"}, "horizon", "more than 0", ""),
        ({"workload__requests": 0}, "workload.requests", "at least 1", ""),
        ({"workload__rate": "-5 /s"}, "workload.rate", "more than 0 /s", ""),
        ({"workload__arrivals": "poisson"}, "workload.rate", "with arrivals 'poisson'", ""),
        ({"cluster__pools__0__instances": 0}, "cluster.pools.0.instances", "more than 0", ""),
        ({"cluster__pools__1__instances": -1}, "cluster.pools.1.instances", "more than 0", ""),
        ({"cluster__pools__1__kv_blocks": 0}, "cluster.pools.1.kv_blocks", "more than 0", ""),
        ({"cluster__pools__0__memory_utilization": 1.1}, "cluster.pools.0.memory_utilization", "at most 1", ""),
        ({"cluster__pools__0__watermark": 1.0}, "cluster.pools.0.watermark", "below 1", ""),
        ({"cluster__predict": {"accuracy": 1.1}}, "cluster.predict.accuracy", "between 0 and 1", ""),
        ({"cluster__kv_link": {"bandwidth": "0 GB/s"}}, "cluster.kv_link.bandwidth", "more than 0", ""),
        ({"cluster__kv_link": {"latency": "5 us"}}, "cluster.kv_link.bandwidth", "'200 Gbit/s'", ""),
        ({"cluster__kv_link": {"bandwidth": "1 B/s", "latency": "-1 s"}}, "cluster.kv_link.latency", "at least 0", ""),
        ({"slo__tpot": "0 s"}, "slo.tpot", "more than 0", ""),
        # what is missing
        ({"model": None}, "model", "llama-3.1-8b", ""),
        ({"cluster": None}, "cluster", "a mapping with gpu and pools", ""),
        ({"cluster__pools": []}, "cluster.pools", "as in [{role: prefill", ""),
        ({"cluster__pools": "two"}, "cluster.pools", "as in [{role: prefill", ""),
        ({"cluster__pools": [{"role": "prefill"}]}, "cluster.pools", "at least one decode instance", ""),
        ({"cluster__pools": [{"role": "decode"}]}, "cluster.pools", "at least one prefill instance", ""),
        ({"cluster__instances": 4}, "cluster.instances", "one of the two", ""),
        ({"systems": ["vllm-v1"]}, "systems", "overrides by system name", ""),
        ({"systems": {"tetriinfer": {"base": "vlm-v1"}}}, "systems.tetriinfer.base", "vllm-v1", "vllm-v1"),
    ],
)  # fmt: skip
def test_bad_input(changes, where, expected, nearest):
    error = refused(document(**changes))
    assert error.where == where
    assert expected in error.expected
    assert error.nearest == nearest


@pytest.mark.parametrize(
    ("changes", "where", "nearest"),
    [
        ({"cluster__route": "least-load"}, "cluster.route", "least-loaded"),
        ({"cluster__place": {"policy": "power-of-2"}}, "cluster.place.policy", "power-of-two"),
        ({"cluster__flip": {"policy": "idel"}}, "cluster.flip.policy", "idle"),
        ({"cluster__pools__0__queue": "sjff"}, "cluster.pools.0.queue", "sjf"),
        ({"cluster__pools__0__batching": "fixed-chunk"}, "cluster.pools.0.batching", "fixed-chunks"),
        ({"cluster__pools__1__admission": "reserve"}, "cluster.pools.1.admission", "reserve-static"),
    ],
)
def test_an_unknown_policy_is_refused_before_the_clock_starts(changes, where, nearest):
    error = refused(document(**changes), build=True)
    assert (error.where, error.nearest) == (where, nearest)


def test_a_model_that_does_not_fit_is_refused_with_the_sum():
    error = refused(document(model="llama-3.1-70b"), build=True)
    assert error.where == "cluster.pools.0"
    assert "llama-3.1-70b does not fit on 1 x h100-sxm: 72.0 GiB usable" in error.what
    assert "131.4 weights" in error.what
    assert error.expected == "a larger tensor_parallel or GPU"
    assemble(
        resolve(document(model="llama-3.1-70b", cluster__pools=[{**pool, "tensor_parallel": 4} for pool in SPLIT])),
        exact_steps=False,
        hash_block_tokens=None,
    )


def test_a_budget_below_the_seats_cannot_give_each_decode_a_token():
    pools = [{"role": "hybrid", "max_num_batched_tokens": 100, "max_num_seqs": 200}]
    error = refused(document(system="vllm-v1", cluster__pools=pools))
    assert error.where == "cluster.pools.0.max_num_batched_tokens"
    assert "at least max_num_seqs (200)" in error.expected


def test_hybrid_pools_do_not_stand_beside_others():
    error = refused(document(cluster__pools=[{"role": "hybrid"}, *SPLIT, {"role": "hybrid", "gpu": "l40s"}]))
    assert error.where == "cluster.pools"


def test_too_few_instances_for_the_roles():
    error = refused({**document(), "cluster": {"gpu": "h100-sxm", "instances": 1}})
    assert error.where == "cluster.instances"
    assert error.expected == "at least 2: one each for prefill, decode"


@pytest.mark.parametrize(
    ("text", "what"),
    [("model: [", "is not YAML"), ("just words", "holds no mapping"), ("", "holds no mapping")],
)
def test_a_file_that_holds_no_scenario(tmp_path, text, what):
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert caught.value.where == str(path)
    assert what in caught.value.what


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ScenarioError) as caught:
        load(tmp_path / "no.yaml")
    assert caught.value.where == str(tmp_path / "no.yaml")
    assert caught.value.expected == "a scenario YAML file, or 'default'"


@pytest.mark.parametrize("name", ["a/b", ".."])
def test_a_system_has_a_name_that_can_name_its_folder(name):
    document = {"model": "opt-125m", "cluster": {"gpu": "l40s"}, "systems": {name: {"base": "vllm-v1"}}}
    with pytest.raises(ScenarioError, match="cannot name the folder of its run"):
        resolve(document)
