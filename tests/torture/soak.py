"""Soak and load: mixed calls from several threads at once, for as long as asked; the same bits, and flat memory."""

import functools
import gc
import hashlib
import itertools
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from helpers import BINS, DTYPES, FLOATS, ROUNDINGS, make_map, make_rois

import sppfast

from .report import Clock, Row, bar

THREADS = 4
ROUND = 400  # calls, after which the threads rest and memory is measured
WARM_UP = 0.1  # of the calls
MAPS = [(2, 5, 9, 9), (4, 70, 13, 13), (1, 2, 200, 180), (8, 64, 13, 13), (1, 256, 38, 63)]
LARGE = (4, 700, 52, 60)  # its gradient, 35 MB, leaves its memory to the next


def kinds(seed, maps=MAPS, dtypes=DTYPES):
    """Two hundred calls of every operator, closures that give an array."""
    rng = np.random.default_rng(seed)
    for shape, dtype in itertools.product(maps, dtypes):
        layout = str(rng.choice(["NCHW", "NHWC"]))
        x = make_map(rng, shape, dtype, "ties", layout)
        options = {"layout": layout, "workers": [None, 1, 3][rng.integers(3)]}
        yield functools.partial(sppfast.pool, x, bins=str(rng.choice(BINS)), **options)
        yield from windows(rng, x, shape, options)
        if dtype in FLOATS:
            yield from gradients(rng, x, shape, options)
    x = np.ones(LARGE, np.float32)
    grad = sppfast.pool(x)
    yield lambda: sppfast.pool_backward(grad, x)


def windows(rng, x, shape, options):
    count, image = int(rng.integers(1, 60)), (16 * shape[2], 16 * shape[3])
    rois = np.column_stack([rng.integers(0, len(x), count), np.rint(make_rois(rng, count, image))])
    rounding, mode = str(rng.choice(ROUNDINGS)), str(rng.choice(["max", "avg"]))
    yield lambda: sppfast.roi_pool(x, rois, (3, 1), rounding=rounding, mode=mode, **options)
    if rounding == "sppnet":
        yield lambda: sppfast.roi_align(x, rois, (3, 1), sampling_ratio=int(count % 3), mode=mode, **options)


def gradients(rng, x, shape, options):
    mode = str(rng.choice(["max", "avg"]))
    length = shape[1] * 10
    grad = rng.integers(-3, 4, (len(x), length)).astype(x.dtype)
    rois = np.column_stack([np.arange(len(x)), make_rois(rng, len(x), (16 * shape[2], 16 * shape[3]))])
    yield lambda: sppfast.pool_backward(grad, x, (3, 1), mode=mode, **options)
    yield lambda: sppfast.roi_pool_backward(grad, x, rois, (3, 1), mode=mode, **options)
    yield lambda: sppfast.roi_align_backward(grad, x, rois, (3, 1), mode=mode, **options)


def digest(array):
    """A few bytes that tell one result from another."""
    return hashlib.blake2b(np.ascontiguousarray(array).view(np.uint8)).digest()


def resident():
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def run(calls, minutes, load, seed):
    """Make so many calls, and go on until `minutes` are over, on `load` cores on average; one row of the table."""
    work = [(call, digest(call())) for call in kinds(seed)]
    rng = np.random.default_rng(seed)
    clock, cpu, made, sizes = Clock(), time.process_time(), 0, []

    def one(i):
        call, want = work[i]
        return digest(call()) == want

    with ThreadPoolExecutor(THREADS) as threads, bar(60 * minutes, "s", "soak") as shown:
        while made < calls or clock.seconds < 60 * minutes:
            assert all(threads.map(one, rng.integers(0, len(work), ROUND))), "another result than at first"
            made += ROUND
            gc.collect()
            sizes.append(resident())
            time.sleep(max(0.0, (time.process_time() - cpu) / load - clock.seconds))
            shown.update(min(clock.seconds, 60 * minutes) - shown.n)
    elapsed, used = clock.seconds, time.process_time() - cpu
    settled = sizes[int(len(sizes) * WARM_UP) :]
    first, last = (np.mean(part) for part in (settled[: len(settled) // 10 + 1], settled[-len(settled) // 10 :]))
    growth = last / first - 1
    what = f"{made} calls of {len(work)} kinds by {THREADS} threads in {elapsed / 60:.0f} minutes, {used:.0f} s of CPU"
    found = f"the same bits every time; RSS {first / 2**20:.1f} to {last / 2**20:.1f} MB, {growth:+.2%}"
    assert growth < 0.01, found
    return Row(
        "Soak and load", what, found, f"soak --calls {calls} --minutes {minutes:g} --load {load:g} --seed {seed}"
    )
