"""The decoding batch, counted lazily: all of it grows by one token a step, so steps are counted and not tokens."""

from heapq import heapify, heappop, heappush

from tetrisim.cluster.request import NEVER, Request


class DecodeBatch:
    """Sequences that decode together; advancing k steps is O(1), a join or leave O(log n).

    A member's context (tokens with KV) is `base + step_no`. A step needs a new block for each member whose context is a
    multiple of the block size; members are counted by `base` modulo the block size, which never changes.
    """

    __slots__ = ("_expected", "_longest", "_phases", "_sequence", "block_tokens", "context", "due", "n", "step_no")

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.step_no = 0
        self.n = 0
        """Members."""
        self.context = 0
        """Tokens with KV over all members."""
        self._phases = [0] * (2 * block_tokens)
        """Members by base modulo the block size, written twice in a row so that every arc is one slice."""
        self.due: list[tuple[int, int, Request]] = []
        """A heap of (finishing step, `sequence`, member). Members that left early stay, but never on top."""
        self._expected: list[tuple[int, int, Request]] = []
        self._longest: list[tuple[int, int, Request]] | None = None

    def track_longest(self) -> None:
        """Keep `longest` from now on (the batch is empty); it costs a heap of its own."""
        self._longest = []

    def join(self, request: Request, context: int) -> None:
        """Add a request with `context` tokens of KV; the next token it shows comes with the next step.

        Those that finish with one step do so in order of their `sequence`, so no two members have the same one.
        """
        step = self.step_no
        request.joined_step = step
        request.base = base = context - step
        request.finish_step = step + request.output - request.generated
        self.n += 1
        self.context += context
        phase = base % self.block_tokens
        self._phases[phase] += 1
        self._phases[phase + self.block_tokens] += 1
        heappush(self.due, (request.finish_step, request.sequence, request))
        if self._longest is not None:
            heappush(self._longest, (-base, request.sequence, request))

    def expect(self, request: Request) -> None:
        """Note when a member that just joined is predicted to finish (see `shortest_remaining`)."""
        finish = request.joined_step + request.predicted - request.generated
        heappush(self._expected, (finish, request.sequence, request))

    def leave(self, request: Request) -> int:
        """Take a member out that `finished` has given, or that is preempted; returns its context."""
        step = self.step_no
        context = request.base + step
        request.generated += step - request.joined_step
        self.n -= 1
        self.context -= context
        phase = request.base % self.block_tokens
        self._phases[phase] -= 1
        self._phases[phase + self.block_tokens] -= 1
        request.finish_step = NEVER
        due = self.due
        while due and (due[0][2].finish_step != due[0][0] or due[0][2].sequence != due[0][1]):
            heappop(due)
        return context

    def forget(self, request: Request) -> None:
        """Drop what is kept of one that left for another batch, where its numbers mean something else."""
        for heap in (self.due, self._expected, self._longest or []):
            heap[:] = [entry for entry in heap if entry[2] is not request]
            heapify(heap)

    def finished(self) -> list[Request]:
        """Members whose last token came with the last step, in order of `sequence`; each has to `leave` now."""
        due, now = self.due, self.step_no
        done: list[Request] = []
        while due and due[0][0] <= now:
            step, sequence, request = heappop(due)
            if request.finish_step == step and request.sequence == sequence:
                done.append(request)
        return done

    def shortest_remaining(self) -> int:
        """Steps until the first member is predicted to finish, at least 1: an overdue one is due with the next step."""
        expected = self._expected
        while expected and (expected[0][2].finish_step == NEVER or expected[0][2].sequence != expected[0][1]):
            heappop(expected)
        return max(1, expected[0][0] - self.step_no) if expected else 1

    def longest(self) -> int:
        """The longest context; 0 for an empty batch or when it is not tracked."""
        heap = self._longest
        if not heap:
            return 0
        while heap and (heap[0][2].finish_step == NEVER or heap[0][2].base != -heap[0][0]):
            heappop(heap)
        return self.step_no - heap[0][0] if heap else 0

    def next_blocks(self) -> int:
        """Blocks that the next step takes."""
        return self._phases[-self.step_no % self.block_tokens]

    def growth(self, steps: int) -> int:
        """Blocks that the next `steps` steps take in all."""
        size = self.block_tokens
        cycles, rest = (0, steps) if steps < size else divmod(steps, size)
        # Step j from now needs a block for phase -(step_no + j): the phases of `rest` steps are one arc.
        start = -(self.step_no + rest - 1) % size
        return cycles * self.n + sum(self._phases[start : start + rest])

    def steps_within(self, blocks: int, limit: int) -> int:
        """How many of the next `limit` steps so many free blocks allow."""
        if blocks >= self.n * (limit // self.block_tokens + 1) or self.growth(limit) <= blocks:
            return limit
        low, high = 0, limit
        while high - low > 1:  # growth(low) <= blocks < growth(high)
            middle = (low + high) // 2
            if self.growth(middle) <= blocks:
                low = middle
            else:
                high = middle
        return low

    def advance(self, steps: int) -> None:
        """Every member grows by `steps` tokens."""
        self.step_no += steps
        self.context += steps * self.n
