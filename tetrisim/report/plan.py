"""The table of a plan, and the page around it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tetrisim.report.paired import NOT_SHOWN
from tetrisim.report.terminal import number, print_page, source_lines

MOST_ROWS = 12
"""Rows of the table; the JSON has them all."""

COLUMNS = (
    ("\nGPUs", "gpus"),
    ("\n$/h", "dollars_per_hour"),
    ("$/M\ntokens", "dollars_per_million_tokens"),
    ("tokens/s\n/gpu", "tokens_per_s_per_gpu"),
    ("tokens/s\n/user", "tokens_per_s_per_user"),
    ("TTFT\nms", "ttft_ms"),
    ("TPOT\nms", "tpot_ms"),
    ("goodput\nreq/s", "goodput"),
)
"""Heading and key of the numbers of a row."""


def print_plan(plan: Mapping[str, Any], lines: Sequence[str], console: Console) -> None:
    """Print the best cluster of each kind, the sentences of the plan, and where step times come from."""
    said = [_legend(plan) if plan["kinds"] else "", *lines]
    if plan["measured_share"] is not None:
        said += source_lines([{**plan, "system": "all"}])
    if plan["answers"]:
        print_page(plan_table(plan), said, console)
        return
    for line in filter(None, said):
        console.print(line, soft_wrap=True)


def plan_table(plan: Mapping[str, Any]) -> Table:
    """A row a GPU, system and tensor parallelism: the best cluster of each, the best of all first."""
    rows = {row["name"]: row for row in plan["candidates"]}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in ("\n#", "\ncluster", "\nsystem", "replicas\n(p)/(d)", "\ncaps"):
        table.add_column(heading, no_wrap=True, justify="right" if heading == "\n#" else "left")
    most = plan["goal"]["rate"] is None
    if most:
        table.add_column("carries\nreq/s", justify="right", no_wrap=True)
    for heading, _ in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("\nfront", no_wrap=True)
    table.add_column("from the row\nabove", no_wrap=True)
    for kind in plan["kinds"][:MOST_ROWS]:
        row = rows[kind["name"]]
        sustained = [number(row["sustained"]["mean"])] if most else []
        numbers = [number(row[key]) for _, key in COLUMNS]
        place = "-" if row["rank"] is None else str(row["rank"])
        last = "one seed" if row["rank"] is None else told(kind["against_previous"])
        table.add_row(
            place, str(row["gpu"]), str(row["system"]), workers(row), caps(row), *sustained, *numbers,
            "*" if row["pareto"] else "", last,
        )  # fmt: skip
    return table


def workers(row: Mapping[str, Any]) -> str:
    """`4 x tp1`, or `(p) 3 x tp1 (d) 2 x tp1`."""
    pools = row["pools"]
    each = [f"{pool['instances']} x tp{pool['tensor_parallel']}" for pool in pools]
    if len(pools) == 1:
        return each[0]
    return " ".join(f"({pool['role'][0]}) {text}" for pool, text in zip(pools, each, strict=True))


def caps(row: Mapping[str, Any]) -> str:
    """The batch caps that the row varies, as in `tokens=2048 seqs=128`."""
    short = {"max_num_batched_tokens": "tokens", "chunk_tokens": "chunk", "max_num_seqs": "seqs"}
    return " ".join(f"{short.get(cap['setting'], cap['setting'])}={cap['value']}" for cap in row["caps"])


def told(against: Mapping[str, Any] | None) -> str:
    """What tells a row from the one above."""
    if against is None:
        return ""
    if not against["shown"]:
        return NOT_SHOWN
    by, mean = against["by"], against["difference"]["mean"]
    if by == "$/h":
        return f"+{mean:.2f} $/h"
    return f"{mean:+.2g} {'req/s' if by.startswith('requests') else 'of the limit'}"


def _legend(plan: Mapping[str, Any]) -> str:
    kinds = len(plan["kinds"])
    shown = "The best cluster of each GPU, system and tensor parallelism"
    shown += f", the first {MOST_ROWS} of {kinds}" if kinds > MOST_ROWS else ""
    at = f"TTFT and TPOT at p{plan['percent']:g}"
    front = "* is on the Pareto front of tokens/s/gpu, tokens/s/user and $/M tokens."
    if plan["goal"]["rate"] is None:
        return f"{shown}, by the rate each sustains; the rest at the lowest rate of its seeds, {at}. {front}"
    seeds = f"means over {len(plan['seeds'])} seeds (one where # is -)"
    return f"{shown}: {at}, {seeds}. {front} Of one price, the farthest from its limits comes first."
