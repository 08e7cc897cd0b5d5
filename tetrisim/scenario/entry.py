"""What happens to a request at its entry: turned away, or its prefix fetched."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RejectSpec:
    """Who is turned away on arrival: by `never` nobody, by `late` those predicted to see no token within `ttft_s`."""

    policy: str = "never"
    ttft_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.ttft_s > 0:
            raise ValueError("ttft: expected more than 0")


@dataclass(frozen=True, slots=True)
class FetchSpec:
    """How prefill instances get each other's prefixes: `bandwidth` of each one's port, one way; `never` they do not.

    `if-sooner`: when that is predicted to be sooner than to compute it again. The prefill waits until all of it is
    there.
    """

    policy: str = "never"
    bandwidth_bytes_per_s: float = 25e9
    latency_s: float = 5e-6

    def __post_init__(self) -> None:
        if not self.bandwidth_bytes_per_s > 0:
            raise ValueError("bandwidth: expected more than 0")
        if self.latency_s < 0:
            raise ValueError("latency: expected at least 0")
