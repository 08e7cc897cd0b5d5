"""What the cluster held and did over time, from the rows of each run."""

from collections.abc import Sequence

import numpy as np

from tetrisim.metrics.definitions import Floats
from tetrisim.report import html_series as series
from tetrisim.report.html_folder import Part
from tetrisim.report.html_parts import Page, Spec, grid, hint, looks, numbers

_LOOKS = (("#d1d1d1", ""), ("#0072B2", "////"), ("#E69F00", "...."), ("#007A5A", ""))
"""Colour and hatch of each of `html_series.STATES`: the colours of the breakdown."""
_UNITS = ((1.0, "s", 1200), (60.0, "min", 14400), (3600.0, "h", np.inf))
"""Seconds in a unit of the axis, its name, and below how many seconds of serving it is used."""
_PERCENT = 90
_GREY = {"colour": "#8a929c", "dash": "2 3"}


def over_time(page: Page, parts: Sequence[Part]) -> str:
    """Charts of states, throughput, KV use, instances at work and load by instance."""
    end_s = max(float(part.record["simulated_s"]) for part in parts) or 1.0
    edges, coarse = series.edges_of(end_s), series.edges_of(end_s, series.WINDOWS // 4)
    time = _Time(*next((factor, unit) for factor, unit, most in _UNITS if end_s < most))
    tokens = [series.output_rate(part.rows, coarse) for part in parts]
    busy = [series.busy_instances(part.rows, edges, float(part.record["simulated_s"])) for part in parts]
    held = [series.in_states(part.rows, edges, float(part.record["simulated_s"])) for part in parts]
    waits = [series.ttft_by_arrival(part.rows, coarse, _PERCENT) for part in parts]
    unstarted = [waiting + prefill for waiting, prefill, *_ in held]
    rates = [
        page.chart("before", time.lines("Requests before their first token", "requests", edges, parts, unstarted)),
        page.chart("waits", time.lines(f"p{_PERCENT} TTFT, by arrival", "s", coarse, parts, waits)),
        page.chart("tokens", time.lines("Output tokens", "tokens/s", coarse, parts, tokens)),
        page.chart("served", _served(parts, coarse, time)),
        _kv(page, parts, edges, time),
        page.chart("busy", time.lines("Instances with a request on them", "instances", edges, parts, busy)),
    ]
    note = (
        f"Each point is the mean over {_span(edges)}; of TTFT and of what is per second, over {_span(coarse)}. The "
        "output tokens of a request are spread evenly from its first token to its last. Waiting: up to the first step "
        "of the prefill. Moving to decode: the transfer and the waits about it."
    )
    states = grid(*_states(page, parts, held, time.middles(edges), time.axis))
    return states + grid(*rates, wide=True) + _loads(page, parts, end_s, time) + hint(note)


def _span(edges: Floats) -> str:
    width = float(edges[1] - edges[0])
    return f"{width:.3g} s" if width >= 1 else f"{width * 1e3:.3g} ms"


class _Time:
    """The axis of time, in a unit that suits its length."""

    def __init__(self, factor: float, unit: str) -> None:
        self.factor, self.unit = factor, unit
        self.axis = {"label": f"time, {unit}", "name": f"time ({unit})", "min": 0}

    def middles(self, edges: Floats) -> list[float | None]:
        """The middle of each window."""
        return numbers((edges[1:] + edges[:-1]) / 2 / self.factor)

    def lines(self, title: str, label: str, edges: Floats, parts: Sequence[Part], values: Sequence[Floats]) -> Spec:
        """A chart with a line a system."""
        look = looks([part.system for part in parts])
        x = self.middles(edges)
        drawn = [
            {"name": part.system, **look[part.system], "x": x, "y": numbers(own)}
            for part, own in zip(parts, values, strict=True)
        ]
        return {"type": "lines", "title": title, "x": self.axis, "y": {"label": label}, "series": drawn}


def _states(
    page: Page, parts: Sequence[Part], held: Sequence[Sequence[Floats]], x: list[float | None], axis: Spec
) -> list[str]:
    top = max(float(np.sum(each, axis=0).max()) for each in held)
    figures: list[str] = []
    for place, (part, states) in enumerate(zip(parts, held, strict=True)):
        layers = [
            {"name": name, "colour": colour, "hatch": hatch, "x": x, "y": numbers(values)}
            for name, (colour, hatch), values in zip(series.STATES, _LOOKS, states, strict=True)
            if values.any()
        ]
        # The decode, which is steadiest, lies below; what waits lies on top of it.
        spec: Spec = {
            "type": "area", "title": f"{part.system}: requests in the cluster", "x": axis,
            "y": {"label": "requests", "max": top}, "series": layers[::-1],
        }  # fmt: skip
        figures.append(page.chart(f"states{place}", spec))
    return figures


def _served(parts: Sequence[Part], edges: Floats, time: _Time) -> Spec:
    spec = time.lines(
        "Requests finished", "requests/s", edges, parts, [series.finish_rate(p.rows, edges) for p in parts]
    )
    arriving = numbers(series.arrival_rate(parts[0].rows, edges))
    alike = all(np.array_equal(part.rows["arrival_s"], parts[0].rows["arrival_s"]) for part in parts)
    if alike:  # in a closed loop each system has arrivals of its own
        spec["series"].insert(0, {"name": "arriving", **_GREY, "x": time.middles(edges), "y": arriving})
    return spec


def _kv(page: Page, parts: Sequence[Part], edges: Floats, time: _Time) -> str:
    rooms = [series.kv_capacity(part.record.get("instances", ()), part.rows) for part in parts]
    if not all(rooms):
        return ""
    middles = (edges[1:] + edges[:-1]) / 2
    shares = [100 * series.kv_tokens(p.rows, middles) / room for p, room in zip(parts, rooms, strict=True)]
    spec = time.lines("KV cache in use", "% of the KV blocks of the instances that decode", edges, parts, shares)
    note = (
        "From the rows of completed requests: contexts held, a prefix that several share counted for each of them, a "
        "preempted request as if it had stayed."
    )
    return page.chart("kv", spec, note)


def _loads(page: Page, parts: Sequence[Part], end_s: float, time: _Time) -> str:
    edges, figures = series.edges_of(end_s, series.WINDOWS // 2), list[str]()
    for place, part in enumerate(parts):
        instances = part.record.get("instances", ())
        shown = [str(each["instance"]) for each in instances][: series.INSTANCES]
        if len(shown) < 2:
            continue
        loads = series.load_by_instance(part.rows, shown, edges, float(part.record["simulated_s"]))
        busy = [f"{name} {_busy(each, part)}" for name, each in zip(shown, instances, strict=False)]
        spec: Spec = {
            "type": "heat", "title": f"{part.system}: load by instance", "rows": busy, "z": [*map(numbers, loads)],
            "x": {"label": f"time, {time.unit}"}, "y": {"label": "instance, and the share of the run it worked"},
            "what": "requests on it", "root": True, "span": end_s / time.factor, "low": 0, "unit": "requests",
        }  # fmt: skip
        more = len(instances) > len(shown)
        note = f"The first {len(shown)} of {len(instances)} instances." if more else ""
        figures.append(page.chart(f"load{place}", spec, note))
    return grid(*figures)


def _busy(instance: dict[str, float], part: Part) -> str:
    span = float(part.record["simulated_s"])
    return f"{100 * instance['busy_s'] / span:.0f} %" if span else ""
