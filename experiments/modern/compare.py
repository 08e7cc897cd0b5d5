"""Does TetriInfer's advantage survive? Measured H100 and H200 tables, vLLM V1 as the baseline, equal GPUs.

Four instances of each model serve the paper's five classes: as four vLLM V1 replicas with its defaults, as four whose
token budget and batch cap were searched, and as TetriInfer with the best split into prefill and decode instances. Both
searches are made anew for each class and load, on a seed of their own. Loads are shares of what V1's defaults can do,
and the paper's burst. Prints Markdown.

    python experiments/modern/compare.py > experiments/modern/results.md
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from tetrisim.latency.build import build_timer
from tetrisim.latency.importers.aiconfigurator import Wanted, convert
from tetrisim.latency.knee import saturation_tokens
from tetrisim.latency.roofline import Shard
from tetrisim.latency.step import StepTimer
from tetrisim.metrics.summary import Summary, summarize
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.load import resolve
from tetrisim.scenario.model import load_model
from tetrisim.simulate import simulate
from tetrisim.studies.seeds import SEEDS, estimate
from tetrisim.units import TICKS_PER_S

TABLES = Path(__file__).parents[3] / "shared" / "data" / "profiles" / "aiconfigurator"
CLASSES = ("lpld", "lphd", "hpld", "hphd", "mixed")
LOADS = (0.5, 0.7, 0.9, None)
"""Shares of the capacity of V1's defaults, Poisson; None is the burst at t = 0."""

INSTANCES = 4
SPLITS = (1, 2, 3)
"""Prefill instances of the four."""
BUDGETS = (512, 1024, 2048, 8192)
SEQS = (64, 128, 256)
BURST = 64 * INSTANCES
"""The paper has 128 requests for two instances."""
SECONDS, FEWEST, MOST = 20, 1000, 1500
"""Seconds of Poisson arrivals, and bounds on how many requests that may be."""
LOOP = 256 * INSTANCES
"""Requests in flight when the capacity is measured."""
TUNING_SEED = 1000
TTFT_TIMES, TPOT_TIMES, LONGEST = 5, 3, 2048
"""The SLO: TTFT within so many times the prefill of LONGEST tokens alone, TPOT within so many lone decode steps."""

TIMES = {"TTFT": "mean_ttft_ms", "p99 TTFT": "p99_ttft_ms", "TPOT": "mean_tpot_ms",
         "p99 TPOT": "p99_tpot_ms", "E2EL": "mean_e2el_ms", "p99 E2EL": "p99_e2el_ms"}  # fmt: skip
"""Heading -> key of a summary."""


@dataclass(frozen=True)
class Setup:
    """A model on a GPU, whose tables lie in `profiles`."""

    model: str
    gpu: str
    tensor_parallel: int
    profiles: str

    @property
    def timer(self) -> StepTimer:
        """Step times of one instance."""
        return _timer(self)

    @property
    def chunk_tokens(self) -> int:
        """Where prefill saturates."""
        return _knee(self)

    @property
    def slo(self) -> dict[str, str]:
        """The limits, in the words of a scenario."""
        prefill, decode = self.timer.prefill(LONGEST, 1, LONGEST, 0), self.timer.step(1, [], 1, LONGEST, LONGEST)
        return {"ttft": f"{TTFT_TIMES * prefill / TICKS_PER_S} s", "tpot": f"{TPOT_TIMES * decode / TICKS_PER_S} s"}


@cache
def _timer(setup: Setup) -> StepTimer:
    shard = Shard(load_model(setup.model), load_gpu(setup.gpu), "bf16", setup.tensor_parallel)
    return build_timer(shard, setup.profiles, "profile")[0]


@cache
def _knee(setup: Setup) -> int:
    return saturation_tokens(setup.timer)


