"""From arrays and a plan to a kernel's descriptor, its tasks and its threads."""

from __future__ import annotations

import os
import threading
from array import array
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from llvmlite.binding import get_host_cpu_name
from numpy.typing import NDArray

from .. import memory
from ..arrays import LINE_BYTES, Maps, address_of, remembered
from ..cores import available_cores
from ..plan import Grids, Plan
from . import descriptor, division, threads, ways
from .descriptor import ROWS_WAY, SHARED_WAY
from .division import (
    SPILL,
    Division,
    band_cells,
    count_vectors,
    divide_maps,
    divide_windows,
    enough_tasks,
    group_windows,
    sums_at_once,
)
from .order import Order, blocks_of, by_place, order_windows, runs_of
from .reduce import BLOCK_MODES
from .rows import LINES_BYTES, STRIPS_BYTES
from .sums import PATCHES, SUM_CELLS
from .ways import (
    Kernel,
    Way,
    areas_bytes,
    choose_way,
    count_used,
    is_far,
    map_way,
    row_cells,
    side_by_side,
    sums_by_rows_from,
)

STREAM_BYTES = 2**22  # results from here on do not stay in a cache
WAITING_BINS = 2**10  # of a window, at most, that wait in a near cache to be streamed beside other work
FEW_WORKERS = 4  # to fetch the lines of a result is twice the traffic: more might wait for the memory
WORKERS_PER_CORE = 4  # at most
WAKE_TIMES = 8  # so many times as much is done before one that sleeps has been woken, which keeps who wakes it as long
ORDERED_ITEMS = 2**13  # of work, in vectors: less is done before windows would have been ordered
KEEP_BYTES = 2**24  # of scratch memory, from one call to the next: more is kept as results are

_NO_FIELDS = array("q", [0] * descriptor.FIELDS)
_local = threading.local()


@dataclass(eq=False, slots=True)
class Launch:
    """What is known of a call before its addresses are."""

    kernel: int  # its address
    fields: array[int]
    tasks: int
    items: int  # of work, in cells to reduce
    scratch_bytes: int  # of one worker
    order: Order | None  # which the fields have addresses of; None: windows stay as they are
    bands: int = 0  # that maps are divided into, made whole by as many fewer tasks
    bands_bytes: int = 0  # of their bins


def reduce_maps(
    kept: Any,
    maps: Maps,
    plan: Plan,
    mode: str,
    targets: list[NDArray[Any]],
    workers: int | None,
) -> None:
    """Pool every window into its row of the targets: values, and indices for ``"argmax"``."""
    out = targets[0]
    if not out.size:
        return
    base = 0 if maps.ragged else address_of(kept)
    launch = _launch_maps(maps, plan, mode) if plan.index is None else _launch_windows(maps, plan, mode, base)
    fields = launch.fields[:]
    fields[descriptor.BASE_AT] = base
    fields[descriptor.OUT_AT] = address_of(out)
    fields[descriptor.OUT_STEP] = out.strides[0]
    fields[descriptor.EDGES_AT] = plan.edges_at
    fields[descriptor.EDGES_STEP] = plan.edges_step
    fields[descriptor.MAY_BE_EMPTY] = plan.may_be_empty
    if launch.order is None:
        fields[descriptor.STARTS_AT] = plan.starts_at
    if mode == "argmax":
        fields[descriptor.INDEX_AT] = address_of(targets[1])
        fields[descriptor.INDEX_STEP] = targets[1].strides[0]
    run(launch, fields, workers)


