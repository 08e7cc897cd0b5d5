"""Which instance takes a new request."""

from math import inf, isinf

from tetrisim.policies import migration
from tetrisim.policies.views import LoadView, RequestView, Rng
from tetrisim.scenario.entry import RejectSpec


def least_loaded(view: LoadView, request: RequestView, rng: Rng) -> int:
    """The instance with the least load, the first of equals."""
    return view.least_loaded()


def round_robin(view: LoadView, request: RequestView, rng: Rng) -> int:
    """In turn by order of arrival."""
    return request.id % view.count


def virtual_load(view: LoadView, request: RequestView, rng: Rng) -> int:
    """Llumnix: the most free KV blocks a request, counting what those who wait want; looks at every instance."""
    return min(range(view.count), key=lambda member: migration.virtual_load(view.usage(member)))


def session_sticky(view: LoadView, request: RequestView, rng: Rng) -> int:
    """Where the session's turn before was served; its first turn goes to the least loaded."""
    return view.least_loaded() if request.home < 0 else request.home


def length_aware(view: LoadView, request: RequestView, rng: Rng) -> int:
    """TaiChi: a prompt of one large chunk or less goes where chunks are small, if its predicted TTFT is in the limit.

    All others go where chunks are large. Among those, the least predicted TTFT; looks at every instance.
    """
    usages = [view.usage(member) for member in range(view.count)]
    large = max(usage.chunk_tokens for usage in usages)
    late_s = [usage.ttft_s(request, usage.cached_tokens(request)) for usage in usages]
    if request.prompt <= large:
        small = [member for member, usage in enumerate(usages) if usage.chunk_tokens < large]
        first = min(small, key=lambda member: late_s[member], default=None)
        if first is not None and late_s[first] <= view.ttft_limit_s:
            return first
    return min((m for m, usage in enumerate(usages) if usage.chunk_tokens == large), key=lambda member: late_s[member])


def random(view: LoadView, request: RequestView, rng: Rng) -> int:
    """Any."""
    return rng.randrange(view.count)


def power_of_two(view: LoadView, request: RequestView, rng: Rng) -> int:
    """The less loaded of two drawn at random."""
    first, second = rng.randrange(view.count), rng.randrange(view.count)
    return first if view.load(first) <= view.load(second) else second


def prefix_aware(view: LoadView, request: RequestView, rng: Rng) -> int:
    """Dynamo: the fewest KV blocks to prefill, its own and those of others, plus blocks in use; looks at every one."""

    def cost(member: int) -> float:
        usage = view.usage(member)
        prefill = usage.expected_tokens() + request.prompt - usage.cached_tokens(request)
        return prefill / usage.block_tokens + usage.capacity_blocks - usage.free_blocks + usage.waiting_blocks()

    return min(range(view.count), key=cost)


def least_ttft(view: LoadView, request: RequestView, rng: Rng) -> int:
    """Mooncake (FAST'25, algorithm 1): the least predicted TTFT, its prefix found there or fetched; looks at every one.

    A prefix is fetched where that is sooner than to compute it again.
    """
    return min(enumerate(_ttfts_s(view, request)), key=lambda each: each[1][0])[0]


def fetch_if_sooner(view: LoadView, request: RequestView, member: int) -> int | None:
    """Mooncake: the instance with the longest prefix, when fetching it is sooner than to compute it again."""
    return _ttfts_s(view, request, member)[0][1]


def reject_late(view: LoadView, request: RequestView, spec: RejectSpec) -> bool:
    """Mooncake's early rejection: nobody is predicted to give the first token in time, or the others in theirs."""
    if spec.tpot_s is not None and view.tpot_s(request) > spec.tpot_s:
        return True
    return all(late_s > spec.ttft_s for late_s, _ in _ttfts_s(view, request))


def _ttfts_s(view: LoadView, request: RequestView, member: int | None = None) -> list[tuple[float, int | None]]:
    """The predicted TTFT at each (or one) member, and the one to fetch the prefix from, if that is sooner."""
    usages = [view.usage(each) for each in range(view.count)]
    longest, holder = 0, None
    if not isinf(view.fetch_s(0)):
        computed = [usage.computed_tokens(request) for usage in usages]
        longest = max(computed)
        holder = computed.index(longest)
    found: list[tuple[float, int | None]] = []
    for usage in usages if member is None else [usages[member]]:
        own = usage.cached_tokens(request)
        here, there = usage.ttft_s(request, own), inf
        if longest > own:
            there = view.fetch_s(longest - own) + usage.ttft_s(request, longest)
        found.append((there, holder) if there < here else (here, None))
    return found
