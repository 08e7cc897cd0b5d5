"""Work spread over processes, with a Ctrl-C that ends it at once and in one line."""

import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from typing import Any

Map = Callable[..., Iterator[Any]]
"""As the built-in `map`: results in the order of the arguments, as they come."""


@contextmanager
def workers(jobs: int) -> Generator[Map]:
    """A map: here, or by `jobs` processes that end with the block.

    They are born deaf to Ctrl-C, which is for this process to hear; one that comes while they start is noted, not lost.
    Spawned, not forked, so that they start from the same clean state on every platform.
    """
    if jobs < 2:
        yield map
        return
    noted: list[int] = []
    resource_tracker.ensure_running()  # its start would unblock the signal
    heard = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited by the workers
    try:
        pool = get_context("spawn").Pool(jobs)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        signal.signal(signal.SIGINT, heard)
    with pool:
        if noted:
            raise KeyboardInterrupt
        yield pool.imap
