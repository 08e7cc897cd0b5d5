"""A migration policy that moves for the sake of measuring: at each tick one request, from the first instance on."""

from collections.abc import Sequence

from tetrisim.policies.migration import Move
from tetrisim.policies.views import MemberView
from tetrisim.scenario.control import MigrateSpec


def one_by_one(members: Sequence[MemberView], spec: MigrateSpec) -> list[Move]:
    """The first request that decodes at the first instance goes to the second."""
    return [(who, 0, 1) for who in members[0].decodes()[:1]]
