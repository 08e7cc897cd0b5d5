"""What happens to a request at its entry: turned away, or its prefix fetched."""

from dataclasses import dataclass

from tetrisim.scenario.checks import not_negative, positive


@dataclass(frozen=True, slots=True)
class RejectSpec:
    """Who is turned away on arrival: by `never` nobody, by `late` those whose predicted times are over a limit.

    `ttft_s`: until the first token; `tpot_s`: of a decode step with those decoding and those being prefilled now.
    """

    policy: str = "never"
    ttft_s: float = 30.0
    tpot_s: float | None = None

    def __post_init__(self) -> None:
        positive(ttft=self.ttft_s, tpot=self.tpot_s)


@dataclass(frozen=True, slots=True)
class FetchSpec:
    """How prefill instances get each other's prefixes: `bandwidth` of each one's port, one way; `never` they do not.

    `if-sooner`: when that is predicted to be sooner than to compute it again. The request joins the queue when all of
    it is there.
    """

    policy: str = "never"
    bandwidth_bytes_per_s: float = 25e9
    latency_s: float = 5e-6

    def __post_init__(self) -> None:
        positive(bandwidth=self.bandwidth_bytes_per_s)
        not_negative(latency=self.latency_s)
