"""Every validation as one page of markdown, errors signed (simulated / measured - 1), nothing tuned.

    python experiments/scorecard/scorecard.py

What is measured elsewhere lies in ../shared/data; what is not there is said to be missing. Each row comes with the
command that gives it in full.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import tetrisim
from tetrisim.latency.importers.llmservingsim import convert
from tetrisim.validation.points import check_points
from tetrisim.validation.readers import read_measured
from tetrisim.validation.scorecard import STATISTICS, Scorecard, error, validate
from tetrisim.validation.steps import check_steps

ROOT = Path(__file__).parents[2]
DATA = Path("..") / "shared" / "data"
RTX = Path("llmservingsim") / "RTXPRO6000" / "Llama-3.1-8B"
LIVE = Path("experiments") / "live" / "data"
STEPS = (DATA / "ground_truth" / "vllm_cpu", Path("tests") / "golden" / "vllm_v1")
SYSTEMS = DATA / "profiles" / "aiconfigurator"
POINTS = DATA / "ground_truth" / "silicon" / "silicon_dense_40pct.csv"


def main() -> None:
    """Print the page."""
    for part in (latency_table, step_table, point_table):
        print("\n".join(part()))
        print()


def latency_table() -> Iterator[str]:
    """One row a measured run and metric, then where the error of the mean E2EL comes from, and the commands."""
    yield "| run | in system, mean | metric | " + " | ".join(STATISTICS) + " | estimated |"
    yield "|---" * (len(STATISTICS) + 4) + "|"
    cards: dict[str, tuple[Scorecard, str]] = {}
    for name, (path, command, compare) in runs().items():
        if not (ROOT / path).exists():
            yield f"| {name} | missing: {path} |"
            continue
        card = compare()
        cards[name] = (card, command)
        load, share = card.load["requests in system, mean"][0], card.shares["estimated"]
        for metric, rows in card.latencies.items():
            errors = " | ".join("-" if (off := error(pair)) is None else f"{off:+.1%}" for pair in rows.values())
            yield f"| {name} | {load:.1f} | {metric} | {errors} | {share:.0%} |"
    yield from ("", "| run | mean E2EL error, by part | command |", "|---|---|---|")
    for name, (card, command) in cards.items():
        whole = card.latencies["E2EL"]["mean"][0]
        parts = ", ".join(f"{part.name} {part.e2el_s / whole:+.1%}" for part in card.decomposition.parts)
        yield f"| {name} | {parts} | `{command}` |"


def runs() -> dict[str, tuple[Path, str, Callable[[], Scorecard]]]:
    """Name -> the measured file, the command, and what compares it."""
    truth = DATA / "ground_truth" / RTX / "tp1" / "requests.csv"
    found: dict[str, tuple[Path, str, Callable[[], Scorecard]]] = {
        "RTX PRO 6000, Llama-3.1-8B, vLLM 0.19": (truth, "python experiments/rtx-pro-6000/validate.py", rtx)
    }
    for folder in sorted((ROOT / LIVE).glob("*-[0-9]")):
        if folder.name.startswith("calibrate"):
            continue
        name = "live-few-blocks" if folder.name.startswith("blocks") else "live"
        scenario, rows = Path("experiments", "scorecard", f"{name}.yaml"), LIVE / folder.name / "requests.csv"
        found[f"live CPU, {folder.name}, vLLM 0.32"] = (
            rows,
            f"tetrisim validate {scenario} --measured {rows}",
            lambda scenario=scenario, rows=rows: validate(tetrisim.load(ROOT / scenario), read_measured(ROOT / rows)),
        )
    return found


def rtx() -> Scorecard:
    """The run on the GPU, with its tables imported for the occasion."""
    with tempfile.TemporaryDirectory() as folder:
        convert(ROOT / DATA / "profiles" / RTX, Path(folder))
        scenario = tetrisim.load(ROOT / "experiments" / "rtx-pro-6000" / "scenario.yaml")
        truth = ROOT / DATA / "ground_truth" / RTX / "tp1" / "requests.csv"
        return validate(tetrisim.override(scenario, {"profile": folder}), read_measured(truth))


def step_table() -> Iterator[str]:
    """One row a folder of recorded steps."""
    yield from ("| recorded steps | cases | equal | command |", "|---|---|---|---|")
    for folder in STEPS:
        if not (ROOT / folder).is_dir():
            yield f"| missing: {folder} |"
            continue
        report = check_steps(ROOT / folder)
        yield (
            f"| {folder.name} | {len(report.cases)} | {report.equal} of {report.steps} "
            f"| `tetrisim validate --steps {folder}` |"
        )


def point_table() -> Iterator[str]:
    """The report on the steady-state points, as it is printed."""
    if not (ROOT / POINTS).exists():
        yield f"steady-state points: missing: {POINTS}"
        return
    yield from (f"Steady-state points (`tetrisim validate --points {POINTS} --profile {SYSTEMS}`):", "", "```text")
    yield from check_points(ROOT / POINTS, ROOT / SYSTEMS).lines()
    yield "```"


if __name__ == "__main__":
    sys.exit(main())
