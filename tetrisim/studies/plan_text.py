"""A plan in sentences: the answer, the arithmetic behind it, what was left out and why."""

from collections.abc import Iterator
from itertools import pairwise

from tetrisim.scenario.gpu import load_gpu
from tetrisim.studies.capacity_text import ENOUGH_STAYS, judged_text, number, seconds, slo_text
from tetrisim.studies.plan_bound import memory_bars
from tetrisim.studies.plan_cheapest import FAR
from tetrisim.studies.plan_record import Plan, Row, best_of_kinds
from tetrisim.studies.plan_rows import against, measures, nearest, pruned_by_kind

WHY = {
    "memory": "the model or its requests do not fit the memory",
    "TTFT floor": "one prompt alone takes longer than the TTFT limit",
    "TPOT floor": "one step alone takes longer than the TPOT limit",
    "E2EL floor": "one request alone takes longer than the E2EL limit",
    "floor": "too many requests miss a limit even alone",
    "throughput": "the rate is more work than they can do at the speed of light",
    "fewer than one that misses": "fewer instances than a cluster that misses",
    "price": f"as dear as a smaller one that may do, or more than {FAR:g} times the cheapest",
    "not sampled": "not proposed by optuna",
}
"""Kinds of reasons in words."""


def lines(found: Plan) -> list[str]:
    """The answer, then where it comes from."""
    last = [*_left_out(found), *_counts(found), _rule(found)]
    if not found.answers:
        return [_nothing(found), *last]
    best = found.answers[0]
    return [_answer(found, best), *_others(found), *arithmetic(found, best), *_warnings(found, best), *last]


def _answer(found: Plan, best: Row) -> str:
    name, price = best.candidate.name, f"{best.candidate.dollars_per_hour:.2f} $/h"
    goal, seeds, slo = found.goal, len(found.task.seeds), slo_text(found.task.base, found.task.criterion)
    if goal.rate_per_s is not None:
        sure = "" if best.verdict.sure else ", though the interval over seeds leaves a doubt"
        return (
            f"Cheapest for {number(goal.rate_per_s)} requests/s with {slo}: {name}, {price} "
            f"({seeds} seeds of {found.task.requests} requests{sure})."
        )
    bought = f"{goal.gpus} GPUs" if goal.gpus is not None else f"{goal.dollars_per_hour:g} $/h"
    rate = best.capacity.rate if best.capacity is not None else None
    assert rate is not None, "an answer sustains a rate"
    return (
        f"Most for {bought}, that is the highest arrival rate with {slo}: {name}, {price}, sustains "
        f"{number(rate.mean)} requests/s (95 % interval {number(max(0.0, rate.low))} to {number(rate.high)}, {seeds} "
        f"seeds). Its scenario runs at {number(best.rate_per_s)} requests/s, which every seed meets."
    )


def _others(found: Plan) -> Iterator[str]:
    """How sure the order is, and what else would do."""
    ranked = found.ranked
    level = sum(said is not None and not said["shown"] for said in (against(found, *two) for two in pairwise(ranked)))
    others = len(ranked) - len(best_of_kinds(ranked))
    if others:
        yield f"{others} more, which differ from these in batch caps or instances, are ranked, too: see --json."
    if level:
        yield f"Of {len(ranked) - 1} pairs of neighbours in rank, {level} show no difference over the seeds."
    doubtful = [str(row.rank) for row in ranked if not row.verdict.sure]
    if doubtful and found.goal.rate_per_s is not None:
        yield "On the edge of the SLO (the 95 % interval holds the share asked for): rank " + ", ".join(doubtful) + "."


