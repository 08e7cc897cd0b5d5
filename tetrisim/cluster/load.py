"""What a decode instance tells the others of its load."""

from tetrisim.cluster.request import Request


class DecodeLoad:
    """Decodes assigned to an instance and not finished."""

    __slots__ = ("heavy", "light", "pending_tokens")

    def __init__(self) -> None:
        self.heavy = self.light = 0
        self.pending_tokens = 0
        """Prompt tokens on their way or waiting to be admitted."""

    def add(self, request: Request) -> None:
        """Placed here."""
        self._count(request, 1)
        self.pending_tokens += request.prompt

    def join(self, request: Request) -> None:
        """Admitted: its tokens now count as used memory."""
        self.pending_tokens -= request.prompt

    def remove(self, request: Request) -> None:
        """Finished."""
        self._count(request, -1)

    def _count(self, request: Request, change: int) -> None:
        if request.heavy:
            self.heavy += change
        else:
            self.light += change


class LoadSnapshot:
    """The load as of a tick of the broadcast."""

    __slots__ = ("capacity_tokens", "free_tokens", "heavy", "light")

    def __init__(self) -> None:
        self.free_tokens = self.capacity_tokens = self.heavy = self.light = 0