@dataclass(frozen=True)
class System:
    """What serves: V1 with `budget` and `seqs` (None: its defaults), or TetriInfer with `prefills` of the instances."""

    prefills: int = 0
    budget: int | None = None
    seqs: int | None = None

    @property
    def name(self) -> str:
        """As the tables say it."""
        if self.prefills:
            return f"{self.prefills}:{INSTANCES - self.prefills}"
        return "defaults" if self.budget is None else f"{self.budget}/{self.seqs}"

    def cluster(self, setup: Setup) -> dict[str, Any]:
        """The cluster section of a scenario."""
        same = {"tensor_parallel": setup.tensor_parallel}
        if not self.prefills:
            own = {} if self.budget is None else {"max_num_batched_tokens": self.budget, "max_num_seqs": self.seqs}
            return {"gpu": setup.gpu, "pools": [{"role": "hybrid", "instances": INSTANCES, **same, **own}]}
        prefill = {"role": "prefill", "instances": self.prefills, **same, "chunk_tokens": setup.chunk_tokens}
        decode = {"role": "decode", "instances": INSTANCES - self.prefills, **same}
        link = {"bandwidth": f"{load_gpu(setup.gpu).link_bytes_per_s} B/s"}
        return {"gpu": setup.gpu, "pools": [prefill, decode], "kv_link": link}


DEFAULTS = System()


def run(setup: Setup, system: System, workload: Mapping[str, object], seed: int) -> Summary:
    """One run."""
    document = {
        "model": setup.model, "dtype": "bf16", "profile": setup.profiles, "slo": setup.slo, "seed": seed,
        "system": "tetriinfer" if system.prefills else "vllm-v1", "workload": dict(workload),
        "cluster": system.cluster(setup),
    }  # fmt: skip
    return summarize(simulate(resolve(document)))


def capacity(setup: Setup, name: str) -> float:
    """Requests per second of V1's defaults with `LOOP` requests in flight all the time."""
    loop = {"trace": name, "requests": 4 * LOOP, "arrivals": "closed-loop", "concurrency": LOOP}
    return run(setup, DEFAULTS, loop, TUNING_SEED)["request_throughput"]


def workload(name: str, load: float | None, most_per_s: float) -> dict[str, object]:
    """The requests of a class at a load."""
    if load is None:
        return {"trace": name, "requests": BURST, "arrivals": "burst"}
    rate = load * most_per_s
    requests = min(max(round(SECONDS * rate), FEWEST), MOST)
    return {"trace": name, "requests": requests, "arrivals": "poisson", "rate": f"{rate} /s"}


def best(setup: Setup, systems: Sequence[System], work: Mapping[str, object]) -> System:
    """The one that serves the most requests within the SLO (to 1 %), of those the one with the least mean E2EL."""

    def merit(system: System) -> tuple[float, float]:
        found = run(setup, system, work, TUNING_SEED)
        return -round(found["slo_attainment"], 2), found["mean_e2el_ms"]

    return min(systems, key=merit)


@dataclass(frozen=True)
class Row:
    """What one class at one load gave, seed by seed: V1 with its defaults, V1 tuned, and TetriInfer."""

    setup: Setup
    name: str
    load: float | None
    rate_per_s: float | None
    found: Mapping[str, Sequence[Summary]]

    @property
    def head(self) -> str:
        """The first cells of each line."""
        load = "burst" if self.load is None else f"{self.load:.0%} ({self.rate_per_s:.3g}/s)"
        return f"| {self.setup.model} | {self.name.upper()} | {load}"

    def changes(self) -> list[str]:
        """A line each baseline: by how much TetriInfer differs, seed by seed, in points of the SLO's share and in %."""
        *bases, ours = self.found
        lines: list[str] = []
        for base in bases:
            pairs = list(zip(self.found[ours], self.found[base], strict=True))
            found = [estimate([100 * (own["slo_attainment"] - old["slo_attainment"]) for own, old in pairs])]
            found += [estimate([100 * (own[key] / old[key] - 1) for own, old in pairs]) for key in TIMES.values()]
            cells = [ours.split()[-1], base, *(f"{change.mean:+.1f} ± {change.half:.1f}" for change in found)]
            lines.append(" | ".join([self.head, *cells]) + " |")
        return lines

    def values(self) -> list[str]:
        """A line each system: the share of requests within the SLO, and every metric."""
        lines: list[str] = []
        for label, summaries in self.found.items():
            within = estimate([100 * each["slo_attainment"] for each in summaries])
            found = [estimate([each[key] for each in summaries]) for key in ("request_goodput", *TIMES.values())]
            cells = [label, *(f"{value.mean:.4g} ± {value.half:.2g}" for value in (within, *found))]
            lines.append(" | ".join([self.head, *cells]) + " |")
        return lines


