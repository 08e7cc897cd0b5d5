"""From a scenario to stations wired together: which instance has which engine, timer and policies."""

import sys
from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import numpy as np

from tetrisim import streams
from tetrisim.cluster.clock import Clock, seconds, ticks
from tetrisim.cluster.control import ControlTick
from tetrisim.cluster.dispatcher import Dispatcher
from tetrisim.cluster.engine import Engine
from tetrisim.cluster.entry import EntryScheduler, SessionEntryScheduler
from tetrisim.cluster.hints import HintDesk
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.interrupt import Boundaries, InterruptibleInstance
from tetrisim.cluster.kvcache import KVCache, PrefixCache
from tetrisim.cluster.migrate import Migrator
from tetrisim.cluster.mlfq import MlfqEngine, MlfqInstance
from tetrisim.cluster.mobile import MobileEngine, MobileInstance
from tetrisim.cluster.monitor import Broadcast, FlipWatch
from tetrisim.cluster.planner import Planner
from tetrisim.cluster.precision import PrecisionInstance, Widths
from tetrisim.cluster.predictor import Predictor
from tetrisim.cluster.priority import PriorityEngine, PriorityQueue
from tetrisim.cluster.pull import PullDispatcher
from tetrisim.cluster.queue import WaitingQueue
from tetrisim.cluster.recorder import Recorder
from tetrisim.cluster.request import NEVER
from tetrisim.cluster.reserved import ReservedKV, StaticEngine
from tetrisim.cluster.roles import RoleControl
from tetrisim.cluster.scheduler import LoadIndex, Scheduler
from tetrisim.cluster.sessions import SessionCache, SessionScheduler
from tetrisim.cluster.suspend import ClassEngine
from tetrisim.cluster.tiered import TieredInstance, TieredKV
from tetrisim.cluster.tiers import TierStore
from tetrisim.cluster.transfer import Links
from tetrisim.errors import ScenarioError
from tetrisim.latency.build import build_timer
from tetrisim.latency.lowbit import WidthTimers
from tetrisim.latency.roofline import Shard, mlp_s
from tetrisim.latency.step import FOREVER, StepTimer
from tetrisim.policies.batching import Batching, Static
from tetrisim.policies.registry import FORESEEING, find_policy
from tetrisim.scenario.cluster import PoolSpec, PredictorSpec
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.memory import kv_blocks
from tetrisim.scenario.model import load_model
from tetrisim.scenario.precision import PrecisionSpec
from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.workload import SESSIONS

InstanceMaker = Callable[[type[Instance], Clock, int, str, Recorder, bool, bool], Instance]
"""Makes an instance of a class, or of one derived from it, from what the class is called with."""

_NO_PREDICTOR = Predictor(PredictorSpec())


