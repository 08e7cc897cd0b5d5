"""A run is a function: scenario in, result out."""

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from tetrisim import streams
from tetrisim.assemble import Cluster, assemble
from tetrisim.cluster.clock import ticks
from tetrisim.cluster.request import NEVER, Request
from tetrisim.cluster.sessions import as_turns
from tetrisim.cluster.steplog import StepLog
from tetrisim.errors import ProfileError, ScenarioError
from tetrisim.policies.registry import find_policy
from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.workload import SESSIONS
from tetrisim.units import TICKS_PER_S
from tetrisim.workload.classes import draw_classes
from tetrisim.workload.trace import Trace, build

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class Result:
    """What a run leaves behind: rows of facts, from which every metric is computed afterwards.

    `request_columns`: one entry a request in order of arrival; times in seconds, NaN where the request never got so
    far; `status` is completed, rejected or unfinished; `cached_tokens` is what the prefill found in the prefix cache;
    `lost_prefill_s` and `lost_decode_s` are what preemptions (and the stops of moves) cost before and after the first
    token, `recomputations` the tokens that came with a recomputation; instances are named role-index ("" where there
    was none); `class` is there where the workload has classes.
    `instance_columns`: instance, role, gpu, gpus, first_work_s, last_work_s (NaN when it never worked), off_s (between
    the two, removed by the planner), busy_s, steps,
    flips, kv_blocks, weight_bits (mean over the tokens decoded at few bits, NaN where weights are whole).
    `gap_columns`: the gaps between tokens, as runs of steps: `first_s` and `slope_s` (gap j is first + slope * j, j
    from 0), `steps`, and `weight`, the number of sequences that waited that gap.
    `flip_columns`: one entry a change of role: instance, role (the new one), drain_s (from then on it was given nothing
    new), flip_s, ready_s.
    `move_columns`: one entry a move of a running request: request_id, source, target, start_s, stop_s (from then on it
    was not decoded; NaN: it was), end_s, stages, tokens (copied), outcome (moved, or why it was called off).
    `time_shares`: seconds of step time by source: measured, interpolated, estimated.
    `provenance`: one line for each latency table used.
    """

    scenario: Scenario
    request_columns: Columns
    instance_columns: Columns
    gap_columns: Columns
    flip_columns: Columns
    time_shares: dict[str, float]
    provenance: tuple[str, ...]
    simulated_s: float
    wall_s: float
    move_columns: Columns = field(default_factory=dict[str, np.ndarray])

    @cached_property
    def requests(self) -> "pd.DataFrame":
        """A row a request."""
        import pandas as pd

        return pd.DataFrame(self.request_columns)

    @cached_property
    def instances(self) -> "pd.DataFrame":
        """A row an instance."""
        import pandas as pd

        return pd.DataFrame(self.instance_columns)


def simulate(
    scenario: Scenario,
    exact_steps: bool = False,
    strict: bool = False,
    trace: Trace | None = None,
    log: StepLog | None = None,
) -> Result:
    """Run a scenario to its end (or horizon). Nothing outside the scenario's own files has a say in the result.

    `exact_steps` turns windows off (design, section 4): the same rows, one event a step. `strict` refuses step times
    that were not measured (ProfileError). `trace` replaces the requests of the scenario's workload. Every step is
    entered in `log`, for which windows are off, too.
    """
    trace = build(scenario.workload, scenario.seed) if trace is None else trace
    if log is None:
        cluster = assemble(scenario, exact_steps, trace.hash_block_tokens)
    else:
        cluster = assemble(scenario, True, trace.hash_block_tokens, log.instance)
    if strict and not cluster.machines.measured:
        raise ProfileError(
            "profile", "step times are estimated: " + "; ".join(cluster.provenance), "a measured profile"
        )
    until = inf if scenario.horizon_s is None else ticks(scenario.horizon_s)
    wall_s = _run(scenario, cluster, _requests(scenario, trace, cluster))
    shares = cluster.time_shares()
    names = [instance.name for instance in cluster.instances]
    if strict and shares["estimated"] > 0:
        share = shares["estimated"] / sum(shares.values())
        raise ProfileError("profile", f"{share:.2%} of the step time lies outside the measured tables", "none of it")
    return Result(
        scenario=scenario,
        request_columns=_request_columns(scenario, cluster.recorder.request_columns(names, until)),
        instance_columns=cluster.instance_columns(),
        gap_columns=cluster.recorder.gap_columns(),
        flip_columns=cluster.recorder.flip_columns(names),
        move_columns=cluster.recorder.move_columns(names),
        time_shares=shares,
        provenance=cluster.provenance,
        simulated_s=_end(scenario, cluster),
        wall_s=wall_s,
    )


