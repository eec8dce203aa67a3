"""Sums of bins from those of patches, which are in the same bins of all levels, and from those of runs of cells."""

from numba.core import types

from .compile import routine
from .descriptor import (
    BINS,
    COLUMNS,
    FIRST,
    LEVEL_BYTES,
    LEVELS,
    LEVELS_AT,
    LINES,
    ROWS,
    SHARED_WAY,
    STARTS_AT,
    X_EDGES,
    Y_EDGES,
    grid_at,
    lies_outside,
)
from .lanes.accumulators import (
    add_cell,
    add_patch,
    add_some_cell,
    add_some_raw_cell,
    add_sum,
    begin_patches,
    begin_some,
    end_patches,
    load_accumulator,
    load_patch,
    start,
    store_accumulator,
    store_patch,
)
from .lanes.memory import load_i32, load_i64, store_i64
from .lanes.reduction import accumulator_bytes, cell_bytes, item_bytes, lane_count, raw_cells, some_bytes
from .pack import fetch_cell, fetch_end, prefetch_cell
from .reduce import window_ahead

SUM_CELLS = 2048  # of a part that is summed
PATCHES = 512  # of it, at most
PATCH_CELLS = 8  # of a patch, as a mean, where it pays to sum some channel blocks at once


@routine(types.int64)
def list_strips(desc, cuts, strips, edges, counts, places, low, high):
    """List strips along an axis: the rows, or columns, from `low` to `high` that lie in the same bins of all levels.

    Lists where strips begin and the last one ends, and for each row the strip that begins there or before; counts them.
    """
    for y in range(high - low + 1):
        store_i64(strips, y, 0)
    store_i64(strips, 0, 1)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        at = edges + 4 * load_i64(level, places)
        for row in range(2 * load_i64(level, counts)):
            store_i64(strips, min(max(load_i32(at, row), low), high) - low, 1)
    count = 0
    for y in range(high - low):
        if load_i64(strips, y):
            store_i64(cuts, count, low + y)
            count += 1
        store_i64(strips, y, count - 1)
    store_i64(strips, high - low, count)
    store_i64(cuts, count, high)
    return count


@routine(types.int64)
def strip_of(strips, edge, low, high):
    """Find the strip that begins at an edge."""
    return load_i64(strips, min(max(edge, low), high) - low)


@routine(types.boolean)
def is_worth_patches(count, levels, area):
    """Tell whether the bins of so many levels of an area are less work from so many patches than from its cells."""
    return count <= PATCHES and count * levels <= area * (levels - 1)


@routine(types.boolean, only=lambda t: t.mode == "avg", unroll=False)
def sum_patches(desc, cells, step, across, ahead, more, bins, y_edges, x_edges, box, held, y0, y1, x0, x1, t):
    """Sum the bins of a window in a box over a part of its cells from patches, cells in the same bins of all levels.

    `ahead` is as in `reduce_bins`.
    Bound: one vector load, conversion and addition per line of a cell, however many bins it is in. Returns whether that
    is less work than to sum the cells of each bin; otherwise it does nothing.
    """
    size, levels, area = accumulator_bytes(t), load_i64(desc, LEVELS), (y1 - y0) * (x1 - x0)
    if levels == 1 or y0 >= y1 or x0 >= x1:
        return False
    y_cuts, x_cuts = more, more + 16 * load_i64(desc, LINES) + 16
    y_strips = x_cuts + 16 * load_i64(desc, LINES) + 16
    x_strips = y_strips + 8 * (y1 - y0 + 1)
    patches = x_strips + 8 * (x1 - x0 + 1)
    tall = list_strips(desc, y_cuts, y_strips, y_edges, ROWS, Y_EDGES, y0, y1)
    wide = list_strips(desc, x_cuts, x_strips, x_edges, COLUMNS, X_EDGES, x0, x1)
    if not is_worth_patches(tall * wide, levels, area):
        return False
    for i in range(tall):
        top, bottom = load_i64(y_cuts, i), load_i64(y_cuts, i + 1)
        for j in range(wide):
            left, right = load_i64(x_cuts, j), load_i64(x_cuts, j + 1)
            if lies_outside(box, top, bottom, left, right, t):
                continue
            patch = begin_some(start(t), t)
            for y in range(top, bottom):
                for x in range(left, right):
                    cell = cells + y * step + x * across
                    if ahead:
                        fetch_cell(cell + ahead, t)
                    patch = add_some_cell(patch, cell, 0, t)
            store_patch(patches + (i * wide + j) * some_bytes(t), patch, t)
    for i in range(levels):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        bin_ = bins + load_i64(level, FIRST) * size
        for row in range(rows):
            low, high = load_i32(y_places, row), load_i32(y_places, rows + row)
            top, bottom = strip_of(y_strips, low, y0, y1), strip_of(y_strips, high, y0, y1)
            for column in range(columns):
                first, last = load_i32(x_places, column), load_i32(x_places, columns + column)
                left, right = strip_of(x_strips, first, x0, x1), strip_of(x_strips, last, x0, x1)
                if not lies_outside(box, low, high, first, last, t):
                    accumulator = load_accumulator(bin_, t) if held else start(t)
                    total = begin_patches(accumulator, t)
                    for y in range(top, bottom):
                        for x in range(left, right):
                            total = add_patch(total, patches + (y * wide + x) * some_bytes(t), t)
                    store_accumulator(bin_, end_patches(accumulator, total, t), t)
                bin_ += size
    return True


