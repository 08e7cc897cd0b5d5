"""How long a call takes: wall clock on a CPU, CUDA events around a captured graph on a GPU. Microseconds."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

Call = Callable[[int], None]
"""Runs an op once; the number chooses the copy of the weights."""
SAMPLE_S = {"cpu": 0.02, "cuda": 0.001}
"""A sample repeats the call for about this long, so that the clock's own cost does not count."""
MOST_CALLS = 64


class HostClock:
    """Seconds of wall time, less what the scheduler gave to other processes.

    One thread that never waits runs all the time, so on an idle machine its processor time is the wall time. Where they
    differ by more than PREEMPTED, it was descheduled, and its processor time is what the work took.
    """

    PREEMPTED = 0.02

    def __init__(self) -> None:
        self.samples = self.preempted = 0
        self._start = (0.0, 0.0)

    def start(self) -> None:
        """Begin a sample."""
        self._start = (time.perf_counter(), time.thread_time())

    def stop(self) -> float:
        """Seconds since `start`."""
        wall, own = time.perf_counter() - self._start[0], time.thread_time() - self._start[1]
        self.samples += 1
        # Below a millisecond the two clocks' own cost is of the order of what they would show.
        if torch.get_num_threads() > 1 or wall - own <= max(self.PREEMPTED * wall, 2e-5):
            return wall
        self.preempted += 1
        return own


HOST = HostClock()
"""One for the process, as there is one scheduler; it counts how often it was disturbed."""


def timed(call: Call, device: Any, flush: Call | None = None) -> Callable[[], float]:
    """A warmed-up call; each use gives the microseconds of one more sample.

    On a CPU `flush` runs untimed before every call. In a step the matrix multiplications in between push activations
    and code out of the core's caches: called back to back, a norm of few tokens took a fifth of its time in a step.
    """
    return _cuda(call) if device.type == "cuda" else _wall(call, flush or (lambda i: None))


def _wall(call: Call, flush: Call) -> Callable[[], float]:
    call(0)
    start = time.perf_counter()
    flush(1)
    call(1)
    count = max(1, min(MOST_CALLS, int(SAMPLE_S["cpu"] / (time.perf_counter() - start))))
    turn = 2

    def sample() -> float:
        nonlocal turn
        took = 0.0
        for i in range(turn, turn + count):
            flush(i)
            HOST.start()
            call(i)
            took += HOST.stop()
        turn += count
        return took / count * 1e6

    return sample


def _cuda(call: Call) -> Callable[[], float]:
    """Calls inside a CUDA graph leave no launch gaps between them; weights and pages rotate inside the graph."""
    for i in range(3):
        call(i)
    torch.cuda.synchronize()
    took = max(_events(lambda: call(3)), 1.0)
    count = max(2, min(MOST_CALLS, int(SAMPLE_S["cuda"] * 1e6 / took)))
    graph = capture(lambda: [call(i) for i in range(count)])
    graph.replay()
    return lambda: _events(graph.replay) / count


def _events(run: Callable[[], Any]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3


@cache
def _capture_stream() -> Any:
    """One stream for all captures: cuBLAS keeps a workspace for each stream it has seen."""
    return torch.cuda.Stream()


def capture(run: Callable[[], Any]) -> Any:
    """A CUDA graph of what `run` launches (`torch.cuda.graph` would also collect garbage, a tenth of a second each)."""
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), _capture_stream()
    with torch.cuda.stream(stream):
        run()  # workspaces and compiled kernels must be there before the capture
        stream.synchronize()
        graph.capture_begin()
        try:
            run()
        except BaseException:
            with suppress(RuntimeError):  # ending a broken capture fails too, and hides why it broke
                graph.capture_end()
            raise
        graph.capture_end()
    torch.cuda.synchronize()
    return graph


class Neighbours:
    """What other processes use of this machine, from /proc/stat; 0 where there is none."""

    def __init__(self) -> None:
        self._last = self._read()

    def share(self) -> float:
        """Processor seconds of others since the last call, over wall seconds of all processors."""
        before, self._last = self._last, self._read()
        busy, own, wall = (now - then for now, then in zip(self._last, before, strict=True))
        # /proc/stat counts in ticks of 10 ms: a tick more or less is no neighbour.
        return max(0.0, busy - own - 0.02) / max(wall * (os.cpu_count() or 1), 1e-9)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
            ticks = sum(int(fields[at]) for at in (0, 1, 2, 5, 6, 7))
            busy = ticks / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError, ValueError):
            return 0.0, time.process_time(), time.perf_counter()
        return busy, time.process_time(), time.perf_counter()


def device_facts(device: Any, threads: int) -> dict[str, Any]:
    """What stays the same during a run: the keys of the provenance that rows must share, and versions."""
    facts = {"torch": str(torch.__version__), "cuda": torch.version.cuda, "python": platform.python_version(),
             "threads": threads}  # fmt: skip
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device), "driver": _smi("driver_version"), **facts}
    return {"device": _processor(), "driver": platform.release(), "cpus": os.cpu_count(), **facts}


def device_state(device: Any) -> dict[str, Any]:
    """Clocks and temperature now, as far as this machine tells."""
    if device.type == "cuda":
        names = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
        return dict(zip(names, (_smi(",".join(names)) or "").split(", "), strict=False))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    clocks = [round(float(line.split(":")[1])) for line in lines if line.startswith("cpu MHz")]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"clock_mhz": clocks, "load_1min": load}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _smi(fields: str) -> str | None:
    """What nvidia-smi says for the first visible GPU; torch's own list may be cut by CUDA_VISIBLE_DEVICES."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        uuid = str(getattr(torch.cuda.get_device_properties(0), "uuid", ""))
        chosen = [*command, f"--id=GPU-{uuid}"] if uuid else command
        done = subprocess.run(chosen, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else None
