import numpy as np

from tetrisim.report.validation_plot import save_validation, validation_figure

SAMPLES = {"TTFT": (np.linspace(0.1, 0.2, 50), np.linspace(0.1, 0.25, 50)), "E2EL": (np.full(3, 9.0), np.full(3, 8.0))}
LINES = {"requests running": ((np.arange(4.0), np.array([0.0, 2, 2, 0])), (np.arange(4.0), np.array([0.0, 3, 1, 0])))}


def test_panels_name_axes_units_and_both_sides():
    figure = validation_figure("a run", SAMPLES, LINES)
    ttft, e2el, running = figure.axes
    assert (ttft.get_xlabel(), e2el.get_xlabel()) == ("TTFT (ms)", "E2EL (s)")
    assert "%" in ttft.get_ylabel() and "s after" in running.get_xlabel()
    for axis in figure.axes:
        assert len(axis.lines) == 2
        assert {line.get_linestyle() for line in axis.lines} == {"-", "--"}, "told apart without colour"
        assert [text.get_text() for text in axis.texts[:2]] == ["measured", "simulated"]
    assert e2el.texts[2].get_text() == "mean -11.1%"
    assert ttft.lines[0].get_ydata()[-1] == 100


def test_an_empty_side_is_drawn_empty(tmp_path):
    save_validation(tmp_path / "x.png", "nothing", {"TPOT": (np.empty(0), np.empty(0))}, LINES)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
