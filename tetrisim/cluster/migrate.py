"""Live migration: a running request's KV is copied to another instance while it goes on decoding.

Stage by stage what has come since the last one is copied in turn; for the last copy, a short one, the request stops,
and it goes on at the destination, where its blocks have been held from the beginning. A migration is called off when
the request finishes or is preempted, or when the destination has no block left for it; then it stays where it is.

What a step of one instance does to another takes effect one tick later, when all that happens at the moment of the
step's end has happened, by windows or by single steps alike.
"""

from collections.abc import Callable, Sequence
from math import inf

from tetrisim.cluster.clock import DELIVER, Alarm, Clock
from tetrisim.cluster.link import Link, Transfer
from tetrisim.cluster.mobile import MobileInstance
from tetrisim.cluster.recorder import Recorder
from tetrisim.cluster.request import NEVER, Request
from tetrisim.cluster.scheduler import LoadIndex
from tetrisim.cluster.usage import Decode, Usage
from tetrisim.policies.migration import Move
from tetrisim.policies.registry import find_policy
from tetrisim.policies.views import MemberView
from tetrisim.scenario.control import MigrateSpec
from tetrisim.scenario.slo import SloSpec

Policy = Callable[[Sequence[MemberView], MigrateSpec], list[Move]]


class Migration:
    """One request on its way from `source` to `target`."""

    __slots__ = ("held", "over", "request", "sent", "source", "stage", "start", "stop", "target", "transfer")

    def __init__(self, request: Request, source: MobileInstance, target: MobileInstance, now: int) -> None:
        self.request, self.source, self.target, self.start = request, source, target, now
        self.stage = 1
        self.sent = self.held = 0
        """Tokens whose KV has been copied or is on its way; tokens that blocks are held for."""
        self.stop = NEVER
        """When the request stopped for the last copy."""
        self.transfer: Transfer | None = None
        self.over = False


