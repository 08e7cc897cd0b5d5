"""How far are roofline steps from steps of measured tables? See README.md."""

import argparse
import tempfile
from itertools import product
from pathlib import Path

import numpy as np

from tetrisim.latency.build import build_timer
from tetrisim.latency.importers.aiconfigurator import Wanted, convert
from tetrisim.latency.roofline import Shard
from tetrisim.profiling.validate import predicted_s, random_batches
from tetrisim.scenario.gpu import load_gpu
from tetrisim.scenario.model import load_model

HERE = Path(__file__).parent
MODELS = ("llama-3.1-8b", "qwen3-32b")
GPUS = ("a100-80gb", "h100-sxm", "h200-sxm", "rtx-pro-6000")
SHARDS = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", default=str(HERE.parents[1] / ".." / "shared/data/profiles/aiconfigurator"))
    parser.add_argument("--shapes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    batches = random_batches(args.shapes, args.seed, largest=8000, most=256)
    kinds = {
        "decode": [batch for batch in batches if not batch.pieces],
        "prefill": [batch for batch in batches if not batch.contexts],
        "mixed": [batch for batch in batches if batch.pieces and batch.contexts],
    }
    print("| GPU | TP | decode: median error | bias | prefill: median error | bias | mixed: median error | bias |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        models = [load_model(name) for name in MODELS]
        convert(Path(args.tables), Path(folder), Wanted(models, GPUS, ("bf16",), SHARDS))
        for gpu, cut in product(GPUS, SHARDS):
            shards = [Shard(model, load_gpu(gpu), "bf16", cut) for model in models]
            timers = [(build_timer(shard, "roofline", gpu)[0], build_timer(shard, folder, gpu)[0]) for shard in shards]
            cells = [gpu, str(cut)]
            for chosen in kinds.values():
                errors = np.array(
                    [
                        predicted_s(rough, batch) / predicted_s(table, batch) - 1
                        for rough, table in timers
                        for batch in chosen
                    ]
                )
                cells += [f"{np.median(np.abs(errors)):.0%}", f"{np.median(errors):+.0%}"]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
