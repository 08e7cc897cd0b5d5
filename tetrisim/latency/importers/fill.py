"""Rows that nobody measured, from the roofline, for sources that lack an op; all are labelled estimated."""

from collections.abc import Iterator

import numpy as np

from tetrisim.latency import roofline
from tetrisim.latency.attention import RooflineAttention
from tetrisim.latency.grid import ESTIMATED
from tetrisim.latency.roofline import Shard

Keyed = tuple[tuple[object, ...], float, int]
"""The key columns of a row, its seconds, and its source."""
SIZES = tuple(2**exponent for exponent in range(16))
"""1 to 32,768: the roofline bends once, so powers of two follow it closely."""
CHUNKS = tuple(sorted({1, *(round(16 * 1.25**step) for step in range(35))}))
"""16 to 31,554: prefill time bends with the chunk all along."""


def attention_rows(shard: Shard) -> Iterator[Keyed]:
    """Prefills with and without a cached prefix, and decodes, up to the positions of the model."""
    attention = RooflineAttention(shard)
    longest = shard.model.max_positions
    for cached in (0, *(size for size in SIZES if 256 <= size < longest)):
        for chunk in CHUNKS:
            if chunk + cached <= longest:
                yield (chunk, cached, 0, 0), attention.mixed(chunk, cached, 0, 0)[0], ESTIMATED
    for n in SIZES[:11]:
        for context in (1, longest):
            yield (0, 0, n, context), attention.decode(n, context)[0], ESTIMATED


def linear_rows(shard: Shard) -> Iterator[Keyed]:
    """All matrices and element-wise ops of a step as one op, `whole_linear`."""
    for tokens, time in zip(SIZES, roofline.linear_s(shard, np.array(SIZES)), strict=True):
        yield ("whole_linear", tokens), float(time), ESTIMATED


def head_rows(shard: Shard) -> Iterator[Keyed]:
    """LM head and sampling as one op, `whole_head`."""
    for sequences, time in zip(SIZES[:12], roofline.head_s(shard, np.array(SIZES[:12])), strict=True):
        yield ("whole_head", sequences), float(time), ESTIMATED
