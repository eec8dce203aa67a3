"""The emulated kernels under sanitizers: nothing outside arrays is touched, and no two threads race for an item."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HOSTILE = "hostile or misaligned or strides or not_checked or test_levels or large or channels or ragged or 2_to_the_31"
RACING = "test_levels or ragged or many_windows or float32 and gradients_are or adaptive and tiles and not many_bins"
SANITIZERS = {
    "asan": ("-Og -fsanitize=address,undefined -fno-sanitize-recover=undefined", HOSTILE),  # -O1: twice as long
    "tsan": ("-fsanitize=thread", RACING),
}


def library_of(sanitizer):
    command = ["g++", f"-print-file-name=lib{sanitizer}.so"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_sanitized(sanitizer):
    flags, tests = SANITIZERS[sanitizer]
    environment = os.environ | {
        "SPPFAST_EMULATION_FLAGS": flags,
        "LD_PRELOAD": library_of(sanitizer),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    command = [sys.executable, "-m", "pytest", "-qsx", "-m", "not gpu", "-k", tests, str(HERE / "test_cuda.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout
