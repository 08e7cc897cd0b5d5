"""Events in whole ticks, with an order among simultaneous ones that does not depend on when they were scheduled.

A window is one event where `--exact-steps` has many, so ties must not be broken by the order of scheduling: every
instance has a priority of its own. At one moment arrivals come first, then deliveries, the monitor, step ends by
instance, and last the instances that wake from rest.
"""

from collections.abc import Callable
from typing import Any, cast

import simpy
from simpy.events import Event, EventPriority

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
    """A plain callback at a moment: cheaper than a process, and ordered by its own priority."""

    def __init__(self, env: simpy.Environment, delay: int, priority: int, callback: Callable[[Any], None]) -> None:
        # Event.__init__ is not called: it would only set the same fields again, a million times a run.
        self.env = env
        self.callbacks = [callback]
        self._ok = True
        self._value = None
        env.schedule(self, cast(EventPriority, priority), delay)
