"""Instances whose decodes step down to fewer bits a weight (PMPD, arXiv 2410.13461)."""

from tetrisim import streams
from tetrisim.cluster.clock import Alarm
from tetrisim.cluster.cutting import CuttableInstance
from tetrisim.cluster.engine import Piece
from tetrisim.cluster.request import NEVER, Request
from tetrisim.latency.lowbit import WidthTimers
from tetrisim.scenario.precision import CLASSES, PrecisionSpec


class Widths:
    """For how many tokens of its answer each request keeps the high width."""

    def __init__(self, spec: PrecisionSpec, seed: int) -> None:
        self.spec = spec
        self._rng = streams.stream(seed, "precision")
        self._drawn: list[float] = []

    def high_tokens(self, request: Request) -> int:
        """Of its own schedule; the same for a request whatever else is in the run."""
        spec = self.spec
        if spec.schedule == "static":
            return spec.high_tokens
        if spec.schedule == "learned":
            return self._class(request.id) * spec.high_tokens // (len(CLASSES) - 1)
        answer = request.output if spec.schedule == "oracle" else request.predicted
        return int(spec.high_share * answer)

    def _class(self, number: int) -> int:
        while len(self._drawn) <= number:
            self._drawn += self._rng.random(1024).tolist()
        level, place = self._drawn[number], 0
        while place < len(CLASSES) - 1 and level >= CLASSES[place]:
            level -= CLASSES[place]
            place += 1
        return place


class PrecisionInstance(CuttableInstance):
    """Before each window it looks who still needs the high width; a window ends where somebody steps down."""

    __slots__ = ("_bits", "bits", "decoded", "timers", "widths")
    widths: Widths
    timers: WidthTimers

    def prepare(self, widths: Widths, timers: WidthTimers) -> None:
        """What it runs by; its timer is that of the high width until a window begins."""
        self.widths, self.timers, self.timer = widths, timers, timers.high
        self._bits = 0
        """Bits a weight that a step of the window in progress reads, summed over its decodes."""
        self.bits = self.decoded = 0
        """The same, summed over the tokens decoded so far, and how many they are."""

    @property
    def weight_bits(self) -> float:
        """Mean bits a weight over the decoded tokens."""
        return self.bits / self.decoded if self.decoded else float("nan")

    def _start_step(self, pieces: list[Piece], now: int) -> None:
        self.timer = self.timers.high  # prefill runs at the high width, and so do the decodes beside it
        self._bits = self.engine.batch.n * self.widths.spec.high_bits
        super()._start_step(pieces, now)

    def _on_step(self, alarm: Alarm) -> None:
        if alarm is self._pending and self.engine.grown:
            self._count(1)
        super()._on_step(alarm)

    def _on_window(self, alarm: Alarm) -> None:
        if alarm is self._pending:
            self._count(self._steps)
        super()._on_window(alarm)

    def _count(self, steps: int) -> None:
        self.bits += steps * self._bits
        self.decoded += steps * self.engine.batch.n

    def _start_window(self, now: int) -> None:
        until = self._choose()
        super()._start_window(now)
        if until < self._steps:
            self._end_after(until)

    def _choose(self) -> int:
        """Take the timer of the widths in the batch; returns after how many steps they change."""
        batch, timers, spec = self.engine.batch, self.timers, self.widths.spec
        rule = spec.rule
        left: list[int] = []
        for request in self.engine.running:
            if request.finish_step != NEVER:
                shown = request.output - (request.finish_step - batch.step_no)
                if (more := self.widths.high_tokens(request) - shown) > 0:
                    left.append(more)
        high = wide = len(left)
        if rule == "split" and 0 < high < batch.n:
            self.timer = timers.split(high)
        elif high and (rule != "narrowest" or high == batch.n):
            self.timer, wide = timers.high, batch.n
        else:
            self.timer, wide = timers.low, 0
        self._bits = wide * spec.high_bits + (batch.n - wide) * spec.low_bits
        # Until the last of them has stepped down the widest stays; else anyone who does changes what is read.
        return (max(left) if rule == "widest" else min(left)) if high else batch.due[0][0] - batch.step_no