def sums_raw(t):
    """Tell whether a kernel sums whole maps of which all channels of a cell lie side by side."""
    return t.way != SHARED_WAY and t.mode == "avg"


@routine(only=sums_raw)
def add_row(patches, x_cuts, wide, blocks, last, cells, across, ahead, t):
    """Add the cells of a row to the patches that it goes through: of each, some channel blocks.

    `last` is how far the last block is behind the first, and `ahead` how far what is fetched is behind the cells.
    """
    size = lane_count(t) * item_bytes(t)
    for j in range(wide):
        right = load_i64(x_cuts, j + 1)
        for x in range(load_i64(x_cuts, j), right, raw_cells(t)):
            count = min(right - x, raw_cells(t))
            for block in range(blocks):
                cell = cells + x * across + min(block * size, last)
                place = patches + (j * blocks + block) * some_bytes(t)
                patch = load_patch(place, t)
                for i in range(count):
                    prefetch_cell(cell + i * across + ahead, t)
                    patch = add_some_raw_cell(patch, cell + i * across, 0, t)
                store_patch(place, patch, t)
            for i in range(count):
                fetch_end(cells + (x + i) * across + ahead, blocks, last, t)


@routine(only=sums_raw, unroll=False)
def add_patches(desc, patches, strip, blocks, bins, bins_step, y_edges, x_edges, y_strips, x_strips, y0, y1, x0, x1, t):
    """Add the patches of a strip of rows to the bins that it lies in, of some channel blocks."""
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        for row in range(rows):
            top = strip_of(y_strips, load_i32(y_places, row), y0, y1)
            bottom = strip_of(y_strips, load_i32(y_places, rows + row), y0, y1)
            for column in range(columns if top <= strip < bottom else 0):
                left = strip_of(x_strips, load_i32(x_places, column), x0, x1)
                right = strip_of(x_strips, load_i32(x_places, columns + column), x0, x1)
                bin_ = bins + (load_i64(level, FIRST) + row * columns + column) * accumulator_bytes(t)
                for block in range(blocks):
                    accumulator = load_accumulator(bin_ + block * bins_step, t)
                    total = begin_patches(accumulator, t)
                    for x in range(left, right):
                        total = add_patch(total, patches + (x * blocks + block) * some_bytes(t), t)
                    store_accumulator(bin_ + block * bins_step, end_patches(accumulator, total, t), t)


