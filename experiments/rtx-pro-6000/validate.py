"""A real vLLM run against `vllm-v1` on the tables measured on the same GPU: signed errors, nothing tuned.

300 ShareGPT requests at 10/s on one RTX PRO 6000, Llama-3.1-8B in bf16, vLLM 0.19 with 128 sequences and 2048 tokens a
step, prefix caching on. Reads ../../../shared/data (see its README, sections 3, 4 and 6); writes nothing.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import tetrisim
from tetrisim.latency.importers.llmservingsim import convert
from tetrisim.scenario.load import resolve

DATA = Path(__file__).parents[3] / "shared" / "data"
TABLES = DATA / "profiles" / "llmservingsim" / "RTXPRO6000" / "Llama-3.1-8B"
TRUTH = DATA / "ground_truth" / "llmservingsim" / "RTXPRO6000" / "Llama-3.1-8B" / "tp1" / "requests.csv"
TRACE = DATA / "traces" / "sharegpt" / "sharegpt-llama-3.1-8b-300-sps10.hash16.jsonl.gz"


def simulate(profiles: Path) -> tetrisim.Result:
    """The run with the engine's own settings; KV blocks are derived, since the real run did not record them."""
    return tetrisim.simulate(
        resolve({
            "model": "llama-3.1-8b", "system": "vllm-v1", "profile": str(profiles),
            "workload": {"trace": str(TRACE), "format": "mooncake"},
            "cluster": {
                "gpu": "rtx-pro-6000",
                "pools": [{"role": "hybrid", "max_num_seqs": 128, "max_num_batched_tokens": 2048}],
            },
        })
    )  # fmt: skip


def latencies(arrival: pd.Series, first: pd.Series, last: pd.Series, output: pd.Series) -> dict[str, np.ndarray]:
    """Milliseconds a request."""
    return {
        "TTFT": 1e3 * (first - arrival).to_numpy(),
        "TPOT": 1e3 * ((last - first) / (output - 1)).to_numpy(),
        "E2EL": 1e3 * (last - arrival).to_numpy(),
    }


def main() -> None:
    """Print measured, simulated and error for each statistic."""
    if not TRUTH.exists():
        sys.exit(f"no measured run at {TRUTH}")
    real = pd.read_csv(TRUTH)
    measured = latencies(real.queued_s, real.first_token_s, real.last_token_s, real.output_length)
    with tempfile.TemporaryDirectory() as folder:
        convert(TABLES, Path(folder))
        result = simulate(Path(folder))
    rows = result.requests
    simulated = latencies(rows.arrival_s, rows.first_token_s, rows.finish_s, rows.output_tokens)
    print(f"{'ms':<12}{'measured':>12}{'simulated':>12}{'error':>9}")
    for metric in measured:
        for name, statistic in (
            ("mean", np.mean),
            *((f"p{q}", lambda x, q=q: np.percentile(x, q)) for q in (50, 90, 95, 99)),
        ):
            truth, ours = statistic(measured[metric]), statistic(simulated[metric])
            print(f"{metric + ' ' + name:<12}{truth:>12.1f}{ours:>12.1f}{ours / truth - 1:>+9.1%}")
    total = sum(result.time_shares.values())
    print("step time: " + ", ".join(f"{100 * part / total:.1f} % {name}" for name, part in result.time_shares.items()))
    print(f"KV blocks: {result.instance_columns['kv_blocks'][0]} (derived; the real run did not record them)")


if __name__ == "__main__":
    main()
