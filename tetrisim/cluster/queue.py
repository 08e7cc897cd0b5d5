"""The queue before prefill: first come first served, or sorted within groups so that nothing starves."""

from collections import deque

from tetrisim.cluster.request import Request
from tetrisim.policies.queueing import QueueKey


class WaitingQueue:
    """Requests in the order they will be prefilled.

    With a sort key, up to `group_size` requests are taken from the raw queue at once and sorted (TetriInfer's
    PrefillSchedBatch); the next group is formed when this one is used up.
    """

    __slots__ = ("_group_size", "_key", "_ordered", "_raw")

    def __init__(self, key: QueueKey, group_size: int) -> None:
        self._key = key
        self._group_size = group_size
        self._ordered: deque[Request] = deque()
        self._raw: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._ordered) + len(self._raw)

    def push(self, request: Request) -> None:
        """A new request."""
        (self._ordered if self._key is None else self._raw).append(request)

    def push_front(self, request: Request) -> None:
        """A preempted request, which goes before all others."""
        self._ordered.appendleft(request)

    def head(self) -> Request | None:
        """The next request, which stays."""
        ordered = self._ordered
        if not ordered:
            if not self._raw:
                return None
            raw = self._raw
            group = [raw.popleft() for _ in range(min(self._group_size, len(raw)))]
            ordered.extend(sorted(group, key=self._key))
        return ordered[0]

    def pop(self) -> None:
        """Take the head away."""
        self._ordered.popleft()
