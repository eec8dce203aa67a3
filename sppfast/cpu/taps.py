"""Kernels of weighted cells: RoI align, and the gradients of means. An axis of a bin is a list of *taps*.

A tap is a place along an axis and a weight. A bin is the sum (RoI align's max: the largest) of the cells where a tap of
its row and a tap of its column meet, each times both weights; its gradient goes the same way back. Reducing rows first
and columns then, which the weights allow, was tried: it saves few cells, and storing what lies between costs more.

Samples are RoI align's: points between cells, each two taps of bilinear interpolation. Their arithmetic is that of
torchvision and ONNX Runtime, in float32 (float64 for maps of float64), operation by operation. It takes as long as the
reduction of one channel block, so that the taps of all windows are listed once, in a table, for all blocks.
"""

from math import ceil, inf

from numba.core import types
from numba.types import UniTuple

from ..arrays import LINE_BYTES
from .compile import compiled_later, routine
from .descriptor import (
    BINS,
    BLOCKS,
    CHANNELS,
    CHUNKS,
    COLUMNS,
    FIRST,
    GRAD_AT,
    GRAD_STEP,
    LEVEL_BYTES,
    LEVELS,
    LEVELS_AT,
    MAP_NUMBERS_AT,
    MAPS_AT,
    MAPS_STEP,
    OUT_AT,
    RAW_WAY,
    RECORDS_AT,
    ROWS,
    SAMPLING,
    SHARED,
    STARTS_AT,
    STREAM,
    TABLE_AT,
    TILE_CELLS,
    WINDOWS,
    WINDOWS_AT,
    X_EDGES,
    Y_EDGES,
    channels_of,
    edges_of,
    grid_at,
    map_of,
    row_at,
    scratch_at,
    scratch_of,
    windows_of,
)
from .lanes.accumulators import (
    add_weighted,
    load_accumulator,
    load_cell,
    load_raw_cell,
    settle,
    start,
    start_at,
    store_accumulator,
    store_rounded,
)
from .lanes.memory import load_f64, load_i32, load_i64, rounded, store_f64, store_i64
from .lanes.reduction import (
    accumulator_bytes,
    cell_bytes,
    is_sum,
    item_bytes,
    lane_count,
    out_item_bytes,
    reduction,
    result_bytes,
)
from .pack import pack, prefetch_cell
from .write import can_wait, copy_window, lines_beside, other_row, prefetch_ends, send_line, transpose_levels, write

TAP_BYTES = 16  # int64 place, float64 weight
RECENT = 3  # taps that those after them are likely to meet again
SLACK = 3.0  # samples, for the rounding of coordinates
MANY = 2.0**31  # samples, more than are ever looked at


@routine(types.int64)
def count_samples(extent, bins, sampling, t):
    """Count the samples of a bin along an axis."""
    return sampling if sampling else ceil(min(rounded(extent / bins, t), MANY))


@routine(types.int64)
def add_tap(taps, count, place, weight, t):
    """Add a tap to a list; for a sum to the weight of one of the last taps, if that has the same place."""
    if is_sum(t):
        for i in range(count - 1, max(0, count - RECENT) - 1, -1):
            if load_i64(taps, 2 * i) == place:
                store_f64(taps, 2 * i + 1, load_f64(taps, 2 * i + 1) + weight)
                return count
    store_i64(taps, 2 * count, place)
    store_f64(taps, 2 * count + 1, weight)
    return count + 1


@routine(types.int64)
def sample_taps(taps, limit, begin, extent, bins, bin_, samples, side, t):
    """List the taps of a bin's samples; return how many. A sample further than a cell outside the map has none."""
    size = rounded(extent / bins, t)
    base = rounded(begin + rounded(bin_ * size, t), t)
    first, last = 0, samples
    if size > 0:  # samples near the map, and no others: a window may be far larger
        first = int(max(min((-1 - base) / size * samples - SLACK, MANY), 0.0))
        last = int(max(min((side - base) / size * samples + SLACK, samples), 0.0))
    count = 0
    for i in range(first, last):
        at = rounded(base + rounded(rounded((i + 0.5) * size, t) / samples, t), t)
        if not (-1 <= at <= side) or count + 2 > limit:
            continue
        at = max(at, 0.0)
        low = min(int(at), side - 1)
        high = min(low + 1, side - 1)
        fraction = 0.0 if low == high else at - low
        count = add_tap(taps, count, low, rounded(1 - fraction, t), t)
        count = add_tap(taps, count, high, fraction, t)
    return count


