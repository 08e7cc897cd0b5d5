"""What an instance holds and has to do, as of now: a MemberView, computed when it is asked for."""

from collections.abc import Iterator
from math import inf
from typing import cast

from tetrisim.cluster.clock import seconds
from tetrisim.cluster.foresight import Foresight
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.mobile import MobileEngine
from tetrisim.cluster.request import Request
from tetrisim.policies.batching import TokenBudget
from tetrisim.policies.views import RequestView


class Decode:
    """A RunningView of a request that decodes."""

    __slots__ = ("blocks", "request", "shown", "tpot_share")

    def __init__(self, request: Request, step: int, now: int, block_tokens: int, tpot_limit_s: float) -> None:
        self.request = request
        self.shown = request.generated + step - request.joined_step
        self.blocks = -(-(request.base + step) // block_tokens)
        self.tpot_share = seconds(now - request.first_token) / max(1, self.shown - 1) / tpot_limit_s


class Usage:
    """A MemberView of an instance."""

    __slots__ = (
        "_early",
        "_foresight",
        "_instance",
        "_step",
        "_tpot_limit_s",
        "capacity_blocks",
        "free_blocks",
        "now",
        "preempted",
        "requests",
    )

    def __init__(
        self,
        instance: Instance,
        preempted: bool = False,
        tpot_limit_s: float = inf,
        foresight: Foresight | None = None,
    ) -> None:
        self._instance, self._tpot_limit_s = instance, tpot_limit_s
        self._foresight = foresight or Foresight()
        self.preempted = preempted
        self.now = now = instance.env.now
        engine = instance.engine
        done = instance.steps_done(now)
        self._step = engine.batch.step_no + done
        self.free_blocks = engine.kv.free - (engine.batch.growth(done) if done else 0)
        # A prompt that runs on through its last chunk has taken in early those who share that (see chunks.py).
        self._early = [each for each in engine.running if each.prefill_start >= now] if engine.role == "prefill" else ()
        for request in self._early:
            self.free_blocks += engine.kv.blocks(request.target)
        self.capacity_blocks = engine.kv.capacity
        self.requests = instance.assigned

    @property
    def block_tokens(self) -> int:
        """See MemberView."""
        return self._instance.engine.kv.block_tokens

    @property
    def chunk_tokens(self) -> int:
        """See MemberView."""
        batching = self._instance.engine.batching
        # Not what a request may have at this moment: that depends on whether it is alone (long_prefill_tokens).
        return batching.budget if isinstance(batching, TokenBudget) else batching.prefill_tokens(1 << 60, 0) or 1 << 60

    @property
    def decoding(self) -> int:
        """See MemberView."""
        return self._instance.engine.batch.n

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return sum(1 for _ in self._waiting())

    def waiting_blocks(self) -> int:
        """See MemberView."""
        kv, engine = self._instance.engine.kv, self._instance.engine
        if isinstance(engine, MobileEngine):
            wanted = engine.waiting_blocks
        else:
            wanted = sum(kv.blocks(request.target) for request in self._waiting())
        if engine.role == "prefill":  # a prompt has all of its blocks from the beginning
            return wanted
        return wanted + sum(kv.blocks(each.target) - kv.blocks(each.computed) for each in engine.partials)

    def first_waiting_blocks(self) -> int:
        """See MemberView."""
        first = next(self._waiting(), None)
        return 0 if first is None else self._instance.engine.kv.blocks(first.target)

    def pending_tokens(self) -> int:
        """See MemberView."""
        engine = self._instance.engine
        if engine.role == "prefill":  # how far a prompt is that runs on through several chunks shows at its end only
            begun = sum(each.target for each in engine.running if each not in self._early)
        else:
            begun = sum(each.target - each.computed for each in engine.partials)
        return sum(request.target for request in self._waiting()) + begun

    def expected_tokens(self) -> int:
        """See MemberView."""
        return self._foresight.waiting_tokens(self._instance)

    def cached_tokens(self, request: RequestView) -> int:
        """See MemberView."""
        kv = self._instance.engine.kv
        return self._foresight.cached_tokens(self._instance, cast(Request, request), kv.free - self.free_blocks)

    def computed_tokens(self, request: RequestView) -> int:
        """See MemberView."""
        found = self.cached_tokens(request)
        return self._foresight.computed_tokens(self._instance, cast(Request, request), found) if found else 0

    def ttft_s(self, request: RequestView, cached_tokens: int) -> float:
        """See MemberView."""
        own = self._foresight.prefill_ticks(self._instance, cast(Request, request), cached_tokens)
        return seconds(self._foresight.waiting_ticks(self._instance) + own)

    def decodes(self) -> list[Decode]:
        """See MemberView."""
        engine = self._instance.engine
        assert isinstance(engine, MobileEngine)
        size = engine.kv.block_tokens
        return [Decode(request, self._step, self.now, size, self._tpot_limit_s) for request in engine.decodes()]

    def _waiting(self) -> Iterator[Request]:
        waiting = self._instance.engine.waiting
        yield from self._early
        yield from waiting.ordered
        yield from waiting.raw
        yield from self._instance.late
