"""How fast tetrisim simulates, against bare SimPy timeouts measured in the same process just before each run."""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import simpy

import tetrisim
from tetrisim.scenario.load import resolve

DATA = Path(__file__).parents[3] / "shared" / "data" / "traces" / "azure2023" / "AzureLLMInferenceTrace_conv.csv.gz"
LOAD = 0.7


def timeouts_per_s(count: int = 300_000) -> float:
    """Bare SimPy: one process that waits `count` times. The floor of any simulator on top of SimPy."""
    env = simpy.Environment()

    def ticker() -> Any:
        for _ in range(count):
            yield env.timeout(1)

    env.process(ticker())
    started = time.perf_counter()
    env.run()
    return count / (time.perf_counter() - started)


def scenario(system: str, instances: int, requests: int | None, trace: str, **workload: Any) -> tetrisim.Scenario:
    """Llama-3.1-8B on H100s by roofline."""
    return resolve({
        "model": "llama-3.1-8b", "system": system, "profile": "roofline", "seed": 1,
        "workload": {"trace": trace, "requests": requests, **workload},
        "cluster": {"gpu": "h100-sxm", "instances": instances},
    })  # fmt: skip


def capacity_per_instance(system: str, trace: str) -> float:
    """Requests a second and instance with everything there at once: what full load means for this system.

    The ramp at both ends is cut off by taking the middle half of the finishes.
    """
    result = tetrisim.simulate(scenario(system, 2, 4000, trace, arrivals="burst"))
    finishes = sorted(result.request_columns["finish_s"].tolist())
    count = len(finishes)
    return (count // 2) / (finishes[3 * count // 4] - finishes[count // 4]) / 2


def measure(system: str, instances: int, requests: int | None, trace: str, repeats: int) -> dict[str, Any]:
    """One row: medians over the repeats, the ratio taken within each."""
    rate = LOAD * instances * capacity_per_instance(system, trace)
    case = scenario(system, instances, requests, trace, rate=f"{rate!r} /s")
    ratios: list[float] = []
    walls: list[float] = []
    floors: list[float] = []
    count = 0
    for _ in range(repeats):
        floor = timeouts_per_s()
        result = tetrisim.simulate(case)
        count = len(result.request_columns["request_id"])
        walls.append(result.wall_s)
        floors.append(floor)
        ratios.append(count / result.wall_s / floor)
    return {
        "system": system, "instances": instances, "requests": count, "rate_per_s": rate,
        "wall_s": statistics.median(walls), "requests_per_s": count / statistics.median(walls),
        "us_per_request": 1e6 * statistics.median(walls) / count, "timeouts_per_s": statistics.median(floors),
        "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the 8-instance cases only")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=Path("out/speed.json"))
    options = parser.parse_args()
    real = str(DATA) if DATA.exists() else "azure-conv-like"
    azure = 19_366
    cases = [("vllm-v1", 8, azure, real, options.repeats), ("tetriinfer", 8, azure, real, options.repeats),
             ("vllm-v0", 8, azure, real, options.repeats)]  # fmt: skip
    if not options.quick:
        like = "azure-conv-like"
        for system in ("vllm-v1", "tetriinfer"):
            cases += [(system, 8, count, like, 3) for count in (1_000, 10_000, 100_000)]
            cases += [(system, 64, 100_000, like, 1), (system, 1_000, 1_000_000, like, 1)]
    rows: list[dict[str, Any]] = []
    columns = {"system": "s", "instances": "d", "requests": "d", "wall_s": ".2f", "us_per_request": ".1f",
               "timeouts_per_s": ".0f", "ratio": ".3f", "peak_mb": ".0f"}  # fmt: skip
    print("".join(f"{name:>15}" for name in columns))
    for case in cases:
        row = measure(*case)
        rows.append(row)
        print("".join(f"{row[name]:>15{form}}" for name, form in columns.items()), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(
        json.dumps({"python": sys.version, "trace": real, "load": LOAD, "rows": rows}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
