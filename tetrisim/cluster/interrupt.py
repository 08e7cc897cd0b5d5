"""An instance whose steps stop for urgent requests at the boundary of a layer, of a stage, or of an expert.

A step is one event still. Only when an urgent request comes while nobody urgent is in it is it looked up how far the
step has come; it then stops at the next boundary, and its members go on from there later, together with whoever meets
them on the way (QLLM, arXiv 2503.09304): a resumed step runs the layers up to a member's place without that member.
"""

from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from math import ceil
from typing import TypeVar

from tetrisim.cluster.clock import Alarm, ticks
from tetrisim.cluster.cutting import CuttableInstance
from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.predictor import Predictor
from tetrisim.cluster.request import NEVER, Request
from tetrisim.cluster.suspend import ClassEngine
from tetrisim.latency.step import StepTimer
from tetrisim.scenario.classes import URGENT

M = TypeVar("M")
Stretch = tuple[float, float, int]
"""From one place in the layers to another, both as shares of all layers, in so many ticks."""

ROUNDING = 1e-9
"""Shares of all layers that are the same place."""


class Boundaries:
    """Where a step may stop, as shares of its layers."""

    def __init__(self, granularity: str, layers: int, experts: int, mlp_ticks: Callable[[int], int]) -> None:
        self._granularity, self._layers, self._experts = granularity, layers, experts
        self._mlp_ticks = mlp_ticks
        """Tokens -> ticks of the MLPs (or experts) of all layers."""

    def after(self, place: float, tokens: int, layer_ticks: int) -> float:
        """The first boundary from `place` on in a step whose layers take `layer_ticks`; 1 is the end of the last."""
        layer = int(place * self._layers + ROUNDING)
        inside = place * self._layers - layer
        if inside <= ROUNDING * self._layers:
            return layer / self._layers
        stage = max(0.0, 1 - self._mlp_ticks(tokens) / layer_ticks) if layer_ticks else 0.0
        if self._granularity == "layer":
            inside = 1.0
        elif inside <= stage:
            inside = stage
        else:
            parts = self._experts if self._granularity == "expert" else 1
            each = (1 - stage) / parts
            inside = min(1.0, stage + ceil((inside - stage) / each - ROUNDING) * each)
        return (layer + inside) / self._layers


