"""`tetrisim profile measure`: measure the kernels of a model on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tetrisim.cli.common import one_line_errors, progress_bar

if TYPE_CHECKING:
    from tetrisim.profiling.harness import Progress

ModelOption = Annotated[str, typer.Option("--model", help="A catalog name, or the path of a config.json.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cuda or cpu.")]
TpOption = Annotated[str, typer.Option("--tp", metavar="1,2,4", help="Tensor-parallel shards to measure on one GPU.")]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="bf16, fp16, fp32 or fp8 (default: bf16 on cuda, fp32 on cpu).")
]
BudgetOption = Annotated[str, typer.Option("--budget", help="Time for all shards together; run again to go on.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder of profiles.")]
GpuOption = Annotated[
    str | None, typer.Option("--gpu", help="Catalog name of the GPU, where its driver's name is not recognised.")
]


def measure_command(
    model: ModelOption,
    device: DeviceOption,
    tp: TpOption = "1",
    dtype: DtypeOption = None,
    budget: BudgetOption = "10m",
    out: OutOption = Path("profiles"),
    gpu: GpuOption = None,
) -> None:
    """Measure a model's kernels on this machine and write a profile; needs torch."""
    with one_line_errors():
        from tetrisim.profiling.measure import Wish, measure

        with progress_bar("starting") as bar:

            def show(title: str, progress: "Progress") -> None:
                bar(f"{title}: {progress.title}", progress.done, progress.units)

            folders = measure(Wish(model, device, tp, dtype, budget, out, gpu), show)
        for folder in folders:
            typer.echo(str(folder))