def run(launch: Launch, fields: array[int], workers: int | None) -> None:
    """Do the tasks of a call, with scratch memory for each worker."""
    workers = _count_workers(workers, launch)
    if fields[descriptor.STREAM] and workers <= FEW_WORKERS and _fetches_lines():
        fields[descriptor.STREAM] = descriptor.FETCHED
    size = launch.scratch_bytes * workers
    scratch, address = _take_scratch(size + launch.bands_bytes)
    fields[descriptor.SCRATCH_AT] = address
    fields[descriptor.BANDS_AT] = address + size if launch.bands else 0
    threads.crew.run(launch.kernel, fields.buffer_info()[0], launch.tasks, workers)
    if launch.bands:
        fields[descriptor.MERGE] = fields[descriptor.CHUNKS] = 1
        threads.crew.run(launch.kernel, fields.buffer_info()[0], launch.tasks // launch.bands, workers)
    _give_scratch(scratch, address)
    if launch.items >= division.SERIAL_ITEMS:
        threads.crew.rest()


def fill_fields(values: dict[int, Any]) -> array[int]:
    """Lay out a descriptor."""
    fields = _NO_FIELDS[:]
    set_fields(fields, values)
    return fields


def set_fields(fields: array[int], values: dict[int, Any]) -> None:
    """Set some fields of a descriptor."""
    for field, value in values.items():
        fields[field] = value


def map_fields(maps: Maps) -> dict[int, int]:
    """Describe the maps to a kernel."""
    return {
        descriptor.BATCH_STEP: maps.batch_step,
        descriptor.MAPS_AT: maps.address,
        descriptor.MAPS_STEP: maps.table.strides[0] if maps.ragged else 0,
        descriptor.CHANNELS: maps.channels,
    }


def edge_fields(plan: Plan) -> dict[int, int]:
    """Describe the bins of all windows to a kernel."""
    return {
        descriptor.EDGES_AT: plan.edges_at,
        descriptor.EDGES_STEP: plan.edges_step,
    }


def level_fields(grids: Grids) -> dict[int, int]:
    """Describe the levels to a kernel."""
    return {
        descriptor.LEVELS_AT: address_of(grids.levels),
        descriptor.LEVELS: len(grids.levels),
        descriptor.X_EDGES_BEHIND: 4 * grids.tall,
    }


def _count_workers(workers: int | None, launch: Launch) -> int:
    """Take no more workers than there are tasks, nor many more than cores: each has scratch memory of its own.

    For little work none is woken.
    """
    least = division.SERIAL_ITEMS
    if launch.items < least or (launch.items < WAKE_TIMES * least and not threads.crew.is_awake):
        return 1
    cores = available_cores()
    return min(workers or cores, launch.tasks, WORKERS_PER_CORE * cores)


@remembered
def _launch_maps(maps: Maps, plan: Plan, mode: str) -> Launch:
    way = map_way(maps, plan.grids, mode)
    return _prepare(maps, plan, None, way, divide_maps(maps, plan, way), 0)


def _launch_windows(maps: Maps, plan: Plan, mode: str, base: int) -> Launch:
    assert plan.index is not None
    used = count_used(maps, plan.index)
    way = choose_way(maps, plan, mode, used)
    if _are_few(maps, plan, way):
        return _launch_few(maps, plan.grids, way, areas_bytes(maps, plan, way, maps.largest))
    work = divide_windows(maps, plan, way, used, base)
    packed = maps.count * work.chunks * maps.largest
    order, areas = _order(maps, plan, way, packed), areas_bytes(maps, plan, way, packed)
    return _prepare(maps, plan, order, way, work, areas)


def _are_few(maps: Maps, plan: Plan, way: Way) -> bool:
    """Tell whether the windows of a map are so little work that one thread does it, as they come."""
    if maps.count > 1 or not plan.starts_at:
        return False
    cells = max(plan.cells, maps.largest) if way.name == SHARED_WAY else plan.cells
    return count_vectors(maps, plan, way.kernel, cells) < min(ORDERED_ITEMS, division.SERIAL_ITEMS // way.kernel.lanes)


@remembered
def _launch_few(maps: Maps, grids: Grids, way: Way, areas: int) -> Launch:
    """Lay out what is the same for all few windows of a map."""
    group = group_windows(maps, grids, way, False, 1, enough_tasks())
    groups = -(-maps.channels // group)
    address, laid_out, step = _lay_out(maps, grids, way, group, 1, areas, False, 0, 1)
    fields = laid_out[:]
    fields[descriptor.BLOCKS], fields[descriptor.CHUNKS] = groups, 1
    fields[descriptor.AT_ONCE] = group > way.kernel.lanes and sums_at_once(maps, 1)
    fields[descriptor.ROW_MAP_CELLS] = sums_by_rows_from(maps) if way.kernel.is_sum else 0
    return Launch(address, fields, groups, 0, step, None)


def _order(maps: Maps, plan: Plan, way: Way, packed: int) -> Order:
    """Order windows: by map, and where it pays by place and by what their bins are made of."""
    assert plan.index is not None
    kernel, choice = way.kernel, None
    if maps.count == 1 and plan.starts_at and count_vectors(maps, plan, kernel, plan.cells) < ORDERED_ITEMS:
        return Order(plan.index, 0, plan.starts_at)
    first = by_place(plan.edges[:, 0], plan.edges[:, 1]) if is_far(maps, kernel) else None
    if way.name == SHARED_WAY:
        if kernel.mode in BLOCK_MODES:
            choice = blocks_of(plan.grids, packed, way.has_room)
        elif kernel.is_sum and way.has_room and maps.widest <= SUM_CELLS:
            choice = runs_of(plan.grids, packed)
    return order_windows(plan.index, maps.count, choice, (plan.edges_at, plan.edges_step), plan.room, first)


def _prepare(maps: Maps, plan: Plan, order: Order | None, way: Way, work: Division, areas: int) -> Launch:
    """Lay out the descriptor."""
    kernel, name = way.kernel, way.name
    second = order is not None and order.powers_at > 0 and way.has_room
    streams = stream_result(work.results * maps.dtype.itemsize, plan.grids.bins, name == SHARED_WAY)
    address, laid_out, step = _lay_out(maps, plan.grids, way, work.group, work.bands, areas, second, *streams)
    fields = laid_out[:]
    fields[descriptor.LEAD], fields[descriptor.BLOCKS] = work.lead, work.groups
    fields[descriptor.AT_ONCE] = work.at_once
    fields[descriptor.CHUNKS] = work.chunks * (work.bands if work.apart else 1)
    if order is not None:
        fields[descriptor.ROW_MAP_CELLS] = sums_by_rows_from(maps) if kernel.is_sum else 0
        fields[descriptor.ROWS_AT], fields[descriptor.STARTS_AT] = order.rows_at, order.starts_at
        fields[descriptor.POWERS_AT] = order.powers_at
    bands = work.bands if work.apart else 0
    bands_bytes = work.tasks * fields[descriptor.BANDS_STEP] if bands else 0
    return Launch(address, fields, work.tasks, work.items, step, order, bands, bands_bytes)


@remembered
def _lay_out(
    maps: Maps, grids: Grids, way: Way, group: int, bands: int, areas: int, second: bool, stream: int, places: int
) -> tuple[int, array[int], int]:
    """Lay out scratch memory: the kernel's address, what of the descriptor no window changes, bytes for a worker."""
    kernel, name = way.kernel, way.name
    part = SUM_CELLS if kernel.is_sum else ways.TILE_BYTES // kernel.cell_bytes
    tile = maps.largest if name == SHARED_WAY else max(min(maps.largest, part), 1)
    if name == ROWS_WAY:
        strip = -(-_strip_bytes(maps, grids, kernel) // kernel.cell_bytes)
        tile = max(strip, tile) if kernel.is_sum else strip
    blocks = -(-group // kernel.lanes)
    more = areas + (_patch_bytes(maps, grids, kernel, blocks) if kernel.is_sum else 0)
    if second:
        more = max(more, maps.largest * kernel.bin_bytes)
    bins = grids.bins + SPILL
    some = min(bands, 2)  # the bins of a band, and those of all before it
    step = tile * kernel.cell_bytes + more + bins * (some * blocks * kernel.bin_bytes + places * kernel.result_bytes)
    step = (-(-(step + descriptor.STAGING_BYTES) // LINE_BYTES) + 1) * LINE_BYTES
    values = {
        **map_fields(maps),
        **level_fields(grids),
        descriptor.GROUP: group,
        descriptor.SHARED: name == SHARED_WAY,
        descriptor.ROW_CELLS: row_cells(grids, kernel) if name == ROWS_WAY else 0,
        descriptor.STREAM: stream,
        descriptor.AREAS: areas,
        descriptor.LINES: grids.lines,
        descriptor.TILE_CELLS: tile,
        descriptor.MORE_BYTES: more,
        descriptor.BINS: bins,
        descriptor.SCRATCH_STEP: step,
        descriptor.BANDS: bands,
        descriptor.BAND_CELLS: band_cells(maps, grids, kernel, False),
        descriptor.RAW_BAND_CELLS: band_cells(maps, grids, kernel, True),
        descriptor.BANDS_STEP: blocks * bins * kernel.bin_bytes,
    }
    return kernel.address(name), fill_fields(values), step


def stream_result(size: int, bins: int, shared: bool) -> tuple[int, int]:
    """Choose whether a result of so many bytes is streamed, and beside other work; and count places for its bins.

    Two, where the transposed bins of a window wait until those of the next one are, see `write.can_wait`.
    """
    if size < STREAM_BYTES:
        return 0, 1
    return (descriptor.BESIDE, 2) if shared and bins <= WAITING_BINS and _streams_beside() else (1, 1)


@cache
def _streams_beside() -> bool:
    """Tell whether to stream lines beside other work: a tenth faster on Intel's processors, slower on Zen 3 and 4."""
    return not get_host_cpu_name().startswith("znver")


@cache
def _fetches_lines() -> bool:
    """Tell whether to write into lines that are fetched beside other work, not to stream: measured on Cascade Lake."""
    return get_host_cpu_name() in ("skylake-avx512", "cascadelake", "cooperlake")


def _strip_bytes(maps: Maps, grids: Grids, kernel: Kernel) -> int:
    """Size of a strip of columns, for sums of all strips and lines and their table, with what is read behind them."""
    joined = maps.channels <= kernel.lanes and True in side_by_side(maps)
    columns = maps.widest * (maps.channels if joined else 1)
    strip = -(-columns // (2 * kernel.part_columns)) * 2 * kernel.part_bytes
    if not kernel.is_sum:
        return 24 * grids.lines + LINE_BYTES + max(LINES_BYTES, strip) + joined * strip + kernel.bin_bytes
    size = (3 * grids.lines + 1) * strip + 8 * int(maps.heights.max())
    return min(size, STRIPS_BYTES) + 24 * (grids.lines + 2) + LINE_BYTES + kernel.bin_bytes


def _patch_bytes(maps: Maps, grids: Grids, kernel: Kernel, blocks: int) -> int:
    """Size of the patches of a part, or a row of those of some channel blocks, and of tables of strips."""
    size = PATCHES * kernel.bin_bytes + 8 * (SUM_CELLS + 8 * grids.lines + 16) if len(grids.levels) > 1 else 0
    if True in side_by_side(maps):
        edges = 4 * grids.lines + int((maps.heights + maps.widths).max()) + 6
        size = max(size, (2 * grids.lines + 1) * blocks * kernel.bin_bytes + 8 * edges)
    return size


def _take_scratch(size: int) -> tuple[NDArray[np.uint8], int]:
    """Memory for the workers of one call, and its address: that of this thread's last call, if it is large enough."""
    kept: tuple[NDArray[np.uint8], int] | None = _local.__dict__.pop("scratch", None)
    if kept is not None and kept[0].size >= size + LINE_BYTES:
        return kept
    size += LINE_BYTES
    scratch = memory.scratch(size) if size <= KEEP_BYTES else memory.allocate((size,), np.dtype(np.uint8))
    return scratch, -(-address_of(scratch) // LINE_BYTES) * LINE_BYTES


def _give_scratch(scratch: NDArray[np.uint8], address: int) -> None:
    if scratch.size <= KEEP_BYTES:
        _local.scratch = scratch, address


def _renew() -> None:
    """Keep no scratch memory through a fork, see `memory`."""
    global _local
    _local = threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=_renew, after_in_child=_renew)
