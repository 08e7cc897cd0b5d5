"""Policies at the entry that no system has: they refuse nobody, fetch at any price, and look at all there is to see."""


def nobody(view, request, spec):
    """Turns nobody away."""
    return False


def nowhere(view, request, member):
    """Fetches nothing."""
    return


def longest(view, request, member):
    """Fetches whatever is longer elsewhere, however long that takes."""
    return max(range(view.count), key=lambda other: view.usage(other).computed_tokens(request))


def by_all_there_is(view, request, rng):
    """Goes where a sum of all that can be seen says, so that nothing can differ unseen."""
    seen = request.id + round(view.tpot_s(request) * 1e9)
    for member in range(view.count):
        usage = view.usage(member)
        cached = usage.cached_tokens(request)
        seen += 3 * usage.free_blocks + 5 * usage.requests + 7 * usage.waiting_blocks() + 11 * usage.pending_tokens()
        seen += 13 * usage.first_waiting_blocks() + 17 * usage.decoding + 19 * cached
        seen += 23 * usage.computed_tokens(request) + round(usage.ttft_s(request, cached) * 1e9)
    return seen % view.count
