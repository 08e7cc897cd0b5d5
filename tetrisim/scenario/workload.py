"""Which requests arrive, and when."""

from dataclasses import dataclass
from typing import Literal

from tetrisim.scenario.classes import ClassSpec, check_classes
from tetrisim.scenario.sessions import SessionSpec

Arrivals = Literal["trace", "poisson", "gamma", "burst", "constant", "closed-loop"]
SESSIONS = "chat-sessions"
"""The trace whose requests are turns of sessions."""
TraceFormat = Literal["auto", "azure", "mooncake", "burstgpt", "csv"]


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """A trace (catalog name or path of a file) and how its requests arrive.

    `requests` keeps the first so many (a generator makes so many). `arrivals: trace` keeps the trace's own gaps,
    rescaled to the mean `rate_per_s` when one is given; the others need a rate, save `burst` (all at t = 0).
    `burstiness` is the shape of gamma gaps: 1 is Poisson, below 1 is burstier.

    `arrivals: closed-loop` keeps at most `concurrency` requests in the cluster: the first so many at t = 0, each of the
    others `think_s` after one has left. `trace: random` has lengths drawn evenly from `shortest` times to one times
    `prompt_tokens` and `output_tokens`. `trace: chat-sessions` in a closed loop has `concurrency` users who chat as
    `sessions` says; each request is a turn.
    """

    trace: str = "azure-conv-like"
    format: TraceFormat = "auto"
    requests: int | None = None
    arrivals: Arrivals = "trace"
    rate_per_s: float | None = None
    burstiness: float = 1.0
    concurrency: int | None = None
    think_s: float = 0.0
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    shortest: float = 1.0
    classes: tuple[ClassSpec, ...] = ()
    """Each request is drawn to be of one of them, by their shares."""
    sessions: SessionSpec | None = None

    def __post_init__(self) -> None:
        if self.requests is not None and not 1 <= self.requests <= 10**9:
            raise ValueError(f"requests: expected at least 1 and at most 10^9, not {self.requests}")
        if self.rate_per_s is not None and not 1e-6 <= self.rate_per_s <= 1e9:
            raise ValueError("rate: expected more than 0 /s: from 1e-6 to 1e9")
        if not self.burstiness > 0:
            raise ValueError("burstiness: expected more than 0")
        if self.arrivals in ("poisson", "gamma", "constant") and self.rate_per_s is None:
            raise ValueError(f"rate: expected with arrivals '{self.arrivals}', as in '10 /s'")
        self._check_loop()
        self._check_lengths()
        check_classes(self.classes)
        self._check_sessions()

    def _check_loop(self) -> None:
        closed = self.arrivals == "closed-loop"
        if closed and self.concurrency is None:
            raise ValueError("concurrency: expected with arrivals 'closed-loop', as in 64")
        for name, value in (("concurrency", self.concurrency), ("think", self.think_s)):
            if value and not closed:
                raise ValueError(f"{name}: expected with arrivals 'closed-loop' alone, not '{self.arrivals}'")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency: expected at least 1, not {self.concurrency}")
        if not 0 <= self.think_s <= 1e6:
            raise ValueError("think: expected from 0 s to 1e6 s")
        if closed and self.rate_per_s is not None:
            raise ValueError("rate: expected null with a closed loop, whose rate is what the cluster can do")

    def _check_sessions(self) -> None:
        if self.trace == SESSIONS and self.think_s:
            raise ValueError(f"think: expected 0 with trace '{SESSIONS}': its users read and type, as sessions says")
        if self.trace != SESSIONS and self.sessions is not None:
            raise ValueError(f"sessions: expected with trace '{SESSIONS}' alone")

    def _check_lengths(self) -> None:
        for name, tokens in (("prompt_tokens", self.prompt_tokens), ("output_tokens", self.output_tokens)):
            if tokens is not None and not 1 <= tokens <= 10**9:
                raise ValueError(f"{name}: expected at least 1 and at most 10^9, not {tokens}")
        if not 0 < self.shortest <= 1:
            raise ValueError(f"shortest: expected above 0 and at most 1, not {self.shortest}")
        if self.trace != "random":
            for name, given in (
                ("prompt_tokens", self.prompt_tokens is not None),
                ("output_tokens", self.output_tokens is not None),
                ("shortest", self.shortest != 1),
            ):
                if given:
                    raise ValueError(f"{name}: expected with trace 'random' alone: other traces have their own lengths")
