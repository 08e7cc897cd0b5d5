"""The `vllm serve` command lines of a scenario: a shell script, one machine of up to eight GPUs at a time."""

import json
from collections.abc import Iterator

from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.memory import memory_bar
from tetrisim.scenario.model import load_model
from tetrisim.scenario.scenario import Scenario

MACHINE_GPUS = 8
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp8": "auto"}
_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


def serve_script(scenario: Scenario) -> str:
    """A script that starts every instance of one machine, whose number is its argument."""
    cluster = scenario.cluster
    pools = " + ".join(f"{pool.instances} {pool.role} x tp{pool.tensor_parallel}" for pool in cluster.pools)
    lines = [
        "#!/bin/sh",
        f"# {scenario.system} on {cluster.gpu}: {pools}. Run on machine n as: sh serve.sh n",
        *_cautions(scenario),
        f"MODEL=${{MODEL:-{scenario.model}}}  # the name on Hugging Face, or a folder",
        "MACHINE=${1:-1}",
    ]
    machine, used, number = 1, 0, 0
    hosts: dict[str, list[str]] = {}
    lines.append('if [ "$MACHINE" = 1 ]; then')
    for pool in cluster.pools:
        for _ in range(pool.instances):
            if used + pool.tensor_parallel > MACHINE_GPUS and used:
                machine, used = machine + 1, 0
                lines += ["fi", f'if [ "$MACHINE" = {machine} ]; then']
            lines.append(f"  {_command(scenario, pool, used, number)} &")
            hosts.setdefault(pool.role, []).append(f"machine-{machine}:{8000 + number}")
            used, number = used + pool.tensor_parallel, number + 1
    lines += ["fi", "wait", *_in_front(hosts)]
    return "\n".join(lines) + "\n"


def _command(scenario: Scenario, pool: PoolSpec, first_gpu: int, number: int) -> str:
    gpus = ",".join(str(first_gpu + each) for each in range(pool.tensor_parallel))
    nixl = ""
    if pool.role != "hybrid":
        nixl = f"VLLM_NIXL_SIDE_CHANNEL_PORT={5600 + number * MACHINE_GPUS} UCX_NET_DEVICES=all "
    flags = " ".join(_flags(scenario, pool))
    return f'CUDA_VISIBLE_DEVICES={gpus} {nixl}vllm serve "$MODEL" --port {8000 + number} {flags}'


def _flags(scenario: Scenario, pool: PoolSpec) -> Iterator[str]:
    """Those that make vLLM's engine what the pool is simulated as."""
    yield f"--tensor-parallel-size {pool.tensor_parallel}"
    yield f"--dtype {_DTYPES[scenario.dtype]}"
    if scenario.dtype == "fp8":
        yield "--quantization fp8 --kv-cache-dtype fp8"
    tokens, seqs = pool.max_num_batched_tokens, pool.max_num_seqs
    if pool.batching == "fixed-chunks":
        tokens = pool.chunk_tokens
    if tokens is not None:
        yield f"--max-num-batched-tokens {tokens}"
        seqs = min(seqs or 256, tokens)  # vLLM refuses more sequences than tokens
    if seqs is not None:
        yield f"--max-num-seqs {seqs}"
    yield f"--gpu-memory-utilization {pool.memory_utilization:g}"
    yield f"--block-size {pool.block_tokens}"
    if pool.kv_blocks is not None:
        yield f"--num-gpu-blocks-override {pool.kv_blocks}"
    model = load_model(scenario.model)
    gpu = load_gpu(pool.gpu or scenario.cluster.gpu)
    room = memory_bar(pool, gpu, model, scenario.dtype).blocks * pool.block_tokens
    if room < model.max_positions:
        yield f"--max-model-len {room}"  # vLLM does not start where one such request would not fit
    if pool.long_prefill_tokens is not None:
        yield f"--long-prefill-token-threshold {pool.long_prefill_tokens}"
    yield "--enable-prefix-caching" if pool.prefix_caching else "--no-enable-prefix-caching"
    yield "--async-scheduling" if pool.async_scheduling else "--no-async-scheduling"
    if pool.role in _ROLES:
        connector = {"kv_connector": "NixlConnector", "kv_role": _ROLES[pool.role]}
        yield f"--kv-transfer-config '{json.dumps(connector, separators=(',', ':'))}'"


def _cautions(scenario: Scenario) -> Iterator[str]:
    """Where vLLM's engine is not what was simulated."""
    batching = {pool.batching for pool in scenario.cluster.pools}
    if "prefill-first" in batching:
        yield "# Simulated: vLLM's V0 engine, which left vLLM in 0.11; a later one chunks prompts and mixes steps."
    others = sorted(batching - {"prefill-first", "token-budget", "decode-only"})
    if others:
        yield (
            f"# Simulated: {scenario.system} with {', '.join(others)} batching, which vLLM does not have; its own "
            "chunked prefill and the proxy's placement stand in for it."
        )


def _in_front(hosts: dict[str, list[str]]) -> Iterator[str]:
    """What requests are sent to."""
    if "hybrid" in hosts:
        yield "# In front: any HTTP balancer that sends a request to the server with the fewest running ones, over"
        yield f"#   {' '.join(hosts['hybrid'])}"
        return
    yield "# In front: a proxy that sends each request to a prefill server, then to a decode server, as vLLM's"
    yield "#   tests/v1/kv_connector/nixl_integration/toy_proxy_server.py"
    for role, name in (("prefill", "prefiller"), ("decode", "decoder")):
        names, ports = zip(*(each.split(":") for each in hosts[role]), strict=True)
        yield f"#   --{name}-hosts {' '.join(names)} --{name}-ports {' '.join(ports)}"
