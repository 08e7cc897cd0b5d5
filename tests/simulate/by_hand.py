"""A cluster whose step times can be added up in the head: a step takes 10 ms and 1 ms for each of its tokens."""

from pathlib import Path

import numpy as np

from tetrisim.latency.step import Dense, StepTimer
from tetrisim.scenario.load import resolve

MS = 1e-3
KV_BYTES = 36_864
"""Keys and values of one token of OPT-125M: 2 x 12 layers x 768 elements x 2 bytes."""


class Flat:
    """Attention that takes `per_context_s` for each cached token of a decode, and nothing for prefill."""

    measured = skewed = False

    def __init__(self, per_context_s=0.0):
        self.per_context_s = per_context_s

    def alpha(self, chunk, sequences):
        return 0.0

    def knots(self, sequences):
        return []

    def decode(self, sequences, context):
        return sequences * context * self.per_context_s, False

    def mixed(self, chunk, cached, sequences, context):
        return self.decode(sequences, context)


def timer(step_s=10 * MS, token_s=1 * MS, context_s=0.0):
    """A StepTimer of step_s + token_s * tokens + context_s * cached tokens of the decodes."""

    def linear(tokens):
        seconds = step_s + token_s * tokens
        return seconds, np.zeros(len(tokens)), seconds

    def head(sequences):
        return np.zeros((3, len(sequences)))

    return StepTimer(Dense(linear, 64), Dense(head, 64), Flat(context_s), layers=1)


def use_timer(monkeypatch, **terms):
    """Let every instance of the run take these times."""
    monkeypatch.setattr("tetrisim.machines.build_timer", lambda *_: (timer(**terms), "by hand"))


def scenario(folder: Path, requests, **document):
    """OPT-125M on L40S serving (arrival in ms, prompt, output)."""
    path = folder / "trace.csv"
    lines = [f"{at * MS!r},{prompt},{output}" for at, prompt, output in requests]
    path.write_text("\n".join(["timestamp,input_length,output_length", *lines, ""]))
    return resolve({"model": "opt-125m", "workload": {"trace": str(path)}, **document})


def one(system, **pool):
    """One hybrid instance of a system: blocks of 4 tokens, no watermark."""
    settings = {"role": "hybrid", "block_tokens": 4, "kv_blocks": 100, "max_num_seqs": 8,
                "max_num_batched_tokens": 100, "watermark": 0.0, **pool}  # fmt: skip
    return {"system": system, "cluster": {"gpu": "l40s", "pools": [settings]}}


def split(prefill=(), decode=(), **cluster):
    """TetriInfer with chunks of 16 over a link that takes 2 ms and 1 ms a token; it knows no output lengths."""
    pools = [
        {"role": "prefill", "block_tokens": 4, "kv_blocks": 100, "chunk_tokens": 16, **dict(prefill)},
        {"role": "decode", "block_tokens": 4, "kv_blocks": 100, **dict(decode)},
    ]
    link = {"bandwidth": f"{KV_BYTES} kB/s", "latency": "2 ms"}
    cluster = {"gpu": "l40s", "pools": pools, "kv_link": link, "predict": {"policy": "none"}, **cluster}
    return {"system": "tetriinfer", "cluster": cluster}


def in_ms(result, name):
    """A column of the request rows in milliseconds, None for a moment that never came."""
    return [None if at != at else round(at * 1e3, 9) for at in result.request_columns[name].tolist()]
