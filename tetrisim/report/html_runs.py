"""The page of a run, or of a comparison of systems."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import yaml

from tetrisim.metrics import definitions as define
from tetrisim.metrics.breakdown import PARTS, TO_FIRST_TOKEN, Parts
from tetrisim.report.breakdown_plot import DARK, LOOKS
from tetrisim.report.html_folder import Part, Runs
from tetrisim.report.html_over_time import over_time
from tetrisim.report.html_parts import Page, Spec, code, grid, hint, looks, numbers, row, sentences, table
from tetrisim.report.html_series import CDF_POINTS, cdf
from tetrisim.report.paired import NAMES, NOT_SHOWN, signed, verdicts
from tetrisim.report.terminal import (
    LEVEL,
    best,
    binding,
    number,
    slo_line,
    source_lines,
    unserved,
    verdict,
    wall_line,
    warmup_line,
)
from tetrisim.scenario.slo import SloSpec

Summary = Mapping[str, Any]

_STATISTICS = (("mean", "mean", True), ("p50", "median", True), ("p90", "p90", True), ("p99", "p99", True))
TABLE = (
    ("requests", (("submitted", "submitted", None), ("completed", "completed", None), ("rejected", "rejected", None),
                  ("unfinished", "unfinished", None), ("preemptions", "preemptions", None),
                  ("within the SLO", "slo_attainment", False))),
    *((f"{short.upper()}, ms", tuple((name, f"{kind}_{short}_ms", less) for name, kind, less in _STATISTICS))
      for short in ("ttft", "tpot", "itl", "e2el")),
    ("per second", (("requests", "request_throughput", False), ("goodput", "request_goodput", False),
                    ("output tokens", "output_throughput", False), ("all tokens", "total_token_throughput", False))),
    ("cost", (("GPU-seconds", "gpu_seconds", True), ("dollars", "dollars", True),
              ("perf/$", "perf_per_dollar", False))),
)  # fmt: skip
"""Groups of rows: name, summary key, and whether less is better (None: neither)."""

_LOG_SPAN = 20.0
_SOURCES = {
    "measured": {"colour": "#007A5A", "hatch": "", "dark": True},
    "interpolated": {"colour": "#A3D9C6", "hatch": "....", "dark": False},
    "estimated": {"colour": "#E69F00", "hatch": "////", "dark": False},
}


def runs_page(found: Runs) -> Page:
    """All sections of a run or a comparison."""
    systems = [part.system for part in found.parts]
    summaries = [part.summary for part in found.parts]
    slo = SloSpec(**found.record["slo"]) if "slo" in found.record else None
    page = Page(_title(systems, found), facts(found.scenario, found.record), _findings(found, summaries, slo))
    page.section("summary", "Summary of the first seed" if found.differences else "Summary", summary_table(summaries))
    page.section("classes", "By class of request", _classes(summaries))
    page.section("seeds", "Differences over seeds", _differences(page, found.differences, systems))
    page.section("latency", "Latency", _latency(page, found.parts, slo))
    page.section("breakdown", "Where the time goes", _breakdown(page, found.parts))
    page.section("time", "Over time", over_time(page, found.parts))
    page.section("sources", "Where the numbers come from", _sources(page, found, summaries))
    page.section("scenario", "Scenario", _scenarios(found))
    return page


def _title(systems: Sequence[str], found: Runs) -> str:
    if len(systems) == 1:
        return f"{systems[0]}: a simulated run"
    seeds = f", over {found.differences['seeds']} seeds" if found.differences else ""
    return f"{', '.join(systems[:-1])} and {systems[-1]} compared{seeds}"


def facts(scenario: str, record: Mapping[str, Any]) -> str:
    """A line on what was simulated: model, GPUs, workload, seed; what the file does not say is left out."""
    try:
        document: Any = yaml.safe_load(scenario)
    except yaml.YAMLError:
        document = None
    known = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    workload = known.get("workload") if isinstance(known.get("workload"), dict) else {}
    load = cast("dict[str, Any]", workload)
    requests = f"{load['requests']} requests" if load.get("requests") else ""
    source = f"of {str(load['trace']).rsplit('/', 1)[-1]}" if load.get("trace") else ""
    rate = f"at {load['rate']}" if load.get("rate") else ""
    run = (record.get("runs") or [{}])[0]
    counts: dict[str, int] = {}
    for instance in run.get("instances", ()):
        counts[instance["gpu"]] = counts.get(instance["gpu"], 0) + instance["gpus"]
    gpus = ", ".join(f"{count} × {gpu}" for gpu, count in counts.items())
    seed = f"seed {record['seed']}" if "seed" in record else ""
    said = (str(known.get("model", "")), gpus, " ".join(filter(None, (requests, source, rate))), seed)
    return " · ".join(filter(None, said))


def _findings(found: Runs, summaries: Sequence[Summary], slo: SloSpec | None) -> list[str]:
    parts = {part.system: _alone(part.record["breakdown"]) for part in found.parts if "breakdown" in part.record}
    paired = [] if found.differences is None else verdicts(found.differences)
    first = verdict(summaries)
    if paired and first:
        first = f"Under the first seed alone, {first}"
    limits = "The limits of the SLO are not recorded here." if slo is None else slo_line(slo)
    return [
        *paired,
        first,
        binding(parts),
        *unserved(summaries),
        warmup_line(summaries),
        limits,
        *source_lines(summaries),
    ]


def summary_table(summaries: Sequence[Summary]) -> str:
    """A table a kind of metric, a row a metric, a column a system; in bold what is best, or within 1 % of it."""
    systems = [str(summary["system"]) for summary in summaries]
    tables: list[str] = []
    for title, lines in TABLE:
        rows: list[str] = []
        for name, key, less_is_better in lines:
            values = [summary.get(key) for summary in summaries]
            texts = [_percent(value) if key == "slo_attainment" else number(value) for value in values]
            winners: tuple[str, ...] = ()
            if less_is_better is not None and len(systems) > 1 and None not in values:
                winners = best(summaries, key, less_is_better)
            bold = [place for place, system in enumerate(systems, 1) if system in winners]
            rows.append(row([name, *texts], best=bold if len(bold) < len(systems) else ()))
        tables.append(table([title, *systems], rows))
    note = f"In bold: the best of the row, and what is within {LEVEL:.0%} of it. " if len(systems) > 1 else ""
    return grid(*tables) + hint(
        note + "Latencies are of completed requests. ITL: the gaps between tokens, of all requests together. perf/$: "
        "performance per dollar against the first system."
    )


def _classes(summaries: Sequence[Summary]) -> str:
    """A row for each class of requests of each system, where the workload has classes."""
    names = dict.fromkeys(key.partition(":")[0] for summary in summaries for key in summary if ":" in key)
    columns = ("submitted", "completed", "request_goodput", "median_ttft_ms", "p99_ttft_ms", "median_tpot_ms",
               "p99_tpot_ms", "p99_e2el_ms")  # fmt: skip
    head = ["class", "system", "within its SLO", "submitted", "completed", "goodput /s", "TTFT p50", "TTFT p99, ms",
            "TPOT p50", "TPOT p99, ms", "E2EL p99, ms"]  # fmt: skip
    rows = [
        row([name, str(each["system"]), _percent(each.get(f"{name}:slo_attainment")),
             *(number(each.get(f"{name}:{key}")) for key in columns)], texts=[0, 1])
        for name in names for each in summaries
    ]  # fmt: skip
    return table(head, rows, texts=[0, 1]) if rows else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{number(value * 100)} %"


def _differences(page: Page, study: Mapping[str, Any] | None, systems: Sequence[str]) -> str:
    if study is None:
        return ""
    look = looks(systems)
    figures: list[str] = []
    for place, system in enumerate(dict.fromkeys(str(each["system"]) for each in study["differences"])):
        rows = [_interval(each) for each in study["differences"] if each["system"] == system]
        spec: Spec = {
            "type": "intervals", "title": f"{system} against {study['baseline']}", "colour": look[system]["colour"],
            "label": f"difference, % of the mean of {study['baseline']}", "rows": rows,
        }  # fmt: skip
        figures.append(page.chart(f"seeds{place}", spec))
    return grid(*figures, wide=True) + hint(
        f"Means of {study['seeds']} seeds, paired seed by seed, with 95 % intervals. A hollow point is an interval "
        f"that holds zero: {NOT_SHOWN}. Everything else on this page is of the first seed."
    )


def _interval(each: Mapping[str, Any]) -> dict[str, Any]:
    name, unit, _ = NAMES[each["metric"]]
    found, base = each["difference"], each["baseline"]
    if found is None or base is None or not base["mean"]:
        return {"label": name, "mean": None}
    share = {key: 100 * found[key] / abs(base["mean"]) for key in ("mean", "low", "high")}
    units = f" {unit}" if unit else ""
    tip = [
        ["first system", f"{number(base['mean'])}{units}"],
        ["difference", f"{signed(found['mean'])}{units} ({share['mean']:+.1f} %)"],
        ["95 % interval", f"{signed(found['low'])} to {signed(found['high'])}{units}"],
    ]
    return {"label": name, "shown": each["shown"], "tip": tip, **share}


def _latency(page: Page, parts: Sequence[Part], slo: SloSpec | None) -> str:
    panels = (
        ("ttft", "Time to first token", define.ttft, slo and slo.ttft_s),
        ("tpot", "Time per output token", define.tpot, slo and slo.tpot_s),
        ("e2el", "End-to-end latency", define.e2el, slo and slo.e2el_s),
    )
    figures = [page.chart(key, _cdf(title, key.upper(), parts, metric, limit)) for key, title, metric, limit in panels]
    many = any(len(part.rows["status"]) > CDF_POINTS for part in parts)
    thin = f" A curve is drawn through {CDF_POINTS} of its requests, most of them among the slowest." if many else ""
    return grid(*figures) + hint("The share of completed requests within x. Point at a curve for its values." + thin)


def _cdf(title: str, short: str, parts: Sequence[Part], metric: Any, limit: float | None) -> Spec:
    samples = {part.system: metric(part.counted) for part in parts}
    middles = [float(np.median(values)) for values in samples.values() if values.size]
    factor, unit = (1.0, "s") if middles and max(middles) > 3 else (1e3, "ms")
    look, series = looks(list(samples)), list[Spec]()
    for system, values in samples.items():
        x, y = cdf(values * factor)
        series.append({"name": system, **look[system], "x": numbers(x), "y": numbers(y)})
    pooled = np.concatenate(list(samples.values())) * factor
    ends = [*(() if limit is None else (limit * factor,)), *((pooled.min(), pooled.max()) if pooled.size else ())]
    return {
        "type": "lines", "title": title, "step": True, "hover": "y", "unit": unit, "series": series,
        "x": {"label": f"{short}, {unit}", "log": bool(ends and 0 < _LOG_SPAN * min(ends) < max(ends))},
        "y": {"label": "requests within x, %", "min": 0, "max": 100},
        "marks": [] if limit is None else [{"x": limit * factor, "label": "SLO"}],
    }  # fmt: skip


def _breakdown(page: Page, parts: Sequence[Part]) -> str:
    if not all("breakdown" in part.record for part in parts):
        return hint("This folder was written by a version of tetrisim that did not keep the breakdown.")
    later = [part for part in PARTS if part not in TO_FIRST_TOKEN]
    figures = [
        page.chart("first", _bars("To the first token", TO_FIRST_TOKEN, parts)),
        page.chart("later", _bars("After the first token", later, parts)),
    ]
    note = (
        "Mean times. Own: the request's work with nobody else there; interference: what co-batched work adds to it. "
        "The slowest 5 % are those slowest to their first token, and those slowest after it."
    )
    slowest = binding({part.system: _alone(part.record["breakdown_slowest"]) for part in parts}).partition(": ")[2]
    words = f"Largest parts among the slowest 5 %: {slowest}" if slowest else ""
    return grid(*figures, wide=True) + sentences([words]) + hint(note)


def _alone(means: Mapping[str, float]) -> Parts:
    """Mean parts as those of a lone request."""
    return {part: np.array([seconds]) for part, seconds in means.items()}


def _bars(title: str, among: Sequence[str], parts: Sequence[Part]) -> Spec:
    rows: list[Spec] = []
    longest = max(sum(part.record["breakdown"][name] for name in among) for part in parts)
    factor, unit = (1.0, "s") if longest >= 1 else (1e3, "ms")
    for part in parts:
        for key, note in (("breakdown", ""), ("breakdown_slowest", "slowest 5 %")):
            mean = {name: max(0.0, part.record[key][name]) * factor for name in among}
            pieces = [{"name": PARTS[name], "value": value, **_paint(name)} for name, value in mean.items()]
            rows.append({"label": part.system, "note": note, "total": sum(mean.values()), "parts": pieces})
    return {"type": "bars", "title": title, "unit": unit, "order": [PARTS[name] for name in among], "rows": rows}


def _paint(name: str) -> dict[str, Any]:
    """Colour, hatch, and whether writing on it is light."""
    tone, hatch = LOOKS[name]
    return {"colour": hexadecimal(tone), "hatch": hatch, "dark": tone in DARK}


def hexadecimal(tone: str) -> str:
    """A grey of matplotlib ("0.82") as the colour of a page."""
    return tone if tone.startswith("#") else "#" + f"{round(float(tone) * 255):02x}" * 3


def _sources(page: Page, found: Runs, summaries: Sequence[Summary]) -> str:
    shown = [summary for summary in summaries if summary["measured_share"] is not None]
    rows = [
        {"label": str(summary["system"]), "note": "", "total": 100, "parts": [
            {"name": name, "value": 100 * summary[f"{name}_share"], **tone} for name, tone in _SOURCES.items()
        ]} for summary in shown
    ]  # fmt: skip
    spec: Spec = {
        "type": "bars",
        "title": "Step time by its source",
        "unit": "%",
        "order": list(_SOURCES),
        "rows": rows,
    }
    tables = dict.fromkeys(line for summary in summaries for line in summary["provenance"])
    text = "".join(row([line], long=[0]) for line in tables)
    seed = f"Simulated by tetrisim {found.record.get('tetrisim', '')} under seed {found.record.get('seed', '')}."
    figure = page.chart("shares", spec) if rows else ""
    return figure + table(["tables of step times"], [text]) + sentences([seed, wall_line(summaries)])


def _scenarios(found: Runs) -> str:
    if len(found.parts) == 1:
        return code("scenario.yaml, with every setting", found.scenario)
    each = "".join(code(f"{part.system}: every setting", part.scenario) for part in found.parts)
    return code("scenario.yaml, as it was compared", found.scenario, opened=True) + each
