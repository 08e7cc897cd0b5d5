"""The recorded runs of data/ against `vllm-v1` on the table fitted to the controlled batches: errors, nothing tuned.

    python experiments/live/compare.py [RUN ...]

Needs neither vLLM nor torch. Step times come from data/profile, which `tetrisim profile fit-steps` made of the
calibration logs alone; arrivals, lengths and engine settings are those of each run.
"""

import csv
import gzip
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import tetrisim
from tetrisim.cluster.request import Request
from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import Shard
from tetrisim.latency.step import StepTimer
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.load import load
from tetrisim.scenario.model import load_model
from tetrisim.units import TICKS_PER_S
from tetrisim.validation.steplog import read_log
from tetrisim.validation.steps import complete_step, engine_of, plan_step

DATA = Path(__file__).parent / "data"
PROFILE = DATA / "profile"
WINDOW_S = 2.0
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
    """One run: means in milliseconds, and how well its own batches are priced."""

    measured: dict[str, float]
    simulated: dict[str, float]
    step_bias: float
    """All recorded batches priced by the table, over what they took, less one."""
    step_error: float
    """Median absolute error of a recorded batch."""
    steps: tuple[int, int]
    """Steps of the real run and of the simulated one."""
    preemptions: int
    stolen: float
    """Share of the processors' time that the hypervisor gave to other machines during steps; NaN if not recorded."""

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


def compare(folder: Path) -> Compared:
    """Simulate one run and set it beside what happened."""
    config = json.loads((folder / "config.json").read_text())
    run, timer = read_run(folder), table()
    priced = np.array([priced_s(timer, step["batch"], run.prompt) for step in run.steps])
    simulated, count = simulate(load(folder / "scenario.yaml"))
    return Compared(
        measured={"step": 1e3 * run.took.mean(), **latencies(run.arrival, run.first, run.last, run.output)},
        simulated=simulated,
        step_bias=float(priced.sum() / run.took.sum() - 1),
        step_error=float(np.median(abs(priced / run.took - 1))),
        steps=(len(run.steps), count),
        preemptions=config["preemptions"],
        stolen=sum(step.get("stolen_s", np.nan) for step in run.steps) / float(run.took.sum()) / config["cpus"],
    )


def simulate(scenario: tetrisim.Scenario) -> tuple[dict[str, float], int]:
    """Means in milliseconds, and how many steps there were."""
    result = tetrisim.simulate(scenario)
    rows, engine = result.request_columns, result.instance_columns
    columns = (rows["arrival_s"], rows["first_token_s"], rows["finish_s"], rows["output_tokens"])
    count = int(engine["steps"][0])
    return {"step": 1e3 * float(engine["busy_s"][0]) / count, **latencies(*columns)}, count


def at_speed(folder: Path, one: Compared) -> Compared:
    """The same with the table's times scaled to the machine's speed as it went, window by window: a diagnosis.

    The speed is taken from the run, so this is no prediction: it shows what is left without the changes of speed.
    """
    run, timer = read_run(folder), table()
    factor = speeds(run, timer)
    engine = engine_of(read_log(folder).config, str(folder))
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
        seconds = priced_s(timer, batch, run.prompt) * factor[min(int(now / WINDOW_S), len(factor) - 1)]
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
    return replace(one, simulated=simulated, steps=(one.steps[0], len(took)))


def speeds(run: Run, timer: StepTimer) -> np.ndarray:
    """What steps took over what the table says of them, for each window of the run."""
    windows = (np.array([step["start_s"] for step in run.steps]) / WINDOW_S).astype(int)
    priced = np.bincount(windows, [priced_s(timer, step["batch"], run.prompt) for step in run.steps])
    took = np.bincount(windows, run.took)
    return np.where(priced > 0, took / np.maximum(priced, 1e-9), 1.0)


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
    """Print every run, and how far the repeats of a load lie apart."""
    head = "".join(f"{metric + ' ms':>11}{'error':>8}" for metric in METRICS)
    print(f"{'run':<14}{head}{'batches':>10}{'|error|':>9}{'steps':>12}{'preempted':>11}{'stolen':>8}")
    for name, folders in runs().items():
        if wanted and name not in wanted:
            continue
        repeats = [compare(folder) for folder in folders]
        for folder, one in zip(folders, repeats, strict=True):
            cells = "".join(f"{one.measured[metric]:>11.1f}{one.error(metric):>+8.1%}" for metric in METRICS)
            steps = f"{one.steps[0]}/{one.steps[1]}"
            print(f"{folder.name:<14}{cells}{one.step_bias:>+10.1%}{one.step_error:>9.1%}{steps:>12}"
                  f"{one.preemptions:>11}{'-' if np.isnan(one.stolen) else f'{one.stolen:.1%}':>8}")  # fmt: skip
            scaled = at_speed(folder, one)
            print("  at its speed" + "".join(f"{'':>11}{scaled.error(metric):>+8.1%}" for metric in METRICS))
        if len(repeats) > 1:
            apart = (f"{_spread([one.measured[metric] for one in repeats]):>19.1%}" for metric in METRICS)
            print(f"{'  apart':<14}" + "".join(apart))


def _spread(values: list[float]) -> float:
    """Largest less smallest, over their mean."""
    return (max(values) - min(values)) / (sum(values) / len(values))


if __name__ == "__main__":
    main(sys.argv[1:])
