"""All-reduce and point-to-point between the GPUs of this machine, through torch.distributed."""

import time
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torch.distributed as dist  # pyright: ignore[reportMissingImports]
import torch.multiprocessing as multiprocessing  # pyright: ignore[reportMissingImports]

from tetrisim.profiling.plan import COLLECTIVE_BYTES, Key

SAMPLES = 7
CALLS = 10
PATIENCE_S = 120

Links = dict[Key, dict[str, float]]
"""(op, bytes, gpus) -> microseconds by sample."""


def measured_links(gpus: int, backend: str, sizes: tuple[int, ...] = COLLECTIVE_BYTES) -> Links:
    """Microseconds of messages of `sizes` bytes; empty where the processes do not come up."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    workers = [
        context.Process(target=_worker, args=(rank, gpus, backend, store.port, sizes, results)) for rank in range(gpus)
    ]
    for worker in workers:
        worker.start()
    try:
        return results.get(timeout=PATIENCE_S)
    except Exception:  # queue.Empty, or a worker that broke the pipe
        return {}
    finally:
        for worker in workers:
            worker.join(timeout=10)
            if worker.is_alive():
                worker.terminate()


def _worker(rank: int, gpus: int, backend: str, port: int, sizes: tuple[int, ...], results: Any) -> None:
    cuda = backend == "nccl"
    if cuda:
        torch.cuda.set_device(rank)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group(backend, store=store, rank=rank, world_size=gpus)
    times: Links = {}
    for size in sizes:
        # Zeros, since sums of sums overflow; a link is not faster for them.
        data = torch.zeros(max(1, size // 4), device=f"cuda:{rank}" if cuda else "cpu")
        for op, ring, call in (("all_reduce", gpus, _reduce), ("p2p", 2, _send)):
            times[op, size, ring] = {str(i): _sample(call, data, rank, cuda) for i in range(SAMPLES)}
    if rank == 0:
        results.put(times)
        results.close()
        results.join_thread()
    dist.barrier()
    dist.destroy_process_group()


def _reduce(data: Any, rank: int) -> None:
    dist.all_reduce(data)


def _send(data: Any, rank: int) -> None:
    if rank == 0:
        dist.send(data, 1)
    elif rank == 1:
        dist.recv(data, 0)


def _sample(call: Callable[[Any, int], None], data: Any, rank: int, cuda: bool) -> float:
    """Microseconds a call, between barriers; the first use of a size is warm-up."""
    call(data, rank)
    dist.barrier()
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        call(data, rank)
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / CALLS * 1e6
