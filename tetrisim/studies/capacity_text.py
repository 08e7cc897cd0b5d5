"""A capacity in sentences: the number, what binds, the load beside it, and the arithmetic."""

from collections import Counter
from collections.abc import Mapping
from math import inf

from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.capacity import TOLERANCE, Capacity
from tetrisim.studies.judge import Criterion, Probe
from tetrisim.studies.seeds import Estimate

ENOUGH_STAYS = 8
"""Arrivals should last so many mean stays of a request, or the run is mostly the filling of the cluster."""


def lines(found: Capacity) -> list[str]:
    """The answer, a sentence or two a line."""
    rate = found.rate
    if rate is None:
        return [_no_rate(found), _cliff(found, None), _rule(found)]
    said = [_answer(found, rate), _binds(found), _load(found, rate), _cliff(found, rate), _arithmetic(found, rate)]
    return [*said, *_warnings(found), _rule(found)]


def number(value: float) -> str:
    """Three significant digits, or all the whole ones."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{share * 100:.0f} %"


def seconds(value: float, digits: int = 3) -> str:
    """A time as it is read: below a second in ms."""
    if value == inf:
        return "endless"
    return f"{value * 1e3:.{digits}g} ms" if value < 1 else f"{value:.{digits}g} s"


def machines(scenario: Scenario) -> str:
    """GPUs by name, and instances by role where there are several."""
    cluster = scenario.cluster
    gpus, roles = Counter[str](), Counter[str]()
    for pool in cluster.pools:
        gpus[pool.gpu or cluster.gpu] += pool.instances * pool.tensor_parallel
        roles[pool.role] += pool.instances
    shared = "" if len(roles) == 1 else f" ({' + '.join(f'{count} {role}' for role, count in roles.items())})"
    return " + ".join(f"{count} {gpu}" for gpu, count in gpus.items()) + shared


def busy_text(busy: Mapping[str, float]) -> str:
    """How busy the instances of each role are."""
    return " and ".join(f"{role} instances are busy {percent(share)}" for role, share in busy.items())


def judged_text(criterion: Criterion) -> str:
    """Which requests are judged, and how those that were not served."""
    early = f"all but the first {criterion.warmup * 100:g} % of the requests" if criterion.warmup else "all requests"
    return f"Judged: {early}, an unserved one as a miss"


def slo_text(scenario: Scenario, criterion: Criterion) -> str:
    """What has to hold."""
    given = scenario.slo.limits
    if not given:
        return "no limit on latency"
    level = f"{criterion.percent:g}"
    if criterion.together:
        return f"{level} % of requests within " + " and ".join(f"{k} <= {seconds(v)}" for k, v in given.items())
    return " and ".join(f"p{level} {name} <= {seconds(limit)}" for name, limit in given.items())


def _between(rate: Estimate) -> str:
    return f"{number(max(0.0, rate.low))} to {number(rate.high)}"


def _answer(found: Capacity, rate: Estimate) -> str:
    what = f"95 % interval {_between(rate)}, {rate.seeds} seeds" if rate.seeds > 1 else "one seed, so no interval,"
    return (
        f"{found.scenario.system} on {machines(found.scenario)} sustains {number(rate.mean)} requests/s ({what} of "
        f"{found.requests} requests) with {slo_text(found.scenario, found.criterion)}."
    )


def _against(found: Capacity, run: Probe, name: str) -> str:
    """A metric's percentile beside its limit, or the share within all limits."""
    limit = seconds(found.scenario.slo.limits[name])
    if found.criterion.together:
        good, within = run.good * 100, run.within[name] * 100
        return f"{good:.2f} % of requests are within all limits ({within:.2f} % within {name} <= {limit})"
    return f"p{found.criterion.percent:g} {name} is {seconds(run.at[name], 4)} against {limit}"


