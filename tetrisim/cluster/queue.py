"""The queue before prefill: first come first served, or sorted within groups so that nothing starves."""

from collections import deque

from tetrisim.cluster.request import Request
from tetrisim.policies.queueing import QueueKey


class WaitingQueue:
    """Requests in the order they will be prefilled.

    With a sort key, up to `group_size` requests are taken from the raw queue at once and sorted (TetriInfer's
    PrefillSchedBatch); the next group is formed when this one is used up.
    """

    __slots__ = ("_group_size", "_key", "ordered", "raw")

    def __init__(self, key: QueueKey, group_size: int) -> None:
        self._key = key
        self._group_size = group_size
        self.ordered: deque[Request] = deque()
        """The requests whose order is fixed; the first is next."""
        self.raw: deque[Request] = deque()
        """Those that came after the last group was formed."""

    def __len__(self) -> int:
        return len(self.ordered) + len(self.raw)

    def push(self, request: Request) -> None:
        """A new request."""
        (self.ordered if self._key is None else self.raw).append(request)

    def push_front(self, request: Request) -> None:
        """A preempted request, which goes before all others."""
        self.ordered.appendleft(request)

    def form(self) -> bool:
        """Sort the next group, if the last one is used up; whether there is a request at all."""
        if not self.ordered and self.raw:
            raw = self.raw
            if len(raw) == 1:
                self.ordered.append(raw.popleft())
            else:
                group = [raw.popleft() for _ in range(min(self._group_size, len(raw)))]
                self.ordered.extend(sorted(group, key=self._key or _arrival))
        return bool(self.ordered)


def _arrival(request: Request) -> float:
    return request.id
