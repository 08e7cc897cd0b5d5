"""KV memory of one instance: blocks counted exactly, and told apart only where prefixes are shared."""

from collections import OrderedDict
from collections.abc import Iterable

from tetrisim.cluster.batch import DecodeBatch
from tetrisim.cluster.request import Request


class KVCache:
    """Blocks by number alone: what an instance needs when no prefix is shared."""

    __slots__ = ("block_tokens", "capacity", "free", "reserve")

    ordered = False
    """Whether the order in which requests take blocks within a step matters."""

    def __init__(self, capacity: int, block_tokens: int, reserve: int = 0) -> None:
        self.capacity = capacity
        self.block_tokens = block_tokens
        self.free = capacity
        self.reserve = reserve
        """Blocks that admission leaves free (vLLM's watermark)."""

    def blocks(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)

    def cached(self, request: Request) -> int:
        """Tokens of a waiting request that are in the cache already."""
        return 0

    def fits(self, request: Request, cached: int, spare: int) -> bool:
        """Whether all that a waiting request is to compute fits beside `spare` blocks promised to the running ones.

        Its first chunk alone might: but vLLM admits a prompt only when the whole of it fits.
        """
        return -(-request.target // self.block_tokens) + spare + self.reserve <= self.free

    def admit(self, request: Request, cached: int, tokens: int) -> None:
        """Give blocks to a request that starts with `cached` tokens and computes `tokens` more."""
        self.free -= -(-(cached + tokens) // self.block_tokens)

    def extend(self, request: Request, tokens: int) -> None:
        """Give blocks to a request in prefill for `tokens` more tokens."""
        self.free -= self.blocks(request.computed + tokens) - self.blocks(request.computed)

    def grow(self, batch: DecodeBatch, members: Iterable[Request], steps: int) -> None:
        """Give the batch the blocks of its next `steps` steps (call before it advances)."""
        self.free -= batch.growth(steps)

    def release(self, request: Request, tokens: int) -> None:
        """Take back the blocks that hold a request's `tokens` tokens."""
        self.free += -(-tokens // self.block_tokens)

    def check(self) -> None:
        """Raise AssertionError unless 0 <= free <= capacity."""
        if not 0 <= self.free <= self.capacity:
            raise AssertionError(f"{self.free} free blocks of {self.capacity}")


class PrefixCache(KVCache):
    """Blocks told apart, full ones found again by content: vLLM V1's block pool.

    Blocks without content (never used, or freed before they were full) are taken first. The free list holds the others
    in order of eviction, oldest first; a request's blocks are freed last block first, so that the tail of a prefix goes
    before its head. A full block is entered when the step that fills
    it is scheduled. Content is named by the trace's prefix-block ids; blocks beyond them belong to one request alone.
    """

    __slots__ = ("_blank", "_cached", "_fresh", "_held", "_key", "_list", "_users", "hash_block_tokens")

    ordered = True

    def __init__(self, capacity: int, block_tokens: int, reserve: int, hash_block_tokens: int) -> None:
        super().__init__(capacity, block_tokens, reserve)
        self.hash_block_tokens = hash_block_tokens
        self._fresh = 0
        self._blank: list[int] = []
        self._list: OrderedDict[int, None] = OrderedDict()
        self._cached: dict[int, dict[int, None]] = {}
        self._key: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._held: dict[Request, list[int]] = {}

    def cached(self, request: Request) -> int:
        """Tokens of the leading blocks found; at least one token is left to compute."""
        return len(self._hits(request)) * self.block_tokens

    def fits(self, request: Request, cached: int, spare: int) -> bool:
        """As above; found blocks cost nothing unless they are on the free list."""
        hits = self._hits(request) if cached else []
        free_hits = sum(1 for block in hits if block not in self._users)
        return self.blocks(request.target) - len(hits) + free_hits + spare + self.reserve <= self.free

    def admit(self, request: Request, cached: int, tokens: int) -> None:
        """Share the found blocks, then take new ones."""
        hits = self._hits(request)[: cached // self.block_tokens] if cached else []
        for block in hits:
            if block not in self._users:
                del self._list[block]
                self.free -= 1
            self._users[block] = self._users.get(block, 0) + 1
        self._held[request] = hits
        self._take(request, cached + tokens)

    def extend(self, request: Request, tokens: int) -> None:
        """New blocks for a request in prefill."""
        self._take(request, request.computed + tokens)

    def grow(self, batch: DecodeBatch, members: Iterable[Request], steps: int) -> None:
        """New blocks step by step, and within a step in running order, as the engine takes them."""
        size, step = self.block_tokens, batch.step_no
        wanted: list[tuple[int, int, Request]] = []
        for order, request in enumerate(members):
            if request.finish_step >= 0:
                first = -(request.base + step) % size
                wanted.extend((at, order, request) for at in range(first, steps, size))
        for at, _, request in sorted(wanted, key=lambda entry: entry[:2]):
            self._take(request, request.base + step + at + 1)
        for request in members:
            if request.finish_step >= 0:
                self._enter(request, request.base + step + steps)

    def release(self, request: Request, tokens: int) -> None:
        """Blocks that nobody else uses go to the end of the free list, last block first."""
        for block in reversed(self._held.pop(request)):
            users = self._users[block] - 1
            if users:
                self._users[block] = users
            else:
                del self._users[block]
                if block in self._key:
                    self._list[block] = None
                else:
                    self._blank.append(block)
                self.free += 1

    def check(self) -> None:
        """Raise AssertionError unless every block is either free or held."""
        super().check()
        free = self.capacity - self._fresh + len(self._blank) + len(self._list)
        if free != self.free or free + len(self._users) != self.capacity:
            raise AssertionError(f"{self.free} free blocks, {free} listed, {len(self._users)} held of {self.capacity}")

    def _hits(self, request: Request) -> list[int]:
        limit = (request.target - 1) // self.block_tokens
        hits: list[int] = []
        for index in range(limit):
            blocks = self._cached.get(self._name(request, index))
            if not blocks:
                break
            hits.append(next(iter(blocks)))
        return hits

    def _take(self, request: Request, tokens: int) -> None:
        """Hold blocks for `tokens` tokens in all, and enter those that are full."""
        held = self._held[request]
        for _ in range(self.blocks(tokens) - len(held)):
            if self._blank:
                block = self._blank.pop()
            elif self._fresh < self.capacity:
                block = self._fresh
                self._fresh += 1
            else:
                block, _ = self._list.popitem(last=False)
                self._forget(block)
            self.free -= 1
            self._users[block] = 1
            held.append(block)
        self._enter(request, tokens)

    def _enter(self, request: Request, tokens: int) -> None:
        held = self._held[request]
        for index in range(tokens // self.block_tokens - 1, -1, -1):
            block = held[index]
            if block in self._key:
                break  # all before it were entered earlier
            name = self._name(request, index)
            self._key[block] = name
            self._cached.setdefault(name, {})[block] = None

    def _forget(self, block: int) -> None:
        name = self._key.pop(block, None)
        if name is not None:
            blocks = self._cached[name]
            del blocks[block]
            if not blocks:
                del self._cached[name]

    def _name(self, request: Request, index: int) -> int:
        """The content of a request's block: shared by id where the trace has one (even), else its own (odd)."""
        size, unit = self.block_tokens, self.hash_block_tokens
        place = index * size // unit
        if place < len(request.hash_ids) and (index + 1) * size <= request.prompt:
            return 2 * (request.hash_ids[place] * (unit // size) + index % (unit // size))
        return 2 * ((request.id << 24) + index) + 1
