"""Reduce by rows: where columns lie side by side in a map, or few channels do, nothing is packed."""

from numba.core import types

from ..arrays import LINE_BYTES
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
from .lanes.reduction import (
    accumulator_bytes,
    column_bytes,
    held_parts,
    is_sum,
    item_bytes,
    lane_count,
    part_bytes,
    row_block,
    row_lanes,
)
from .lanes.rows import (
    add_part,
    add_parts,
    add_run,
    count_parts,
    load_part,
    load_parts,
    mask_columns,
    no_parts,
    start_parts,
    start_run,
    store_part,
    store_parts,
    store_run,
)
from .reduce import AHEAD_BYTES
from .sums import list_strips, strip_of

STRIPS_BYTES = 2**22  # of a plane that is summed, at most
LINES_BYTES = 2**15  # of maxima, at a time
HELD_ROWS = 128  # of 8 bits, whose sums 16 bits hold


@routine(types.int64)
def parts_in(columns, t):
    """Count the parts of a row."""
    return -(-columns // row_lanes(t))


@routine(types.int64)
def strip_bytes(columns, t):
    """Size of a strip: an even number of parts, at least two: room for as many as are reduced at once."""
    return max((parts_in(columns, t) + 1) // 2, 1) * 2 * part_bytes(t)


@routine()
def reduce_parts(parts, strip, number, plane, row_step, top, first, last, limit, t):
    """Reduce the rows [first, last) of a strip that begins at row `top`, some parts of each, which registers hold.

    The last part of a row, of which `limit` columns are there, reaches back over the one before it.
    """
    row, place = plane + first * row_step, strip + number * part_bytes(t)
    rows = load_parts(parts, place, t) if first > top else start_parts(parts, row, number, limit, top, t)
    for y in range(first, last):
        ahead = row + number * row_lanes(t) * item_bytes(t) + AHEAD_BYTES
        for i in range(0, count_parts(parts, t) * row_lanes(t) * item_bytes(t), LINE_BYTES):
            prefetch_read(ahead + i)
        rows = add_parts(rows, row, number, limit, y, t)
        row += row_step
    store_parts(place, rows, first > top, t)


@routine(unroll=False)
def reduce_short_rows(parts, strips, step, tops, bottoms, count, plane, row_step, limit, t):
    """Reduce rows that registers hold, all of a strip at once."""
    for i in range(count):
        top, bottom = load_i64(tops, i), load_i64(bottoms, i)
        if top < bottom:
            reduce_parts(parts, strips + i * step, 0, plane, row_step, top, top, bottom, limit, t)


@routine()
def reduce_long_rows(strips, step, tops, bottoms, count, plane, row_step, parts, limit, t):
    """Reduce longer rows, a few at a time, which saves loads and stores of the strips: as many as are no loop."""
    for i in range(count):
        top, bottom = load_i64(tops, i), load_i64(bottoms, i)
        rest = bottom - max(bottom - top, 0) % row_block(t)
        for first in range(top, rest, row_block(t)):
            place = (plane, row_step, top, first, first + row_block(t))
            for number in range(parts):
                reduce_parts(no_parts(1, t), strips + i * step, number, *place, limit, t)
        for number in range(parts if rest < bottom else 0):
            reduce_parts(no_parts(1, t), strips + i * step, number, plane, row_step, top, rest, bottom, limit, t)


@routine(only=lambda t: t.held_parts > 4)
def reduce_wider_rows(strips, step, tops, bottoms, count, plane, row_step, parts, limit, t):
    """Reduce rows of five to eight parts, which 32 registers of 64 bytes hold."""
    place = (strips, step, tops, bottoms, count, plane, row_step, limit)
    if parts > 6:
        reduce_short_rows(no_parts(8, t), *place, t)
    else:
        reduce_short_rows(no_parts(6, t), *place, t)


@routine()
def reduce_rows(strips, step, tops, bottoms, count, plane, row_step, width, limit, t):
    """Reduce rows of a plane to strips of `width` columns, each from its top to its bottom."""
    place, parts = (strips, step, tops, bottoms, count, plane, row_step), parts_in(width, t)
    if parts > held_parts(t) or load_i64(bottoms, count - 1) - load_i64(tops, 0) > HELD_ROWS:
        reduce_long_rows(*place, parts, limit, t)
    elif parts > 4:
        reduce_wider_rows(*place, parts, limit, t)
    elif parts > 2:
        reduce_short_rows(no_parts(4, t), *place, limit, t)
    elif parts == 2:
        reduce_short_rows(no_parts(2, t), *place, limit, t)
    else:
        reduce_short_rows(no_parts(1, t), *place, limit, t)
    for i in range(count):
        for number in range(parts if load_i64(tops, i) >= load_i64(bottoms, i) else 0):
            store_part(strips + i * step + number * part_bytes(t), start_run(t), t)


@routine(types.int64, unroll=False)
def join_strips(line, strips, step, count, width, limit, side_by_side, t):
    """Join strips to a line, unless there is only one, which is that line already; tell where it is.

    In a line of channels side by side there is no gap before the last part.
    """
    if count == 1 and not side_by_side:
        return strips
    for part in range(parts_in(width, t)):
        place, x = strips + part * part_bytes(t), part * row_lanes(t)
        columns = load_part(place, t) if count else start_run(t)
        for strip in range(1, count):
            columns = add_part(columns, place + strip * step, t)
        store_part(line + (min(x, limit - row_lanes(t)) if side_by_side else x) * column_bytes(t), columns, t)
    return line


@routine(unroll=False)
def reduce_columns(lines, bin_, x_places, rows, columns, x0, limit, lane, map_width, t):
    """Reduce lines, which begin at column `x0`, to the bins of their rows: to one of their lanes.

    The first and the last part of a bin are cut off by masks, which are the same in all rows.
    """
    lanes = row_lanes(t)
    for column in range(columns):
        left, right = load_i32(x_places, column) - x0, load_i32(x_places, columns + column) - x0
        first, last = left // lanes, max(right - 1, left) // lanes
        begin, end = min(first * lanes, limit - lanes), min(last * lanes, limit - lanes)
        low = mask_columns(left - begin, right - begin, t)
        high, every = mask_columns(last * lanes - end, right - end, t), mask_columns(0, lanes, t)
        for row in range(rows):
            line = load_i64(lines, row)
            run = add_run(start_run(t), line + first * part_bytes(t), low, x0 + begin, map_width, t)
            for part in range(first + 1, last):
                run = add_run(run, line + part * part_bytes(t), every, x0 + part * lanes, map_width, t)
            if last > first:
                run = add_run(run, line + last * part_bytes(t), high, x0 + end, map_width, t)
            store_run(bin_ + (row * columns + column) * accumulator_bytes(t), run, lane, t)


@routine()
def pool_cells(line, bin_, x_places, columns, x0, cell, t):
    """Reduce a line of all channels side by side, which begins at column `x0`, to a row of bins."""
    for column in range(columns):
        left, right = load_i32(x_places, column), load_i32(x_places, columns + column)
        accumulator = start(t)
        for x in range(left - x0, right - x0):
            accumulator = add_bin(accumulator, line + x * cell * column_bytes(t), t)
        store_accumulator(bin_, accumulator, t)
        bin_ += accumulator_bytes(t)


@routine(only=lambda t: t.mode != "avg", unroll=False)
def find_maxima(desc, scratch, bins, y_edges, x_edges, y0, y1, plane, row_step, x0, cell, lane, map_width, t):
    """Find the maxima of rows of a plane, some rows of bins at a time, for levels that are not joined from others."""
    limit, width = (map_width - x0) * cell, (load_i32(x_edges, 1) - x0) * cell
    step = strip_bytes(width, t)
    tall, most = max(LINES_BYTES // step, 1), load_i64(desc, LINES)
    tops, bottoms, lines = scratch, scratch + 8 * most, scratch + 16 * most
    strips = -(-(lines + 8 * most) // LINE_BYTES) * LINE_BYTES
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        if load_i64(level, FINER) >= 0:
            continue
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for first in range(0, rows, tall):
            count = min(tall, rows - first)
            for row in range(count):
                store_i64(tops, row, max(load_i32(y_places, first + row), y0))
                store_i64(bottoms, row, min(load_i32(y_places, rows + first + row), y1))
                store_i64(lines, row, strips + row * step)
            reduce_rows(strips, step, tops, bottoms, count, plane, row_step, width, limit, t)
            if cell > 1:
                for row in range(count):
                    line = join_strips(strips + tall * step, strips + row * step, step, 1, width, limit, True, t)
                    pool_cells(line, bin_ + row * columns * accumulator_bytes(t), x_places, columns, x0, cell, t)
            else:
                reduce_columns(lines, bin_, x_places, count, columns, x0, limit, lane, map_width, t)
            bin_ += count * columns * accumulator_bytes(t)


@routine(only=lambda t: t.mode == "avg", unroll=False)
def sum_plane(desc, scratch, bins, y_edges, x_edges, y0, y1, plane, row_step, x0, cell, lane, map_width, t):
    """Sum rows of a plane: those in the same bins to a strip, strips to a line for each row of bins, lines to bins."""
    limit, width = (map_width - x0) * cell, (load_i32(x_edges, 1) - x0) * cell
    step, most = strip_bytes(width, t), load_i64(desc, LINES)
    cuts, numbers = scratch, scratch + 16 * most + 16
    lines = numbers + 8 * (y1 - y0 + 1)
    places = -(-(lines + 8 * most) // LINE_BYTES) * LINE_BYTES
    strips = places + most * step
    if lane == 0:
        list_strips(desc, cuts, numbers, y_edges, ROWS, Y_EDGES, y0, y1)
    reduce_rows(strips, step, cuts, cuts + 8, load_i64(numbers, y1 - y0), plane, row_step, width, limit, t)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            first = strip_of(numbers, load_i32(y_places, row), y0, y1)
            count = max(strip_of(numbers, load_i32(y_places, rows + row), y0, y1) - first, 0)
            line = join_strips(places + row * step, strips + first * step, step, count, width, limit, cell > 1, t)
            store_i64(lines, row, line)
            if cell > 1:
                pool_cells(line, bin_ + row * columns * accumulator_bytes(t), x_places, columns, x0, cell, t)
        if cell == 1:
            reduce_columns(lines, bin_, x_places, rows, columns, x0, limit, lane, map_width, t)


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
    row, strips = load_i64(map_, 2) * column_step // item, 3 * load_i64(desc, LINES) + 1
    size = strips * strip_bytes(row, t) + 8 * (load_i32(y_edges, 1) - load_i32(y_edges, 0))
    return row >= row_lanes(t) and size <= STRIPS_BYTES
