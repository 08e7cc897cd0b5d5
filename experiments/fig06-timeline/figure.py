"""In place of Figure 6, a diagram: what each instance runs over time, under vLLM and under TetriInfer.

Every bar is a request at an instance, from the rows of the run: its prefill, then its decode.
"""

from paper.scheduling import merged, work_of

from tetrisim import compare
from tetrisim.report import style
from tetrisim.scenario.scenario import Scenario
from tetrisim.studies.figures import Findings
from tetrisim.studies.seeds import estimate, over_seeds

SYSTEMS = {"vllm-v0": "vLLM", "tetriinfer": "TetriInfer"}


def figure(scenario: Scenario) -> Findings:
    """Drawn for one seed; the share of decoding time spent beside a prefill is over all seeds."""
    runs = over_seeds(scenario, lambda each: compare(each, SYSTEMS).results)
    metrics = {
        f"{name}, decoding beside a prefill (% of decoding time)": estimate(
            [_beside(run[system].request_columns) for run in runs]
        )
        for system, name in SYSTEMS.items()
    }

    def draw(canvas):
        for axis, system in zip(canvas.subplots(2, 1, sharex=True), SYSTEMS, strict=True):
            _draw(axis, runs[0][system], system)
        axis.set_xlabel("time (s)")
        axis.set_xlim(left=0)

    return Findings(metrics, draw, (9.0, 6.2))


def _beside(rows):
    """Share of all decoding time (%) in which the same instance prefills."""
    decoding = shared = 0.0
    for instance in set(rows["prefill_instance"]) | set(rows["decode_instance"]):
        work = work_of(rows, instance)
        prefills = merged((start, end) for start, end, prefill in work if prefill)
        for start, end, prefill in work:
            if not prefill:
                decoding += end - start
                shared += sum(max(0.0, min(end, last) - max(start, first)) for first, last in prefills)
    return 100 * shared / decoding


def _draw(axis, result, system):
    rows, colour = result.request_columns, style.colour(style.place_of(system))
    base, ticks = 0, {}
    for instance in result.instance_columns["instance"]:
        lanes: list[float] = []
        spans = work_of(rows, instance)
        for start, end, prefill in spans:
            lane = next((lane for lane, free in enumerate(lanes) if free <= start), len(lanes))
            lanes[lane : lane + 1] = [end]
            face = {"color": colour} if prefill else {"color": colour, "alpha": 0.3}
            axis.barh(base + lane, end - start, 0.8, start, linewidth=0, **face)
        height = max(len(lanes), 1)
        for start, end, prefill in spans:
            if prefill and system == "vllm-v0":
                axis.barh(
                    base + (height - 1) / 2, end - start, height - 0.2, start, color=colour, alpha=0.35, linewidth=0
                )
        ticks[base + (height - 1) / 2] = instance
        base += height + 1
    axis.set_yticks(list(ticks), list(ticks.values()))
    axis.invert_yaxis()
    title = {
        "vllm-v0": "vLLM: a prefill (dark) stops all decodes (pale) of its instance",
        "tetriinfer": "TetriInfer: prefills (dark) and decodes (pale) apart",
    }[system]
    style.plain(axis, title)
    axis.grid(False, axis="y")
