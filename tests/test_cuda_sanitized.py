"""The emulated kernels under AddressSanitizer and UndefinedBehaviorSanitizer: nothing outside arrays is touched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
TESTS = "hostile or misaligned or strides or not_checked or test_levels or large or channels or ragged or 2_to_the_31"


def sanitizer():
    found = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_sanitized():
    environment = os.environ | {
        "SPPFAST_EMULATION_FLAGS": FLAGS,
        "LD_PRELOAD": sanitizer(),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not gpu", "-k", TESTS, str(HERE / "test_cuda.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout
