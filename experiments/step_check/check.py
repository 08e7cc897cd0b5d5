"""Does the sum of measured ops predict a whole measured step? See README.md."""

import argparse
import csv
from pathlib import Path
from statistics import median, quantiles

from tetrisim.latency.build import build_timer
from tetrisim.latency.roofline import Shard
from tetrisim.profiling.bench import TorchBench, open_device
from tetrisim.profiling.devices import catalog_name
from tetrisim.profiling.shape import shard_shape
from tetrisim.profiling.store import Store
from tetrisim.profiling.timer import device_facts
from tetrisim.profiling.validate import check_steps, machine_pace, random_batches
from tetrisim.scenario.gpu import load_gpu

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profiles", default=str(HERE.parents[1] / "profiles"))
    parser.add_argument("--model", default="llama-100m")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--gpu", default=None)
    parser.add_argument("--shapes", type=int, default=48)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default=str(HERE / "steps.csv"))
    args = parser.parse_args()

    device = open_device(args.device, args.dtype)
    shape = shard_shape(args.model, args.dtype, 1)
    gpu = catalog_name(args.device, device_facts(device, 1)["device"], args.gpu)
    timer, title = build_timer(Shard(shape.model, load_gpu(gpu), args.dtype, 1), args.profiles, "--profiles")
    bench = TorchBench(shape, device)
    store = Store(Path(args.profiles), gpu, shape, bench.device_facts())
    paces: list[float] = []
    look = machine_pace(bench, store)

    def pace() -> float:
        paces.append(look())
        return paces[-1]

    checks = check_steps(bench, timer, random_batches(args.shapes, args.seed), args.rounds, pace)

    with open(args.out, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["pieces", "decodes", "context", "longest", "predicted_ms", "first_ms", "second_ms", "error",
                      "paced_error"])  # fmt: skip
        for check in checks:
            contexts = check.batch.contexts
            pieces = " ".join(f"{chunk}+{cached}" for chunk, cached in check.batch.pieces)
            times = [f"{seconds * 1e3:.2f}" for seconds in (check.predicted_s, *check.measured_s)]
            errors = (f"{check.error:.4f}", f"{check.paced_error:.4f}")
            out.writerow([pieces, len(contexts), sum(contexts), max(contexts, default=0), *times, *errors])
    print(title)
    low, middle, high = quantiles(paces, n=4)
    print(f"rows of the profile measured again in between, over what it says: {middle:.3f} ({low:.3f} to {high:.3f})")
    for kind in ("decode", "prefill", "mixed", "all"):
        chosen = [c for c in checks if kind in ("all", kind_of(c.batch))]
        errors, paced, noises = ([abs(getattr(c, name)) for c in chosen] for name in ("error", "paced_error", "noise"))
        tail = quantiles(errors, n=10)[-1]
        print(
            f"{kind:8} {len(chosen):3} shapes: |error| median {median(errors):.2%}, p90 {tail:.2%}, "
            f"bias {median(c.error for c in chosen):+.2%}; at the profile's pace median {median(paced):.2%}, "
            f"bias {median(c.paced_error for c in chosen):+.2%}; repeat noise median {median(noises):.2%}"
        )


def kind_of(batch) -> str:
    if batch.pieces and batch.contexts:
        return "mixed"
    return "prefill" if batch.pieces else "decode"


if __name__ == "__main__":
    main()
