"""What can go wrong, as one tree. Every error says where, what, what was expected, and the nearest valid name.

TetrisimError            exit code 2
├── ScenarioError        a key or value of a scenario
├── TraceError           a row or column of a trace file
├── ProfileError         a row, column or hole of a latency table
└── OutputError          an output folder that cannot be used
"""

from collections.abc import Iterable
from difflib import get_close_matches


class TetrisimError(Exception):
    """A problem that a person can mend; printed as one line, without a traceback."""

    exit_code = 2

    def __init__(self, where: str, what: str, expected: str = "", nearest: str = "") -> None:
        # SimPy rebuilds a failed event's exception from its args, so they must be the fields themselves.
        super().__init__(where, what, expected, nearest)
        self.where, self.what, self.expected, self.nearest = where, what, expected, nearest

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}"
        if self.expected:
            line += f"; expected {self.expected}"
        if self.nearest:
            line += f"; did you mean '{self.nearest}'?"
        return line


class ScenarioError(TetrisimError):
    """A key or value of a scenario is not usable."""


class TraceError(TetrisimError):
    """A trace file cannot be read as a workload."""


class ProfileError(TetrisimError):
    """A latency table is missing, malformed, or does not cover the run."""


class OutputError(TetrisimError):
    """Results cannot be written where they were asked for."""


def nearest_name(name: object, known: Iterable[str]) -> str:
    """The known name that looks most like `name`, or an empty string."""
    close = get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return close[0] if close else ""


def unknown_name(error: type[TetrisimError], where: str, name: object, known: Iterable[str]) -> TetrisimError:
    """The error for a name that is not in a list of known ones."""
    names = sorted(known)
    return error(where, f"unknown name '{name}'", "one of " + ", ".join(names), nearest_name(name, names))
