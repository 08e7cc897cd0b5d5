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
        "computed",
        "decode_instance",
        "decode_start",
        "finish",
        "finish_step",
        "first_token",
        "generated",
        "hash_ids",
        "heavy",
        "id",
        "joined_step",
        "last_token",
        "output",
        "predicted",
        "preemptions",
        "prefill_instance",
        "prefill_start",
        "prompt",
        "rejected",
        "sequence",
        "target",
        "transfer_end",
        "transfer_start",
    )  # fmt: skip

    def __init__(self, number: int, arrival: int, prompt: int, output: int, predicted: int) -> None:
        self.id = number
        self.arrival = arrival
        self.prompt = prompt
        self.output = output
        self.predicted = predicted
        self.heavy = False
        self.hash_ids: Sequence[int] = ()
        self.target = prompt
        """Tokens whose KV must be there before the next token: the prompt, after a recompute also those shown."""
        self.computed = 0
        """Tokens of `target` whose KV is there."""
        self.generated = 0
        """Output tokens shown."""
        self.base = 0
        """Context minus step number while decoding (see batch.py)."""
        self.joined_step = 0
        self.finish_step = NEVER
        self.sequence = 0
        self.preemptions = 0
        self.rejected = False
        self.prefill_instance = self.decode_instance = NEVER
        self.prefill_start = self.first_token = self.last_token = NEVER
        self.transfer_start = self.transfer_end = self.decode_start = self.finish = NEVER

    def begin_prefill(self, now: int, instance: int) -> None:
        """Note where and when the prefill starts; a later one, after a preemption, does not count."""
        if self.prefill_start == NEVER:
            self.prefill_start = now
            self.prefill_instance = instance

    def begin_decode(self, now: int, instance: int) -> None:
        """The same of the decode."""
        if self.decode_start == NEVER:
            self.decode_start = now
            self.decode_instance = instance
