"""Which decode instance takes a prefilled request; None holds it until the next broadcast."""

from tetrisim.policies.views import PlacementView, RequestView, Rng, Snapshot

DRAWS = 8
"""Random draws for a member of the alpha set before all members are looked at; keeps placement O(1) in instances."""


WAITING = 0.05
"""Share of its KV memory from which on an instance that pulls takes nothing more (DistServe's default)."""


def power_of_two(view: PlacementView, request: RequestView, rng: Rng) -> int | None:
    """TetriInfer: two at random from the alpha set (room for the request), then the lower heavy:light ratio.

    The ratio is taken with the request added, so equal instances stay balanced (paper, section 3.3.4; our reading).
    """
    count, need, snapshot = view.count, request.prompt + request.predicted, view.snapshot
    first, second = int(rng.random() * count), int(rng.random() * count)
    one, two = snapshot(first), snapshot(second)
    if one.free_tokens < need or two.free_tokens < need:  # not both in alpha: draw from it more carefully
        drawn, again = _draw_alpha(view, request, rng), _draw_alpha(view, request, rng)
        if drawn is None or again is None:
            return None
        first, second = drawn, again
        one, two = snapshot(first), snapshot(second)
    if first == second:
        return first
    heavy = int(request.heavy)
    # heavy / light compared crosswise: no division by zero, and two without light ones compare by their heavy ones
    left = (one.heavy + heavy) * (two.light + 1 - heavy)
    right = (two.heavy + heavy) * (one.light + 1 - heavy)
    if left == right:
        return first if one.heavy <= two.heavy else second
    return first if left < right else second


def random(view: PlacementView, request: RequestView, rng: Rng) -> int | None:
    """Any of the alpha set."""
    return _draw_alpha(view, request, rng)


def round_robin(view: PlacementView, request: RequestView, rng: Rng) -> int | None:
    """In turn by order of arrival, room or not."""
    return request.id % view.count


def least_kv(view: PlacementView, request: RequestView, rng: Rng) -> int | None:
    """The most free KV tokens, the first of equals; looks at every instance."""
    best = max(range(view.count), key=lambda member: view.snapshot(member).free_tokens)
    return best if _has_room(view.snapshot(best), request.prompt + request.predicted) else None


def imbalance(view: PlacementView, request: RequestView, rng: Rng) -> int | None:
    """The worst case of the paper's Figure 19: heavy decodes always to the first instance, light ones to the others."""
    if request.heavy or view.count == 1:
        return 0
    return 1 + request.id % (view.count - 1)


def pull(view: PlacementView, request: RequestView, rng: Rng) -> int | None:
    """DistServe: the most free KV tokens of those where under 5 % of all wait; looks at every one as of now."""
    fed = [m for m in range(view.count) if view.snapshot(m).waiting_tokens < WAITING * view.snapshot(m).capacity_tokens]
    best = max(fed, key=lambda member: view.snapshot(member).free_tokens, default=None)
    return best if best is not None and _has_room(view.snapshot(best), request.prompt) else None


def _has_room(snapshot: Snapshot, need: int) -> bool:
    # A prediction above what the instance holds at all must not hold a request for ever: an empty one has room.
    return snapshot.free_tokens >= need or snapshot.free_tokens >= snapshot.capacity_tokens


def _draw_alpha(view: PlacementView, request: RequestView, rng: Rng) -> int | None:
    """A uniform draw from the alpha set: by rejection first, by listing it when that fails."""
    count, need = view.count, request.prompt + request.predicted
    for _ in range(DRAWS):
        member = int(rng.random() * count)
        snapshot = view.snapshot(member)
        if snapshot.free_tokens >= need or _has_room(snapshot, need):
            return member
    alpha = [member for member in range(count) if _has_room(view.snapshot(member), need)]
    return alpha[rng.randrange(len(alpha))] if alpha else None
