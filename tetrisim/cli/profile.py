"""`tetrisim profile import|fit-steps|check|list|show`: measured latency tables."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tetrisim.cli.common import one_line_errors, sign_of_life, words
from tetrisim.cli.measure import measure_command
from tetrisim.errors import ProfileError, unknown_name

if TYPE_CHECKING:
    from tetrisim.latency.check import Errors

app = typer.Typer(help="Import, check and show measured latency tables.", no_args_is_help=True)
app.command("measure")(measure_command)

SOURCES = ("aiconfigurator", "llmservingsim", "splitwise", "vidur")

RootOption = Annotated[
    Path | None, typer.Option("--profiles", help="The folder of profiles; without it those that come with tetrisim.")
]
ModelOption = Annotated[
    list[str] | None, typer.Option("--model", help="A catalog name or a config.json; repeatable.", metavar="M")
]


@app.command("import")
def import_command(
    source: Annotated[str, typer.Argument(help=" | ".join(SOURCES))],
    path: Annotated[Path | None, typer.Argument(help="Where its tables are; aiconfigurator finds its package.")] = None,
    models: ModelOption = None,
    gpus: Annotated[list[str] | None, typer.Option("--gpu", help="Only this GPU; repeatable.", metavar="G")] = None,
    dtypes: Annotated[str, typer.Option("--dtype", help="bf16, fp8, ...; several with commas.")] = "bf16",
    shards: Annotated[str, typer.Option("--tp", help="Tensor-parallel degrees, as in 1,2,4.")] = "",
    out: Annotated[Path, typer.Option("--out", help="The folder of profiles to add to.")] = Path("profiles"),
) -> None:
    """Turn another project's measured tables into profiles; nothing is written unless all of it is sound."""
    with one_line_errors():
        if source not in SOURCES:
            raise unknown_name(ProfileError, "SOURCE", source, SOURCES)
        degrees = _degrees(shards)
        with sign_of_life(f"reading {source}"):
            folders = _convert(source, path, out, models or [], gpus or [], dtypes.split(","), degrees)
        for folder in folders:
            typer.echo(f"{folder}  {_worst(folder)}")


def _convert(
    source: str,
    path: Path | None,
    out: Path,
    models: list[str],
    gpus: list[str],
    dtypes: list[str],
    degrees: list[int],
) -> list[Path]:
    # Imported here, or `tetrisim --help` would load numpy and pyarrow.
    from tetrisim.scenario.model import load_model

    if path is None and source != "aiconfigurator":
        raise ProfileError("PATH", "is missing", f"where the tables of {source} are")
    if source in ("llmservingsim", "splitwise") and models:
        raise ProfileError("--model", f"is not a choice with {source}", "none: its tables are of one model")
    if source == "llmservingsim" and (gpus or degrees or dtypes != ["bf16"]):
        raise ProfileError("--gpu, --tp, --dtype", f"are no choice with {source}", "none: its meta.yaml names them")
    if source in ("vidur", "aiconfigurator") and not models:
        raise ProfileError("--model", "is missing", "a model to compose the profile of, as in --model llama-3.1-8b")
    if len(dtypes) > 1 and source != "aiconfigurator":
        raise ProfileError("--dtype", f"is '{','.join(dtypes)}'", f"one dtype with {source}")
    specs = [load_model(name, "--model") for name in models]
    if source == "aiconfigurator":
        from tetrisim.latency.importers import aiconfigurator

        return aiconfigurator.convert(path, out, aiconfigurator.Wanted(specs, gpus, dtypes, degrees or [1]))
    assert path is not None
    if source == "vidur":
        from tetrisim.latency.importers import vidur

        return vidur.convert(path, out, vidur.Wanted(specs, gpus, degrees or [1], dtypes[0]))
    if source == "splitwise":
        from tetrisim.latency.importers import splitwise

        return splitwise.convert(path, out, gpus, degrees, dtypes[0])
    from tetrisim.latency.importers import llmservingsim

    return llmservingsim.convert(path, out)


def _degrees(text: str) -> list[int]:
    parts = words(text)
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ProfileError("--tp", f"is '{text}'", "whole numbers above 0, as in 1,2,4")
    return sorted({int(part) for part in parts})


def _worst(folder: Path) -> str:
    """The op that its own points predict least."""
    from tetrisim.latency.table import read_profile

    errors: Errors = read_profile(folder).meta.get("errors") or {}
    if not errors:
        return "no leave-one-out errors: too few measured points"
    op = max(errors, key=lambda name: errors[name]["median"])
    return f"worst leave-one-out error: {op}, median {float(errors[op]['median']):.1%}"


