"""`tetrisim run`: one scenario through its own system."""

from tetrisim.cli.common import (
    ExactOption,
    FormatOption,
    JsonOption,
    OutOption,
    ScenarioArgument,
    SetOption,
    StrictOption,
    WarmupOption,
    counted_results,
    draw_results,
    one_line_errors,
    parse_format,
    parse_warmup,
    print_json,
    print_results,
    read_scenario,
    sign_of_life,
)


def run_command(  # noqa: PLR0913  # each is an option of the command line
    scenario: ScenarioArgument,
    settings: SetOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    to: FormatOption = None,
    warmup: WarmupOption = "0",
    exact_steps: ExactOption = False,
    strict: StrictOption = False,
) -> None:
    """Simulate a scenario and print what its users would see."""
    with one_line_errors():
        # Imported here, or `tetrisim --help` would load numpy and the engine.
        from tetrisim.metrics.export import export
        from tetrisim.metrics.summary import summarize
        from tetrisim.simulate import simulate
        from tetrisim.studies.store import check_free, save_run

        tool, left_out = parse_format(to, as_json), parse_warmup(warmup)
        if out is not None:
            check_free(out)
        resolved = read_scenario(scenario, settings or [])
        with sign_of_life(f"simulating {resolved.system}") as now:
            result = simulate(resolved, exact_steps=exact_steps, strict=strict)
            summary = summarize(result, warmup=left_out)
            kept = counted_results({resolved.system: result}, [summary])
            if out is not None:
                now(f"writing {out}")
                save_run(out, result, summary, lambda path: draw_results(path, kept, resolved))
        if tool is not None:
            print_json(export(kept[resolved.system], tool))
        elif as_json:
            print_json(summary)
        else:
            print_results([summary], resolved, {resolved.system: result})
