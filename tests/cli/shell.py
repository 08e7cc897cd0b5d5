"""The command line as a test calls it, and Ctrl-C as a terminal sends it."""

import os
import signal
import subprocess
import sys
import time

from typer.testing import CliRunner

from tetrisim.cli.main import app


def tetrisim(*arguments):
    """The command in this process: exit_code, stdout, stderr."""
    return CliRunner().invoke(app, [str(each) for each in arguments])


def is_refused(done, said):
    """Bad input is one line on stderr and exit code 2."""
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and said in done.stderr


def ctrl_c_is_one_line(after_s, *arguments):
    """A terminal sends it to the whole group: one process answers, in one line, and none may stay."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tetrisim", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(after_s)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    for _ in range(100):  # whoever is dead may wait a moment to be buried
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a worker stayed")
