"""How work is divided into tasks: chunks of windows, channel blocks, bands of rows."""

from __future__ import annotations

from dataclasses import dataclass

from ..arrays import LINE_BYTES, Maps, remembered
from ..cores import available_cores
from ..plan import Grids, Plan
from .descriptor import PARTS_WAY, ROWS_WAY, SHARED_WAY
from .ways import Kernel, Way, all_by_rows, is_far, reads_at_once, side_by_side

SERIAL_ITEMS = 2**16  # less work than this, in cells to reduce, is done before a thread that is awake has come
BIN_CELLS = 4  # a bin takes as long as so many cells
TASKS_PER_CORE = 4  # so that the last ones end together
CHUNK_WINDOWS = 64  # of a part of a map's windows, at least, where the cores have work without it
PACK_TIMES = 8  # as long as it takes to pack the map such a part takes to be pooled, at least
LINE_BLOCKS = 8  # from which on one more is worth while, so that they begin where cache lines do
RAW_BYTES = 2**12  # of a cell's channels that are read at once where they lie side by side
RAW_BINS_BYTES = 2**22  # of their bins, at most: a small part of most results
FAR_SUMS_BYTES = 2**24  # of maps whose windows are summed in all channel blocks at once
BAND_BYTES = 2**17  # of a channel in a band of rows, at least, into which a map is divided where there are few tasks
SUMMED_BAND = 4  # times as many where they are summed: however many tasks, so that the order is always the same
BAND_SHARE = 8  # of a band, at most, are its bins, which are kept till those of all bands are there
SPILL = 32  # bins that a transposed block reads past the last


@dataclass(eq=False, slots=True)
class Division:
    """How work is divided."""

    results: int
    group: int  # channels of a task
    at_once: bool  # whether all of them are summed at once, where they may be
    lead: int  # of which all but the first begin earlier
    groups: int
    chunks: int  # of a map's windows
    bands: int  # of a map's rows, where it is a window
    apart: bool  # whether they are tasks of their own
    tasks: int
    items: int


def divide_maps(maps: Maps, plan: Plan, way: Way) -> Division:
    """Divide the work of whole maps into tasks."""
    kernel = way.kernel
    results = maps.count * maps.channels * plan.grids.bins
    items = BIN_CELLS * results + maps.count * maps.channels * maps.largest
    parallel = items >= SERIAL_ITEMS
    kinds = {kind and maps.channels >= kernel.lanes for kind in side_by_side(maps)}
    most = maps.largest // min(band_cells(maps, plan.grids, kernel, kind) for kind in kinds)
    by_rows = way.name == ROWS_WAY and parallel and all_by_rows(maps, plan, kernel)
    group = kernel.lanes
    if by_rows:
        group = _group_rows(maps, kernel)
    elif way.name == PARTS_WAY or kernel.is_sum:
        group = group_channels(maps, plan.grids, kernel, maps.count * max(most, 1))
    groups = -(-maps.channels // group)
    tasks = maps.count * groups
    bands = min(most, -(-enough_tasks() // tasks)) if most > 1 and not maps.ragged else 1
    apart = bands > 1
    if kernel.is_sum:  # the order in which a sum is added up is the map's own affair
        bands = max(most, 1)
    at_once = group > kernel.lanes and sums_at_once(maps, maps.count)
    return Division(results, group, at_once, 0, groups, 1, bands, apart, tasks * bands if apart else tasks, items)


def divide_windows(maps: Maps, plan: Plan, way: Way, used: int, address: int) -> Division:
    """Divide the work of windows of so many maps into tasks; `address` is the maps', as in `lead_of`."""
    windows, bins = len(plan.edges), plan.grids.bins
    packed = maps.count * maps.largest if way.name == SHARED_WAY else 0
    results = maps.channels * bins * windows
    items = BIN_CELLS * results + maps.channels * (packed or plan.cells)
    parallel = items >= SERIAL_ITEMS
    by_rows = way.name == ROWS_WAY and parallel and all_by_rows(maps, plan, way.kernel)
    group = group_windows(maps, plan.grids, way, by_rows, used, min(windows, enough_tasks()))
    lead = lead_of(maps, way.kernel, address % LINE_BYTES) if way.name == SHARED_WAY else 0
    groups = -(-(maps.channels + lead) // group)
    chunks = count_chunks(windows, used * groups, plan.cells, bins, packed) if parallel else 1
    at_once = group > way.kernel.lanes and sums_at_once(maps, used)
    return Division(results, group, at_once, lead, groups, chunks, 1, False, maps.count * groups * chunks, items)


@remembered
def group_windows(maps: Maps, grids: Grids, way: Way, by_rows: bool, used: int, windows: int) -> int:
    """Count the channels of a task of windows of so many maps."""
    if by_rows:
        return _group_rows(maps, way.kernel)
    if way.name == SHARED_WAY or (way.name == ROWS_WAY and not way.kernel.is_sum):
        return way.kernel.lanes
    at_once = not way.kernel.is_sum or sums_at_once(maps, used)
    return group_channels(maps, grids, way.kernel, max(windows, used) if at_once else used)


def sums_at_once(maps: Maps, used: int) -> bool:
    """Tell whether windows of so many maps are summed in all channel blocks of a task at once, if they may be."""
    return used * maps.bytes >= FAR_SUMS_BYTES


@remembered
def lead_of(maps: Maps, kernel: Kernel, place: int) -> int:
    """Count the channels that all blocks of packed maps but the first begin earlier: where cache lines do.

    NumPy's large arrays do not: they have their `place` within a line. So a block as long as a line reads two of each
    cell, and the next block reads one of them again, later, from memory. What two blocks have in common both write, the
    same. Of means the table of areas takes longer than what is read for it.
    """
    size, steps = maps.dtype.itemsize, [maps.batch_step, *maps.table[0, 4:].tolist()]
    is_line = kernel.lanes * size == LINE_BYTES and maps.channels >= LINE_BLOCKS * kernel.lanes
    if not is_line or maps.ragged or not is_far(maps, kernel) or not reads_at_once(maps, kernel) or kernel.is_sum:
        return 0
    return 0 if place % size or any(step % LINE_BYTES for step in steps) else place // size


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


def band_cells(maps: Maps, grids: Grids, kernel: Kernel, at_once: bool) -> int:
    """Count the cells that a band of a map has at least: fewer where those of all channels are read `at_once`."""
    times, bins = SUMMED_BAND if kernel.is_sum else 1, BAND_SHARE * (grids.bins + SPILL) * kernel.bin_bytes
    size = times * max(BAND_BYTES, bins)
    if at_once:
        size = max(times * BAND_BYTES // maps.channels, 2 * bins // kernel.lanes)
    return max(size // maps.dtype.itemsize, 1)


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


def count_vectors(maps: Maps, plan: Plan, kernel: Kernel, cells: int) -> int:
    """Count the vectors of work that windows are, of so many cells."""
    return (BIN_CELLS * plan.grids.bins * len(plan.edges) + cells) * -(-maps.channels // kernel.lanes)
