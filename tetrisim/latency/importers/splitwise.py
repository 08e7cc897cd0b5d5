"""Splitwise's `perf_model.csv`: times of whole phases of Llama-2-70B, anchored into a profile.

What is measured: the prompt phase over prompt sizes (one request) and over batch sizes, and the time of a generated
token over batch sizes, each of the whole model with its all-reduces and its host overhead (`includes`). Attention is
estimated by the roofline and taken off, and what is left is one op, `whole_step`, over the tokens of a step: up to 64
from token times, above from prompt times. So the profile gives back the measured times at the measured shapes, and
context costs what the roofline says. `whole_step` is labelled interpolated, as it is a measurement less an estimate.

What it cannot give: single ops, attention, mixed batches, all-reduces and host overhead apart from the rest, the dtype
(16 bits assumed), power-capped cards and Bloom (no such card or model in the catalog).
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tetrisim.errors import ProfileError, unknown_name
from tetrisim.latency.attention import RooflineAttention
from tetrisim.latency.grid import SOURCES
from tetrisim.latency.importers.fill import attention_rows
from tetrisim.latency.importers.rows import csv_rows, number, whole
from tetrisim.latency.importers.stage import Draft, install
from tetrisim.latency.roofline import Shard
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model

MODELS = {"llama2-70b": "llama-2-70b"}
CARDS = {"a100-80gb": "a100-80gb", "h100-80gb": "h100-sxm"}
"""Their names -> the catalog's; other rows are left out."""
PROMPT, TOKENS = 512, 128
"""The shape around which one factor at a time was varied."""

Samples = dict[int, list[float]]


def convert(
    source: Path, out: Path, gpus: Sequence[str] = (), shards: Sequence[int] = (), dtype: str = "bf16"
) -> list[Path]:
    """Write one profile per GPU and degree below `out` (all that the file holds where none are named)."""
    path = source / "perf_model.csv" if source.is_dir() else source
    if dtype not in ("bf16", "fp16"):
        raise ProfileError("--dtype", f"is '{dtype}'", "bf16 or fp16: Splitwise measured 16-bit weights")
    phases = _phases(path)
    known = sorted({gpu for gpu, _ in phases})
    for gpu in gpus:
        if gpu not in known:
            raise unknown_name(ProfileError, str(path), gpu, known)
    for cut in shards:
        if cut not in {degree for _, degree in phases}:
            raise ProfileError(str(path), f"has no tensor_parallel {cut}", "one of 2, 4, 8")
    wanted = [key for key in sorted(phases) if key[0] in (gpus or known) and (not shards or key[1] in shards)]
    model = load_model(MODELS["llama2-70b"])
    return install(
        [_draft(path, Shard(model, load_gpu(gpu), dtype, cut), phases[gpu, cut]) for gpu, cut in wanted], out
    )


def _phases(path: Path) -> dict[tuple[str, int], tuple[Samples, Samples]]:
    """(GPU, degree) -> tokens of a prompt step and sequences of a decode step -> measured seconds."""
    phases: dict[tuple[str, int], tuple[Samples, Samples]] = defaultdict(lambda: (defaultdict(list), defaultdict(list)))
    for where, row in csv_rows(path):
        for column in ("model", "hardware"):
            if column not in row:
                raise ProfileError(where, f"column '{column}' is missing", "Splitwise's perf_model.csv")
        prompt, batch, tokens = (whole(row, name, where) for name in ("prompt_size", "batch_size", "token_size"))
        cut = whole(row, "tensor_parallel", where)
        times = number(row, "prompt_time", where) * 1e-3, number(row, "token_time", where) * 1e-3
        if row["model"] not in MODELS or row["hardware"] not in CARDS:
            continue
        prompts, decodes = phases[CARDS[row["hardware"]], cut]
        if tokens == TOKENS and (batch == 1 or prompt == PROMPT):
            # Beyond one request's sweep only batches reach that many tokens.
            key = prompt if batch == 1 else -prompt * batch
            prompts[key].append(times[0])
        if prompt == PROMPT and tokens == TOKENS:
            decodes[batch].append(times[1])
    if not phases:
        raise ProfileError(str(path), "has no rows of Llama-2-70B on a card of the catalog", ", ".join(CARDS))
    return phases


def _plausible(prompts: Samples, decodes: Samples) -> tuple[Samples, Samples]:
    """Without the batches whose prompts take less than those of half as many requests: they did not fit in memory."""
    times = {-key // PROMPT: median(samples) for key, samples in prompts.items() if key < 0}
    wrong = {batch for batch, time in times.items() if time < times.get(batch // 2, 0.0)}
    return (
        {key: samples for key, samples in prompts.items() if -key // PROMPT not in wrong},
        {batch: samples for batch, samples in decodes.items() if batch not in wrong},
    )


def _draft(path: Path, shard: Shard, phases: tuple[Samples, Samples]) -> Draft:
    model, gpu = shard.model, shard.gpu.name
    attention = RooflineAttention(shard)
    prompts, decodes = _plausible(*phases)
    single = {tokens: samples for tokens, samples in prompts.items() if tokens > 0}
    steps: dict[int, tuple[list[float], float]] = {}
    for tokens, samples in single.items():
        steps[tokens] = (samples, attention.mixed(tokens, 0, 0, 0)[0])
    for tokens, samples in ((-key, samples) for key, samples in prompts.items() if key < 0):
        if tokens > max(single, default=0):
            steps[tokens] = (samples, tokens // PROMPT * attention.mixed(PROMPT, 0, 0, 0)[0])
    for batch, samples in decodes.items():
        steps[batch] = (samples, attention.decode(batch, PROMPT + TOKENS / 2)[0])
    left_out = sorted(set(phases[1]) - set(decodes))
    draft = Draft(
        gpu, model, shard.dtype, shard.tensor_parallel,
        "Splitwise's whole-phase times (perf_model.csv), less the roofline's attention",
        {}, {"whole_step": 1}, {"unit there": "ms", "measured": "whole prompt phase; time per generated token",
                             "batches left out": left_out},
        includes=("host", "all_reduce"),
    )  # fmt: skip
    rows: list[list[object]] = []
    for tokens, (samples, apart) in sorted(steps.items()):
        left = median(samples) - model.layers * apart
        if left <= 0:
            what = f"{tokens} tokens take {median(samples) * 1e3:.4g} ms on {gpu}"
            raise ProfileError(str(path), f"{what}, less than its attention alone", "milliseconds")
        spread = median(abs(sample - median(samples)) for sample in samples)
        rows.append(["whole_step", tokens, f"{left * 1e6:.6g}", f"{spread * 1e6:.4g}", len(samples), SOURCES[1]])
    draft.tables["linear.csv"] = (("op", "tokens", "time_us", "spread_us", "samples", "source"), rows)
    draft.add("attention.csv", attention_rows(shard))
    return draft
