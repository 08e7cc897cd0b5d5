"""Instances added and removed as the load changes: a controller of the control tick."""

from collections.abc import Callable, Sequence

from tetrisim.cluster.clock import MONITOR, Alarm, Clock, seconds, ticks
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.request import NEVER
from tetrisim.cluster.usage import Usage
from tetrisim.policies.registry import find_policy
from tetrisim.policies.views import FleetView
from tetrisim.scenario.scale import ScaleSpec

Policy = Callable[[FleetView, ScaleSpec], int]


class _Fleet:
    """A FleetView."""

    def __init__(self, members: Sequence[Instance]) -> None:
        usages = [Usage(member) for member in members]
        capacity = sum(usage.capacity_blocks for usage in usages)
        self.instances = len(members)
        self.kv_use = 1 - sum(usage.free_blocks for usage in usages) / capacity
        self.waiting = sum(usage.waiting for usage in usages) / len(members)


class Planner:
    """Which instances serve, are starting, serve out what they have, or are off.

    All but the first are told by `draining_since`: the scheduler gives those nothing.
    """

    def __init__(self, env: Clock, instances: Sequence[Instance], spec: ScaleSpec, join: Callable[[], None]) -> None:
        self._env, self._instances, self._spec, self._join = env, instances, spec, join
        self._policy: Policy = find_policy("scale", spec.policy, "cluster.scale.policy")
        self._off: dict[Instance, int] = dict.fromkeys(instances[spec.initial :], 0)
        """Since when."""
        self._leaving: list[Instance] = []
        self._spells: list[tuple[Instance, int, int]] = []
        """Who was off, from when to when."""
        self._calm = 0
        """Looks since one was added."""
        self.summary = f"modelled: an instance serves {spec.startup_s:g} s after it was added"
        for instance in self._off:
            instance.draining_since = 0
        join()

    def control(self, now: int) -> None:
        """One look."""
        for instance in [each for each in self._leaving if not each.assigned]:
            self._leaving.remove(instance)
            self._off[instance] = now
        serving = [each for each in self._instances if each.draining_since == NEVER]
        choice = self._policy(_Fleet(serving), self._spec)
        self._calm += 1
        if choice > 0:
            self._add(now)
        elif choice < 0 and len(serving) > self._spec.least and self._calm > self._spec.grace:
            instance = min(reversed(serving), key=lambda each: each.assigned)
            instance.draining_since = now
            self._leaving.append(instance)
            self._join()

    def _add(self, now: int) -> None:
        if not self._off:
            return
        instance = next(iter(self._off))
        self._spells.append((instance, self._off.pop(instance), now))
        self._calm = 0

        def serve(_: Alarm) -> None:
            instance.draining_since = NEVER
            self._join()

        self._env.arm(Alarm(serve), now + ticks(self._spec.startup_s), MONITOR)

    def off_s(self, instance: Instance) -> float:
        """How long it was off between its first and last work."""
        first, last = instance.first_work, instance.last_work
        spells = ((since, until) for who, since, until in self._spells if who is instance)
        return seconds(sum(until - since for since, until in spells if NEVER < first <= since and until <= last))
