"""Measured runs made by the simulator itself, so that what a validation has to find is known."""

import csv
import json

from latency.folders import write

from tetrisim.scenario.load import resolve
from tetrisim.simulate import simulate
from tetrisim.validation.readers import read_measured
from tetrisim.validation.stepwise import Driven, run_free

REQUESTS = [(5.0 + 0.0005 * n, 20 + 7 * (n % 9), 3 + (5 * n) % 17) for n in range(60)]
"""Arrival (s), prompt and output tokens: more at once than there are seats."""


def scenario(profile, **pool):
    """One instance of four seats on a tiny profile; plans wait for outputs."""
    settings = {"role": "hybrid", "max_num_seqs": 4, "max_num_batched_tokens": 64, "kv_blocks": 200}
    return resolve({
        "model": "opt-125m", "system": "vllm-v1", "profile": str(profile),
        "cluster": {"gpu": "rtx-pro-6000", "pools": [{**settings, "async_scheduling": False, **pool}]},
    })  # fmt: skip


def tables(tmp_path, name="tables", **files):
    """A profile folder."""
    return write(tmp_path / name, files.get("files"))


def rows(path, requests=REQUESTS):
    """A CSV of arrivals and lengths, and as if each were served at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        header = "request_id,input_length,output_length,client_arrival_s,scheduled_s,first_token_s,last_token_s"
        writer.writerow(header.split(","))
        for number, (at, prompt, output) in enumerate(requests):
            writer.writerow([number, prompt, output, at, at, at, at])
    return path


def simulated(path, world, requests=REQUESTS):
    """The rows that a scenario gives, as a measured run."""
    draft = read_measured(rows(path, requests))
    found = simulate(world, trace=draft.trace(None, None)).request_columns
    start = draft.arrival_s[0]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        header = "request_id,input_length,output_length,client_arrival_s,scheduled_s,first_token_s,last_token_s"
        writer.writerow(header.split(","))
        names = (
            "request_id",
            "prompt_tokens",
            "output_tokens",
            "arrival_s",
            "prefill_start_s",
            "first_token_s",
            "finish_s",
        )
        for row in zip(*(found[name].tolist() for name in names), strict=True):
            writer.writerow([repr(float(value + start)) if isinstance(value, float) else value for value in row])
    return path


class Logged(Driven):
    """An engine that keeps a log of its steps."""

    def plan(self):
        """As always, and note how long it takes."""
        pieces, seconds, host = super().plan()
        self.seconds = seconds - host if self.paused else seconds
        return pieces, seconds, host

    def complete(self, pieces, now):
        """As always, and note when it was."""
        self.log.append({"i": len(self.log), "start_s": now - self.seconds, "dur_s": self.seconds,
                         "batch": [[0, 0, 1]], "preempted": []})  # fmt: skip
        super().complete(pieces, now)


def recorded(folder, world, requests=REQUESTS, pause_s=None):
    """A recorded case of a scenario's own steps; `pause_s` stands between them (then steps are without host time)."""
    draft = read_measured(rows(folder / "requests.csv", requests))
    (folder / "requests.csv").unlink()
    engine = Logged(world, draft)
    engine.log, engine.paused = [], pause_s is not None
    run_free(engine, draft.arrival_s, pause_s)
    pool = world.cluster.pools[0]
    config = {"max_num_seqs": pool.max_num_seqs, "max_num_batched_tokens": pool.max_num_batched_tokens,
              "block_size": pool.block_tokens, "num_gpu_blocks": pool.kv_blocks + 1,
              "enable_prefix_caching": False, "async_scheduling": False}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {"request_id": n, "timestamp": 1e3 * at, "submit_s": at, "input_length": prompt, "output_length": output,
         "first_token_s": engine.first_s[n], "last_token_s": engine.last_s[n]}
        for n, (at, prompt, output) in enumerate(requests)
    ]  # fmt: skip
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "iterations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in engine.log))
    return folder
