"""TetriInfer (1 prefill + 1 decode instance) against one small-batch vLLM, as in the paper's Figures 11 to 15.

OPT-13B in fp16 on V100-32GB, two GPUs an instance, 128 requests at t = 0; roofline step times. vLLM's batch cap is not
in the paper and decides much, so it is swept. Mean over seeds under common random numbers.
"""

import argparse
import statistics
from typing import Any

import tetrisim
from tetrisim.scenario.load import resolve

PAPER = {"lpld": (-44, -40, 0, 1.4), "lphd": (-97, -47, -38, 2.4), "hpld": (-9, -23, 43, 0.86),
         "hphd": (None, -19, 7, 1.1), "mixed": (-85, -50, -21, 1.9)}  # fmt: skip
"""Change of mean TTFT, mean JCT and resource time in %, and performance per dollar (notes, section 4.2)."""


def scenario(workload: str, cap: int, seed: int) -> tetrisim.Scenario:
    """The paper's testbed."""
    vllm = {"cluster": {"pools": [{"role": "hybrid", "tensor_parallel": 2, "max_num_seqs": cap}]}}
    return resolve({
        "model": "opt-13b", "dtype": "fp16", "system": "tetriinfer", "seed": seed, "systems": {"vllm-v0": vllm},
        "workload": {"trace": workload, "requests": 128, "arrivals": "burst"},
        "cluster": {
            "gpu": "v100-32gb",
            "pools": [{"role": "prefill", "tensor_parallel": 2}, {"role": "decode", "tensor_parallel": 2}],
        },
    })  # fmt: skip


def changes(workload: str, cap: int, seeds: int) -> list[float]:
    """Mean changes over the seeds: TTFT, JCT, resource time (%), and both readings of performance per dollar."""
    rows: list[list[float]] = []
    for seed in range(seeds):
        vllm, ours = tetrisim.compare(scenario(workload, cap, seed), ["vllm-v0", "tetriinfer"]).summaries
        rows.append([*(100 * (ours[key] / vllm[key] - 1) for key in ("mean_ttft_ms", "mean_e2el_ms", "gpu_seconds")),
                     ours["perf_per_dollar"], ours["perf_per_dollar_ratio"]])  # fmt: skip
    return [statistics.mean(column) for column in zip(*rows, strict=True)]


def main() -> None:
    """Print the sweep, the paper's values in the first row of each class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    print(f"{'class':<8}{'vLLM cap':>9}{'TTFT %':>9}{'JCT %':>8}{'GPU-s %':>9}{'perf/$':>8}{'plain':>8}")
    for workload, paper in PAPER.items():
        cells: list[Any] = [value if value is not None else "?" for value in paper]
        print(f"{workload:<8}{'paper':>9}{cells[0]:>9}{cells[1]:>8}{cells[2]:>9}{cells[3]:>8}")
        for cap in (16, 32, 64, 256):
            ttft, jct, cost, per_dollar, plain = changes(workload, cap, seeds)
            print(f"{workload:<8}{cap:>9}{ttft:>9.0f}{jct:>8.0f}{cost:>9.0f}{per_dollar:>8.2f}{plain:>8.2f}")


if __name__ == "__main__":
    main()
