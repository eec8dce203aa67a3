"""The CPU kernels: pack channel lanes, reduce bins, write the result. No rounding rule is known here: the plan has it.

One task pools one channel block of one map: 128 bytes of channels of each cell (32 of float32) lie side by side in
a *tile*, so that a reduction over cells is a full-width vector operation, whatever the map's size and layout.
"""

from numba.core import types
from numba.types import UniTuple

from .areas import subtract_areas, sum_areas
from .compile import routine
from .descriptor import (
    AREAS,
    AT_ONCE,
    BAND_CELLS,
    BANDS,
    BANDS_AT,
    BANDS_STEP,
    BATCH_STEP,
    BINS,
    BLOCKS,
    CHANNELS,
    CHUNKS,
    EVERYTHING,
    LEVELS,
    MERGE,
    PARTS_WAY,
    POWERS_AT,
    RAW_BAND_CELLS,
    SHARED,
    SHARED_WAY,
    STARTS_AT,
    TILE_CELLS,
    channels_of,
    count_cells,
    edges_of,
    map_of,
    row_at,
    scratch_of,
    staging_at,
    windows_of,
)
from .lanes.accumulators import add_bin, load_accumulator, store_accumulator
from .lanes.memory import load_i32, load_i64
from .lanes.reduction import accumulator_bytes, cell_bytes, is_sum, item_bytes, lane_count, reduction, result_bytes
from .pack import pack, pack_whole
from .reduce import finish_bins, reduce_bins, reduce_raw, reduce_shared, settle_bins
from .rows import goes_by_rows, reduce_by_rows
from .sums import SUM_CELLS, shares_sums, sum_patches, sum_raw, sum_runs
from .write import can_wait, copy_window, lines_beside, other_row, prefetch_ends, transpose_levels


@routine()
def reduce_parts(desc, tile, more, bins, y_edges, x_edges, box, y0, y1, map_, address, channel, t):
    """Reduce the rows [y0, y1) of a window part by part, each as large as a tile in a near cache: all is packed once.

    Sums do without where the lanes lie side by side in the map; they take the same parts, and with them the same order,
    there and where the tile holds the whole map. Of a whole map, a small one then, the next one is fetched meanwhile.
    """
    x0, x1 = load_i32(x_edges, 0), load_i32(x_edges, 1)
    channels, map_width, shared = load_i64(desc, CHANNELS), load_i64(map_, 2), load_i64(desc, SHARED)
    as_it_is = is_sum(t) and cell_bytes(t) == lane_count(t) * item_bytes(t)  # what a tile would hold
    raw = as_it_is and not shared and load_i64(map_, 3) == item_bytes(t) and channel + lane_count(t) <= channels
    capacity = SUM_CELLS if is_sum(t) else load_i64(desc, TILE_CELLS)
    wide = max(min(x1 - x0, capacity), 1)
    tall = capacity // wide
    cells, step, across, ahead = tile, map_width * cell_bytes(t), cell_bytes(t), 0
    if raw:
        cells, step, across = address + channel * item_bytes(t), load_i64(map_, 4), load_i64(map_, 5)
        ahead = 0 if load_i64(desc, STARTS_AT) else load_i64(desc, BATCH_STEP)
    top = y0
    while top == y0 or top < y1:
        bottom, left = min(top + tall, y1), x0
        while left == x0 or left < x1:
            right = min(left + wide, x1)
            if not shared and not raw:
                place = (staging_at(desc, tile), tile, map_, address, channel, channels)
                pack(*place, top, bottom, left, right, t)
                step = (right - left) * across
                cells = tile - top * step - left * across
            held = top > y0 or left > x0
            place = (box, held, top, bottom, left, right)
            if not sum_patches(desc, cells, step, across, ahead, more, bins, y_edges, x_edges, *place, t):
                reduce_bins(desc, cells, step, across, ahead, bins, y_edges, x_edges, map_width, *place, t)
            left += wide
        top += tall


@routine(UniTuple(types.int64, 3), only=shares_sums)
def sum_window(desc, tile, more, held, longer, bins, y_edges, x_edges, map_, lines, beside, channel, t):
    """Find the means of a window's bins: from a table of areas, if there is one, else from runs, or part by part.

    Held are what the table is worth, how far it is from being given up, which it is when three quarters of the windows'
    cells are summed again, and how long the runs are: they would be in the table's place. Return them as they are now.
    """
    worth, credit, length = held
    y0, y1, x0, x1 = EVERYTHING
    if worth:
        y0, y1, x0, x1 = subtract_areas(desc, more, worth, bins, y_edges, x_edges, map_, lines, beside, t)
        credit += 3 * count_cells(y_edges, x_edges) - 4 * max(y1 - y0, 0) * max(x1 - x0, 0)
    if longer > 0 and not worth:
        length = sum_runs(desc, tile, more, length, longer, bins, y_edges, x_edges, map_, t)
    elif y0 < y1:
        place = ((y0, y1, x0, x1), load_i32(y_edges, 0), load_i32(y_edges, 1), map_, 0, channel)
        reduce_parts(desc, tile, more + load_i64(desc, AREAS), bins, y_edges, x_edges, *place, t)
    if y0 < y1:
        settle_bins(desc, bins, y_edges, x_edges, (y0, y1, x0, x1), t)
    return worth if credit > 0 else 0, credit, length


