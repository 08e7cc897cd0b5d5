"""What advice is made of: a row a change, and what follows from all rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from tetrisim.scenario.gpu import dollars_per_hour
from tetrisim.scenario.scenario import Scenario
from tetrisim.scenario.slo import SloSpec
from tetrisim.studies.changes import Change, Refused
from tetrisim.studies.judge import Criterion, Probe, mean_busy, source_shares
from tetrisim.studies.seeds import Estimate, estimate

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["yes", "no", "unsure"]


@dataclass(frozen=True, slots=True)
class Row:
    """A change under every seed, paired with the scenario as it is.

    `shares`: by seed, the requests within the limit that the most miss (or within all). `latencies_s`: the binding
    metric's percentile (inf: not served). `extra_per_hour`: dollars at list prices; None for a faster link, which has
    none.
    """

    change: Change
    scenario: Scenario
    criterion: Criterion
    probes: tuple[Probe, ...]
    shares: tuple[float, ...]
    latencies_s: tuple[float, ...]
    extra_per_hour: float | None

    @property
    def share(self) -> Estimate:
        """Mean share with its interval."""
        return estimate(self.shares)

    @property
    def meets(self) -> Verdict:
        """Whether the SLO is met: unsure where seeds differ, and the interval of the share holds what is asked for."""
        asked, share, seeds_met = self.criterion.percent / 100, self.share, self.seeds_met
        if share.low >= asked or seeds_met == len(self.probes):
            return "yes"
        return "no" if share.high < asked or not seeds_met else "unsure"

    @property
    def seeds_met(self) -> int:
        """In how many seeds it is met."""
        return sum(not run.missed(self.criterion) for run in self.probes)

    @property
    def other_system(self) -> bool:
        """Whether it is another serving system on the same machines."""
        return "system" in self.change.settings

    @property
    def worst(self) -> str:
        """The metric that the most requests miss."""
        return worst(self.probes, self.scenario.slo)

    def at_s(self, metric: str) -> float:
        """A metric's percentile in seconds, the mean over seeds; inf where some seed did not serve so many."""
        return sum(run.at[metric] for run in self.probes) / len(self.probes)

    @property
    def estimated(self) -> float:
        """The share of step time that no profile covers."""
        return source_shares(self.probes)["estimated"]

    def share_difference(self, base: "Row") -> Estimate:
        """Paired, this less the other."""
        return estimate([own - other for own, other in zip(self.shares, base.shares, strict=True)])

    def latency_difference(self, base: "Row") -> Estimate | None:
        """Paired, this less the other; None where some seed has no latency at the percentile."""
        if inf in self.latencies_s or inf in base.latencies_s:
            return None
        return estimate([own - other for own, other in zip(self.latencies_s, base.latencies_s, strict=True)])


@dataclass(frozen=True)
class Advice:
    """A scenario as it is, and under changes: improvements where it misses its SLO, else savings.

    `binding` is the metric that the most requests miss (met: that is nearest its limit). `parts` are seconds that the
    requests that miss it (met: all) spent in each part of it. `pairs` are cheaper than a single change that meets it.
    """

    scenario: Scenario
    criterion: Criterion
    base: Row
    rows: tuple[Row, ...]
    pairs: tuple[Row, ...]
    refused: tuple[Refused, ...]
    binding: str
    parts: Mapping[str, float]
    requests: int
    fixed: bool
    wall_s: float

    @property
    def met(self) -> bool:
        """Whether the scenario meets its SLO as it is."""
        return self.base.meets == "yes"

    @property
    def answers(self) -> list[Row]:
        """Changes that meet the SLO, the cheapest first and those without a list price last; when met: that save."""
        rows = [row for row in self.rows + self.pairs if row.meets == "yes"]
        if self.met:
            rows = [row for row in rows if row.extra_per_hour is not None and row.extra_per_hour < 0]
        return sorted(rows, key=_order)

    @property
    def nearest(self) -> Row | None:
        """Of the changes that do not surely meet the SLO, the one that comes nearest."""
        return max((row for row in self.rows + self.pairs if row.meets != "yes"), key=score, default=None)

    @cached_property
    def table(self) -> "pd.DataFrame":
        """A row a change, the scenario as it is first."""
        import pandas as pd

        return pd.DataFrame([self._plain(row) for row in (self.base, *self.rows, *self.pairs)]).set_index("change")

    def summary(self) -> dict[str, Any]:
        """Plain values that JSON can hold; times in ms, null where a request was not served."""
        answers = self.answers
        return {
            "system": self.scenario.system,
            "percent": self.criterion.percent,
            "together": self.criterion.together,
            "warmup": self.criterion.warmup,
            "slo_ms": {name: limit * 1e3 for name, limit in self.scenario.slo.limits.items()},
            "met": self.base.meets,
            "binding": self.binding,
            "parts_s": dict(self.parts),
            "behind_in_seeds": sum(run.behind for run in self.base.probes),
            "busy": mean_busy(self.base.probes),
            "dollars_per_hour": dollars_per_hour(self.scenario.cluster),
            "base": self._plain(self.base),
            "changes": [self._plain(row) for row in self.rows],
            "pairs": [self._plain(row) for row in self.pairs],
            "not_tried": [{"change": each.name, "why": each.why} for each in self.refused],
            "answer": self._plain(answers[0]) if answers else None,
            "seeds": len(self.base.probes),
            "requests": self.requests,
            "same_requests_under_every_seed": self.fixed,
            "wall_s": self.wall_s,
            **{f"{name}_share": share for name, share in source_shares(self.base.probes).items()},
            "provenance": list(self.base.probes[0].provenance),
        }

    def _plain(self, row: Row) -> dict[str, Any]:
        latency = None if inf in row.latencies_s else estimate(row.latencies_s)
        gained = row.latency_difference(self.base)
        return {
            "change": row.change.name,
            "set": {key: value for key, value in row.change.settings.items()},
            "flags": row.change.flags,
            "meets": row.meets,
            "seeds_met": row.seeds_met,
            "worst": row.worst,
            "share": row.share.interval(),
            "share_difference": row.share_difference(self.base).interval(),
            "latency_ms": None if latency is None else latency.interval(1e3),
            "latency_difference_ms": None if gained is None else gained.interval(1e3),
            "extra_dollars_per_hour": row.extra_per_hour,
            "estimated_share": row.estimated,
        }

    def __str__(self) -> str:
        """The answer in sentences, around the table."""
        from tetrisim.studies.advise_text import lines

        return "\n".join(lines(self))


def worst(probes: Sequence[Probe], slo: SloSpec) -> str:
    """The metric that the most requests miss, or of several the one nearest its limit, in most seeds."""
    limit = slo.limits
    names = [min(run.within, key=lambda name: (run.within[name], -run.at[name] / limit[name])) for run in probes]
    return max(names, key=names.count)


def score(row: Row) -> tuple[float, float]:
    """How near a change comes: the share first; where that is level, the latency."""
    latencies = row.latencies_s
    return row.share.mean, -inf if inf in latencies else -sum(latencies) / len(latencies)


def price(row: Row) -> float:
    """Dollars an hour more; inf where there is no list price."""
    return inf if row.extra_per_hour is None else row.extra_per_hour


def _order(row: Row) -> tuple[float, bool, float]:
    """The order of answers: the cheapest first, at one price those that keep the system, then the best."""
    return price(row), row.other_system, -row.share.mean
