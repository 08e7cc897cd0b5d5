"""Engines of before paged attention: KV memory reserved at admission, and batches that nobody joins."""

from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.kvcache import KVCache
from tetrisim.cluster.request import Request


class ReservedKV(KVCache):
    """Blocks for the longest that a request may become are reserved when it is admitted, so none is ever preempted.

    `rule`: `longest` reserves `longest_tokens`, `power-of-two` room for the prompt and the next power of two of the
    output, `exact` what the request will need (the vLLM paper's Orca Max, Pow2 and Oracle, arXiv 2309.06180, section
    6.1). `free` still counts the blocks without tokens: admission alone looks at what is reserved.
    """

    __slots__ = ("_longest_tokens", "_rule", "reserved")

    def __init__(self, capacity: int, block_tokens: int, rule: str, longest_tokens: int) -> None:
        super().__init__(capacity, block_tokens)
        self._rule, self._longest_tokens = rule, longest_tokens
        self.reserved = 0

    def fits(self, request: Request, tokens: int, spare: int) -> bool:
        """Whether the request can be given its reservation."""
        return self.reserved + self._need(request) <= self.capacity

    def admit(self, request: Request, cached: int, tokens: int) -> None:
        """Reserve, and take the first blocks."""
        super().admit(request, cached, tokens)
        self.reserved += self._need(request)

    def release(self, request: Request, tokens: int) -> None:
        """Give back the blocks and the reservation."""
        super().release(request, tokens)
        self.reserved -= self._need(request)

    def check(self) -> None:
        """As above, and nothing is used that was not reserved."""
        super().check()
        if not self.capacity - self.free <= self.reserved <= self.capacity:
            raise AssertionError(f"{self.capacity - self.free} used, {self.reserved} reserved of {self.capacity}")

    def _need(self, request: Request) -> int:
        tokens = self._longest_tokens
        if self._rule != "longest":
            output = request.output if self._rule == "exact" else 1 << (request.output - 1).bit_length()
            tokens = request.prompt + output
        return min(self.capacity, self.blocks(tokens))


class StaticEngine(Engine):
    """FasterTransformer: a batch is formed of who waits, and the next one when all of it have finished."""

    def plan(self) -> list[Piece]:
        """Nobody is given a seat while somebody decodes."""
        seats = self.seats
        self.seats = 0 if self.batch.n else seats
        pieces = super().plan()
        self.seats = seats
        return pieces
