"""Which points are measured, in which order: a coarse grid first, so that an interrupted run is usable. No torch here.

A unit is measured and written as a whole. That matters where half of it would mislead the lookup: a decode slice with
one context would read as a constant, and a batch size missing from some mixed slices would shrink the full product.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tetrisim.profiling.shape import ShardShape

Key = tuple[str | int, ...]
"""The key columns of a row, in the order of tetrisim.latency.table.KEYS."""
Task = tuple[str, Key]
"""A file and a row of it."""

ESSENTIAL = 0
"""The level without which a profile cannot be used."""

TOKENS = (
    (1, 16, 128, 1024, 8192),
    (4, 8, 32, 64, 256, 512, 2048, 4096),
    (2, 12, 24, 48, 96, 192, 384, 768, 1536, 3072, 6144),
    (3, 6, 14, 17, 20, 33, 40, 65, 80, 112, 129, 160, 224, 257, 320, 448, 640, 896, 1280, 1792),
)
"""New tokens of the linear ops by level; the last one looks for the steps of GEMM tiles."""
EXPERTS_LEVEL = 1
"""Whole experts are slow to measure: only the first levels of TOKENS."""
SEQUENCES = ((1, 16, 128), (4, 8, 32, 64, 256), (2, 12, 24, 48, 96, 192), (512,))
DECODES = ((1, 16, 64), (4, 32, 128), (2, 8, 24, 48, 96, 256), (12,))
CONTEXTS = ((16, 512, 2047), (64, 128, 1024, 4095, 8191), (256, 1536, 3071, 16383, 32767), ())
CHUNKS = ((16, 256, 1024), (64, 128, 512, 2048), (32, 192, 384, 768, 1536, 4096, 8192), ())
CACHED = ((0, 16, 1024), (256, 4096), (512, 2048, 8192, 16384, 32768), ())
MIXED_CHUNKS = ((16, 256, 1024), (64, 512, 2048), (128, 384, 768))
MIXED_DECODES = (1, 16, 64, 256)
MIXED_CONTEXTS = (16, 512, 2047)
MIXED_CACHED = (0, 1024)
HOST = ((1, 16, 64), (4, 8, 32, 128), (2, 256), ())
HOST_CONTEXT = 128
"""Cached tokens of the decodes in a whole step: few, as the overhead is a small difference of two long times."""
SKEW_DECODES = (2, 8, 32, 64)
SKEW_CHUNKS = (0, 256)
SKEW_CONTEXTS = ((64, 2047), (512, 4095))
COLLECTIVE_BYTES = tuple(2**power for power in range(12, 28, 1))


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows that are measured in turns and written together."""

    title: str
    level: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the device can hold: cached tokens in one layer's KV pool, and GPUs that can talk to each other."""

    pool_tokens: int
    gpus: int = 1


def build_plan(shape: ShardShape, limits: Limits) -> list[Unit]:
    """All units, the most needed first."""
    points = _Points(shape, limits)
    units: list[Unit] = []
    for level in range(len(TOKENS)):
        units += points.linear(level)
        units += points.decode(level)
        units += points.prefill(level)
        units += points.experts(level)
        units += points.host(level)
        units += points.mixed(level - 1)
        units += points.skew() if level == 1 else []
        units += points.collective() if level == 1 else []
    return [unit for unit in units if unit.tasks]