@routine(types.int64)
def edge_taps(taps, places, bins, bin_):
    """List the cells of a bin as taps of weight 1; return how many."""
    begin = load_i32(places, bin_)
    count = max(load_i32(places, bins + bin_) - begin, 0)
    for i in range(count):
        store_i64(taps, 2 * i, begin + i)
        store_f64(taps, 2 * i + 1, 1.0)
    return count


# --- the table: of each level of each window a record for y and one for x ---------------------------------------------
# A record: the number of each bin's first tap, and of all taps; then the taps of all bins.


@routine(types.int64)
def record_of(desc, row, level, axis):
    """Address of a record; axis 0 is y."""
    number = (row * load_i64(desc, LEVELS) + level) * 2 + axis
    return load_i64(desc, TABLE_AT) + load_i64(load_i64(desc, RECORDS_AT), number)


@routine(types.int64)
def first_tap(record, bin_):
    """Number of the first tap of a bin."""
    return load_i64(record, bin_)


@routine(types.int64)
def taps_at(record, bins):
    """Address of the taps of a record."""
    return record + 8 * (bins + 1)


@routine(types.int64)
def places_of(desc, level, row, axis):
    """Find where the bins of a level of a window begin and, behind that, end along an axis."""
    y_edges, x_edges = edges_of(desc, row)
    return x_edges + 4 * load_i64(level, X_EDGES) if axis else y_edges + 4 * load_i64(level, Y_EDGES)


@routine(types.int64)
def map_table(desc, row):
    """Find the row of the table of maps for a window."""
    return load_i64(desc, MAPS_AT) + load_i64(load_i64(desc, MAP_NUMBERS_AT), row) * load_i64(desc, MAPS_STEP)


@routine(types.float64)
def extent_of(desc, row, axis):
    """Find the cells of a window along an axis."""
    return load_f64(load_i64(desc, WINDOWS_AT) + 32 * row + 16 * axis, 1)


@routine(types.int64)
def most_taps(desc, level, row, map_, axis):
    """Count the taps of all bins of a level of a window along an axis, at most."""
    bins, sampling = load_i64(level, ROWS + axis), load_i64(desc, SAMPLING)
    if sampling > 0:
        return 2 * sampling * bins
    if sampling == 0:  # samples of a bin are at least half a cell apart: no more of them lie near the map
        near = ceil(min(extent_of(desc, row, axis) / bins, MANY)) + 1
        return 2 * bins * min(near, 2 * load_i64(map_, 1 + axis) + 8)
    edges, total = places_of(desc, level, row, axis), 0
    for bin_ in range(bins):
        total += max(load_i32(edges, bins + bin_) - load_i32(edges, bin_), 0)
    return total


@routine(types.int64)
def near_cells(desc, row, map_, axis):
    """Count the cells of a window along an axis that samples may lie near; 0 where it has edges."""
    if load_i64(desc, SAMPLING) < 0:
        return 0
    return int(min(extent_of(desc, row, axis) + 2, float(load_i64(map_, 1 + axis))))


@compiled_later("int64(int64, int64, int64, int64)")
def lay_records(desc, windows, room, records):
    """Lay out the records of as many windows as have `room` for them, and of one at least; tell how many these are.

    Writes where each begins and the last one ends; then how many cells, at most, the lines have that taps along y name,
    and how many there are where these meet taps along x.
    """
    size, cells, met, row, number = 0, 0, 0, 0, 0
    while row < windows and (row == 0 or size < room):
        map_ = map_table(desc, row)
        tall, wide = near_cells(desc, row, map_, 0), near_cells(desc, row, map_, 1)
        for i in range(load_i64(desc, LEVELS)):
            level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
            y_count, x_count = most_taps(desc, level, row, map_, 0), most_taps(desc, level, row, map_, 1)
            cells += y_count * wide
            met += min(y_count, tall) * min(x_count, wide)
            for axis in range(2):
                store_i64(records, number, size)
                size += 8 * (load_i64(level, ROWS + axis) + 1) + TAP_BYTES * (x_count if axis else y_count)
                number += 1
        row += 1
    store_i64(records, number, size)
    store_i64(records, number + 1, cells)
    store_i64(records, number + 2, met)
    return row


