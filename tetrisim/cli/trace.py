"""`tetrisim trace info|convert|sample|scale|fit`: traces described, converted, cut, sped up, and fitted."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from tetrisim.cli.common import one_line_errors, print_json, sign_of_life
from tetrisim.errors import OutputError, TraceError, nearest_name, unknown_name
from tetrisim.yamltext import parse_yaml

if TYPE_CHECKING:
    from tetrisim.workload.fitting import Fit
    from tetrisim.workload.trace import Trace

app = typer.Typer(help="Describe, convert, cut, rescale and fit traces.", no_args_is_help=True)

TraceArgument = Annotated[
    str, typer.Argument(metavar="TRACE", help="A trace file, a generator's YAML, or a name of `tetrisim traces`.")
]
NewFileArgument = Annotated[Path, typer.Argument(metavar="OUT", help="A new file; gzipped where it ends in .gz.")]
RequestsOption = Annotated[int | None, typer.Option("--requests", metavar="N", help="Only (or generate) the first N.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Of a generator, and of --fraction.")]

PICTURES = (".png", ".svg", ".pdf")


@app.command("info")
def info_command(
    trace: TraceArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="PNG", help="A new file for a picture.")] = None,
    requests: RequestsOption = None,
    seed: SeedOption = 1,
) -> None:
    """Describe a trace: rate, burstiness, lengths, and how much of its prompts earlier ones began with."""
    with one_line_errors():
        if out is not None and out.suffix not in PICTURES:
            raise OutputError("--out", f"is '{out}'", "a name that ends in " + ", ".join(PICTURES))
        with sign_of_life("reading the trace"):
            from tetrisim.workload.describe import facts

            opened = _open(trace, seed, requests=requests)
            found = facts(opened)
        if out is not None:
            from tetrisim.report.trace_plot import save_trace
            from tetrisim.workload.writers import new_file

            with new_file(out) as partial:
                save_trace(partial, opened, found)
        if as_json:
            print_json(found)
        else:
            _print_facts(found)


@app.command("convert")
def convert_command(
    trace: TraceArgument,
    out: NewFileArgument,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="azure, mooncake, burstgpt or csv.")],
    requests: RequestsOption = None,
    seed: SeedOption = 1,
) -> None:
    """Write a trace in another format, and say what is lost by it.

    Times count from the first request. BurstGPT is written without Model and Log Type, which are nothing to simulate.
    """
    with one_line_errors():
        from tetrisim.workload.writers import WRITERS

        if to not in WRITERS:
            raise unknown_name(TraceError, "--to", to, WRITERS)
        _save(_open(trace, seed, requests=requests), trace, out, to)


@app.command("sample")
def sample_command(
    trace: TraceArgument,
    out: NewFileArgument,
    requests: RequestsOption = None,
    from_time: Annotated[str | None, typer.Option("--from", metavar="T", help="Cut from here on, as in 10min.")] = None,
    to_time: Annotated[str | None, typer.Option("--to", metavar="T", help="Cut up to here, as in 20min.")] = None,
    fraction: Annotated[float | None, typer.Option("--fraction", help="Thin: keep each with this chance.")] = None,
    seed: SeedOption = 1,
) -> None:
    """Cut a trace to its first requests or to a stretch of time, or thin it; its format stays.

    Times count from the first request. Thinning keeps the shape of the rate over time.
    """
    with one_line_errors():
        from tetrisim.streams import stream
        from tetrisim.workload.reshape import between, thin

        window = from_time is not None or to_time is not None
        if (requests is not None) + window + (fraction is not None) != 1:
            raise TraceError("sample", "is not one cut", "either --requests, or --from and --to, or --fraction")
        opened = _open(trace, seed)
        if fraction is not None:
            cut = thin(opened, fraction, stream(seed, "thinning"))
        elif window:
            end_s = float("inf") if to_time is None else _quantity("--to", to_time, "_s")
            cut = between(opened, _quantity("--from", from_time or "0 s", "_s"), end_s)
        else:
            cut = _open(trace, seed, requests=requests)
        _save(cut, trace, out, _format_for(trace, out))
        _print_reuse(opened, cut)


@app.command("scale")
def scale_command(
    trace: TraceArgument,
    out: NewFileArgument,
    rate: Annotated[str | None, typer.Option("--rate", metavar="R", help="To this mean rate, as in '20 /s'.")] = None,
    speed: Annotated[float | None, typer.Option("--speed", metavar="X", help="So many times as fast.")] = None,
    seed: SeedOption = 1,
) -> None:
    """Stretch or press the gaps of a trace, all alike; its format stays."""
    with one_line_errors():
        from tetrisim.workload.reshape import faster

        if (rate is None) == (speed is None):
            raise TraceError("scale", "is not one scale", "either --rate or --speed")
        wanted = None if rate is None else _quantity("--rate", rate, "_per_s")
        scaled = _open(trace, seed)
        if not scaled.arrival_s[-1] > 0:
            raise TraceError(trace, "has no gaps to scale: all requests arrive at once", "a trace over some time")
        scaled = _open(trace, seed, rate_per_s=wanted) if speed is None else faster(scaled, speed)
        _save(scaled, trace, out, _format_for(trace, out))


@app.command("fit")
def fit_command(
    trace: TraceArgument,
    out: Annotated[Path | None, typer.Option("--out", metavar="YAML", help="Write it to a new file.")] = None,
    lengths: Annotated[str, typer.Option("--lengths", help="auto, log-normal or quantiles.")] = "auto",
    gaps: Annotated[str, typer.Option("--gaps", help="auto, gamma or quantiles.")] = "auto",
    seed: SeedOption = 1,
) -> None:
    """Fit a generator and print it as YAML, its goodness in comments; `workload.trace` takes the file.

    auto takes the law of two numbers where it is good, else the quantiles.
    """
    with one_line_errors():
        from tetrisim.workload.fitting import GAP_LAWS, LENGTH_LAWS, fit
        from tetrisim.workload.generator import GENERATOR_SUFFIXES
        from tetrisim.workload.writers import new_file

        if lengths not in LENGTH_LAWS:
            raise unknown_name(TraceError, "--lengths", lengths, LENGTH_LAWS)
        if gaps not in GAP_LAWS:
            raise unknown_name(TraceError, "--gaps", gaps, GAP_LAWS)
        if out is not None and out.suffix not in GENERATOR_SUFFIXES:
            raise OutputError("--out", f"is '{out}'", "a name that ends in " + " or ".join(GENERATOR_SUFFIXES))
        with sign_of_life("fitting"):
            opened = _open(trace, seed)
            text = _as_yaml(opened, fit(opened, lengths, gaps))
        if out is None:
            typer.echo(text, nl=False)
            return
        with new_file(out) as partial:
            partial.write_text(text)
        typer.echo("".join(line[2:] for line in text.splitlines(True) if line.startswith("# ")), nl=False)
        typer.echo(f"In a scenario: workload: {{trace: {out}}}")


def _open(name: str, seed: int, **settings: Any) -> "Trace":
    """The trace of a file or generator; what its reader warns of goes to stderr."""
    from tetrisim.scenario.workload import WorkloadSpec
    from tetrisim.workload.trace import build, trace_names

    if name not in trace_names() and not Path(name).exists():
        folder = Path(name).parent
        beside = [str(path) for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
        names = ", ".join(trace_names())
        what = f"'{name}' is neither a file nor a trace of the catalog"
        raise TraceError("TRACE", what, f"a path, or one of {names}", nearest_name(name, [*beside, *trace_names()]))
    try:
        spec = WorkloadSpec(trace=name, **{key: value for key, value in settings.items() if value is not None})
    except ValueError as error:
        option, _, expected = str(error).partition(": expected ")
        raise TraceError(f"--{option}", "is not usable", expected) from None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trace = build(spec, seed)
    for warning in caught:
        typer.echo(f"warning: {warning.message}", err=True)
    return trace


def _quantity(option: str, text: str, family: str) -> float:
    from tetrisim import units

    try:
        return units.parse(parse_yaml(text), family)
    except (ValueError, yaml.YAMLError) as error:
        expected = str(error) if isinstance(error, ValueError) else "a quantity"
        raise TraceError(option, f"is '{text}'", expected) from None


def _file_format(name: str) -> str | None:
    """The format of a trace file; None for a generator."""
    from tetrisim.workload.generator import GENERATOR_SUFFIXES
    from tetrisim.workload.readers import detect
    from tetrisim.workload.trace import trace_names

    return None if name in trace_names() or Path(name).suffix in GENERATOR_SUFFIXES else detect(name)


def _format_for(name: str, out: Path) -> str:
    """The format of the trace itself; a generator's by the name of the new file."""
    return _file_format(name) or ("mooncake" if ".jsonl" in out.suffixes else "csv")


