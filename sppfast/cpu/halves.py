"""Halves to float32 and back, by threads: NumPy takes longer for that than most gradients take.

Bound: read the one, write the other.
"""

from .compile import routine
from .descriptor import BASE_AT, OUT_AT, WINDOWS
from .lanes.memory import load_i64, narrow_line, widen_line
from .lanes.reduction import HALVES, reduction

TASK_NUMBERS = 2**15  # as many as stay in a near cache
WIDEN, NARROW = "widen", "narrow"


@routine(only=lambda t: t.way == WIDEN)
def widen_numbers(singles, halves, first, last, t):
    """Turn halves into float32."""
    for i in range(first, last, HALVES):
        i = min(i, last - HALVES)
        widen_line(singles + 4 * i, halves + 2 * i, t)


@routine(only=lambda t: t.way == NARROW)
def narrow_numbers(halves, singles, first, last, t):
    """Round float32 to halves, to nearest even."""
    for i in range(first, last, HALVES):
        i = min(i, last - HALVES)
        narrow_line(halves + 2 * i, singles + 4 * i, t)


@routine()
def run_task(desc, task, worker, t):
    """Convert some numbers, a line of them at least: the last line reaches back."""
    source, target = load_i64(desc, BASE_AT), load_i64(desc, OUT_AT)
    last = min((task + 1) * TASK_NUMBERS, load_i64(desc, WINDOWS))
    first = min(task * TASK_NUMBERS, last - HALVES)
    widen_numbers(target, source, first, last, t)
    narrow_numbers(target, source, first, last, t)


def build(dtype, mode, narrow, way, digest):
    """Make the Python function of a kernel, for `numba.cfunc`: (descriptor, task, worker)."""

    def kernel(desc, task, worker):
        run_task(desc, task, worker, reduction(dtype, mode, narrow, way, digest))

    return kernel