def arithmetic(found: Plan, row: Row) -> Iterator[str]:
    """The sums behind a row: tokens and money, work, and memory."""
    candidate, family, numbers = row.candidate, row.candidate.family, measures(row)
    a_gpu, price = numbers["tokens_per_s_per_gpu"] or 0.0, numbers["dollars_per_million_tokens"] or 0.0
    tokens = a_gpu * candidate.gpus
    list_price = load_gpu(family.gpu).price_per_hour
    yield (
        f"{candidate.gpus} {family.gpu} x {list_price:.2f} $/h = {candidate.dollars_per_hour:.2f} $/h, list price. "
        f"{number(row.rate_per_s)} requests/s x {number(tokens / row.rate_per_s)} output tokens = {number(tokens)} "
        f"tokens/s, / {candidate.gpus} GPUs = {number(a_gpu)} tokens/s/gpu; {candidate.dollars_per_hour:.2f} $/h / "
        f"({number(tokens)} x 3600) = {price:.3g} $ per million output tokens."
    )
    limit = found.bounds[family]
    if found.goal.rate_per_s is not None:
        has = " + ".join(f"{count} {role}" for role, count in zip(family.roles, candidate.counts, strict=True))
        yield (
            f"At the speed of light {number(row.rate_per_s)} requests/s are the work of {limit.together:.2f} "
            f"instances; "
            f"the {has} are busy {_busy(row)} of the time. TTFT and TPOT cannot be below "
            f"{_floors(found, limit.floors)}."
        )
    gib = 2.0**30
    for pool, bar in zip(found.scenario_of(row).cluster.pools, memory_bars(found.scenario_of(row)), strict=True):
        yield (
            f"Memory of a {pool.role} GPU: {bar.weights / gib:.1f} weights + {bar.activations / gib:.1f} activations + "
            f"{bar.runtime / gib:.2f} runtime + {bar.kv / gib:.1f} KV ({bar.blocks} blocks of {pool.block_tokens} "
            f"tokens) of {bar.usable / gib:.1f} GiB usable."
        )


def _busy(row: Row) -> str:
    busy = row.looks[0].probe.busy
    return " and ".join(f"{share * 100:.0f} %" for share in busy.values())


def _floors(found: Plan, floors: dict[str, float]) -> str:
    percent = f"{found.task.criterion.percent:g}"
    return " and ".join(f"{seconds(value)} at p{percent}" for name, value in floors.items() if name != "E2EL") or "0"


def _nothing(found: Plan) -> str:
    goal, near = found.goal, nearest(found)
    if goal.rate_per_s is not None:
        what = f"No cluster of up to {found.most_gpus} GPUs serves {number(goal.rate_per_s)} requests/s"
    elif goal.gpus is not None:
        what = f"No cluster of {goal.gpus} GPUs serves any rate"
    else:
        what = f"No cluster for {goal.dollars_per_hour:g} $/h serves any rate"
    said = f"{what} with {slo_text(found.task.base, found.task.criterion)}."
    if near["name"] is None:
        return f"{said} Binding: {near['binds']}."
    miss = ""
    if near.get("at_ms") is not None and near.get("limit_ms") is not None:
        miss = f", {near['metric']} {number(near['at_ms'])} ms of {number(near['limit_ms'])} ms"
        miss += f" at {number(near['rate'])} requests/s"
    return f"{said} Nearest miss: {near['name']}{miss}. Binding: {near['binds']}."


def _counts(found: Plan) -> Iterator[str]:
    kinds = {kind: count for kind, count in pruned_by_kind(found).items() if count}
    why = "; ".join(f"{count} {WHY[kind]}" for kind, count in sorted(kinds.items(), key=lambda item: -item[1]))
    final = sum(row.stage == "final" for row in found.rows)
    yield (
        f"{found.candidates} candidate clusters in {found.families} families (GPU, system, tensor parallelism, batch "
        f"caps); {found.simulated} simulated, {final} of them to the end: {found.runs} runs in {found.wall_s:.1f} s."
        + (f" Not simulated: {why}." if why else "")
    )
    impossible = [each for each in found.left if each.kind == "impossible"]
    if impossible:
        first = f"{impossible[0].name}: {impossible[0].reason}"
        yield f"Not possible: {first}" + (f" (and {len(impossible) - 1} more)." if len(impossible) > 1 else ".")
    if found.sampled:
        yield "Too many families to look at each: optuna's TPE proposed those looked at; there may be a better one."


def _warnings(found: Plan, best: Row) -> Iterator[str]:
    probe = best.looks[0].probe
    if probe.span_s < ENOUGH_STAYS * probe.stay_s:
        yield (
            f"Arrivals last {number(probe.span_s)} s and a request stays {number(probe.stay_s)} s: too short for a "
            "steady state; take more requests."
        )


def _left_out(found: Plan) -> Iterator[str]:
    if any(pool.kv_blocks is not None for pool in found.task.base.cluster.pools):
        yield "The scenario's kv_blocks are not taken over: each candidate has the blocks that its GPU's memory holds."


def _rule(found: Plan) -> str:
    return (
        f"{judged_text(found.task.criterion)}; all clusters see the same requests under the same seed. It is "
        "taken for granted that fewer instances do no better. Output tokens/s are the rate times the mean output; "
        "tokens/s/user is 1 / median TPOT."
    )
