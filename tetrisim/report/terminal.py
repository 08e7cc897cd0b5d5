"""The table of a run or a comparison, and the sentences under it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tetrisim.metrics.breakdown import PARTS, TO_FIRST_TOKEN, Parts, largest
from tetrisim.scenario.slo import SloSpec
from tetrisim.units import text

Summaries = Sequence[Mapping[str, Any]]

PIPED_WIDTH = 118
"""Columns to use where there is no terminal to ask."""

COLUMNS = (
    ("\ncompleted", "completed"),
    ("TTFT ms\nmean", "mean_ttft_ms"),
    ("\np50", "median_ttft_ms"),
    ("\np99", "p99_ttft_ms"),
    ("TPOT ms\nmean", "mean_tpot_ms"),
    ("\np99", "p99_tpot_ms"),
    ("E2EL ms\nmean", "mean_e2el_ms"),
    ("\np99", "p99_e2el_ms"),
    ("served\nreq/s", "request_throughput"),
    ("output\ntok/s", "output_throughput"),
    ("goodput\nreq/s", "request_goodput"),
    ("used\nGPU-s", "gpu_seconds"),
    ("perf/$\nvs 1st", "perf_per_dollar"),
)
"""Heading and summary key of every column after the system's name."""

LEVEL = 0.01
"""Results within this fraction of the best one are called level."""

# Summary key, name in the sentence, and whether less is better.
_CONTESTS = (
    ("mean_ttft_ms", "mean TTFT", True),
    ("mean_tpot_ms", "mean TPOT", True),
    ("mean_e2el_ms", "mean E2EL", True),
    ("request_goodput", "goodput", False),
    ("perf_per_dollar", "perf/$", False),
)


def print_report(
    summaries: Summaries, slo: SloSpec, console: Console, breakdowns: Mapping[str, Parts] | None = None
) -> None:
    """Print the table, who won on what, what binds, who was left unserved, the SLO, and where step times come from."""
    lines = [
        verdict(summaries),
        binding(breakdowns or {}),
        *unserved(summaries),
        warmup_line(summaries),
        "" if any(key.endswith(":slo_attainment") for key in summaries[0]) else slo_line(slo),  # classes have their own
        *source_lines(summaries),
        wall_line(summaries),
    ]
    print_page(results_table(summaries), lines, console)


def print_page(table: Table, lines: Iterable[str], console: Console) -> None:
    """Print a table and the sentences below it; an empty one is left out."""
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    # A row is never cut or wrapped: one wider than the page runs over its edge.
    console.width = max(console.width, console.measure(table, options=console.options.update(width=1000)).maximum)
    console.print(table)
    console.print()
    for line in filter(None, lines):
        console.print(line, soft_wrap=True)


def results_table(summaries: Summaries) -> Table:
    """A row a system."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\nsystem", no_wrap=True)
    for heading, _ in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for summary in summaries:
        table.add_row(str(summary["system"]), *(number(summary[key]) for _, key in COLUMNS))
    return table


def number(value: float | None) -> str:
    """Three significant digits or all the whole ones; a dash for a value that does not exist."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    # The rounded value decides, or 99.96 would show as 100.0 beside 100.
    for digits in (2, 1):
        if abs(round(value, digits)) < 10 ** (3 - digits):
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def verdict(summaries: Summaries) -> str:
    """One sentence on who won on what; empty for a lone run, or when nothing completed."""
    if len(summaries) < 2:
        return ""
    wins: dict[tuple[str, ...], list[str]] = {}
    for key, name, less_is_better in _CONTESTS:
        winners = best(summaries, key, less_is_better)
        if winners:
            wins.setdefault(winners, []).append(name)
    systems = [str(summary["system"]) for summary in summaries]
    clauses = [_clause(winners, names, systems) for winners, names in wins.items()]
    return f"{'; '.join(clauses)}." if clauses else ""


def best(summaries: Summaries, key: str, less_is_better: bool) -> tuple[str, ...]:
    """The systems whose value is the best, or within 1 % of it, in their own order."""
    values = {str(summary["system"]): summary[key] for summary in summaries if summary[key] is not None}
    if not values:
        return ()
    top = (min if less_is_better else max)(values.values())
    return tuple(system for system, value in values.items() if abs(value - top) <= LEVEL * abs(top))


