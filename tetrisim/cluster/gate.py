"""What the gate before decode sees of its engine."""

from tetrisim.cluster.batch import DecodeBatch
from tetrisim.cluster.kvcache import KVCache


class GateView:
    """A DecodeView; the two numbers are set anew before an admission policy is asked."""

    def __init__(self, batch: DecodeBatch, kv: KVCache) -> None:
        self.running = self.free_blocks = 0
        self.blocks = kv.blocks
        self.growth = batch.growth
        self.shortest_remaining = batch.shortest_remaining
