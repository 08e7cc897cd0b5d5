"""The recorded runs of data/ against `vllm-v1` on the table fitted to the controlled batches: errors, nothing tuned.

    python experiments/live/compare.py [RUN ...]

Needs neither vLLM nor torch. Step times come from data/profile, which `tetrisim profile fit-steps` made of the
calibration logs alone; arrivals, lengths and engine settings are those of each run. The second line of each run has the
step times at the speed that the machine had, by the probes of that run: fixed work timed between the steps, never them.
"""

import csv
import gzip
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tetrisim
from tetrisim.cluster.request import Request
from tetrisim.latency.build import build_timer
from tetrisim.latency.probes import Probes, read_probes
from tetrisim.latency.roofline import Shard
from tetrisim.latency.step import StepTimer
from tetrisim.latency.table import read_profile
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.load import load
from tetrisim.scenario.model import load_model
from tetrisim.units import TICKS_PER_S
from tetrisim.validation.case import read_case
from tetrisim.validation.steps import complete_step, engine_of, plan_step

DATA = Path(__file__).parent / "data"
PROFILE = DATA / "profile"
METRICS = ("step", "TPOT", "E2EL", "TTFT")


@dataclass(frozen=True)
class Run:
    """A recorded run; seconds from its start."""

    steps: list[dict]
    took: np.ndarray
    """From each step to the next (`period_s`)."""
    prompt: list[int]
    output: np.ndarray
    arrival: np.ndarray
    first: np.ndarray
    last: np.ndarray


@dataclass(frozen=True)
class Compared:
    """One run, measured and simulated: means in milliseconds, and how well its own batches are priced."""

    measured: dict[str, float]
    simulated: dict[str, float]
    step_bias: float
    """All recorded batches priced by the table, over what they took, less one."""
    step_error: float
    """Median absolute error of a recorded batch."""
    steps: tuple[int, int]
    """Steps of the real run and of the simulated one."""
    speed: float
    """Time over usual time: 1 where the table is taken as it is, else the mean over the run's steps."""

    def error(self, metric: str) -> float:
        """Simulated over measured, less one."""
        return self.simulated[metric] / self.measured[metric] - 1


