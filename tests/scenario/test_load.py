"""From YAML to a resolved scenario: presets beneath, equal GPUs for every system, paths that follow the file."""

import json
from importlib import resources

import pytest
import yaml

from tetrisim.errors import ScenarioError
from tetrisim.scenario.load import dump_yaml, load, override, resolve, with_system
from tetrisim.scenario.model import load_model, model_names
from tetrisim.scenario.presets import SYSTEMS


def resolved(system, gpu="h100-sxm", **cluster):
    return resolve({"model": "llama-3.1-8b", "system": system, "cluster": {"gpu": gpu, **cluster}})


def pools(scenario):
    return [(pool.role, pool.instances, pool.tensor_parallel) for pool in scenario.cluster.pools]


def test_tetriinfer_is_what_the_paper_evaluates():
    scenario = resolved("tetriinfer", instances=2)
    prefill, decode = scenario.cluster.pools
    assert (prefill.batching, prefill.chunk_tokens, prefill.queue, prefill.queue_batch) == (
        "fixed-chunks",
        512,
        "sjf",
        16,
    )
    assert (decode.batching, decode.admission, decode.preemption) == ("decode-only", "reserve-dynamic", "swap")
    assert prefill.max_num_seqs is decode.max_num_seqs is None
    cluster = scenario.cluster
    assert (cluster.kv_link.bandwidth_bytes_per_s, cluster.kv_link.latency_s) == (25e9, pytest.approx(5e-6))
    assert (cluster.predict.policy, cluster.predict.granularity_tokens, cluster.predict.accuracy) == (
        "bucket",
        200,
        0.749,
    )
    assert (cluster.place.policy, cluster.place.heavy_tokens, cluster.place.broadcast_s) == ("power-of-two", 128, 0.1)
    assert (cluster.flip.policy, cluster.flip.after_s, cluster.flip.cost_s) == ("idle", 60.0, 0.006)


def test_vllm_v0_takes_whole_prompts():
    (pool,) = resolved("vllm-v0").cluster.pools
    assert (pool.batching, pool.watermark, pool.max_num_seqs) == ("prefill-first", 0.01, 256)
    assert pool.max_num_batched_tokens == load_model("llama-3.1-8b").max_positions


@pytest.mark.parametrize(
    ("gpu", "budget"),
    [("h100-sxm", (8192, 1024)), ("h200-sxm", (8192, 1024)), ("a100-80gb", (2048, 256)), ("l40s", (2048, 256))],
)
def test_vllm_v1_takes_vllms_own_budget_of_the_gpu(gpu, budget):
    (pool,) = resolved("vllm-v1", gpu).cluster.pools
    assert (pool.batching, pool.prefix_caching) == ("token-budget", True)
    assert (pool.max_num_batched_tokens, pool.max_num_seqs) == budget


def test_what_is_written_goes_over_the_preset_and_leaves_the_rest():
    scenario = resolved("tetriinfer", pools=[{"role": "prefill", "chunk_tokens": 256}, {"role": "decode"}],
                        predict={"accuracy": 0.9}, kv_link={"bandwidth": "1 GB/s"})  # fmt: skip
    assert scenario.cluster.pools[0].chunk_tokens == 256
    assert scenario.cluster.pools[0].queue == "sjf"
    assert (scenario.cluster.predict.policy, scenario.cluster.predict.accuracy) == ("bucket", 0.9)
    # the link alone is described as a whole
    assert (scenario.cluster.kv_link.latency_s, scenario.cluster.kv_link.bandwidth_bytes_per_s) == (0, 1e9)


def test_one_value_of_the_link_can_be_set_on_a_resolved_scenario():
    link = override(resolved("tetriinfer", instances=2), {"cluster.kv_link.latency": "1 ms"}).cluster.kv_link
    assert (link.latency_s, link.bandwidth_bytes_per_s) == (1e-3, 25e9)


@pytest.mark.parametrize(("instances", "expected"), [(2, (1, 1)), (5, (2, 3)), (8, (4, 4))])
def test_instances_are_shared_out_between_the_roles(instances, expected):
    scenario = resolved("tetriinfer", instances=instances, tensor_parallel=2)
    assert pools(scenario) == [("prefill", expected[0], 2), ("decode", expected[1], 2)]
    assert pools(with_system(scenario, "vllm-v1")) == [("hybrid", instances, 2)]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_gets_the_machines_that_are_written(system):
    machines = {"tensor_parallel": 2, "block_tokens": 32, "memory_utilization": 0.8}
    written = [{"role": "prefill", "instances": 3, "chunk_tokens": 256, **machines},
               {"role": "decode", "instances": 4, **machines}]  # fmt: skip
    scenario = with_system(resolved("tetriinfer", pools=written), system)
    assert sum(pool.instances * pool.tensor_parallel for pool in scenario.cluster.pools) == 14
    for pool in scenario.cluster.pools:
        assert (pool.block_tokens, pool.memory_utilization) == (32, 0.8)
    if {pool.role for pool in scenario.cluster.pools} == {"hybrid"}:
        assert scenario.cluster.kv_link is None


def test_and_back_again():
    scenario = resolved("vllm-v1", pools=[{"role": "hybrid", "instances": 7, "tensor_parallel": 2}])
    assert pools(with_system(scenario, "tetriinfer")) == [("prefill", 3, 2), ("decode", 4, 2)]
    assert with_system(with_system(scenario, "tetriinfer"), "vllm-v1") == scenario


