"""Attention over a paged KV cache, with the best kernel this torch has for the device.

One call writes the new keys and values into the cache and attends: every prefill piece to its cached tokens and
causally to itself, every decode to its cached tokens and itself. Tried in turn, checked against plain softmax:

1. `varlen_attn` (torch 2.11 on, CUDA): FlashAttention reads the pages through a block table, all sequences in one call.
2. SDPA over gathered pages: pages of a sequence are copied side by side, then attended to. On a CPU one sequence at a
   time, so that the copy stays in the cache; on CUDA all decodes at once, padded to the longest.
"""

import inspect
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from tetrisim.profiling.shape import BatchShape, ShardShape


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
    """Where a batch's tokens lie: pages in random order, the block table, and the slots that new tokens go to."""

    def __init__(self, batch: BatchShape, pool: KvPool) -> None:
        page = pool.page
        self.lengths = [new + cached for new, cached in batch.spans]
        counts = [-(-length // page) for length in self.lengths]
        self.needed = sum(counts)
        order = torch.randperm(self.needed).tolist()
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

    def attend(self, keys: Any, values: Any) -> None:
        """Fill `out` from the pages."""
        raise NotImplementedError


class VarlenAttention(_Attention):
    """FlashAttention through a block table."""

    name = "torch.nn.attention.varlen (FlashAttention, block table)"

    def __init__(self, batch: BatchShape, pool: KvPool, qkv: Any, out: Any) -> None:
        from torch.nn.attention import varlen  # pyright: ignore[reportMissingImports]

        super().__init__(batch, pool, qkv, out)
        self.kernel = varlen.varlen_attn
        if "block_table" not in inspect.signature(self.kernel).parameters:
            raise RuntimeError("this torch has no block tables")
        lengths, device = self.layout.lengths, qkv.device
        self.rows = [pages + [0] * (max(map(len, self.layout.pages)) - len(pages)) for pages in self.layout.pages]
        self.starts = [0, *accumulate(new for new, _ in batch.spans)]
        self.table = torch.tensor(self.rows, dtype=torch.int32, device=device)
        self.used = torch.tensor(lengths, dtype=torch.int32, device=device)
        self.q_starts = torch.tensor(self.starts, dtype=torch.int32, device=device)
        self.k_starts = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        self.longest = (max(new for new, _ in batch.spans), max(lengths))

    def fill(self) -> None:
        """Block table and lengths too."""
        super().fill()
        self.table.copy_(torch.tensor(self.rows, dtype=torch.int32))
        self.used.copy_(torch.tensor(self.layout.lengths, dtype=torch.int32))
        self.q_starts.copy_(torch.tensor(self.starts, dtype=torch.int32))

    def attend(self, keys: Any, values: Any) -> None:
        """One call for prefill pieces and decodes together."""
        self.out.copy_(self.kernel(
            self.q, keys, values, self.q_starts, self.k_starts, *self.longest, window_size=(-1, 0),
            enable_gqa=True, seqused_k=self.used, block_table=self.table,
        ))  # fmt: skip


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

    def attend(self, keys: Any, values: Any) -> None:
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
    """The first kernel that runs here and is right, and its page size."""
    batch = BatchShape(((5, 0), (3, 40)), (7, 300, 31))
    choices = [(VarlenAttention, 16), (VarlenAttention, 256)] if device.type == "cuda" else []
    for kernel, page in choices:
        pool = KvPool(shape, 4096, page, device, dtype)
        width = (shape.heads + 2 * shape.kv_heads) * shape.model.head_dim
        qkv = torch.randn(batch.tokens, width, dtype=dtype, device=device)
        out = torch.zeros(batch.tokens, shape.heads * shape.model.head_dim, dtype=dtype, device=device)
        try:
            call = kernel(batch, pool, qkv, out)
            call.fill()
            call(0)
            if torch.allclose(call.out.float(), plain_attention(batch, call), atol=0.03, rtol=0.03):
                return kernel, page
        except (RuntimeError, ImportError, TypeError, ValueError):
            continue
    return GatherAttention, 16
