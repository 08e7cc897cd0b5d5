"""Advice in sentences around a table: whether the SLO is met, what binds, what each change does, and the cheapest."""

from collections.abc import Sequence
from math import inf

from tetrisim.metrics.breakdown import PARTS
from tetrisim.scenario.gpu import dollars_per_hour
from tetrisim.studies.advice import Advice, Row
from tetrisim.studies.capacity_text import busy_text, judged_text, machines, percent, seconds, slo_text
from tetrisim.studies.judge import mean_busy
from tetrisim.studies.seeds import Estimate, estimate

NOT_SHOWN = "no difference shown"
OTHER_SOURCE = 0.1
"""Rows whose estimated share of step time differs by more than this are marked."""


def lines(found: Advice) -> list[str]:
    """The answer, a sentence or two a line, with a table among them."""
    said = [_answer(found), _binds(found), "", *table(found), ""]
    said += [_saving(found)] if found.met else [_fix(found), *_others(found)]
    return [*said, *_unshown(found), *_refused(found), *_warnings(found), _rule(found)]


def table(found: Advice) -> list[str]:
    """A row a change: differences from the scenario as it is, paired, with their 95 % intervals."""
    level = f"p{found.criterion.percent:g} {found.binding}"
    heading = ("change", f"{level} ms", "within %", "meets", "$/h", "to reproduce")
    rows = [heading, _row_as_it_is(found), *(_row(found, row) for row in (*found.rows, *found.pairs))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heading) - 1)]
    aligned = [
        "  ".join(
            [row[0].ljust(widths[0]), *(row[c].rjust(widths[c]) for c in range(1, len(widths))), row[-1]]
        ).rstrip()
        for row in rows
    ]
    return [aligned[0], "─" * len(aligned[0]), *aligned[1:]]


def _row_as_it_is(found: Advice) -> tuple[str, ...]:
    base, price = found.base, dollars_per_hour(found.scenario.cluster)
    latency = "endless" if inf in base.latencies_s else _plus_minus(estimate(base.latencies_s), 1e3)
    return (base.change.name, latency, _plus_minus(base.share, 100), _meets(found, base), f"{price:.2f}", "")


def _row(found: Advice, row: Row) -> tuple[str, ...]:
    latency, extra = row.latency_difference(found.base), row.extra_per_hour
    return (
        row.change.name + (" *" if _other_source(found, row) else ""),
        ("endless" if inf in row.latencies_s else "-") if latency is None else _difference(latency, 1e3),
        _difference(row.share_difference(found.base), 100),
        _meets(found, row),
        "unlisted" if extra is None else f"{extra:+.2f}",
        row.change.flags,
    )


def _meets(found: Advice, row: Row) -> str:
    if row.meets == "unsure":
        return f"{row.seeds_met} of {len(row.probes)}"
    other = row.meets == "no" and row.worst != found.binding
    return f"{row.worst} no" if other else row.meets


def _plus_minus(found: Estimate, times: float) -> str:
    return (
        f"{_three(found.mean * times)} ±{_three(found.half * times)}" if found.seeds > 1 else _three(found.mean * times)
    )


def _difference(found: Estimate, times: float) -> str:
    mean, low, high = (_signed(value * times) for value in (found.mean, found.low, found.high))
    return f"{mean} ({low} to {high})" if found.seeds > 1 else mean


def _signed(value: float) -> str:
    return ("-" if value < 0 else "+") + _three(abs(value))


def _three(value: float) -> str:
    """Three significant digits or all the whole ones, and no more than two decimals."""
    digits = next((digits for digits in (2, 1) if abs(round(value, digits)) < 10 ** (3 - digits)), 0)
    return f"{value:.{digits}f}"


def _answer(found: Advice) -> str:
    base, seeds = found.base, len(found.base.probes)
    verb = {"yes": "meets", "no": "misses", "unsure": "may or may not meet"}[base.meets]
    share = base.share
    low, high = max(0.0, share.low) * 100, min(1.0, share.high) * 100
    interval = f", 95 % interval {low:.2f} to {high:.2f}" if seeds > 1 else ""
    which = "all limits" if found.criterion.together else "the limit that the most miss"
    return (
        f"{found.scenario.system} on {machines(found.scenario)} {verb} its SLO, "
        f"{slo_text(found.scenario, found.criterion)}: {share.mean * 100:.2f} % of requests are within "
        f"{which}{interval}; met in {base.seeds_met} of {seeds} seed{'s' * (seeds > 1)}."
    )


def _binds(found: Advice) -> str:
    limit, base = found.scenario.slo.limits[found.binding], found.base
    level = f"p{found.criterion.percent:g} {found.binding}"
    if inf in base.latencies_s:
        said = f"{found.binding} binds: at p{found.criterion.percent:g} some requests are not served at all."
    else:
        mean = estimate(base.latencies_s).mean
        verb = "is nearest its limit" if found.met else "binds"
        over = f"{percent(mean / limit)} of it" if mean < limit else f"{mean / limit:.2f} times as long"
        said = f"{found.binding} {verb}: {level} is {seconds(mean, 4)} against {seconds(limit)}, {over}."
    total = sum(found.parts.values())
    if total:
        top = sorted(found.parts.items(), key=lambda item: -item[1])[:2]
        whose = "all requests" if found.met else f"the requests that miss {found.binding}"
        named = " and ".join(
            f"{percent(spent / total)} is {PARTS[part]}" for part, spent in top if spent / total >= 0.005
        )
        span = {"TTFT": "the time to the first token", "TPOT": "the time after the first token"}.get(
            found.binding, "all"
        )
        said += f" Of {span}, over {whose}, {named}."
    said += f" {busy_text(mean_busy(base.probes))} of the time."
    behind = sum(run.behind for run in base.probes)
    if behind:
        said += f" In {behind} of {len(base.probes)} seeds the backlog still grows when the last requests come."
    return said


