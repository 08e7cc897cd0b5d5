"""What no cluster of a family can do: memory that is too small, and step times that leave no room (the speed of light).

Every bound here is one of the simulator itself: it comes from the same step times, and whatever it rules out misses the
SLO in a simulation, too. Attention counts where the roofline gives it; measured tables may interpolate below any
formula, so there it is left out, which only makes the bound lower.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import ATTENTION_EFFICIENCY, Shard
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.memory import MemoryBar, memory_bar
from tetrisim.scenario.model import load_model
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.capacity_text import seconds
from tetrisim.studies.judge import Criterion
from tetrisim.units import TICKS_PER_S
from tetrisim.workload.trace import Trace

Floats = NDArray[np.float64]

SAFE = 1 - 1e-9
"""Bounds are lowered by this for the rounding of ticks."""
PLACES = 256
"""Sequences up to which the cheapest LM head is looked for."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The least seconds on one instance of a pool: of any step, of a token in the best step, and of its attention.

    A prompt of p tokens takes `pair_s` * p * p / 2 of attention, a decode step `context_s` a token of context.
    """

    step_s: float
    token_s: float
    pair_s: float
    context_s: float
    most_tokens: float


@dataclass(frozen=True, slots=True)
class Bound:
    """What limits a family. `ruled_out`: a reason why none of it can meet the SLO, and its kind; else nothing.

    `floors`: the latency that `percent` of the requests cannot stay below, by metric, in seconds. `needs`: instances of
    each role, `together` of all, that the rate needs at least (instances may be fewer where roles flip).
    """

    ruled_out: str
    kind: str
    bars: tuple[MemoryBar, ...]
    floors: dict[str, float]
    needs: tuple[float, ...]
    together: float

    def allows(self, counts: Sequence[int]) -> bool:
        """Whether so many instances might do."""
        return sum(counts) >= self.together and all(
            count >= need for count, need in zip(counts, self.needs, strict=True)
        )


@cache
def pace(shard: Shard, profile: str, split_above: int | None, most: int, mixes: bool) -> Pace:
    """The least times of steps of up to `most` tokens; `mixes`: one sequence may have many tokens of a step."""
    timer, _ = build_timer(shard, profile, "profile", split_above)
    one = timer.fixed(1, 1)
    head = min(timer.fixed(1, sequences) for sequences in range(1, PLACES + 1)) - one
    sizes = range(1, most + 1)
    steps = [timer.fixed(size, 1 if mixes else size) for size in sizes]
    free = (min(0, head) if mixes else 0) / TICKS_PER_S
    times = np.array(steps, dtype=float) / TICKS_PER_S + free
    pair_s = context_s = 0.0
    if not timer.attention.measured:
        layers, model = shard.model.layers, shard.model
        pairs = layers * 4 * model.heads / shard.tensor_parallel * model.head_dim
        pair_s = pairs / (shard.activation_peak * ATTENTION_EFFICIENCY)
        context_s = layers * (timer.attention.decode(1, 1.0)[0] - timer.attention.decode(1, 0.0)[0])
    # A decode step has at least one token, so the shortest step is the least of all sizes.
    return Pace(SAFE * times.min(), SAFE * float((times / np.arange(1, most + 1)).min()), SAFE * pair_s,
                SAFE * context_s, most)  # fmt: skip


def paces(scenario: Scenario, traces: Sequence[Trace]) -> tuple[Pace, ...]:
    """The pace of each pool on these requests."""
    model = load_model(scenario.model)
    longest = max(int((trace.prompt_tokens + trace.output_tokens).max()) for trace in traces)
    requests = max(len(trace) for trace in traces)
    found: list[Pace] = []
    for pool, bar in zip(scenario.cluster.pools, memory_bars(scenario), strict=True):
        shard = Shard(model, load_gpu(pool.gpu or scenario.cluster.gpu), scenario.dtype, pool.tensor_parallel)
        most = _largest_step(pool, longest, min(requests, bar.blocks))
        mixes = pool.batching != "decode-only"
        known = pace(shard, scenario.profile, pool.split_above_tokens, most or longest, mixes)
        found.append(known if most else Pace(0.0, 0.0, 0.0, 0.0, inf))  # a policy nobody knows may form any step
    return tuple(found)


def _largest_step(pool: PoolSpec, longest: int, sequences: int) -> int:
    """Tokens of the largest step that the batching forms, of at most so many sequences; 0: not known."""
    budget = pool.max_num_batched_tokens or pool.chunk_tokens
    known = {
        "token-budget": budget,
        "prefill-first": max(budget, longest, pool.max_num_seqs or sequences),
        "fixed-chunks": max(pool.chunk_tokens, longest),
        "decode-only": pool.max_num_seqs or sequences,
    }
    return known.get(pool.batching, 0)


def bound(scenario: Scenario, traces: Sequence[Trace], criterion: Criterion) -> Bound:
    """What limits a scenario's pools on these requests (one trace a seed, at the rate in question)."""
    bars = memory_bars(scenario)
    for pool, bar in zip(scenario.cluster.pools, bars, strict=True):
        if bar.blocks < 1:
            what = f"{scenario.model} does not fit on {pool.tensor_parallel} x {scenario.cluster.gpu}: {bar}"
            return Bound(what, "memory", bars, {}, (), 0.0)
    refused = min(_refused(scenario, bars, trace, criterion) for trace in traces)
    if refused > 1 - criterion.percent / 100:
        tokens = min(bar.blocks * pool.block_tokens for pool, bar in zip(scenario.cluster.pools, bars, strict=True))
        what = f"{refused * 100:.1f} % of the requests fit nowhere: the KV blocks hold {tokens} tokens ({bars[0]})"
        return Bound(what, "memory", bars, {}, (), 0.0)
    pace_of = paces(scenario, traces)
    works = [_Work(scenario, pace_of, trace, criterion) for trace in traces]
    floors = {name: min(work.floor(name) for work in works) for name in works[0].limits}
    for name, limit in works[0].limits.items():
        if all(work.misses(name) for work in works):
            what = f"{name} of a request alone is at least {seconds(floors[name])}, the limit {seconds(limit)}"
            return Bound(what, f"{name} floor", bars, floors, (), 0.0)
    if criterion.together and all(work.misses("") for work in works):
        return Bound("too many requests miss one of the limits even alone", "floor", bars, floors, (), 0.0)
    needs = [work.needs() for work in works]
    each = tuple(min(need[role] for need, _ in needs) for role in range(len(pace_of)))
    return Bound("", "", bars, floors, each, min(every for _, every in needs))


