"""`tetrisim systems|gpus|models|traces`: the names a scenario may use."""

from collections.abc import Sequence

import typer

from tetrisim.cli.common import one_line_errors


def systems_command() -> None:
    """List the serving systems."""
    from tetrisim.scenario.presets import SYSTEMS

    _print_rows([(name, system.summary) for name, system in SYSTEMS.items()])


def gpus_command() -> None:
    """List the GPUs, with the data-sheet facts the roofline uses and the price behind perf/$."""
    from tetrisim.scenario.gpu import GPUS

    rows = [("name", "memory", "bandwidth", "16-bit peak", "price")]
    rows += [
        (
            gpu.name,
            f"{gpu.memory_bytes / 2**30:.0f} GiB",
            f"{gpu.memory_bytes_per_s / 1e12:.2f} TB/s",
            f"{gpu.flops_per_s / 1e12:.0f} TFLOP/s",
            f"{gpu.price_per_hour:.2f} $/h",
        )
        for gpu in GPUS.values()
    ]
    _print_rows(rows)


def models_command() -> None:
    """List the models of the catalog; any other config.json of their families works by path."""
    from tetrisim.scenario.model import load_model, model_names

    rows = [("name", "parameters", "layers", "KV a token (16 bit)", "longest context")]
    for name in model_names():
        model = load_model(name)
        size = f"{model.parameters / 1e9:.2f} B"
        kv = f"{model.kv_bytes_per_token('bf16') / 1024:.0f} KiB"
        rows.append((name, size, str(model.layers), kv, f"{model.max_positions} tokens"))
    _print_rows(rows)


def traces_command() -> None:
    """List the embedded traces; a file of a known format works by path."""
    from tetrisim.workload.trace import describe, trace_names

    _print_rows([(name, describe(name)) for name in trace_names()])


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    """Columns padded with blanks, so that the output is easy to read and to cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    with one_line_errors():
        for row in rows:
            typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
