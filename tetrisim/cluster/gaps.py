"""The gaps between tokens at one instance: since when each member of its batch has waited for its next token."""

from tetrisim.cluster.recorder import Gap
from tetrisim.cluster.request import NEVER, Request


class TokenGaps:
    """All members showed their last token at `last`, save the `fresh` ones, which keep that moment themselves."""

    __slots__ = ("fresh", "last", "rows")

    def __init__(self, rows: list[Gap]) -> None:
        self.rows = rows
        """The recorder's."""
        self.last = NEVER
        self.fresh: dict[Request, None] = {}

    def emit(self, start: int, first: int, slope: int, steps: int, members: int, end: int) -> None:
        """A run of steps from `start` to `end`, each of which shows a token of every member."""
        rows, fresh = self.rows, self.fresh
        if self.last == start and not fresh:
            rows.append((first, slope, steps, members))
        else:
            shown = start + first
            if members > len(fresh):
                rows.append((shown - self.last, 0, 1, members - len(fresh)))
            for request in fresh:
                rows.append((shown - request.last_token, 0, 1, 1))
            if steps > 1:
                rows.append((first + slope, slope, steps - 1, members))
            fresh.clear()
        self.last = end

    def join(self, request: Request, now: int, members: int) -> None:
        """A request that showed a token now joins the batch of `members`."""
        if not members:
            self.last = now
        elif self.last != now:
            self.fresh[request] = None

    def interrupt(self, request: Request) -> None:
        """A member is preempted; it goes on waiting since its last token."""
        if request in self.fresh:
            del self.fresh[request]
        else:
            request.last_token = max(request.last_token, self.last)