class _Points:
    """The points of each table that fit the model's positions and the KV pool."""

    def __init__(self, shape: ShardShape, limits: Limits) -> None:
        self.shape, self.limits = shape, limits
        self.longest = shape.model.max_positions

    def linear(self, level: int) -> Iterator[Unit]:
        """One unit a token count, so that all ops of a layer are measured in the same minute."""
        for tokens in TOKENS[level]:
            yield Unit(f"ops over {tokens} tokens", level,
                       tuple(("linear.csv", (op, tokens)) for op in self.shape.linear_ops))  # fmt: skip
        for count in SEQUENCES[level]:
            rows = tuple(("head.csv", (op, count)) for op in ("lm_head", "sampler"))
            yield Unit(f"head over {count} sequences", level, rows)

    def experts(self, level: int) -> Iterator[Unit]:
        """Routed experts: as many as the tokens can reach, halved down to those that one token reaches."""
        experts = self.shape.experts
        if experts is None or level > EXPERTS_LEVEL:
            return
        for tokens in TOKENS[level]:
            most = min(experts.count, tokens * experts.active)
            counts = {experts.active, *(most >> power for power in range(5) if most >> power > experts.active)}
            rows = tuple(("moe.csv", (tokens, count)) for count in sorted(counts))
            yield Unit(f"experts over {tokens} tokens", level, rows)

    def decode(self, level: int) -> Iterator[Unit]:
        """New batch sizes get every context so far, old ones the new contexts."""
        for count, contexts in _refined(DECODES, CONTEXTS, level):
            fit = [kv for kv in contexts if kv < self.longest and count * (kv + 1) <= self.limits.pool_tokens]
            rows = tuple(("attention.csv", (0, 0, count, kv)) for kv in fit)
            yield Unit(f"decode attention, {count} sequences", level, rows)

    def prefill(self, level: int) -> Iterator[Unit]:
        """The same for chunks over cached tokens."""
        for chunk, cached in _refined(CHUNKS, CACHED, level):
            room = min(self.longest, self.limits.pool_tokens)
            rows = tuple(("attention.csv", (chunk, kp, 0, 0)) for kp in cached if chunk + kp <= room)
            yield Unit(f"prefill attention, {chunk} tokens", level, rows)

    def host(self, level: int) -> Iterator[Unit]:
        """Whole steps, one batch size at a time: each holds a step's buffers."""
        for count in HOST[level]:
            if count * (HOST_CONTEXT + 1) <= self.limits.pool_tokens:
                yield Unit(f"whole steps, {count} sequences", level, (("host.csv", (count,)),))

    def mixed(self, level: int) -> Iterator[Unit]:
        """One unit a chunk, with the whole product of the other axes: any number of whole chunks is a full product."""
        if not 0 <= level < len(MIXED_CHUNKS):
            return
        room = self.limits.pool_tokens
        contexts = [kv for kv in MIXED_CONTEXTS if kv < self.longest]
        cached = [kp for kp in MIXED_CACHED if kp + 1024 <= self.longest]
        largest = cached[-1] + max(_flat(MIXED_CHUNKS))
        counts = [n for n in MIXED_DECODES if n * (contexts[-1] + 1) + largest <= room]
        for chunk in MIXED_CHUNKS[level]:
            if chunk + cached[-1] > self.longest or len(counts) < 2:
                continue
            rows = [(chunk, kp, n, kv) for kp in cached for n in counts for kv in contexts]
            yield Unit(f"mixed attention, {chunk} tokens", level + 1, tuple(("attention.csv", row) for row in rows))

    def skew(self) -> Iterator[Unit]:
        """Batches with one, a quarter and half of their contexts long."""
        for chunk in SKEW_CHUNKS:
            for count in SKEW_DECODES:
                rows: list[Task] = []
                for short, far in SKEW_CONTEXTS:
                    fits = far < self.longest and chunk + count * (far + 1) <= self.limits.pool_tokens
                    for some in sorted({1, count // 4, count // 2} - {0}) if fits else ():
                        rows.append(("skew.csv", (chunk, 0, count, some, short, far)))
                yield Unit(f"ragged decode, {count} sequences", 1, tuple(rows))

    def collective(self) -> Iterator[Unit]:
        """Messages between the GPUs of the shard, where there are as many."""
        gpus = self.shape.tensor_parallel
        if 1 < gpus <= self.limits.gpus:
            ops = [("all_reduce", gpus), ("p2p", 2)]
            rows = [(op, size, ring) for op, ring in ops for size in COLLECTIVE_BYTES]
            yield Unit("messages between GPUs", 1, tuple(("collective.csv", row) for row in rows))


def _refined(
    first: tuple[tuple[int, ...], ...], second: tuple[tuple[int, ...], ...], level: int
) -> Iterator[tuple[int, list[int]]]:
    """(value on the first axis, its values on the second) that a level adds to the product of the levels before it."""
    old = set(_flat(first[:level]))
    every, added = sorted(_flat(second[: level + 1])), sorted(second[level])
    for value in sorted(_flat(first[: level + 1])):
        yield value, added if value in old else every


def _flat(levels: Iterable[tuple[int, ...]]) -> list[int]:
    return [value for level in levels for value in level]
