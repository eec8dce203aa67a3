"""Random calls in a process of their own, which may crash or hang: then it is known at which call."""

import contextlib
import faulthandler
import functools
import gc
import multiprocessing
import os
import signal
import sys
import time
import warnings

from sppfast import arrays, gradients, memory, plan, pooling, pyramid
from sppfast.cpu import division, launch, order, ways, weigh

from .cases import draw
from .check import check
from .fences import fenced
from .report import Clock, Row, bar

BLOCK = 500  # calls of one setting
PATIENCE = 60  # seconds for a call
# Settings under which small arrays take the ways of large ones: threads, areas; maps in parts, channels in groups; maps
# in bands; results past the caches, blocks as wide as cells, areas in narrow lanes; blocks of half of the lanes, where
# lines begin; blocks of any size; rows; tables in parts, gradients in lines, in narrow lanes, of few windows at a time;
# edges without tables, memory kept.
SETTINGS = (
    {},
    {"SERIAL_ITEMS": 0, "CHUNK_WINDOWS": 1, "BIN_CELLS": 10**9, "AREA_CELLS": 0},
    {"SHARED_BYTES": 0, "TILE_BYTES": 400, "TASKS_PER_CORE": 0, "FAR_SUMS_BYTES": 0},
    {"SERIAL_ITEMS": 0, "BAND_BYTES": 8, "BAND_SHARE": 0},
    {"STREAM_BYTES": 0, "STEP_BLOCKS": 0, "SECOND_BYTES": 0, "AREA_CELLS": 0},
    {"SECOND_BYTES": 0, "LINE_BLOCKS": 1, "WIDE_SHARED_BYTES": 5000, "RAW_TIMES": 0, "FAR_RAW_CELLS": 0},
    {"STEP_BLOCKS": 0, "ROW_CELLS": 10**9},
    {"ROW_CELLS": 1e-9, "SHARED_BYTES": 0, "BAND_BYTES": 40, "BAND_SHARE": 0},
    {"TABLE_BYTES": 500, "TABLE_WINDOWS": 1, "LANES_BYTES": 0, "NEAR_BYTES": 64},
    {"WIDE_BYTES": 0, "TABLE_WINDOWS": 1, "PART_BYTES": 0, "PARTS": 10**9, "LEAST_WINDOWS": 1},
    {"LOOKUP": 0, "ALIGNED_BYTES": 0, "REPEATED_BYTES": 1, "KEPT_BYTES": 1},
)
FENCES = {3: "end", 17: "begin"}  # of 29 blocks, so that each setting meets both
MODULES = (ways, division, launch, weigh, order, plan, memory, gradients, pooling)
CACHES = (
    plan._bins_by_extent,
    plan.window_edges,
    plan.grids_of,
    plan.level_table,
    arrays._batch,
    pyramid._pyramid,
)


@contextlib.contextmanager
def setting(block):
    """Put the package into one of its settings, and its arrays beside fences or not."""
    changes = SETTINGS[block % len(SETTINGS)]
    side = FENCES.get(block % 29)
    changes = changes | {"KEEP_BYTES": 0} if side else changes  # scratch memory as small as it may be
    before = [(module, name, getattr(module, name)) for module in MODULES for name in changes if hasattr(module, name)]
    for module, name, _ in before:
        setattr(module, name, changes[name])
    for cache in CACHES:
        cache.cache_clear()
    arrays.forget()
    launch._local.__dict__.clear()
    try:
        yield functools.partial(fenced, side) if side else contextlib.nullcontext
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def work(seed, first, last, at, wrong):
    """Make calls `first` to `last`; `at` is the one under way, `wrong` counts what is wrong."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    for begin in range(first - first % BLOCK, last, BLOCK):
        with setting(begin // BLOCK) as fence:
            for number in range(max(begin, first), min(begin + BLOCK, last)):
                at.value = number
                what = one(seed, number, fence)
                if what:
                    complain(number, what, wrong)
        gc.collect()
    at.value = last


def one(seed, number, fence):
    """Make one call, with its arrays in fences; what is wrong with it, or None."""
    try:
        with fence():
            case = draw(seed, number)
        return check(case, fence)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def run(calls, seed, first=0):
    """Make so many calls of a seed, from the first one on; one row of the table."""
    context = multiprocessing.get_context("spawn")
    at, wrong = context.RawValue("q", first), context.RawValue("q", 0)
    last, begin = first + calls, time.monotonic()
    with bar(calls, "calls", "fuzz") as shown:
        while at.value < last:
            process = context.Process(target=work, args=(seed, at.value, last, at, wrong), daemon=True)
            process.start()
            watch(process, at, first, shown)
            if process.exitcode:
                complain(at.value, f"the process ended with {process.exitcode}: a crash or a hang", wrong)
                at.value += 1
    minutes = (time.monotonic() - begin) / 60
    tried = f"{calls} calls in {minutes:.0f} minutes, every one checked"
    return Row(
        "Fuzzing the operators", tried, f"{wrong.value} wrong", f"fuzz --calls {calls} --seed {seed} --first {first}"
    )


def complain(number, what, wrong):
    """Say what is wrong with a call, and count it."""
    wrong.value += 1
    print(f"call {number}: {' '.join(what.split())[:1000]}", file=sys.stderr, flush=True)


def watch(process, at, first, shown):
    """Wait for the end of a process, and bring it about if a call takes too long."""
    clock, moved = Clock(), 0.0
    while process.is_alive():
        process.join(1)
        if at.value - first > shown.n:
            moved = clock.seconds
        elif clock.seconds - moved > PATIENCE:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, signal.SIGABRT)  # which makes it say where it is
        shown.update(at.value - first - shown.n)
