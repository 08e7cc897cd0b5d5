"""One request: what it asks for, how far it is, and the moments it leaves behind.

Life cycle: waiting -> prefill (chunk by chunk) -> [transfer -> received] -> decode -> finished. A preempted request
goes back to waiting (recompute) or to the swap space, and keeps the tokens it has shown. Moments are clock ticks, -1
until they come.
"""

from collections.abc import Sequence

NEVER = -1


class Request:
    """A request in the cluster. `predicted` and `heavy` are guesses; only stations read `output`."""

    __slots__ = (
        "arrival",
        "base",
        "cached",
        "computed",
        "decode_instance",
        "decode_start",
        "finish",
        "finish_step",
        "first_token",
        "generated",
        "halted",
        "hash_ids",
        "heavy",
        "id",
        "joined_step",
        "last_token",
        "lost_decode",
        "lost_prefill",
        "output",
        "predicted",
        "preemptions",
        "prefill_instance",
        "prefill_start",
        "priority",
        "prompt",
        "recomputations",
        "rejected",
        "sequence",
        "target",
        "transfer_end",
        "transfer_start",
    )  # fmt: skip

    home = NEVER
    """Where the turn before it was served, for a turn of a session (see sessions.py)."""

    def __init__(self, number: int, arrival: int, prompt: int, output: int, predicted: int) -> None:
        self.id = number
        self.arrival = arrival
        self.prompt = prompt
        self.output = output
        self.predicted = predicted
        self.heavy = False
        self.priority = 0
        self.hash_ids: Sequence[int] = ()
        self.target = prompt
        """Tokens whose KV must be there before the next token: the prompt, after a recompute also those shown."""
        self.computed = 0
        """Tokens of `target` whose KV is there."""
        self.cached = 0
        """Of the prompt, those that the prefill found in the cache."""
        self.generated = 0
        """Output tokens shown."""
        self.base = 0
        """Context minus step number while decoding (see batch.py)."""
        self.joined_step = 0
        self.finish_step = NEVER
        self.sequence = 0
        self.preemptions = self.recomputations = self.lost_prefill = self.lost_decode = 0
        self.halted = NEVER
        """Since when it has been preempted."""
        self.rejected = False
        self.prefill_instance = self.decode_instance = NEVER
        self.prefill_start = self.first_token = self.last_token = NEVER
        self.transfer_start = self.transfer_end = self.decode_start = self.finish = NEVER

    def begin_prefill(self, now: int, instance: int) -> None:
        """Note where and when the prefill starts, and what is lost when it starts over after a preemption."""
        if self.prefill_start == NEVER:
            self.prefill_start = now
            self.prefill_instance = instance
            self.cached = self.computed
        elif self.halted != NEVER and self.first_token == NEVER:
            self.lost_prefill = now - self.prefill_start
            self.cached = self.computed
            self.halted = NEVER

    def begin_decode(self, now: int, instance: int) -> None:
        """The same of the decode."""
        if self.decode_start == NEVER:
            self.decode_start = now
            self.decode_instance = instance

    def halt(self, now: int) -> None:
        """Note a preemption; one during the recomputation after another changes nothing."""
        if self.halted == NEVER:
            self.halted = now

    def resume(self, now: int, recomputed: bool) -> None:
        """A preempted request decodes again, or its recomputation has shown a token: the time since is lost."""
        self.lost_decode += now - self.halted
        self.recomputations += recomputed
        self.halted = NEVER


class Turn(Request):
    """A request that is one turn of a session: its prompt is all that was said before, and something new."""

    __slots__ = ("home", "luck", "read", "session", "typing")

    home: int
    """The member of the scheduler's instances that served the turn before, NEVER for none."""
    luck: tuple[float, float, float]
    """Three even draws that decide on hints."""
    read: int
    """Ticks from the end of the turn before to the first key pressed, and from there to the arrival (`typing`)."""
    typing: int
    session: int