def _save(trace: "Trace", name: str, out: Path, to: str) -> None:
    """Write the trace that was read from `name`, and say what did not come along."""
    from tetrisim.workload.readers import other_columns
    from tetrisim.workload.writers import losses, write

    write(trace, out, to)
    typer.echo(f"{out}: {len(trace)} requests over {_time(float(trace.arrival_s[-1]))}, as {to}")
    source = _file_format(name)
    other = other_columns(name, source) if source else ()
    for lost in [*losses(trace, to), *([f"the columns {', '.join(other)}"] if other else [])]:
        typer.echo(f"lost: {lost}", err=True)


def _print_reuse(before: "Trace", after: "Trace") -> None:
    if before.hash_ids is not None:
        from tetrisim.workload.describe import reuse

        typer.echo(f"prefix reuse: {reuse(before):.1%} of prompt tokens before, {reuse(after):.1%} after")


def _print_facts(found: Mapping[str, Any]) -> None:
    rate = (
        "all at once" if found["rate_per_s"] is None else f"over {_time(found['span_s'])}, {found['rate_per_s']:.4g} /s"
    )
    typer.echo(f"{found['trace']}: {found['requests']:,} requests {rate}")
    if found["gap_cv"] is not None:
        together = f"; {found['simultaneous']:.1%} arrive with the one before" if found["simultaneous"] else ""
        typer.echo(f"gaps       CV {found['gap_cv']:.3g} (Poisson: 1){together}")
    if found["dispersion"]:
        counts = ", ".join(f"{value:.3g} in {window}" for window, value in found["dispersion"].items())
        typer.echo(f"arrivals   index of dispersion {counts} (Poisson: 1)")
    typer.echo(f"{'tokens':<10}" + "".join(f"{name:>10}" for name in ("mean", "p50", "p90", "p99", "max")))
    for name in ("prompt", "output"):
        column = found[f"{name}_tokens"]
        typer.echo(f"{name:<10}" + "".join(f"{value:>10,.0f}" for value in column.values()))
    if found["rank_correlation"] is not None:
        typer.echo(f"prompt and output go together with rank correlation {found['rank_correlation']:.2f}")
    if found["prefix"] is None:
        typer.echo("prefixes   unknown: no hash ids")
        return
    prefix = found["prefix"]
    sizes = f"{prefix['blocks']:,} blocks of {prefix['block_tokens']} tokens, {prefix['distinct_blocks']:,} distinct"
    typer.echo(f"prefixes   {sizes}")
    share = f"{prefix['token_hit_rate']:6.1%} of prompt tokens ({prefix['block_hit_rate']:.1%} of blocks)"
    typer.echo(f"reusable   {share}, with an endless cache")
    for row in reversed(prefix["by_cache"]):
        typer.echo(f"           {row['token_hit_rate']:6.1%} with {row['cache_tokens']:,} tokens")


