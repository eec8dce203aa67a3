"""What the processes of test_processes.py run: fixed input and a digest of the results."""

import hashlib
import os
import signal
import time

import numpy as np

import sppfast

x = np.random.default_rng(5).integers(-9, 9, (3, 20, 13, 17)).astype(np.float32)
rois = [[0, 0, 0, 100, 100], [2, 40, 8, 300, 90], [1, -9, 60, 160, 170], [0, 33, 33, 35, 35]]


def work(workers=None, modes=("max", "avg")):
    """Pool maps and windows, and boil the results down to a few letters."""
    parts = []
    for mode in modes:
        parts.append(sppfast.pool(x, mode=mode, workers=workers))
        parts.append(sppfast.pool(x[:, :3], 3, mode=mode, workers=workers))
        parts.append(sppfast.roi_pool(x, rois, mode=mode, workers=workers))
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def wait_for(pid, seconds=60):
    """The exit status of a child; a child that hangs is ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hang"
