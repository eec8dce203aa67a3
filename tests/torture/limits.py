"""Calls with too little memory, or whose allocations fail: right or ``MemoryError``, and the next call right."""

import collections
import contextlib
import ctypes
import itertools
import os
import resource
import warnings

import numpy as np
from helpers import make, make_rois
from workload import wait_for

import sppfast
from sppfast import memory

from .report import Row, bar
from .scenarios import HANG
from .soak import digest

MMAP_THRESHOLD, ARENA_MAX = -3, -8  # of the C library's options
RIGHT, REFUSED, WRONG = range(10, 13)  # a child that an exception ends has 1
# NumPy's own where it finds none for a small object, and does not say so.
NO_MEMORY = (MemoryError, SystemError)
ENOUGH = 100  # allocations in a row that are not missed
OPTIONS = {"levels": (6, 3, 1), "workers": 4}


def calls(seed):
    """Calls of each operator that take memory for results, indices, tables and copies."""
    rng = np.random.default_rng(seed)
    x = make(rng, (4, 64, 60, 80), "float32", "spread")
    rois = make_rois(rng, 2000, (960, 1280))
    options = OPTIONS | {"batch_index": np.arange(2000) % 4}
    grad = make(rng, (4, 64 * 46), "float32", "spread")
    grads = make(rng, (2000, 64 * 46), "float32", "spread")
    copied = x.astype(">f4")[:, ::-1, :, ::2]
    yield lambda: sppfast.pool(x, 40, workers=4)
    yield lambda: sppfast.pool(copied, 40, mode="avg", workers=4)
    yield lambda: sppfast.pool(x, 40, return_indices=True)[1]
    yield lambda: sppfast.pool(list(x[:, :, :50]), **OPTIONS)
    for operator, modes in ((sppfast.roi_pool, ("max", "avg")), (sppfast.roi_align, ("avg", "max"))):
        for mode in modes:
            yield lambda operator=operator, mode=mode: operator(x, rois, mode=mode, **options)
        yield lambda operator=operator: operator(copied, rois, **options)
    for mode in ("max", "avg"):
        yield lambda mode=mode: sppfast.pool_backward(grad, x, mode=mode, **OPTIONS)
        yield lambda mode=mode: sppfast.roi_pool_backward(grads, x, rois, mode=mode, **options)
        yield lambda mode=mode: sppfast.roi_align_backward(grads, x, rois, mode=mode, **options)
    numbered = np.column_stack([options["batch_index"], rois])
    for operator in (sppfast.roi_pool, sppfast.roi_align):
        yield lambda operator=operator: operator(x, numbered.astype("float32"))
        yield lambda operator=operator: operator(x, [rois[:9, ::-1][:, ::-1], rois[9:40].tolist(), [], rois[:0]])


def ending(call, want, short):
    """How a call ends that a child makes while `short` is entered, and a second call after it."""
    pid = os.fork()
    if pid:
        return wait_for(pid, HANG)
    memory._kept.clear()
    result = None
    with contextlib.suppress(*NO_MEMORY), short:
        result = call()
    ends = REFUSED if result is None else RIGHT if digest(result) == want else WRONG
    os._exit(ends if digest(call()) == want else WRONG)


@contextlib.contextmanager
def little_room(room):
    """A process that has `room` bytes of addresses beyond those in use."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with open("/proc/self/statm") as file:
        used = resource.getpagesize() * int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


@contextlib.contextmanager
def failing(number):
    """An interpreter whose allocation of this number, from 0 on, fails."""
    import _testcapi  # not every CPython has it

    _testcapi.set_nomemory(number, number + 1)
    try:
        yield
    finally:
        _testcapi.remove_mem_hooks()


def run_each(step, seed):
    """Make each call with one allocation that fails, every `step`-th of them; one row of the table."""
    seen, work = collections.Counter(), [(call, digest(call())) for call in calls(seed)]
    with bar(len(work), "calls", "allocations") as shown, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        for place, (call, want) in enumerate(work):
            right = 0
            for number in itertools.count(0, step):
                ends = ending(call, want, failing(number))
                assert ends in (RIGHT, REFUSED), f"call {place} without allocation {number} of seed {seed}: {ends}"
                seen[ends] += 1
                right = right + step if ends == RIGHT else 0
                if right >= ENOUGH:  # the call has no more of them
                    break
            shown.update()
    tried = f"{len(work)} calls of all operators, {sum(seen.values())} times with an allocation of Python's that fails"
    found = f"{seen[RIGHT]} right, {seen[REFUSED]} refused, the next call right each time"
    return Row("Allocations that fail", tried, found, f"allocations --step {step} --seed {seed}")


def run(count, seed):
    """Make each call with so many limits; one row of the table."""
    for option, value in ((MMAP_THRESHOLD, 2**16), (ARENA_MAX, 1)):  # what is given back is not there for the next
        ctypes.CDLL(None).mallopt(option, value)
    rng, seen = np.random.default_rng(seed), collections.Counter()
    work = [(call, digest(call())) for call in calls(seed)]
    rooms = np.rint(np.append(0, 10 ** rng.uniform(3.5, 8.5, count - 1))).astype(int)
    with bar(count * len(work), "calls", "limits") as shown, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        for room in map(int, rooms):
            for number, (call, want) in enumerate(work):
                ends = ending(call, want, little_room(room))
                assert ends in (RIGHT, REFUSED), f"call {number} with {room} bytes of seed {seed}: {ends}"
                seen[ends] += 1
                shown.update()
    tried = f"{len(work)} calls of all operators with {count} limits of addresses, 0 to {max(rooms) / 1e6:.0f} MB more"
    found = f"{seen[RIGHT]} right, {seen[REFUSED]} `MemoryError`, the next call right each time"
    return Row("Too little memory", tried, found, f"limits --count {count} --seed {seed}")