def _run(scenario: Scenario, cluster: Cluster, requests: Iterator[Request]) -> float:
    """Run the clock; returns the seconds that took, without the making of the requests.

    Nothing here makes reference cycles worth collecting, so the collector is kept from looking.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        cluster.recorder.requests.extend(requests)
        started = time.perf_counter()
        workload = scenario.workload
        if workload.concurrency is None:
            cluster.scheduler.start()
        else:
            cluster.scheduler.start_loop(workload.concurrency, ticks(workload.think_s))
        cluster.env.run(None if scenario.horizon_s is None else ticks(scenario.horizon_s))
        for instance in cluster.instances:
            instance.settle(cluster.env.now)
        return time.perf_counter() - started
    finally:
        if collecting:
            gc.enable()


def _end(scenario: Scenario, cluster: Cluster) -> float:
    """The horizon, or the moment of the last step or arrival; the monitor's own events do not count."""
    if scenario.horizon_s is not None:
        return scenario.horizon_s
    last_arrival = cluster.recorder.requests[-1].arrival
    return max(last_arrival, *(instance.last_work for instance in cluster.instances)) / TICKS_PER_S


def _requests(scenario: Scenario, trace: Trace, cluster: Cluster) -> Iterator[Request]:
    """The workload as requests with their predictions; those that no instance can ever hold are marked rejected."""
    spec = scenario.cluster.predict
    predict = find_policy("predict", spec.policy, "cluster.predict.policy")
    predicted = predict(trace.output_tokens, spec, streams.stream(scenario.seed, "prediction"))
    machines = cluster.machines
    refused = machines.refuses(trace.prompt_tokens, trace.output_tokens)
    if refused.all():
        longest = int(trace.prompt_tokens.max() + trace.output_tokens.max())
        raise ScenarioError("workload.trace", f"no request of {trace.name} can ever be served (up to {longest} tokens)",
                            f"requests of at most {machines.most_tokens} tokens: {machines.limit}")  # fmt: skip
    requests = _generate(trace, predicted, refused, scenario.cluster.place.heavy_tokens)
    if (trace.turns is not None) != (scenario.workload.trace == SESSIONS):
        raise ScenarioError("workload.trace", f"the requests given are not of '{scenario.workload.trace}'",
                            f"turns of sessions with '{SESSIONS}', and no others")  # fmt: skip
    if trace.turns is not None:
        requests = as_turns(requests, trace.turns)
    if scenario.workload.classes:
        requests = _classed(requests, scenario, len(trace))
    return requests if scenario.workload.concurrency is None else _not_yet(requests)


def _classed(requests: Iterator[Request], scenario: Scenario, count: int) -> Iterator[Request]:
    classes = scenario.workload.classes
    for request, place in zip(requests, draw_classes(classes, count, scenario.seed).tolist(), strict=True):
        request.priority = classes[place].priority
        yield request


def _request_columns(scenario: Scenario, columns: Columns) -> Columns:
    """The rows, with the class of each request where the workload has classes."""
    classes = scenario.workload.classes
    if not classes:
        return columns
    names = np.array([each.name for each in classes], dtype=object)
    return {**columns, "class": names[draw_classes(classes, len(columns["status"]), scenario.seed)]}


def _not_yet(requests: Iterator[Request]) -> Iterator[Request]:
    """Requests of a closed loop: when they come is for the run to say."""
    for request in requests:
        request.arrival = NEVER
        yield request


def _generate(trace: Trace, predicted: np.ndarray, refused: np.ndarray, heavy_tokens: int) -> Iterator[Request]:
    arrivals = [ticks(at) for at in trace.arrival_s.tolist()]
    columns = (arrivals, trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), predicted.tolist())
    hash_ids, rejected = trace.hash_ids, refused.tolist()
    for number, (arrival, prompt, output, guess) in enumerate(zip(*columns, strict=True)):
        request = Request(number, arrival, prompt, output, guess)
        request.heavy = guess >= heavy_tokens
        request.rejected = rejected[number]
        if hash_ids is not None:
            request.hash_ids = hash_ids[number]
        yield request