def _clause(winners: tuple[str, ...], names: list[str], systems: list[str]) -> str:
    if len(winners) == 1:
        return f"{winners[0]} wins on {_and(names)}"
    others = [system for system in systems if system not in winners]
    who = _and(winners) if len(winners) <= 2 * len(others) else "all but " + _and(others) if others else "all"
    return f"{who} are level (within {LEVEL * 100:.0f} %) on {_and(names)}"


def _and(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


MOST_APART = 5
"""Of more systems than this what binds is said for all alike at once."""


def binding(breakdowns: Mapping[str, Parts]) -> str:
    """One sentence on what takes most of the time to the first token and after it; empty when nothing completed."""
    later = [part for part in PARTS if part not in TO_FIRST_TOKEN]
    clauses: list[str] = []
    alike: dict[str, list[str]] = {}
    for system, parts in breakdowns.items():
        tops = [top for among in (TO_FIRST_TOKEN, later) if (top := largest(parts, among)) is not None]
        if tops:
            said = " and ".join(f"{PARTS[top.part]} ({percent(top.share)} %)" for top in tops)
            clauses.append(f"{system} {said}")
            alike.setdefault(" and ".join(PARTS[top.part] for top in tops), []).append(system)
    if len(clauses) > MOST_APART:
        clauses = [f"{parts} of {_and(systems)}" for parts, systems in alike.items()]
    return f"Largest part of TTFT, and of the time after it: {'; '.join(clauses)}." if clauses else ""


def unserved(summaries: Summaries) -> list[str]:
    """A line for each system that left requests out, since they are in no percentile."""
    return [
        f"{summary['system']}: of {summary['submitted']} requests {summary['rejected']} were rejected and "
        f"{summary['unfinished']} unfinished; latencies are of the completed ones alone."
        for summary in summaries
        if summary["rejected"] or summary["unfinished"]
    ]


def warmup_line(summaries: Summaries) -> str:
    """Which requests are not counted, by what rule, and what the rates are over; empty where all are."""
    cuts = sorted({summary.get("warmup_requests", 0) for summary in summaries})
    if cuts == [0]:
        return ""
    most = max(summaries, key=lambda summary: summary["warmup_requests"])
    first = " to ".join(str(cut) for cut in dict.fromkeys((cuts[0], cuts[-1])))
    return (
        f"Warm-up: the first {first} of {most['warmup_requests'] + most['submitted']} requests by arrival are not "
        f"counted ({most['warmup_rule']}). Rates are of the others, over the time from the first of their arrivals to "
        "the last of their ends; GPU-seconds and dollars are of the whole run."
    )


def slo_limits(slo: SloSpec) -> str:
    """The limits in words; empty without any."""
    given = [f"{name} <= {text(limit, '_s')}" for name, limit in slo.limits.items()]
    return _and(given) if given else ""


def slo_line(slo: SloSpec) -> str:
    """What goodput means in this run."""
    given = slo_limits(slo)
    return f"Goodput counts requests with {given}." if given else "No SLO is set: goodput counts every request."


def source_lines(summaries: Summaries) -> list[str]:
    """Where the simulated step time comes from: a line for all systems of which the same is to be said."""
    said: dict[str, list[str]] = {}
    for summary in summaries:
        said.setdefault(_sources(summary), []).append(str(summary["system"]))
    if len(said) == 1:
        return [f"Step times: {next(iter(said))}"]
    return [f"Step times of {_and(systems)}: {sources}" for sources, systems in said.items()]


def _sources(summary: Mapping[str, Any]) -> str:
    names = ("measured", "interpolated", "estimated")
    if summary["measured_share"] is None:
        return "no step was run."
    shares = ", ".join(f"{percent(summary[f'{name}_share'])} % {name}" for name in names)
    tables = "; ".join(summary["provenance"])
    return f"{shares} ({tables})." if tables else f"{shares}."


def percent(share: float) -> str:
    """A whole number, save that a little is never shown as nothing nor as everything."""
    if 0 < share < 0.005:
        return "<1"
    return ">99" if 0.995 <= share < 1 else f"{share * 100:.0f}"


def wall_line(summaries: Summaries) -> str:
    """How long the simulation took beside what it simulated."""
    simulated = sum(summary["simulated_s"] for summary in summaries)
    wall = sum(summary["wall_s"] for summary in summaries)
    return f"Simulated {simulated:.1f} s of serving in {wall:.2f} s of wall time."