@routine(types.boolean)
def sums_at_once(desc, x_edges, y0, y1):
    """Tell whether rows of a window are summed one by one, in all channel blocks at once: in the order of parts, too.

    It takes more loads and stores, and pays where maps leave the caches.
    """
    tall = 1 if load_i64(desc, LEVELS) == 1 else y1 - y0
    return load_i64(desc, AT_ONCE) and tall * (load_i32(x_edges, 1) - load_i32(x_edges, 0)) <= SUM_CELLS


@routine(only=lambda t: t.way == PARTS_WAY or t.mode == "avg")
def reduce_apart(desc, tile, more, bins, bins_step, y_edges, x_edges, y0, y1, map_, address, channel, blocks, t):
    """Reduce the rows [y0, y1) of a window that shares no tile: some channel blocks.

    Where channels lie side by side the last block reaches back over the one before it, so that it has all lanes, too,
    and all blocks are reduced at once, if they may be.
    """
    at_once, done = reads_at_once(desc, map_, t), 0
    last = load_i64(desc, CHANNELS) - (lane_count(t) if at_once else 1)
    if at_once:
        place = (bins, bins_step, y_edges, x_edges, y0, y1, map_, address, channel, last)
        summed = sums_at_once(desc, x_edges, y0, y1)
        if is_sum(t):
            done = sum_raw(desc, more, summed, blocks, *place, t)
        if not is_sum(t) or (summed and not done):
            reduce_raw(desc, blocks, *place, t)
            done = blocks
    for i in range(done, blocks):
        place = (EVERYTHING, y0, y1, map_, address, min(channel + i * lane_count(t), last))
        reduce_parts(desc, tile, more, bins + i * bins_step, y_edges, x_edges, *place, t)


@routine(types.boolean)
def reads_at_once(desc, map_, t):
    """Tell whether the channels of a cell lie side by side, and fill the lanes of a block."""
    return load_i64(map_, 3) == item_bytes(t) and load_i64(desc, CHANNELS) >= lane_count(t)


