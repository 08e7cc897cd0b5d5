"""What an instance is made of: its class, engine, KV memory and step timer, as its pool and the scenario ask."""

import sys

import numpy as np

from tetrisim.cluster.clock import Clock, seconds, ticks
from tetrisim.cluster.engine import Engine
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.interrupt import Boundaries, InterruptibleInstance
from tetrisim.cluster.kvcache import KVCache, PrefixCache
from tetrisim.cluster.mlfq import MlfqEngine, MlfqInstance
from tetrisim.cluster.mobile import MobileEngine, MobileInstance
from tetrisim.cluster.precision import PrecisionInstance, Widths
from tetrisim.cluster.predictor import Predictor
from tetrisim.cluster.priority import PriorityEngine, PriorityQueue
from tetrisim.cluster.queue import WaitingQueue
from tetrisim.cluster.reserved import ReservedKV, StaticEngine
from tetrisim.cluster.sessions import SessionCache
from tetrisim.cluster.suspend import ClassEngine
from tetrisim.cluster.tiered import TieredInstance, TieredKV
from tetrisim.cluster.tiers import TierStore
from tetrisim.errors import ScenarioError
from tetrisim.latency.build import build_timer
from tetrisim.latency.lowbit import WidthTimers
from tetrisim.latency.roofline import Shard, mlp_s
from tetrisim.latency.step import FOREVER, StepTimer
from tetrisim.policies.batching import Batching, Static
from tetrisim.policies.registry import find_policy
from tetrisim.scenario.cluster import PoolSpec, PredictorSpec
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.memory import kv_blocks
from tetrisim.scenario.model import load_model
from tetrisim.scenario.precision import PrecisionSpec
from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.workload import SESSIONS

_NO_PREDICTOR = Predictor(PredictorSpec())


class Machines:
    """Fits out the instances of one run; what they share, step timers first of all, is made once."""

    def __init__(self, scenario: Scenario, env: Clock, hash_block_tokens: int | None) -> None:
        self.scenario = scenario
        self.model = load_model(scenario.model)
        self.sources: dict[str, None] = {}
        """One line a latency table, and one for each cost that is modelled and not measured."""
        self.pools: dict[int, PoolSpec] = {}
        """Number of an instance -> the pool that it is of now."""
        self.hash_block_tokens = hash_block_tokens
        self._timers: dict[tuple[str, int, int | None], StepTimer] = {}
        self._widths: dict[tuple[Shard, PrecisionSpec], tuple[Widths, WidthTimers]] = {}
        self._predictor = Predictor(scenario.cluster.predict)
        self.most_tokens = self.model.max_positions
        """Tokens of the longest request that can be served."""
        self.limit = f"the positions of {self.model.name}"
        """What sets `most_tokens`."""
        self._most_prompt = sys.maxsize
        self.mobile = scenario.cluster.migrate.on
        """Whether running requests may move from one instance to another."""
        self.sessions = scenario.workload.trace == SESSIONS
        self.tiers = self._tiers(env) if self.sessions else None
        """Where KV of sessions stays between turns; requests that are no turns leave nothing behind."""

    @property
    def measured(self) -> bool:
        """Whether every instance has measured tables."""
        return all(timer.labelled for timer in self._timers.values())

    def kind(self, pool: PoolSpec, where: str) -> type[Instance]:
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
        parts = self._kv_parts(pool)
        engine.limit_swap(int(pool.swap_space_bytes * parts / block_bytes))
        instance.snapshot_until = FOREVER
        instance.gpu, instance.gpus = gpu.name, pool.tensor_parallel
        instance.swap_ticks_per_block = ticks(block_bytes / (gpu.host_bytes_per_s * parts))
        key = (gpu.name, pool.tensor_parallel, pool.split_above_tokens)
        shard = Shard(self.model, gpu, dtype, pool.tensor_parallel)
        if key not in self._timers:
            timer, source = build_timer(shard, self.scenario.profile, "profile", pool.split_above_tokens)
            self._timers[key] = timer
            self.sources[source] = None
        instance.equip(engine, self._timers[key], self._predictor if pool.role == "prefill" else _NO_PREDICTOR)
        if instance.timer.skewed:
            engine.batch.track_longest()
        if isinstance(instance, InterruptibleInstance):
            instance.boundaries = self._boundaries(pool, shard)
        if isinstance(instance, PrecisionInstance):
            self._prepare(instance, pool, shard)
        self.pools[instance.number] = pool
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
            self.sources[f"modelled: weights of {bits} by the roofline, kernel {spec.kernel}"] = None
            self._widths[key] = Widths(spec, self.scenario.seed), WidthTimers(shard, spec)
        instance.prepare(*self._widths[key])

    def _engine_class(self, pool: PoolSpec, batching: Batching) -> type[Engine]:
        if self.mobile and pool.role != "prefill":
            return MobileEngine
        if pool.preempt is not None:
            return ClassEngine
        if pool.mlfq is not None:
            self.sources["modelled: KV moves to and from the host beside the steps"] = None
            return MlfqEngine
        if isinstance(batching, Static):
            return StaticEngine
        return PriorityEngine if pool.queue == "priority" else Engine

    def _boundaries(self, pool: PoolSpec, shard: Shard) -> Boundaries:
        """Where steps may stop; how a layer's time splits into its stages is the roofline's."""
        assert pool.preempt is not None
        granularity, switch = pool.preempt.granularity, pool.preempt.switch_s
        where = "layers, taken as equally long" if granularity == "layer" else "a layer's stages, split by the roofline"
        self.sources[f"modelled: steps stop at {where}; {switch * 1e6:g} us to go on"] = None

        def mlp_ticks(tokens: int) -> int:
            return ticks(float(mlp_s(shard, np.array([tokens]))[0]))

        return Boundaries(granularity, self.model.layers, self.model.experts or 1, mlp_ticks)

    def _kv_parts(self, pool: PoolSpec) -> int:
        """Over how many GPUs the KV cache is cut; beyond its heads each GPU holds and moves a whole head's."""
        return min(pool.tensor_parallel, self.model.kv_heads)

    def _kv(self, instance: Instance, pool: PoolSpec, blocks: int, where: str) -> KVCache:
        reserve = int(pool.watermark * blocks)
        unit = self.hash_block_tokens
        if self.tiers is not None:
            gpu = load_gpu(pool.gpu or self.scenario.cluster.gpu, where)
            host_bytes_per_s = gpu.host_bytes_per_s * self._kv_parts(pool)
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

    def _tiers(self, env: Clock) -> TierStore | None:
        spec = self.scenario.cluster.tiers
        if spec is None:
            return None
        size = self.model.kv_bytes_per_token(self.scenario.dtype)
        return TierStore(env, spec, size, self.model.layers, self.scenario.cluster.pools[0].block_tokens)

    def time_shares(self, busy: float) -> dict[str, float]:
        """Seconds of step time by source, of `busy` seconds in all."""
        timers = [timer for timer in self._timers.values() if timer.labelled]
        total = seconds(sum(timer.total for timer in timers))
        measured = seconds(sum(timer.measured for timer in timers))
        estimated = max(0.0, seconds(sum(timer.estimated for timer in timers)) + busy - total)
        return {"measured": measured, "interpolated": max(0.0, busy - measured - estimated), "estimated": estimated}


def _interruptible(pool: PoolSpec) -> type[Instance]:
    return InterruptibleInstance if pool.preempt is not None and pool.preempt.inside else Instance
