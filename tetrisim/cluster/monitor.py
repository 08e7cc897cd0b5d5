"""The cluster monitor: load broadcasts and role flips.

A broadcast every 100 ms to every instance would cost more events than the requests do. An instance's snapshot is
computed instead when it is read, or just before the instance changes: its value as of the last tick.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from tetrisim.cluster.clock import MONITOR, Alarm, Clock, seconds, ticks
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.request import NEVER
from tetrisim.latency.step import FOREVER
from tetrisim.policies.views import FlipView
from tetrisim.scenario.cluster import FlipSpec


def take_snapshot(instance: Instance, moment: int) -> None:
    """Set an instance's snapshot to a moment before its next event: steps of its window that have ended count."""
    snapshot, kv, load = instance.snapshot, instance.engine.kv, instance.load
    free = kv.free
    steps = instance.steps_done(moment)
    if steps:
        free -= instance.engine.batch.growth(steps)
    snapshot.free_tokens = free * kv.block_tokens - load.pending_tokens
    snapshot.waiting_tokens = load.pending_tokens
    snapshot.heavy, snapshot.light = load.heavy, load.assigned - load.heavy


class Broadcast:
    """Keeps the snapshots of all decode instances."""

    def __init__(self, env: Clock, period_s: float) -> None:
        self.env = env
        self.period = ticks(period_s)

    def refresh(self, instance: Instance) -> None:
        """The snapshot as of the last tick: what had happened before that moment, steps still running not counted."""
        tick = self.env.now // self.period
        take_snapshot(instance, tick * self.period)
        instance.snapshot_until = (tick + 1) * self.period

    def watch(self, instance: Instance) -> None:
        """From now on fix the snapshot of each tick before the instance leaves the state it had then."""
        if instance.snapshot_until == FOREVER:
            instance.on_broadcast = self.refresh
            kv = instance.engine.kv
            instance.snapshot.capacity_tokens = kv.capacity * kv.block_tokens
            instance.snapshot_until = 0


@dataclass(frozen=True, slots=True)
class _Flip:
    idle_s: float
    busy: float
    peers: int
    other_role_works: bool
    other_role_busy: float


class FlipWatch:
    """Asks the flip policy about each instance, at the latest once a period; one pending event at most.

    An instance that is to change role while it has work is given nothing new, and changes once it is empty.
    """

    def __init__(
        self,
        env: Clock,
        instances: Sequence[Instance],
        spec: FlipSpec,
        policy: Callable[[FlipView, FlipSpec], bool],
        broadcast: Broadcast,
    ) -> None:
        self.env = env
        self._instances = instances
        self._spec = spec
        self._policy = policy
        self._after = ticks(spec.after_s)
        self._report = broadcast.period
        self._since = 0
        self._worked = [0] * len(instances)
        """Ticks at work up to the last full period."""
        self._shares = [1.0] * len(instances)
        """Share of the last full period at work; nobody is idle before the first has passed."""
        self.flip: Callable[[Instance], None]
        self.drain: Callable[[Instance], None]
        self.running: Callable[[], bool] = lambda: True
        """Whether anything is left to do; the watch ends with the run."""

    def start(self) -> None:
        """Look for the first time when an instance can have been idle for long enough."""
        self.env.arm(Alarm(self._on_check), self.env.now + self._after, MONITOR)

    def _on_check(self, alarm: Alarm) -> None:
        if not self.running() or self.env.peek() == inf:
            return  # all done, or nothing is left to happen that could ever finish the rest
        now = alarm.at
        self._measure(now)
        wait = self._after
        for instance in self._instances:
            idle = 0 if instance.assigned else now - instance.idle_since
            if instance.draining_since != NEVER:
                if instance.assigned:
                    wait = min(wait, self._report)
                else:
                    self.flip(instance)
            elif self._policy(self._view(instance, idle), self._spec):
                if instance.assigned:
                    self.drain(instance)
                    wait = min(wait, self._report)
                else:
                    self.flip(instance)
            elif 0 < idle < self._after:
                wait = min(wait, self._after - idle)
        self.env.arm(alarm, now + wait, MONITOR)

    def _measure(self, now: int) -> None:
        """At the end of a period, how busy each instance was in it."""
        if now - self._since >= self._after:
            worked = [instance.busy(now) for instance in self._instances]
            span = now - self._since
            self._shares = [(new - old) / span for new, old in zip(worked, self._worked, strict=True)]
            self._since, self._worked = now, worked

    def _view(self, instance: Instance, idle: int) -> FlipView:
        peers = sum(other.role == instance.role and other.draining_since == NEVER for other in self._instances)
        others = [
            (other, share)
            for other, share in zip(self._instances, self._shares, strict=True)
            if other.role != instance.role
        ]
        works = any(other.assigned for other, _ in others)
        mean = sum(share for _, share in others) / len(others)
        return _Flip(seconds(idle), self._shares[instance.number], peers, works, mean)
