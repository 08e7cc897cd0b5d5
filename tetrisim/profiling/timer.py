"""How long a call takes: wall clock on a CPU, CUDA events around a captured graph on a GPU. Microseconds."""

import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # pyright: ignore[reportMissingImports]

from tetrisim.profiling.ops import Call

SAMPLE_S = {"cpu": 0.02, "cuda": 0.001}
"""A sample repeats the call for about this long, so that the clock's own cost does not count."""
MOST_CALLS = 64


def timed(call: Call, device: Any) -> Callable[[], float]:
    """A warmed-up call; each use gives the microseconds of one more sample."""
    return _cuda(call) if device.type == "cuda" else _wall(call)


def _wall(call: Call) -> Callable[[], float]:
    call(0)
    start = time.perf_counter()
    call(1)
    count = max(1, min(MOST_CALLS, int(SAMPLE_S["cpu"] / (time.perf_counter() - start))))
    turn = 2

    def sample() -> float:
        nonlocal turn
        start = time.perf_counter()
        for i in range(turn, turn + count):
            call(i)
        took = time.perf_counter() - start
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


def capture(run: Callable[[], Any]) -> Any:
    """A CUDA graph of what `run` launches (`torch.cuda.graph` would also collect garbage, a tenth of a second each)."""
    torch.cuda.synchronize()
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        try:
            run()
        finally:
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
