"""The check of workers elsewhere, before they are given work: can each run what we would run, on the same files?"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tetrisim.errors import TetrisimError
from tetrisim.studies.cache import Input, digest, import_roots, inputs, versions
from tetrisim.studies.task import Task

# Text, not a function: a worker with another Python, or without tetrisim, could not even unpack one of ours.
_PROGRAM = """
import json, platform, sys
asked = json.loads(asked)
found = {"python": platform.python_version()}
try:
    sys.path += [root for root in asked["roots"] if root not in sys.path]
    from tetrisim.studies.cache import digest, versions
    import pandas, pyarrow
    found["versions"] = versions()
    found["digests"] = [digest(tuple(item)) for item in asked["inputs"]]
except Exception as error:
    found["problem"] = "%s: %s" % (type(error).__name__, error)
"""


class Check:
    """What the tasks ask of a worker. `expression` is Python that any worker can evaluate; `judge` reads its answer."""

    def __init__(self, backend: str, tasks: Sequence[Task]) -> None:
        self._where = f"--backend {backend}"
        self._inputs: list[Input] = list(dict.fromkeys(item for task in tasks for item in inputs(task.scenario)))
        self._digests = [digest(item) for item in self._inputs]
        roots = list(dict.fromkeys(root for task in tasks for root in import_roots(task.scenario)))
        asked = json.dumps({"roots": roots, "inputs": self._inputs})
        self.expression = f"(lambda scope: exec({_PROGRAM!r}, scope) or scope['found'])({{'asked': {asked!r}}})"

    def judge(self, worker: str, answer: object) -> None:
        """Raise TetrisimError that says what the worker lacks."""
        if not isinstance(answer, Mapping):
            raise self._refuse(worker, f"cannot be asked ({answer!r})", "a worker that runs Python")
        found: Mapping[str, Any] = answer
        own = versions()
        if found["python"].split(".")[:2] != own["python"].split("."):
            raise self._refuse(worker, f"has Python {found['python']}", f"{own['python']}, as here")
        if "problem" in found:
            raise self._refuse(
                worker, f"cannot import tetrisim ({found['problem']})", "tetrisim installed on every worker"
            )
        for name, version in own.items():
            theirs = found["versions"].get(name)
            if theirs != version:
                named = "tetrisim's files" if name == "code" else name
                raise self._refuse(
                    worker, f"has other {named} ({theirs})", f"{version}, as here; restart an updated worker"
                )
        for item, here, there in zip(self._inputs, self._digests, found["digests"], strict=True):
            if here != there:
                state = "other content in" if there else "no"
                kind = f"{item[0]} {item[1]}" if item[0] != "profile" else f"profile {' '.join(map(str, item[1:]))}"
                expected = "the same file at that path: put it on a file system that every worker sees"
                raise self._refuse(worker, f"has {state} {kind}", expected)

    def nobody(self, scheduler: str, wait_s: float) -> TetrisimError:
        """The error for a cluster without a worker."""
        return self._refuse(
            scheduler, f"has no worker after {wait_s:g} s", "at least one; what is finished is kept", what="scheduler"
        )

    def silent(self, worker: str, wait_s: float) -> TetrisimError:
        """The error for a worker that does not answer."""
        return self._refuse(worker, f"does not answer within {wait_s:g} s", "a worker that does")

    def _refuse(self, who: str, problem: str, expected: str, what: str = "worker") -> TetrisimError:
        return TetrisimError(self._where, f"{what} {who} {problem}", expected)
