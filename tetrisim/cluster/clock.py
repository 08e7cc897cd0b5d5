"""Events in whole ticks, with an order among simultaneous ones that does not depend on when they were scheduled.

A window is one event where `--exact-steps` has many, so ties must not be broken by the order of scheduling: every
instance has a priority of its own. At one moment arrivals come first, then deliveries, the monitor, step ends by
instance, and last the instances that wake from rest.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import simpy
from simpy.core import StopSimulation
from simpy.events import Event

from tetrisim.units import TICKS_PER_S

ARRIVE, DELIVER, MONITOR, STEP = 0, 1, 2, 3
WAKE = 1 << 32
"""Added to an instance's own priority, so that it starts a step only after all that happens at that moment."""


def ticks(seconds: float) -> int:
    """Clock ticks of a duration."""
    return round(seconds * TICKS_PER_S)


def seconds(tick_count: float) -> float:
    """Seconds of a duration."""
    return tick_count / TICKS_PER_S


class Alarm(Event):
    """An event that calls one function; nothing waits for it and it cannot fail, so it costs half of a timeout."""

    def __init__(self, call: Callable[[Any], None]) -> None:
        # Event.__init__ is not called: what it sets is for events that others wait for.
        self.call = call
        self.at = 0
        """The moment it rings."""


class Clock(simpy.Environment):
    """A SimPy environment in whole ticks, with alarms beside SimPy's own events and processes."""

    @property
    def now(self) -> int:
        """The present moment."""
        return self._now  # pyright: ignore[reportReturnType]

    def arm(self, alarm: Alarm, at: int, priority: int) -> None:
        """Set an alarm that is new or has rung; among simultaneous ones the lowest `priority` comes first."""
        alarm.at = at
        # What Environment.schedule does, with priorities beyond SimPy's two.
        heappush(self._queue, (at, priority, next(self._eid), alarm))  # pyright: ignore[reportArgumentType]

    def run(self, until: Any = None) -> None:
        """Run until nothing is left to happen, or up to the moment `until` (what happens then is not processed)."""
        queue = self._queue
        if until is not None:
            self.arm(Alarm(_stop), until, -1)
        try:
            while queue:
                self._now, _, _, event = heappop(queue)
                try:
                    call = event.call  # pyright: ignore[reportAttributeAccessIssue]
                except AttributeError:
                    _process(event)
                else:
                    call(event)
        except StopSimulation:
            return


def _stop(alarm: Alarm) -> None:
    raise StopSimulation


def _process(event: Event) -> None:
    """What SimPy does with an event of its own, a process's timeout say."""
    callbacks, event.callbacks = event.callbacks, None  # pyright: ignore[reportAttributeAccessIssue]
    for callback in callbacks:
        callback(event)
    if not event.ok and not event.defused:
        raise event.value  # pyright: ignore[reportGeneralTypeIssues]
