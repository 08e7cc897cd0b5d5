"""What a policy may look at. Every attribute is read-only to it; the station applies the choice."""

from collections.abc import Sequence
from typing import Protocol


class RequestView(Protocol):
    """A request as schedulers know it. The true output length is not here: only the predictor sees it."""

    @property
    def id(self) -> int:
        """Order of arrival, from 0."""
        ...

    @property
    def prompt(self) -> int:
        """Prompt tokens."""
        ...

    @property
    def predicted(self) -> int:
        """Lower end of the predicted range of output tokens (0 when nothing is predicted)."""
        ...

    @property
    def heavy(self) -> bool:
        """Predicted to be a heavy decode."""
        ...

    @property
    def priority(self) -> int:
        """That of its class: 0 is urgent, and what all have where there are no classes."""
        ...

    @property
    def home(self) -> int:
        """The member that served the turn of its session before; -1 where there was none."""
        ...


class DecodeView(Protocol):
    """A decode instance at the moment it may admit a request."""

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        ...

    @property
    def free_blocks(self) -> int:
        """KV blocks free now."""
        ...

    def blocks(self, tokens: int) -> int:
        """KV blocks that hold so many tokens."""
        ...

    def growth(self, steps: int) -> int:
        """Blocks that the running batch will take in its next steps."""
        ...

    def shortest_remaining(self) -> int:
        """Steps until the first running sequence is predicted to finish, at least 1 (an overdue one is due next)."""
        ...


class RunningView(Protocol):
    """A request that decodes."""

    @property
    def blocks(self) -> int:
        """KV blocks that it holds."""
        ...

    @property
    def shown(self) -> int:
        """Tokens that it has shown."""
        ...

    @property
    def tpot_share(self) -> float:
        """Its time per token after the first, so far, as a share of the TPOT limit; 0 without a limit."""
        ...


class MemberView(Protocol):
    """An instance as of now."""

    @property
    def capacity_blocks(self) -> int:
        """KV blocks in all."""
        ...

    @property
    def free_blocks(self) -> int:
        """KV blocks free."""
        ...

    @property
    def requests(self) -> int:
        """Requests here or on their way here."""
        ...

    @property
    def decoding(self) -> int:
        """Those of them that decode."""
        ...

    @property
    def block_tokens(self) -> int:
        """Tokens of a KV block."""
        ...

    @property
    def chunk_tokens(self) -> int:
        """Prompt tokens that a step can compute at most."""
        ...

    @property
    def preempted(self) -> bool:
        """Whether it has preempted anybody since the last look."""
        ...

    def waiting_blocks(self) -> int:
        """KV blocks that prompts still want: those that wait, and the rest of those begun."""
        ...

    def first_waiting_blocks(self) -> int:
        """The same of the first that waits; 0 when nobody does."""
        ...

    def pending_tokens(self) -> int:
        """Prompt tokens that wait or are left of prompts begun (a prefill instance: all of those)."""
        ...

    def expected_tokens(self) -> int:
        """Prompt tokens of those without a first token, less what was found in the prefix cache when they came."""
        ...

    def cached_tokens(self, request: RequestView) -> int:
        """Tokens of its prompt that are in the prefix cache here."""
        ...

    def computed_tokens(self, request: RequestView) -> int:
        """Those of them that others can fetch: not what a prefill in progress is about to compute."""
        ...

    def ttft_s(self, request: RequestView, cached_tokens: int) -> float:
        """Its TTFT by the step times of prompts alone: those before it, then its own beyond `cached_tokens`."""
        ...

    def decodes(self) -> Sequence[RunningView]:
        """The requests that decode and do not move already, in order of admission."""
        ...


class LoadView(Protocol):
    """The instances that may take a new request, by load; members are numbered 0 to `count` - 1."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def load(self, member: int) -> int:
        """Prompt tokens not yet prefilled (prefill instance), or unfinished requests (hybrid)."""
        ...

    def least_loaded(self) -> int:
        """The member of lowest load, the lowest number on ties, in O(log n)."""
        ...

    def usage(self, member: int) -> MemberView:
        """What one holds and has to do, as of now."""
        ...

    @property
    def ttft_limit_s(self) -> float:
        """The TTFT limit; infinite without one."""
        ...

    def fetch_s(self, tokens: int) -> float:
        """Time to fetch the KV of so many tokens from another member; infinite where they share none."""
        ...

    def tpot_s(self, request: RequestView) -> float:
        """The least time of a decode step when it has been prefilled, nobody having left; 0 in hybrid pools."""
        ...


class Snapshot(Protocol):
    """A decode instance as of the last broadcast."""

    @property
    def free_tokens(self) -> int:
        """KV tokens free, less the prompts of requests on their way or waiting there."""
        ...

    @property
    def capacity_tokens(self) -> int:
        """KV tokens in all."""
        ...

    @property
    def waiting_tokens(self) -> int:
        """Prompt tokens of requests on their way or waiting there."""
        ...

    @property
    def heavy(self) -> int:
        """Heavy decodes assigned and unfinished."""
        ...

    @property
    def light(self) -> int:
        """Light decodes assigned and unfinished."""
        ...


class PlacementView(Protocol):
    """The decode instances, each as of the last broadcast; members are numbered 0 to `count` - 1."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def snapshot(self, member: int) -> Snapshot:
        """The broadcast load of one member."""
        ...


class FlipView(Protocol):
    """An instance at the moment its role may change."""

    @property
    def idle_s(self) -> float:
        """How long it has had nothing to do; 0 while it has work."""
        ...

    @property
    def busy(self) -> float:
        """Share of the last full period that it was at work."""
        ...

    @property
    def peers(self) -> int:
        """Instances of its present role that are to keep it, itself included."""
        ...

    @property
    def other_role_works(self) -> bool:
        """Whether the other role has unfinished work."""
        ...

    @property
    def other_role_busy(self) -> float:
        """The mean of `busy` over the instances of the other role."""
        ...


class RoleView(Protocol):
    """All instances of a role that are to keep it."""

    @property
    def instances(self) -> int:
        """How many there are."""
        ...

    @property
    def load(self) -> float:
        """How near the role is to its latency limit (1 is at it); that of decode also counts memory."""
        ...

    @property
    def memory(self) -> float:
        """KV memory held and wanted, as a share of all (decode)."""
        ...

    @property
    def pending_tokens(self) -> int:
        """Prompt tokens that wait or are being computed (prefill)."""
        ...


class FleetView(Protocol):
    """The instances that serve."""

    @property
    def instances(self) -> int:
        """How many there are."""
        ...

    @property
    def kv_use(self) -> float:
        """KV blocks in use, as a share of all of theirs."""
        ...

    @property
    def waiting(self) -> float:
        """Requests that have not begun, a mean over the instances."""
        ...


class Rng(Protocol):
    """The random stream a policy draws from."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def randrange(self, stop: int, /) -> int:
        """Uniform in 0 to `stop` - 1."""
        ...