def _price(row: Row) -> str:
    extra = row.extra_per_hour
    if extra is None:
        return "at a price that is not in the list"
    if not extra:
        return "on the same GPUs"
    return f"for {abs(extra):.2f} $/h {'more' if extra > 0 else 'less'}"


def _fix(found: Advice) -> str:
    answers = found.answers
    if not answers:
        return _no_fix(found)
    best = answers[0]
    said = f"The cheapest change that meets the SLO: {_named(best)}"
    if best in found.pairs:
        single = next((row for row in answers if row in found.rows), None)
        alone = "none" if single is None else f"the cheapest is {single.change.name}, {_price(single)}"
        said = f"The cheapest pair of changes that meets the SLO: {_named(best)}\nOf single changes {alone}."
    if best.other_system:
        kept = next((row for row in answers if not row.other_system), None)
        said += f"\nThe cheapest that keeps {found.scenario.system}: {'none' if kept is None else _named(kept)}"
    level = [row for row in answers[1:] if row.extra_per_hour == best.extra_per_hour]
    if level:
        said += f"\nAs cheap: {'; '.join(f'{row.change.name} ({_against(row, best, found)})' for row in level)}."
    return said


def _named(row: Row) -> str:
    return f"{row.change.name}, {_price(row)}: {row.change.flags}"


def _against(row: Row, best: Row, found: Advice) -> str:
    """The binding metric beside that of the answer."""
    gap = row.latency_difference(best)
    if gap is None or (gap.seeds > 1 and gap.low <= 0 <= gap.high):
        return NOT_SHOWN
    return f"p{found.criterion.percent:g} {found.binding} {_signed(gap.mean * 1e3)} ms"


def _no_fix(found: Advice) -> str:
    near = found.nearest
    tried = f"None of {len(found.rows)} single changes" + f" and {len(found.pairs)} pairs" * bool(found.pairs)
    if near is None:
        return f"{tried} could be tried."
    at, limit = near.at_s(near.worst), found.scenario.slo.limits[near.worst]
    return (
        f"{tried} surely meets the SLO. The nearest miss: {near.change.name}, {_price(near)}: "
        f"{near.share.mean * 100:.2f} % within, p{found.criterion.percent:g} {near.worst} {seconds(at, 4)} against "
        f"{seconds(limit)}: {near.change.flags}"
    )


def _others(found: Advice) -> list[str]:
    """Dearer answers, and those that are not settled."""
    answers, said = found.answers, list[str]()
    dearer = [row for row in answers if row.extra_per_hour != answers[0].extra_per_hour]
    if dearer:
        said.append(f"Also: {'; '.join(f'{row.change.name}, {_price(row)}' for row in dearer)}.")
    every = (*found.rows, *found.pairs)
    unsure = [row.change.name for row in every if row.meets == "unsure" and _shown(found, row)]
    if unsure:
        said.append(
            f"Not decided, since the interval reaches both sides of the SLO (more --seeds): {'; '.join(unsure)}."
        )
    return said


def _saving(found: Advice) -> str:
    answers = found.answers
    if answers:
        best = answers[0]
        return f"What saves the most and still meets it: {_named(best)}"
    near = found.nearest
    if near is None:
        return "There is no instance to spare and no cheaper GPU to try."
    share = f"{near.share.mean * 100:.2f} % within"
    return f"Nothing that costs less surely meets it; the nearest is {near.change.name}, {_price(near)}, with {share}."


def _unshown(found: Advice) -> list[str]:
    """Changes whose difference in the binding metric may be none."""
    if len(found.base.probes) < 2:
        return []
    names = [row.change.name for row in (*found.rows, *found.pairs) if not _shown(found, row)]
    level = f"p{found.criterion.percent:g} {found.binding}"
    return [f"{NOT_SHOWN.capitalize()} in {level}: {'; '.join(names)}."] if names else []


def _shown(found: Advice, row: Row) -> bool:
    """Whether the binding metric differs from that of the scenario as it is."""
    gap = row.latency_difference(found.base)
    return gap is None or gap.seeds < 2 or not gap.low <= 0 <= gap.high


def _refused(found: Advice) -> list[str]:
    return ["Not tried: " + "; ".join(f"{each.name} ({each.why})" for each in found.refused) + "."] * bool(
        found.refused
    )


def _other_source(found: Advice, row: Row) -> bool:
    return abs(row.estimated - found.base.estimated) > OTHER_SOURCE


def _warnings(found: Advice) -> list[str]:
    said: list[str] = []
    if found.fixed:
        said.append("Every seed sees the same requests, so the intervals leave out the luck of what comes and when.")
    rows: Sequence[Row] = [row for row in (*found.rows, *found.pairs) if _other_source(found, row)]
    if rows:
        said.append(
            f"* Step times come from another source than the {percent(found.base.estimated)} estimated ones of the "
            "scenario as it is: "
            + "; ".join(f"{row.change.name} {percent(row.estimated)}" for row in rows)
            + " estimated."
        )
    return said


def _rule(found: Advice) -> str:
    runs = len(found.base.probes) * (1 + len(found.rows) + len(found.pairs))
    return (
        f"{judged_text(found.criterion)}; yes and no where all seeds agree, or the interval of the share "
        f"leaves no doubt. Differences are paired by seed, with 95 % intervals; $/h at list prices. {runs} simulations "
        f"of {found.requests} requests in {found.wall_s:.1f} s."
    )
