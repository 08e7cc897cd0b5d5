"""Vidur's `data/profiling` folder: linear ops (`compute/<gpu>/.../mlp.csv`) and collectives (`network/<node>/*.csv`).

`mlp.csv` times each linear op of one layer over `num_tokens` for each number of tensor-parallel workers; a model is
found by its sizes, not by its name. `all_reduce.csv` and `send_recv.csv` time NCCL over bytes. All are milliseconds, of
which the median is taken.

What it cannot give, and what fills the gap: attention is read by a regression there and not imported (roofline), the LM
head and sampling (roofline), host overhead (stated constant). Where a folder holds only `network/`, the linear ops are
the roofline's too. All of these are labelled estimated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tetrisim.errors import ProfileError
from tetrisim.latency.grid import MEASURED
from tetrisim.latency.importers.fill import Keyed, attention_rows, head_rows, linear_rows
from tetrisim.latency.importers.rows import csv_rows, number, packed_or_plain, whole
from tetrisim.latency.importers.stage import Draft, install
from tetrisim.latency.roofline import Shard
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import ModelSpec

CARDS = {"a100": "a100-80gb", "h100": "h100-sxm"}
"""Their GPU -> the catalog's; A40 has no entry there."""
OPS = {
    "emb": "embedding", "input_layernorm": "layernorm", "attn_pre_proj": "qkv_proj", "attn_rope": "rotary_emb",
    "attn_post_proj": "o_proj", "post_attention_layernorm": "post_attention_layernorm", "mlp_up_proj": "gate_up_proj",
    "mlp_act": "act_fn", "mlp_down_proj": "down_proj", "add": "residual_add",
}  # fmt: skip
SIZES = {"n_head": "heads", "n_kv_head": "kv_heads", "n_embd": "hidden", "n_expanded_embd": "intermediate"}
"""Their column -> our field: what makes two models the same one for a kernel."""


@dataclass(frozen=True)
class Wanted:
    """Which profiles to compose; the tables are 16-bit."""

    models: Sequence[ModelSpec]
    gpus: Sequence[str]
    shards: Sequence[int]
    dtype: str = "bf16"


def convert(source: Path, out: Path, wanted: Wanted) -> list[Path]:
    """Write one profile per GPU, model and degree below `out`; returns the new folders."""
    if wanted.dtype not in ("bf16", "fp16"):
        raise ProfileError("--dtype", f"is '{wanted.dtype}'", "bf16 or fp16: Vidur's tables are 16-bit")
    there = {ours: name for name, ours in CARDS.items() if _linear_folder(source, name) or _node(source, name)}
    if not there:
        raise ProfileError(str(source), "holds no table of " + " or ".join(CARDS), "compute/<gpu>/ or network/<node>/")
    for gpu in wanted.gpus:
        if gpu not in there:
            raise ProfileError(str(source), f"holds nothing of {gpu}", "one of " + ", ".join(there))
    drafts = [
        _draft(source, there[gpu], Shard(model, load_gpu(gpu), wanted.dtype, cut))
        for gpu in wanted.gpus or sorted(there)
        for model in wanted.models
        for cut in wanted.shards
    ]
    return install(drafts, out)


def _linear_folder(source: Path, card: str) -> Path | None:
    return next((path for path in (source / "compute" / card, source / card) if any(path.rglob("mlp.csv*"))), None)


def _node(source: Path, card: str) -> Path | None:
    places = (source / "network" / f"{card}_dgx", source / f"{card}_dgx")
    return next((path for path in places if path.is_dir()), None)


def _draft(source: Path, card: str, shard: Shard) -> Draft:
    model, cut = shard.model, shard.tensor_parallel
    folder, node = _linear_folder(source, card), _node(source, card)
    linear = list(_linear(folder, model, cut)) if folder else []
    per_layer = dict.fromkeys((op for op in OPS.values() if op != "embedding"), 1)
    seen = {str(key[0]) for key, _, _ in linear}
    per_layer = {op: calls for op, calls in per_layer.items() if op in seen}
    per_step = {"embedding": 1} if linear else {"whole_linear": 1}
    kind = "linear ops and collectives" if linear else "collectives"
    draft = Draft(
        shard.gpu.name, model, shard.dtype, cut, f"Vidur's {kind} of {card}, the rest from the roofline",
        per_layer, per_step | {"whole_head": 1}, {"unit there": "ms, medians", "node": node.name if node else None},
    )  # fmt: skip
    draft.add("linear.csv", linear or linear_rows(shard))
    draft.add("head.csv", head_rows(shard))
    draft.add("attention.csv", attention_rows(shard))
    if node is not None:
        draft.add("collective.csv", _collectives(node, cut))
    return draft


def _linear(folder: Path, model: ModelSpec, cut: int) -> Iterator[Keyed]:
    """Rows of the first table whose model has the sizes of ours."""
    tables = sorted({path.with_name("mlp.csv") for path in folder.rglob("mlp.csv*")})
    runs: dict[tuple[str, int], list[float]] = {}
    for path in tables:
        for where, row in csv_rows(path):
            if any(whole(row, theirs, where) != getattr(model, ours) for theirs, ours in SIZES.items()):
                break
            if whole(row, "num_tensor_parallel_workers", where) != cut:
                continue
            tokens = whole(row, "num_tokens", where)
            for theirs, ours in OPS.items():
                if f"time_stats.{theirs}.median" in row:
                    time = number(row, f"time_stats.{theirs}.median", where) * 1e-3
                    runs.setdefault((ours, tokens), []).append(time)
        if runs:
            break
    if not runs:
        raise ProfileError(
            str(folder), f"has no rows of the sizes of {model.name} at tensor parallel {cut}", "an mlp.csv"
        )
    for (op, tokens), times in runs.items():
        yield (op, tokens), fmean(times), MEASURED


def _collectives(node: Path, cut: int) -> Iterator[Keyed]:
    """All-reduce inside one node, point-to-point inside a node and (as `send_recv_across`) between nodes."""
    runs: dict[tuple[str, int, int], list[float]] = {}
    for key, row, where in _network(node / "all_reduce.csv") if cut > 1 else ():
        if key == (cut, cut):
            sized = ("all_reduce", whole(row, "size", where), cut)
            runs.setdefault(sized, []).append(_ms(row, "all_reduce", where))
    if cut > 1 and not runs:
        path = packed_or_plain(node / "all_reduce.csv")
        raise ProfileError(str(path), f"has no all-reduce of {cut} GPUs in one node", "num_workers that was measured")
    for key, row, where in _network(node / "send_recv.csv"):
        op = {(2, 2): "send_recv", (2, 1): "send_recv_across"}.get(key)
        if op:
            runs.setdefault((op, whole(row, "size", where), 2), []).append(_ms(row, "send_recv", where))
    for sized, times in runs.items():
        yield sized, fmean(times), MEASURED


def _network(path: Path) -> Iterator[tuple[tuple[int, int], dict[str, str], str]]:
    for where, row in csv_rows(path):
        yield (whole(row, "num_workers", where), whole(row, "devices_per_node", where)), row, where


def _ms(row: dict[str, str], op: str, where: str) -> float:
    return number(row, f"time_stats.{op}.median", where) * 1e-3