def _binds(found: Capacity) -> str:
    binding, count = found.binding
    of = f" in {count} of {len(found.found)} seeds" if len(found.found) > 1 else ""
    one = next(each for each in found.found if each.binding(found.criterion) == binding)
    if one.met is None:
        return f"{binding} binds{of}: seed {one.seed} misses it at any rate."
    tail = f"At {number(one.met.rate_per_s)} requests/s {busy_text(one.met.busy)} of the time"
    tail += f", with {one.met.preemptions * 100:.2g} preemptions per 100 requests." if one.met.preemptions else "."
    if one.missed is None:
        return f"The backlog binds{of}: the SLO still holds at all that the cluster can finish. {tail}"
    others = [
        f"p{found.criterion.percent:g} {name} {seconds(value)} of {seconds(found.scenario.slo.limits[name])}"
        for name, value in one.missed.at.items()
        if name != binding
    ]
    beside = f" ({', '.join(others)})" if others else ""
    miss = f"{_against(found, one.missed, binding)} at {one.missed.rate_per_s:.4g} requests/s{beside}"
    return f"{binding} binds{of}: in seed {one.seed} {miss}. {tail}"


def _load(found: Capacity, rate: Estimate) -> str:
    load, share = found.load_per_s, found.load_per_s / rate.mean
    said = f"The scenario's load, {number(load)} requests/s, is {percent(share)} of that: "
    if share > 1:
        return f"{said}{number(load - rate.mean)} requests/s too many."
    sure = "" if load <= rate.low else ", though the interval reaches below it"
    return f"{said}it can grow by {number(rate.mean - load)} requests/s, {1 / share:.2f} times{sure}."


def _cliff(found: Capacity, rate: Estimate | None) -> str:
    cliff = found.cliff
    load = percent(found.load_per_s / cliff.mean)
    shares = f"the load is at {load} of it"
    if rate is not None:
        shares = f"the capacity is at {percent(rate.mean / cliff.mean)} of it, the load at {load}"
    over = f" ({_between(cliff)})" if cliff.seeds > 1 else ""
    return (
        f"The cliff is at {number(cliff.mean)} requests/s{over}: of more, evenly spaced, it finishes no more and the "
        f"backlog grows for as long as they come; {shares}."
    )


def _arithmetic(found: Capacity, rate: Estimate) -> str:
    a_gpu = rate.mean / found.gpus
    output = rate.mean * found.output_tokens
    price = found.dollars_per_hour / (output * 3600) * 1e6
    return (
        f"A GPU: {number(rate.mean)} / {found.gpus} = {number(a_gpu)} requests/s, times {number(found.prompt_tokens)} "
        f"prompt and {number(found.output_tokens)} output tokens = {number(a_gpu * found.prompt_tokens)} and "
        f"{number(a_gpu * found.output_tokens)} tokens/s. {found.dollars_per_hour:.2f} $/h / ({number(output)} output "
        f"tokens/s x 3600 s) = {price:.3g} $ per million output tokens, list price."
    )


def _no_rate(found: Capacity) -> str:
    criterion = found.criterion
    near = [each.missed for each in found.found if each.missed is not None]
    run = max(near, key=lambda each: each.share(criterion))
    name = run.missed(criterion)
    said = f"{_against(found, run, name)}"
    over = run.at[name] / found.scenario.slo.limits[name]
    if over < inf:
        said += f", {over:.2f} times the limit"
    if run.served < 1:
        said += f"; {(1 - run.served) * 100:.2f} % of the requests can never be served"
    return (
        f"{found.scenario.system} on {machines(found.scenario)} sustains no rate with "
        f"{slo_text(found.scenario, found.criterion)}. {name} binds; the nearest miss: "
        f"even at {number(run.rate_per_s)} requests/s, where a request is almost alone, {said}."
    )


def _warnings(found: Capacity) -> list[str]:
    said: list[str] = []
    none = sum(each.met is None for each in found.found)
    if none:
        said.append(f"In {none} of {len(found.found)} seeds no rate meets the SLO; they count as 0.")
    if found.fixed and len(found.found) > 1:
        said.append(
            "Every seed sees the same requests, so the interval leaves out the luck of what comes and when; with "
            "--set workload.arrivals=poisson each seed draws the gaps anew."
        )
    met = next((each.met for each in found.found if each.met is not None), None)
    if met is not None and met.span_s < ENOUGH_STAYS * met.stay_s:
        said.append(
            f"Arrivals last {number(met.span_s)} s at this rate and a request stays {number(met.stay_s)} s: too short "
            "for a steady state; take more requests."
        )
    return said


def _rule(found: Capacity) -> str:
    runs = sum(each.runs for each in found.found)
    return (
        f"{judged_text(found.criterion)}. Each seed's requests stay the same and their gaps are stretched; "
        f"bisection to {(TOLERANCE - 1) * 100:.0f} %. {runs} simulations in {found.wall_s:.1f} s."
    )