@routine(types.int64)
def count_bands(desc, map_, t):
    """Count the bands of rows that a map is divided into: by its cells, so that no other map decides a sum's order."""
    least = load_i64(desc, RAW_BAND_CELLS if reads_at_once(desc, map_, t) else BAND_CELLS)
    return max(min(load_i64(map_, 1) * load_i64(map_, 2) // least, load_i64(desc, BANDS)), 1)


@routine(only=lambda t: t.way != SHARED_WAY)
def merge_bands(bins, partial, step, bands, count, t):
    """Reduce the bins of bands, `step` bytes from one band to the next, to those of their map."""
    for i in range(count):
        bin_ = i * accumulator_bytes(t)
        accumulator = load_accumulator(partial + bin_, t)
        for band in range(1, bands):
            accumulator = add_bin(accumulator, partial + band * step + bin_, t)
        store_accumulator(bins + bin_, accumulator, t)


@routine(only=lambda t: t.way != SHARED_WAY)
def reduce_bands(desc, tile, more, bins, step, y_edges, x_edges, map_, address, channel, blocks, first, last, bands, t):
    """Reduce some bands of a window, one after the other: behind its bins is room for those of another band."""
    low, height = load_i32(y_edges, 0), load_i32(y_edges, 1) - load_i32(y_edges, 0)
    for band in range(first, last):
        into = bins if band == first else bins + blocks * step
        y0, y1 = low + height * band // bands, low + height * (band + 1) // bands
        place = (y_edges, x_edges, y0, y1, map_, address, channel)
        if goes_by_rows(desc, map_, y_edges, x_edges, t):
            reduce_by_rows(desc, tile, into, *place, t)
        else:
            reduce_apart(desc, tile, more, into, step, *place, blocks, t)
        if band > first:
            merge_bands(bins, bins, blocks * step, 2, blocks * load_i64(desc, BINS), t)


@routine(only=lambda t: t.way == SHARED_WAY)
def pool_shared(desc, chunk, group, number, worker, t):
    """Pool a chunk of the windows of a map, one channel block, from a tile of the whole map."""
    first, last = windows_of(desc, number, chunk)
    if first == last:
        return
    map_, address = map_of(desc, number)
    (channel, _), count = channels_of(desc, group, t), load_i64(desc, BINS)
    tile, more, bins = scratch_of(desc, worker, t)
    pack_whole(desc, tile, map_, address, channel, t)
    worth, credit, state = sum_areas(desc, tile, more, map_, channel, t), SUM_CELLS, 0
    waits, before, flat = can_wait(desc, channel, t), -1, bins + count * accumulator_bytes(t)
    waiting = flat + count * result_bytes(t)
    for i in range(first, last):
        row = row_at(desc, i)
        y_edges, x_edges = edges_of(desc, row)
        prefetch_ends(desc, row, channel, t)
        lines, beside = lines_beside(desc, row, before, waiting, channel, t)
        power = load_i64(load_i64(desc, POWERS_AT), row) if load_i64(desc, POWERS_AT) else -1
        place = (bins, y_edges, x_edges, map_)
        if is_sum(t):
            begun, settled, held = beside > 0 and worth > 0, True, (worth, credit, state)
            worth, credit, state = sum_window(desc, tile, more, held, power, *place, lines, beside, channel, t)
        else:
            begun, settled = beside > 0 and power >= 0, power >= 0
            state = reduce_shared(desc, tile, more, state, *place, power, lines, beside, t)
        finish_bins(desc, bins, y_edges, x_edges, settled, t)
        transpose_levels(desc, bins, flat, waiting, row, other_row(desc, i, last, before), begun, channel, t)
        if waits:
            flat, waiting, before = waiting, flat, row
        else:
            copy_window(desc, row, flat, channel, False, t)
    if before >= 0:
        copy_window(desc, before, waiting, channel, False, t)


@routine(types.int64)
def bands_of(desc, group, number):
    """Find the bins of the bands of a map, some channels, where each band is a task."""
    first = (number * load_i64(desc, BLOCKS) + group) * load_i64(desc, BANDS)
    return load_i64(desc, BANDS_AT) + first * load_i64(desc, BANDS_STEP)


@routine(only=lambda t: t.way != SHARED_WAY)
def reduce_band(desc, band, group, number, worker, t):
    """Reduce a band of a map, some channels, to bins that wait for those of the other bands."""
    map_, address = map_of(desc, number)
    bands, step = count_bands(desc, map_, t), load_i64(desc, BINS) * accumulator_bytes(t)
    y_edges, x_edges = edges_of(desc, number)
    channel, blocks = channels_of(desc, group, t)
    tile, more, _ = scratch_of(desc, worker, t)
    bins = bands_of(desc, group, number) + band * load_i64(desc, BANDS_STEP)
    if band < bands:
        place = (bins, step, y_edges, x_edges, map_, address, channel, blocks)
        reduce_bands(desc, tile, more, *place, band, band + 1, bands, t)


@routine(only=lambda t: t.way != SHARED_WAY)
def pool_apart(desc, chunk, group, number, worker, t):
    """Pool a chunk of the windows of a map, some channels, each by itself; or a map whose bands are reduced."""
    map_, address = map_of(desc, number)
    first, last = windows_of(desc, number, chunk)
    channel, blocks = channels_of(desc, group, t)
    tile, more, bins = scratch_of(desc, worker, t)
    count, bands = load_i64(desc, BINS), count_bands(desc, map_, t)
    step = count * accumulator_bytes(t)
    flat = bins + blocks * step * min(load_i64(desc, BANDS), 2)
    for i in range(first, last):
        row = row_at(desc, i)
        y_edges, x_edges = edges_of(desc, row)
        for block in range(blocks):
            prefetch_ends(desc, row, channel + block * lane_count(t), t)
        if load_i64(desc, MERGE):
            merge_bands(bins, bands_of(desc, group, number), load_i64(desc, BANDS_STEP), bands, blocks * count, t)
        else:
            place = (bins, step, y_edges, x_edges, map_, address, channel, blocks)
            reduce_bands(desc, tile, more, *place, 0, bands, bands, t)
        other = other_row(desc, i, last, -1)
        at_end = reads_at_once(desc, map_, t) and not goes_by_rows(desc, map_, y_edges, x_edges, t)
        for block in range(blocks):
            place, first_channel = bins + block * step, channel + block * lane_count(t)
            finish_bins(desc, place, y_edges, x_edges, False, t)
            transpose_levels(desc, place, flat, flat, row, other, False, first_channel, t)
            copy_window(desc, row, flat, first_channel, at_end, t)


@routine()
def run_task(desc, task, worker, t):
    """Pool a chunk of the windows of one map, or a band of it, some channels: channel blocks or, by rows, fewer."""
    chunks, groups = load_i64(desc, CHUNKS), load_i64(desc, BLOCKS)
    place = (task % chunks, task // chunks % groups, task // chunks // groups, worker)
    pool_shared(desc, *place, t)
    if load_i64(desc, BANDS_AT) and not load_i64(desc, MERGE):
        reduce_band(desc, *place, t)
    else:
        pool_apart(desc, *place, t)


def build(dtype, mode, narrow, way, digest):
    """Make the Python function of a kernel, for `numba.cfunc`: (descriptor, task, worker).

    Each way to reduce a window is a kernel of its own, so that none is compiled that is not needed: from a tile that
    its map's windows share, by rows, or part by part. Sums go part by part also where they cannot go by rows, and from
    a shared tile.

    The digest of the sources is here because Numba's cache looks only at this file and at what is closed over.
    """

    def kernel(desc, task, worker):
        run_task(desc, task, worker, reduction(dtype, mode, narrow, way, digest))

    return kernel
