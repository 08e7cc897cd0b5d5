"""Work spread over processes, with a Ctrl-C that ends it at once and in one line."""

import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context, resource_tracker
from typing import Any

Map = Callable[..., Iterator[Any]]
"""As the built-in `map`: results in the order of the arguments, as they come."""
Note = Callable[[str], object]
"""Told in a few words what is under way."""


def silent(*_: object) -> None:
    """Told, and tells nobody."""


@contextmanager
def workers(jobs: int) -> Generator[Map]:
    """A map: here, or by `jobs` processes that end with the block.

    Spawned, not forked, so that they start from the same clean state on every platform.
    """
    if jobs < 2:
        yield map
        return
    resource_tracker.ensure_running()  # its start would unblock the signal
    with ExitStack() as block:
        with deaf():
            pool = block.enter_context(get_context("spawn").Pool(jobs))
        yield pool.imap


@contextmanager
def deaf() -> Generator[None]:
    """Processes started within never hear Ctrl-C, which is for this one; what comes meanwhile is heard at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    heard = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        signal.signal(signal.SIGINT, heard)
    if noted:
        raise KeyboardInterrupt