def memory_bars(scenario: Scenario) -> tuple[MemoryBar, ...]:
    """The memory of a GPU of each pool."""
    model, cluster = load_model(scenario.model), scenario.cluster
    return tuple(memory_bar(pool, load_gpu(pool.gpu or cluster.gpu), model, scenario.dtype) for pool in cluster.pools)


def _refused(scenario: Scenario, bars: Sequence[MemoryBar], trace: Trace, criterion: Criterion) -> float:
    """The share of the judged requests that can never be served."""
    start = int(len(trace) * criterion.warmup)
    prompts, outputs = trace.prompt_tokens[start:], trace.output_tokens[start:]
    never = prompts + outputs > load_model(scenario.model).max_positions
    for pool, bar in zip(scenario.cluster.pools, bars, strict=True):
        room = bar.blocks * pool.block_tokens
        never |= (prompts > room) if pool.role == "prefill" else (prompts + outputs > room + 1)
        if pool.batching == "prefill-first" and pool.max_num_batched_tokens is not None:
            never |= prompts > pool.max_num_batched_tokens
    return float(never.mean())


class _Work:
    """The least work of the judged requests of one trace, and when it is due."""

    def __init__(self, scenario: Scenario, pace_of: Sequence[Pace], trace: Trace, criterion: Criterion) -> None:
        start = int(len(trace) * criterion.warmup)
        self.arrival = trace.arrival_s[start:]
        prompts, self.outputs = trace.prompt_tokens[start:].astype(float), trace.output_tokens[start:].astype(float)
        self.criterion = criterion
        # With a prefix cache all but a prompt's last token may be there already.
        cached = trace.hash_ids is not None and any(pool.prefix_caching for pool in scenario.cluster.pools)
        computed = np.ones(len(prompts)) if cached else prompts
        first, later = pace_of[0], pace_of[-1]
        self.split = len(pace_of) > 1
        attention = np.zeros(len(prompts)) if cached else first.pair_s * prompts * prompts / 2
        steps = np.ceil(computed / first.most_tokens)
        decodes = self.outputs - 1
        self.prefill_s = first.token_s * computed + attention
        context = decodes * prompts + decodes * np.maximum(0, decodes - 1) / 2
        self.decode_s = later.token_s * decodes + later.context_s * context
        ttft = np.maximum(first.token_s * computed, steps * first.step_s) + attention
        tpot = np.where(decodes > 0, later.step_s + later.context_s * prompts, 0.0)
        floors = {"TTFT": ttft, "TPOT": tpot, "E2EL": ttft + decodes * tpot}
        self.limits = scenario.slo.limits
        self.floors = {name: floors[name] for name in self.limits}
        flip = scenario.cluster.flip
        self.fixed_until_s = {"never": inf, "idle": flip.after_s}.get(flip.policy, 0.0)

    def _judged(self, name: str) -> Floats:
        """A metric's floors where it is judged: one token has no time after the first."""
        several = self.outputs > 1
        return self.floors[name][several] if name == "TPOT" and not self.criterion.together else self.floors[name]

    def floor(self, name: str) -> float:
        """The smallest latency that the criterion's percentile cannot stay below."""
        values = np.sort(self._judged(name))
        rank = int(np.ceil(self.criterion.percent / 100 * len(values) - 1e-9)) - 1
        return float(values[rank]) if len(values) else 0.0

    def misses(self, name: str) -> bool:
        """Whether too many requests miss a limit ("": any of them) even alone."""
        if name:
            late = self._judged(name) > self.limits[name]
        else:
            late = np.zeros(len(self.outputs), dtype=bool)
            for metric, limit in self.limits.items():
                late |= self.floors[metric] > limit
        return len(late) > 0 and float(late.mean()) > 1 - self.criterion.percent / 100 + 1e-9

    def needs(self) -> tuple[tuple[float, ...], float]:
        """Instances of each role, and in all, without which more requests are late than may be.

        Work that is due by a moment and could not begin before the first judged arrival must fit between the two; the
        largest pieces are left out, as many as requests may miss each of the limits.
        """
        ttft, tpot, e2el = (self.limits.get(name, inf) for name in ("TTFT", "TPOT", "E2EL"))
        may_miss = int((1 - self.criterion.percent / 100) * len(self.outputs) + 1e-9)
        every = 1 if self.criterion.together else len(self.limits)
        prefill_due = self.arrival + min(ttft, e2el)
        decodes = self.outputs - 1
        after_s = decodes * tpot if tpot < inf else np.where(decodes > 0, inf, 0.0)  # 0 x inf has no value
        decode_due = self.arrival + np.minimum(ttft + after_s, e2el)
        prefill = _Demand(prefill_due, self.prefill_s, every * may_miss)
        decode = _Demand(decode_due, self.decode_s, every * may_miss)
        start = float(self.arrival[0])
        both = _Demand(
            np.concatenate([prefill_due, decode_due]), np.concatenate([self.prefill_s, self.decode_s]),
            2 * every * may_miss,
        )  # fmt: skip
        together = both.instances(start, inf)
        if not self.split:
            return (together,), together
        until = self.fixed_until_s
        return (prefill.instances(start, until), decode.instances(start, until)), together