class Cluster:
    """The stations of one run."""

    def __init__(
        self, scenario: Scenario, exact_steps: bool, hash_block_tokens: int | None, make: InstanceMaker
    ) -> None:
        self.scenario = scenario
        self.env = Clock(initial_time=0)
        self.recorder = Recorder()
        self.model = load_model(scenario.model)
        self.instances: list[Instance] = []
        self.scheduler: Scheduler
        self.links: Links | None = None
        self.planner: Planner | None = None
        self._make, self._exact = make, exact_steps
        self._hash_block_tokens = hash_block_tokens
        self._timers: dict[tuple[str, int, int | None], StepTimer] = {}
        self._widths: dict[tuple[Shard, PrecisionSpec], tuple[Widths, WidthTimers]] = {}
        self._sources: dict[str, None] = {}
        self._pools: dict[int, PoolSpec] = {}
        self._predictor = Predictor(scenario.cluster.predict)
        self.most_tokens = self.model.max_positions
        """Tokens of the longest request that can be served."""
        self.limit = f"the positions of {self.model.name}"
        """What sets `most_tokens`."""
        self._most_prompt = sys.maxsize
        self.mobile = scenario.cluster.migrate.on
        """Whether running requests may move from one instance to another."""
        self.sessions = scenario.workload.trace == SESSIONS
        self.tiers = self._tiers() if self.sessions else None
        """Where KV of sessions stays between turns; requests that are no turns leave nothing behind."""

    @property
    def provenance(self) -> tuple[str, ...]:
        """One line a latency table."""
        return tuple(self._sources)

    @property
    def measured(self) -> bool:
        """Whether every instance has measured tables."""
        return all(timer.labelled for timer in self._timers.values())

    def add_pool(self, index: int, pool: PoolSpec, first: int) -> None:
        """Instances of one pool, named by role from `first` on."""
        for offset in range(pool.instances):
            number = len(self.instances)
            name, horizon = f"{pool.role}-{first + offset}", self.scenario.horizon_s is not None
            kind = self._kind(pool, f"cluster.pools.{index}")
            instance = self._make(kind, self.env, number, name, self.recorder, self._exact, horizon)
            self.equip(instance, pool, f"cluster.pools.{index}")
            self.instances.append(instance)

    def _kind(self, pool: PoolSpec, where: str) -> type[Instance]:
        """The class of a pool's instances: a mechanism that steps differently has one of its own."""
        asked: dict[str, tuple[bool, type[Instance]]] = {
            "migrate": (self.mobile and pool.role != "prefill", MobileInstance),
            "mlfq": (pool.mlfq is not None, MlfqInstance),
            "preempt": (pool.preempt is not None, _interruptible(pool)),
            "tiers": (self.tiers is not None, TieredInstance),
            "precision": (pool.precision is not None, PrecisionInstance),
        }
        kinds = {name: kind for name, (wanted, kind) in asked.items() if wanted}
        if len(kinds) > 1:
            raise ScenarioError(where, f"{' and '.join(kinds)} are asked for together", "one of them")
        return next(iter(kinds.values()), Instance)

    def equip(self, instance: Instance, pool: PoolSpec, where: str) -> None:
        """Give an instance the engine and timer of a pool."""
        gpu = load_gpu(pool.gpu or self.scenario.cluster.gpu, where)
        dtype = self.scenario.dtype
        blocks = kv_blocks(pool, gpu, self.model, dtype, where)
        block_bytes = pool.block_tokens * self.model.kv_bytes_per_token(dtype)
        batching = find_policy("batching", pool.batching, f"{where}.batching")(pool)
        queue = find_policy("queue", pool.queue, f"{where}.queue")
        engine = self._engine_class(pool, batching)(
            pool,
            self._kv(instance, pool, blocks, where),
            batching,
            PriorityQueue() if pool.queue == "priority" else WaitingQueue(queue, pool.queue_batch),
            find_policy("admission", pool.admission, f"{where}.admission"),
        )
        engine.limit_swap(int(pool.swap_space_bytes * pool.tensor_parallel / block_bytes))
        instance.snapshot_until = FOREVER
        instance.gpu, instance.gpus = gpu.name, pool.tensor_parallel
        instance.swap_ticks_per_block = ticks(block_bytes / (gpu.host_bytes_per_s * pool.tensor_parallel))
        key = (gpu.name, pool.tensor_parallel, pool.split_above_tokens)
        shard = Shard(self.model, gpu, dtype, pool.tensor_parallel)
        if key not in self._timers:
            timer, source = build_timer(shard, self.scenario.profile, "profile", pool.split_above_tokens)
            self._timers[key] = timer
            self._sources[source] = None
        instance.equip(engine, self._timers[key], self._predictor if pool.role == "prefill" else _NO_PREDICTOR)
        if instance.timer.skewed:
            engine.batch.track_longest()
        if isinstance(instance, InterruptibleInstance):
            instance.boundaries = self._boundaries(pool, shard)
        if isinstance(instance, PrecisionInstance):
            self._prepare(instance, pool, shard)
        self._pools[instance.number] = pool
        self._note_limit(engine, pool, where)

    def _prepare(self, instance: PrecisionInstance, pool: PoolSpec, shard: Shard) -> None:
        """Widths and timers of low-bit weights, the same for all instances of a pool."""
        spec = pool.precision
        assert spec is not None
        if self.model.experts:
            raise ScenarioError("precision", f"{self.model.name} has experts", "a dense model")
        key = (shard, spec)
        if key not in self._widths:
            bits = f"{spec.high_bits} and {spec.low_bits} bits"
            self._sources[f"modelled: weights of {bits} by the roofline, kernel {spec.kernel}"] = None
            self._widths[key] = Widths(spec, self.scenario.seed), WidthTimers(shard, spec)
        instance.prepare(*self._widths[key])

    def _engine_class(self, pool: PoolSpec, batching: Batching) -> type[Engine]:
        if self.mobile and pool.role != "prefill":
            return MobileEngine
        if pool.preempt is not None:
            return ClassEngine
        if pool.mlfq is not None:
            self._sources["modelled: KV moves to and from the host beside the steps"] = None
            return MlfqEngine
        if isinstance(batching, Static):
            return StaticEngine
        return PriorityEngine if pool.queue == "priority" else Engine

    def _boundaries(self, pool: PoolSpec, shard: Shard) -> Boundaries:
        """Where steps may stop; how a layer's time splits into its stages is the roofline's."""
        assert pool.preempt is not None
        granularity, switch = pool.preempt.granularity, pool.preempt.switch_s
        where = "layers, taken as equally long" if granularity == "layer" else "a layer's stages, split by the roofline"
        self._sources[f"modelled: steps stop at {where}; {switch * 1e6:g} us to go on"] = None

        def mlp_ticks(tokens: int) -> int:
            return ticks(float(mlp_s(shard, np.array([tokens]))[0]))

        return Boundaries(granularity, self.model.layers, self.model.experts or 1, mlp_ticks)

    def _kv(self, instance: Instance, pool: PoolSpec, blocks: int, where: str) -> KVCache:
        reserve = int(pool.watermark * blocks)
        unit = self._hash_block_tokens
        if self.tiers is not None:
            gpu = load_gpu(pool.gpu or self.scenario.cluster.gpu, where)
            host_bytes_per_s = gpu.host_bytes_per_s * pool.tensor_parallel
            return TieredKV(blocks, pool.block_tokens, reserve, self.tiers.add(instance, host_bytes_per_s))
        if pool.prefix_caching and self.sessions:
            return SessionCache(blocks, pool.block_tokens, reserve, pool.block_tokens)
        if pool.kv_reservation != "none":
            return ReservedKV(blocks, pool.block_tokens, pool.kv_reservation, self.model.max_positions)
        if not pool.prefix_caching or unit is None:
            return KVCache(blocks, pool.block_tokens, reserve)  # without ids no two requests share anything
        if unit % pool.block_tokens:
            raise ScenarioError(f"{where}.block_tokens", f"{pool.block_tokens} does not divide the trace's blocks",
                                f"a divisor of {unit}")  # fmt: skip
        return PrefixCache(blocks, pool.block_tokens, reserve, unit)

    def _note_limit(self, engine: Engine, pool: PoolSpec, where: str) -> None:
        # vLLM V1 gives up its watermark when nothing else runs.
        kept = 0 if engine.batching.mixes else engine.kv.reserve
        room = (engine.kv.capacity - kept) * pool.block_tokens
        if pool.role == "prefill":
            self._most_prompt = min(self._most_prompt, room)
        elif room + 1 < self.most_tokens:  # the last token shown needs no KV
            self.most_tokens, self.limit = room + 1, f"the KV blocks of {where}"
        if pool.batching in ("prefill-first", "whole-prompts", "static") and pool.max_num_batched_tokens is not None:
            self._most_prompt = min(self._most_prompt, pool.max_num_batched_tokens)

    def refuses(self, prompts: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Which requests can never be served: longer than the model's positions, a KV pool, or an unchunked step."""
        return (prompts + outputs > self.most_tokens) | (prompts > self._most_prompt)

    def flip(self, instance: Instance) -> None:
        """Turn an idle instance into one of the other role, on the same GPUs."""
        role = "decode" if instance.role == "prefill" else "prefill"
        index, pool = next((i, p) for i, p in enumerate(self.scenario.cluster.pools) if p.role == role)
        own = self._pools[instance.number]
        pool = replace(pool, gpu=own.gpu, tensor_parallel=own.tensor_parallel)
        self.equip(instance, pool, f"cluster.pools.{index}")
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
            size = self.model.kv_bytes_per_token(self.scenario.dtype)
            self.links = self.dispatcher.links = Links(self.env, spec.kv_link, size, self.model.layers)
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
            return SessionEntryScheduler if self.sessions else EntryScheduler
        return SessionScheduler if self.sessions else Scheduler

    def _wire_entry(self, scheduler: EntryScheduler) -> None:
        """Rejection and prefixes from peers; without ids in the trace nobody has anything to share."""
        reject, fetch = self.scenario.cluster.reject, self.scenario.cluster.fetch
        policy = find_policy("reject", reject.policy, "cluster.reject.policy")
        if policy is not None:
            scheduler.set_rejection(reject, policy)
        policy = find_policy("fetch", fetch.policy, "cluster.fetch.policy")
        if policy is not None and (self.sessions or self._hash_block_tokens is not None):
            scheduler.set_fetching(fetch, policy, self.model.kv_bytes_per_token(self.scenario.dtype))
            rate = fetch.bandwidth_bytes_per_s / 1e9
            self._sources[f"modelled: prefixes fetched at {rate:g} GB/s an instance one way"] = None

    def _tiers(self) -> TierStore | None:
        spec = self.scenario.cluster.tiers
        if spec is None:
            return None
        size = self.model.kv_bytes_per_token(self.scenario.dtype)
        return TierStore(self.env, spec, size, self.model.layers, self.scenario.cluster.pools[0].block_tokens)

    def _wire_hints(self) -> None:
        """Hints to the scheduler, and what is modelled where KV stays between turns."""
        tiers, spec, scheduler = self.tiers, self.scenario.cluster.hints, self.scheduler
        if tiers is None:
            return
        self._sources[tiers.summary] = None
        if spec is not None and isinstance(scheduler, SessionScheduler):
            scheduler.desk = HintDesk(self.env, spec, scheduler.index, scheduler.pick, tiers.call)

    def _wire_control(self) -> None:
        """What looks at the cluster on the control tick: roles and moves, never both."""
        spec, scheduler, slo = self.scenario.cluster, self.scheduler, self.scenario.slo
        if spec.ratio.policy != "fixed":
            roles = RoleControl(self.instances, scheduler.index, spec.ratio, slo)
            roles.flip, roles.drain, roles.held = self.flip, self.drain, lambda: self.dispatcher.held_tokens
            self._sources[f"modelled: a change of role takes {spec.flip.cost_s * 1e3:g} ms, when empty"] = None
            ControlTick(self.env, ticks(spec.ratio.period_s), lambda: scheduler.active).start(roles.control)
        if spec.scale.policy != "fixed":
            self.planner = Planner(self.env, self.instances, spec.scale, self.join_roles)
            self._sources[self.planner.summary] = None
            ControlTick(self.env, ticks(spec.scale.period_s), lambda: scheduler.active).start(self.planner.control)
        if spec.migrate.on:
            members = [instance for instance in self.instances if isinstance(instance, MobileInstance)]
            size = self.model.kv_bytes_per_token(self.scenario.dtype)
            migrator = Migrator(self.env, members, spec.migrate, slo, size, self.recorder)
            migrator.index = scheduler.index
            self._sources[migrator.summary] = None
            ControlTick(self.env, ticks(spec.migrate.period_s), lambda: scheduler.active).start(migrator.control)

    def time_shares(self) -> dict[str, float]:
        """Seconds of step time by source."""
        busy = seconds(sum(instance.busy_ticks for instance in self.instances))
        timers = [timer for timer in self._timers.values() if timer.labelled]
        total = seconds(sum(timer.total for timer in timers))
        measured = seconds(sum(timer.measured for timer in timers))
        estimated = max(0.0, seconds(sum(timer.estimated for timer in timers)) + busy - total)
        return {"measured": measured, "interpolated": max(0.0, busy - measured - estimated), "estimated": estimated}

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


def _interruptible(pool: PoolSpec) -> type[Instance]:
    return InterruptibleInstance if pool.preempt is not None and pool.preempt.inside else Instance


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
