"""The control tick: one periodic event for all that looks at the cluster now and then."""

from collections.abc import Callable
from math import inf

from tetrisim.cluster.clock import MONITOR, Alarm, Clock


class ControlTick:
    """Calls its controllers in turn once a period, with the moment; it ends with the run."""

    def __init__(self, env: Clock, period: int, running: Callable[[], bool]) -> None:
        self.env, self.period = env, period
        self._controllers: tuple[Callable[[int], None], ...] = ()
        self._running = running

    def start(self, *controllers: Callable[[int], None]) -> None:
        """Call these, for the first time when one period has passed."""
        self._controllers = controllers
        self.env.arm(Alarm(self._on_tick), self.env.now + self.period, MONITOR)

    def _on_tick(self, alarm: Alarm) -> None:
        if not self._running() or self.env.peek() == inf:
            return  # all done, or nothing is left to happen that could ever finish the rest
        for control in self._controllers:
            control(alarm.at)
        self.env.arm(alarm, alarm.at + self.period, MONITOR)
