"""Run vLLM on this CPU and keep what it did: `calibrate`, `capacity`, `trace`. See README.md beside this file.

    python serve.py calibrate --name calibrate-1 --seconds 120
    python serve.py capacity
    python serve.py trace --load 0.3 0.6 0.8 --repeat 1

Each run is a folder of data/: config.json, iterations.jsonl.gz, probes.jsonl.gz, requests.jsonl.gz and requests.csv.
"""

import argparse
import csv
import gzip
import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from engine import Job, LiveEngine, Settings

HERE = Path(__file__).parent
DATA = HERE / "data"
AZURE = HERE.parents[2] / "shared" / "data" / "traces" / "azure2023" / "AzureLLMInferenceTrace_conv.csv.gz"

SHRINK = 8
"""Azure's lengths are divided by this: prompts of 1,155 tokens would take this core more than a second each."""
REQUESTS = 200
"""Of the highest load, and of the capacity; lower loads have the first of them."""
RUN_S = 45.0
"""About as long is a run."""
LONGEST_PROMPT, LONGEST_OUTPUT = 384, 64
DECODES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16)
CONTEXT_BLOCKS = (1, 3, 5, 9, 13)
CHUNKS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128)
CACHED_BLOCKS = (0, 0, 1, 3, 6, 10)
BUDGET = Settings.max_num_batched_tokens
REST_S = 0.4
"""The longest pause before a scene; every fifth has one."""


class Tokens:
    """Prompts: sixteen long ones whose prefixes come back from the cache, and tokens that nobody has seen."""

    def __init__(self, vocabulary: int, block: int, seed: int) -> None:
        self._draw = random.Random(seed)
        self._vocabulary, self._block = vocabulary, block
        self.bases = [self.fresh(block * max(CONTEXT_BLOCKS)) for _ in range(16)]

    def fresh(self, count: int) -> list[int]:
        """Random ids."""
        return self._draw.choices(range(10, self._vocabulary), k=count)

    def after(self, base: int, blocks: int, count: int) -> list[int]:
        """A prompt of which `blocks` whole blocks are in the cache and `count` tokens are new."""
        return self.bases[base % 16][: blocks * self._block] + self.fresh(count)


Piece = tuple[int, int]
"""New tokens, and cached blocks before them."""


def scenes(draw: random.Random) -> list[tuple[list[Piece], list[list[Piece]]]]:
    """One pass over the controlled batches in random order: who decodes, and what is prefilled beside, by step."""
    found: list[tuple[list[Piece], list[list[Piece]]]] = []
    for n in DECODES:
        for level in (*CONTEXT_BLOCKS, None, None, None):
            joiners = [(draw.randint(1, 8), draw.choice(CONTEXT_BLOCKS) if level is None else level) for _ in range(n)]
            room = BUDGET - n
            beside: list[list[Piece]] = [[], []]
            for _ in range(2 if n < 16 else 0):
                pieces = [(min(draw.choice(CHUNKS), room), draw.choice(CACHED_BLOCKS))]
                if n < 15 and draw.random() < 0.3:
                    pieces.append((draw.choice(CHUNKS), draw.choice(CACHED_BLOCKS)))
                if sum(new for new, _ in pieces) > room:
                    pieces = pieces[:1]
                beside += [pieces, []]
            found.append((joiners, beside + [[]] * 2))
    for chunk in CHUNKS:
        for cached in sorted(set(CACHED_BLOCKS)):
            found.append(([], [[(chunk, cached)]]))
    draw.shuffle(found)
    return found


def calibrate(engine: LiveEngine, name: str, seconds: float) -> None:
    """Controlled batches in random order, again and again, until the time is over."""
    draw = random.Random(name)
    tokens = Tokens(engine.vocabulary, engine.settings.block_size, 1)
    warm_up(engine, tokens)
    engine.restart()
    passes, stolen = 0, disturbance()
    while True:
        for joiners, beside in scenes(draw):
            if draw.random() < 0.2:
                time.sleep(draw.uniform(0.0, REST_S))
            stage(engine, tokens, draw, joiners, beside)
            if engine.now() > seconds:
                engine.save(DATA / name, case="calibrate", passes=passes, **machine(stolen))
                return
        passes += 1


def stage(
    engine: LiveEngine, tokens: Tokens, draw: random.Random, joiners: list[Piece], beside: list[list[Piece]]
) -> None:
    """One scene."""

    def hand_over(base: int, new: int, blocks: int, output: int) -> None:
        engine.submit(Job(len(engine.jobs), tokens.after(base, blocks, new), output, engine.now()))

    for base, (new, blocks) in enumerate(joiners):
        # one output token at the join, then one a step until the scene ends: all leave together
        hand_over(base, new, blocks, 1 + len(beside))
    if joiners:
        engine.step()
    for pieces in beside:
        for new, blocks in pieces:
            hand_over(draw.randrange(16), new, blocks, 1)
        if pieces or joiners:
            engine.step()
    while engine.busy:
        engine.step()


