"""A measured run's requests through a scenario's system, and what the two runs have in common."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tetrisim.errors import TetrisimError
from tetrisim.scenario.load import override
from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.workload import WorkloadSpec
from tetrisim.simulate import Columns, Result, simulate
from tetrisim.validation.measured import Measured
from tetrisim.workload.trace import build

HashIds = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Replay:
    """A simulated run beside the measured one, request by request in the same order.

    `rows` are the simulated rows on the measured clock; `compared` says which requests came to their last token on both
    sides: every metric of either side is of these.
    """

    measured: Measured
    result: Result
    rows: Columns
    compared: NDArray[np.bool_]
    notes: tuple[str, ...]

    def of_measured(self) -> Columns:
        """The measured rows that are compared."""
        return {name: column[self.compared] for name, column in self.measured.columns.items()}

    def of_simulated(self) -> Columns:
        """The simulated rows that are compared."""
        return {name: column[self.compared] for name, column in self.rows.items()}


def replay(scenario: Scenario, measured: Measured) -> Replay:
    """Send the measured requests, at their measured moments, through the scenario; nothing else is taken from them."""
    ids, block, notes = hash_ids(scenario, measured)
    notes += mismatches(scenario, measured)
    held = replace(scenario, workload=WorkloadSpec(trace=str(measured.path)), horizon_s=None)
    result = simulate(held, trace=measured.trace(ids, block))
    start = measured.arrival_s[0]
    rows = {name: column + start if name.endswith("_s") else column for name, column in result.request_columns.items()}
    served = rows["status"] == "completed"
    if not served.all():
        names = ", ".join(map(str, measured.number[~served][:5]))
        notes.append(f"{int((~served).sum())} requests ({names}) rejected by the simulator, and so in no metric")
    return Replay(measured, result, rows, measured.finished & served, tuple(notes))


def hash_ids(scenario: Scenario, measured: Measured) -> tuple[HashIds | None, int | None, list[str]]:
    """What the prompts share: recorded, or from the scenario's trace when that has the same requests."""
    if not any(pool.prefix_caching for pool in scenario.cluster.pools):
        on = measured.settings.get("prefix_caching")
        return None, None, ["prefix caching is off in the scenario and was on in the run"] if on else []
    if measured.hash_ids is not None:
        block = int(measured.settings["block_tokens"])
        return measured.hash_ids, block, [f"prefix hits: modelled, with the recorded hash ids ({block}-token blocks)"]
    lost = "prefix hits are not modelled, so where the run had hits its prefills are shorter than ours"
    try:
        trace = build(scenario.workload, scenario.seed)
    except TetrisimError as error:
        return None, None, [f"{lost} (the scenario's trace cannot be used: {error})"]
    if trace.hash_ids is None:
        return None, None, [f"{lost} (neither the record nor the scenario's trace {trace.name} has hash ids)"]
    number = measured.number
    same = bool((number >= 0).all() and (number < len(trace)).all()) and bool(
        (trace.prompt_tokens[number] == measured.prompt_tokens).all()
        and (trace.output_tokens[number] == measured.output_tokens).all()
    )
    if not same:
        return None, None, [f"{lost} (the scenario's trace {trace.name} has other lengths)"]
    ids = tuple(trace.hash_ids[place] for place in number.tolist())
    return ids, trace.hash_block_tokens, [f"prefix hits: modelled, with the hash ids of {trace.name} (same lengths)"]


def mismatches(scenario: Scenario, measured: Measured) -> list[str]:
    """Settings that the record gives and the scenario has otherwise."""
    notes: list[str] = []
    for index, pool in enumerate(scenario.cluster.pools):
        for name in ("max_num_seqs", "max_num_batched_tokens", "tensor_parallel", "block_tokens", "async_scheduling"):
            recorded, ours = measured.settings.get(name), getattr(pool, name)
            if recorded is not None and recorded != ours:
                notes.append(f"cluster.pools.{index}.{name} is {ours} in the scenario, {recorded} in the run")
    return notes


def with_recorded_blocks(scenario: Scenario, measured: Measured) -> Scenario | None:
    """The scenario with the KV blocks that the record gives; None where it gives none, or there is more than a pool."""
    blocks = measured.settings.get("kv_blocks")
    if blocks is None or len(scenario.cluster.pools) > 1:
        return None
    return override(scenario, {"cluster.pools.0.kv_blocks": blocks})
