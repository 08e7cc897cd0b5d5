"""Migration policies that no system has: they move for the sake of moving."""


def in_turn(members, spec):
    """Everybody who decodes goes on to the next instance."""
    nobody(members, spec)
    count = len(members)
    return [(who, at, (at + 1) % count) for at, member in enumerate(members) for who in member.decodes() if count > 1]


def once(members, spec):
    """The first request of the first instance goes to the second."""
    return [(who, 0, 1) for who in members[0].decodes()[:1]]


def back(members, spec):
    """The first request of the second instance goes to the first."""
    return [(who, 1, 0) for who in members[1].decodes()[:1]]


def nobody(members, spec):
    """Looks at all, moves none; what waits is counted right."""
    for member in members:
        engine = member._instance.engine
        wanted = sum(engine.kv.blocks(request.target) for request in (*engine.waiting.ordered, *engine.waiting.raw))
        assert member.waiting_blocks() == wanted + sum(
            engine.kv.blocks(each.target) - engine.kv.blocks(each.computed) for each in engine.partials
        )
        _ = member.free_blocks, member.decodes(), member.pending_tokens()
    return []
