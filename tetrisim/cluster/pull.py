"""Decode instances that pull: what they take is their own choice, so it is made on their load as of now."""

from tetrisim.cluster.dispatcher import Dispatcher
from tetrisim.cluster.load import LoadSnapshot
from tetrisim.cluster.monitor import take_snapshot


class PullDispatcher(Dispatcher):
    """A request that no decode instance wants keeps its KV at the prefill instance, and all those after it wait, too.

    They are looked at again once a broadcast period.
    """

    def snapshot(self, member: int) -> LoadSnapshot:
        """The load as of now."""
        instance = self.members[member]
        take_snapshot(instance, self._now)
        return instance.snapshot
