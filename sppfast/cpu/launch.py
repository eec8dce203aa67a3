"""From arrays and a plan to a kernel's descriptor, its tasks and its threads."""

from __future__ import annotations

import threading
import zlib
from array import array
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import LINE_BYTES, Maps, address_of
from ..plan import Plan
from . import kernels, threads
from .compile import c_function
from .lanes import Reduction
from .order import order_windows

TILE_BYTES = 2**18  # of a window pooled by parts: half of a common second-level cache
SHARED_BYTES = 2**23  # largest whole map that is packed once for many windows
STREAM_BYTES = 2**24  # results from here on do not stay in a cache: write past it
CHUNK_WINDOWS = 64  # of a map, at least, to make packing it again worth while
SERIAL_ITEMS = 2**16  # less work than this is done before another thread has woken
NARROW_BYTES = 32  # of channels: a kernel with fewer lanes does not reduce padding
SPILL = 32  # bins that a transposed block reads past the last
KEEP_BYTES = 2**23  # of scratch memory, from one call to the next

_local = threading.local()


@dataclass(frozen=True, slots=True)
class Kernel:
    """A compiled kernel and the sizes that it works with."""

    address: int
    lanes: int
    cell_bytes: int
    bin_bytes: int  # of an accumulator
    result_bytes: int  # of a bin of the result, all lanes
    function: Any


@cache
def kernel_of(dtype: str, mode: str, narrow: int = 0) -> Kernel:
    """Compile a kernel, or load it from the cache on disk."""
    t = Reduction(dtype, mode, bool(narrow))
    function = c_function("void(int64, int64, int64)", kernels.build(dtype, mode, narrow, _digest()))
    return Kernel(
        address=function.address,
        lanes=t.count,
        cell_bytes=t.count * t.bits // 8,
        bin_bytes=t.accumulator_bytes,
        result_bytes=t.count * max(t.out_bits // 8, 4),
        function=function,
    )


@cache
def _digest() -> int:
    """Tell one state of the kernels' sources from another."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in sources))


def reduce_maps(
    kept: Any,
    maps: Maps,
    plan: Plan,
    index: NDArray[np.int64] | None,
    mode: str,
    targets: list[NDArray[Any]],
    workers: int,
) -> None:
    """Pool every window into its row of the targets: values, and indices for ``"argmax"``.

    `index` says which map each window belongs to; without it each map is one window.
    """
    out, index_out = targets if mode == "argmax" else (targets[0], None)
    if not out.size:
        return
    kernel = kernel_of(maps.name, mode, int(maps.channels <= NARROW_BYTES // maps.dtype.itemsize))
    blocks = -(-maps.channels // kernel.lanes)
    if out.size + maps.count * maps.channels * maps.largest < SERIAL_ITEMS:
        workers = 1
    order, chunks, shared = None, 1, False
    if index is not None:
        shared = maps.largest * kernel.cell_bytes <= SHARED_BYTES
        order = order_windows(index, maps.count, plan, maps.largest, blocks=shared and mode == "max")
        chunks = max(1, min(-(-4 * workers // (maps.count * blocks)), len(index) // CHUNK_WINDOWS))
    tile = maps.largest if shared else max(min(maps.largest, TILE_BYTES // kernel.cell_bytes), 1)
    tiles = 1 if order is None or order.powers is None else 2
    bins = plan.bins + SPILL
    step = tiles * tile * kernel.cell_bytes + bins * (kernel.bin_bytes + kernel.result_bytes) + LINE_BYTES
    step = -(-step // LINE_BYTES) * LINE_BYTES
    tasks = maps.count * blocks * chunks
    scratch, scratch_at = _take_scratch(step * min(workers, tasks))
    descriptor = array(
        "q",
        (
            address_of(kept),
            maps.batch_step,
            maps.address,
            maps.table.strides[0] if maps.ragged else 0,
            maps.channels,
            blocks,
            chunks,
            address_of(order and order.starts),
            address_of(order and order.rows),
            plan.edges_at,
            plan.edges.strides[0] if len(plan.edges) > 1 else 0,
            plan.levels_at,
            len(plan.levels),
            plan.may_be_empty,
            address_of(out),
            out.strides[0],
            address_of(index_out),
            0 if index_out is None else index_out.strides[0],
            out.nbytes >= STREAM_BYTES,
            address_of(order and order.powers),
            shared,
            tile,
            bins,
            scratch_at,
            step,
        ),
    )
    threads.crew.run(kernel.address, descriptor.buffer_info()[0], tasks, workers)
    _give_scratch(scratch, scratch_at)


def _take_scratch(size: int) -> tuple[NDArray[np.uint8], int]:
    """Memory for the workers of one call, and its address: that of this thread's last call, if it is large enough."""
    kept: tuple[NDArray[np.uint8], int] | None = _local.__dict__.pop("scratch", None)
    if kept is not None and kept[0].size >= size + LINE_BYTES:
        return kept
    scratch = np.empty(size + LINE_BYTES, dtype=np.uint8)
    return scratch, -(-address_of(scratch) // LINE_BYTES) * LINE_BYTES


def _give_scratch(scratch: NDArray[np.uint8], address: int) -> None:
    if scratch.size <= KEEP_BYTES:
        _local.scratch = scratch, address
