"""A step log made from known costs: the fitted profile has to give those costs back, on batches it never saw."""

import gzip
import json
import random

import pytest

from tetrisim.errors import ProfileError
from tetrisim.latency.build import build_timer
from tetrisim.latency.fit_steps import Engine, Step, between_steps_s, convert, read_steps
from tetrisim.latency.roofline import Shard
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model
from tetrisim.units import TICKS_PER_S

GAP = 0.0005


def cost_s(pieces, contexts):
    """A CPU-sized step: 30 ms, 0.7 ms a token, 0.5 ms a sequence, attention by pairs and by cached tokens."""
    tokens = sum(new for new, _ in pieces) + len(contexts)
    pairs = sum(new * (cached + new / 2) for new, cached in pieces)
    rows = len(pieces) + len(contexts)
    return 0.030 + 0.0007 * tokens + 0.0005 * rows + 4e-7 * pairs + 3e-6 * sum(contexts)


def batches(count, seed, most=12):
    draw = random.Random(seed)
    for at in range(count):
        kind = at % 3
        pieces = [(draw.randint(2, 100), draw.choice((0, 64, 300))) for _ in range(draw.randint(1, 2))] if kind else []
        contexts = [draw.randint(1, 800) for _ in range(draw.randint(1, most))] if kind != 1 else []
        yield pieces, contexts


def log(folder, noise=0.0, outliers=0, count=600):
    """A folder as `fit-steps` reads it."""
    draw = random.Random(1)
    rows, now = [], 0.0
    for at, (pieces, contexts) in enumerate(batches(count, 2)):
        seconds = (cost_s(pieces, contexts) - GAP) * (1 + draw.uniform(-noise, noise))
        if at < outliers:
            seconds *= 20
        batch = [[number, done, 1] for number, done in enumerate(contexts)]
        # the first request runs on from step to step, so that the gaps between steps count
        batch += [[len(batch) + number, done, new] for number, (new, done) in enumerate(pieces)]
        rows.append({"start_s": now, "dur_s": seconds, "batch": batch})
        now += seconds + GAP
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "iterations.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder


def timer(tmp_path, source):
    engine = Engine(load_model("llama-100m"), "cpu", "fp32")
    folder = convert([source], tmp_path / "out", engine)
    return build_timer(Shard(engine.model, load_gpu("cpu"), "fp32", 1), str(tmp_path / "out"), "profile")[0], folder


def error(timer, pieces, contexts):
    tokens = sum(new for new, _ in pieces) + len(contexts)
    ticks = timer.step(tokens, pieces, len(contexts), sum(contexts), max(contexts, default=0))
    return ticks / TICKS_PER_S / cost_s(pieces, contexts) - 1


def test_costs_come_back_for_batches_that_were_not_logged(tmp_path):
    table, _ = timer(tmp_path, log(tmp_path / "log"))
    errors = [error(table, *batch) for batch in batches(300, 77)]
    assert max(map(abs, errors)) < 0.01, "every part of the step, and the gap after it, is in the table"


def test_noise_does_not_pull_the_mean_down_and_outliers_hardly_pull_it_up(tmp_path):
    table, _ = timer(tmp_path, log(tmp_path / "log", noise=0.3, outliers=6, count=3000))
    errors = [error(table, *batch) for batch in batches(300, 77)]
    assert abs(sum(errors) / len(errors)) < 0.02


def test_errors_are_those_of_shapes_held_out(tmp_path):
    _, folder = timer(tmp_path, log(tmp_path / "log", noise=0.1))
    text = (folder / "profile.yaml").read_text()
    for kind in ("prefill_steps", "decode_steps", "mixed_steps"):
        assert kind in text
    assert "fitted to 600 logged engine steps" in text


def test_tables_never_fall_and_are_not_called_measured(tmp_path):
    _, folder = timer(tmp_path, log(tmp_path / "log", noise=0.5))
    rows = [line.split(",") for line in (folder / "linear.csv").read_text().splitlines()[1:]]
    times = [float(row[2]) for row in rows]
    assert times == sorted(times)
    assert {row[3] for row in rows} == {"interpolated"}


def test_only_gaps_within_a_busy_spell_count():
    steps = [
        Step(0.0, 1.0, ((0, 0, 8),)),
        Step(1.25, 1.0, ((0, 8, 1),)),
        Step(9.0, 1.0, ((1, 0, 8),)),  # the engine had nothing to do before
        Step(19.0, 1.0, ((2, 0, 8),)),
    ]
    assert between_steps_s(steps) == 0.25


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("not json", "is no step"),
        ('{"start_s": 0, "batch": []}', "is no step"),
        ('{"start_s": 0, "dur_s": -1, "batch": [[0, 0, 4]]}', "cannot be"),
        ('{"start_s": 0, "dur_s": 1, "batch": [[0, 0, 0]]}', "cannot be"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, said):
    path = tmp_path / "iterations.jsonl"
    path.write_text('{"start_s": 0, "dur_s": 1, "batch": [[0, 0, 4]]}\n' + line + "\n")
    with pytest.raises(ProfileError, match=said) as raised:
        read_steps(tmp_path)
    assert raised.value.where == f"{path}:2"


def test_a_log_without_decodes_is_refused(tmp_path):
    rows = [{"start_s": i, "dur_s": 0.5, "batch": [[i, 0, 8 + i]]} for i in range(40)]
    (tmp_path / "iterations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ProfileError, match="0 decode steps"):
        convert([tmp_path], tmp_path / "out", Engine(load_model("llama-100m"), "cpu", "fp32"))
