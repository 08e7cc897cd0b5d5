"""Recorded steps of a real engine against the simulator's scheduler, batch by batch.

A case is a folder of config.json, requests.jsonl.gz and iterations.jsonl.gz (plain .jsonl will do), as vLLM's V1 engine
was recorded for it. The simulated engine gets each request when the record says that it was handed over, and plans a
step whenever the record says that one was planned. What each step holds, who was preempted for it and, where recorded,
the KV blocks have to be the same. Durations are not used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tetrisim.cluster.engine import Engine, Piece
from tetrisim.cluster.kvcache import KVCache, PrefixCache
from tetrisim.cluster.queue import WaitingQueue
from tetrisim.cluster.request import NEVER, Request
from tetrisim.errors import TraceError
from tetrisim.policies.admission import greedy
from tetrisim.policies.batching import TokenBudget
from tetrisim.scenario.cluster import PoolSpec
from tetrisim.validation.case import Row, read_case

Entry = list[int]
"""A request's part in a step: its number, the tokens computed before, the tokens computed now."""


@dataclass(frozen=True, slots=True)
class CaseReport:
    """How far one case was the same; `difference` describes the first step that was not, None if all were."""

    case: str
    steps: int
    equal: int
    difference: Row | None = None


@dataclass(frozen=True, slots=True)
class StepsReport:
    """All cases of a folder. A case ends with its first difference: all that follows would only follow from it."""

    cases: tuple[CaseReport, ...] = field(default_factory=tuple)

    @property
    def steps(self) -> int:
        """Recorded steps."""
        return sum(case.steps for case in self.cases)

    @property
    def equal(self) -> int:
        """Steps that were the same, up to the first difference of each case."""
        return sum(case.equal for case in self.cases)

    def summary(self) -> dict[str, Any]:
        """JSON-ready: the totals, and for each case its steps, the equal ones, and its first difference in full."""
        cases = [{"case": case.case, "steps": case.steps, "equal_steps": case.equal,
                  "first_difference": case.difference} for case in self.cases]  # fmt: skip
        return {"cases": len(cases), "steps": self.steps, "equal_steps": self.equal, "by_case": cases}

    def lines(self) -> list[str]:
        """For the terminal: a line for each case, its first difference below it, and the totals."""
        lines: list[str] = []
        for case in self.cases:
            lines.append(f"{case.case}: {case.equal} of {case.steps} steps equal")
            if case.difference:
                lines.append(f"  first difference in {case.difference['where']}, step {case.difference['i']}")
                for key, values in case.difference["differs"].items():
                    lines += [
                        f"    {key}: recorded  {values['recorded']}",
                        f"    {key}: simulated {values['simulated']}",
                    ]
        whole = sum(case.difference is None for case in self.cases)
        share = 100 * self.equal / self.steps if self.steps else 0.0
        lines.append(
            f"{self.equal} of {self.steps} steps equal ({share:.2f} %), {whole} of {len(self.cases)} cases whole"
        )
        return lines


def check_steps(folder: Path) -> StepsReport:
    """Check one case, or each case in a folder of cases; TraceError with file and line if a record cannot be used."""
    if (folder / "config.json").is_file():
        return StepsReport((check_case(folder),))
    if not folder.is_dir():
        raise TraceError(str(folder), "there is no such folder", "a recorded case, or a folder of cases")
    cases = [entry for entry in sorted(folder.iterdir()) if (entry / "config.json").is_file()]
    if not cases:
        raise TraceError(
            str(folder), "no config.json in it or one folder below", "a recorded case, or a folder of cases"
        )
    return StepsReport(tuple(check_case(case) for case in cases))


def check_case(folder: Path) -> CaseReport:
    """Replay one recorded case."""
    case = read_case(folder)
    engine = engine_of(case.config, str(folder / "config.json"))
    coming = list(reversed(case.requests))
    for count, row in enumerate(case.iterations):
        while coming and coming[-1]["submit_s"] <= row["start_s"]:
            engine.push(_request(coming.pop()))
        batch, pieces = plan_step(engine)
        preempted = [request.id for request in engine.preempted]
        engine.let_go()
        if differs := _differences(row, batch, preempted, engine):
            difference = {"where": case.where(count), "i": row["i"], "start_s": row["start_s"], "differs": differs}
            return CaseReport(case.name, len(case.iterations), count, difference)
        complete_step(engine, pieces)
    return CaseReport(case.name, len(case.iterations), len(case.iterations))


def engine_of(config: Row, where: str) -> Engine:
    """The engine that a case's config.json describes; one of its blocks is vLLM's null block."""
    budget, block = config["max_num_batched_tokens"], config["block_size"]
    try:
        pool = PoolSpec(role="hybrid", max_num_seqs=config["max_num_seqs"], max_num_batched_tokens=budget,
                        block_tokens=block, async_scheduling=config["async_scheduling"])  # fmt: skip
    except ValueError as problem:
        raise TraceError(where, str(problem)) from None
    blocks, reserve = config["num_gpu_blocks"] - 1, int(config["watermark"] * config["num_gpu_blocks"])
    prefix = config["enable_prefix_caching"]
    kv = PrefixCache(blocks, block, reserve, block) if prefix else KVCache(blocks, block, reserve)
    limit = config["long_prefill_token_threshold"] or budget
    batching = TokenBudget(budget, limit, chunked=config["chunked_prefill"])
    engine = Engine(pool, kv, batching, WaitingQueue(None, 1), greedy)
    engine.whole_prompts_fit = config["scheduler_reserve_full_isl"]
    return engine


def plan_step(engine: Engine) -> tuple[list[Entry], list[Piece]]:
    """Let the engine plan a step: its entries in running order, and its prefill pieces."""
    pieces = engine.plan()
    decodes = [request for request in engine.running if request.finish_step != NEVER]
    if decodes and not pieces and not engine.grown:  # the batch decodes by itself: take one step of its window
        engine.kv.grow(engine.batch, engine.running, 1)
        engine.grown = True
    tokens = {request: (request.base + engine.batch.step_no, 1) for request in decodes if engine.grown}
    tokens |= {request: (request.computed, take) for request, take in pieces}
    return [[request.id, *tokens[request]] for request in engine.running if request in tokens], pieces


def complete_step(engine: Engine, pieces: list[Piece]) -> None:
    """Let the planned step end: each finished prefill shows a token, and those that are done leave in running order."""
    prefilled = engine.complete(pieces)
    done = engine.batch.finished()
    for request in prefilled:
        request.generated += 1
        if request.generated == request.output:
            done.append(request)
        else:
            engine.start_decode(request)
    for request in sorted(done, key=lambda one: one.sequence):
        if request.finish_step == NEVER:
            engine.finish(request, request.target)
        else:
            engine.finish(request, engine.batch.leave(request))


def _request(row: Row) -> Request:
    request = Request(row["request_id"], 0, row["input_length"], row["output_length"], 0)
    request.hash_ids = row.get("hash_ids", ())
    return request


def _differences(row: Row, batch: Sequence[Entry], preempted: list[int], engine: Engine) -> Row:
    """What was recorded and what we did, of each recorded kind that is not the same."""
    ours: Row = {"batch": batch, "preempted": preempted}
    if "blocks" in row:
        running = {request.id: request for request in engine.running}
        ours["blocks"] = [engine.kv.held(running[number], before + now) for number, before, now in batch]
    if "free_blocks" in row:
        ours["free_blocks"] = engine.kv.free
    return {key: {"recorded": row[key], "simulated": did} for key, did in ours.items() if row[key] != did}