@app.command("fit-steps")
def fit_steps_command(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="Folders with iterations.jsonl(.gz).")],
    model: Annotated[str | None, typer.Option("--model", help="A catalog name or a config.json.", metavar="M")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="Catalog name of the GPU.", metavar="G")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="bf16, fp8, fp32, ...")] = None,
    shards: Annotated[int, typer.Option("--tp", min=1, help="GPUs that the engine ran over.")] = 1,
    out: Annotated[Path, typer.Option("--out", help="The folder of profiles to add to.")] = Path("profiles"),
) -> None:
    """Fit a profile to the steps that an engine has logged; what is not given is read from LOG/config.json."""
    with one_line_errors():
        from tetrisim.latency.fit_steps import Engine, convert, facts
        from tetrisim.latency.table import read_profile
        from tetrisim.scenario.model import load_model

        known = facts(logs[0])
        chosen = {"--model": model or known.get("model"), "--gpu": gpu or known.get("gpu"),
                  "--dtype": dtype or known.get("dtype")}  # fmt: skip
        for name, value in chosen.items():
            if not isinstance(value, str):
                raise ProfileError(name, "is missing", f"it, or a name in {logs[0]}/config.json")
        spec = load_model(str(chosen["--model"]), "--model")
        with sign_of_life("fitting steps"):
            folder = convert(logs, out, Engine(spec, str(chosen["--gpu"]), str(chosen["--dtype"]), shards))
        profile = read_profile(folder)
        typer.echo(f"{folder}: {profile.source}")
        for kind, error in profile.meta["errors"].items():
            typer.echo(f"  {kind:<14} held out: bias {error['bias']:+7.2%}  median {error['median']:7.2%}  "
                       f"p90 {error['p90']:7.2%}  {error['points']:>6} steps")  # fmt: skip


@app.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(help="A profile, or a folder of profiles.")],
    against: Annotated[Path | None, typer.Option("--against", help="Another profile of the GPU, op by op.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Store the errors in profile.yaml.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw profile.png beside each profile.yaml.")] = False,
) -> None:
    """Refuse profiles that cannot be (exit code 2), warn of noise and holes, and print leave-one-out errors."""
    with one_line_errors():
        from tetrisim.latency.check import check_profile, choose_interpolation, store_errors
        from tetrisim.latency.table import read_profile

        refused = False
        for place in _profiles(folder):
            findings = check_profile(place)
            for finding in findings:
                typer.echo(f"{'error' if finding.hard else 'warning'}: {finding}", err=True)
            if any(finding.hard for finding in findings):
                refused = True
                continue
            profile = read_profile(place)
            typer.echo(profile.title)
            _print_errors(store_errors(place) if write else choose_interpolation(profile)[1])
            if plot:
                from tetrisim.report.profile_plot import save_profile

                save_profile(place / "profile.png", profile)
            if against is not None:
                _print_comparison(place, against)
        if refused:
            raise typer.Exit(2)


def _profiles(folder: Path) -> list[Path]:
    found = sorted(path.parent for path in folder.rglob("profile.yaml"))
    if not found:
        raise ProfileError(str(folder), "holds no profile.yaml", "a profile, or a folder of profiles")
    return found


def _print_errors(errors: "Errors") -> None:
    for op, error in errors.items():
        median, p90 = float(error["median"]), float(error["p90"])
        typer.echo(
            f"  {op:<26} median {median:7.2%}  p90 {p90:7.2%}  {error['points']:>6} points  {error['interpolation']}"
        )


def _print_comparison(place: Path, against: Path) -> None:
    from tetrisim.latency.check import compare
    from tetrisim.latency.table import read_profile

    typer.echo(f"  against {against}:")
    for op, (median, p90, points) in compare(read_profile(place), read_profile(against)).items():
        typer.echo(f"  {op:<26} median ratio {median:6.3f}  p90 of |ratio - 1| {p90:7.2%}  {points:>6} points")


@app.command("list")
def list_command(root: RootOption = None) -> None:
    """List the profiles, with where their numbers come from."""
    with one_line_errors():
        from tetrisim.latency.table import read_profile

        for place in _installed(root):
            typer.echo(read_profile(place).title)


@app.command("show")
def show_command(
    gpu: Annotated[str, typer.Argument(metavar="GPU")],
    model: Annotated[str, typer.Argument(metavar="MODEL")],
    root: RootOption = None,
) -> None:
    """Show the provenance, ops and errors of all profiles of a GPU and model."""
    with one_line_errors():
        import yaml

        from tetrisim.latency.table import read_profile

        profiles = [read_profile(place) for place in _installed(root)]
        if gpu not in {profile.gpu for profile in profiles}:
            raise unknown_name(ProfileError, "GPU", gpu, sorted({profile.gpu for profile in profiles}))
        there = [profile for profile in profiles if profile.gpu == gpu]
        if model not in {profile.model for profile in there}:
            raise unknown_name(ProfileError, "MODEL", model, sorted({profile.model for profile in there}))
        for profile in (profile for profile in there if profile.model == model):
            typer.echo(profile.title)
            typer.echo(f"  linear ops: {', '.join(profile.linear)}; head ops: {', '.join(profile.head) or 'none'}")
            guessed = len(profile.estimated_attention)
            typer.echo(f"  attention: {len(profile.attention)} points, {guessed} of them estimated")
            for line in yaml.safe_dump(profile.meta.get("provenance") or {}, sort_keys=False).splitlines():
                typer.echo(f"  {line}")
            _print_errors(profile.meta.get("errors") or {})


def _installed(root: Path | None) -> list[Path]:
    from tetrisim.latency.build import PROFILES

    if root is not None:
        return _profiles(root)
    return [path.parent for place in PROFILES if place.is_dir() for path in sorted(place.rglob("profile.yaml"))]
