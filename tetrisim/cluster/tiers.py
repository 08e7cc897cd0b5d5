"""The KV of sessions between turns: in free blocks of a GPU, in host memory, on a disk, at one instance or another.

Layers are kept and loaded from the lowest up, so one number says which are in a GPU. What is there takes free blocks
only, and gives them back at once when the engine wants them (the last layers of who waits longest go first): a copy
below outlives it. A session has one such copy; it moves when another instance serves a turn or is told to expect one.

A turn that is preempted loads anew what earlier turns left.

What is not modelled: copies count as made when the turn ends (their bytes take the link's time all the same), a move
down from host to disk takes none, and KV that comes over the network or from a disk for a turn that waits for it goes
on to the GPU layer by layer without counting against the host link, which is faster.
"""

from collections.abc import Callable

from tetrisim.cluster.clock import DELIVER, Alarm, Clock
from tetrisim.cluster.instance import Instance
from tetrisim.cluster.link import Link, Transfer
from tetrisim.cluster.request import NEVER, Turn
from tetrisim.scenario.tiers import TierSpec

HOST, DISK = "host", "disk"
PULL, READ, RAISE = "pull", "read", "raise"
"""What a transfer does: from another instance to this host, from disk to host, from host to GPU."""

Ready = Callable[[int], None]


class Kept:
    """The KV of one session: `tokens` in full `blocks`, with a copy at `home` and low layers in the GPU of `gpu`."""

    __slots__ = ("blocks", "gpu", "home", "layers", "loaded", "moving", "on_ready", "session", "stage", "tier", "to",
                 "tokens")  # fmt: skip

    def __init__(self, session: int) -> None:
        self.session = session
        self.tokens = self.blocks = 0
        self.home: Node | None = None
        self.tier = HOST
        self.gpu: Node | None = None
        self.layers = 0
        """Layers that have room in the GPU."""
        self.loaded = 0
        """Those of them that are there."""
        self.moving: Transfer | None = None
        self.stage = ""
        self.to: Node | None = None
        """Where it moves to."""
        self.on_ready: Ready | None = None
        """A turn that waits until nothing more can be brought."""


class Shelf:
    """A tier below the GPU: copies in order of use, up to `capacity` bytes."""

    __slots__ = ("capacity", "entries", "used")

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self.entries: dict[Kept, int] = {}

    def put(self, kept: Kept, size: int) -> list[Kept]:
        """Add or renew a copy as the one used last; returns those that have to go."""
        self.take(kept)
        self.entries[kept] = size
        self.used += size
        gone: list[Kept] = []
        while self.used > self.capacity:
            gone.append(next(iter(self.entries)))
            self.take(gone[-1])
        return gone

    def take(self, kept: Kept) -> None:
        """Remove a copy, if it is here."""
        self.used -= self.entries.pop(kept, 0)


