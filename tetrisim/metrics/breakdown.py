"""Where the time of each request went: ten parts that sum to its E2EL.

Waits are differences of the moments in its row. A prefill and a decode also have a part of their own: what that work
would take on the same instance with nobody else there. The rest of their span is interference from co-batched work.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tetrisim.cluster.predictor import Predictor
from tetrisim.latency.build import build_timer
from tetrisim.latency.lowbit import WidthTimers
from tetrisim.latency.roofline import Shard
from tetrisim.latency.step import StepTimer
from tetrisim.metrics.definitions import Floats, completed
from tetrisim.policies.batching import Batching, TokenBudget
from tetrisim.policies.registry import find_policy
from tetrisim.scenario.cluster import PoolSpec, PredictorSpec
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model
from tetrisim.scenario.precision import PrecisionSpec
from tetrisim.scenario.scenario import Scenario
from tetrisim.simulate import Columns, Result
from tetrisim.units import TICKS_PER_S

Parts = Mapping[str, Floats]
"""Key of `PARTS` -> seconds of each completed request."""

PARTS = {
    "queue_s": "queueing",
    "prefill_s": "own prefill",
    "prefill_interference_s": "prefill interference",
    "prefill_preemption_s": "preempted prefill",
    "transfer_wait_s": "waiting for the transfer",
    "transfer_s": "transfer",
    "decode_wait_s": "waiting for decode",
    "decode_s": "own decode",
    "decode_interference_s": "decode interference",
    "decode_preemption_s": "preempted decode",
}
"""The parts in the order of a request's life, and their names in words."""

TO_FIRST_TOKEN = tuple(PARTS)[:4]
"""The parts that sum to TTFT; the others sum to E2EL - TTFT."""


class Largest(NamedTuple):
    """A part, and its share of the time that it is a part of."""

    part: str
    share: float


def breakdown(result: Result) -> Parts:
    """The parts of every completed request, in the order of the rows; each is at least 0 but for rounding.

    queue: arrival to the first step of the prefill. prefill: its chunks, as its pool's batching cuts and pads them for
    a request that is alone, over the tokens not found in the prefix cache; with the length predictor where that runs
    one after the other. transfer_wait: first token to the start of the transfer, the wait for a place included.
    decode_wait: end of the transfer (colocated: first token) to the start of the decode. decode: output_tokens - 1
    steps of a batch of one, each at its own context, less the share of those tokens that came with a recomputation.

    preemption: before the first token, the time since the prefill first started when it starts over; after it, from
    the preemption until the request decodes again or its recomputation shows the next token. interference: the rest of
    the span from prefill start to first token, and from decode start to finish. Where the work is faster in company
    than alone (a table may say so), own work is all of the span.
    """
    rows = {name: column[completed(result.request_columns)] for name, column in result.request_columns.items()}
    machines = _Machines(result.scenario, result.instance_columns["instance"].tolist())
    first, moved = rows["first_token_s"], ~np.isnan(rows["transfer_start_s"])
    starts = np.where(np.isnan(rows["decode_start_s"]), first, rows["decode_start_s"])
    prefill_span = first - rows["prefill_start_s"] - rows["lost_prefill_s"]
    decode_span = rows["finish_s"] - starts - rows["lost_decode_s"]
    prefill = np.minimum(machines.prefill_alone(rows), prefill_span)
    decode = np.minimum(machines.decode_alone(rows), decode_span)
    return {
        "queue_s": rows["prefill_start_s"] - rows["arrival_s"],
        "prefill_s": prefill,
        "prefill_interference_s": prefill_span - prefill,
        "prefill_preemption_s": rows["lost_prefill_s"],
        "transfer_wait_s": np.where(moved, rows["transfer_start_s"] - first, 0.0),
        "transfer_s": np.where(moved, rows["transfer_end_s"] - rows["transfer_start_s"], 0.0),
        "decode_wait_s": starts - np.where(moved, rows["transfer_end_s"], first),
        "decode_s": decode,
        "decode_interference_s": decode_span - decode,
        "decode_preemption_s": rows["lost_decode_s"],
    }


def means(parts: Parts) -> dict[str, float]:
    """The mean of every part in seconds; they sum to the mean E2EL. Zeros when nothing completed."""
    return {part: float(values.mean()) if values.size else 0.0 for part, values in parts.items()}


def largest(parts: Parts, among: Iterable[str]) -> Largest | None:
    """Which of some parts takes the most time over all requests: what binds. None where they take no time."""
    sums = {part: float(parts[part].sum()) for part in among}
    total = sum(sums.values())
    top = max(sums, key=lambda part: sums[part])
    return Largest(top, sums[top] / total) if total > 0 else None


@dataclass(frozen=True, slots=True)
class _Machine:
    """What the instances of a pool prefill with."""

    timer: StepTimer
    batching: Batching
    slow: int
    """Thousandths that its predictor adds to a chunk of a request that is alone."""


