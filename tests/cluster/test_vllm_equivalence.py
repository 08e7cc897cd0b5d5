"""A real vLLM engine's recorded iterations, batch by batch: the engine has to schedule every one of them the same.

Each case gives the moments at which requests were handed over and iterations began (shared/data/README.md, section 6);
the durations are not used. What a batch holds, and who was preempted for it, must be equal throughout.
"""

import gzip
import json
from pathlib import Path

import pytest
from cluster.stepping import completed, planned

from tetrisim.cluster.engine import Engine
from tetrisim.cluster.kvcache import KVCache, PrefixCache
from tetrisim.cluster.queue import WaitingQueue
from tetrisim.cluster.request import Request
from tetrisim.policies.admission import greedy
from tetrisim.policies.batching import TokenBudget
from tetrisim.scenario.cluster import PoolSpec

RECORDED = Path(__file__).parents[2].parent / "shared" / "data" / "ground_truth" / "vllm_cpu"
ITERATIONS = {"overload": 337, "preempt": 441, "prefix": 920, "prefix_tight": 708, "small_batch": 1038, "steady": 1428}

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason=f"needs the recorded vLLM runs in {RECORDED}")


def read(path):
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def engine_of(config):
    """The engine that a case's configuration describes; one of its blocks is vLLM's null block."""
    budget, seqs, block = (config[key] for key in ("max_num_batched_tokens", "max_num_seqs", "block_size"))
    pool = PoolSpec(role="hybrid", max_num_seqs=seqs, max_num_batched_tokens=budget, block_tokens=block)
    blocks = config["num_gpu_blocks"] - 1
    kv = PrefixCache(blocks, block, 0, block) if config["enable_prefix_caching"] else KVCache(blocks, block)
    return Engine(pool, kv, TokenBudget(budget), WaitingQueue(None, 1), greedy)


@pytest.mark.parametrize("case", ITERATIONS)
def test_every_recorded_iteration_is_scheduled_as_vllm_did(case):
    config = json.loads((RECORDED / case / "config.json").read_text())
    engine = engine_of(config)
    waiting = read(RECORDED / case / "requests.jsonl.gz")
    seen = 0
    for iteration in read(RECORDED / case / "iterations.jsonl.gz"):
        while waiting and waiting[0]["submit_s"] <= iteration["start_s"]:
            row = waiting.pop(0)
            request = Request(row["request_id"], 0, row["input_length"], row["output_length"], 0)
            request.hash_ids = row.get("hash_ids", ())
            engine.push(request)
        batch, pieces = planned(engine)
        assert batch == iteration["batch"], f"iteration {iteration['i']}"
        assert [request.id for request in engine.preempted] == iteration["preempted"]
        completed(engine, pieces)
        engine.kv.check()
        seen += 1
    assert seen == ITERATIONS[case]
    assert engine.idle and engine.kv.free == engine.kv.capacity


def test_the_recorded_runs_are_all_there():
    assert sum(ITERATIONS.values()) == 4872
    assert sorted(ITERATIONS) == sorted(folder.name for folder in RECORDED.iterdir())