def warm_up(engine: LiveEngine, tokens: Tokens) -> None:
    """A third of all sizes once (kernels are made at the first use of a shape), and the base prompts into the cache."""
    prompts = [tokens.fresh(size) for size in range(1, engine.settings.max_num_batched_tokens + 1, 3)]
    bases = tokens.bases if engine.settings.enable_prefix_caching else []
    for number, prompt in enumerate([*prompts, *bases]):
        engine.submit(Job(number, prompt, 2))
        while engine.busy:
            engine.step()


def azure(count: int) -> list[tuple[float, int, int]]:
    """Azure's conversations cut to fit: gaps of its first requests (s), prompt and output tokens of random ones.

    The lengths drift over the hour of the trace, so that those of its first minute would be another workload.
    """
    with gzip.open(AZURE, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    at = [datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in rows[:count]]
    return [
        (
            moment - at[0],
            min(LONGEST_PROMPT, max(8, int(row["ContextTokens"]) // SHRINK)),
            min(LONGEST_OUTPUT, max(2, int(row["GeneratedTokens"]) // SHRINK)),
        )
        for moment, row in zip(at, random.Random(0).sample(rows, count), strict=True)
    ]


def play(engine: LiveEngine, arrivals: list[tuple[float, int, int]]) -> None:
    """Open loop: before each step, all whose time has come are handed over; an idle engine waits for the next."""
    tokens = Tokens(engine.vocabulary, engine.settings.block_size, 2)
    jobs = [Job(number, tokens.fresh(prompt), output, at) for number, (at, prompt, output) in enumerate(arrivals)]
    waiting: Iterator[Job] = iter(jobs)
    engine.restart()
    job = next(waiting, None)
    while job is not None or engine.busy:
        while job is not None and job.planned_s <= engine.now():
            engine.submit(job)
            job = next(waiting, None)
        if engine.busy:
            engine.step()
        elif job is not None:
            time.sleep(max(0.0, job.planned_s - engine.now()))


def capacity(engine: LiveEngine) -> float:
    """Requests a second with all of them there from the start."""
    play(engine, [(0.0, prompt, output) for _, prompt, output in azure(REQUESTS)])
    return REQUESTS / max(job.last_token_s or 0.0 for job in engine.jobs.values())


def trace(engine: LiveEngine, name: str, load: float, capacity_per_s: float) -> None:
    """The first requests at a share of what the engine can do."""
    count = min(REQUESTS, round(RUN_S * load * capacity_per_s))
    rows = azure(REQUESTS)[:count]
    pace = count / (load * capacity_per_s) / rows[-1][0]
    stolen = disturbance()
    play(engine, [(at * pace, prompt, output) for at, prompt, output in rows])
    engine.save(DATA / name, case="trace", load=load, capacity_per_s=capacity_per_s, **machine(stolen))


def disturbance() -> tuple[float, float, float]:
    """Moment, processor time of everybody, and of this process; a hypervisor's steal counts as somebody's."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    others = sum(fields) - fields[3] - fields[4]
    return time.perf_counter(), others / os.sysconf("SC_CLK_TCK"), time.process_time()


def machine(before: tuple[float, float, float]) -> dict[str, object]:
    """What the machine was, and the share of it that others used since `before`."""
    at, everybody, own = (now - then for now, then in zip(disturbance(), before, strict=True))
    model = next(line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().split("\n")
                 if line.startswith("model name"))  # fmt: skip
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "date": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "others_share": round(max(0.0, everybody - own) / at / (os.cpu_count() or 1), 4),
    }


def main() -> None:
    """One process may make several runs: the engine starts slowly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("calibrate", "capacity", "trace"))
    parser.add_argument("--name", default="calibrate-1", help="folder of a calibration")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a calibration")
    parser.add_argument("--load", type=float, nargs="+", default=[0.3, 0.6, 0.8], help="shares of the capacity")
    parser.add_argument("--repeat", nargs="+", default=["1"], help="the same requests once more, under another name")
    parser.add_argument("--blocks", type=int, help="KV blocks, vLLM's null block among them")
    options = parser.parse_args()
    blocks = {} if options.blocks is None else {"num_gpu_blocks": options.blocks}
    engine = LiveEngine(Settings(enable_prefix_caching=options.command == "calibrate", **blocks))
    if options.command == "calibrate":
        calibrate(engine, options.name, options.seconds)
        return
    warm_up(engine, Tokens(engine.vocabulary, engine.settings.block_size, 3))
    if options.command == "capacity":
        stolen = disturbance()
        rate = round(capacity(engine), 4)
        engine.save(DATA / "capacity", case="capacity", capacity_per_s=rate, **machine(stolen))
        return
    full = json.loads((DATA / "capacity" / "config.json").read_text())["capacity_per_s"]
    for repeat, load in itertools.product(options.repeat, options.load):
        kind = f"load-{round(100 * load)}" if options.blocks is None else f"blocks-{options.blocks}"
        trace(engine, f"{kind}-{repeat}", load, full)


if __name__ == "__main__":
    main()
