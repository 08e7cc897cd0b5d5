"""What a stranger tried, and what must come of it."""

import pytest

from tetrisim.errors import ScenarioError
from tetrisim.policies.registry import find_policy
from tetrisim.scenario.load import dump_yaml, load, override, resolve, with_system
from tetrisim.scenario.model import from_config
from tetrisim.simulate import simulate
from tetrisim.yamltext import parse_yaml


def test_setting_one_value_of_a_pool_leaves_each_system_its_own_policies():
    wider = override(load("default"), {"cluster.pools.0.instances": 3})
    pools = {name: with_system(wider, name).cluster.pools[0] for name in ("vllm-v0", "vllm-v1", "sarathi")}
    assert {pool.instances for pool in pools.values()} == {3}
    assert [pools[name].batching for name in pools] == ["prefill-first", "token-budget", "token-budget"]
    assert len({pool.max_num_batched_tokens for pool in pools.values()}) == 3


@pytest.mark.parametrize("order", [1, -1])
def test_a_system_and_a_value_of_its_pools_are_set_in_any_order(order):
    settings = {"system": "tetriinfer", "cluster.pools.0.chunk_tokens": 256}
    scenario = override(load("default"), dict(list(settings.items())[::order]))
    assert [(pool.role, pool.chunk_tokens) for pool in scenario.cluster.pools] == [("prefill", 256), ("decode", 512)]


def test_a_resolved_scenario_runs_its_own_system_only():
    import yaml

    again = resolve(yaml.safe_load(dump_yaml(load("default"))))
    with pytest.raises(ScenarioError, match="resolved for vllm-v1"):
        with_system(again, "vllm-v0")


@pytest.mark.parametrize("cut", [3, 64])
def test_shards_must_divide_the_heads(cut):
    with pytest.raises(ScenarioError) as refused:
        override(load("default"), {"cluster.tensor_parallel": cut})
    assert refused.value.where == "cluster.pools.0.tensor_parallel"


def test_two_shards_may_share_a_kv_head():
    assert override(load("default"), {"cluster.tensor_parallel": 16}).cluster.pools[0].tensor_parallel == 16


@pytest.mark.parametrize("name", ["os.path:sep", "os:getcwd", "json:nothing"])
def test_a_policy_of_ones_own_must_be_a_function_of_its_arguments(name):
    with pytest.raises(ScenarioError, match="cannot use"):
        find_policy("route", name, "cluster.route")


def test_compared_systems_serve_the_same_requests():
    with pytest.raises(ScenarioError) as refused:
        override(load("default"), {"systems": {"mine": {"base": "vllm-v1", "workload": {"requests": 10}}}})
    assert refused.value.where == "systems.mine.workload"


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("model: opt-125m\nmodel: opt-13b\ncluster: {gpu: h100-sxm, instances: 1}\n")
    with pytest.raises(ScenarioError, match="'model' is there twice"):
        load(path)


def test_a_config_of_impossible_sizes_is_refused():
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 3}
    with pytest.raises(ScenarioError, match="does not divide"):
        from_config(config, "odd", "model")


@pytest.mark.parametrize(("text", "value"), [("1e-6", 1e-6), ("2E3", 2000.0), ("-1e+2", -100.0), ("1.5e3", 1500.0)])
def test_a_number_with_an_exponent_is_a_number_as_in_every_other_language(text, value):
    assert parse_yaml(f"[{text}, {text}x, e3]") == [value, f"{text}x", "e3"]


def test_a_rate_may_have_an_exponent(tmp_path):
    path = tmp_path / "fast.yaml"
    path.write_text(
        "model: opt-125m\ncluster: {gpu: h100-sxm}\nworkload: {trace: random, arrivals: poisson, rate: 1e3}\n"
    )
    assert load(path).workload.rate_per_s == 1000


@pytest.mark.parametrize("code", ["def choose(view", "raise KeyError('x')", "import nothing_of_that_name"])
def test_a_policy_that_cannot_be_loaded_is_named(code, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(ScenarioError, match=f"cannot use '{name}:choose'") as refused:
        find_policy("route", f"{name}:choose", "cluster.route")
    assert refused.value.where == "cluster.route"


@pytest.mark.parametrize(("setting", "system"), [("route", "vllm-v1"), ("place.policy", "tetriinfer")])
@pytest.mark.parametrize("answer", [-1, 100, 1.0, "a"])
def test_a_policy_that_names_no_instance_is_refused(setting, system, answer, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"answers_{setting[:5]}_{answer}".translate(str.maketrans("-.", "__"))
    (tmp_path / f"{name}.py").write_text(f"def choose(view, request, rng):\n    return {answer!r}\n")
    settings = {"system": system, "workload.requests": 10, f"cluster.{setting}": f"{name}:choose"}
    with pytest.raises(ScenarioError, match=rf"cluster\.{setting}: chose {answer!r}; expected 0 to"):
        simulate(override(load("default"), settings))