def period_s(steps: list[dict], submitted: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Seconds from each step's start to the next one's while the engine had work, else the step's own duration."""
    start = np.array([step["start_s"] for step in steps])
    own = np.array([step["dur_s"] for step in steps])
    end = (start + own)[:-1, None]
    busy = ((submitted <= end) & (last > end + 1e-5)).any(axis=1)
    return np.append(np.where(busy, np.diff(start), own[:-1]), own[-1])


def read_run(folder: Path) -> Run:
    """What was recorded; its requests are numbered as they arrived."""
    with (folder / "requests.csv").open(newline="") as file:
        columns = list(zip(*list(csv.reader(file))[1:], strict=True))
    _, _, prompt, output, arrival, queued, _, first, last = (np.array(column, float) for column in columns)
    with gzip.open(folder / "iterations.jsonl.gz", "rt") as file:
        steps = [json.loads(line) for line in file]
    return Run(steps, period_s(steps, queued, last), prompt.astype(int).tolist(), output, arrival, first, last)


def table() -> StepTimer:
    """The fitted one."""
    return build_timer(Shard(load_model("llama-100m"), load_gpu("cpu"), "fp32", 1), str(PROFILE), "profile")[0]


def priced_s(timer: StepTimer, batch: list[list[int]], prompts: list[int]) -> float:
    """What the table says of a batch."""
    pieces = [(new, computed) for number, computed, new in batch if new > 1 or computed < prompts[number]]
    contexts = [computed for number, computed, new in batch if new == 1 and computed >= prompts[number]]
    tokens = len(contexts) + sum(new for new, _ in pieces)
    return timer.step(tokens, pieces, len(contexts), sum(contexts), max(contexts, default=0)) / TICKS_PER_S


def speed(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Time over usual time at moments of a run, by its probes; usual is what it was in the calibrations."""
    probes = read_probes(folder)
    usual = read_profile(next(PROFILE.rglob("profile.yaml")).parent).meta["provenance"]["probes_us"]
    assert isinstance(probes, Probes), f"{folder} has no probes"
    return lambda moments_s: probes.slowness({name: us / 1e6 for name, us in usual.items()}, moments_s)


def plain(folder: Path) -> Compared:
    """A run beside its simulation on the table as it is."""
    run, timer = read_run(folder), table()
    result = tetrisim.simulate(load(folder / "scenario.yaml"))
    rows, engine = result.request_columns, result.instance_columns
    columns = (rows["arrival_s"], rows["first_token_s"], rows["finish_s"], rows["output_tokens"])
    count = int(engine["steps"][0])
    simulated = {"step": 1e3 * float(engine["busy_s"][0]) / count, **latencies(*columns)}
    return _compared(
        run, simulated, count, np.array([priced_s(timer, step["batch"], run.prompt) for step in run.steps])
    )


def probed(folder: Path) -> Compared:
    """The same with each step of the table at the speed that the run's probes say the machine had at that moment."""
    run, timer, slowness = read_run(folder), table(), speed(folder)
    middle = np.array([step["start_s"] + step["dur_s"] / 2 for step in run.steps])
    factors = slowness(middle)
    priced = factors * [priced_s(timer, step["batch"], run.prompt) for step in run.steps]
    engine = engine_of(read_case(folder).config, str(folder))
    coming, live = list(zip(run.arrival, run.prompt, run.output, strict=True)), {}
    first, last = np.full((2, len(coming)), np.nan)
    now, at, took = 0.0, 0, []
    while at < len(coming) or live:
        if not live:
            now = max(now, coming[at][0])
        while at < len(coming) and coming[at][0] <= now:
            live[at] = Request(at, 0, int(coming[at][1]), int(coming[at][2]), 0)
            engine.push(live[at])
            at += 1
        batch, pieces = plan_step(engine)
        ran = {number: computed + new for number, computed, new in batch}
        seconds = priced_s(timer, batch, run.prompt)
        seconds *= float(slowness(np.array([now + seconds / 2]))[0])
        engine.let_go()
        complete_step(engine, pieces)
        now += seconds
        took.append(seconds)
        for number, known in ran.items():
            if known >= run.prompt[number] and np.isnan(first[number]):
                first[number] = now
            if known == run.prompt[number] + run.output[number] - 1:
                last[number] = now
                del live[number]
    simulated = {"step": 1e3 * float(np.mean(took)), **latencies(run.arrival, first, last, run.output)}
    return _compared(run, simulated, len(took), priced, float(factors.mean()))


def _compared(run: Run, simulated: dict[str, float], count: int, priced: np.ndarray, factor: float = 1.0) -> Compared:
    measured = {"step": 1e3 * run.took.mean(), **latencies(run.arrival, run.first, run.last, run.output)}
    bias, error = float(priced.sum() / run.took.sum() - 1), float(np.median(abs(priced / run.took - 1)))
    return Compared(measured, simulated, bias, error, (len(run.steps), count), factor)


def latencies(arrival: np.ndarray, first: np.ndarray, last: np.ndarray, output: np.ndarray) -> dict[str, float]:
    """Means in milliseconds; TPOT over requests of two tokens or more."""
    many = output > 1
    return {
        "TPOT": 1e3 * float(((last - first)[many] / (output[many] - 1)).mean()),
        "E2EL": 1e3 * float((last - arrival).mean()),
        "TTFT": 1e3 * float((first - arrival).mean()),
    }


def runs() -> dict[str, list[Path]]:
    """Recorded traces by load, the repeats together."""
    found: dict[str, list[Path]] = {}
    for folder in sorted(path.parent for path in DATA.glob("*/config.json")):
        if json.loads((folder / "config.json").read_text())["case"] == "trace":
            found.setdefault(folder.name.rpartition("-")[0], []).append(folder)
    return found


def main(wanted: list[str]) -> None:
    """Print every run on the table as it is and at the probed speed, and how far the repeats of a load lie apart."""
    head = "".join(f"{metric + ' ms':>11}{'error':>8}" for metric in METRICS)
    print(f"{'run':<14}{head}{'batches':>10}{'|error|':>9}{'steps':>12}{'slowness':>10}")
    for name, folders in runs().items():
        if wanted and name not in wanted:
            continue
        repeats = [plain(folder) for folder in folders]
        for folder, one in zip(folders, repeats, strict=True):
            print(_line(folder.name, one, [f"{one.measured[metric]:.1f}" for metric in METRICS]))
            print(_line("  as probed", probed(folder), [""] * len(METRICS)))
        if len(repeats) > 1:
            apart = (f"{_spread([one.measured[metric] for one in repeats]):>19.1%}" for metric in METRICS)
            print(f"{'  apart':<14}" + "".join(apart))


def _line(name: str, one: Compared, measured: list[str]) -> str:
    cells = "".join(f"{cell:>11}{one.error(metric):>+8.1%}" for cell, metric in zip(measured, METRICS, strict=True))
    steps = f"{one.steps[0]}/{one.steps[1]}"
    return f"{name:<14}{cells}{one.step_bias:>+10.1%}{one.step_error:>9.1%}{steps:>12}{one.speed:>10.3f}"


def _spread(values: list[float]) -> float:
    """Largest less smallest, over their mean."""
    return (max(values) - min(values)) / (sum(values) / len(values))


if __name__ == "__main__":
    main(sys.argv[1:])
