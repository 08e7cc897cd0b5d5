"""Rules of the house that no linter checks: files of at most 400 lines, functions of at most 60."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "tetrisim"
FILE_LINES, FUNCTION_LINES = 400, 60


def breaches(source, name):
    lines = source.count("\n")
    if lines > FILE_LINES:
        yield f"{name}: {lines} lines"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{name}: {node.name} has {length} lines"


def test_files_and_functions_are_short():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 20
    assert [line for file in files for line in breaches(file.read_text(), file.relative_to(PACKAGE))] == []


def test_the_check_finds_what_is_too_long():
    long_function = "def f():\n" + "    x = 1\n" * 60
    assert list(breaches(long_function, "a.py")) == ["a.py: f has 61 lines"]
    assert list(breaches("x = 1\n" * 401, "a.py")) == ["a.py: 401 lines"]
    assert list(breaches("def f():\n" + "    x = 1\n" * 59, "a.py")) == []
