"""Scripts and modules run by a fresh interpreter, so that an abort or a hang is no more than a failed test."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import sppfast

TIMEOUT = 200
TESTS = Path(__file__).parent
PACKAGES = Path(sppfast.__file__).parents[1]
PRELUDE = """
import faulthandler, os, sys, threading
from workload import *
faulthandler.dump_traceback_later(180, exit=True)
"""
# Where everything is compiled anew, one kernel is enough.
COMPILE = PRELUDE + 'print(work(modes=["max"]))'


def start(*command, first_path=PACKAGES, before=(), **environment):
    """Start a fresh interpreter that finds the package and the workload; `before` it stands what starts it."""
    paths = [str(first_path), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [*before, sys.executable, *command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process, timeout=TIMEOUT):
    """What it printed; it must end well and in time."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out.strip()


def run(code, **environment):
    """Run a script after the prelude, and give back what it printed."""
    return finish(start("-c", PRELUDE + textwrap.dedent(code), **environment))
