"""One thread or two? The same work with each in turn, and how much its time varies. Needs torch alone.

VLLM/bin/python experiments/live/threads.py --seconds 30
"""

import argparse
import time

import numpy as np
import torch

HIDDEN, INNER, LAYERS = 768, 2048, 12
"""Of llama-100m."""
WORK = {"memory": (1, LAYERS), "compute": (128, 2)}
"""Tokens, and layers that they go through."""


def main() -> None:
    """Feed-forward layers, alternately; sizes and numbers of threads in every round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    end = time.perf_counter() + parser.parse_args().seconds
    weights = [(torch.randn(2 * INNER, HIDDEN), torch.randn(HIDDEN, INNER)) for _ in range(LAYERS)]
    took: dict[tuple[str, int], list[float]] = {(name, count): [] for name in WORK for count in (1, 2)}
    while time.perf_counter() < end:
        for (name, count), times in took.items():
            torch.set_num_threads(count)
            tokens, layers = WORK[name]
            x = torch.randn(tokens, HIDDEN)
            start = time.perf_counter()
            with torch.inference_mode():
                for widen, narrow in weights[:layers]:
                    gate, up = torch.nn.functional.linear(x, widen).chunk(2, -1)
                    torch.nn.functional.linear(torch.nn.functional.silu(gate) * up, narrow)
            times.append(1e3 * (time.perf_counter() - start))
    print(f"{'work':<8}{'threads':>8}{'n':>6}{'median ms':>11}{'mean':>8}{'p99':>8}{'most':>8}{'sd/mean':>9}")
    for (name, count), times in took.items():
        ms = np.array(times[5:])
        print(f"{name:<8}{count:>8}{len(ms):>6}{np.median(ms):>11.2f}{ms.mean():>8.2f}{np.quantile(ms, 0.99):>8.2f}"
              f"{ms.max():>8.1f}{ms.std() / ms.mean():>9.1%}")  # fmt: skip


if __name__ == "__main__":
    main()