def _time(seconds: float) -> str:
    unit, factor = ("s", 1.0) if seconds < 300 else ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)
    return f"{seconds / factor:.4g} {unit}"


def _as_yaml(trace: "Trace", fitted: "Fit") -> str:
    """The generator's file: what it was fitted to and how well in comments, then its keys."""
    from tetrisim.workload.describe import reuse
    from tetrisim.workload.generator import dump_generator

    lines = [f"Fitted to {trace.name}, {len(trace)} requests.", f"{'':<22}{'trace':>9} {'fitted':>9}  KS distance"]
    for row in fitted.goodness:
        law = "" if row.ks is None else f"  {row.ks:.3f}, {row.law}" + (f" ({row.rejected})" if row.rejected else "")
        lines.append(f"{row.name:<22}{row.trace:>9.4g} {row.fitted:>9.4g}{law}")
    if fitted.spec.gaps is not None and fitted.spec.gaps.drift is None:
        lines.append(
            "Gaps are independent here: where the dispersions differ, the trace's come in an order of their own."
        )
    if trace.hash_ids is not None:
        lines.append(f"No prompts share a prefix here; {reuse(trace):.1%} of the trace's prompt tokens do.")
    return "".join(f"# {line}\n" for line in lines) + dump_generator(fitted.spec)
