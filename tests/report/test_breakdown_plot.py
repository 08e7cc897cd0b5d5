import matplotlib.image
import numpy as np
import pytest
from handmade import nothing_completed, three_requests

from tetrisim.metrics.breakdown import PARTS, breakdown
from tetrisim.report.breakdown_plot import draw_breakdown, save_breakdown
from tetrisim.report.style import new_figure


def parts(**milliseconds):
    return {part: np.full(3, milliseconds.get(part.removesuffix("_s"), 0) / 1e3) for part in PARTS}


def drawn(breakdowns):
    figure = new_figure()
    draw_breakdown(figure, breakdowns)
    return figure.axes


def written(axis):
    return [text.get_text() for text in axis.texts]


def widths(axis, count):
    """Lengths of the bars by system."""
    return [round(bar.get_width(), 6) for bar in axis.patches[-count:]]


TWO = {
    "one": parts(queue=10, prefill=30, transfer=100, decode=800, decode_interference=100),
    "other": parts(queue=100, prefill=60, prefill_interference=40, decode=500, decode_interference=500),
}


def test_bars_are_as_long_as_the_parts_and_name_their_shares_and_totals():
    left, right = drawn(TWO)
    assert [text.get_text() for text in left.get_yticklabels()] == ["one", "other"]
    assert [round(bar.get_width(), 6) for bar in left.patches] == [10, 30, 0, 0, 100, 60, 40, 0]
    assert [round(bar.get_x(), 6) for bar in left.patches] == [0, 10, 40, 40, 0, 100, 160, 200]
    assert "75%" in written(left) and "50%" in written(left)
    assert {"40 ms", "200 ms"} <= {*written(left)}
    assert left.get_xlabel() == "mean time of a request (ms)"
    assert right.get_xlabel() == "mean time of a request (s)"
    assert {"80%", "1 s"} <= {*written(right)}


def test_only_parts_that_show_are_explained_and_grey_tells_them_apart():
    left, right = drawn(TWO)
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "queueing", "own prefill", "prefill interference"]  # fmt: skip
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "transfer", "own decode", "decode interference"]  # fmt: skip
    own, beside = right.patches[3], right.patches[4]
    assert (own.get_hatch() or "", beside.get_hatch()) == ("", "////")


def test_systems_far_apart_are_drawn_as_shares():
    left, _ = drawn({"slow": parts(queue=9_000, prefill=1_000), "fast": parts(queue=10, prefill=30)})
    assert [round(bar.get_width(), 6) for bar in left.patches] == [90, 10, 0, 0, 25, 75, 0, 0]
    assert left.get_xlabel() == "share of the mean time of a request (%)"
    assert {"10 s", "40 ms"} <= {*written(left)}


@pytest.mark.parametrize("result", [three_requests(), nothing_completed()], ids=["two requests", "no request"])
def test_little_or_nothing_to_draw_still_makes_a_picture(tmp_path, result):
    save_breakdown(tmp_path / "a.png", {"vllm-v1": breakdown(result)})
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] == 1560