class _Demand:
    """Seconds of work with their deadlines; the `forgiven` largest pieces need not be done."""

    def __init__(self, due: Floats, work: Floats, forgiven: int) -> None:
        order = np.argsort(due, kind="stable")
        self.due = due[order]
        spared = np.sort(work)[::-1][:forgiven].sum()
        self.work = np.cumsum(work[order]) - spared

    def instances(self, start: float, until: float) -> float:
        """How many are busy all the time from `start` on to be done with what is due by each moment up to `until`."""
        used = (self.due > start) & (self.due <= until) & (self.due < inf)
        if not used.any():
            return 0.0
        return max(0.0, float((self.work[used] / (self.due[used] - start)).max()))


def most_rate(scenario: Scenario, traces: Sequence[Trace], criterion: Criterion, counts: Sequence[int]) -> float:
    """No higher rate than this meets the SLO on so many instances; `traces` come at 1 request a second."""
    low, high = 1e-3, 1e6
    pace_of = paces(scenario, traces)
    works = [_Work(scenario, pace_of, trace, criterion) for trace in traces]
    came = [work.arrival for work in works]
    while high / low > 1.001:
        rate = (low * high) ** 0.5
        for work, arrival in zip(works, came, strict=True):
            work.arrival = arrival / rate
        needs = [work.needs() for work in works]
        fits = any(
            sum(counts) >= every and all(count >= need for count, need in zip(counts, each, strict=True))
            for each, every in needs
        )
        low, high = (rate, high) if fits else (low, rate)
    return high