class InterruptibleInstance(CuttableInstance):
    """Runs a ClassEngine; `boundaries` is set by whoever makes it."""

    __slots__ = ("_cut_alarm", "_cut_to", "_lead", "_own", "_path", "_prefilling", "_since", "boundaries")
    _own: ClassEngine
    boundaries: Boundaries

    def equip(self, engine: Engine, timer: StepTimer, predictor: Predictor) -> None:
        """Put a ClassEngine in."""
        assert isinstance(engine, ClassEngine)
        super().equip(engine, timer, predictor)
        self._own = engine
        self._cut_alarm = Alarm(self._on_cut)
        self._cut_to, self._prefilling = 0.0, False
        self._path: list[Stretch] = []
        """The stretches of a resumed step in progress, and before them `_lead` ticks of switching."""
        self._lead = ticks(engine.preempt.switch_s)
        self._since: dict[Request, int] = {}
        """Since when prefills have been suspended."""

    def submit(self, request: Request, now: int) -> None:
        """A request to serve here; an urgent one may stop what runs."""
        pending = self._pending
        if request.priority != URGENT or pending is None:
            super().submit(request, now)
            return
        self.assigned += 1
        self.engine.push(request)
        if pending is not self._wake_alarm and pending is not self._cut_alarm:
            self._single_out(now)
            self._interrupt(now)

    def _single_out(self, now: int) -> None:
        """Apply the steps of the window that have ended; from now on the one in progress is a window of its own."""
        if self._steps > 1:
            self.sync(now)
            self._end_after(1)

    def _interrupt(self, now: int) -> None:
        """Stop the step in progress at its next boundary, if nobody in it is urgent and that makes room for one."""
        own, prefill = self._own, self._pending is self._step_alarm
        members = [request for request, _ in self._pieces] if prefill else own.decoding()
        if any(request.priority == URGENT for request in members) or not own.can_start():
            return
        path, lead = self._path, self._lead
        if not path:
            path, lead = [(0.0, 1.0, self._first - self.timer.tail(len(members)))], 0
        tokens = sum(take for _, take in self._pieces) if prefill else len(members)
        layer_ticks = round(sum(part for _, _, part in path) / (1 - path[0][0]))
        to = self.boundaries.after(_place(path, now - self._start - lead), tokens, layer_ticks)
        if to >= 1 - ROUNDING:
            return
        self._cut_to, self._prefilling = to, prefill
        self._pending = self._cut_alarm = alarm = Alarm(self._on_cut)
        self.env.arm(alarm, max(now, self._start + lead + _reach(path, to)), self._priority)

    def _on_cut(self, alarm: Alarm) -> None:
        if alarm is not self._pending:
            return
        now, prefill = alarm.at, self._prefilling
        self._stop(now)
        for request in self._own.suspend(self._cut_to, self._pieces if prefill else []):
            if prefill:
                self._since[request] = now
            else:
                request.halt(now)
        # The alarms of the step that was stopped ring unheard.
        self._step_alarm, self._window_alarm = Alarm(self._on_step), Alarm(self._on_window)
        self._path = []
        self._next(now)

    def _stop(self, now: int) -> None:
        """A step ends before its time; a log of steps notes it."""

    def _start_step(self, pieces: list[Piece], now: int) -> None:
        """As Instance's; suspended prefills join where they were stopped."""
        saved = self._own.saved
        if not any(request in saved for request, _ in pieces):
            super()._start_step(pieces, now)
            return
        for request, _ in pieces:
            request.begin_prefill(now, self.number)
            if request in saved and request.first_token == NEVER:  # later it is in what the preemption cost
                request.lost_prefill += now - self._since[request]
        self._path = self._stretches([(saved.get(request, 0.0), (request, take)) for request, take in pieces],
                                     self._prefill_layers)  # fmt: skip
        self._pieces = pieces
        self._pending = self._step_alarm
        self._start_resumed(len(pieces), now)

    def _start_window(self, now: int) -> None:
        """As Instance's; after a suspension first the step that was stopped, with whoever has joined since."""
        own = self._own
        members = own.decoding() if own.saved else []
        if not any(request in own.saved for request in members):
            super()._start_window(now)
            return
        for request in members:
            if request.halted != NEVER:
                request.resume(now, recomputed=False)
        self._row = row = self.timer.decode_row(len(members))
        self._segment = bisect_right(row.knots, self.engine.batch.context) - 1
        self._path = self._stretches([(own.saved.get(request, 0.0), request) for request in members],
                                     self._decode_layers)  # fmt: skip
        self._pending = self._window_alarm
        self._start_resumed(len(members), now)

    def _start_resumed(self, sequences: int, now: int) -> None:
        lasts = self._lead + sum(part for _, _, part in self._path) + self.timer.tail(sequences)
        self._start, self._first, self._slope, self._steps, self._cut = now, lasts, 0, 1, True
        assert self._pending is not None
        self.env.arm(self._pending, now + lasts, self._priority)

    def _stretches(self, members: list[tuple[float, M]], layer_ticks: Callable[[list[M]], int]) -> list[Stretch]:
        """The way through the layers: between two places run those who were stopped before."""
        places = sorted({place for place, _ in members})
        return [
            (low, high, round((high - low) * layer_ticks([member for place, member in members if place <= low])))
            for low, high in pairwise([*places, 1.0])
        ]

    def _decode_layers(self, members: list[Request]) -> int:
        """Ticks of all layers of a decode step of some members."""
        contexts = [request.base + self.engine.batch.step_no for request in members]
        return self.timer.decode(len(members), sum(contexts), max(contexts)) - self.timer.tail(len(members))

    def _prefill_layers(self, pieces: list[Piece]) -> int:
        shapes = [(take, request.computed) for request, take in pieces]
        whole = self.timer.step(sum(take for take, _ in shapes), shapes, 0, 0, 0)
        return whole - self.timer.tail(len(pieces))

    def _on_step(self, alarm: Alarm) -> None:
        if alarm is self._pending and self._path:
            for request, _ in self._pieces:
                self._own.saved.pop(request, None)
            self._path = []
        super()._on_step(alarm)

    def _on_window(self, alarm: Alarm) -> None:
        if alarm is self._pending and self._path:
            for request in self._own.decoding():
                self._own.saved.pop(request, None)
            self._path = []
        super()._on_window(alarm)


def _place(path: list[Stretch], elapsed: int) -> float:
    """How far the layers have come after so many ticks."""
    for low, high, part in path:
        if elapsed < part:
            return low + (high - low) * max(0, elapsed) / part
        elapsed -= part
    return 1.0


def _reach(path: list[Stretch], place: float) -> int:
    """Ticks until the layers have come so far."""
    elapsed = 0
    for low, high, part in path:
        if place <= low:
            break
        elapsed += part if place >= high else round(part * (place - low) / (high - low))
    return elapsed
