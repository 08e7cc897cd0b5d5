"""The notebooks run from top to bottom in a fresh kernel and a folder of their own, and are kept without outputs."""

import json
import resource
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST_S = 60
"""Of processor time, which other work on the machine leaves as it is; hung is what takes `HUNG_S` of the wall clock."""
HUNG_S = 300


def run(path, folder, without=""):
    """The executed notebook, up to the first cell that holds `without`, and the seconds of processor time."""
    notebook = nbformat.read(path, as_version=4)
    if without:
        end = next(place for place, cell in enumerate(notebook.cells) if without in cell.source)
        notebook.cells = notebook.cells[:end]
    client = nbclient.NotebookClient(
        notebook, timeout=HUNG_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    before = children_s()
    client.execute()
    return notebook, children_s() - before


def children_s():
    """Processor time of all processes started here that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook):
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


def pictures(notebook):
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def test_there_are_five():
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_that_was_run_is_kept(path):
    notebook = json.loads(path.read_text())
    nbformat.validate(nbformat.from_dict(notebook))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
        assert set(cell["metadata"]) <= {"tags"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's transport, not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, tmp_path, capfd):
    before = sorted(FOLDER.iterdir())
    notebook, seconds = run(path, tmp_path)
    assert 0.1 < seconds < LONGEST_S
    assert pictures(notebook) >= 1
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"], "no warnings to a reader"
    assert sorted(FOLDER.iterdir()) == before, "what it writes is in the folder that it runs in"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_without_widgets_there_are_three_settings_side_by_side(tmp_path, capfd):
    (tmp_path / "ipywidgets.py").write_text("raise ImportError('not here')\n")
    notebook, _ = run(FOLDER / "2_what_if.ipynb", tmp_path, without="tetrisim.advise(")
    assert all(f"{prefill}:{8 - prefill} prefill:decode, " in printed(notebook) for prefill in (2, 4, 6))