def test_instances_that_differ_cannot_change_their_roles():
    written = [{"role": "prefill", "tensor_parallel": 1}, {"role": "decode", "tensor_parallel": 2}]
    with pytest.raises(ScenarioError) as caught:
        with_system(resolved("tetriinfer", pools=written), "vllm-v1")
    assert caught.value.where == "cluster.pools"
    assert "overrides under systems:" in caught.value.expected


def test_own_systems_lie_on_a_base():
    own = {"big": {"base": "vllm-v1", "cluster": {"pools": [{"role": "hybrid", "max_num_batched_tokens": 16384}]}}}
    scenario = resolve({"model": "llama-3.1-8b", "system": "big", "systems": own, "cluster": {"gpu": "h100-sxm"}})
    (pool,) = scenario.cluster.pools
    assert (scenario.system, pool.max_num_batched_tokens, pool.prefix_caching) == ("big", 16384, True)
    assert resolve(yaml.safe_load(dump_yaml(scenario))) == scenario


def test_override_sets_dotted_keys_and_checks_again():
    scenario = override(load("default"), {"seed": 9, "cluster.instances": 6, "slo.ttft": "2 s"})
    assert (scenario.seed, pools(scenario), scenario.slo.ttft_s) == (9, [("hybrid", 6, 1)], 2.0)
    with pytest.raises(ScenarioError) as caught:
        override(scenario, {"slo.tft": "2 s"})
    assert (caught.value.where, caught.value.nearest) == ("slo.tft", "ttft")


def test_override_reaches_pools_by_index_even_when_none_are_written():
    scenario = override(resolved("tetriinfer", instances=4), {"cluster.pools.1.instances": 5})
    assert pools(scenario) == [("prefill", 2, 1), ("decode", 5, 1)]
    assert scenario.cluster.pools[0].queue == "sjf"
    with pytest.raises(ScenarioError) as caught:
        override(scenario, {"cluster.pools.2.instances": 5})
    assert caught.value.expected == "an index from 0 to 1"
    with pytest.raises(ScenarioError, match="is a single value"):
        override(scenario, {"cluster.gpu.x": 5})


def test_override_leaves_the_original_as_it_was():
    scenario = resolved("tetriinfer", instances=4)
    before = dump_yaml(scenario)
    override(scenario, {"cluster.instances": 8, "cluster.place.policy": "random"})
    assert dump_yaml(scenario) == before


CONFIG = resources.files("tetrisim.scenario") / "catalog" / "models"


def test_a_model_by_the_path_of_its_config_is_the_catalogs(tmp_path):
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text((CONFIG / "llama-3.1-8b.json").read_text())
    found, catalog = load_model(str(folder / "config.json")), load_model("llama-3.1-8b")
    assert found.name == "my-llama"
    assert (found.layers, found.kv_heads, found.parameters) == (catalog.layers, catalog.kv_heads, catalog.parameters)


def test_the_catalog_has_the_sizes_that_are_known():
    billions = {name: load_model(name).parameters / 1e9 for name in model_names()}
    for name, size in {"opt-13b": 12.85, "opt-125m": 0.125, "llama-2-7b": 6.74, "llama-2-70b": 68.98,
                       "llama-3.1-8b": 8.03, "llama-3.1-70b": 70.55, "qwen3-32b": 32.76}.items():  # fmt: skip
        assert billions[name] == pytest.approx(size, rel=0.02)
    assert load_model("opt-13b").kv_bytes_per_token("fp16") == 819_200
    assert load_model("llama-3.1-8b").kv_bytes_per_token("bf16") == 128 * 1024


@pytest.mark.parametrize(
    ("text", "what"),
    [("{", "is not JSON"), ("[]", "holds no object"), ('{"model_type": "gpt2"}', "model_type 'gpt2' is not supported"),
     ('{"model_type": "llama", "hidden_size": 8}', "key 'num_attention_heads' is missing")],
)  # fmt: skip
def test_a_config_that_cannot_be_used(tmp_path, text, what):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load_model(str(tmp_path / "config.json"))
    assert caught.value.where.startswith("model")
    assert what in caught.value.what


def test_paths_of_a_scenario_file_are_relative_to_it(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "models" / "mine").mkdir(parents=True)
    config = json.loads((CONFIG / "opt-125m.json").read_text()) | {"num_hidden_layers": 3}
    (home / "models" / "mine" / "config.json").write_text(json.dumps(config))
    (home / "trace.csv").write_text("timestamp,input_length,output_length\n0,5,2\n")
    written = {"model": "models/mine/config.json", "workload": {"trace": "trace.csv"}, "cluster": {"gpu": "l40s"}}
    (home / "scenario.yaml").write_text(yaml.safe_dump(written))
    monkeypatch.chdir(tmp_path)
    scenario = load("home/scenario.yaml")
    assert scenario.workload.trace == str(home / "trace.csv")
    assert load_model(scenario.model).layers == 3
    monkeypatch.chdir("/")
    again = resolve(yaml.safe_load(dump_yaml(scenario)))
    assert again == scenario
    assert load_model(again.model).layers == 3


def test_the_default_scenario_is_the_demo():
    scenario = load("default")
    assert (scenario.model, scenario.system, scenario.cluster.gpu) == ("llama-3.1-8b", "vllm-v1", "h100-sxm")
    assert pools(scenario) == [("hybrid", 4, 1)]
