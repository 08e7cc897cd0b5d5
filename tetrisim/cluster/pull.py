"""Decode instances that pull: what they take is their own choice, so it is made on their load as of now."""

from tetrisim.cluster.dispatcher import Dispatcher
from tetrisim.cluster.load import LoadSnapshot


class PullDispatcher(Dispatcher):
    """A request that no decode instance wants keeps its KV at the prefill instance, and all those after it wait, too.

    They are looked at again once a broadcast period.
    """

    def snapshot(self, member: int) -> LoadSnapshot:
        """The load as of now."""
        instance = self.members[member]
        kv, load, snapshot = instance.engine.kv, instance.load, instance.snapshot
        steps = instance.steps_done(self._now)
        free = kv.free - (instance.engine.batch.growth(steps) if steps else 0)
        snapshot.free_tokens = free * kv.block_tokens - load.pending_tokens
        snapshot.waiting_tokens = load.pending_tokens
        snapshot.heavy, snapshot.light = load.heavy, load.assigned - load.heavy
        return snapshot
