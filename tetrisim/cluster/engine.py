"""One engine replica without a clock: its queues, its batch, its memory, and what the next step runs.

`plan` forms a step and takes its memory; `complete` applies a finished one; `advance` applies a run of pure decode
steps. The clock around it is in instance.py, so recorded steps of a real engine can drive an Engine too.
"""

import sys
from collections import deque
from collections.abc import Callable

from tetrisim.cluster.batch import DecodeBatch
from tetrisim.cluster.gate import GateView
from tetrisim.cluster.kvcache import KVCache
from tetrisim.cluster.queue import WaitingQueue
from tetrisim.cluster.request import NEVER, Request
from tetrisim.policies.batching import Batching, TokenBudget
from tetrisim.policies.views import DecodeView, RequestView
from tetrisim.scenario.cluster import PoolSpec

Piece = tuple[Request, int]
"""A request and how many of its prompt tokens a step computes."""


class Engine:
    """Scheduler state of one instance. Requests enter by `push` (to be prefilled) or `receive` (their KV is here)."""

    def __init__(
        self,
        pool: PoolSpec,
        kv: KVCache,
        batching: Batching,
        waiting: WaitingQueue,
        admit: Callable[[DecodeView, RequestView], bool],
    ) -> None:
        self.kv = kv
        self.batch = DecodeBatch(pool.block_tokens)
        self.batching = batching
        self._mixes = batching.mixes
        self.waiting = waiting
        self.received: deque[Request] = deque()
        self.swapped: deque[Request] = deque()
        self.running: dict[Request, None] = {}
        """In order of admission, those leaving included; the last is preempted first."""
        self._admitted = 0
        self.partials: list[Request] = []
        """Running requests whose prefill is not finished."""
        self.queued = 0
        """Requests that a step could take up: waiting, received, swapped out, or in the middle of their prefill."""
        self.seats = pool.max_num_seqs or sys.maxsize
        self.role = pool.role
        # A prefill instance takes a prompt's blocks at once: it keeps them until the KV has been sent anyway.
        self._whole_prompts = pool.role == "prefill"
        self._swap_room = sys.maxsize if pool.preemption == "swap" else 0  # in blocks; narrowed by limit_swap
        self._admit = admit
        self._view = GateView(self.batch, kv)
        self._changed = True
        self.grown = False
        """Whether the step just planned runs the decoding batch beside (or instead of) prefill, its blocks taken."""
        self.moved_blocks = 0
        """Blocks swapped in or out by the step just planned."""
        self.joined: list[Request] = []
        """Requests that joined the batch from elsewhere (received or swapped in) in the step just planned."""
        self.preempted: list[Request] = []
        """Requests preempted by the step just planned."""
        self.interrupted: list[Request] = []
        """Those of them that were decoding."""
        self.lags = pool.async_scheduling
        """Whether the next step is planned before the outputs of this one are known."""
        kv.lag = int(self.lags)
        self.leaving: dict[Request, int] = {}
        """With their tokens, requests that have finished and keep seat and blocks while the next step is planned."""
        self.whole_prompts_fit = True
        """Whether a request's whole prompt must fit to be admitted, not its chunk (scheduler_reserve_full_isl)."""
        # vLLM V1's limit on long prefills does not hold for a request that is alone.
        self.limited = batching if isinstance(batching, TokenBudget) and batching.limits else None

    def limit_swap(self, blocks: int) -> None:
        """Room in the swap space, in blocks."""
        self._swap_room = min(self._swap_room, blocks)

    def push(self, request: Request) -> bool:
        """Queue a request for prefill; whether it might join the next step (behind others or without a seat: no)."""
        waiting = self.waiting
        first = not (waiting.ordered or waiting.raw)
        self.queued += 1
        waiting.push(request)
        return first and len(self.running) < self.seats

    def receive(self, request: Request) -> bool:
        """Queue a request whose prompt KV has arrived; whether it might join the next step."""
        first = not self.received
        self.queued += 1
        self.received.append(request)
        self._changed |= first  # behind others it changes nothing: they are tried first
        return first and len(self.running) < self.seats

    def plan(self) -> list[Piece]:
        """Form the next step: the prefill pieces in it. Memory is taken, and victims are preempted, here.

        No pieces and `grown` unset: the batch decodes by itself (a window may start), or there is nothing to do.
        """
        pieces: list[Piece] = []
        if self.role == "prefill":
            self._admit_waiting(pieces, self._extend_partials(pieces, 0) if self.partials else 0)
            return pieces
        if self.joined or self.preempted:
            self.joined = []
            self.preempted = []
            self.interrupted = []
        self.grown = False
        if self._mixes:
            self._plan_mixed(pieces)
            return pieces
        if (self.waiting.ordered or self.waiting.raw or self.partials) and not self.swapped:
            self._admit_waiting(pieces, self._extend_partials(pieces, 0) if self.partials else 0)
        if not pieces:
            # A step of decodes alone: room for each, then those that come back or come in.
            if self.batch.next_blocks() > self.kv.free:
                self._make_room()
            if not self.preempted and (self.swapped or self._changed):
                self._resume()
        return pieces

    def _plan_mixed(self, pieces: list[Piece]) -> None:
        """vLLM V1's order: running requests first (decodes, then unfinished prefills), then waiting ones."""
        kv, batch = self.kv, self.batch
        if self.limited:
            alone = len(self.running) + len(self.waiting) == 1
            self.batching = self.limited.unlimited if alone else self.limited
        # Where blocks are told apart, it matters who takes a free one before whose are taken away.
        in_order = kv.ordered and batch.next_blocks() > kv.free
        if in_order:
            scheduled = self._run_in_order(pieces)
        else:
            self._make_room()
            scheduled = batch.n
        open_seat = not self.preempted and len(self.running) < self.seats and self.waiting.form()
        if kv.ordered and batch.n and not in_order and (self.partials or (open_seat and self._head_fits())):
            kv.grow(batch, self.running, 1)  # before others take blocks: it decides which cached blocks go
            self.grown = True
        if self.partials and not in_order:
            scheduled = self._extend_partials(pieces, scheduled)
        if open_seat and not self.preempted:
            self._admit_waiting(pieces, scheduled)
        if pieces and batch.n and not self.grown:
            kv.grow(batch, self.running, 1)
            self.grown = True
        elif not (pieces or self.grown or self.preempted) and (self.swapped or self._changed):
            self._resume()

    def _run_in_order(self, pieces: list[Piece]) -> int:
        """Running requests strictly in order of admission, each with its blocks; returns their tokens."""
        # There are always enough: nobody is admitted but with tokens left over, and later no one before needs more.
        kv, running, step, scheduled = self.kv, self.running, self.batch.step_no, 0
        for request in tuple(running):
            decoding = request.finish_step != NEVER
            if request not in running or request in self.leaving:
                continue
            computed = request.base + step if decoding else request.computed
            take = 1 if decoding else self.batching.prefill_tokens(request.target - computed, scheduled)
            need = kv.blocks(computed + take) - kv.blocks(computed)
            while need > kv.free and request in running:
                self._preempt(next(reversed(running)))
            if request not in running:
                break
            kv.extend(request, computed, take, decoding)
            if take > 0 and not decoding:
                pieces.append((request, take))
            scheduled += take
        self.grown = self.batch.n > 0
        return scheduled

    def _head_fits(self) -> bool:
        head = self.waiting.ordered[0]
        cached = self.kv.cached(head)
        take = self.batching.prefill_tokens(head.target - cached, self.batch.n)
        return take > 0 and self._fits(head, cached, take, self._promised())

    def _fits(self, request: Request, cached: int, take: int, promised: int) -> bool:
        """Whether a waiting request can be admitted beside the blocks promised to running ones."""
        # vLLM V1 keeps its watermark free only while somebody runs
        reserve = self.kv.reserve if self.running or not self._mixes else 0
        return self.kv.fits(request, request.target if self.whole_prompts_fit else cached + take, promised + reserve)

    def _promised(self) -> int:
        """Blocks that the decodes of this step have yet to take."""
        return self.batch.next_blocks() if self._mixes and not self.grown else 0

    def _extend_partials(self, pieces: list[Piece], scheduled: int) -> int:
        """Continue unfinished prefills; one that finds no memory preempts from the tail, in the end itself.

        Returns the tokens of the step so far.
        """
        kv = self.kv
        for request in tuple(self.partials):
            take = self.batching.prefill_tokens(request.target - request.computed, scheduled)
            if take <= 0:
                break
            if request not in self.running:
                continue  # preempted by the one before
            if not self._whole_prompts:
                need = kv.blocks(request.computed + take) - kv.blocks(request.computed)
                while need + self._promised() > kv.free and request in self.running:
                    self._preempt(next(reversed(self.running)))
                if request not in self.running:
                    break
                kv.extend(request, request.computed, take, False)
            pieces.append((request, take))
            scheduled += take
        return scheduled

    def _admit_waiting(self, pieces: list[Piece], scheduled: int) -> None:
        """Start waiting requests in order, until tokens, seats or memory run out."""
        kv, waiting, running, prefill_tokens = self.kv, self.waiting, self.running, self.batching.prefill_tokens
        ordered = waiting.ordered
        promised = self._promised()
        while len(running) < self.seats:
            # A sorted group is formed only when there is room for its first.
            if not ordered and not (waiting.raw and prefill_tokens(1, scheduled) > 0 and waiting.form()):
                break
            request = ordered[0]
            cached = kv.cached(request) if kv.ordered else 0
            remaining = request.target - cached
            take = prefill_tokens(remaining, scheduled)
            if take <= 0 or not self._fits(request, cached, take, promised):
                break
            ordered.popleft()
            kv.admit(request, cached, remaining if self._whole_prompts else take)
            request.computed = cached
            running[request] = None
            self._admitted = request.sequence = self._admitted + 1
            if take < remaining:
                self.partials.append(request)
            else:
                self.queued -= 1
            pieces.append((request, take))
            scheduled += take

    def can_fill(self, tokens: int) -> bool:
        """Whether the waiting requests whose order is fixed fill a chunk's last `tokens` tokens, memory included."""
        blocks = self.kv.reserve
        for request in self.waiting.ordered:
            blocks += self.kv.blocks(request.target)
            tokens -= request.target
            if tokens <= 0:
                return blocks <= self.kv.free
        return False

    def fill(self, pieces: list[Piece], scheduled: int) -> list[Piece]:
        """Add waiting requests to a chunk of a later moment; returns the new pieces."""
        first = len(pieces)
        self._admit_waiting(pieces, scheduled)
        return pieces[first:]

    def _make_room(self) -> None:
        """Preempt from the tail until each decode, in running order, has the block of its next token."""
        batch, kv = self.batch, self.kv
        if not batch.n or batch.next_blocks() <= kv.free:
            return
        free, size, step = kv.free, batch.block_tokens, batch.step_no
        for request in tuple(self.running):
            if request not in self.running:
                break
            need = 1 if request.finish_step != NEVER and (request.base + step) % size == 0 else 0
            while need > free and request in self.running:
                before = kv.free
                self._preempt(next(reversed(self.running)))
                free += kv.free - before
            if request in self.running:
                free -= need

    def _preempt(self, request: Request) -> None:
        """Take a running request's blocks away; it goes to the swap space, or back to the queue to be recomputed."""
        kv = self.kv
        del self.running[request]
        if request in self.leaving:  # its last token is there; only its blocks are taken early
            self.preempted.append(request)
            kv.release(request, self.leaving.pop(request))
            return
        decoding = request.finish_step != NEVER
        if decoding:
            self.interrupted.append(request)
            context = self.batch.leave(request)
            blocks = kv.blocks(context)
            kv.release(request, context + self.grown)
            request.target, request.computed = request.prompt + request.generated, 0
        else:
            self.partials.remove(request)
            context = blocks = 0
            kv.release(request, request.computed)
            request.computed = 0
        request.preemptions += 1
        self.preempted.append(request)
        self.queued += decoding
        self._changed = True
        if decoding and self._swap_room >= blocks:
            self._swap_room -= blocks
            self.moved_blocks += blocks
            request.computed = context
            self.swapped.append(request)
        else:
            self.waiting.push_front(request)

    def _resume(self) -> None:
        """Bring back swapped requests, then admit received ones as the gate allows, each in order."""
        batch, kv, view = self.batch, self.kv, self._view
        while self.swapped and len(self.running) < self.seats:
            request = self.swapped[0]
            if not self._has_room(request.computed):
                return
            self.swapped.popleft()
            blocks = kv.blocks(request.computed)
            self._swap_room += blocks
            self.moved_blocks += blocks
            self._join(request, request.computed)
        if not self._changed or self.swapped:
            return
        self._changed = False
        while self.received and len(self.running) < self.seats:
            request = self.received[0]
            view.running, view.free_blocks = batch.n, kv.free
            if not self._has_room(request.prompt) or not self._admit(view, request):
                return
            self.received.popleft()
            self._join(request, request.prompt)
            batch.expect(request)

    def _has_room(self, context: int) -> bool:
        """Whether a sequence fits with the block of its next token, beside the next blocks of the batch."""
        kv, batch = self.kv, self.batch
        # context // size + 1 blocks hold context + 1 tokens
        return context // batch.block_tokens + 1 + batch.next_blocks() + kv.reserve <= kv.free

    def _join(self, request: Request, context: int) -> None:
        self.queued -= 1
        self.kv.admit(request, 0, context)
        self.running[request] = None
        self._admitted = request.sequence = self._admitted + 1
        self.batch.join(request, context)
        self.joined.append(request)

    def complete(self, pieces: list[Piece]) -> list[Request]:
        """Apply a planned step; returns the requests whose prefill it finished, still running and not in the batch."""
        if self.grown:
            self.batch.advance(1)
        partials = self.partials
        done: list[Request] = []
        for request, take in pieces:
            request.computed = computed = request.computed + take
            if computed == request.target:
                done.append(request)
                if partials and request in partials:
                    partials.remove(request)
                    self.queued -= 1
        return done

    def start_decode(self, request: Request) -> None:
        """Let a prefilled request join the batch where it is."""
        self.batch.join(request, request.target)

    def advance(self, steps: int) -> None:
        """Apply `steps` pure decode steps."""
        self.kv.grow(self.batch, self.running, steps)
        self.batch.advance(steps)

    def finish(self, request: Request, tokens: int) -> None:
        """Let a request go that has shown its last token and left the batch, with the memory of its `tokens` tokens."""
        if self.lags:
            self.leaving[request] = tokens
        else:
            del self.running[request]
            self.kv.release(request, tokens)
            self._changed = True

    def let_go(self) -> None:
        """Take back the seats and memory of those who are leaving: the step after their last one has been planned."""
        for request, tokens in self.leaving.items():
            del self.running[request]
            self.kv.enter(request, tokens)
            self.kv.release(request, tokens)
        self.leaving.clear()
        self._changed = True

    def retire(self, request: Request) -> None:
        """Let a prefilled request go that never decodes here; its memory stays until it is released."""
        del self.running[request]

    @property
    def idle(self) -> bool:
        """Nothing queued and nothing running."""
        return not (self.running or self.queued)
