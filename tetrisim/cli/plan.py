"""`tetrisim plan`: the cheapest clusters for a rate, or the most for so many GPUs or so much money."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tetrisim.cli.common import (
    ScenarioArgument,
    SetOption,
    one_line_errors,
    print_json,
    read_scenario,
    sign_of_life,
    words,
)
from tetrisim.cli.criterion import NOTHING_FITS, GoodputOption, PercentileOption, WarmupOption, parse_criterion
from tetrisim.errors import TetrisimError

if TYPE_CHECKING:
    from tetrisim.scenario.scenario import Scenario
    from tetrisim.studies.judge import Criterion
    from tetrisim.studies.plan_record import Goal, Plan
    from tetrisim.studies.plan_space import Space

OPTIONS = {
    "tensor_parallel": "--tp", "batched_tokens": "--tokens", "chunk_tokens": "--chunk", "seqs": "--seqs",
    "most_gpus": "--most-gpus", "rate_per_s": "--rate",
    "gpus": "--gpus", "dollars_per_hour": "--budget", "answers": "--answers",
}  # fmt: skip
"""Fields of Goal and Space, and the options they are given by."""

RateOption = Annotated[
    float | None, typer.Option("--rate", metavar="R", help="Serve so many requests/s for the least money.")
]
GpusOption = Annotated[int | None, typer.Option("--gpus", metavar="N", help="Serve the most requests/s with N GPUs.")]
BudgetOption = Annotated[
    float | None, typer.Option("--budget", metavar="$/H", help="Serve the most requests/s for so many dollars an hour.")
]
GpuOption = Annotated[str, typer.Option("--gpu", metavar="A,B", help="GPUs to try; all of `tetrisim gpus` by default.")]
SystemsOption = Annotated[
    str,
    typer.Option("--systems", metavar="A,B", help="Systems to try; the scenario's, vllm-v1 and tetriinfer by default."),
]
TpOption = Annotated[str, typer.Option("--tp", metavar="N,N", help="Tensor-parallel degrees to try.")]
TokensOption = Annotated[str, typer.Option("--tokens", metavar="N,N", help="max_num_batched_tokens to try.")]
ChunkOption = Annotated[str, typer.Option("--chunk", metavar="N,N", help="chunk_tokens to try of fixed chunks.")]
SeqsOption = Annotated[str, typer.Option("--seqs", metavar="N,N", help="max_num_seqs to try.")]
MostOption = Annotated[
    int | None,
    typer.Option(
        "--most-gpus", min=1, help="The largest cluster; by default 16, or four times what the rate needs at least."
    ),
]
AnswersOption = Annotated[int, typer.Option("--answers", min=1, help="Clusters to write out.")]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, help="Seeds of the long runs.")]
PlanJsonOption = Annotated[bool, typer.Option("--json", help="Print what plan.json holds.")]
FolderOption = Annotated[
    Path | None, typer.Option("--out", help="A new folder for plan.json, pareto.png, and a scenario an answer.")
]


def plan_command(  # noqa: PLR0913  # each is an option of the command line
    scenario: ScenarioArgument,
    rate: RateOption = None,
    gpus: GpusOption = None,
    budget: BudgetOption = None,
    gpu: GpuOption = "",
    systems: SystemsOption = "",
    tp: TpOption = "1,2,4,8",
    tokens: TokensOption = "512,2048,8192",
    chunk: ChunkOption = "512,2048",
    seqs: SeqsOption = "128,512",
    most_gpus: MostOption = None,
    answers: AnswersOption = 3,
    percentile: PercentileOption = None,
    goodput: GoodputOption = None,
    warmup: WarmupOption = 0.1,
    seeds: SeedsOption = 5,
    settings: SetOption = None,
    out: FolderOption = None,
    as_json: PlanJsonOption = False,
) -> None:
    """Find the cheapest clusters that meet the SLO at a rate, or those that carry most for GPUs or money.

    Exit code 3, with the nearest miss, when no cluster meets it.
    """
    with one_line_errors():
        # Imported here, or `tetrisim --help` would load numpy and the engine.
        from tetrisim.studies.plan_space import Space
        from tetrisim.studies.store import check_free

        try:
            goal = _goal(rate, gpus, budget, answers)
            space = Space(
                words(gpu), words(systems), _numbers("--tp", tp), _numbers("--tokens", tokens),
                _numbers("--chunk", chunk), _numbers("--seqs", seqs), most_gpus,
            )  # fmt: skip
            criterion = parse_criterion(percentile, goodput, warmup)
        except ValueError as error:
            name, _, expected = str(error).partition(": expected ")
            raise TetrisimError(OPTIONS.get(name, name), "is out of range", expected) from None
        if out is not None:
            check_free(out)
        found = _found(read_scenario(scenario, settings or []), goal, space, criterion, seeds)
        _show(found, out, as_json)
        if not found.answers:
            raise typer.Exit(NOTHING_FITS)


def _goal(rate: float | None, gpus: int | None, budget: float | None, answers: int) -> "Goal":
    from tetrisim.studies.plan_record import Goal

    given = [name for name, value in (("--rate", rate), ("--gpus", gpus), ("--budget", budget)) if value is not None]
    if not given:
        raise TetrisimError("plan", "has no goal", "--rate R, --gpus N or --budget $/H")
    if len(given) > 1:
        raise TetrisimError(given[1], f"is given beside {given[0]}", "one of --rate, --gpus and --budget")
    try:
        return Goal(rate, gpus, budget, answers)
    except ValueError:
        raise TetrisimError(given[0], "is out of range", "a number of more than 0") from None


def _found(base: "Scenario", goal: "Goal", space: "Space", criterion: "Criterion", seeds: int) -> "Plan":
    from tetrisim.studies.plan import plan

    with sign_of_life("reading the workload") as now:
        return plan(base, goal, space, criterion, seeds, os.cpu_count() or 1, now)


def _show(found: "Plan", out: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from tetrisim.report.plan import print_plan
    from tetrisim.studies.plan_store import answer_folder, save_plan
    from tetrisim.studies.plan_text import lines

    record = found.summary()
    if out is not None:
        from tetrisim.report.plan_plot import save_pareto

        save_plan(out, found, lambda path: save_pareto(path, record))
    if as_json:
        print_json(record)
        return
    print_plan(record, lines(found), Console(highlight=False))
    if out is not None and found.answers:
        first = out / answer_folder(1, found.answers[0].candidate.name)
        typer.echo(
            f"Written to {out}; tetrisim run {first / 'scenario.yaml'} runs the first answer, serve.sh serves it."
        )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(word) for word in words(text)))
    except ValueError:
        raise TetrisimError(option, f"is '{text}'", "whole numbers with commas between, as in 1,2,4") from None
