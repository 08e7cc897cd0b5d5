"""What a decode instance tells the others of its load."""

from tetrisim.cluster.request import Request


class DecodeLoad:
    """Decodes assigned to an instance and not finished."""

    __slots__ = ("assigned", "heavy", "pending_tokens")

    def __init__(self) -> None:
        self.assigned = self.heavy = 0
        """How many there are, and how many of them are predicted to be heavy."""
        self.pending_tokens = 0
        """Prompt tokens on their way or waiting to be admitted."""

    def add(self, request: Request) -> None:
        """Placed here."""
        self.assigned += 1
        self.heavy += request.heavy
        self.pending_tokens += request.prompt

    def join(self, request: Request) -> None:
        """Admitted: its tokens now count as used memory."""
        self.pending_tokens -= request.prompt

    def remove(self, request: Request) -> None:
        """Finished."""
        self.assigned -= 1
        self.heavy -= request.heavy


class LoadSnapshot:
    """The load as of a tick of the broadcast."""

    __slots__ = ("capacity_tokens", "free_tokens", "heavy", "light", "waiting_tokens")

    def __init__(self) -> None:
        self.free_tokens = self.capacity_tokens = self.waiting_tokens = self.heavy = self.light = 0
