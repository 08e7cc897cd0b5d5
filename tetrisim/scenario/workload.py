"""Which requests arrive, and when."""

from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["trace", "poisson", "gamma", "burst", "constant"]
TraceFormat = Literal["auto", "azure", "mooncake", "burstgpt", "csv"]


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """A trace (catalog name or path of a file) and how its requests arrive.

    `requests` keeps the first so many (a generator makes so many). `arrivals: trace` keeps the trace's own gaps,
    rescaled to the mean `rate_per_s` when one is given; the others need a rate, save `burst` (all at t = 0).
    `burstiness` is the shape of gamma gaps: 1 is Poisson, below 1 is burstier.
    """

    trace: str = "azure-conv-like"
    format: TraceFormat = "auto"
    requests: int | None = None
    arrivals: Arrivals = "trace"
    rate_per_s: float | None = None
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        if self.requests is not None and not 1 <= self.requests <= 10**9:
            raise ValueError(f"requests: expected at least 1 and at most 10^9, not {self.requests}")
        if self.rate_per_s is not None and not 1e-6 <= self.rate_per_s <= 1e9:
            raise ValueError("rate: expected more than 0 /s: from 1e-6 to 1e9")
        if not self.burstiness > 0:
            raise ValueError("burstiness: expected more than 0")
        if self.arrivals in ("poisson", "gamma", "constant") and self.rate_per_s is None:
            raise ValueError(f"rate: expected with arrivals '{self.arrivals}', as in '10 /s'")
