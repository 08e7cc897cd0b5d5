"""Tasks on a Dask cluster; the only file that imports `distributed`."""

import logging
import re
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tetrisim.errors import TetrisimError
from tetrisim.studies.remote import Check
from tetrisim.studies.spread import Backend
from tetrisim.studies.task import Outcome, Task, execute

_LIKE_ADDRESS = re.compile(r"((tcp|tls|ws|wss|ucx)://)?(\[[^]]+\]|[^:/\s]+):\d+/?")
_ADDRESS = "the address of a Dask scheduler, as in tcp://host:8786"


@contextmanager
def on_dask(backend: Backend, tasks: Sequence[Task]) -> Generator[Iterator[Outcome]]:
    """The outcomes as they come. Every worker that is there at the start is checked first."""
    try:
        import distributed
    except ImportError:
        raise TetrisimError("--backend dask", "distributed is not installed", "pip install 'tetrisim[dask]'") from None
    if not _LIKE_ADDRESS.fullmatch(str(backend.scheduler)):
        raise TetrisimError("--scheduler", f"is '{backend.scheduler}'", _ADDRESS)
    check = Check("dask", tasks)
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is said in one line, below
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other versions of packages: the check names those that matter
            client: Any = distributed.Client(backend.scheduler, timeout=backend.wait_s, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        what = f"cannot reach {backend.scheduler} ({' '.join(str(error).split()) or type(error).__name__})"
        raise TetrisimError("--scheduler", what, _ADDRESS) from None
    try:
        _check_workers(client, check, backend)
        # Keys of our own: two sweeps on one scheduler have nothing to do with each other.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that many tasks make a large graph
            futures: list[Any] = client.map(execute, tasks, pure=False)
        yield _outcomes(client, dict(zip(futures, tasks, strict=True)), check, backend)
    finally:
        # Only what waits can be called back; what runs ends by itself, and its result is thrown away.
        client.close(timeout=2)


def _check_workers(client: Any, check: Check, backend: Backend) -> None:
    deadline = time.monotonic() + backend.wait_s
    while not _workers(client):
        if time.monotonic() > deadline:
            raise check.nobody(str(backend.scheduler), backend.wait_s)
        time.sleep(0.1)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.run, eval, check.expression, on_error="return")
        try:
            answers: dict[str, Any] = asked.result(backend.wait_s)
        except TimeoutError:
            client.close(timeout=2)  # ends the asking thread, too
            raise check.silent("(one of " + ", ".join(_workers(client)) + ")", backend.wait_s) from None
    for worker, answer in answers.items():
        check.judge(worker, answer)


def _workers(client: Any) -> list[str]:
    return list(client.scheduler_info()["workers"])


def _outcomes(client: Any, tasks: dict[Any, Task], check: Check, backend: Backend) -> Iterator[Outcome]:
    from distributed import as_completed

    ready = as_completed(list(tasks), loop=client.loop)
    seen = time.monotonic()
    while tasks:
        if ready.has_ready():
            seen = time.monotonic()
            for future in ready.next_batch(block=False):
                if future.status not in ("finished", "error"):
                    raise _gone(backend)
                yield _outcome(future, tasks.pop(future))
            continue
        time.sleep(0.01)
        if client.status != "running":
            raise _gone(backend)
        if _workers(client):
            seen = time.monotonic()
        elif time.monotonic() > seen + backend.wait_s:
            raise check.nobody(str(backend.scheduler), backend.wait_s)


def _outcome(future: Any, task: Task) -> Outcome:
    if future.status == "finished":
        return future.result()
    return Outcome(task.key, "failed", " ".join(repr(future.exception()).split()))


def _gone(backend: Backend) -> TetrisimError:
    return TetrisimError("--scheduler", f"{backend.scheduler} is gone", "one that stays; what is finished is kept")