@routine(types.int64, only=sums_raw)
def sum_raw(desc, more, at_once, blocks, bins, bins_step, y_edges, x_edges, y0, y1, map_, address, channel, last, t):
    """Sum the rows [y0, y1) of a map or window, some channel blocks at once, where they lie side by side: from patches.

    The last block of all begins at the channel `last`. Row by row, cell by cell, so that memory is read in its order.
    Returns how many blocks: none of rows too long for 32 bits; and none of patches that are too small, or of a window,
    unless they are summed `at_once`, see `sums_at_once`, and would be from patches otherwise, see `sum_patches`.
    Bound: to read the map once.
    """
    x0, x1, most = load_i32(x_edges, 0), load_i32(x_edges, 1), load_i64(desc, LINES)
    is_map, levels = load_i64(desc, STARTS_AT) == 0, load_i64(desc, LEVELS)
    may_join = at_once and levels > 1 and y0 < y1 and x0 < x1
    if x1 - x0 > SUM_CELLS or not (is_map or may_join):
        return 0
    y_cuts, x_cuts = more, more + 16 * most + 16
    y_strips = x_cuts + 16 * most + 16
    x_strips = y_strips + 8 * (y1 - y0 + 1)
    patches, part = x_strips + 8 * (x1 - x0 + 1), SUM_CELLS // max(x1 - x0, 1)
    tall = list_strips(desc, y_cuts, y_strips, y_edges, ROWS, Y_EDGES, y0, y1)
    wide = list_strips(desc, x_cuts, x_strips, x_edges, COLUMNS, X_EDGES, x0, x1)
    area, count = (y1 - y0) * (x1 - x0), tall * wide
    if not (is_map and area >= PATCH_CELLS * count) and not (may_join and is_worth_patches(count, levels, area)):
        return 0
    for block in range(blocks):
        for i in range(load_i64(desc, BINS)):
            store_accumulator(bins + block * bins_step + i * accumulator_bytes(t), start(t), t)
    cells, last = address + channel * item_bytes(t), (last - channel) * item_bytes(t)
    step, across, ahead = load_i64(map_, 4), load_i64(map_, 5), window_ahead(map_, x1 - x0, blocks, t)
    for strip in range(tall):
        bottom = load_i64(y_cuts, strip + 1)
        for top in range(load_i64(y_cuts, strip), bottom, part):
            for i in range(wide * blocks):
                store_patch(patches + i * some_bytes(t), begin_some(start(t), t), t)
            for y in range(top, min(top + part, bottom)):
                add_row(patches, x_cuts, wide, blocks, last, cells + y * step, across, ahead, t)
            place = (bins, bins_step, y_edges, x_edges, y_strips, x_strips, y0, y1, x0, x1)
            add_patches(desc, patches, strip, blocks, *place, t)
    return blocks


def shares_sums(t):
    """Tell whether a kernel sums the windows that share a tile."""
    return t.way == SHARED_WAY and t.mode == "avg"


@routine(only=shares_sums)
def lengthen(runs, tile, cells, width, length, t):
    """Make each run of `length - 1` cells of a row, summed in the order of a bin's, longer by a cell."""
    for i in range(cells):
        if i % width + length <= width:
            run = runs + i * accumulator_bytes(t)
            accumulator = load_accumulator(run, t) if length > 1 else start(t)
            store_accumulator(run, add_cell(accumulator, tile + (i + length - 1) * cell_bytes(t), 0, t), t)


@routine(types.int64, only=shares_sums)
def sum_runs(desc, tile, runs, length, longer, bins, y_edges, x_edges, map_, t):
    """Sum the bins of a window of one level from runs of cells, made `longer` where they are not yet, and single cells.

    Bound: a vector load and addition per line of a run, for each row of a bin. Returns how long the runs are.
    """
    height, width = load_i64(map_, 1), load_i64(map_, 2)
    while length < longer:
        length += 1
        lengthen(runs, tile, height * width, width, length, t)
    level = load_i64(desc, LEVELS_AT)
    rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
    bin_ = bins
    for row in range(rows):
        top, bottom = load_i32(y_places, row) * width, load_i32(y_places, rows + row) * width
        for column in range(columns):
            left, right = load_i32(x_places, column), load_i32(x_places, columns + column)
            accumulator = start(t)
            for line in range(top, bottom, width):
                run = load_accumulator(runs + (line + left) * accumulator_bytes(t), t)
                for x in range(left + length, right):
                    run = add_cell(run, tile + (line + x) * cell_bytes(t), 0, t)
                accumulator = add_sum(accumulator, run, t)
            store_accumulator(bin_, accumulator, t)
            bin_ += accumulator_bytes(t)
    return length
