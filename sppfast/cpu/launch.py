"""From arrays and a plan to a kernel's descriptor, its tasks and its threads."""

from __future__ import annotations

import math
import os
import threading
from array import array
from collections.abc import Callable
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
from . import descriptor, kernels, threads
from .compile import c_function, digest
from .descriptor import PARTS_WAY, ROWS_WAY, SHARED_WAY
from .lanes.areas import BOUNDS
from .lanes.reduction import NARROW, Reduction, lanes_of
from .order import Order, blocks_of, by_place, order_windows, runs_of
from .reduce import BLOCK_MODES
from .rows import LINES_BYTES, STRIPS_BYTES
from .sums import PATCHES, SUM_CELLS

TILE_BYTES = 2**18  # of a window pooled by parts: half of a common second-level cache
SHARED_BYTES = 2**23  # of the largest tile of a whole map
WIDE_SHARED_BYTES = 2**22  # of one of wide lanes: two threads' would not stay in a cache that they have in common
SECOND_BYTES = 2**20  # of the largest second tile, widened across or of runs: to leave a near cache costs more
STREAM_BYTES = 2**22  # results from here on do not stay in a cache
WAITING_BINS = 2**10  # of a window, at most, that wait in a near cache to be streamed beside other work
FEW_WORKERS = 4  # to fetch the lines of a result is twice the traffic: more might wait for the memory
WORKERS_PER_CORE = 4  # at most
TASKS_PER_CORE = 4  # so that the last ones end together
CHUNK_WINDOWS = 64  # of a part of a map's windows, at least, where the cores have work without it
PACK_TIMES = 8  # as long as it takes to pack the map such a part takes to be pooled, at least
BIN_CELLS = 4  # a bin takes as long as so many cells
SERIAL_ITEMS = 2**16  # less work than this, in cells to reduce, is done before a thread that is awake has come
WAKE_TIMES = 8  # so many times as much is done before one that sleeps has been woken, which keeps who wakes it as long
PAIR_CELLS = 10  # to make a pair of a key and an index costs as much as to reduce so many cells, one after the other
AREA_CELLS = 2.5  # to add a cell to a table of areas of 32 bits, as so many
LEVELS_CELLS = 1.6  # a cell of windows of several levels takes so many times as long without such a table
FAR_AREA_BYTES = 2**21  # of a table of which it costs more: as many times as it is larger than that
AREA_BYTES = 2**23  # of the largest
RAW_TIMES = 2  # as long takes a cell that is packed as one whose channels lie side by side, and that is reduced there
FAR_RAW_BYTES = 2**19  # of a tile, or of a wide block of its map: for each it takes as long again, twice with indices
FAR_RAW_TIMES = 10  # as long, at most, for a block
MANY_CELLS = 2**62
ORDERED_ITEMS = 2**13  # of work, in vectors: less is done before windows would have been ordered
ROW_CELLS = 32  # of a bin, at least, to reduce by rows, where a bin takes no more work than a maximum
ROW_BINS = 10  # a map takes so by itself as long as so many bins
PLANE_BYTES = 2**19  # of a channel that is read again for a second level from a near cache
RAW_BYTES = 2**12  # of a cell's channels that are read at once where they lie side by side
RAW_BINS_BYTES = 2**22  # of their bins, at most: a small part of most results
BAND_BYTES = 2**17  # of a channel in a band of rows, at least, into which a map is divided where there are few tasks
SUMMED_BAND = 4  # times as many where they are summed: however many tasks, so that the order is always the same
BAND_SHARE = 8  # of a band, at most, are its bins, which are kept till those of all bands are there
SPILL = 32  # bins that a transposed block reads past the last
KEEP_BYTES = 2**24  # of scratch memory, from one call to the next

