"""A real vLLM run against `vllm-v1` on the tables measured on the same GPU: signed errors, nothing tuned.

300 ShareGPT requests at 10/s on one RTX PRO 6000, Llama-3.1-8B in bf16, vLLM 0.19 with 128 sequences and 2048 tokens a
step, prefix caching on. Reads ../../../shared/data (see its README, sections 3, 4 and 6); writes nothing. The same by
command, with a folder of your own for the imported tables:

    tetrisim profile import llmservingsim ../shared/data/profiles/llmservingsim/RTXPRO6000/Llama-3.1-8B --out TABLES
    tetrisim validate experiments/rtx-pro-6000/scenario.yaml --profile TABLES --measured \
        ../shared/data/ground_truth/llmservingsim/RTXPRO6000/Llama-3.1-8B/tp1/requests.csv --out out/rtx-pro-6000
"""

import sys
import tempfile
from pathlib import Path

import tetrisim
from tetrisim.latency.importers.llmservingsim import convert
from tetrisim.validation.readers import read_measured
from tetrisim.validation.scorecard import Scorecard, validate

HERE = Path(__file__).parent
DATA = HERE.parents[2] / "shared" / "data"
TABLES = DATA / "profiles" / "llmservingsim" / "RTXPRO6000" / "Llama-3.1-8B"
TRUTH = DATA / "ground_truth" / "llmservingsim" / "RTXPRO6000" / "Llama-3.1-8B" / "tp1" / "requests.csv"


def compare() -> Scorecard:
    """Import the tables for the time of the run, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        convert(TABLES, Path(folder))
        scenario = tetrisim.override(tetrisim.load(HERE / "scenario.yaml"), {"profile": folder})
        return validate(scenario, read_measured(TRUTH))


if __name__ == "__main__":
    if not TRUTH.exists():
        sys.exit(f"no measured run at {TRUTH}")
    print("\n".join(compare().lines()))
