"""Instances that look into a window in progress, or end one before its time: the steps that have ended are applied."""

from tetrisim.cluster.clock import Alarm
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.window import length


class CuttableInstance(Instance):
    """What mechanisms share that change an instance from outside its own steps."""

    __slots__ = ()

    def sync(self, now: int) -> None:
        """Apply the steps of the window that have ended, as if it had been cut there."""
        if now >= self.snapshot_until:
            self.on_broadcast(self)
        done = self.steps_done(now)
        if done:
            spent = length(done, self._first, self._slope)
            self._gaps.emit(self._start, self._first, self._slope, done, self.engine.batch.n, self._start + spent)
            if self.timer.labelled:
                self.timer.account(self._row, self._segment, spent)
            self.engine.advance(done)
            self._start += spent
            self._first += done * self._slope
            self._steps -= done

    def _end_after(self, steps: int) -> None:
        """End the window in progress after so many of its steps; the alarm that is set will ring unheard."""
        self._steps, self._cut = steps, steps == 1
        self._pending = self._window_alarm = alarm = Alarm(self._on_window)
        self.env.arm(alarm, self._start + length(steps, self._first, self._slope), self._priority)
