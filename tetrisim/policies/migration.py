"""Which running requests move to which instance. A policy sees all instances and names moves: who, from, to."""

from collections.abc import Sequence
from math import inf

from tetrisim.policies.views import MemberView, RunningView
from tetrisim.scenario.control import MigrateSpec

Move = tuple[RunningView, int, int]
"""A request that decodes, the member where it is, and the member it is to go to."""


def virtual_load(member: MemberView, requests: int = 0, blocks: int = 0) -> float:
    """Llumnix: less the free blocks a request, where those who wait have already taken what they want; -inf when empty.

    `requests` and `blocks` are added to what the member has and holds.
    """
    count = member.requests + requests
    return -(member.free_blocks - member.waiting_blocks() - blocks) / count if count > 0 else -inf


def never(members: Sequence[MemberView], spec: MigrateSpec) -> list[Move]:
    """Everybody stays."""
    return []


def balance(members: Sequence[MemberView], spec: MigrateSpec) -> list[Move]:
    """Llumnix `balanced`: the fullest pairs with the emptiest, if the difference shrinks and does not turn round."""
    moves: list[Move] = []
    for source, target in _pairs([virtual_load(member) for member in members], members, spec):
        who = _shortest(members[source])
        if who is None:
            continue
        before = virtual_load(members[source]) - virtual_load(members[target])
        after = virtual_load(members[source], -1, -who.blocks) - virtual_load(members[target], 1, who.blocks)
        if 0 < after < before:
            moves.append((who, source, target))
    return moves


def defragment(members: Sequence[MemberView], spec: MigrateSpec) -> list[Move]:
    """Llumnix `defrag`: where the first that waits finds no room, running ones go to the emptiest instance."""
    moves: list[Move] = []
    for source, target in _pairs([_load_of_first(member) for member in members], members, spec):
        who = _shortest(members[source])
        if who is not None:
            moves.append((who, source, target))
    return moves


def flow(members: Sequence[MemberView], spec: MigrateSpec) -> list[Move]:
    """TaiChi: decodes belong where chunks are small; the longest answers leave what is full, and come back when late.

    A request whose first token has come from an instance of large chunks goes to one of small chunks with room for it.
    """
    large = max(member.chunk_tokens for member in members)
    small = [place for place, member in enumerate(members) if member.chunk_tokens < large]
    others = [place for place, member in enumerate(members) if member.chunk_tokens == large]
    room = [member.free_blocks - (1 - spec.full) * member.capacity_blocks for member in members]
    moves: list[Move] = []

    def move(who: RunningView, source: int, targets: list[int]) -> None:
        target = max(targets, key=lambda place: room[place], default=source)
        if target != source and room[target] >= who.blocks:
            moves.append((who, source, target))
            room[source] += who.blocks
            room[target] -= who.blocks

    for source in others:
        for who in members[source].decodes():
            if who.shown == 1 or who.tpot_share >= spec.late:
                move(who, source, small)
    for source in small:
        if room[source] < 0:
            for who in sorted(members[source].decodes(), key=lambda who: -who.shown):
                if room[source] < 0 and who.tpot_share < spec.late:
                    move(who, source, others)
    return moves


def _load_of_first(member: MemberView) -> float:
    """The virtual load when only the first of those who wait counts."""
    first = member.first_waiting_blocks()
    count = member.decoding + (first > 0)
    return -(member.free_blocks - first) / count if count else -inf


def _pairs(loads: list[float], members: Sequence[MemberView], spec: MigrateSpec) -> list[tuple[int, int]]:
    """Sources by falling load, each with the target that is next by rising load."""
    full = [load > -spec.low_blocks or member.preempted for load, member in zip(loads, members, strict=True)]
    sources = sorted((place for place, out in enumerate(full) if out), key=lambda place: -loads[place])
    targets = sorted((place for place, out in enumerate(full) if not out), key=lambda place: loads[place])
    return list(zip(sources, targets, strict=False))


def _shortest(member: MemberView) -> RunningView | None:
    """The decoding request that holds the fewest blocks, the first of equals."""
    return min(member.decodes(), key=lambda who: who.blocks, default=None)
