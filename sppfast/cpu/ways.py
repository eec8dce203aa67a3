"""Which kernel pools windows, and in which of its ways: where it is least work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import LINE_BYTES, Maps, remembered
from ..plan import Grids, Plan
from . import kernels
from .compile import c_function, digest
from .descriptor import PARTS_WAY, ROWS_WAY, SHARED_WAY
from .lanes.areas import BOUNDS
from .lanes.reduction import NARROW, Reduction, lanes_of
from .sums import SUM_CELLS

TILE_BYTES = 2**18  # of a window pooled by parts: half of a common second-level cache
SHARED_BYTES = 2**23  # of the largest tile of a whole map
WIDE_SHARED_BYTES = 2**22  # of one of wide lanes: two threads' would not stay in a cache that they have in common
SECOND_BYTES = 2**20  # of the largest second tile, widened across or of runs: to leave a near cache costs more
PAIR_CELLS = 10  # to make a pair of a key and an index costs as much as to reduce so many cells, one after the other
AREA_CELLS = 2.5  # to add a cell to a table of areas of 32 bits, as so many
LEVELS_CELLS = 1.6  # a cell of windows of several levels takes so many times as long without such a table
FAR_AREA_BYTES = 2**21  # of a table of which it costs more: as many times as it is larger than that
AREA_BYTES = 2**23  # of the largest
RAW_TIMES = 2  # as long takes a cell that is packed as one whose channels lie side by side, and that is reduced there
FAR_RAW_BYTES = 2**19  # of a tile, or of a wide block of its map: for each it takes as long again, twice with indices
FAR_RAW_TIMES = 10  # as long, at most, for a block
FAR_MAP_BYTES = 2**25  # of a map that no cache holds
FAR_ROWS_BYTES = 2**24  # of maps of which a row of a window, by itself, takes longer
FAR_ROW_CELLS = 32  # than its cells, as long as so many more; half as many where a tile takes longer, too
ROW_CELLS = 32  # of a bin, at least, to reduce by rows, where a bin takes no more work than a maximum
ROW_BINS = 10  # a map takes so by itself as long as so many bins
PLANE_BYTES = 2**19  # of a channel that is read again for a second level from a near cache
MANY_CELLS = 2**62


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
    is_sum: bool  # and does not weigh cells
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


@dataclass(frozen=True, eq=False, slots=True)
class Way:
    """One of the ways to pool windows: with a kernel, where they have cells enough."""

    kernel: Kernel
    name: str
    map_cells: int = 0  # of the windows of a map, at least
    window_cells: int = 0  # of a window, at least, as a mean
    row_cells: int = 0  # as many as which a row of a window counts besides
    far_maps: int = 1  # of so many maps, at least
    has_room: bool = False  # for a second tile

    def pays(self, cells: int, windows: int, used: int) -> bool:
        """Tell whether so many windows of so many maps have cells enough; rows as if they were squares."""
        far = self.row_cells > 0 and used >= self.far_maps
        counted = cells + self.row_cells * math.isqrt(cells * windows) if far else cells
        return counted >= used * self.map_cells and cells >= windows * self.window_cells


def map_way(maps: Maps, grids: Grids, mode: str) -> Way:
    """Choose the way to pool whole maps."""
    kernel = _apart(maps, mode)
    return Way(kernel, ROWS_WAY if maps.largest >= _rows_from(maps, grids, kernel) else PARTS_WAY)


def choose_way(maps: Maps, plan: Plan, mode: str, used: int) -> Way:
    """Choose the first way for which the windows, of so many maps, have cells enough."""
    *ways, last = _ways(maps, plan.grids, mode)
    return next((way for way in ways if way.pays(plan.cells, len(plan.edges), used)), last)


@remembered
def _ways(maps: Maps, grids: Grids, mode: str) -> list[Way]:
    """List the ways to pool windows: maps packed once, as pairs of a key and an index too, rows, parts."""
    ways = []
    for own_mode in ["paired", mode] if mode == "argmax" and maps.dtype.itemsize <= 4 else [mode]:
        shared, apart = shared_way(maps, own_mode, kernels.build)
        if shared is not None:
            half = _kernel(maps, own_mode, 1)
            if half.is_sum and half.lanes < shared.kernel.lanes and _areas_bytes(maps, shared.kernel) > SECOND_BYTES:
                # A table that leaves the near caches costs more than to write fewer lanes at a time.
                ways.append(Way(half, SHARED_WAY, maps.largest * _areas_from(maps, grids, half)))
            ways.append(shared)
    if not apart.is_sum:
        # Where channels fill the lanes it pays for windows that are half of their map: of others rows are too short.
        part = maps.largest // 2 if maps.channels >= apart.lanes else 0
        ways.append(Way(apart, ROWS_WAY, 0, max(_rows_from(maps, grids, apart), part)))
    elif maps.largest >= sums_by_rows_from(maps):  # the kernel sees to each window
        ways.append(Way(apart, ROWS_WAY))
    return [*ways, Way(apart, PARTS_WAY)]


@remembered
def shared_way(maps: Maps, mode: str, build: Callable[..., Any]) -> tuple[Way | None, Kernel]:
    """Find the way that packs a map once, if there is one, and the kernel for fewer cells of windows.

    A large map is packed in half of the lanes, or in few. Of means in few at once: their tables of areas are larger
    than tiles.
    """
    apart, first = _apart(maps, mode, build), count_halvings(maps, mode)
    for narrow in (first, NARROW) if apart.is_sum else range(first, NARROW + 1):
        kernel = _kernel(maps, mode, narrow, build)
        most = SHARED_BYTES if narrow == NARROW else min(WIDE_SHARED_BYTES, SHARED_BYTES)
        if maps.largest * kernel.cell_bytes <= most and maps.largest <= kernel.most_cells:
            has_room = maps.largest * kernel.bin_bytes <= SECOND_BYTES
            least, rows = _shared_from(maps, kernel, apart), _row_of_its_own(maps, kernel, apart)
            far_maps = -(-FAR_ROWS_BYTES // maps.bytes)
            return Way(kernel, SHARED_WAY, least, row_cells=rows, far_maps=far_maps, has_room=has_room), apart
    return None, apart


def _shared_from(maps: Maps, kernel: Kernel, apart: Kernel) -> int:
    """Count the cells of windows from which on it is less work to pack their map once.

    By itself a cell costs twice as much; but in a tile that leaves the near caches it does, too, and so it does in the
    tables that means are made from. Where channels lie side by side a window is reduced where it lies, by itself: that
    is better the more a tile leaves the caches, and the more of a map is read again for each block; of maxima it is
    worse the more the map leaves them.
    """
    size, sums = maps.largest * kernel.cell_bytes, kernel.is_sum
    if sums and maps.widest > SUM_CELLS:
        return 0  # a window wider than a part is summed in another order: that may not depend on the others
    times = PAIR_CELLS if kernel.mode == "paired" else 1
    if reads_at_once(maps, apart):
        each = FAR_RAW_BYTES >> kernel.has_index
        far = min(maps.largest * apart.lanes * maps.dtype.itemsize // each, FAR_RAW_TIMES)
        most = max(times, far, size // each)
        if kernel.mode == "max":
            most = min(most, FAR_RAW_TIMES * FAR_MAP_BYTES // maps.bytes)
        return maps.largest * max(most, RAW_TIMES)
    near = size <= TILE_BYTES and not sums and times == 1
    return -(-maps.largest // 2) if near else maps.largest * times


def _row_of_its_own(maps: Maps, kernel: Kernel, apart: Kernel) -> int:
    """Count the cells that a row of a window, by itself, takes as long as besides its own.

    Where maps leave the caches its few lines come from memory, and nothing foresees them.
    """
    if reads_at_once(maps, apart) or kernel.mode == "paired":
        return 0
    return FAR_ROW_CELLS // 2 if kernel.is_sum or kernel.has_index else FAR_ROW_CELLS


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


def areas_bytes(maps: Maps, plan: Plan, way: Way, packed: int) -> int:
    """Size of a table of areas and of what bounds its error; 0: windows have too few cells, of so many `packed`."""
    if not way.kernel.is_sum or way.name != SHARED_WAY:
        return 0
    return _areas_bytes(maps, way.kernel) if plan.cells >= packed * _areas_from(maps, plan.grids, way.kernel) else 0


@remembered
def _areas_bytes(maps: Maps, kernel: Kernel) -> int:
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
        return row_cells(grids, kernel)
    cell = _row_cell(maps, kernel)
    once = grids.apart == 1 or maps.largest * cell <= PLANE_BYTES
    fits = cell and maps.widths.min() * cell >= LINE_BYTES and once
    return row_cells(grids, kernel) if fits else MANY_CELLS


def sums_by_rows_from(maps: Maps) -> int:
    """Count the cells of a map from which on its windows may be summed by rows, in another order: they never share it.

    By the map alone, so that what else is pooled with it does not change the order.
    """
    return SHARED_BYTES // _kernel(maps, "avg", NARROW).cell_bytes + 1


def row_cells(grids: Grids, kernel: Kernel) -> int:
    """Count the cells of a window from which on it is worth while to reduce it by rows."""
    return math.ceil(ROW_CELLS * (kernel.row_work * grids.bins_apart + ROW_BINS))


def _row_cell(maps: Maps, kernel: Kernel) -> int:
    """Count the bytes from one column to the next of what may be reduced by rows, or 0."""
    size, column_steps = maps.dtype.itemsize, set(maps.table[:, 5].tolist())
    if column_steps == {size}:
        return size
    few = maps.channels <= kernel.lanes and not kernel.has_index
    cell = maps.channels * size
    return cell if few and column_steps == {cell} and False not in side_by_side(maps) else 0


def all_by_rows(maps: Maps, plan: Plan, kernel: Kernel) -> bool:
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
    return bool(cells.min() >= row_cells(plan.grids, kernel))


def reads_at_once(maps: Maps, kernel: Kernel) -> bool:
    """Tell whether the channels of all cells lie side by side, and fill the lanes of a block."""
    return maps.channels >= kernel.lanes and False not in side_by_side(maps)


def side_by_side(maps: Maps) -> set[bool]:
    """Tell whether the channels of a cell lie side by side: of all maps, of none or, both, of some."""
    return {step == maps.dtype.itemsize for step in maps.table[:, 3].tolist()}


def is_far(maps: Maps, kernel: Kernel) -> bool:
    """Tell whether a channel block of a map leaves the near caches: then it pays to pool windows by place."""
    return maps.largest * kernel.cell_bytes > SECOND_BYTES


def count_used(maps: Maps, index: NDArray[np.int64]) -> int:
    """Count the maps that have windows."""
    return 1 if maps.count == 1 else int(np.count_nonzero(np.bincount(index)))
