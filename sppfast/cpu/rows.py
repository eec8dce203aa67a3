"""Reduce by rows: where columns lie side by side in a map, or few channels do, nothing is packed."""

from numba.core import types

from .compile import routine
from .descriptor import (
    CHANNELS,
    FINER,
    FIRST,
    GROUP,
    LEVEL_BYTES,
    LEVELS,
    LEVELS_AT,
    LINES,
    ROW_CELLS,
    ROW_MAP_CELLS,
    ROWS,
    ROWS_WAY,
    Y_EDGES,
    count_cells,
    grid_at,
)
from .lanes.accumulators import add_bin, start, store_accumulator
from .lanes.memory import load_i32, load_i64, prefetch_read, store_i64
from .lanes.reduction import accumulator_bytes, column_bytes, is_sum, item_bytes, lane_count, row_block, row_lanes
from .lanes.rows import (
    add_row,
    add_run,
    add_strip,
    end_rows,
    first_columns,
    load_strip,
    start_row,
    start_rows,
    start_run,
    store_run,
    store_strip,
)
from .reduce import AHEAD_BYTES
from .sums import list_strips, strip_of

STRIPS_BYTES = 2**22  # of a plane that is summed, at most


@routine()
def reduce_rows(strip, capacity, plane, row_step, top, bottom, width, limit, t):
    """Reduce the rows [top, bottom) of a plane to a strip of `width` columns, of which `limit` lie in the row.

    A few rows at a time, which saves loads and stores of the strip. The last part of a row reaches back over the one
    before it, and is put where its columns belong when all rows are in it: none counts twice.
    """
    lanes, item = row_lanes(t), item_bytes(t)
    for first in range(top, bottom, row_block(t)):
        last = min(first + row_block(t), bottom)
        for x in range(0, width, lanes):
            place = plane + min(x, limit - lanes) * item
            columns = load_strip(strip, x, capacity, t) if first > top else start_row(place + top * row_step, top, t)
            rows = start_rows(columns, t)
            for y in range(first, last):
                prefetch_read(place + y * row_step + AHEAD_BYTES)
                rows = add_row(rows, place + y * row_step, y, t)
            store_strip(strip, x, capacity, end_rows(columns, rows, t), t)
    part = max(width - 1, 0) // lanes * lanes
    store_strip(strip, min(part, limit - lanes), capacity, load_strip(strip, part, capacity, t), t)


@routine(only=lambda t: t.mode != "avg")
def pool_columns(strip, filled, bin_, x_places, columns, x0, lane, map_width, t):
    """Reduce a strip, which begins at column `x0`, to a row of bins: to one of their lanes."""
    lanes = row_lanes(t)
    for column in range(columns):
        left = load_i32(x_places, column)
        right = load_i32(x_places, columns + column) if filled else left
        run = start_run(t)
        for x in range(left, right, lanes):
            part = load_strip(strip, x - x0, map_width + lanes, t)
            run = add_run(run, part, right - x, x, map_width, t)
        store_run(bin_, run, lane, t)
        bin_ += accumulator_bytes(t)


@routine()
def pool_cells(strip, bin_, x_places, columns, filled, x0, cell, t):
    """Reduce a strip of all channels side by side, which begins at column `x0`, to a row of bins."""
    for column in range(columns):
        left = load_i32(x_places, column)
        right = load_i32(x_places, columns + column) if filled else left
        accumulator = start(t)
        for x in range(left - x0, right - x0):
            accumulator = add_bin(accumulator, strip + x * cell * column_bytes(t), t)
        store_accumulator(bin_, accumulator, t)
        bin_ += accumulator_bytes(t)


@routine(only=lambda t: t.mode != "avg")
def find_maxima(desc, strip, bins, y_edges, x_edges, y0, y1, plane, row_step, x0, cell, lane, map_width, t):
    """Find the maxima of rows of a plane, each row of bins by itself, for levels that are not joined from others."""
    capacity, limit = map_width * cell + row_lanes(t), (map_width - x0) * cell
    width = (load_i32(x_edges, 1) - x0) * cell
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        if load_i64(level, FINER) >= 0:
            continue
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            top, bottom = max(load_i32(y_places, row), y0), min(load_i32(y_places, rows + row), y1)
            reduce_rows(strip, capacity, plane, row_step, top, bottom, width, limit, t)
            if cell > 1:
                pool_cells(strip, bin_, x_places, columns, top < bottom, x0, cell, t)
            else:
                pool_columns(strip, top < bottom, bin_, x_places, columns, x0, lane, map_width, t)
            bin_ += columns * accumulator_bytes(t)


@routine(types.int64)
def add_strips(line, strips, step, count, width, t):
    """Sum strips to a line, unless there is only one, which is that line already; tell where it is."""
    if count == 1:
        return strips
    for x in range(0, width, row_lanes(t)):
        columns = load_strip(strips, x, 0, t) if count else start_run(t)
        for strip in range(1, count):
            columns = add_strip(columns, strips + strip * step, x, t)
        store_strip(line, x, 0, columns, t)
    return line


