"""Policies at the entry that no system has: they refuse nobody, fetch at any price, and look at all there is to see."""

from zlib import crc32


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
    """Goes where a checksum of all that can be seen says, so that nothing can differ unseen."""
    seen = [request.id, view.tpot_s(request)]
    for member in range(view.count):
        usage = view.usage(member)
        cached = usage.cached_tokens(request)
        seen += [usage.free_blocks, usage.requests, usage.decoding, usage.waiting_blocks(), usage.pending_tokens()]
        seen += [usage.first_waiting_blocks(), usage.expected_tokens(), cached, usage.computed_tokens(request)]
        seen.append(usage.ttft_s(request, cached))
    return crc32(repr(seen).encode()) % view.count
