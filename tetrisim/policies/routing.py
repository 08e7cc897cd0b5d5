"""Which instance takes a new request."""

from tetrisim.policies.views import LoadView, RequestView, Rng


def least_loaded(view: LoadView, request: RequestView, rng: Rng) -> int:
    """The instance with the least load, the first of equals."""
    return view.least_loaded()


def round_robin(view: LoadView, request: RequestView, rng: Rng) -> int:
    """In turn by order of arrival."""
    return request.id % view.count


def random(view: LoadView, request: RequestView, rng: Rng) -> int:
    """Any."""
    return rng.randrange(view.count)


def power_of_two(view: LoadView, request: RequestView, rng: Rng) -> int:
    """The less loaded of two drawn at random."""
    first, second = rng.randrange(view.count), rng.randrange(view.count)
    return first if view.load(first) <= view.load(second) else second