def examine(task: tuple[Setup, str]) -> list[Row]:
    """One class: at every load the search, and then the comparison."""
    setup, name = task
    most = capacity(setup, name)
    tuned = [DEFAULTS, *(System(0, budget, seqs) for budget, seqs in product(BUDGETS, SEQS))]
    splits = [System(prefills) for prefills in SPLITS]
    rows: list[Row] = []
    for load in LOADS:
        work = workload(name, load, most)
        fast, split = best(setup, tuned, work), best(setup, splits, work)
        systems = {"V1 defaults": DEFAULTS, f"V1 tuned ({fast.name})": fast, f"TetriInfer {split.name}": split}
        found = {label: [run(setup, system, work, seed) for seed in range(SEEDS)] for label, system in systems.items()}
        rows.append(Row(setup, name, load, None if load is None else load * most, found))
    return rows


def table(heads: Sequence[str], lines: Sequence[str]) -> None:
    """Print Markdown."""
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    print("\n".join(lines) + "\n")


def setups(folder: Path, imported: Path) -> list[Setup]:
    """Both models; aiconfigurator's tables are turned into profiles first, in `imported`."""
    shapes = (("llama-3.1-8b", "h100-sxm", 1), ("qwen3-32b", "h200-sxm", 2))
    if (folder / "h100_sxm").is_dir():
        for model, gpu, cut in shapes:
            convert(folder, imported, Wanted([load_model(model)], [gpu], ["bf16"], [cut]))
        folder = imported
    return [Setup(*shape, str(folder)) for shape in shapes]


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", type=Path, default=TABLES, help="profiles, or aiconfigurator's folder of systems")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as imported, ProcessPoolExecutor(given.jobs) as pool:
        both = setups(given.profiles, Path(imported))
        rows = [row for each in pool.map(examine, product(both, CLASSES)) for row in each]
        report(both, rows)


def report(both: Sequence[Setup], rows: Sequence[Row]) -> None:
    """Print what was run, the changes, and the values behind them."""
    print("# TetriInfer against vLLM V1 on equal GPUs\n")
    for setup in both:
        limits = ", ".join(f"{name} {float(limit.split()[0]) * 1e3:.0f} ms" for name, limit in setup.slo.items())
        hardware = f"{INSTANCES} instances of TP={setup.tensor_parallel} on {setup.gpu}"
        print(f"* {setup.model}, {hardware}: chunks of {setup.chunk_tokens} tokens, SLO {limits}")
    print("\nTuned V1 is named by token budget and batch cap, TetriInfer by prefill and decode instances.")
    print(f"Means over {SEEDS} seeds with 95 % intervals.\n")
    print("## TetriInfer's change against V1, in %\n")
    table(
        ["model", "class", "load", "P:D", "against", "within SLO (points)", *TIMES],
        [line for row in rows for line in row.changes()],
    )
    print("## Values: goodput in requests/s, times in ms\n")
    table(["model", "class", "load", "system", "within SLO (%)", "goodput", *TIMES],
          [line for row in rows for line in row.values()])  # fmt: skip


if __name__ == "__main__":
    main()
