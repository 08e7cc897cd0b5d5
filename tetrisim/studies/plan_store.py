"""The folder of a plan: plan.json, the picture, and for each answer its scenario and serve lines."""

from pathlib import Path

from tetrisim.scenario.load import dump_yaml
from tetrisim.studies.plan_record import Plan
from tetrisim.studies.plan_serve import serve_script
from tetrisim.studies.store import Picture, new_folder, write_json


def save_plan(folder: Path, found: Plan, picture: Picture) -> None:
    """Write plan.json, pareto.png, and a folder an answer with scenario.yaml and serve.sh."""
    with new_folder(folder) as partial:
        write_json(partial / "plan.json", found.summary())
        for place, row in enumerate(found.answers, 1):
            own = partial / answer_folder(place, row.candidate.name)
            own.mkdir()
            scenario = found.scenario_of(row)
            (own / "scenario.yaml").write_text(dump_yaml(scenario))
            (own / "serve.sh").write_text(serve_script(scenario))
        picture(partial / "pareto.png")


def answer_folder(place: int, name: str) -> str:
    """As in `1-4-x-h100-sxm-tp1-vllm-v1-tokens-2048-seqs-128`."""
    plain = "".join(each if each.isalnum() or each in ".+" else "-" for each in name)
    return f"{place}-{plain}"