class Migrator:
    """Asks the policy once a tick, and carries its moves out."""

    def __init__(
        self,
        env: Clock,
        members: Sequence[MobileInstance],
        spec: MigrateSpec,
        slo: SloSpec,
        bytes_per_token: int,
        recorder: Recorder,
    ) -> None:
        self.env, self.members, self._spec, self._tpot_limit_s = env, members, spec, slo.tpot_s or inf
        self._policy: Policy = find_policy("migrate", spec.policy, "cluster.migrate.policy")
        self._bytes_per_token, self._recorder = bytes_per_token, recorder
        self.index: LoadIndex
        self._out = {each.number: Link(env, spec.bandwidth_bytes_per_s, spec.latency_s) for each in members}
        self._in = {each.number: Link(env, spec.bandwidth_bytes_per_s, spec.latency_s) for each in members}
        self._leaving = dict.fromkeys(self._out, 0)
        self._coming = dict.fromkeys(self._out, 0)
        self._under_way: dict[Request, Migration] = {}
        self._preemptions = [0] * len(members)
        for member in members:
            self.equip(member)

    @property
    def summary(self) -> str:
        """What is modelled, for the provenance of a run."""
        spec = self._spec
        rate = spec.bandwidth_bytes_per_s / 1e9
        how = f"live in at most {spec.stages} stages" if spec.mode == "live" else "stopped for one copy"
        return f"modelled: requests move {how}, KV at {rate:g} GB/s an instance one way, at no cost to steps"

    def equip(self, member: MobileInstance) -> None:
        """Listen to a member's engine."""
        engine = member.mobile
        engine.on_stopped, engine.on_lost, engine.on_joined = self._stopped, self._lost, self._joined
        if self._spec.at_first_token:
            engine.on_decoding = lambda _: self._soon(self.control)

    def control(self, now: int) -> None:
        """One tick: what the policy wants and the instances have hands for."""
        counts = [member.mobile.preemptions for member in self.members]
        views = [
            Usage(member, count > before, self._tpot_limit_s)
            for member, count, before in zip(self.members, counts, self._preemptions, strict=True)
        ]
        self._preemptions = counts
        for who, source, target in self._policy(views, self._spec):
            assert isinstance(who, Decode)
            self.begin(who.request, self.members[source], self.members[target], now)

    def begin(self, request: Request, source: MobileInstance, target: MobileInstance, now: int) -> bool:
        """Start to move a request that decodes at `source`, unless one of the two is busy or there is no room."""
        most = self._spec.at_once
        if self._leaving[source.number] >= most or self._coming[target.number] >= most:
            return False
        source.sync(now)
        migration = Migration(request, source, target, now)
        if not self._hold(migration, self._context(migration), now):
            return False
        source.mobile.moving[request] = None
        target.assigned += 1
        self._leaving[source.number] += 1
        self._coming[target.number] += 1
        self._under_way[request] = migration
        self._next_stage(migration, now)
        return True

    def _context(self, migration: Migration) -> int:
        """Tokens with KV of a request whose source is in sync."""
        return migration.request.base + migration.source.engine.batch.step_no

    def _hold(self, migration: Migration, tokens: int, now: int) -> bool:
        """Hold blocks at the destination for so many tokens in all, if there is room."""
        target = migration.target
        target.sync(now)
        if not target.mobile.hold(migration.request, migration.held, tokens):
            return False
        migration.held = tokens
        target.nudge(now)  # its window was planned with more memory
        return True

    def _next_stage(self, migration: Migration, now: int) -> None:
        """Copy what has come since the last stage, or stop the request when that is little."""
        spec, kv = self._spec, migration.source.engine.kv
        context = self._context(migration)
        left = kv.blocks(context) - migration.sent // kv.block_tokens
        if spec.mode == "stop" or migration.stage >= spec.stages or left <= spec.last_blocks:
            migration.source.mobile.stop(migration.request)
            migration.source.nudge(now)
        else:
            self._send(migration, context, lambda at: self._copied(migration, at))

    def _send(self, migration: Migration, context: int, on_done: Callable[[int], None]) -> None:
        size = (context - migration.sent) * self._bytes_per_token
        migration.sent = context
        inward = self._in[migration.target.number]
        migration.transfer = self._out[migration.source.number].send(size, on_done, (inward,))

    def _copied(self, migration: Migration, now: int) -> None:
        """A stage has arrived, and the request still decodes at its source."""
        if migration.over:
            return
        migration.source.sync(now)
        migration.stage += 1
        if self._hold(migration, self._context(migration), now):
            self._next_stage(migration, now)
        else:
            del migration.source.mobile.moving[migration.request]
            self._close(migration, "no room")
            self._undo(migration, now)

    def _stopped(self, request: Request) -> None:
        migration = self._under_way[request]
        migration.stop = self.env.now
        self._soon(lambda now: self._last_copy(migration, now))

    def _last_copy(self, migration: Migration, now: int) -> None:
        request, source = migration.request, migration.source
        if self._hold(migration, request.computed, now):
            self._send(migration, request.computed, lambda at: self._arrived(migration, at))
            return
        self._close(migration, "no room")
        self._undo(migration, now)
        source.mobile.take(request)
        source.sync(now)
        source.nudge(now)

    def _arrived(self, migration: Migration, now: int) -> None:
        """All is there: the source frees its copy, and the destination goes on."""
        request, source, target = migration.request, migration.source, migration.target
        source.sync(now)
        source.mobile.give_up(request, request.computed)
        source.assigned -= 1
        if not source.assigned:
            source.idle_since = now
        source.nudge(now)
        target.sync(now)
        target.mobile.take(request)
        if target.role == "decode":
            source.load.remove(request)
            target.load.add(request)
            target.load.join(request)
        self.index.shrink(source.number, 1)
        self.index.shrink(target.number, -1)
        target.nudge(now)

    def _joined(self, request: Request, decoding: bool) -> None:
        migration = self._under_way.get(request)
        if migration is not None:  # else it is back where it was
            self._close(migration, "moved" if decoding else "recomputed")

    def _lost(self, request: Request, why: str) -> None:
        migration = self._under_way[request]
        self._close(migration, why)
        self._soon(lambda now: self._undo(migration, now))

    def _close(self, migration: Migration, outcome: str) -> None:
        """The end of a migration, one way or another."""
        migration.over = True
        del self._under_way[migration.request]
        self._leaving[migration.source.number] -= 1
        self._coming[migration.target.number] -= 1
        self._recorder.moves.append((
            migration.request.id, migration.source.number, migration.target.number, migration.start, migration.stop,
            self.env.now, migration.stage, migration.sent, outcome,
        ))  # fmt: skip

    def _undo(self, migration: Migration, now: int) -> None:
        """Give back what a migration that was called off holds."""
        target = migration.target
        if migration.transfer is not None:
            migration.transfer.cancel()
        target.sync(now)
        target.mobile.give_up(migration.request, migration.held)
        target.assigned -= 1
        if not target.assigned:
            target.idle_since = now
        target.nudge(now)

    def _soon(self, call: Callable[[int], None]) -> None:
        self.env.arm(Alarm(lambda alarm: call(alarm.at)), self.env.now + 1, DELIVER)
