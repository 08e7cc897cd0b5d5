"""A plan as plain values: a row a cluster, what was left out, and how sure the order is."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isfinite
from typing import Any

from tetrisim.studies.plan_record import Plan, Row, best_of_kinds
from tetrisim.studies.plan_search import Look, paired
from tetrisim.studies.plan_space import Family
from tetrisim.studies.seeds import estimate

_FINAL_RUN = (
    "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "median_tpot_ms", "p99_tpot_ms", "mean_e2el_ms",
    "p99_e2el_ms", "request_throughput", "output_throughput", "request_goodput", "completed", "submitted",
)  # fmt: skip
"""What `tetrisim run` on the scenario of a row says, too."""


def summary(found: Plan) -> dict[str, Any]:
    """The whole plan; times in ms, rates a second, null where a value does not exist."""
    front = pareto(found)
    task, goal = found.task, found.goal
    previous: Row | None = None
    rows: list[dict[str, Any]] = []
    for row in found.rows:
        rows.append({**_row(found, row), "pareto": row in front, "against_previous": against(found, previous, row)})
        previous = row
    kinds = best_of_kinds([*found.ranked, *(row for row in found.rows if row.meets and row.stage == "long")])
    apart = [against(found, *two) for two in pairwise([None, *kinds])]
    pruned = [
        {"name": each.name, "kind": each.kind, "reason": each.reason, "candidates": each.candidates}
        for each in found.left
    ]
    return {
        "kind": "plan",
        "goal": {"rate": goal.rate_per_s, "gpus": goal.gpus, "dollars_per_hour": goal.dollars_per_hour},
        "maximised": None if goal.rate_per_s is not None else "arrival rate under the SLO",
        "model": task.base.model,
        "slo_ms": {name: limit * 1e3 for name, limit in task.base.slo.limits.items()},
        "percent": task.criterion.percent,
        "together": task.criterion.together,
        "warmup": task.criterion.warmup,
        "requests": task.requests,
        "seeds": list(task.seeds),
        "most_gpus": found.most_gpus if goal.dollars_per_hour is None else None,
        "counts": {
            "candidates": found.candidates,
            "families": found.families,
            "simulated": found.simulated,
            "final": sum(row.stage == "final" for row in found.rows),
            "runs": found.runs,
            "pruned": pruned_by_kind(found),
        },
        "sampled": found.sampled,
        "answers": [row.candidate.name for row in found.answers],
        "kinds": [
            {"name": row.candidate.name, "against_previous": said} for row, said in zip(kinds, apart, strict=True)
        ],
        "candidates": rows,
        "pruned": pruned,
        "nearest_miss": None if found.answers else nearest(found),
        **shares(found),
        "wall_s": found.wall_s,
    }


def pruned_by_kind(found: Plan) -> dict[str, int]:
    """How many candidates each kind of reason ruled out before any run."""
    kinds: dict[str, int] = {}
    for each in found.left:
        kinds[each.kind] = kinds.get(each.kind, 0) + each.candidates
    return kinds


def _row(found: Plan, row: Row) -> dict[str, Any]:
    candidate, family = row.candidate, row.candidate.family
    numbers = measures(row)
    percentiles = {name: _mean(row.looks, lambda one, name=name: one.probe.at.get(name)) for name in ("TTFT", "TPOT")}
    sustained = None if row.capacity is None else row.capacity.rate
    return {
        "name": candidate.name,
        "rank": row.rank,
        "meets": row.meets,
        "stage": row.stage,
        "gpu": family.gpu,
        "system": family.system,
        "instances": sum(candidate.counts),
        "pools": [
            {"role": role, "instances": count, "tensor_parallel": family.tensor_parallel}
            for role, count in zip(family.roles, candidate.counts, strict=True)
        ],
        "caps": [{"role": role, "setting": key, "value": value} for role, key, value in family.caps],
        "tensor_parallel": family.tensor_parallel,
        "gpus": candidate.gpus,
        "dollars_per_hour": candidate.dollars_per_hour,
        **numbers,
        "rate": row.rate_per_s,
        "sustained": None if sustained is None else sustained.interval(),
        "ttft_ms": _ms(percentiles["TTFT"]),
        "tpot_ms": _ms(percentiles["TPOT"]),
        "share_within_less_asked": row.verdict.margin.interval(),
        "sure": row.verdict.sure,
        "share_of_limit": _finite(_mean(row.looks, lambda one: one.load(found.task.base))),
        "backlog": row.verdict.backlog,
        "seeds": len(row.looks),
        "requests": row.looks[0].requests,
        "final_run": {name: row.looks[0].summary[name] for name in _FINAL_RUN},
    }


def measures(row: Row) -> dict[str, float | None]:
    """Tokens, users, goodput and money at the row's rate, means over its runs.

    Output tokens a second are the rate times the mean output of what was served; a user's are 1 / median TPOT; goodput
    is the rate times the share within all limits.
    """
    served = [one for one in row.looks if one.summary["completed"]]
    if not served:
        names = ("dollars_per_million_tokens", "tokens_per_s_per_gpu", "tokens_per_s_per_user", "goodput")
        return dict.fromkeys(names)
    tokens = row.rate_per_s * sum(one.probe.served * output_tokens(one) for one in served) / len(row.looks)
    users = [1e3 / one.summary["median_tpot_ms"] for one in served if one.summary["median_tpot_ms"]]
    return {
        "dollars_per_million_tokens": row.candidate.dollars_per_hour / (tokens * 3600) * 1e6 if tokens else None,
        "tokens_per_s_per_gpu": tokens / row.candidate.gpus,
        "tokens_per_s_per_user": sum(users) / len(users) if users else None,
        "goodput": row.rate_per_s * sum(one.probe.good for one in row.looks) / len(row.looks),
    }


def output_tokens(one: Look) -> float:
    """Mean output tokens of the requests served in a run."""
    return one.summary["output_throughput"] * (one.summary["duration"] or 0.0) / one.summary["completed"]


def pareto(found: Plan) -> list[Row]:
    """Rows that meet the SLO in long runs and that none beats on tokens/s/gpu, tokens/s/user and $/M tokens."""
    points: list[tuple[Row, tuple[float, ...]]] = []
    for row in found.rows:
        numbers = measures(row)
        values = (numbers["tokens_per_s_per_gpu"], numbers["tokens_per_s_per_user"])
        price = numbers["dollars_per_million_tokens"]
        if row.meets and row.stage != "short" and None not in values and price is not None:
            points.append((row, (values[0] or 0.0, values[1] or 0.0, -price)))
    return [row for row, mine in points if not any(_beats(other, mine) for _, other in points)]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(mine >= yours for mine, yours in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def against(found: Plan, previous: Row | None, row: Row | None) -> dict[str, Any] | None:
    """What tells a ranked row from the one before: price, or a paired difference (95 % interval over seeds)."""
    if previous is None or row is None or row.rank is None or previous.rank is None:
        return None
    if row.capacity is not None and previous.capacity is not None:
        name = "requests/s sustained"
        values = [[each.capacity_per_s for each in one.capacity.found] for one in (row, previous) if one.capacity]
    elif row.candidate.dollars_per_hour > previous.candidate.dollars_per_hour + 1e-9:
        more = row.candidate.dollars_per_hour - previous.candidate.dollars_per_hour
        return {"by": "$/h", "difference": {"mean": more, "low": more, "high": more}, "shown": True}
    else:
        name, values = (
            "share of the limit",
            [[one.load(found.task.base) for one in each.looks] for each in (row, previous)],
        )
    between = paired(values[0], values[1])
    if between is None:
        return {"by": name, "difference": None, "shown": False}
    return {"by": name, "difference": between.interval(), "shown": between.low > 0 or between.high < 0}


def nearest(found: Plan) -> dict[str, Any]:
    """The cluster that came nearest, and what binds it."""
    if found.rows:
        row = max(
            found.rows, key=lambda each: sum(one.share(found.task.criterion) for one in each.looks) / len(each.looks)
        )
        one = row.looks[-1]
        metric = one.probe.missed(found.task.criterion) or "backlog"
        limit = found.task.base.slo.limits.get(metric)
        role = max(one.probe.busy, key=lambda each: one.probe.busy[each])
        return {
            "name": row.candidate.name, "metric": metric, "at_ms": _ms(one.probe.at.get(metric)),
            "limit_ms": None if limit is None else limit * 1e3, "rate": row.rate_per_s,
            "share_within": one.share(found.task.criterion), "binds": _binds(one, metric, role),
        }  # fmt: skip
    if not found.bounds:
        return {"name": None, "metric": None, "binds": "no such cluster is possible"}
    near = min(found.bounds, key=lambda family: (_over(found, family), family.dollars(1)))
    return {"name": near.name, "metric": found.bounds[near].kind or "GPUs", "binds": _resource(found, near)}


def _over(found: Plan, family: Family) -> float:
    """By how much a family that was not run misses: the ratio of what it needs to what there is."""
    limit, given = found.bounds[family], found.task.base.slo.limits
    if found.candidates and len(family.roles) * family.tensor_parallel > found.most_gpus:
        return 1e9  # not even one instance of each role
    if limit.kind == "memory":
        return 1e6 + max((bar.weights + bar.activations + bar.runtime) / bar.usable for bar in limit.bars)
    if limit.ruled_out:
        return 1e3 + max((floor / given[name] for name, floor in limit.floors.items()), default=0.0)
    return limit.together * family.tensor_parallel / found.most_gpus if found.candidates else family.dollars(1)


def _resource(found: Plan, family: Family) -> str:
    limit = found.bounds[family]
    if limit.ruled_out:
        return f"{'GPU memory' if limit.kind == 'memory' else 'the speed of one instance'}: {limit.ruled_out}"
    if not found.candidates:
        least = len(family.roles)
        return (
            f"the number of GPUs: the smallest cluster has {least * family.tensor_parallel}, at "
            f"{family.dollars(least):.2f} $/h"
        )
    reasons = [each.reason for each in found.left if each.name == family.name]
    return "; ".join(["the number of GPUs", *reasons])


def _binds(one: Look, metric: str, role: str) -> str:
    """The resource behind a miss."""
    busy = f"the {role} instances are busy {one.probe.busy[role] * 100:.0f} % of the time"
    if one.probe.preemptions > 0.05:
        return f"KV memory: {one.probe.preemptions * 100:.0f} preemptions per 100 requests; {busy}"
    if one.probe.busy[role] > 0.9 or one.probe.behind:
        return f"compute: {busy}"
    alone = {"TTFT": "prompts take long even without a queue", "TPOT": "steps take long even without a queue"}
    return f"the speed of one instance: {busy}, and {alone.get(metric, 'requests take long')}"


def shares(found: Plan) -> dict[str, Any]:
    """Where the step times of the ranked runs (of all, where none is ranked) come from."""
    looks = [one for row in found.ranked or found.rows for one in row.looks]
    totals = {
        name: sum(one.probe.time_shares[name] for one in looks) for name in ("measured", "interpolated", "estimated")
    }
    whole = sum(totals.values())
    lines = list(dict.fromkeys(line for one in looks for line in one.probe.provenance))
    return {
        **{f"{name}_share": value / whole if whole else None for name, value in totals.items()},
        "provenance": lines,
    }


def _mean(looks: Sequence[Look], value: Callable[[Look], float | None]) -> float | None:
    values = [each for each in map(value, looks) if each is not None]
    return float(estimate(values).mean) if values else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None or not isfinite(seconds) else seconds * 1e3
