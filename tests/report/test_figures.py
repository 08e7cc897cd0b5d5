import matplotlib.image
import pytest
from handmade import nothing_completed, served, three_requests

from tetrisim.report.figures import latency_figure, save_latency
from tetrisim.report.style import PALETTE
from tetrisim.scenario.slo import SloSpec

SYSTEMS = ("vllm-v0", "vllm-v1", "tetriinfer")


@pytest.fixture(scope="module")
def figure():
    results = {name: served(name, 0.1 * (place + 1), 0.02) for place, name in enumerate(SYSTEMS)}
    return latency_figure(results, SloSpec(0.5, 0.03, None))


def test_each_panel_has_a_line_of_its_own_colour_and_dash_a_system(figure):
    for axis in figure.axes:
        lines = axis.lines[: len(SYSTEMS)]
        assert [line.get_color() for line in lines] == list(PALETTE[:3])
        assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in lines}) == 3
        assert [text.get_text() for text in axis.texts[:3]] == list(SYSTEMS)


def test_lines_end_at_every_request(figure):
    assert all(line.get_ydata()[-1] == 100 for axis in figure.axes for line in axis.lines[:3])


def test_limits_stand_where_the_slo_says_and_nowhere_else(figure):
    ttft, tpot, e2el = figure.axes
    assert list(ttft.lines[3].get_xdata()) == [500, 500]
    assert list(tpot.lines[3].get_xdata()) == [30, 30]
    assert len(e2el.lines) == 3


def test_axes_say_unit_and_scale(figure):
    ttft, tpot = figure.axes[:2]
    assert (ttft.get_xscale(), ttft.get_xlabel()) == ("log", "TTFT (ms, log scale)")
    assert (tpot.get_xscale(), tpot.get_xlabel()) == ("linear", "TPOT (ms)")
    assert "%" in ttft.get_ylabel()


def test_long_waits_are_in_seconds_and_a_far_limit_stays_in_sight():
    axis = latency_figure({"vllm-v0": served("vllm-v0", 60.0, 0.02)}, SloSpec(0.5, None)).axes[0]
    low, high = axis.get_xlim()
    assert axis.get_xlabel() == "TTFT (s, log scale)"
    assert low < 0.5 < 60 < high


@pytest.mark.parametrize("result", [three_requests(), nothing_completed()], ids=["two requests", "no request"])
def test_little_or_nothing_to_draw_still_makes_a_picture(tmp_path, result):
    save_latency(tmp_path / "a.png", {"vllm-v1": result}, SloSpec())
    height, width, _ = matplotlib.image.imread(tmp_path / "a.png").shape
    assert (width, height) == (1560, 528)
