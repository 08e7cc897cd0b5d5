"""Which instance takes a new request."""

from tetrisim.policies import migration
from tetrisim.policies.views import LoadView, RequestView, Rng


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


def random(view: LoadView, request: RequestView, rng: Rng) -> int:
    """Any."""
    return rng.randrange(view.count)


def power_of_two(view: LoadView, request: RequestView, rng: Rng) -> int:
    """The less loaded of two drawn at random."""
    first, second = rng.randrange(view.count), rng.randrange(view.count)
    return first if view.load(first) <= view.load(second) else second


def prefix_aware(view: LoadView, request: RequestView, rng: Rng) -> int:
    """Dynamo: the fewest KV blocks to compute for the prompt plus blocks in use; looks at every instance."""

    def cost(member: int) -> float:
        usage = view.usage(member)
        left = request.prompt - usage.cached_tokens(request)
        return left / usage.block_tokens + usage.capacity_blocks - usage.free_blocks

    return min(range(view.count), key=cost)


def least_ttft(view: LoadView, request: RequestView, rng: Rng) -> int:
    """Mooncake (FAST'25, algorithm 1): the least predicted TTFT, its prefix found there or fetched; looks at every one.

    A prefix is fetched where that is sooner than to compute it again.
    """
    cached = _cached(view, request)
    return min(range(view.count), key=lambda member: _ttft_s(view, request, member, cached)[0])


def fetch_if_sooner(view: LoadView, request: RequestView, member: int) -> int | None:
    """Mooncake: the instance with the longest prefix, when fetching it is sooner than to compute it again."""
    return _ttft_s(view, request, member, _cached(view, request))[1]


def _cached(view: LoadView, request: RequestView) -> list[int]:
    return [view.usage(member).cached_tokens(request) for member in range(view.count)]


def _ttft_s(view: LoadView, request: RequestView, member: int, cached: list[int]) -> tuple[float, int | None]:
    """The predicted TTFT at a member, and the one to fetch the prefix from, if that is sooner."""
    usage, own, longest = view.usage(member), cached[member], max(cached)
    here = usage.ttft_s(request, own)
    if longest > own:
        there = view.fetch_s(longest - own) + usage.ttft_s(request, longest)
        if there < here:
            return there, cached.index(longest)
    return here, None


def reject_late(view: LoadView, request: RequestView, limit_s: float) -> bool:
    """Mooncake's early rejection: nobody is predicted to give the first token in time."""
    cached = _cached(view, request)
    return all(_ttft_s(view, request, member, cached)[0] > limit_s for member in range(view.count))
