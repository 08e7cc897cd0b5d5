"""An engine with a clock: forms steps, lets them take their time, and hands requests on.

While nobody joins, finishes or runs out of memory, a run of decode steps is one event: a window (design section 4).
Step j of a window takes first + slope * j ticks; something new shortens the window to the end of the step in progress.

With asynchronous scheduling (vLLM V1) a step is planned when the one before it starts: the plan knows neither what
arrives during that one nor the seats and blocks that it sets free.
"""

from bisect import bisect_right
from collections.abc import Callable

from tetrisim.cluster.chunks import run_on, step_ticks
from tetrisim.cluster.clock import STEP, WAKE, Alarm, Clock
from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.gaps import TokenGaps
from tetrisim.cluster.load import DecodeLoad, LoadSnapshot
from tetrisim.cluster.predictor import Predictor
from tetrisim.cluster.recorder import Recorder
from tetrisim.cluster.request import NEVER, Request
from tetrisim.cluster.window import length, steps_before
from tetrisim.latency.step import FOREVER, DecodeRow, StepTimer


def _ignore(instance: "Instance") -> None:
    """Nobody listens to this instance's broadcasts."""


class Instance:
    """One engine replica over `gpus` GPUs. Its role may change; its number and name do not."""

    __slots__ = (
        "_cut", "_exact", "_first", "_gaps", "_horizon", "_lag", "_last_chunk", "_news", "_pending", "_pieces",
        "_prefill_steps", "_priority", "_row", "_runs_on", "_segment", "_slope", "_spare_alarm", "_start",
        "_step_alarm", "_steps", "_wake_alarm", "_window_alarm", "_woke", "assigned", "available_from", "busy_ticks",
        "draining_since", "engine", "env", "first_work", "flips", "gpu", "gpus", "idle_since", "last_work", "late",
        "load", "name", "number", "on_broadcast", "on_finished", "on_prefilled", "predictor", "role", "snapshot",
        "snapshot_until", "swap_ticks_per_block", "timer",
    )  # fmt: skip

    def __init__(
        self, env: Clock, number: int, name: str, recorder: Recorder, exact_steps: bool, horizon: bool
    ) -> None:
        self.env, self.number, self.name = env, number, name
        self.engine: Engine
        self.timer: StepTimer
        self.predictor: Predictor
        self.role = self.gpu = ""
        self.gpus = self.swap_ticks_per_block = 0
        self.on_prefilled: Callable[[Instance, Request], None]
        self.on_finished: Callable[[Instance, Request], None]
        self.on_broadcast: Callable[[Instance], object] = _ignore
        self.snapshot_until = FOREVER
        """From this moment on, `on_broadcast` is called before anything changes here (see monitor.py)."""
        self.snapshot = LoadSnapshot()
        self._gaps = TokenGaps(recorder.gaps)
        self._exact, self._horizon, self._runs_on = exact_steps, horizon, False
        self._pending: Alarm | None = None
        self._priority = STEP + number
        self._step_alarm = Alarm(self._on_step)
        self._window_alarm = Alarm(self._on_window)
        self._spare_alarm = Alarm(self._on_window)
        self._wake_alarm = Alarm(self._on_wake)
        self._pieces: list[Piece] = []
        # asynchronous scheduling
        self._lag, self._news = 0, False
        self.late: list[Request] = []
        """What arrived after the plan of the next step was made."""
        # the window in progress
        self._row: DecodeRow
        self._segment = 0
        self._start = self._first = self._slope = self._steps = 0
        self._cut = True
        self._last_chunk = NEVER
        """When the last chunk of a lone prompt starts that is being run on; nobody else has come yet."""
        # what the run adds up
        self._prefill_steps = self._woke = self.busy_ticks = self.flips = 0
        self.first_work = self.last_work = NEVER
        self.available_from = self.idle_since = 0
        self.draining_since = NEVER
        """From when on it is given nothing new, since it is to change role (see monitor.py)."""
        self.assigned = 0
        """Requests that are here or on their way, KV waiting to be sent included."""
        self.load = DecodeLoad()

    def submit(self, request: Request, now: int) -> None:
        """A request to prefill here."""
        self.assigned += 1
        if self._lag and self._steps - self.steps_done(now) == 1:
            self.late.append(request)
        else:
            may_join = self.engine.push(request)
            if self._pending is None:
                self._wake(now)
            elif may_join and not self._cut:
                self._shorten(now)

    def expect(self, request: Request, now: int) -> None:
        """A request that was placed here: its KV is on its way."""
        if now >= self.snapshot_until:
            self.on_broadcast(self)
        self.assigned += 1
        self.load.add(request)

    def receive(self, request: Request, now: int) -> None:
        """An expected request: its prompt's KV has arrived."""
        may_join = self.engine.receive(request)
        if self._pending is None:
            self._wake(now)
        elif may_join and not self._cut:
            self._shorten(now)

    def release(self, request: Request, now: int) -> None:
        """The KV of a request prefilled here has been sent."""
        self.engine.kv.release(request, request.target)
        self.assigned -= 1
        if not self.assigned:
            self.idle_since = now
        elif self._pending is None and self.engine.queued:
            self._wake(now)

    def steps_done(self, moment: int) -> int:
        """Steps of the window in progress that ended before `moment`; 0 outside a window."""
        return steps_before(moment - self._start, self._first, self._slope, self._steps)

    @property
    def steps(self) -> int:
        """Engine steps so far."""
        return self._prefill_steps + self.engine.batch.step_no

    def equip(self, engine: Engine, timer: StepTimer, predictor: Predictor) -> None:
        """Put an engine in (at a change of role: another one)."""
        if self.role:
            self._prefill_steps = self.steps
        self.engine, self.timer, self.predictor = engine, timer, predictor
        self.role = engine.role
        self._lag = int(engine.lags)
        self._last_chunk = NEVER
        # Chunks that are run on are not told apart when a horizon cuts them off.
        self._runs_on = self.role == "prefill" and not (self._exact or self._horizon)

    def settle(self, now: int) -> None:
        """Count the work of the spell in progress, as far as it goes: at its end, and at a horizon."""
        self._steps = self.steps_done(now)
        if self._steps:
            self._gaps.emit(self._start, self._first, self._slope, self._steps, self.engine.batch.n, now)
            self.engine.advance(self._steps)
        if self._pending is not None and now > self._woke:
            self.busy_ticks = self.busy(now)
            self._woke = self.last_work = now

    def busy(self, now: int) -> int:
        """Ticks at work so far."""
        return self.busy_ticks + (0 if self._pending is None else max(0, now - self._woke))

    def _wake(self, now: int) -> None:
        """Start once all that happens at this moment has happened: now if nothing else is due now."""
        env = self.env
        self._pending = alarm = self._wake_alarm
        if env.peek() > now >= self.available_from:
            alarm.at = now
            self._on_wake(alarm)
        else:
            env.arm(alarm, max(now, self.available_from), WAKE + self._priority)

    def _on_wake(self, alarm: Alarm) -> None:
        now = alarm.at
        if now >= self.snapshot_until:
            self.on_broadcast(self)
        self._woke = now
        if self.first_work == NEVER:
            self.first_work = now
        self._next(now)

    def _next(self, now: int) -> None:
        """Form the next step and start it, or rest."""
        engine = self.engine
        batch = engine.batch
        behind = bool(self.late or engine.leaving)
        if engine.queued or engine.kv.free < batch.n:
            pieces = engine.plan()
            if engine.joined or engine.preempted:
                self._note_moves(now)
            if behind:
                self._catch_up()
            if pieces or engine.grown:
                self._start_step(pieces, now)
                return
        elif behind:
            self._catch_up()
        if batch.n:
            self._start_window(now)
        elif behind:
            self._next(now)  # there was nothing to plan, so the engine waited for the step's end, and plans now
        else:
            self._steps = 0
            self.settle(now)
            self._pending = None

    def _catch_up(self) -> None:
        """The next step is planned; now the engine learns what happened during the last one."""
        engine = self.engine
        engine.let_go()
        self._news = engine.queued > 0
        for request in self.late:
            self._news |= engine.push(request)
        self.late.clear()

    def _note_moves(self, now: int) -> None:
        for request in self.engine.preempted:
            request.halt(now)
        for request in self.engine.interrupted:
            self._gaps.interrupt(request)
        for request in self.engine.joined:
            self._gaps.fresh[request] = None
            if request.decode_start == NEVER:
                request.begin_decode(now, self.number)
                self.load.join(request)
            else:
                request.resume(now, recomputed=False)

    def _start_step(self, pieces: list[Piece], now: int) -> None:
        """One step with prefill in it."""
        engine = self.engine
        self._last_chunk = NEVER
        for request, _ in pieces:
            request.begin_prefill(now, self.number)
        if self._runs_on and len(pieces) == 1 and pieces[0][1] == engine.batching.padded:
            ticks = self._chunks(pieces, now)
        else:
            ticks = step_ticks(engine, self.timer, pieces, self.predictor)
        if engine.moved_blocks:
            ticks += self._swap()
        self._pieces = pieces
        self._start, self._first, self._slope, self._steps = now, ticks, 0, 1
        self._cut = self._last_chunk == NEVER
        self._pending = alarm = self._step_alarm
        self.env.arm(alarm, now + ticks, self._priority)

    def _chunks(self, pieces: list[Piece], now: int) -> int:
        """The length of as many chunks of one prompt as can be run on as one event (see chunks.py)."""
        ticks, chunks, shared, alone = run_on(self.engine, self.timer, pieces, self.predictor)
        self._prefill_steps += chunks - 1
        if alone != NEVER:
            self._last_chunk = now + alone
        elif shared != NEVER:
            for other, _ in pieces[1:]:
                other.begin_prefill(now + shared, self.number)
        return ticks

    def _await_last_chunk(self, now: int) -> None:
        """Somebody has come: if the prompt's last chunk has not started, end the step before it."""
        self._cut = True
        if now <= self._last_chunk:
            request, left = self._pieces[0]
            width = self.engine.batching.padded
            self._pieces[0] = (request, (left - 1) // width * width)
            self._prefill_steps -= 1
            # The old alarm will ring unheard, so from now on there is a new one.
            self._pending = self._step_alarm = alarm = Alarm(self._on_step)
            self.env.arm(alarm, self._last_chunk, self._priority)

    def _on_step(self, alarm: Alarm) -> None:
        if alarm is not self._pending:
            return  # shortened since
        now = alarm.at
        if now >= self.snapshot_until:
            self.on_broadcast(self)
        engine = self.engine
        if engine.grown:
            self._gaps.emit(self._start, self._first, 0, 1, engine.batch.n, now)
            prefilled = engine.complete(self._pieces)
            if engine.batch.n and engine.batch.due[0][0] <= engine.batch.step_no:
                self._finish_due(now)
        else:
            prefilled = engine.complete(self._pieces)
            self._prefill_steps += 1
        for request in prefilled:
            self._show_token(request, now)
        self._next(now)

    def _show_token(self, request: Request, now: int) -> None:
        """The last chunk of a prefill also gives a token: the first, or after a recompute the next."""
        engine = self.engine
        request.generated += 1
        if request.first_token == NEVER:
            request.first_token = now
        else:
            self._gaps.rows.append((now - request.last_token, 0, 1, 1))
            request.resume(now, recomputed=True)
        request.last_token = now
        if request.generated == request.output:
            engine.finish(request, request.target)
            self._depart(request, now)
        elif self.role == "prefill":
            engine.retire(request)
            self.on_prefilled(self, request)
        else:
            self._gaps.join(request, now, engine.batch.n)
            engine.start_decode(request)
            request.begin_decode(now, self.number)

    def _start_window(self, now: int) -> None:
        """As many decode steps as pass without a change: up to a finish, a knot of the table, or the end of memory."""
        engine, timer = self.engine, self.timer
        batch = engine.batch
        n, context = batch.n, batch.context
        row = timer.rows.get(n) or timer.decode_row(n)
        segment = bisect_right(row.knots, context) - 1
        low, high, base, slope = row.segments[segment]
        first = base + slope * (context - low)
        limit = high - context
        if timer.labelled:
            self._row, self._segment = row, segment
            if timer.skewed:
                extra, more, room = row.unevenness(n * batch.longest())
                first, slope, limit = first + extra, slope + more, min(limit, room)
        slope *= n
        steps = batch.due[0][0] - batch.step_no
        if engine.moved_blocks:
            first += self._swap()
            steps = 1
        elif self._exact or engine.preempted or self._news:  # a step that preempted admits nobody, the next one may
            steps, self._news = 1, False
        else:
            if steps * n > limit:
                steps = (limit + n - 1) // n
            if engine.kv.free < n * (steps // batch.block_tokens + 1):
                steps = batch.steps_within(engine.kv.free, steps)
        self._start, self._first, self._slope, self._steps = now, first, slope, steps
        self._cut = steps == 1
        self._pending = alarm = self._window_alarm
        self.env.arm(alarm, now + steps * first + slope * (steps * (steps - 1) // 2), self._priority)

    def _shorten(self, now: int) -> None:
        """End the window with the step in progress."""
        if self._last_chunk != NEVER:
            self._await_last_chunk(now)
            return
        self._cut = True
        start = self._start
        steps = steps_before(now - start, self._first, self._slope, self._steps) + 1 + self._lag
        if steps < self._steps:
            self._steps = steps
            # The alarm that is set will ring unheard: take the one before it, unless that has yet to ring, too.
            alarm = self._spare_alarm if self._spare_alarm.at < now else Alarm(self._on_window)
            self._spare_alarm = self._window_alarm
            self._pending = self._window_alarm = alarm
            self.env.arm(alarm, start + length(steps, self._first, self._slope), self._priority)

    def _on_window(self, alarm: Alarm) -> None:
        if alarm is not self._pending:
            return  # shortened since
        now, start, steps = alarm.at, self._start, self._steps
        if now >= self.snapshot_until:
            self.on_broadcast(self)
        engine = self.engine
        batch = engine.batch
        self._gaps.emit(start, self._first, self._slope, steps, batch.n, now)
        if self.timer.labelled:
            self.timer.account(self._row, self._segment, now - start)
        kv = engine.kv
        if kv.ordered:
            kv.grow(batch, engine.running, steps)
        else:
            kv.free -= batch.growth(steps)
        batch.step_no = step_no = batch.step_no + steps
        batch.context += steps * batch.n
        if batch.due[0][0] <= step_no:
            self._finish_due(now)
        if batch.n and not engine.queued and kv.free >= batch.n and not (self.late or engine.leaving):
            self._start_window(now)
        else:
            self._next(now)

    def _finish_due(self, now: int) -> None:
        """Let the requests go whose last token has just been shown."""
        engine = self.engine
        for request in engine.batch.finished():
            engine.finish(request, engine.batch.leave(request))
            self._depart(request, now)

    def _depart(self, request: Request, now: int) -> None:
        request.finish = now
        if self.role == "decode":
            self.load.remove(request)
        self.assigned -= 1
        if not self.assigned:
            self.idle_since = now
        self.on_finished(self, request)

    def _swap(self) -> int:
        """Time of the blocks that the planned step moves over the host link."""
        blocks, self.engine.moved_blocks = self.engine.moved_blocks, 0
        return blocks * self.swap_ticks_per_block
