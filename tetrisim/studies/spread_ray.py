"""Tasks on a Ray cluster; the only file that imports `ray`."""

import logging
import os
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from tetrisim.errors import TetrisimError
from tetrisim.studies.remote import Check
from tetrisim.studies.spread import Backend
from tetrisim.studies.task import Outcome, Task, execute

_ADDRESS = "the address of a Ray head, as in host:6379"

_AHEAD = 2
"""Tasks handed out for each core of the cluster: one runs, one waits."""


@contextmanager
def on_ray(backend: Backend, tasks: Sequence[Task]) -> Generator[Iterator[Outcome]]:
    """The outcomes as they come; without a scheduler, Ray is started on this machine and ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of our starting tells nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray is going to do; else it warns
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise TetrisimError("--backend ray", "ray is not installed", "pip install 'tetrisim[ray]'") from None
    check = Check("ray", tasks)
    _check_reachable(backend)
    local: dict[str, Any] = {} if backend.scheduler else {"include_dashboard": False}
    try:
        ray.init(backend.scheduler or "local", log_to_driver=False, logging_level=logging.CRITICAL, **local)
    except (OSError, RuntimeError, ValueError) as error:
        what = f"cannot reach {backend.scheduler or 'a Ray of our own'} ({' '.join(str(error).split())})"
        raise TetrisimError("--scheduler", what, _ADDRESS) from None
    try:
        _check_nodes(ray, check, backend.wait_s)
        yield _outcomes(ray, tasks)
    finally:
        ray.shutdown()


def _check_reachable(backend: Backend) -> None:
    """Ray itself would try for more than a minute, and say so."""
    host, colon, port = (backend.scheduler or "").removeprefix("ray://").rpartition(":")
    if not backend.scheduler or backend.scheduler == "auto":
        return
    if not colon or not port.isdigit():
        raise TetrisimError("--scheduler", f"is '{backend.scheduler}'", _ADDRESS)
    try:
        socket.create_connection((host.strip("[]"), int(port)), backend.wait_s).close()
    except (OSError, OverflowError) as error:
        raise TetrisimError("--scheduler", f"cannot reach {backend.scheduler} ({error})", _ADDRESS) from None


def _check_nodes(ray: Any, check: Check, wait_s: float) -> None:
    from ray.util.scheduling_strategies import (  # pyright: ignore[reportMissingImports]
        NodeAffinitySchedulingStrategy,
    )

    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    ask = ray.remote(num_cpus=0)(_evaluate())
    answers = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(check.expression): name
        for node, name in nodes.items()
    }
    done, silent = ray.wait(list(answers), num_returns=len(answers), timeout=wait_s)
    for ref in done:
        try:
            answer: object = ray.get(ref)
        except Exception as error:
            answer = error
        check.judge(answers[ref], answer)
    if silent:
        raise check.silent(answers[silent[0]], wait_s)


def _evaluate() -> Any:
    """A function that a worker without tetrisim can unpack: Ray sends it by value."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("def evaluate(expression): return eval(expression)", scope)
    return scope["evaluate"]


def _outcomes(ray: Any, tasks: Sequence[Task]) -> Iterator[Outcome]:
    run = ray.remote(execute)
    waiting = iter(tasks)
    ahead = max(2, int(_AHEAD * ray.cluster_resources().get("CPU", 1)))
    under_way: dict[Any, Task] = {run.remote(task): task for task in islice(waiting, ahead)}
    while under_way:
        done, _ = ray.wait(list(under_way), num_returns=1, timeout=None)
        for ref in done:
            task = under_way.pop(ref)
            for more in islice(waiting, 1):
                under_way[run.remote(more)] = more
            try:
                yield ray.get(ref)
            except ray.exceptions.RayError as error:
                yield Outcome(task.key, "failed", " ".join(f"{type(error).__name__}: {error}".split()))
