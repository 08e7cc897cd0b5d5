"""The page of a plan."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from tetrisim.report.html_folder import Study
from tetrisim.report.html_parts import Page, Spec, code, hint, look, row, sentences, table
from tetrisim.report.style import place_of
from tetrisim.report.terminal import number, source_lines

Rows = Sequence[Mapping[str, Any]]

COLUMNS = (
    ("rank", "rank"), ("name", "cluster"), ("meets", "meets SLO"), ("gpus", "GPUs"), ("dollars_per_hour", "$/h"),
    ("dollars_per_million_tokens", "$/M tokens"), ("tokens_per_s_per_gpu", "tokens/s/gpu"),
    ("tokens_per_s_per_user", "tokens/s/user"), ("ttft_ms", "TTFT, ms"), ("tpot_ms", "TPOT, ms"),
    ("goodput", "goodput"), ("rate", "at requests/s"), ("sustained", "sustains requests/s"),
    ("pareto", "front"),
)  # fmt: skip
"""Keys of a candidate, and the columns they stand in."""

_TEXTS = ("name", "meets", "pareto")
_MOST_ROWS = 500
_LABELLED = 5


def plan_page(found: Study) -> Page:
    """All sections of a plan."""
    content = found.content
    candidates: list[Mapping[str, Any]] = sorted(content["candidates"], key=_rank)
    pruned: Rows = content.get("pruned", ())
    page = Page("A plan", _facts(content, candidates), _findings(content, candidates))
    page.section("front", "Pareto front", _front(page, candidates))
    page.section("clusters", "Clusters", _clusters(candidates))
    answers = "".join(code(name, text, opened=place < 1) for place, (name, text) in enumerate(found.texts.items()))
    page.section("answers", "What to run", answers)
    page.section("pruned", "Ruled out", _pruned(pruned))
    tables = [row([str(line)], long=[0]) for line in content.get("provenance", ())]
    page.section("sources", "Where the numbers come from", table(["tables of step times"], tables) if tables else "")
    return page


def _facts(content: Mapping[str, Any], candidates: Rows) -> str:
    """What was asked for, and how it was looked for."""
    goal: Mapping[str, Any] = content.get("goal") or {}
    units = {"rate": "requests/s", "gpus": "GPUs", "dollars_per_hour": "$/h"}
    asked = [f"for {number(value)} {units.get(key, key)}" for key, value in goal.items() if value is not None]
    percent, limits = content.get("percent", 100), dict(content.get("slo_ms") or {})
    each = "" if content.get("together") else f"p{percent:g} "
    slo = " and ".join(f"{each}{name} <= {number(limit)} ms" for name, limit in limits.items())
    slo = f"{percent:g} % of requests within {slo}" if slo and not each else slo
    size = f"{content['requests']} requests" if "requests" in content else ""
    seeds = f"{len(content['seeds'])} seeds" if content.get("seeds") else ""
    looked = f"{len(candidates)} clusters simulated"
    said = (str(content.get("model", "")), *asked, slo, looked, size, seeds)
    return " · ".join(filter(None, said))


def _findings(content: Mapping[str, Any], candidates: Rows) -> list[str]:
    meeting = [each for each in candidates if each.get("meets")]
    ruled_out = sum(int(each.get("candidates", 1)) for each in content.get("pruned", ()))
    said = [_best(meeting, candidates), _miss(content.get("nearest_miss") or {})]
    if ruled_out:
        said.append(
            f"{ruled_out} more were ruled out without being simulated to the end; their reasons are listed below."
        )
    if content.get("measured_share") is not None:
        said += source_lines([{"system": "plan", "provenance": (), **content}])
    return said


def _best(meeting: Rows, candidates: Rows) -> str:
    if not meeting:
        return f"None of the {len(candidates)} clusters that were simulated meets the SLO."
    first = meeting[0]
    more = f"{len(meeting)} of the {len(candidates)} simulated clusters meet the SLO."
    return f"First in rank: {first['name']}, {shown(first.get('dollars_per_hour'))} $/h. {more}"


def _miss(nearest: Mapping[str, Any]) -> str:
    if not nearest:
        return ""
    at, limit = nearest.get("at_ms"), nearest.get("limit_ms")
    value = f" ({nearest['metric']} {number(at)} ms, limit {number(limit)} ms)" if at is not None else ""
    name = f"Nearest miss: {nearest['name']}{value}; what" if nearest.get("name") else "What"
    return f"{name} binds: {nearest.get('binds')}."


def _rank(candidate: Mapping[str, Any]) -> float:
    rank = candidate.get("rank")
    return float("inf") if rank is None else float(rank)


def _front(page: Page, candidates: Rows) -> str:
    axes = ("tokens_per_s_per_user", "tokens_per_s_per_gpu")
    points = [_point(each) for each in candidates if all(each.get(key) is not None for key in axes)]
    if not points:
        return ""
    spec: Spec = {
        "type": "scatter", "title": "What a user gets, against what a GPU gives", "points": points,
        "x": {"label": "tokens/s/user"}, "y": {"label": "tokens/s/gpu"},
        "key": "filled: meets the SLO; hollow: does not; ringed: on the Pareto front; numbers: rank",
    }  # fmt: skip
    note = "On the front: no other cluster is better in tokens/s/gpu, tokens/s/user and $/M tokens at once."
    return page.chart("front", spec, note)


def _point(candidate: Mapping[str, Any]) -> Spec:
    system, rank = str(candidate.get("system", "")), _rank(candidate)
    return {
        "x": candidate["tokens_per_s_per_user"], "y": candidate["tokens_per_s_per_gpu"], "group": system,
        "colour": look(place_of(system))["colour"], "name": str(candidate["name"]),
        "hollow": not candidate.get("meets"), "pareto": bool(candidate.get("pareto")),
        "label": f"{rank:.0f}" if rank <= _LABELLED else "",
        "tip": [[label, shown(candidate.get(key))] for key, label in COLUMNS if key != "name" and key in candidate],
    }  # fmt: skip


def shown(value: Any) -> str:
    """A value of the plan as text; of an interval, its middle."""
    if isinstance(value, dict):
        return shown(cast("dict[str, Any]", value).get("mean"))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if value is None or isinstance(value, int | float) else str(value)


def _clusters(candidates: Rows) -> str:
    if not candidates:
        return ""
    columns = [(key, label) for key, label in COLUMNS if any(key in each for each in candidates)]
    texts = [place for place, (key, _) in enumerate(columns) if key in _TEXTS]
    lines = [row([shown(each.get(key)) for key, _ in columns], texts) for each in candidates[:_MOST_ROWS]]
    note = f"The first {_MOST_ROWS} of {len(candidates)}; plan.json has all."
    return table([label for _, label in columns], lines, texts) + (hint(note) if len(candidates) > _MOST_ROWS else "")


def _pruned(pruned: Rows) -> str:
    if not pruned:
        return ""
    lines = [
        row([str(each["name"]), shown(each.get("candidates")), str(each["reason"])], [0], [2])
        for each in pruned[:_MOST_ROWS]
    ]
    note = f"The first {_MOST_ROWS} of {len(pruned)}; plan.json has all." if len(pruned) > _MOST_ROWS else ""
    return table(["clusters", "how many", "why"], lines, [0, 2]) + sentences([note])
