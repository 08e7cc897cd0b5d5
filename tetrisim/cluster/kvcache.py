"""KV memory of one instance: blocks counted exactly, and told apart only where prefixes are shared."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain, islice, takewhile

from tetrisim.cluster.batch import DecodeBatch
from tetrisim.cluster.request import Request


class KVCache:
    """Blocks by number alone: what an instance needs when no prefix is shared."""

    __slots__ = ("block_tokens", "capacity", "free", "lag", "reserve")

    ordered = False
    """Whether the order in which requests take blocks within a step matters."""

    def __init__(self, capacity: int, block_tokens: int, reserve: int = 0) -> None:
        self.capacity = capacity
        self.block_tokens = block_tokens
        self.free = capacity
        self.reserve = reserve
        """Blocks that admission leaves free (vLLM's watermark)."""
        self.lag = 0
        """1 when a decoding request's newest token is not yet known (asynchronous scheduling), else 0."""

    def blocks(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)

    def cached(self, request: Request) -> int:
        """Tokens of a waiting request that are in the cache already."""
        return 0

    def names(self, request: Request) -> list[int]:
        """What the blocks of a new request's prompt are found by, but for its last token."""
        return []

    def foreseen(self, names: list[int], taken: int) -> int:
        """Tokens of the leading blocks that are found by these names when others have taken `taken` more blocks."""
        return 0

    def shared_tokens(self, one: Request, other: Request) -> int:
        """Tokens of the leading blocks that two requests have in common, here or not."""
        return 0

    def fits(self, request: Request, tokens: int, spare: int) -> bool:
        """Whether a waiting request's first `tokens` tokens fit beside `spare` blocks kept for others."""
        return -(-tokens // self.block_tokens) + spare <= self.free

    def admit(self, request: Request, cached: int, tokens: int) -> None:
        """Give blocks to a request that starts with `cached` tokens and computes `tokens` more."""
        self.free -= -(-(cached + tokens) // self.block_tokens)

    def extend(self, request: Request, computed: int, tokens: int, decoding: bool) -> None:
        """Give blocks to a running request of `computed` tokens for `tokens` more."""
        self.free -= self.blocks(computed + tokens) - self.blocks(computed)

    def hold(self, request: Request, held_tokens: int, tokens: int) -> None:
        """Give a request blocks for `tokens` tokens whose KV is yet to come; it has those of `held_tokens`."""
        self.free -= self.blocks(tokens) - self.blocks(held_tokens)

    def enter(self, request: Request, tokens: int) -> None:
        """A request's first `tokens` tokens are known and computed; where blocks are told apart, they can be found."""

    def grow(self, batch: DecodeBatch, members: Iterable[Request], steps: int) -> None:
        """Give the batch the blocks of its next `steps` steps (call before it advances)."""
        self.free -= batch.growth(steps)

    def release(self, request: Request, tokens: int) -> None:
        """Take back the blocks that hold a request's `tokens` tokens."""
        self.free += -(-tokens // self.block_tokens)

    def held(self, request: Request, tokens: int) -> int:
        """Blocks that a running request of `tokens` tokens holds."""
        return self.blocks(tokens)

    def check(self) -> None:
        """Raise AssertionError unless 0 <= free <= capacity."""
        if not 0 <= self.free <= self.capacity:
            raise AssertionError(f"{self.free} free blocks of {self.capacity}")


NAMELESS = -1
"""The name of a block without content."""


class PrefixCache(KVCache):
    """Blocks told apart, full ones found again by content: vLLM V1's block pool.

    Blocks without content (never used, or freed before they were full) are taken first. The free list holds the others
    in order of eviction, oldest first; a request's blocks are freed last block first, so that the tail of a prefix goes
    before its head. A full block is entered when the step that fills it is scheduled. Content is named by the trace's
    prefix-block ids; blocks beyond them belong to one request alone.
    """

    __slots__ = (
        "_blank", "_changes", "_entered", "_found", "_held", "_list", "_memo", "_names", "_twins", "_users",
        "hash_block_tokens",
    )  # fmt: skip

    ordered = True

    def __init__(self, capacity: int, block_tokens: int, reserve: int, hash_block_tokens: int) -> None:
        super().__init__(capacity, block_tokens, reserve)
        self.hash_block_tokens = hash_block_tokens
        self._names: list[int] = []
        """Block -> name of its content, NAMELESS for none. Blocks are numbered as they are first used."""
        self._users: list[int] = []
        self._blank: list[int] = []
        self._list: OrderedDict[int, None] = OrderedDict()
        self._found: dict[int, int] = {}
        """Name -> the block that is found by it."""
        self._twins: dict[int, dict[int, None]] = {}
        """Name -> other blocks of the same content, in the order in which they were entered."""
        self._held: dict[Request, list[int]] = {}
        self._entered: dict[Request, int] = {}
        """How many of the leading blocks that a request holds have been entered."""
        self._changes = 0
        self._memo: tuple[Request | None, int, list[int]] = (None, 0, [])

    def cached(self, request: Request) -> int:
        """Tokens of the leading blocks found; at least one token is left to compute."""
        return len(self._hits(request)) * self.block_tokens

    def names(self, request: Request) -> list[int]:
        """Names of content."""
        return list(self._content(request, 0, (request.target - 1) // self.block_tokens))

    def foreseen(self, names: list[int], taken: int) -> int:
        """As above: found blocks may be among those that others will have taken."""
        found, twins = self._found, self._twins
        count = sum(1 for _ in takewhile(found.__contains__, names))
        unused = len(self._blank) + self.capacity - len(self._users)
        if taken > unused:
            lost = set(islice(self._list, taken - unused))
            gone = (at for at in range(count) if found[names[at]] in lost and lost.issuperset(twins.get(names[at], ())))
            count = next(gone, count)
        return count * self.block_tokens

    def shared_tokens(self, one: Request, other: Request) -> int:
        """By the ids of their prompts."""
        pairs = zip(one.hash_ids, other.hash_ids, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) * self.hash_block_tokens

    def adopt(self, request: Request, tokens: int) -> None:
        """Enter the blocks of a request's first `tokens` tokens, whose KV has come from elsewhere.

        They are free until somebody uses them, as if the request had been here and gone. Where fewer are free, the rest
        of the KV is dropped.
        """
        hits = self._hits(request)[: tokens // self.block_tokens]
        in_use = sum(1 for block in hits if self._users[block])
        blocks = min(tokens // self.block_tokens, in_use + self.free)
        self.admit(request, len(hits) * self.block_tokens, (blocks - len(hits)) * self.block_tokens)
        self.release(request, tokens)

    def fits(self, request: Request, tokens: int, spare: int) -> bool:
        """As above; found blocks cost nothing unless they are on the free list."""
        hits = self._hits(request)
        free_hits = sum(1 for block in hits if not self._users[block])
        return self.blocks(tokens) - len(hits) + free_hits + spare <= self.free

    def admit(self, request: Request, cached: int, tokens: int) -> None:
        """Share the found blocks, then take new ones."""
        hits = self._hits(request)[: cached // self.block_tokens] if cached else []
        for block in hits:
            if not self._users[block]:
                del self._list[block]
                self.free -= 1
            self._users[block] += 1
        self._held[request] = hits
        self._entered[request] = len(hits)
        self._take(request, cached + tokens)
        self.enter(request, cached + tokens)

    def extend(self, request: Request, computed: int, tokens: int, decoding: bool) -> None:
        """New blocks; those that the tokens fill are entered, a decoding request's newest token with its lag."""
        self._take(request, computed + tokens)
        self.enter(request, computed + tokens - decoding * self.lag)

    def hold(self, request: Request, held_tokens: int, tokens: int) -> None:
        """New blocks without content until it is entered."""
        self._held.setdefault(request, [])
        self._entered.setdefault(request, 0)
        self._take(request, tokens)

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
                self.enter(request, request.base + step + steps - self.lag)

    def release(self, request: Request, tokens: int) -> None:
        """Blocks that nobody else uses go to the end of the free list, last block first."""
        users, names = self._users, self._names
        del self._entered[request]
        for block in reversed(self._held.pop(request)):
            users[block] -= 1
            if not users[block]:
                self.free += 1
                if names[block] == NAMELESS:
                    self._blank.append(block)
                else:
                    self._list[block] = None

    def held(self, request: Request, tokens: int) -> int:
        """Blocks that a running request holds."""
        return len(self._held[request])

    def check(self) -> None:
        """Raise AssertionError unless every block is either free or held."""
        super().check()
        free = self.capacity - len(self._users) + len(self._blank) + len(self._list)
        held = sum(1 for users in self._users if users)
        if free != self.free or free + held != self.capacity:
            raise AssertionError(f"{self.free} free blocks, {free} listed, {held} held of {self.capacity}")

    def _hits(self, request: Request) -> list[int]:
        """The leading blocks found; remembered until a block is taken or entered, for it is asked for several times."""
        if self._memo[0] is request and self._memo[1] == self._changes:
            return self._memo[2].copy()
        hits: list[int] = []
        for name in self._content(request, 0, (request.target - 1) // self.block_tokens):
            block = self._found.get(name)
            if block is None:
                break
            hits.append(block)
        self._memo = (request, self._changes, hits)
        return hits.copy()

    def _take(self, request: Request, tokens: int) -> None:
        """Hold blocks for `tokens` tokens in all."""
        held, users, blank, listed = self._held[request], self._users, self._blank, self._list
        for _ in range(len(held), -(-tokens // self.block_tokens)):
            self.free -= 1
            if blank:
                block = blank.pop()
                users[block] = 1
            elif len(users) < self.capacity:
                block = len(users)
                users.append(1)
                self._names.append(NAMELESS)
            else:
                block, _ = listed.popitem(last=False)
                users[block] = 1
                self._forget(block)
            held.append(block)

    def enter(self, request: Request, tokens: int) -> None:
        """Enter the full blocks of a request's first `tokens` tokens."""
        first, full = self._entered[request], tokens // self.block_tokens
        if first >= full:
            return
        held, names, found = self._held[request], self._names, self._found
        for index, name in enumerate(self._content(request, first, full), first):
            block = held[index]
            names[block] = name
            if name in found:
                self._twins.setdefault(name, {})[block] = None
            else:
                found[name] = block
        self._entered[request] = full
        self._changes += 1

    def _forget(self, block: int) -> None:
        """A block's content is about to be written over."""
        name = self._names[block]
        self._names[block] = NAMELESS
        self._changes += 1
        twins = self._twins.get(name)
        if self._found[name] != block:
            assert twins is not None
            del twins[block]
        elif twins:
            self._found[name] = next(iter(twins))
            del twins[self._found[name]]
        else:
            del self._found[name]
        if twins is not None and not twins:
            del self._twins[name]

    def _content(self, request: Request, first: int, last: int) -> Iterator[int]:
        """The names of a request's blocks: even where the trace has an id, else odd and of this request alone."""
        ids, ratio = request.hash_ids, self.hash_block_tokens // self.block_tokens
        shared = max(first, min(last, len(ids) * ratio, request.prompt // self.block_tokens))
        named = ids[first // ratio : -(-shared // ratio)]
        even = chain.from_iterable(range(2 * each * ratio, 2 * (each + 1) * ratio, 2) for each in named)
        own = 2 * (request.id << 24) + 1
        return chain(
            islice(even, first % ratio, first % ratio + shared - first), range(own + 2 * shared, own + 2 * last, 2)
        )
