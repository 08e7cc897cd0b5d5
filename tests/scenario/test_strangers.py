"""What a stranger tried, and what must come of it."""

import pytest

from tetrisim.errors import ScenarioError
from tetrisim.policies.registry import find_policy
from tetrisim.scenario.load import dump_yaml, load, override, resolve, with_system
from tetrisim.scenario.model import from_config


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
