"""The table in README.md is what the demo prints; run as a script (`make readme`) this writes it anew."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(?<=<!-- demo -->\n```text\n).*?(?=```\n<!-- /demo -->)", re.DOTALL)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
WALL = re.compile(r"in [0-9.]+ s of wall time")
SYSTEMS = "vllm-v0,vllm-v1,tetriinfer"


def demo():
    """What `make demo` prints, its trailing blanks off."""
    plain = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    command = [sys.executable, "-m", "tetrisim", "compare", "default", "--systems", SYSTEMS]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=plain).stdout
    return "".join(f"{line.rstrip()}\n" for line in printed.splitlines())


def without_clock(text):
    return WALL.sub("in ... s of wall time", text)


def test_the_table_is_what_the_demo_prints():
    written = BLOCK.search(README.read_text())
    assert written, "README.md has lost its demo block"
    assert without_clock(written[0]) == without_clock(demo())


def test_the_python_example_runs(capsys):
    example = PYTHON.search(README.read_text())[1]
    assert len(example.strip().splitlines()) <= 10
    exec(compile(example, "README.md", "exec"), {})
    assert "tetriinfer" in capsys.readouterr().out


def test_every_file_named_is_there():
    root = README.parent
    named = set(re.findall(r"`((?:tetrisim|tests|experiments|profiles|traces)/[\w./-]*)`", README.read_text()))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (root / name).exists()] == []


if __name__ == "__main__":
    fresh = demo()
    README.write_text(BLOCK.sub(lambda _: fresh, README.read_text()))
    print(fresh)
