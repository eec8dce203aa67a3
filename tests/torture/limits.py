"""Calls with too little memory: the right answer or ``MemoryError``, and the next call right."""

import collections
import contextlib
import ctypes
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
RIGHT, REFUSED, WRONG = range(3)
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


def limited(call, want, room):
    """How a call ends that a child makes with `room` bytes of addresses beyond those in use."""
    pid = os.fork()
    if pid:
        return wait_for(pid, HANG)
    memory._kept.clear()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with open("/proc/self/statm") as file:
        used = resource.getpagesize() * int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + room, hard))
    result = None
    with contextlib.suppress(MemoryError):
        result = call()
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    ends = REFUSED if result is None else RIGHT if digest(result) == want else WRONG
    os._exit(ends if digest(call()) == want else WRONG)


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
                ends = limited(call, want, room)
                assert ends in (RIGHT, REFUSED), f"call {number} with {room} bytes of seed {seed}: {ends}"
                seen[ends] += 1
                shown.update()
    tried = f"{len(work)} calls of all operators with {count} limits of addresses, 0 to {max(rooms) / 1e6:.0f} MB more"
    found = f"{seen[RIGHT]} right, {seen[REFUSED]} `MemoryError`, the next call right each time"
    return Row("Too little memory", tried, found, f"limits --count {count} --seed {seed}")
