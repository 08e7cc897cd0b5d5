"""A link that carries one transfer at a time, first come first served; a transfer can be called off.

A `Link` is one direction. A full-duplex port is two of them, a half-duplex one is a single link that both directions
use. `link.send(size_bytes, on_done)` queues a transfer, which takes latency + bytes / bandwidth once it is its turn,
and then calls `on_done(now)`. `beside=(other, ...)` names further links that it needs at the same moment (the sender's
outgoing port and the receiver's incoming one, say): it starts when it is first in all of them, at the rate of the
slowest. `transfer.cancel()` takes it off, waiting or under way, and the next one starts at once; `on_done` is not
called. What is `urgent` goes before all that has not started, cannot be called off, and knows its `start` and `end`
from the beginning, so that a step which waits for it can be timed. Each link counts: bytes sent = received + cancelled,
once nothing is under way.
"""

from collections import deque
from collections.abc import Callable, Sequence

from tetrisim.cluster.clock import DELIVER, Alarm, Clock, ticks
from tetrisim.cluster.request import NEVER


class Link:
    """One direction of a link of `bytes_per_s`; `latency_s` passes before the first byte of each transfer."""

    __slots__ = ("_booked_until", "_current", "_waiting", "bytes_per_s", "cancelled_bytes", "env", "latency",
                 "received_bytes", "sent_bytes")  # fmt: skip

    def __init__(self, env: Clock, bytes_per_s: float, latency_s: float = 0.0) -> None:
        self.env = env
        self.bytes_per_s = bytes_per_s
        self.latency = ticks(latency_s)
        self.sent_bytes = self.received_bytes = self.cancelled_bytes = 0
        self._current: Transfer | None = None
        """What is on the link now and not urgent."""
        self._waiting: deque[Transfer] = deque()
        """Called-off ones stay until they are first."""
        self._booked_until = 0
        """When the last urgent transfer so far has passed."""

    def send(
        self, size_bytes: int, on_done: Callable[[int], None], beside: Sequence["Link"] = (), urgent: bool = False
    ) -> "Transfer":
        """Put a transfer on its way through this link and those `beside` it."""
        made = Transfer((self, *beside), size_bytes, on_done)
        for link in made.links:
            link.sent_bytes += size_bytes
        if urgent:
            made.urgent = True
            made.start = max(link._free_at() for link in made.links)
            for link in made.links:
                link._booked_until = made.start + made.took
            self.env.arm(made, made.end, DELIVER)
        else:
            for link in made.links:
                link._waiting.append(made)
            self._try(made, self.env.now)
        return made

    @property
    def idle(self) -> bool:
        """Whether nothing is on the link or waits for it."""
        self._drop_cancelled()
        return self._current is None and not self._waiting and self._booked_until <= self.env.now

    def _free_at(self) -> int:
        end = self._current.end if self._current is not None else 0
        return max(self.env.now, self._booked_until, end)

    def _drop_cancelled(self) -> None:
        while self._waiting and self._waiting[0].cancelled:
            self._waiting.popleft()

    def _open_to(self, transfer: "Transfer", now: int) -> bool:
        self._drop_cancelled()
        return self._current is None and self._booked_until <= now and self._waiting[0] is transfer

    def _try(self, transfer: "Transfer", now: int) -> None:
        """Start a waiting transfer if it is its turn everywhere."""
        if all(link._open_to(transfer, now) for link in transfer.links):
            transfer.start = now
            for link in transfer.links:
                link._current = link._waiting.popleft()
            self.env.arm(transfer, transfer.end, DELIVER)

    def turn(self, now: int) -> None:
        """Something has left: let the first in line start."""
        self._drop_cancelled()
        if self._waiting:
            self._try(self._waiting[0], now)

    def leave(self, transfer: "Transfer", crossed_bytes: int) -> None:
        """A transfer is done or called off, so many of its bytes having crossed."""
        if self._current is transfer:
            self._current = None
        self.received_bytes += crossed_bytes
        self.cancelled_bytes += transfer.size_bytes - crossed_bytes


class Transfer(Alarm):
    """Bytes on their way; `start` is NEVER while they wait for their turn."""

    def __init__(self, links: tuple[Link, ...], size_bytes: int, on_done: Callable[[int], None]) -> None:
        self.links, self.size_bytes, self.on_done = links, size_bytes, on_done
        self.latency = max(link.latency for link in links)
        self.took = self.latency + ticks(size_bytes / min(link.bytes_per_s for link in links))
        self.start = NEVER
        self.urgent = self.cancelled = self.done = False

    @property
    def end(self) -> int:
        """When the last byte arrives, for one that has started or is urgent."""
        return self.start + self.took

    def arrives(self, size_bytes: float) -> int:
        """When the first so many bytes have arrived, for one that has started or is urgent."""
        share = size_bytes / self.size_bytes if self.size_bytes else 1.0
        return self.start + self.latency + round((self.took - self.latency) * share)

    def crossed_bytes(self, now: int) -> int:
        """How many have arrived by now."""
        if self.done or self.start == NEVER or now <= self.start + self.latency:
            return self.size_bytes if self.done else 0
        share = (now - self.start - self.latency) / max(1, self.took - self.latency)
        return min(self.size_bytes, int(self.size_bytes * share))

    def cancel(self) -> None:
        """Call it off, unless it has ended: those behind it move up. An urgent one cannot be (RuntimeError)."""
        if self.done or self.cancelled:
            return
        now = self.links[0].env.now
        if self.urgent:
            raise RuntimeError("an urgent transfer cannot be called off")
        self.cancelled = True
        crossed = self.crossed_bytes(now)
        for link in self.links:
            link.leave(self, crossed)
        for link in self.links:
            link.turn(now)

    @staticmethod
    def call(transfer: "Transfer") -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The last byte has arrived."""
        if transfer.cancelled:
            return
        transfer.done = True
        for link in transfer.links:
            link.leave(transfer, transfer.size_bytes)
        transfer.on_done(transfer.at)
        for link in transfer.links:
            link.turn(transfer.at)