@routine()
def tabulate_edges(desc, level, row, record, bins, axis):
    """Write the record of an axis of a window from its edges."""
    places = places_of(desc, level, row, axis)
    total = 0
    for bin_ in range(bins):
        store_i64(record, bin_, total)
        total += edge_taps(taps_at(record, bins) + total * TAP_BYTES, places, bins, bin_)
    store_i64(record, bins, total)


@routine(types.int64)
def samples_of(desc, row, bins, axis, t):
    """Count the samples of a bin along an axis, inside the map or not."""
    return count_samples(extent_of(desc, row, axis), bins, load_i64(desc, SAMPLING), t)


@routine()
def tabulate_samples(desc, row, record, limit, bins, axis, side, t):
    """Write the record of an axis of a window from its samples."""
    window = load_i64(desc, WINDOWS_AT) + 32 * row + 16 * axis
    begin, extent, samples = load_f64(window, 0), load_f64(window, 1), samples_of(desc, row, bins, axis, t)
    total = 0
    for bin_ in range(bins):
        store_i64(record, bin_, total)
        taps = taps_at(record, bins) + total * TAP_BYTES
        total += sample_taps(taps, limit, begin, extent, bins, bin_, samples, side, t)
    store_i64(record, bins, total)


@routine()
def run_tabulate(desc, task, worker, t):
    """Write the records of a chunk of windows."""
    chunks, windows = load_i64(desc, CHUNKS), load_i64(desc, WINDOWS)
    for row in range(windows * task // chunks, windows * (task + 1) // chunks):
        map_ = map_table(desc, row)
        for i in range(load_i64(desc, LEVELS)):
            level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
            for axis in range(2):
                bins, record = load_i64(level, ROWS + axis), record_of(desc, row, i, axis)
                if load_i64(desc, SAMPLING) < 0:
                    tabulate_edges(desc, level, row, record, bins, axis)
                else:
                    room = record_of(desc, row, i, axis + 1) - taps_at(record, bins)
                    limit = room // TAP_BYTES // bins
                    tabulate_samples(desc, row, record, limit, bins, axis, load_i64(map_, 1 + axis), t)


# --- RoI align ------------------------------------------------------------------------------------------------------


@routine(types.boolean, only=lambda t: t.way == RAW_WAY)
def is_raw(t):
    """Tell whether a kernel reads cells where they lie in the map, all their channels at once."""
    return True


@routine()
def gather_bin(y_taps, y_count, x_taps, x_count, bin_, held, lowest, cells, step, across, by_place, ahead, t):
    """Reduce the cells of a bin, on top of what is held.

    `cells` is where the map's first cell would lie, or that of the first tap's row if they are not `by_place`; `step`
    is from row to row, `across` from column to column. What is `ahead` is fetched if it is raw.
    Bound: a load, a multiplication and an addition per line of every cell.
    """
    accumulator = load_accumulator(bin_, t) if held else start_at(lowest, t)
    for i in range(y_count):
        line = cells + (load_i64(y_taps, 2 * i) if by_place else i) * step
        weight = load_f64(y_taps, 2 * i + 1)
        for k in range(x_count):
            place = line + load_i64(x_taps, 2 * k) * across
            if is_raw(t):
                prefetch_cell(place + ahead, t)
            cell = load_raw_cell(place, t) if is_raw(t) else load_cell(place, t)
            accumulator = add_weighted(accumulator, cell, weight * load_f64(x_taps, 2 * k + 1), t)
    store_accumulator(bin_, accumulator, t)


@routine(types.int64)
def first_place(taps, count):
    """Find the least place of taps."""
    least = load_i64(taps, 0) if count else 0
    for i in range(1, count):
        least = min(least, load_i64(taps, 2 * i))
    return least


@routine(types.int64)
def last_place(taps, count):
    """Find the place past the largest of taps."""
    last = 0
    for i in range(count):
        last = max(last, load_i64(taps, 2 * i) + 1)
    return last


@routine(UniTuple(types.int64, 6))
def place_window(desc, tile, y_taps, y_total, x_taps, x_total, map_, address, channel, t):
    """Find where a map's first cell would lie, and bytes from row to row and from column to column.

    In the map itself, if that is read raw; else in the tile: of the map, of the window's rows, which are packed now,
    or, if its taps have fewer or these have no room, of taps' rows, one behind the other. Then tell whether rows are
    found by their place, which column is the first, and how many there are.
    """
    if is_raw(t):
        return address + channel * item_bytes(t), load_i64(map_, 4), load_i64(map_, 5), 1, 0, load_i64(map_, 2)
    across = cell_bytes(t)
    if load_i64(desc, SHARED):
        return tile, load_i64(map_, 2) * across, across, 1, 0, load_i64(map_, 2)
    left, top, bottom = first_place(x_taps, x_total), first_place(y_taps, y_total), last_place(y_taps, y_total)
    wide = max(last_place(x_taps, x_total) - left, 1)
    step = wide * across
    cells = tile - left * across
    if bottom - top > min(load_i64(desc, TILE_CELLS) // wide, y_total):
        return cells, step, across, 0, left, wide
    pack(0, tile, map_, address, channel, load_i64(desc, CHANNELS), top, bottom, left, left + wide, t)
    return cells - top * step, step, across, 1, left, wide


@routine()
def gather_level(desc, number, row, tile, bins, blocks, waiting, beside, map_, address, channel, t):
    """Reduce the bins of a level of a window, some channel blocks; `waiting` and `beside` as in `reduce_blocks`."""
    level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * number
    rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
    y_record, x_record = record_of(desc, row, number, 0), record_of(desc, row, number, 1)
    y_all, y_total = taps_at(y_record, rows), first_tap(y_record, rows)
    x_taps, x_total = taps_at(x_record, columns), first_tap(x_record, columns)
    y_samples, x_samples = samples_of(desc, row, rows, 0, t), samples_of(desc, row, columns, 1, t)
    channels, bins_step = load_i64(desc, CHANNELS), load_i64(desc, BINS) * accumulator_bytes(t)
    place = (y_all, y_total, x_taps, x_total, map_, address, channel)
    cells, step, across, by_place, left, wide = place_window(desc, tile, *place, t)
    last = (channels - lane_count(t) - channel) * item_bytes(t) if is_raw(t) else 0
    for y in range(rows):
        y_first, found = first_tap(y_record, y), first_tap(y_record, y + 1) - first_tap(y_record, y)
        y_taps, ahead = y_all + y_first * TAP_BYTES, 0
        if y + 1 < rows and y_first + found < y_total:
            ahead = (load_i64(y_taps, 2 * found) - load_i64(y_taps, 0)) * step
        held, room = 0, found if by_place else load_i64(desc, TILE_CELLS) // wide
        while held == 0 or held < found:
            group, taps = min(found - held, room), y_taps + held * TAP_BYTES
            for i in range(0 if by_place else group):
                at = load_i64(taps, 2 * i)
                pack(0, tile + i * step, map_, address, channel, channels, at, at + 1, left, left + wide, t)
            for x in range(columns):
                first, there = first_tap(x_record, x), first_tap(x_record, x + 1) - first_tap(x_record, x)
                whole = there > 0 and found > 0 and found == 2 * y_samples and there == 2 * x_samples
                lowest = -inf if whole and not is_sum(t) else 0.0  # a sample outside the map counts as 0
                bin_, places = bins + (y * columns + x) * accumulator_bytes(t), x_taps + first * TAP_BYTES
                for block in range(blocks):
                    from_ = cells + min(block * lane_count(t) * item_bytes(t), last)
                    run = (bin_ + block * bins_step, held, lowest, from_, step, across, by_place, ahead)
                    gather_bin(taps, group, places, there, *run, t)
                if beside and held == 0:
                    send_line(beside, waiting)
                    beside, waiting = beside + LINE_BYTES, waiting + LINE_BYTES
            held += max(group, 1)
    for block in range(blocks):
        for i in range(rows * columns):
            settle(bins + block * bins_step + i * accumulator_bytes(t), max(y_samples * x_samples, 1), t)


@routine()
def gather_window(desc, row, tile, bins, blocks, waiting, beside, map_, address, channel, t):
    """Align a window; the rest is as in `gather_level`."""
    for i in range(load_i64(desc, LEVELS)):
        first = load_i64(load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i, FIRST) * accumulator_bytes(t)
        lines = 0 if i else beside
        gather_level(desc, i, row, tile, bins + first, blocks, waiting, lines, map_, address, channel, t)


@routine()
def run_gather(desc, task, worker, t):
    """Align a chunk of the windows of one map, some channels: one block, unless the map is read raw."""
    chunks, groups = load_i64(desc, CHUNKS), load_i64(desc, BLOCKS)
    number = task // chunks // groups
    channel, blocks = channels_of(desc, task // chunks % groups, t)
    map_, address = map_of(desc, number)
    first, last = windows_of(desc, number, task % chunks)
    tile, _, bins = scratch_of(desc, worker, t)
    bins_step = load_i64(desc, BINS) * accumulator_bytes(t)
    flat = bins + blocks * bins_step
    waits, before, waiting = can_wait(desc, channel, t), -1, flat + load_i64(desc, BINS) * result_bytes(t)
    if load_i64(desc, SHARED) and first < last:
        height, width = load_i64(map_, 1), load_i64(map_, 2)
        pack(0, tile, map_, address, channel, load_i64(desc, CHANNELS), 0, height, 0, width, t)
    for i in range(first, last):
        row = row_at(desc, i)
        for block in range(blocks):
            prefetch_ends(desc, row, channel + block * lane_count(t), t)
        lines, beside = lines_beside(desc, row, before, waiting, channel, t)
        gather_window(desc, row, tile, bins, blocks, lines, beside, map_, address, channel, t)
        other = other_row(desc, i, last, before)
        for block in range(blocks):
            place, first_channel = bins + block * bins_step, channel + block * lane_count(t)
            transpose_levels(desc, place, flat, waiting, row, other, beside > 0, first_channel, t)
            if not waits:
                copy_window(desc, row, flat, first_channel, is_raw(t), t)
        if waits:
            flat, waiting, before = waiting, flat, row
    if before >= 0:
        copy_window(desc, before, waiting, channel, False, t)


# --- the gradient of means ------------------------------------------------------------------------------------------


@routine()
def spread_bin(y_taps, y_count, x_taps, x_count, cell, area, tile, width, t):
    """Add the gradient of a bin to its cells. Bound: for each cell a load, an addition and a store per line."""
    value = load_cell(cell, t)
    for i in range(y_count):
        line, weight = tile + load_i64(y_taps, 2 * i) * width * accumulator_bytes(t), load_f64(y_taps, 2 * i + 1) / area
        for k in range(x_count):
            place = line + load_i64(x_taps, 2 * k) * accumulator_bytes(t)
            sum_ = add_weighted(load_accumulator(place, t), value, weight * load_f64(x_taps, 2 * k + 1), t)
            store_accumulator(place, sum_, t)


@routine()
def spread_level(desc, number, row, tile, cells, width, t):
    """Add the gradients of a level's bins to the cells at their taps."""
    level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * number
    rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
    sampled = load_i64(desc, SAMPLING) >= 0
    y_record, x_record = record_of(desc, row, number, 0), record_of(desc, row, number, 1)
    samples = samples_of(desc, row, rows, 0, t) * samples_of(desc, row, columns, 1, t) if sampled else 0
    for i in range(rows * columns):
        y, x = i // columns, i % columns
        y_first, x_first = first_tap(y_record, y), first_tap(x_record, x)
        y_count, x_count = first_tap(y_record, y + 1) - y_first, first_tap(x_record, x + 1) - x_first
        y_taps, x_taps = taps_at(y_record, rows) + y_first * TAP_BYTES, taps_at(x_record, columns) + x_first * TAP_BYTES
        area = samples if sampled else y_count * x_count
        spread_bin(y_taps, y_count, x_taps, x_count, cells + i * cell_bytes(t), area, tile, width, t)


@routine()
def pack_grads(desc, level, row, cells, run, channel, t):
    """Pack the gradients of a level's bins, one channel block: to `pack` they are a map of one row, `run`."""
    channels, item = load_i64(desc, CHANNELS), item_bytes(t)
    first, count = load_i64(level, FIRST), load_i64(level, ROWS) * load_i64(level, COLUMNS)
    store_i64(run, 3, count * item)
    store_i64(run, 4, count * item)
    store_i64(run, 5, item)
    grad = load_i64(desc, GRAD_AT) + row * load_i64(desc, GRAD_STEP) + channels * first * item
    pack(0, cells, run, grad, channel, channels, 0, 1, 0, count, t)


@routine()
def spread_window(desc, row, tile, cells, run, width, channel, t):
    """Add the gradients of a window's bins, one channel block, to the cells of the map."""
    for i in range(load_i64(desc, LEVELS)):
        pack_grads(desc, load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i, row, cells, run, channel, t)
        spread_level(desc, i, row, tile, cells, width, t)


@routine()
def run_spread(desc, task, worker, t):
    """Sum the gradients of all windows of one map, one channel block: no other task writes there."""
    blocks = load_i64(desc, BLOCKS)
    number, channel = task // blocks, task % blocks * lane_count(t)
    map_, _ = map_of(desc, number)
    area, channels = load_i64(map_, 1) * load_i64(map_, 2), load_i64(desc, CHANNELS)
    tile = scratch_at(desc, worker)
    flat = tile + load_i64(desc, TILE_CELLS) * accumulator_bytes(t)
    cells = flat + load_i64(desc, TILE_CELLS) * lane_count(t) * out_item_bytes(t)
    run = cells + load_i64(desc, BINS) * cell_bytes(t)
    for i in range(area):
        store_accumulator(tile + i * accumulator_bytes(t), start(t), t)
    starts = load_i64(desc, STARTS_AT)
    for i in range(load_i64(starts, number), load_i64(starts, number + 1)):
        row = row_at(desc, i)
        spread_window(desc, row, tile, cells, run, load_i64(map_, 2), channel, t)
    for i in range(area):
        settle(tile + i * accumulator_bytes(t), 1, t)
    out = load_i64(load_i64(desc, OUT_AT), number) + channel * area * out_item_bytes(t)
    write(out, flat, tile, area, min(lane_count(t), channels - channel), load_i64(desc, STREAM), t)


# --- the gradient of the means of whole maps --------------------------------------------------------------------------
# Cells with the same edges around them have the same gradient. Along an axis they are a *strip*.


@routine(types.int64)
def number_strips(desc, edges, strips, side, axis):
    """Number the strips of an axis: write down that of each place, and of the end; return how many there are."""
    for i in range(side + 1):
        store_i64(strips, i, 0)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        places = edges + 4 * load_i64(level, Y_EDGES + axis)
        for k in range(2 * load_i64(level, ROWS + axis)):
            store_i64(strips, load_i32(places, k), 1)
    store_i64(strips, 0, 0)  # the first begins there in any case
    for i in range(side):
        store_i64(strips, i + 1, load_i64(strips, i) + load_i64(strips, i + 1))
    return load_i64(strips, side - 1) + 1


@routine()
def spread_block(cell, tile, width, top, bottom, left, right, weight, t):
    """Add the weighted gradient of a bin to a block of a tile."""
    value = load_cell(cell, t)
    for y in range(top, bottom):
        for x in range(left, right):
            place = tile + (y * width + x) * accumulator_bytes(t)
            store_accumulator(place, add_weighted(load_accumulator(place, t), value, weight, t), t)


@routine()
def spread_strips(desc, level, tile, width, cells, y_edges, x_edges, y_strips, x_strips, t):
    """Add the gradients of a level's bins to where strips cross."""
    rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
    for y in range(rows):
        top, bottom = load_i32(y_places, y), load_i32(y_places, rows + y)
        for x in range(columns):
            left, right = load_i32(x_places, x), load_i32(x_places, columns + x)
            if top < bottom and left < right:
                low, high = load_i64(y_strips, top), load_i64(y_strips, bottom)
                first, last = load_i64(x_strips, left), load_i64(x_strips, right)
                weight = 1.0 / ((bottom - top) * (right - left))
                spread_block(cells, tile, width, low, high, first, last, weight, t)
            cells += cell_bytes(t)


@routine()
def run_spread_map(desc, task, worker, t):
    """Write the gradient of the means of one map, one channel block. Bound: every cell is written once."""
    blocks = load_i64(desc, BLOCKS)
    number, channel = task // blocks, task % blocks * lane_count(t)
    map_, _ = map_of(desc, number)
    height, width = load_i64(map_, 1), load_i64(map_, 2)
    y_edges, x_edges = edges_of(desc, number)
    tile = scratch_at(desc, worker)
    sums = tile + load_i64(desc, TILE_CELLS) * accumulator_bytes(t)
    flat = sums + load_i64(desc, TILE_CELLS) * accumulator_bytes(t)
    cells = flat + load_i64(desc, TILE_CELLS) * lane_count(t) * out_item_bytes(t)
    run = cells + load_i64(desc, BINS) * cell_bytes(t)
    y_strips = run + LINE_BYTES
    x_strips = y_strips + (height + 1) * 8
    tall = number_strips(desc, y_edges, y_strips, height, 0)
    wide = number_strips(desc, x_edges, x_strips, width, 1)
    for i in range(tall * wide):
        store_accumulator(sums + i * accumulator_bytes(t), start(t), t)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        pack_grads(desc, level, number, cells, run, channel, t)
        spread_strips(desc, level, sums, wide, cells, y_edges, x_edges, y_strips, x_strips, t)
    for y in range(height):
        for x in range(width):
            sum_ = sums + (load_i64(y_strips, y) * wide + load_i64(x_strips, x)) * accumulator_bytes(t)
            store_rounded(tile + (y * width + x) * accumulator_bytes(t), load_accumulator(sum_, t), t)
    area = height * width
    out = load_i64(load_i64(desc, OUT_AT), number) + channel * area * out_item_bytes(t)
    valid = min(lane_count(t), load_i64(desc, CHANNELS) - channel)
    write(out, flat, tile, area, valid, load_i64(desc, STREAM), t)


def build_tabulate(dtype, mode, narrow, way, digest):
    """Make the Python function of the table's kernel, for `numba.cfunc`: (descriptor, task, worker)."""

    def kernel(desc, task, worker):
        run_tabulate(desc, task, worker, reduction(dtype, mode, narrow, way, digest))

    return kernel


def build_gather(dtype, mode, narrow, way, digest):
    """Make the Python function of RoI align's kernel, for `numba.cfunc`: (descriptor, task, worker)."""

    def kernel(desc, task, worker):
        run_gather(desc, task, worker, reduction(dtype, mode, narrow, way, digest))

    return kernel


def build_spread(dtype, mode, narrow, way, digest):
    """Make the Python function of the gradient of means, for `numba.cfunc`: (descriptor, task, worker)."""

    def kernel(desc, task, worker):
        run_spread(desc, task, worker, reduction(dtype, mode, narrow, way, digest))

    return kernel


def build_spread_map(dtype, mode, narrow, way, digest):
    """Make the Python function of the gradient of maps' means, for `numba.cfunc`: (descriptor, task, worker)."""

    def kernel(desc, task, worker):
        run_spread_map(desc, task, worker, reduction(dtype, mode, narrow, way, digest))

    return kernel