@routine(only=lambda t: t.mode == "avg")
def sum_columns(lines, bin_, x_places, rows, columns, x0, lane, t):
    """Sum lines, which begin at column `x0`, to the bins of their rows: to one of their lanes.

    A part of a line that reaches beyond a bin is cut off by a mask, which is the same in all rows.
    """
    lanes = row_lanes(t)
    for column in range(columns):
        left = load_i32(x_places, column) - x0
        width = max(load_i32(x_places, columns + column) - x0 - left, 0)
        last = left + width // lanes * lanes
        for row in range(rows):
            line = load_i64(lines, row)
            run = first_columns(load_strip(line, last, 0, t), width % lanes, t)
            for x in range(left, last, lanes):
                run = add_strip(run, line, x, t)
            store_run(bin_ + (row * columns + column) * accumulator_bytes(t), run, lane, t)


@routine(only=lambda t: t.mode == "avg", unroll=False)
def sum_plane(desc, scratch, bins, y_edges, x_edges, y0, y1, plane, row_step, x0, cell, lane, map_width, t):
    """Sum rows of a plane: those in the same bins to a strip, strips to a line for each row of bins, lines to bins."""
    limit, width = (map_width - x0) * cell, (load_i32(x_edges, 1) - x0) * cell
    step, most = (map_width * cell + row_lanes(t)) * column_bytes(t), load_i64(desc, LINES)
    cuts, numbers = scratch, scratch + 16 * most + 16
    lines = numbers + 8 * (y1 - y0 + 1)
    places = lines + 8 * most
    strips = places + most * step
    if lane == 0:
        list_strips(desc, cuts, numbers, y_edges, ROWS, Y_EDGES, y0, y1)
    for strip in range(load_i64(numbers, y1 - y0)):
        top, bottom = load_i64(cuts, strip), load_i64(cuts, strip + 1)
        reduce_rows(strips + strip * step, 0, plane, row_step, top, bottom, width, limit, t)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            first = strip_of(numbers, load_i32(y_places, row), y0, y1)
            last = strip_of(numbers, load_i32(y_places, rows + row), y0, y1)
            line = add_strips(places + row * step, strips + first * step, step, max(last - first, 0), width, t)
            store_i64(lines, row, line)
            if cell > 1:
                pool_cells(line, bin_ + row * columns * accumulator_bytes(t), x_places, columns, True, x0, cell, t)
        if cell == 1:
            sum_columns(lines, bin_, x_places, rows, columns, x0, lane, t)


@routine(only=lambda t: t.way == ROWS_WAY)
def reduce_by_rows(desc, scratch, bins, y_edges, x_edges, y0, y1, map_, address, channel, t):
    """Reduce the rows [y0, y1) of a window by rows, channel by channel, or all channels where they lie side by side.

    Bound: to read a row once, for maxima once for each level that is not joined from another; nothing is transposed.
    """
    map_width, channel_step = load_i64(map_, 2), load_i64(map_, 3)
    row_step, column_step = load_i64(map_, 4), load_i64(map_, 5)
    cell = column_step // item_bytes(t)
    planes = 1 if cell > 1 else min(load_i64(desc, GROUP), load_i64(desc, CHANNELS) - channel)
    x0 = min(load_i32(x_edges, 0), map_width - -(-row_lanes(t) // cell))
    for lane in range(planes):
        plane = address + (channel + lane) * channel_step + x0 * column_step
        place = (plane, row_step, x0, cell, lane, map_width)
        sum_plane(desc, scratch, bins, y_edges, x_edges, y0, y1, *place, t)
        find_maxima(desc, scratch, bins, y_edges, x_edges, y0, y1, *place, t)


@routine(types.boolean, only=lambda t: t.way == ROWS_WAY)
def goes_by_rows(desc, map_, y_edges, x_edges, t):
    """Tell whether a window and its map have cells enough for it, and rows that fill vectors and are not too long.

    The launcher has seen to that for maxima. Sums are told window by window: their order may not depend on others.
    """
    if not is_sum(t):
        return True
    channel_step, column_step, item = load_i64(map_, 3), load_i64(map_, 5), item_bytes(t)
    channels, least = load_i64(desc, CHANNELS), load_i64(desc, ROW_CELLS)
    side_by_side = channels <= lane_count(t) and channel_step == item and column_step == channels * item
    if not least or count_cells(y_edges, x_edges) < least or not (side_by_side or column_step == item):
        return False
    if load_i64(map_, 1) * load_i64(map_, 2) < load_i64(desc, ROW_MAP_CELLS):
        return False
    row, strips = load_i64(map_, 2) * column_step // item, 3 * load_i64(desc, LINES) + 2
    size = strips * row * column_bytes(t) + 8 * (load_i32(y_edges, 1) - load_i32(y_edges, 0))
    return row >= row_lanes(t) and size <= STRIPS_BYTES
