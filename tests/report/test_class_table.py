"""The table of classes: a row a system and class, with the limits it is judged by."""

from io import StringIO

from rich.console import Console

from tetrisim.metrics.summary import summarize
from tetrisim.report.class_table import class_table
from tetrisim.scenario.load import load, override
from tetrisim.simulate import simulate


def test_a_row_a_class_and_system():
    classes = {"urgent": {"share": 0.5, "slo": {"ttft": "3 s"}}, "other": {"share": 0.5, "priority": 1}}
    of = override(load("default"), {"workload.classes": classes, "workload.requests": 60})
    summaries = [summarize(simulate(override(of, {"system": name}))) for name in ("vllm-v0", "vllm-v1")]
    out = StringIO()
    Console(file=out, width=160).print(class_table(summaries, of.workload.classes, of.slo))
    rows = [line.split() for line in out.getvalue().splitlines()[3:]]
    assert [row[:2] for row in rows] == [[name, system] for name in classes for system in ("vllm-v0", "vllm-v1")]
    assert int(rows[0][2]) + int(rows[2][2]) == 60
    assert rows[0][-4:] == ["TTFT", "<=", "3", "s"] and rows[2][-4:] == ["TPOT", "<=", "20", "ms"]
    alone = class_table(summaries[:1], of.workload.classes, of.slo)
    assert alone.columns[1].header == "\ncompleted", "the system of a lone run is not repeated"
