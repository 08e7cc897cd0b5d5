"""The tables of an RTX PRO 6000 through importer and StepTimer: exact at their points, close where held out."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from tetrisim.latency.build import build_timer
from tetrisim.latency.grid import Product4, largest_product
from tetrisim.latency.importers.llmservingsim import CALLS_PER_LAYER, CALLS_PER_STEP, convert
from tetrisim.latency.roofline import Shard, host_s
from tetrisim.latency.table import read_profile
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model
from tetrisim.units import TICKS_PER_S

SHARED = Path(__file__).parents[2].parent / "shared/data/profiles/llmservingsim/RTXPRO6000/Llama-3.1-8B"
LAYERS = 32

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the measured tables in {SHARED}")


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    return {folder.name: folder for folder in convert(SHARED, tmp_path_factory.mktemp("profiles"))}


def rows(name):
    path = SHARED / "tp1" / name
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return list(csv.DictReader(file))


def test_a_step_at_points_of_the_tables_is_their_sum(profiles):
    """Sequences alike, so that skew has no say; host overhead is not in the tables."""
    shard = Shard(load_model("llama-3.1-8b"), load_gpu("rtx-pro-6000"), "bf16", 1)
    timer = build_timer(shard, str(profiles["tp1"]), "profile")[0]
    dense = {(row["layer"], int(row["tokens"])): float(row["time_us"]) for row in rows("dense.csv")}
    head = {(row["layer"], int(row["sequences"])): float(row["time_us"]) for row in rows("per_sequence.csv")}
    keys = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")
    attention = {tuple(int(row[key]) for key in keys): float(row["time_us"]) for row in rows("attention.csv.gz")}
    linear = {op for op, _ in dense}
    tried = 0
    for n in (1, 2, 4, 8, 64, 128):
        for chunk, kp, kv in ((0, 0, 16), (0, 0, 1024), (0, 0, 16384), (16, 0, 0), (512, 64, 0), (2048, 1024, 0)):
            n_here = 0 if chunk else n
            point = (chunk, kp, n_here, kv if n_here else 0)
            tokens, sequences = chunk + n_here, n_here + (chunk > 0)
            if point not in attention or ("lm_head", sequences) not in head or ("o_proj", tokens) not in dense:
                continue
            micros = LAYERS * attention[point]
            micros += sum(LAYERS * CALLS_PER_LAYER.get(op, 0) * dense[op, tokens] for op in linear)
            micros += sum(CALLS_PER_STEP.get(op, 0) * dense[op, tokens] for op in linear)
            micros += sum(CALLS_PER_STEP[op] * head[op, sequences] for op in ("lm_head", "sampler"))
            expected = micros * 1e-6 + float(host_s(np.array([sequences]))[0])
            pieces = [(chunk, kp)] if chunk else []
            ticks = timer.step(tokens, pieces, n_here, n_here * kv, kv)
            assert ticks / TICKS_PER_S == pytest.approx(expected, rel=1e-9)
            tried += 1
    assert tried >= 15


@pytest.mark.parametrize("shard", ["tp1", "tp2"])
def test_mixed_steps_that_were_held_out_are_close(profiles, shard):
    """The grid keeps the x2 product of the mixed rows; the other sweep (x1.5) was measured between its points."""
    known = read_profile(profiles[shard]).attention
    mixed = {point: time for point, time in known.items() if point[0] > 0 and point[2] > 0}
    axes = largest_product(mixed)
    product = Product4(axes, mixed)
    errors = []
    for point, time in mixed.items():
        if not all(x in axis for x, axis in zip(point, axes, strict=True)):
            found, inside = product.at(*point)
            if inside:
                errors.append(abs(found / time - 1))
    assert len(errors) > 3000
    assert np.median(errors) <= 0.03
    assert np.percentile(errors, 90) <= 0.10
