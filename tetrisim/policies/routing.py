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
