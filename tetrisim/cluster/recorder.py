"""Facts, recorded once: one row a request, and the gaps between tokens as runs of steps. Append-only."""

import numpy as np

from tetrisim.cluster.clock import seconds
from tetrisim.cluster.request import NEVER, Request
from tetrisim.units import TICKS_PER_S

_MOMENTS = {
    "prefill_start_s": "prefill_start", "first_token_s": "first_token", "transfer_start_s": "transfer_start",
    "transfer_end_s": "transfer_end", "decode_start_s": "decode_start", "finish_s": "finish",
}  # fmt: skip


Gap = tuple[float, float, int, int]
"""`first`, `slope`, `steps`, `weight`: so many sequences wait `first + slope * j` ticks for each next token."""


Flip = tuple[int, str, int, int, int]
"""Instance, its new role, and when it was given nothing new any more, changed role, and could work again."""


Move = tuple[int, int, int, int, int, int, int, int, str]
"""Request, source and destination, when the move began, when the request stopped (NEVER: it did not) and when the move
ended, stages, tokens copied, and the outcome: moved, or why it was called off."""


class Recorder:
    """The rows of a run."""

    __slots__ = ("_packed", "flips", "gaps", "moves", "requests")

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """In order of arrival, those that have not arrived yet included."""
        self.gaps: list[Gap] = []
        self._packed: list[np.ndarray] = []
        self.flips: list[Flip] = []
        self.moves: list[Move] = []

    def flip_columns(self, names: list[str]) -> dict[str, np.ndarray]:
        """One entry a change of role, in order of time."""
        columns = list(zip(*self.flips, strict=True)) or [()] * 5
        numbers, roles, *moments = columns
        return {
            "instance": np.array([names[number] for number in numbers], dtype=object),
            "role": np.array(roles, dtype=object),
            **{
                name: np.array([seconds(at) for at in column], dtype=float)
                for name, column in zip(("drain_s", "flip_s", "ready_s"), moments, strict=True)
            },
        }

    def move_columns(self, names: list[str]) -> dict[str, np.ndarray]:
        """One entry a move of a running request, in order of their ends."""
        columns = list(zip(*self.moves, strict=True)) or [()] * 9
        requests, sources, targets, starts, stops, ends, stages, tokens, outcomes = columns
        found = {"request_id": np.array(requests, dtype=np.int64)}
        for name, column in (("source", sources), ("target", targets)):
            found[name] = np.array([names[number] for number in column], dtype=object)
        for name, moments in (("start_s", starts), ("stop_s", stops), ("end_s", ends)):
            found[name] = np.array([seconds(at) if at != NEVER else np.nan for at in moments], dtype=float)
        for name, counts in (("stages", stages), ("tokens", tokens)):
            found[name] = np.array(counts, dtype=np.int64)
        return {**found, "outcome": np.array(outcomes, dtype=object)}

    def pack(self) -> None:
        """Turn the gaps so far into an array, a fifth of their size; called now and then in a long run."""
        if self.gaps:
            self._packed.append(np.array(self.gaps, dtype=float))
            self.gaps.clear()

    def gap_columns(self) -> dict[str, np.ndarray]:
        """The gaps in seconds."""
        self.pack()
        rows = np.concatenate(self._packed) if self._packed else np.zeros((0, 4))
        return {
            "first_s": rows[:, 0] / TICKS_PER_S,
            "slope_s": rows[:, 1] / TICKS_PER_S,
            "steps": rows[:, 2].astype(np.int64),
            "weight": rows[:, 3].astype(np.int64),
        }

    def request_columns(self, names: list[str], until: float) -> dict[str, np.ndarray]:
        """One entry a request in order of arrival; `names` are the instances by number.

        Moments after `until` have not come: a transfer under way at the horizon has a known end, but not a row's.
        """
        rows = self.requests
        columns = {
            "request_id": np.array([row.id for row in rows], dtype=np.int64),
            # In a closed loop that a horizon ended, some never came.
            "arrival_s": np.array([seconds(row.arrival) if row.arrival != NEVER else np.nan for row in rows]),
            "prompt_tokens": np.array([row.prompt for row in rows], dtype=np.int64),
            "output_tokens": np.array([row.output for row in rows], dtype=np.int64),
            "predicted_tokens": np.array([row.predicted for row in rows], dtype=np.int64),
        }
        for column, field in _MOMENTS.items():
            moments = (getattr(row, field) for row in rows)
            columns[column] = np.array([seconds(at) if NEVER < at <= until else np.nan for at in moments], dtype=float)
        columns["lost_prefill_s"] = np.array([row.lost_prefill for row in rows], dtype=float) / TICKS_PER_S
        columns["lost_decode_s"] = np.array([row.lost_decode for row in rows], dtype=float) / TICKS_PER_S
        columns["cached_tokens"] = np.array([row.cached for row in rows], dtype=np.int64)
        columns["recomputations"] = np.array([row.recomputations for row in rows], dtype=np.int64)
        columns["preemptions"] = np.array([row.preemptions for row in rows], dtype=np.int64)
        labels = np.array([*names, ""], dtype=object)  # NEVER is -1: the last one
        for column in ("prefill_instance", "decode_instance"):
            columns[column] = labels[np.array([getattr(row, column) for row in rows], dtype=np.int64)]
        columns["status"] = np.array([_status(row) for row in rows], dtype=object)
        return columns


def _status(request: Request) -> str:
    if request.rejected:
        return "rejected"
    return "unfinished" if request.finish == NEVER else "completed"
