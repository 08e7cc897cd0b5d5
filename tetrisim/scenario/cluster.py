"""Instances, the links between them, and the names of the policies that run them."""

from dataclasses import dataclass
from typing import Literal

from tetrisim.scenario.checks import not_negative, positive
from tetrisim.scenario.control import MigrateSpec, RatioSpec
from tetrisim.scenario.entry import FetchSpec, RejectSpec
from tetrisim.scenario.precision import PrecisionSpec
from tetrisim.scenario.preempt import MlfqSpec, PreemptSpec
from tetrisim.scenario.scale import ScaleSpec
from tetrisim.scenario.tiers import HintSpec, TierSpec

Role = Literal["prefill", "decode", "hybrid"]
MOST_INSTANCES = 100_000


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Instances of one role. `None` means no limit, or derive (`kv_blocks` from GPU memory, `gpu` from the cluster)."""

    role: Role
    instances: int = 1
    tensor_parallel: int = 1
    split_above_tokens: int | None = None
    """A step of more tokens than this splits them over the GPUs instead of the weights (Shift Parallelism)."""
    gpu: str | None = None
    precision: PrecisionSpec | None = None
    # batching
    batching: str = "token-budget"
    max_num_seqs: int | None = 256
    max_num_batched_tokens: int | None = None
    chunk_tokens: int = 512
    long_prefill_tokens: int | None = None
    async_scheduling: bool = False
    """Whether the next step is planned while one runs: arrivals and freed seats then count a step later."""
    # the queue before prefill, the gate before decode
    queue: str = "fcfs"
    queue_batch: int = 16
    admission: str = "greedy"
    preempt: PreemptSpec | None = None
    """Urgent requests get ahead of running ones; None leaves that to the queue."""
    mlfq: MlfqSpec | None = None
    """Requests run by what they were served so far; None: in order of arrival."""
    # KV memory
    block_tokens: int = 16
    kv_blocks: int | None = None
    kv_reservation: Literal["none", "longest", "power-of-two", "exact"] = "none"
    """What is kept for a request from its admission on; none: blocks are taken as tokens come (paged attention)."""
    memory_utilization: float = 0.9
    watermark: float = 0.0
    prefix_caching: bool = False
    preemption: Literal["recompute", "swap"] = "recompute"
    swap_space_bytes: float = 4.0 * 2**30

    def __post_init__(self) -> None:
        positive(
            instances=self.instances,
            tensor_parallel=self.tensor_parallel,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            chunk_tokens=self.chunk_tokens,
            long_prefill_tokens=self.long_prefill_tokens,
            queue_batch=self.queue_batch,
            block_tokens=self.block_tokens,
            kv_blocks=self.kv_blocks,
        )
        not_negative(split_above_tokens=self.split_above_tokens, swap_space=self.swap_space_bytes)
        if self.instances > MOST_INSTANCES:
            raise ValueError(f"instances: expected at most {MOST_INSTANCES}, not {self.instances}")
        if not 0 < self.memory_utilization <= 1:
            raise ValueError("memory_utilization: expected above 0 and at most 1")
        if not 0 <= self.watermark < 1:
            raise ValueError("watermark: expected a fraction of the KV blocks below 1")
        if self.precision is not None and self.split_above_tokens is not None:
            raise ValueError("precision: expected without split_above_tokens")
        self._check_together()
        budget, seqs = self.max_num_batched_tokens, self.max_num_seqs
        if self.batching == "token-budget" and budget is not None and seqs is not None and budget < seqs:
            raise ValueError(
                f"max_num_batched_tokens: expected at least max_num_seqs ({seqs}), not {budget}: "
                "every running sequence needs one token a step"
            )

    def _check_together(self) -> None:
        """What cannot be had together."""
        if self.kv_reservation != "none" and (self.role != "hybrid" or self.prefix_caching):
            raise ValueError("kv_reservation: expected in a hybrid pool without prefix_caching")
        if self.async_scheduling and self.role != "hybrid":
            raise ValueError(f"async_scheduling: expected in a hybrid pool, not in a {self.role} pool")
        if self.long_prefill_tokens is not None and self.role != "hybrid":
            raise ValueError(f"long_prefill_tokens: expected in a hybrid pool, not in a {self.role} pool")
        if self.preempt is not None:
            self._check_preempt()
        if self.mlfq is not None:
            self._check_mlfq()

    def _check_mlfq(self) -> None:
        if self.role != "hybrid" or self.batching != "whole-prompts" or self.queue != "priority":
            raise ValueError("mlfq: expected in a hybrid pool with batching 'whole-prompts' and queue 'priority'")
        if self.async_scheduling or self.kv_reservation != "none" or self.preempt is not None:
            raise ValueError("mlfq: expected without async_scheduling, kv_reservation and preempt")

    def _check_preempt(self) -> None:
        if self.role != "hybrid" or self.batching != "prefill-first" or self.queue != "priority":
            raise ValueError("preempt: expected in a hybrid pool with batching 'prefill-first' and queue 'priority'")
        if self.async_scheduling or self.preemption != "recompute" or self.kv_reservation != "none":
            raise ValueError(
                "preempt: expected without async_scheduling and kv_reservation, and with preemption 'recompute'"
            )


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """The KV port of each instance: bandwidth one way, time to first byte, and what is sent at once.

    `request`: the whole prompt's KV after its prefill (TetriInfer). `chunk`: each chunk's when it is computed. `layer`:
    each layer's. The last two leave less to send when the prefill ends.
    """

    bandwidth_bytes_per_s: float
    latency_s: float = 0.0
    granularity: Literal["request", "chunk", "layer"] = "request"

    def __post_init__(self) -> None:
        positive(bandwidth=self.bandwidth_bytes_per_s)
        not_negative(latency=self.latency_s)


@dataclass(frozen=True, slots=True)
class PredictorSpec:
    """How output lengths are guessed: `oracle`, `none`, `shuffled`, or `bucket` (ranges of `granularity_tokens`).

    The predictor runs on the prefill instance, and costs `cost` of the prefill it goes with: `sequential` on every
    chunk, `parallel` only on those of requests that found others before them, `free` never (notes, section 8).
    """

    policy: str = "none"
    granularity_tokens: int = 200
    accuracy: float = 0.749
    bias: float = 0.0
    drift: float = 0.0
    mode: Literal["free", "parallel", "sequential"] = "free"
    cost: float = 0.1

    def __post_init__(self) -> None:
        positive(granularity_tokens=self.granularity_tokens)
        if not 0 <= self.accuracy <= 1:
            raise ValueError("accuracy: expected between 0 and 1")
        if not -1 <= self.bias <= 1:
            raise ValueError("bias: expected between -1 (every error too short) and 1 (too long)")
        if not 0 <= self.drift <= self.accuracy:
            raise ValueError(f"drift: expected between 0 and the accuracy ({self.accuracy})")
        if self.cost < 0:
            raise ValueError("cost: expected at least 0, as in 0.1 of the prefill time")


@dataclass(frozen=True, slots=True)
class PlacementSpec:
    """How a decode instance is chosen; a request predicted at `heavy_tokens` or more counts as a heavy decode."""

    policy: str = "power-of-two"
    heavy_tokens: int = 128
    broadcast_s: float = 0.1

    def __post_init__(self) -> None:
        positive(heavy_tokens=self.heavy_tokens, broadcast=self.broadcast_s)


@dataclass(frozen=True, slots=True)
class FlipSpec:
    """When an instance changes role, and what the change costs.

    `idle`: after `after_s` with nothing to do. `watermark`: when it was busy for less than `low` of the last `after_s`
    and the other role on average for more than `high`; it is given nothing new then, and changes when it is empty.
    """

    policy: str = "never"
    after_s: float = 60.0
    cost_s: float = 0.006
    low: float = 0.1
    high: float = 0.9

    def __post_init__(self) -> None:
        positive(after=self.after_s)
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"low: expected from 0 to below high ({self.high}), at most 1")
        not_negative(cost=self.cost_s)


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """The machines of a run: either hybrid pools, or prefill and decode pools joined by `kv_link`."""

    gpu: str
    pools: tuple[PoolSpec, ...]
    kv_link: LinkSpec | None = None
    route: str = "least-loaded"
    predict: PredictorSpec = PredictorSpec()
    place: PlacementSpec = PlacementSpec()
    flip: FlipSpec = FlipSpec()
    reject: RejectSpec = RejectSpec()
    fetch: FetchSpec = FetchSpec()
    migrate: MigrateSpec = MigrateSpec()
    ratio: RatioSpec = RatioSpec()
    scale: ScaleSpec = ScaleSpec()
    tiers: TierSpec | None = None
    hints: HintSpec | None = None

    def __post_init__(self) -> None:
        roles = {pool.role for pool in self.pools}
        if not roles:
            raise ValueError("pools: expected at least one pool")
        if "hybrid" in roles and len(roles) > 1:
            raise ValueError("pools: expected hybrid pools alone, or prefill and decode pools")
        if roles != {"hybrid"} and roles != {"prefill", "decode"}:
            missing = "decode" if "prefill" in roles else "prefill"
            raise ValueError(f"pools: expected at least one {missing} instance beside the {min(roles)} pool")
        if "prefill" in roles and self.kv_link is None:
            raise ValueError("kv_link: expected between prefill and decode pools, as in {bandwidth: 200 Gbit/s}")
        self._check_entry(roles)
        changing = self.flip.policy != "never" or self.ratio.policy != "fixed"
        if changing and any(pool.precision is not None for pool in self.pools):
            raise ValueError("flip: expected never, and a fixed ratio, where a pool has a precision")
        if self.ratio.policy != "fixed" and ("prefill" not in roles or self.flip.policy != "never"):
            raise ValueError("ratio: expected with prefill and decode pools, and flip: {policy: never}")
        if self.migrate.on:
            self._check_migrate()
        if self.tiers is not None:
            self._check_tiers()
        elif self.hints is not None:
            raise ValueError("hints: expected with tiers, between which they move KV")

    @property
    def policies(self) -> tuple[str, ...]:
        """The names of all policies that a run asks, those of the pools included."""
        specs = (self.predict, self.place, self.flip, self.reject, self.fetch, self.migrate, self.ratio, self.scale)
        pools = (name for pool in self.pools for name in (pool.batching, pool.queue, pool.admission))
        return (self.route, *(spec.policy for spec in specs), *pools)

    def _check_entry(self, roles: set[str]) -> None:
        """What rejection, fetching and scaling need."""
        sharing = all(pool.prefix_caching for pool in self.pools if pool.role == "prefill")
        if self.fetch.policy != "never" and ("prefill" not in roles or not sharing):
            raise ValueError("fetch: expected with prefill pools, each with prefix_caching: true")
        if self.reject.tpot_s is not None and "prefill" not in roles:
            raise ValueError("reject: tpot expected with prefill and decode pools")
        if self.scale.policy != "fixed" and ("prefill" in roles or self.migrate.on or self.tiers is not None):
            raise ValueError("scale: expected with hybrid pools, without migrate and tiers")

    def _check_tiers(self) -> None:
        """What cannot be had together with KV that stays between turns."""
        if any(pool.role != "hybrid" for pool in self.pools):
            raise ValueError("tiers: expected with hybrid pools alone: a turn is served where its KV is")
        if len({pool.block_tokens for pool in self.pools}) > 1:
            raise ValueError("tiers: expected with one block_tokens for all pools, between which KV moves")
        if self.migrate.on:
            raise ValueError("tiers: expected without migrate: what moves is KV of turns that wait")
        if self.route in ("prefix-aware", "least-ttft"):
            raise ValueError(f"tiers: expected without route '{self.route}', which does not see what is in them")
        if any(pool.kv_reservation != "none" or pool.preempt is not None for pool in self.pools):
            raise ValueError("tiers: expected in pools without kv_reservation and preempt")

    def _check_migrate(self) -> None:
        """What cannot be had together with requests that move."""
        if any(pool.async_scheduling for pool in self.pools):
            raise ValueError("migrate: expected without async_scheduling: a request leaves between two planned steps")
        if any(pool.queue == "priority" for pool in self.pools):
            raise ValueError("migrate: expected without queue 'priority', which chooses victims by itself")
        if any(pool.kv_reservation != "none" for pool in self.pools):
            raise ValueError("migrate: expected without kv_reservation: blocks move as they are filled")
        if self.flip.policy != "never" or self.ratio.policy != "fixed":
            raise ValueError("migrate: expected with fixed roles, so flip: {policy: never}, ratio: {policy: fixed}")
