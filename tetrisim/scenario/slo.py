"""What counts as served well."""

from dataclasses import dataclass

from tetrisim.scenario.checks import positive


@dataclass(frozen=True, slots=True)
class SloSpec:
    """A request is good when every limit given here holds for it (`vllm bench serve --goodput`)."""

    ttft_s: float | None = 1.0
    tpot_s: float | None = 0.1
    e2el_s: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by metric (TTFT, TPOT, E2EL), in seconds."""
        given = {"TTFT": self.ttft_s, "TPOT": self.tpot_s, "E2EL": self.e2el_s}
        return {metric: limit for metric, limit in given.items() if limit is not None}

    def __post_init__(self) -> None:
        positive(ttft=self.ttft_s, tpot=self.tpot_s, e2el=self.e2el_s)
