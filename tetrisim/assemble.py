"""From a scenario to stations wired together: which instance has which engine, timer and policies."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from tetrisim import streams
from tetrisim.cluster.clock import Clock, seconds, ticks
from tetrisim.cluster.control import ControlTick
from tetrisim.cluster.dispatcher import Dispatcher
from tetrisim.cluster.entry import EntryScheduler, SessionEntryScheduler
from tetrisim.cluster.hints import HintDesk
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.migrate import Migrator
from tetrisim.cluster.mobile import MobileInstance
from tetrisim.cluster.monitor import Broadcast, FlipWatch
from tetrisim.cluster.planner import Planner
from tetrisim.cluster.precision import PrecisionInstance
from tetrisim.cluster.pull import PullDispatcher
from tetrisim.cluster.recorder import Recorder
from tetrisim.cluster.request import NEVER
from tetrisim.cluster.roles import OTHER, RoleControl
from tetrisim.cluster.scheduler import LoadIndex, Scheduler
from tetrisim.cluster.sessions import SessionScheduler
from tetrisim.cluster.transfer import Links
from tetrisim.machines import Machines
from tetrisim.policies.registry import FORESEEING, find_policy
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.scenario import Scenario

InstanceMaker = Callable[[type[Instance], Clock, int, str, Recorder, bool, bool], Instance]
"""Makes an instance of a class, or of one derived from it, from what the class is called with."""


class Cluster:
    """The stations of one run."""

    def __init__(
        self, scenario: Scenario, exact_steps: bool, hash_block_tokens: int | None, make: InstanceMaker
    ) -> None:
        self.scenario = scenario
        self.env = Clock(initial_time=0)
        self.recorder = Recorder()
        self.instances: list[Instance] = []
        self.scheduler: Scheduler
        self.links: Links | None = None
        self.planner: Planner | None = None
        self._make, self._exact = make, exact_steps
        self.machines = Machines(scenario, self.env, hash_block_tokens)

    @property
    def provenance(self) -> tuple[str, ...]:
        """One line a latency table, and one for each cost that is modelled."""
        return tuple(self.machines.sources)

    def add_pool(self, index: int, pool: PoolSpec, first: int) -> None:
        """Instances of one pool, named by role from `first` on."""
        for offset in range(pool.instances):
            number = len(self.instances)
            name, horizon = f"{pool.role}-{first + offset}", self.scenario.horizon_s is not None
            kind = self.machines.kind(pool, f"cluster.pools.{index}")
            instance = self._make(kind, self.env, number, name, self.recorder, self._exact, horizon)
            self.machines.equip(instance, pool, f"cluster.pools.{index}")
            self.instances.append(instance)

    def flip(self, instance: Instance) -> None:
        """Turn an idle instance into one of the other role, on the same GPUs."""
        role = OTHER[instance.role]
        index, pool = next((i, p) for i, p in enumerate(self.scenario.cluster.pools) if p.role == role)
        own = self.machines.pools[instance.number]
        pool = replace(pool, gpu=own.gpu, tensor_parallel=own.tensor_parallel)
        self.machines.equip(instance, pool, f"cluster.pools.{index}")
        now = self.env.now
        instance.flips += 1
        instance.idle_since = now
        instance.available_from = now + ticks(self.scenario.cluster.flip.cost_s)
        drained = now if instance.draining_since == NEVER else instance.draining_since
        self.recorder.flips.append((instance.number, role, drained, now, instance.available_from))
        instance.draining_since = NEVER
        self.join_roles()

    def drain(self, instance: Instance) -> None:
        """Give an instance nothing new: it is to change role when it is empty."""
        instance.draining_since = self.env.now
        self.join_roles()

    def join_roles(self) -> None:
        """Tell scheduler and dispatcher which instances they have; called again at each drain and flip."""
        open_ones = [i for i in self.instances if i.draining_since == NEVER]
        self.scheduler.index.change([i for i in open_ones if i.role in ("prefill", "hybrid")])
        if self.links is not None:
            self.scheduler.index.decoders = [i for i in open_ones if i.role == "decode"]
            self.dispatcher.change([i for i in open_ones if i.role == "decode"])
            for instance in self.dispatcher.members:
                self.broadcast.watch(instance)

    def wire(self) -> None:
        """Connect the stations."""
        spec = self.scenario.cluster
        route = find_policy("route", spec.route, "cluster.route")
        rng = streams.scalar_stream(self.scenario.seed, "route")
        self.scheduler = self._scheduler_class()(self.env, LoadIndex([]), route, rng, self.recorder)
        if isinstance(self.scheduler, EntryScheduler):
            self._wire_entry(self.scheduler)
        self.scheduler.index.ttft_limit_s = self.scenario.slo.ttft_s or inf
        for instance in self.instances:
            instance.on_finished = self.scheduler.finished
        place = find_policy("place", spec.place.policy, "cluster.place.policy")
        flips = find_policy("flip", spec.flip.policy, "cluster.flip.policy")
        if spec.kv_link is not None:
            self.broadcast = Broadcast(self.env, spec.place.broadcast_s)
            kind = PullDispatcher if spec.place.policy == "pull" else Dispatcher
            self.dispatcher = kind(self.env, self.broadcast, place, streams.scalar_stream(self.scenario.seed, "place"))
            size = self.machines.model.kv_bytes_per_token(self.scenario.dtype)
            self.links = self.dispatcher.links = Links(self.env, spec.kv_link, size, self.machines.model.layers)
            for instance in self.instances:
                instance.on_prefilled = self.dispatcher.dispatch
            self.dispatcher.index = self.scheduler.index
            if spec.flip.policy != "never":
                watch = FlipWatch(self.env, self.instances, spec.flip, flips, self.broadcast)
                watch.flip, watch.drain = self.flip, self.drain
                watch.running = lambda: self.scheduler.active
                watch.start()
        self.join_roles()
        self._wire_hints()
        self._wire_control()

    def _scheduler_class(self) -> type[Scheduler]:
        spec = self.scenario.cluster
        asked = spec.reject.policy != "never" or spec.fetch.policy != "never"
        if asked or spec.route in FORESEEING or ":" in spec.route:
            return SessionEntryScheduler if self.machines.sessions else EntryScheduler
        return SessionScheduler if self.machines.sessions else Scheduler

    def _wire_entry(self, scheduler: EntryScheduler) -> None:
        """Rejection and prefixes from peers; without ids in the trace nobody has anything to share."""
        reject, fetch = self.scenario.cluster.reject, self.scenario.cluster.fetch
        policy = find_policy("reject", reject.policy, "cluster.reject.policy")
        if policy is not None:
            scheduler.set_rejection(reject, policy)
        policy = find_policy("fetch", fetch.policy, "cluster.fetch.policy")
        if policy is not None and (self.machines.sessions or self.machines.hash_block_tokens is not None):
            scheduler.set_fetching(fetch, policy, self.machines.model.kv_bytes_per_token(self.scenario.dtype))
            rate = fetch.bandwidth_bytes_per_s / 1e9
            self.machines.sources[f"modelled: prefixes fetched at {rate:g} GB/s an instance one way"] = None

    def _wire_hints(self) -> None:
        """Hints to the scheduler, and what is modelled where KV stays between turns."""
        tiers, spec, scheduler = self.machines.tiers, self.scenario.cluster.hints, self.scheduler
        if tiers is None:
            return
        self.machines.sources[tiers.summary] = None
        if spec is not None and isinstance(scheduler, SessionScheduler):
            scheduler.desk = HintDesk(self.env, spec, scheduler.index, scheduler.pick, tiers.call)

    def _wire_control(self) -> None:
        """What looks at the cluster on the control tick: roles and moves, never both."""
        spec, scheduler, slo = self.scenario.cluster, self.scheduler, self.scenario.slo
        if spec.ratio.policy != "fixed":
            roles = RoleControl(self.instances, scheduler.index, spec.ratio, slo)
            roles.flip, roles.drain, roles.held = self.flip, self.drain, lambda: self.dispatcher.held_tokens
            self.machines.sources[f"modelled: a change of role takes {spec.flip.cost_s * 1e3:g} ms, when empty"] = None
            ControlTick(self.env, ticks(spec.ratio.period_s), lambda: scheduler.active).start(roles.control)
        if spec.scale.policy != "fixed":
            self.planner = Planner(self.env, self.instances, spec.scale, self.join_roles)
            self.machines.sources[self.planner.summary] = None
            ControlTick(self.env, ticks(spec.scale.period_s), lambda: scheduler.active).start(self.planner.control)
        if spec.migrate.on:
            members = [instance for instance in self.instances if isinstance(instance, MobileInstance)]
            size = self.machines.model.kv_bytes_per_token(self.scenario.dtype)
            migrator = Migrator(self.env, members, spec.migrate, slo, size, self.recorder)
            migrator.index = scheduler.index
            self.machines.sources[migrator.summary] = None
            ControlTick(self.env, ticks(spec.migrate.period_s), lambda: scheduler.active).start(migrator.control)

    def time_shares(self) -> dict[str, float]:
        """Seconds of step time by source."""
        return self.machines.time_shares(seconds(sum(instance.busy_ticks for instance in self.instances)))

    def instance_columns(self) -> dict[str, Any]:
        """One entry an instance."""
        every = self.instances
        return {
            "instance": np.array([i.name for i in every], dtype=object),
            "role": np.array([i.role for i in every], dtype=object),
            "gpu": np.array([i.gpu for i in every], dtype=object),
            "gpus": np.array([i.gpus for i in every]),
            "kv_blocks": np.array([i.engine.kv.capacity for i in every]),
            "first_work_s": np.array([np.nan if i.first_work == NEVER else seconds(i.first_work) for i in every]),
            "last_work_s": np.array([np.nan if i.last_work == NEVER else seconds(i.last_work) for i in every]),
            "busy_s": np.array([seconds(i.busy_ticks) for i in every]),
            "steps": np.array([i.steps for i in every]),
            "off_s": np.array([self.planner.off_s(i) if self.planner else 0.0 for i in every]),
            "flips": np.array([i.flips for i in every]),
            "weight_bits": np.array([i.weight_bits if isinstance(i, PrecisionInstance) else np.nan for i in every]),
        }


def _plain(kind: type[Instance], *parts: Any) -> Instance:
    return kind(*parts)


def assemble(
    scenario: Scenario, exact_steps: bool, hash_block_tokens: int | None, make: InstanceMaker = _plain
) -> Cluster:
    """The cluster of a scenario, at time zero; a model that does not fit or a policy nobody knows is refused here."""
    cluster = Cluster(scenario, exact_steps, hash_block_tokens, make)
    first: dict[str, int] = {}
    for index, pool in enumerate(scenario.cluster.pools):
        cluster.add_pool(index, pool, first.get(pool.role, 0))
        first[pool.role] = first.get(pool.role, 0) + pool.instances
    cluster.wire()
    return cluster