_NO_FIELDS = array("q", [0] * descriptor.FIELDS)
_local = threading.local()


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel, compiled when its address is asked for, and the sizes that it works with."""

    dtype: str
    mode: str
    narrow: int
    build: Callable[..., Any]
    lanes: int
    cell_bytes: int
    bin_bytes: int  # of an accumulator
    area_bytes: int  # of a sum of a table of areas
    area_work: int  # to add a cell to it, compared with one of 32 bits
    is_sum: bool
    has_index: bool
    row_work: float  # to reduce a bin by rows, compared with a maximum, and with what it takes in a tile
    part_columns: int  # of a strip
    part_bytes: int
    result_bytes: int  # of a bin of the result, all lanes
    most_cells: int  # of a map

    def address(self, way: str = "") -> int:
        """Compile it, or load it from the cache on disk; `way` is one of its ways, if it has several."""
        address: int = compiled_kernel(self.dtype, self.mode, self.narrow, self.build, way).address
        return address


@cache
def kernel_of(dtype: str, mode: str, narrow: int = 0, build: Callable[..., Any] = kernels.build) -> Kernel:
    """Describe a kernel: of those with as many lanes the widest, as it is called."""
    t = Reduction(dtype, mode, narrow)
    narrow = next(n for n in range(narrow + 1) if lanes_of(t.bits, mode, n) == t.count)
    return Kernel(
        dtype,
        mode,
        narrow,
        build,
        lanes=t.count,
        cell_bytes=t.count * t.cell.bits // 8,
        bin_bytes=t.accumulator_bytes,
        area_bytes=t.area_bytes,
        area_work=t.area.bits // 32 + (t.fixed and not narrow),  # many rounded lanes do not stay in registers
        is_sum=t.mode == "avg",
        has_index=t.mode in ("argmax", "paired"),
        row_work=_row_work(t),
        part_columns=t.row.count,
        part_bytes=t.part_bytes,
        result_bytes=t.result_bytes,
        most_cells=2 ** (t.index_bits - 1) if t.mode == "paired" else MANY_CELLS,
    )


def _row_work(t: Reduction) -> float:
    """Tell how much more a bin takes by rows than a maximum: measured, where both ways take as long."""
    if t.mode == "argmax":
        return 16 if t.bits == 8 else 4
    return {8: 10, 16: 10, 32: 2.5, 64: 1}[t.bits] if t.mode == "avg" else 1


@cache
def compiled_kernel(dtype: str, mode: str, narrow: int, build: Callable[..., Any], way: str) -> Any:
    """Compile a kernel, or load it from the cache on disk."""
    return c_function("void(int64, int64, int64)", build(dtype, mode, narrow, way, digest()))


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
    launch = (_launch_maps if plan.index is None else _launch_windows)(maps, plan, mode)
    fields = launch.fields[:]
    fields[descriptor.BASE_AT] = 0 if maps.ragged else address_of(kept)
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
    if launch.items >= SERIAL_ITEMS:
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


def count_chunks(windows: int, tasks: int, cells: int, bins: int, packed: int) -> int:
    """Count the parts that the windows of a map are divided into, where there are so many tasks already.

    All windows have so many `cells`, and each so many `bins`; each part packs so many cells again. To keep all
    cores at work a part may take as long as that; for more parts the bins alone must take several times as long.
    """
    enough, packed, bins = available_cores() if packed else enough_tasks(), max(packed, 1), BIN_CELLS * bins * windows
    needed = min(-(-enough // tasks), windows, (cells + bins) // packed)
    more = min(-(-enough_tasks() // tasks), windows // CHUNK_WINDOWS, bins // (PACK_TIMES * packed))
    return max(1, needed, more)


def enough_tasks() -> int:
    """Count the tasks that keep all cores at work."""
    return max(TASKS_PER_CORE * available_cores(), 1)


def _count_workers(workers: int | None, launch: Launch) -> int:
    """Take no more workers than there are tasks, nor many more than cores: each has scratch memory of its own.

    For little work none is woken.
    """
    if launch.items < SERIAL_ITEMS or (launch.items < WAKE_TIMES * SERIAL_ITEMS and not threads.crew.is_awake):
        return 1
    cores = available_cores()
    return min(workers or cores, launch.tasks, WORKERS_PER_CORE * cores)


@dataclass(frozen=True, eq=False, slots=True)
class Way:
    """One of the ways to pool windows: with a kernel, where they have cells enough."""

    kernel: Kernel
    name: str
    map_cells: int = 0  # of the windows of a map, at least
    window_cells: int = 0  # of a window, at least, as a mean
    has_room: bool = False  # for a second tile


@remembered
def _launch_maps(maps: Maps, plan: Plan, mode: str) -> Launch:
    kernel = _apart(maps, mode)
    name = ROWS_WAY if maps.largest >= _rows_from(maps, plan.grids, kernel) else PARTS_WAY
    return _prepare(maps, plan, None, Way(kernel, name), _divide_maps(maps, plan, kernel, name), 0)


def _launch_windows(maps: Maps, plan: Plan, mode: str) -> Launch:
    assert plan.index is not None
    used = count_used(maps, plan.index)
    way = _choose_way(maps, plan, mode, used)
    kernel = way.kernel
    if _are_few(maps, plan, way):
        return _launch_few(maps, plan.grids, way, _takes_areas(maps, plan, way, maps.largest))
    work = _divide_windows(maps, plan, way, used)
    packed = maps.count * work.chunks * maps.largest
    areas_bytes = _areas_bytes(maps, kernel) if _takes_areas(maps, plan, way, packed) else 0
    return _prepare(maps, plan, _order(maps, plan, way, packed), way, work, areas_bytes)


def _takes_areas(maps: Maps, plan: Plan, way: Way, packed: int) -> bool:
    """Tell whether windows have cells enough for a table of areas of so many that are packed."""
    if not way.kernel.is_sum or way.name != SHARED_WAY:
        return False
    return plan.cells >= packed * _areas_from(maps, plan.grids, way.kernel)


def _are_few(maps: Maps, plan: Plan, way: Way) -> bool:
    """Tell whether the windows of a map are so little work that one thread does it, as they come."""
    if maps.count > 1 or not plan.starts_at:
        return False
    cells = max(plan.cells, maps.largest) if way.name == SHARED_WAY else plan.cells
    return _count_vectors(maps, plan, way.kernel, cells) < min(ORDERED_ITEMS, SERIAL_ITEMS // way.kernel.lanes)


def _count_vectors(maps: Maps, plan: Plan, kernel: Kernel, cells: int) -> int:
    """Count the vectors of work that windows are, of so many cells."""
    return (BIN_CELLS * plan.grids.bins * len(plan.edges) + cells) * -(-maps.channels // kernel.lanes)


@remembered
def _launch_few(maps: Maps, grids: Grids, way: Way, takes_areas: bool) -> Launch:
    """Lay out what is the same for all few windows of a map."""
    areas_bytes = _areas_bytes(maps, way.kernel) if takes_areas else 0
    group = _group_window_channels(maps, grids, way, False, 1, enough_tasks())
    address, laid_out, step = _lay_out(maps, grids, way, group, 1, areas_bytes, False, 0, 1)
    fields = laid_out[:]
    fields[descriptor.CHUNKS] = 1
    fields[descriptor.ROW_MAP_CELLS] = _sums_by_rows_from(maps) if way.kernel.is_sum else 0
    return Launch(address, fields, -(-maps.channels // group), 0, step, None)


def _order(maps: Maps, plan: Plan, way: Way, packed: int) -> Order:
    """Order windows: by map, and where it pays by place and by what their bins are made of."""
    assert plan.index is not None
    kernel, choice = way.kernel, None
    if maps.count == 1 and plan.starts_at and _count_vectors(maps, plan, kernel, plan.cells) < ORDERED_ITEMS:
        return Order(plan.index, 0, plan.starts_at)
    first = by_place(plan.edges[:, 0], plan.edges[:, 1]) if is_far(maps, kernel) else None
    if way.name == SHARED_WAY:
        if kernel.mode in BLOCK_MODES:
            choice = blocks_of(plan.grids, packed, way.has_room)
        elif kernel.is_sum and way.has_room and maps.widest <= SUM_CELLS:
            choice = runs_of(plan.grids, packed)
    return order_windows(plan.index, maps.count, choice, (plan.edges_at, plan.edges_step), plan.room, first)


def _choose_way(maps: Maps, plan: Plan, mode: str, used: int) -> Way:
    """Choose the first way for which the windows, of so many maps, have cells enough."""
    cells, windows = plan.cells, len(plan.edges)
    *ways, last = _ways(maps, plan.grids, mode)
    for way in ways:
        if cells >= used * way.map_cells and cells >= windows * way.window_cells:
            return way
    return last


@remembered
def _ways(maps: Maps, grids: Grids, mode: str) -> list[Way]:
    """List the ways to pool windows: maps packed once, as pairs of a key and an index too, rows, parts."""
    ways = []
    for own_mode in ["paired", mode] if mode == "argmax" and maps.dtype.itemsize <= 4 else [mode]:
        kernel, least, apart = _lanes(maps, own_mode, kernels.build)
        if kernel is not None:
            half = _kernel(maps, own_mode, 1)
            if kernel.is_sum and half.lanes < kernel.lanes and _areas_bytes(maps, kernel) > SECOND_BYTES:
                # A table that leaves the near caches costs more than to write fewer lanes at a time.
                ways.append(Way(half, SHARED_WAY, maps.largest * _areas_from(maps, grids, half)))
            has_room = maps.largest * kernel.bin_bytes <= SECOND_BYTES
            ways.append(Way(kernel, SHARED_WAY, least, has_room=has_room))
    if not apart.is_sum:
        # Where channels fill the lanes it pays for windows that are half of their map: of others rows are too short.
        part = maps.largest // 2 if maps.channels >= apart.lanes else 0
        ways.append(Way(apart, ROWS_WAY, 0, max(_rows_from(maps, grids, apart), part)))
    elif maps.largest >= _sums_by_rows_from(maps):  # the kernel sees to each window
        ways.append(Way(apart, ROWS_WAY))
    return [*ways, Way(apart, PARTS_WAY)]


def _band_cells(maps: Maps, grids: Grids, kernel: Kernel, at_once: bool) -> int:
    """Count the cells that a band of a map has at least: fewer where those of all channels are read `at_once`."""
    times, bins = SUMMED_BAND if kernel.is_sum else 1, BAND_SHARE * (grids.bins + SPILL) * kernel.bin_bytes
    size = times * max(BAND_BYTES, bins)
    if at_once:
        size = max(times * BAND_BYTES // maps.channels, 2 * bins // kernel.lanes)
    return max(size // maps.dtype.itemsize, 1)


def _are_far(maps: Maps) -> bool:
    """Tell whether one of the maps is so large that no cache holds it."""
    return maps.largest * maps.channels * maps.dtype.itemsize >= kernels.FAR_MAP_BYTES


def reads_at_once(maps: Maps, kernel: Kernel) -> bool:
    """Tell whether the channels of all cells lie side by side, and fill the lanes of a block."""
    return maps.channels >= kernel.lanes and False not in _side_by_side(maps)


def _side_by_side(maps: Maps) -> set[bool]:
    """Tell whether the channels of a cell lie side by side: of all maps, of none or, both, of some."""
    return {step == maps.dtype.itemsize for step in maps.table[:, 3].tolist()}


@remembered
def _areas_bytes(maps: Maps, kernel: Kernel) -> int:
    """Size of a table of areas, and of what bounds its error."""
    return int(((maps.heights + 1) * (maps.widths + 1)).max()) * kernel.area_bytes + BOUNDS * kernel.bin_bytes


@remembered
def _areas_from(maps: Maps, grids: Grids, kernel: Kernel) -> int:
    """Count how many times as many cells as are packed windows have from where on a table of areas is worth while.

    One that leaves the near caches is not for 64 bits: sums of so many cells are seldom exact, and none is close.
    """
    size = _areas_bytes(maps, kernel)
    if size > AREA_BYTES or maps.widest > SUM_CELLS or (size > SECOND_BYTES and maps.dtype.itemsize > 4):
        return MANY_CELLS
    cells = AREA_CELLS * kernel.area_work / (LEVELS_CELLS if len(grids.levels) > 1 else 1)
    return math.ceil(cells * max(1, size / FAR_AREA_BYTES))


@remembered
def _rows_from(maps: Maps, grids: Grids, kernel: Kernel) -> int:
    """Count the cells of a window from which on it is reduced by rows, where windows do not share a tile.

    Where the columns of a channel, or of all, lie side by side, a row fills a vector, and each bin has cells enough for
    what it costs to reduce within a vector.
    """
    if kernel.is_sum:  # in another order by rows: for each map by itself, the kernel sees to the rest
        return _row_cells(grids, kernel)
    cell = _row_cell(maps, kernel)
    once = grids.apart == 1 or maps.largest * cell <= PLANE_BYTES
    fits = cell and maps.widths.min() * cell >= LINE_BYTES and once
    return _row_cells(grids, kernel) if fits else MANY_CELLS


def _sums_by_rows_from(maps: Maps) -> int:
    """Count the cells of a map from which on its windows may be summed by rows, in another order: they never share it.

    By the map alone, so that what else is pooled with it does not change the order.
    """
    return SHARED_BYTES // _kernel(maps, "avg", NARROW).cell_bytes + 1


def _row_cells(grids: Grids, kernel: Kernel) -> int:
    """Count the cells of a window from which on it is worth while to reduce it by rows."""
    return math.ceil(ROW_CELLS * (kernel.row_work * grids.bins_apart + ROW_BINS))


def _row_cell(maps: Maps, kernel: Kernel) -> int:
    """Count the bytes from one column to the next of what may be reduced by rows, or 0."""
    size, column_steps = maps.dtype.itemsize, set(maps.table[:, 5].tolist())
    if column_steps == {size}:
        return size
    few = maps.channels <= kernel.lanes and not kernel.has_index
    cell = maps.channels * size
    return cell if few and column_steps == {cell} and False not in _side_by_side(maps) else 0


def choose_lanes(
    maps: Maps, mode: str, index: NDArray[np.int64], cells: int, build: Callable[..., Any] = kernels.build
) -> tuple[Kernel, bool]:
    """Choose a kernel, and whether it packs a map once for all of its windows, or their `cells` for each by itself."""
    shared, least, apart = _lanes(maps, mode, build)
    return (shared, True) if shared is not None and cells >= count_used(maps, index) * least else (apart, False)


def is_far(maps: Maps, kernel: Kernel) -> bool:
    """Tell whether a channel block of a map leaves the near caches: then it pays to pool windows by place."""
    return maps.largest * kernel.cell_bytes > SECOND_BYTES


def count_used(maps: Maps, index: NDArray[np.int64]) -> int:
    """Count the maps that have windows."""
    return 1 if maps.count == 1 else int(np.count_nonzero(np.bincount(index)))


@remembered
def _lanes(maps: Maps, mode: str, build: Callable[..., Any]) -> tuple[Kernel | None, int, Kernel]:
    """Find the kernel that packs a map once, if one does, for how many cells of windows, and the one for fewer.

    Once where that is less work, see `_shared_from`; a large map is packed in half of the lanes, or in few. Of means in
    few at once: their tables of areas are larger than tiles.
    """
    apart, first = _apart(maps, mode, build), count_halvings(maps, mode)
    for narrow in (first, NARROW) if _is_mean(apart) else range(first, NARROW + 1):
        kernel = _kernel(maps, mode, narrow, build)
        most = SHARED_BYTES if narrow == NARROW else min(WIDE_SHARED_BYTES, SHARED_BYTES)
        if maps.largest * kernel.cell_bytes <= most and maps.largest <= kernel.most_cells:
            return kernel, _shared_from(maps, kernel, apart), apart
    return None, MANY_CELLS, apart


def _is_mean(kernel: Kernel) -> bool:
    return kernel.is_sum and kernel.build is kernels.build


def _shared_from(maps: Maps, kernel: Kernel, apart: Kernel) -> int:
    """Count the cells of windows from which on it is less work to pack their map once.

    By itself a cell costs twice as much; but in a tile that leaves the near caches it does, too, and so it does in the
    tables that means are made from. Where channels lie side by side a window is reduced where it lies, by itself.
    """
    size, is_mean = maps.largest * kernel.cell_bytes, _is_mean(kernel)
    if is_mean and maps.widest > SUM_CELLS:
        return 0  # a window wider than a part is summed in another order: that may not depend on the others
    times = PAIR_CELLS if kernel.mode == "paired" else 1
    if reads_at_once(maps, apart):
        each = FAR_RAW_BYTES >> kernel.has_index
        far = min(maps.largest * apart.lanes * maps.dtype.itemsize // each, FAR_RAW_TIMES)
        return maps.largest * max(times, RAW_TIMES, far, size // each)
    near = size <= TILE_BYTES and not is_mean and times == 1
    return -(-maps.largest // 2) if near else maps.largest * times


def _apart(maps: Maps, mode: str, build: Callable[..., Any] = kernels.build) -> Kernel:
    """Find the kernel for maps and windows that share no tile."""
    return _kernel(maps, mode, count_halvings(maps, mode), build)


def count_halvings(maps: Maps, mode: str) -> int:
    """Count how many times to halve the lanes: as long as half of them, or more, would be padding."""
    lanes = _kernel(maps, mode, 0).lanes
    return min(int(math.log2(lanes / maps.channels)), NARROW) if maps.channels < lanes else 0


def _kernel(maps: Maps, mode: str, narrow: int, build: Callable[..., Any] = kernels.build) -> Kernel:
    """Find the kernel: bools are reduced as the bytes that they are."""
    name = "uint8" if maps.name == "bool" else maps.name
    return kernel_of(name, mode, narrow, build)


@dataclass(eq=False, slots=True)
class Division:
    """How work is divided."""

    results: int
    group: int  # channels of a task
    chunks: int  # of a map's windows
    bands: int  # of a map's rows, where it is a window
    apart: bool  # whether they are tasks of their own
    tasks: int
    items: int


def _divide_maps(maps: Maps, plan: Plan, kernel: Kernel, way: str) -> Division:
    """Divide the work of whole maps into tasks."""
    results = maps.count * maps.channels * plan.grids.bins
    items = BIN_CELLS * results + maps.count * maps.channels * maps.largest
    parallel = items >= SERIAL_ITEMS
    at_once = {kind and maps.channels >= kernel.lanes for kind in _side_by_side(maps)}
    most = maps.largest // min(_band_cells(maps, plan.grids, kernel, kind) for kind in at_once)
    by_rows = way == ROWS_WAY and parallel and _all_by_rows(maps, plan, kernel)
    group = kernel.lanes
    if by_rows:
        group = _group_rows(maps, kernel)
    elif way == PARTS_WAY or kernel.is_sum:
        group = group_channels(maps, plan.grids, kernel, maps.count * max(most, 1))
    tasks = maps.count * -(-maps.channels // group)
    bands = min(most, -(-enough_tasks() // tasks)) if most > 1 and not maps.ragged else 1
    apart = bands > 1
    if kernel.is_sum:  # the order in which a sum is added up is the map's own affair
        bands = max(most, 1)
    return Division(results, group, 1, bands, apart, tasks * bands if apart else tasks, items)


def _divide_windows(maps: Maps, plan: Plan, way: Way, used: int) -> Division:
    """Divide the work of windows of so many maps into tasks."""
    windows, bins = len(plan.edges), plan.grids.bins
    packed = maps.count * maps.largest if way.name == SHARED_WAY else 0
    results = maps.channels * bins * windows
    items = BIN_CELLS * results + maps.channels * (packed or plan.cells)
    parallel = items >= SERIAL_ITEMS
    by_rows = way.name == ROWS_WAY and parallel and _all_by_rows(maps, plan, way.kernel)
    group = _group_window_channels(maps, plan.grids, way, by_rows, used, min(windows, enough_tasks()))
    groups = -(-maps.channels // group)
    chunks = count_chunks(windows, used * groups, plan.cells, bins, packed) if parallel else 1
    return Division(results, group, chunks, 1, False, maps.count * groups * chunks, items)


@remembered
def _group_window_channels(maps: Maps, grids: Grids, way: Way, by_rows: bool, used: int, windows: int) -> int:
    """Count the channels of a task of windows of so many maps."""
    if by_rows:
        return _group_rows(maps, way.kernel)
    if way.name == SHARED_WAY or (way.name == ROWS_WAY and not way.kernel.is_sum):
        return way.kernel.lanes
    at_once = not way.kernel.is_sum or (len(grids.levels) == 1 and _are_far(maps))
    return group_channels(maps, grids, way.kernel, max(windows, used) if at_once else used)


def _all_by_rows(maps: Maps, plan: Plan, kernel: Kernel) -> bool:
    """Tell whether a kernel that reduces by rows does so with all windows, channel by channel."""
    if _row_cell(maps, kernel) != maps.dtype.itemsize:
        return False
    if not kernel.is_sum:
        return True
    if plan.index is None:
        cells = maps.heights * maps.widths
    else:
        stops, starts = (plan.edges[:, [i, plan.grids.tall + i]] for i in (1, 0))
        cells = (stops - starts).prod(axis=1, dtype=np.int64)
    return bool(cells.min() >= _row_cells(plan.grids, kernel))


def _group_rows(maps: Maps, kernel: Kernel) -> int:
    """Count the channels of a task that goes by rows: fewer, so that there are tasks enough."""
    return max(1, min(kernel.lanes, maps.count * maps.channels // enough_tasks()))


@remembered
def group_channels(maps: Maps, grids: Grids, kernel: Kernel, parts: int) -> int:
    """Count the channels of a task: more where they lie side by side, and are read at once, if there are tasks enough.

    The work has so many `parts`, which are maps, bands or windows. Where there are more than maps it is better to read
    all channels of a cell than to have several tasks for a core.
    """
    if not reads_at_once(maps, kernel):
        return kernel.lanes
    blocks = -(-maps.channels // kernel.lanes)
    spare = blocks * parts // (available_cores() if parts > maps.count else enough_tasks())
    most = min(RAW_BYTES, RAW_BINS_BYTES // (grids.bins + SPILL)) // kernel.bin_bytes
    return kernel.lanes * max(1, min(spare, most, blocks))


def _prepare(maps: Maps, plan: Plan, order: Order | None, way: Way, work: Division, areas_bytes: int) -> Launch:
    """Lay out the descriptor."""
    kernel, name = way.kernel, way.name
    second = order is not None and order.powers_at > 0 and way.has_room
    streams = stream_result(work.results * maps.dtype.itemsize, plan.grids.bins, name == SHARED_WAY)
    address, laid_out, step = _lay_out(maps, plan.grids, way, work.group, work.bands, areas_bytes, second, *streams)
    fields = laid_out[:]
    fields[descriptor.CHUNKS] = work.chunks * (work.bands if work.apart else 1)
    if order is not None:
        fields[descriptor.ROW_MAP_CELLS] = _sums_by_rows_from(maps) if kernel.is_sum else 0
        fields[descriptor.ROWS_AT], fields[descriptor.STARTS_AT] = order.rows_at, order.starts_at
        fields[descriptor.POWERS_AT] = order.powers_at
    bands = work.bands if work.apart else 0
    bands_bytes = work.tasks * fields[descriptor.BANDS_STEP] if bands else 0
    return Launch(address, fields, work.tasks, work.items, step, order, bands, bands_bytes)


@remembered
def _lay_out(
    maps: Maps, grids: Grids, way: Way, group: int, bands: int, areas_bytes: int, second: bool, stream: int, places: int
) -> tuple[int, array[int], int]:
    """Lay out scratch memory: the kernel's address, what of the descriptor no window changes, bytes for a worker."""
    kernel, name = way.kernel, way.name
    part = SUM_CELLS if kernel.is_sum else TILE_BYTES // kernel.cell_bytes
    tile = maps.largest if name == SHARED_WAY else max(min(maps.largest, part), 1)
    if name == ROWS_WAY:
        strip = -(-_strip_bytes(maps, grids, kernel) // kernel.cell_bytes)
        tile = max(strip, tile) if kernel.is_sum else strip
    blocks = -(-group // kernel.lanes)
    more = areas_bytes + (_patch_bytes(maps, grids, kernel, blocks) if kernel.is_sum else 0)
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
        descriptor.BLOCKS: -(-maps.channels // group),
        descriptor.SHARED: name == SHARED_WAY,
        descriptor.ROW_CELLS: _row_cells(grids, kernel) if name == ROWS_WAY else 0,
        descriptor.STREAM: stream,
        descriptor.AREAS: areas_bytes,
        descriptor.LINES: grids.lines,
        descriptor.TILE_CELLS: tile,
        descriptor.MORE_BYTES: more,
        descriptor.BINS: bins,
        descriptor.SCRATCH_STEP: step,
        descriptor.BANDS: bands,
        descriptor.BAND_CELLS: _band_cells(maps, grids, kernel, False),
        descriptor.RAW_BAND_CELLS: _band_cells(maps, grids, kernel, True),
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
    side_by_side = maps.channels <= kernel.lanes and True in _side_by_side(maps)
    columns = maps.widest * (maps.channels if side_by_side else 1)
    strip = -(-columns // (2 * kernel.part_columns)) * 2 * kernel.part_bytes
    if not kernel.is_sum:
        return 24 * grids.lines + LINE_BYTES + max(LINES_BYTES, strip) + side_by_side * strip + kernel.bin_bytes
    size = (3 * grids.lines + 1) * strip + 8 * int(maps.heights.max())
    return min(size, STRIPS_BYTES) + 24 * (grids.lines + 2) + LINE_BYTES + kernel.bin_bytes


def _patch_bytes(maps: Maps, grids: Grids, kernel: Kernel, blocks: int) -> int:
    """Size of the patches of a part, or a row of those of some channel blocks, and of tables of strips."""
    size = PATCHES * kernel.bin_bytes + 8 * (SUM_CELLS + 8 * grids.lines + 16) if len(grids.levels) > 1 else 0
    if True in _side_by_side(maps):
        edges = 4 * grids.lines + int((maps.heights + maps.widths).max()) + 6
        size = max(size, (2 * grids.lines + 1) * blocks * kernel.bin_bytes + 8 * edges)
    return size


def _take_scratch(size: int) -> tuple[NDArray[np.uint8], int]:
    """Memory for the workers of one call, and its address: that of this thread's last call, if it is large enough."""
    kept: tuple[NDArray[np.uint8], int] | None = _local.__dict__.pop("scratch", None)
    if kept is not None and kept[0].size >= size + LINE_BYTES:
        return kept
    scratch = memory.scratch(size + LINE_BYTES)
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
