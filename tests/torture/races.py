"""Arrays that another thread changes during the call: the result is undefined, but nothing outside is touched."""

import faulthandler
import threading
import warnings

import numpy as np
from helpers import make_rois
from processes import finish, start

import sppfast

from .fences import SIDES, fenced
from .report import Row
from .scenarios import HANG

LEVELS = (3, 1)
SIDE = 20


def arrays(rng):
    """Arguments that are read, in fences, and what their values may become."""
    x = rng.random((3, 20, SIDE, SIDE), dtype=np.float32)
    rois = np.column_stack([rng.integers(0, 3, 50), make_rois(rng, 50, (320, 320))])
    grad = rng.random((50, 200), dtype=np.float32)
    indices = rng.integers(-1, SIDE**2, (50, 200), np.int32)
    return x, rois, grad, indices, rng.integers(0, 3, 50)


CORNERS = (0, 1, 2, 5, 100, 300, -1, 9, np.nan, np.inf, 1e300, -1e18)
CELLS = (-1, 0, 399, 400, -2, 2**31 - 1, -(2**31), 10**6)


def scribble(given, stop, seed):
    """Change windows, their maps and indices, to anything."""
    rng = np.random.default_rng(seed)
    _, rois, _, indices, maps = given
    while not stop.is_set():
        rois[rng.integers(50), rng.integers(5)] = rng.choice(CORNERS)
        maps[rng.integers(50)] = indices[rng.integers(50), rng.integers(200)] = rng.choice(CELLS)
        if rng.random() < 0.05:  # mostly right, so that calls come past their checks
            rois[:, 0], rois[:, 1:3], rois[:, 3:] = 1, 5, 90
            indices[:], maps[:] = 7, 2


def calls(given):
    """A call of each operator that takes windows or indices."""
    x, rois, grad, indices, maps = given
    options = {"workers": 1}
    yield lambda: sppfast.roi_pool(x, rois, LEVELS, **options)
    yield lambda: sppfast.roi_pool(x, rois, LEVELS, rounding="fast_rcnn", mode="avg", **options)
    yield lambda: sppfast.roi_align(x, rois, LEVELS, **options)
    yield lambda: sppfast.roi_align(x, rois[:, 1:], LEVELS, batch_index=maps, **options)
    yield lambda: sppfast.roi_pool_backward(grad, x, rois, LEVELS, indices=indices, **options)
    yield lambda: sppfast.roi_align_backward(grad, x, rois, LEVELS, **options)
    yield lambda: sppfast.pool_backward(grad[:3], x, LEVELS, indices=indices[:3], **options)


def work(count, seed):
    """Make calls while two threads scribble; how many gave a result."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    given = 0
    for side in SIDES:
        with fenced(side):
            read, stop = arrays(np.random.default_rng(seed)), threading.Event()
            threads = [threading.Thread(target=scribble, args=(read, stop, seed + i)) for i in range(2)]
            made = list(calls(read))
            for call in made:  # compiled before others contend for the interpreter
                call()
            for thread in threads:
                thread.start()
            try:
                given += sum(gives(made[number % len(made)]) for number in range(count // len(SIDES)))
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
    return given


def gives(call):
    """Tell whether a call gives a result, or sees what is wrong before it begins."""
    try:
        call()
    except (ValueError, TypeError):
        return False
    return True


def run(count, seed):
    """Make so many calls; one row of the table."""
    code = f"import sys; from torture.races import work; sys.setswitchinterval(1e-5); print(work({count}, {seed}))"
    given = int(finish(start("-c", code), 4 * HANG))
    tried = f"{count} calls beside fences while two threads change windows and indices"
    return Row("Arrays that change", tried, f"{given} results, the others refused; no crash", f"races --count {count}")