class _Machines:
    """The instances of a scenario, for work done alone."""

    def __init__(self, scenario: Scenario, names: list[str]) -> None:
        self._scenario = scenario
        pools = scenario.cluster.pools
        places = [place for place, pool in enumerate(pools) for _ in range(pool.instances)]
        self._pool_of = dict(zip(names, places, strict=False))
        self._timers: dict[tuple[str, int, int | None, PrecisionSpec | None], StepTimer] = {}

    def prefill_alone(self, rows: Columns) -> Floats:
        """Seconds of each request's prefill on the instance that did it."""
        seconds = np.zeros(len(rows["prompt_tokens"]))
        for pool, of_it in self._groups(rows["prefill_instance"]):
            machine = self._machine(pool)
            shapes = np.stack([rows["prompt_tokens"][of_it], rows["cached_tokens"][of_it]])
            unlike, where = np.unique(shapes, axis=1, return_inverse=True)
            ticks = [_prefill_ticks(machine, prompt, cached) for prompt, cached in unlike.T.tolist()]
            seconds[of_it] = np.array(ticks, dtype=float)[where.ravel()] / TICKS_PER_S
        return seconds

    def decode_alone(self, rows: Columns) -> Floats:
        """Seconds of each request's decode on the instance that did it."""
        seconds = np.zeros(len(rows["prompt_tokens"]))
        for pool, of_it in self._groups(rows["decode_instance"]):
            first = rows["prompt_tokens"][of_it]
            end = first + rows["output_tokens"][of_it] - 1
            low = int(first.min())
            spent = _decode_seconds(self._timer(pool), low, int(end.max()))
            steps = np.maximum(end - first, 1)
            share = 1 - rows["recomputations"][of_it] / steps
            seconds[of_it] = (spent[end - low] - spent[first - low]) * share
        return seconds

    def _groups(self, names: np.ndarray) -> Iterable[tuple[PoolSpec, np.ndarray]]:
        """Each pool with requests on its instances, and the places of those."""
        pools = np.array([self._pool_of.get(name, -1) for name in names.tolist()], dtype=np.int64)
        for place, pool in enumerate(self._scenario.cluster.pools):
            of_it = np.flatnonzero(pools == place)
            if of_it.size:
                yield pool, of_it

    def _machine(self, own: PoolSpec) -> _Machine:
        cluster, pool = self._scenario.cluster, own
        if own.role == "decode":  # the instance has changed its role
            pool = next(pool for pool in cluster.pools if pool.role == "prefill")
            pool = replace(pool, gpu=own.gpu, tensor_parallel=own.tensor_parallel)
        batching: Batching = find_policy("batching", pool.batching, "cluster.pools.batching")(pool)
        if isinstance(batching, TokenBudget) and batching.limits:
            batching = batching.unlimited
        predictor = Predictor(cluster.predict if pool.role == "prefill" else PredictorSpec())
        return _Machine(self._timer(own), batching, predictor.slows([]))

    def _timer(self, pool: PoolSpec) -> StepTimer:
        scenario = self._scenario
        key = (pool.gpu or scenario.cluster.gpu, pool.tensor_parallel, pool.split_above_tokens, pool.precision)
        if key not in self._timers:
            shard = Shard(load_model(scenario.model), load_gpu(key[0], "gpu"), scenario.dtype, pool.tensor_parallel)
            if pool.precision is not None:  # alone, a request of many bits takes no less than one of few
                self._timers[key] = WidthTimers(shard, pool.precision).high
            else:
                self._timers[key], _ = build_timer(shard, scenario.profile, "profile", pool.split_above_tokens)
        return self._timers[key]


def _prefill_ticks(machine: _Machine, prompt: int, cached: int) -> int:
    """Ticks of all chunks of a prompt that is alone, as chunks.py times them."""
    timer, batching, done, total = machine.timer, machine.batching, cached, 0
    while done < prompt:
        take = batching.prefill_tokens(prompt - done, 0)
        ticks = timer.prefill(max(take, batching.padded), 1, take, done)
        total += ticks + ticks * machine.slow // 1000
        done += take
    return total


def _decode_seconds(timer: StepTimer, low: int, high: int) -> Floats:
    """Entry i: seconds of the steps of a batch of one from a context of `low` tokens to one of low + i."""
    row = timer.decode_row(1)
    context = np.arange(low, high)
    at = np.searchsorted(np.array(row.knots), context, side="right") - 1
    table = np.array([(lower, base, slope) for lower, _, base, slope in row.segments], dtype=float)
    ticks = table[at, 1] + table[at, 2] * (context - table[at, 0])
    if timer.skewed:
        uneven = np.array(row.uneven, dtype=float)
        ticks += uneven[at, 0] + uneven[at, 1] * (context - table[at, 0])
    return np.concatenate([[0.0], np.cumsum(ticks / TICKS_PER_S)])
