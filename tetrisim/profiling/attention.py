"""Attention over a paged KV cache, with the best kernel this torch has for the device.

One call writes the new keys and values into the cache and attends: every prefill piece to its cached tokens and
causally to itself, every decode to its cached tokens and itself. Tried in turn, checked against plain softmax:

1. FlashAttention on CUDA, which reads pages through a block table where this torch lets it (2.13 does).
2. FlashAttention without one (2.11): each sequence's cache lies in one piece, as in an engine with pages that long.
3. SDPA over gathered pages: pages of a sequence are copied side by side, then attended to. On a CPU one sequence at a
   time, so that the copy stays in the cache; on CUDA all decodes at once, padded to the longest.
"""

from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from tetrisim.profiling.shape import BatchShape, ShardShape

PROBE = BatchShape(((5, 0), (3, 40)), (7, 300, 31))
"""What a kernel must get right to be used."""


class KvPool:
    """Pages of one layer as (page, token, head, feature); other layers' pages are other regions of the same tensors."""

    def __init__(self, shape: ShardShape, tokens: int, page: int, device: Any, dtype: Any) -> None:
        self.shape, self.page, self.pages = shape, page, -(-tokens // page)
        sizes = (self.pages, page, shape.kv_heads, shape.model.head_dim)
        self.keys, self.values = (torch.randn(sizes, dtype=dtype, device=device) for _ in range(2))
        self.scratch: tuple[Any, Any] = (self.keys[:0].clone(), self.values[:0].clone())

    def regions(self, pages: int) -> list[tuple[Any, Any]]:
        """Up to 32 stretches of `pages` pages, as far apart as the pool allows."""
        count = max(1, min(32, self.pages // pages))
        return [(self.keys.narrow(0, i * pages, pages), self.values.narrow(0, i * pages, pages)) for i in range(count)]

    def gathered(self, pages: int) -> tuple[Any, Any]:
        """Room for `pages` pages side by side."""
        if self.scratch[0].shape[0] < pages:
            self.scratch = tuple(part.new_empty((pages, *part.shape[1:])) for part in (self.keys, self.values))
        return self.scratch[0][:pages], self.scratch[1][:pages]


class _Layout:
    """Where a batch's tokens lie: pages in random order, the block table, and the slots that new tokens go to.

    Pages of one token lie in order, so that each sequence is in one piece.
    """

    def __init__(self, batch: BatchShape, pool: KvPool) -> None:
        page = pool.page
        self.lengths = [new + cached for new, cached in batch.spans]
        counts = [-(-length // page) for length in self.lengths]
        self.needed = sum(counts)
        order = list(range(self.needed)) if page == 1 else torch.randperm(self.needed).tolist()
        ends = list(accumulate(counts))
        self.pages = [order[end - count : end] for end, count in zip(ends, counts, strict=True)]
        self.slots = [
            pages[at // page] * page + at % page
            for (new, cached), pages in zip(batch.spans, self.pages, strict=True)
            for at in range(cached, cached + new)
        ]


class _Attention:
    """What the kernels share: views of the fused projection, and the write into the cache."""

    name = ""

    def __init__(self, batch: BatchShape, pool: KvPool, qkv: Any, out: Any) -> None:
        shape = pool.shape
        self.batch, self.pool = batch, pool
        self.layout = _Layout(batch, pool)
        self.regions = pool.regions(self.layout.needed)
        parts = qkv[: batch.tokens].unflatten(1, (-1, shape.model.head_dim))
        self.q, self.k, self.v = parts.split((shape.heads, shape.kv_heads, shape.kv_heads), dim=1)
        self.out = out[: batch.tokens].unflatten(1, (-1, shape.model.head_dim))
        self.slots = torch.zeros(batch.tokens, dtype=torch.long, device=qkv.device)

    def fill(self) -> None:
        """Copy what changes from step to step to the device, as an engine does before each."""
        self.slots.copy_(torch.tensor(self.layout.slots))

    def __call__(self, i: int) -> None:
        keys, values = self.regions[i % len(self.regions)]
        keys.flatten(0, 1).index_copy_(0, self.slots, self.k)
        values.flatten(0, 1).index_copy_(0, self.slots, self.v)
        self.attend(keys, values)

    def attend(self, keys: Any, values: Any) -> list[Any]:
        """The answers of all tokens in order, in one tensor or more."""
        raise NotImplementedError


class FlashAttention(_Attention):
    """FlashAttention over pages or, with pages of one token, over sequences that lie in one piece.

    Prefill pieces and decodes are two calls: a decode needs no mask, and without one the kernel packs the query heads
    that share a KV head and splits long contexts.
    """

    name = "FlashAttention (aten::_flash_attention_forward)"

    def __init__(self, batch: BatchShape, pool: KvPool, qkv: Any, out: Any) -> None:
        super().__init__(batch, pool, qkv, out)
        self.inputs: list[tuple[Any, Any]] = []
        pieces, every = len(batch.pieces), len(batch.spans)
        parts = (range(pieces), True), (range(pieces, every), False)
        self.calls = [self._bound(members, causal) for members, causal in parts if members]

    def fill(self) -> None:
        """Block tables and lengths too."""
        super().fill()
        for there, here in self.inputs:
            there.copy_(here)

    def attend(self, keys: Any, values: Any) -> list[Any]:
        """The kernel allocates what it returns."""
        return [call(keys, values) for call in self.calls]

    def _bound(self, members: range, causal: bool) -> Any:
        """One call of the kernel over some of the batch's sequences."""
        spans, pages = (list(part[members.start : members.stop]) for part in (self.batch.spans, self.layout.pages))
        lengths = [new + cached for new, cached in spans]
        first = sum(new for new, _ in self.batch.spans[: members.start])
        q = self.q[first : first + sum(new for new, _ in spans)]
        q_starts, k_starts = (self._input([0, *accumulate(counts)]) for counts in ([new for new, _ in spans], lengths))
        longest = (max(new for new, _ in spans), max(lengths))
        options: dict[str, Any] = {}
        start = pages[0][0]
        if self.pool.page > 1:
            start, most = 0, max(map(len, pages))
            table = self._input([row + [0] * (most - len(row)) for row in pages])
            options = {"seqused_k": self._input(lengths), "block_table": table}

        def call(keys: Any, values: Any) -> Any:
            if self.pool.page == 1:
                keys, values = (part[start : start + sum(lengths)].squeeze(1) for part in (keys, values))
            kernel = torch.ops.aten._flash_attention_forward
            return kernel(q, keys, values, q_starts, k_starts, *longest, 0.0, causal, False, **options)[0]

        return call

    def _input(self, numbers: Any) -> Any:
        """A tensor on the device that is filled anew before each step, as an engine does."""
        here = torch.tensor(numbers, dtype=torch.int32)
        there = here.to(self.q.device)
        self.inputs.append((there, here))
        return there


class GatherAttention(_Attention):
    """SDPA over pages copied side by side."""

    name = "scaled_dot_product_attention over gathered pages"

    def __init__(self, batch: BatchShape, pool: KvPool, qkv: Any, out: Any) -> None:
        super().__init__(batch, pool, qkv, out)
        first, lengths, pages = len(batch.pieces), self.layout.lengths, self.layout.pages
        size = 1 if qkv.device.type == "cpu" else max(1, len(batch.contexts))
        self.groups = [list(range(at, min(at + size, len(lengths)))) for at in range(first, len(lengths), size)]
        self.starts = [0, *accumulate(new for new, _ in batch.spans)]
        self.rows: list[list[int]] = []
        for group in (*([at] for at in range(first)), *self.groups):
            most = max(len(pages[at]) for at in group)
            self.rows.append([page for at in group for page in pages[at] + pages[at][:1] * (most - len(pages[at]))])
        self.indices = [torch.zeros(len(row), dtype=torch.long, device=qkv.device) for row in self.rows]
        self.masks = [_ragged([lengths[at] for at in group], qkv.device, qkv.dtype) for group in self.groups]

    def fill(self) -> None:
        """Page lists too."""
        super().fill()
        for index, row in zip(self.indices, self.rows, strict=True):
            index.copy_(torch.tensor(row))

    def attend(self, keys: Any, values: Any) -> list[Any]:
        """Piece by piece, then group by group."""
        pieces = len(self.batch.pieces)
        for at in range(pieces):
            self._piece(at, keys, values)
        for at, group in enumerate(self.groups):
            rows = slice(self.starts[group[0]], self.starts[group[-1]] + 1)
            longest = max(self.layout.lengths[member] for member in group)
            k, v = self._gather(self.indices[pieces + at], keys, values, len(group), longest)
            # The query heads that share a KV head become rows of one matrix: exact, as each has one token.
            q = self.q[rows].unflatten(1, (k.shape[1], -1))
            self.out[rows].unflatten(1, (k.shape[1], -1)).copy_(
                F.scaled_dot_product_attention(q, k, v, attn_mask=self.masks[at])
            )
        return [self.out]

    def _piece(self, at: int, keys: Any, values: Any) -> None:
        chunk, cached = self.batch.pieces[at]
        rows = slice(self.starts[at], self.starts[at + 1])
        q = self.q[rows].transpose(0, 1).unsqueeze(0)
        if cached:
            k, v = self._gather(self.indices[at], keys, values, 1, chunk + cached)
            mask = _lower_right(chunk, chunk + cached, q.device, q.dtype)
            result = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        else:
            k, v = (part[rows].transpose(0, 1).unsqueeze(0) for part in (self.k, self.v))
            result = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        self.out[rows].copy_(result[0].transpose(0, 1))

    def _gather(self, index: Any, keys: Any, values: Any, count: int, length: int) -> tuple[Any, Any]:
        """Keys and values as (sequence, head, token, feature)."""
        room = self.pool.gathered(len(index))
        for pages, out in zip((keys, values), room, strict=True):
            torch.index_select(pages, 0, index, out=out)
        k, v = (out.view(count, -1, *out.shape[2:])[:, :length].transpose(1, 2) for out in room)
        return k, v


def _ragged(lengths: list[int], device: Any, dtype: Any) -> Any:
    """Nothing for even lengths; else minus infinity beyond each sequence's end."""
    if min(lengths) == max(lengths):
        return None
    beyond = torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]
    return torch.zeros(beyond.shape).masked_fill_(beyond, float("-inf"))[:, None, None].to(device, dtype)


@lru_cache(maxsize=8)
def _lower_right(chunk: int, length: int, device: Any, dtype: Any) -> Any:
    """The causal mask of the last `chunk` of `length` tokens; one step's layers share it."""
    later = torch.ones(chunk, length, dtype=torch.bool).tril_(length - chunk).logical_not_()
    return torch.zeros(chunk, length).masked_fill_(later, float("-inf")).to(device, dtype)


def plain_attention(batch: BatchShape, call: _Attention) -> Any:
    """What `out` must hold after a call on region 0, by softmax in fp32."""
    keys, values = (part.flatten(0, 1).float() for part in call.regions[0])
    out, row, page = [], 0, call.pool.page
    for (new, cached), pages in zip(batch.spans, call.layout.pages, strict=True):
        slots = [pages[at // page] * page + at % page for at in range(new + cached)]
        q = call.q[row : row + new].float()
        repeat = q.shape[1] // keys.shape[1]
        k, v = (part[slots].repeat_interleave(repeat, dim=1) for part in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
        later = torch.ones(new, new + cached, device=q.device).tril_(cached) == 0
        out.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(later, float("-inf")).softmax(-1), v))
        row += new
    return torch.cat(out)


def choose_kernel(shape: ShardShape, device: Any, dtype: Any) -> tuple[type[_Attention], int]:
    """The best kernel that runs here and is right, and its page size."""
    if device.type == "cuda":
        for page in (16, 256, 1):  # engines' size, FlashAttention 2's smallest, none
            if flash_is_right(shape, page, device, dtype):
                return FlashAttention, page
    return GatherAttention, 16


def flash_is_right(shape: ShardShape, page: int, device: Any, dtype: Any) -> bool:
    """Whether FlashAttention runs on such pages here, and agrees with plain softmax."""
    pool = KvPool(shape, 4096, page, device, dtype)
    width = (shape.heads + 2 * shape.kv_heads) * shape.model.head_dim
    qkv = torch.randn(PROBE.tokens, width, dtype=dtype, device=device)
    try:
        call = FlashAttention(PROBE, pool, qkv, qkv[:, : shape.heads * shape.model.head_dim])
        call.fill()
        call(0)
        found = torch.cat(call.attend(*call.regions[0]))
        return torch.allclose(found.float(), plain_attention(PROBE, call), atol=0.03, rtol=0.03)
    except (RuntimeError, TypeError, ValueError):
        return False