class Node:
    """The memory around one instance, its links, and what waits there."""

    def __init__(self, store: "TierStore", instance: Instance, host_bytes_per_s: float) -> None:
        env, spec = store.env, store.spec
        self.store, self.instance = store, instance
        self.up = Link(env, host_bytes_per_s)
        self.down = self.up if spec.writes == "shared" else Link(env, host_bytes_per_s)
        self.disk_read = Link(env, spec.disk_read_bytes_per_s)
        self.net_out = Link(env, spec.network_bytes_per_s, spec.network_latency_s)
        self.net_in = Link(env, spec.network_bytes_per_s, spec.network_latency_s)
        self.host, self.disk = Shelf(int(spec.host_bytes)), Shelf(int(spec.disk_bytes))
        self.idle: dict[Kept, None] = {}
        """In this GPU and not expected, who has waited longest first."""
        self.called: dict[Kept, None] = {}
        """In this GPU, or on their way there, and expected."""
        self.used = 0
        """Blocks times layers of all these."""
        self.stalls: list[tuple[int, int]] = []
        """What the step being planned waits for: (layer from 1, the moment when it is there)."""

    @property
    def links(self) -> tuple[Link, ...]:
        """All of them."""
        return (self.up, self.down, self.disk_read, self.net_out, self.net_in)

    def reusable(self, session: int) -> int:
        """Tokens of a session that a turn here need not compute."""
        kept = self.store.kept.get(session)
        if kept is None:
            return 0
        here = kept.gpu is self and kept.loaded == self.store.layers
        return kept.tokens if here or self._reaches(kept) else 0

    def call(self, session: int, now: int, on_ready: Ready | None = None) -> None:
        """A turn is expected, or here: bring its KV as near as there is room; then `on_ready`."""
        kept = self.store.kept.get(session)
        if kept is not None:
            if kept.gpu is self:
                self.idle.pop(kept, None)
                self.called[kept] = None
            elif kept.gpu is not None and self._reaches(kept):
                kept.gpu.drop(kept)
            if kept.moving is not None and kept.to is not self:
                self._stop(kept)
            kept.on_ready = on_ready
            self._advance(kept, now)
        elif on_ready is not None:
            on_ready(now)

    def begin(self, session: int) -> None:
        """A turn takes its KV up into blocks of its own; the layers that are not in the GPU are loaded from now on."""
        store = self.store
        kept, layers = store.kept[session], store.layers
        have = kept.loaded if kept.gpu is self else 0
        if kept.moving is not None and (kept.to is not self or kept.moving.start == NEVER):
            self._stop(kept)
        if kept.moving is not None:
            last = kept.layers if kept.stage == RAISE else layers
            self._wait_for(kept, kept.moving, have if kept.stage == RAISE else 0, have, last)
            have, kept.moving = max(have, last), None
        if have < layers:
            first, *others = self._path(kept)
            size = store.size(kept, layers - have)
            self._wait_for(kept, first.send(size, _nothing, others, urgent=True), have, have, layers)
        if kept.gpu is not None:
            kept.gpu.drop(kept)
        if kept.home is not None and kept.home is not self:
            self._shelve(kept)

    def keep(self, session: int, tokens: int) -> None:
        """A turn has ended here: its KV stays, as far as there is room."""
        store, spec = self.store, self.store.spec
        kept = store.kept.get(session) or Kept(session)
        self._stop(kept)
        if kept.gpu is not None:  # where the turn could not reach it
            kept.gpu.drop(kept)
        fresh = tokens - kept.tokens if kept.home is self else tokens
        kept.tokens, kept.blocks = tokens, tokens // store.block_tokens
        self._shelve(kept)
        if spec.writes != "free" and kept.home is not None and fresh > 0:
            self.down.send(fresh * store.token_bytes, _nothing)
        if spec.keep_on_gpu or kept.home is not None:
            store.kept[session] = kept
        if spec.keep_on_gpu:
            self.idle[kept] = None
            kept.gpu, kept.layers, kept.loaded = self, store.layers, store.layers
            self.used += kept.blocks * store.layers  # the turn held as much

    def squeeze(self, free_blocks: int) -> None:
        """Give back what exceeds the free blocks: the idle first, their last layers first; then who was called last."""
        room = free_blocks * self.store.layers
        while self.used > room:
            kept = next(iter(self.idle)) if self.idle else next(reversed(self.called))
            less = min(kept.layers, -(-(self.used - room) // kept.blocks))
            if kept.home is None or less == kept.layers:
                self.drop(kept)
            else:
                kept.layers -= less
                self.used -= less * kept.blocks
                kept.loaded = min(kept.loaded, kept.layers)

    def drop(self, kept: Kept) -> None:
        """Nothing of it stays in this GPU."""
        self.idle.pop(kept, None)
        self.called.pop(kept, None)
        self.used -= kept.layers * kept.blocks
        kept.gpu, kept.layers, kept.loaded = None, 0, 0
        if kept.moving is not None and kept.stage == RAISE:
            self._stop(kept)
            self._ready_soon(kept)
        if kept.home is None:
            self.store.kept.pop(kept.session, None)

    def check(self) -> None:
        """Raise AssertionError unless the books are right."""
        store = self.store
        assert self.used == sum(kept.blocks * kept.layers for kept in (*self.idle, *self.called))
        for kept in (*self.idle, *self.called):
            assert kept.gpu is self and 0 <= kept.loaded <= kept.layers <= store.layers and kept.layers > 0
        for tier, shelf in ((HOST, self.host), (DISK, self.disk)):
            assert shelf.used == sum(shelf.entries.values()) <= shelf.capacity
            assert all(kept.home is self and kept.tier == tier for kept in shelf.entries)

    def _reaches(self, kept: Kept) -> bool:
        return kept.home is self or (kept.home is not None and self.store.spec.remote)

    def _free(self, now: int) -> int:
        """Free blocks as of now, the steps of a window that have ended counted."""
        engine, steps = self.instance.engine, self.instance.steps_done(now)
        return engine.kv.free - (engine.batch.growth(steps) if steps else 0)

    def _path(self, kept: Kept) -> list[Link]:
        """The links between its copy and this instance."""
        home = kept.home
        assert home is not None
        links = [home.disk_read] if kept.tier == DISK else []
        if home is not self:
            return [*links, home.net_out, self.net_in]
        return links or [self.up]

    def _advance(self, kept: Kept, now: int) -> None:
        """Start the next transfer that brings it nearer; without one it is as near as it can be."""
        if kept.moving is not None:
            return
        store, layers = self.store, self.store.layers
        size = store.size(kept, layers)
        if self._reaches(kept) and kept.loaded < layers:
            if kept.home is not self:
                self._send(kept, PULL, size)
                return
            if kept.tier == DISK and size <= self.host.capacity:
                self._send(kept, READ, size)
                return
            if kept.tier == HOST and self._make_room(kept, now):
                self._send(kept, RAISE, store.size(kept, kept.layers - kept.loaded))
                return
        self._ready(kept, now)

    def _make_room(self, kept: Kept, now: int) -> bool:
        """Give it room for as many layers as free blocks and those of the idle allow; whether there is any to fill."""
        free = self._free(now)
        self.squeeze(free)
        room = free * self.store.layers - sum(other.blocks * other.layers for other in self.called)
        more = min(self.store.layers - kept.layers, max(0, room) // kept.blocks)
        if more:
            kept.gpu = self
            self.called[kept] = None
            kept.layers += more
            self.used += more * kept.blocks
            self.squeeze(free)
        return kept.layers > kept.loaded

    def _send(self, kept: Kept, stage: str, size: int) -> None:
        first, *others = self._path(kept)
        kept.stage, kept.to = stage, self

        def arrived(now: int) -> None:
            if kept.moving is transfer:  # else a turn has taken it up, or it goes elsewhere
                kept.moving = None
                if stage == RAISE:
                    kept.loaded = kept.layers
                else:
                    self._shelve(kept)
                self._advance(kept, now)

        kept.moving = transfer = first.send(size, arrived, others)

    def _wait_for(self, kept: Kept, transfer: Transfer, before: int, have: int, last: int) -> None:
        """Note when the layers after `have` up to `last` come with a transfer of those after `before`."""
        if last > have:
            layer_bytes = self.store.size(kept, 1)
            for layer in (have + 1, last):  # between the two, moments lie on a line
                self.stalls.append((layer, transfer.arrives((layer - before) * layer_bytes)))

    def _shelve(self, kept: Kept) -> None:
        """Its copy is here now, in host memory if there is room."""
        if kept.home is not None:
            kept.home.host.take(kept)
            kept.home.disk.take(kept)
        size = self.store.size(kept, self.store.layers)
        kept.home, kept.tier = self, HOST
        for old in self.host.put(kept, size):
            old.tier = DISK
            for lost in self.disk.put(old, self.store.size(old, self.store.layers)):
                self._lose(lost)

    def _lose(self, kept: Kept) -> None:
        """Its copy is gone; what is in a GPU in full is all that is left."""
        kept.home = None
        if kept.moving is not None:
            self._stop(kept)
            self._ready_soon(kept)
        if kept.gpu is not None and kept.loaded < self.store.layers:
            kept.gpu.drop(kept)
        elif kept.gpu is None:
            self.store.kept.pop(kept.session, None)

    def _stop(self, kept: Kept) -> None:
        moving, kept.moving = kept.moving, None
        if moving is not None:
            moving.cancel()

    def _ready(self, kept: Kept, now: int) -> None:
        ready, kept.on_ready = kept.on_ready, None
        if ready is not None:
            ready(now)

    def _ready_soon(self, kept: Kept) -> None:
        """The same after what happens now, which may be an engine's planning."""
        if kept.on_ready is not None:
            env = self.store.env
            env.arm(Alarm(lambda alarm: self._ready(kept, alarm.at)), env.now, DELIVER)


def _nothing(now: int) -> None:
    """What is to be done when a copy has been written, or a layer loaded that a step waits for anyway."""


class TierStore:
    """The KV of all sessions of a cluster."""

    def __init__(self, env: Clock, spec: TierSpec, token_bytes: int, layers: int, block_tokens: int) -> None:
        self.env, self.spec = env, spec
        self.token_bytes, self.layers, self.block_tokens = token_bytes, layers, block_tokens
        self.kept: dict[int, Kept] = {}
        self.nodes: list[Node] = []
        """By number of the instance."""

    def add(self, instance: Instance, host_bytes_per_s: float) -> Node:
        """The memory around one more instance."""
        self.nodes.append(Node(self, instance, self.spec.host_link_bytes_per_s or host_bytes_per_s))
        return self.nodes[-1]

    @property
    def summary(self) -> str:
        """One line on what is modelled."""
        spec, links = self.spec, [f"host {self.nodes[0].up.bytes_per_s / 1e9:g}"]
        if spec.disk_bytes:
            links.append(f"disk {spec.disk_read_bytes_per_s / 1e9:g}")
        if spec.remote:
            links.append(f"network {spec.network_bytes_per_s / 1e9:g}")
        places = "GPU, host and disk" if spec.disk_bytes else "GPU and host"
        return f"modelled: session KV in {places}, over links of {', '.join(links)} GB/s"

    def call(self, number: int, turn: Turn, now: int) -> None:
        """A turn is expected at the instance of this number."""
        self.nodes[number].call(turn.session, now)

    def size(self, kept: Kept, layers: int) -> int:
        """Bytes of so many layers."""
        return kept.tokens * self.token_bytes * layers // self.layers
