"""The cluster monitor: load broadcasts and role flips.

A broadcast every 100 ms to every instance would cost more events than the requests do. An instance's snapshot is
computed instead when it is read, or just before the instance changes: its value as of the last tick.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import simpy

from tetrisim.cluster.clock import MONITOR, Alarm, seconds, ticks
from tetrisim.cluster.instance import Instance
from tetrisim.policies.views import FlipView
from tetrisim.scenario.cluster import FlipSpec


class LoadSnapshot:
    """A decode instance as of a tick of the broadcast."""

    __slots__ = ("capacity_tokens", "free_tokens", "heavy", "light", "tick")

    def __init__(self) -> None:
        self.tick = -1
        self.free_tokens = 0
        self.capacity_tokens = 0
        self.heavy = 0
        self.light = 0


class Broadcast:
    """The snapshots of all decode instances."""

    def __init__(self, env: simpy.Environment, period_s: float) -> None:
        self.env = env
        self.period = ticks(period_s)
        self._snapshots: dict[int, LoadSnapshot] = {}

    def refresh(self, instance: Instance) -> LoadSnapshot:
        """The snapshot as of the last tick: what had happened before that moment, steps still running not counted."""
        tick = self.env.now // self.period
        snapshot = self._snapshots.get(instance.number)
        if snapshot is None:
            snapshot = self._snapshots[instance.number] = LoadSnapshot()
        if snapshot.tick != tick:
            snapshot.tick = tick
            kv, load = instance.engine.kv, instance.load
            free = kv.free
            steps = instance.steps_done(tick * self.period)
            if steps:
                free -= instance.engine.batch.growth(steps)
            snapshot.free_tokens = free * kv.block_tokens - load.pending_tokens
            snapshot.capacity_tokens = kv.capacity * kv.block_tokens
            snapshot.heavy, snapshot.light = load.heavy, load.light
        return snapshot

    def before_change(self, instance: Instance) -> None:
        """Fix the snapshot of the last tick before the instance leaves the state it had then."""
        self.refresh(instance)

    def forget(self, instance: Instance) -> None:
        """The instance has changed role; its next snapshot is a new one."""
        self._snapshots.pop(instance.number, None)


@dataclass(frozen=True, slots=True)
class _Flip:
    idle_s: float
    peers: int
    other_role_busy: bool


class FlipWatch:
    """Asks the flip policy about each instance that has been idle for long enough; one pending event at most."""

    def __init__(
        self,
        env: simpy.Environment,
        instances: Sequence[Instance],
        spec: FlipSpec,
        policy: Callable[[FlipView, FlipSpec], bool],
        flip: Callable[[Instance], None],
    ) -> None:
        self.env = env
        self._instances = instances
        self._spec = spec
        self._policy = policy
        self._flip = flip
        self._after = ticks(spec.after_s)
        self.running: Callable[[], bool] = lambda: True
        """Whether anything is left to do; the watch ends with the run."""

    def start(self) -> None:
        """Look for the first time when an instance can have been idle for long enough."""
        Alarm(self.env, self._after, MONITOR, self._on_check)

    def _on_check(self, event: Alarm) -> None:
        if not self.running():
            return
        now = self.env.now
        wait = self._after
        for instance in self._instances:
            if instance.assigned:
                continue
            idle = now - instance.idle_since
            if idle < self._after:
                wait = min(wait, self._after - idle)
            elif self._policy(self._view(instance, idle), self._spec):
                self._flip(instance)
        Alarm(self.env, wait, MONITOR, self._on_check)

    def _view(self, instance: Instance, idle: int) -> FlipView:
        peers = sum(other.role == instance.role for other in self._instances)
        busy = any(other.role != instance.role and other.assigned for other in self._instances)
        return _Flip(seconds(idle), peers, busy)
