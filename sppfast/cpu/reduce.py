"""Reduce: bins from the cells of a tile or a map, coarser levels from finer ones; then settle what is empty."""

from numba.core import types

from ..arrays import LINE_BYTES
from .compile import routine
from .descriptor import (
    COLUMNS,
    EVERYTHING,
    FINER,
    FIRST,
    LEVEL_BYTES,
    LEVELS,
    LEVELS_AT,
    MAY_BE_EMPTY,
    POWER,
    ROWS,
    SHARED_WAY,
    STARTS_AT,
    TALL,
    WIDE,
    X_EDGES,
    Y_EDGES,
    grid_at,
    lies_outside,
)
from .lanes.accumulators import (
    add_bin,
    add_cell,
    add_some_cell,
    add_some_raw_cell,
    begin,
    begin_some,
    end_some,
    load_accumulator,
    settle,
    start,
    store_accumulator,
)
from .lanes.memory import load_i32, load_i64
from .lanes.reduction import accumulator_bytes, cell_bytes, is_sum, item_bytes, lane_count, raw_cells
from .pack import fetch_cell, fetch_end, prefetch_cell
from .write import send_line

AHEAD_BYTES = 8192  # of what is read: the processor does not foresee rows that are read side by side
NEXT_BYTES = 2**17  # of a window's row, at most, to fetch the next one meanwhile: a small part of a second-level cache
BLOCK_MODES = "max", "paired"  # cells may be reduced twice, and in any order


@routine()
def reduce_bins(desc, cells, step, across, ahead, bins, y_edges, x_edges, map_width, box, held, y0, y1, x0, x1, t):
    """Reduce the bins of a window in a box over the cells [y0, y1) x [x0, x1), on top of what is held of them.

    `cells` is where the map's first cell would lie; `step` is from row to row, `across` from column to column. What is
    `ahead` is fetched, if that is not 0.
    Bound: one vector load and one vector operation per line of a cell, for each bin that it is in.
    """
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        if load_i64(level, FINER) >= 0:
            continue
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        place = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            low, high = load_i32(y_places, row), load_i32(y_places, rows + row)
            top, bottom = max(low, y0), min(high, y1)
            for column in range(columns):
                first, last = load_i32(x_places, column), load_i32(x_places, columns + column)
                if lies_outside(box, low, high, first, last, t):
                    continue
                left, right, bin_ = max(first, x0), min(last, x1), place + column * accumulator_bytes(t)
                accumulator = load_accumulator(bin_, t) if held else start(t)
                if top < bottom and left < right:
                    accumulator = begin(accumulator, top * map_width + left, t)
                for y in range(top, bottom):
                    line = begin_some(accumulator, t)
                    for x in range(left, right):
                        cell = cells + y * step + x * across
                        if ahead:
                            fetch_cell(cell + ahead, t)
                        line = add_some_cell(line, cell, y * map_width + x, t)
                    accumulator = end_some(accumulator, line, t)
                store_accumulator(bin_, accumulator, t)
            place += columns * accumulator_bytes(t)


@routine(types.int64)
def cells_ahead(across, blocks, t):
    """Count the bytes from cells of which some channel blocks are read to those that are fetched meanwhile."""
    some = raw_cells(t) * blocks * lane_count(t) * item_bytes(t)
    return -(-AHEAD_BYTES // some) * raw_cells(t) * across


@routine(types.int64)
def window_ahead(map_, wide, blocks, t):
    """Count them for a window of `wide` columns: what lies behind its rows is not read."""
    step, across = load_i64(map_, 4), load_i64(map_, 5)
    return step if wide < load_i64(map_, 2) and wide * across <= NEXT_BYTES else cells_ahead(across, blocks, t)


@routine()
def reduce_cells(bin_, bins_step, blocks, last, across, ahead, whole, cells, count, index, t):
    """Reduce a few cells of a row into a bin, one channel block after the other; `index` is that of the first cell.

    `last` is how far the last block is behind the first, and `ahead` how far what is fetched is behind the cells: the
    `whole` of it, or all but the ends of cells, which are in a cache already where windows overlap.
    """
    size = lane_count(t) * item_bytes(t)
    for block in range(blocks):
        place, cell = bin_ + block * bins_step, cells + min(block * size, last)
        accumulator = load_accumulator(place, t)
        some = begin_some(accumulator, t)
        for i in range(count):
            prefetch_cell(cell + i * across + ahead, t)
            some = add_some_raw_cell(some, cell + i * across, index + i, t)
        store_accumulator(place, end_some(accumulator, some, t), t)
    for i in range(count if whole else 0):
        fetch_end(cells + i * across + ahead, blocks, last, t)


@routine(only=lambda t: t.way != SHARED_WAY)
def reduce_raw(desc, blocks, bins, bins_step, y_edges, x_edges, y0, y1, map_, address, channel, last, t):
    """Reduce the rows [y0, y1) of a window, some channel blocks at once, from a map whose channels lie side by side.

    The last block of all begins at the channel `last`. Row by row, cell by cell, so that memory is read in its order;
    a few cells are one piece of code, without a loop. Those of a row that are in a bin are summed first, as in
    `reduce_bins`: the order is the same.
    Bound: to read the map once for each level that is not joined from another.
    """
    map_width, step, across = load_i64(map_, 2), load_i64(map_, 4), load_i64(map_, 5)
    cells, last = address + channel * item_bytes(t), (last - channel) * item_bytes(t)
    ahead = window_ahead(map_, load_i32(x_edges, 1) - load_i32(x_edges, 0), blocks, t)
    whole = load_i64(desc, STARTS_AT) == 0
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        if load_i64(level, FINER) >= 0:
            continue
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        first = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            top, bottom = max(load_i32(y_places, row), y0), min(load_i32(y_places, rows + row), y1)
            for column in range(columns):
                left = load_i32(x_places, column)
                accumulator = start(t)
                if top < bottom and left < load_i32(x_places, columns + column):
                    accumulator = begin(accumulator, top * map_width + left, t)
                for block in range(blocks):
                    store_accumulator(first + column * accumulator_bytes(t) + block * bins_step, accumulator, t)
            for y in range(top, bottom):
                for column in range(columns):
                    left, right = load_i32(x_places, column), load_i32(x_places, columns + column)
                    run = (first + column * accumulator_bytes(t), bins_step, blocks, last, across, ahead, whole)
                    rest = left if is_sum(t) else right - max(right - left, 0) % raw_cells(t)
                    for x in range(left, rest, raw_cells(t)):
                        reduce_cells(*run, cells + y * step + x * across, raw_cells(t), y * map_width + x, t)
                    if rest < right:
                        reduce_cells(*run, cells + y * step + rest * across, right - rest, y * map_width + rest, t)
            first += columns * accumulator_bytes(t)


@routine(only=lambda t: t.mode in BLOCK_MODES)
def widen(target, source, height, width, down, right, t):
    """Make every cell the larger of itself and the cell `down` and to the `right` of it; in place too."""
    size = cell_bytes(t)
    for y in range(height):
        for x in range(width):
            cell = (y * width + x) * size
            accumulator = load_accumulator(source + cell, t)
            if y + down < height and x + right < width:
                accumulator = add_bin(accumulator, source + cell + (down * width + right) * size, t)
            store_accumulator(target + cell, accumulator, t)


@routine(only=lambda t: t.mode in BLOCK_MODES)
def reduce_blocks(desc, tile, bins, y_edges, x_edges, map_width, tall, wide, waiting, beside, t):
    """Reduce the bins of the finest level from overlapping blocks of `tall` x `wide` cells: two down, or more across.

    Bound: a vector load and operation per line of a block. With each bin a line of what is `waiting` is sent to
    `beside`, if that is not 0.
    """
    level = load_i64(desc, LEVELS_AT)
    rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
    bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
    down, across = tall * map_width * cell_bytes(t), wide * cell_bytes(t)
    ahead = beside - waiting
    for row in range(rows):
        top = tile + load_i32(y_places, row) * map_width * cell_bytes(t)
        bottom = tile + load_i32(y_places, rows + row) * map_width * cell_bytes(t) - down
        for column in range(columns):
            left = load_i32(x_places, column) * cell_bytes(t)
            right = load_i32(x_places, columns + column) * cell_bytes(t) - across
            accumulator = add_cell(start(t), top + left, 0, t)
            accumulator = add_cell(accumulator, top + right, 0, t)
            accumulator = add_cell(accumulator, bottom + left, 0, t)
            accumulator = add_cell(accumulator, bottom + right, 0, t)
            x = left + across
            while x < right:
                accumulator = add_cell(accumulator, top + x, 0, t)
                accumulator = add_cell(accumulator, bottom + x, 0, t)
                x += across
            store_accumulator(bin_, accumulator, t)
            bin_ += accumulator_bytes(t)
            if beside:
                send_line(waiting + ahead, waiting)
                waiting += LINE_BYTES


@routine(types.int64, only=lambda t: t.way == SHARED_WAY and t.mode != "avg")
def reduce_shared(desc, tile, wide_tile, state, bins, y_edges, x_edges, map_, power, waiting, beside, t):
    """Reduce a window from the tile of the whole map, and widen that as far as the window's blocks ask for.

    `state` is how far it is: windows come in rising order of their powers. `waiting` and `beside` as in
    `reduce_blocks`, where the window is reduced from blocks.
    """
    height, width = load_i64(map_, 1), load_i64(map_, 2)
    if power < 0:
        step, across = width * cell_bytes(t), cell_bytes(t)
        cells = (False, 0, height, 0, width)
        reduce_bins(desc, tile, step, across, 0, bins, y_edges, x_edges, width, EVERYTHING, *cells, t)
        return state
    tall, wide = power // POWER, power % POWER
    while state < tall * POWER:
        widen(tile, tile, height, width, 1 << (state // POWER), 0, t)
        state = (state // POWER + 1) * POWER
    while state < power:
        from_ = wide_tile if state % POWER else tile
        widen(wide_tile, from_, height, width, 0, 1 << (state % POWER), t)
        state += 1
    tile = wide_tile if wide else tile
    reduce_blocks(desc, tile, bins, y_edges, x_edges, width, 1 << tall, 1 << wide, waiting, beside, t)
    return state


@routine()
def join_bins(bin_, finer, rows, columns, tall, wide, t):
    """Reduce each bin of a level from `tall` x `wide` bins of a finer one."""
    step = accumulator_bytes(t)
    line = columns * wide * step
    for row in range(rows):
        for column in range(columns):
            first, accumulator = finer + row * tall * line + column * wide * step, start(t)
            for y in range(tall):
                for x in range(wide):
                    accumulator = add_bin(accumulator, first + y * line + x * step, t)
            store_accumulator(bin_ + (row * columns + column) * step, accumulator, t)


@routine()
def join_levels(desc, bins, t):
    """Reduce the levels whose bins are unions of a finer level's bins; those of 2 x 2 and of 3 x 3 without a loop."""
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        if load_i64(level, FINER) < 0:
            continue
        tall, wide = load_i64(level, TALL), load_i64(level, WIDE)
        finer = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * load_i64(level, FINER)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        finer_bin = bins + load_i64(finer, FIRST) * accumulator_bytes(t)
        place = (bin_, finer_bin, load_i64(level, ROWS), load_i64(level, COLUMNS))
        if tall == wide == 2:
            join_bins(*place, 2, 2, t)
        elif tall == wide == 3:
            join_bins(*place, 3, 3, t)
        else:
            join_bins(*place, tall, wide, t)


@routine(types.int64)
def count_empty(edges, bins):
    """Count the bins of a level along an axis that have no cells."""
    count = 0
    for i in range(bins):
        count += load_i32(edges, bins + i) <= load_i32(edges, i)
    return count


@routine(types.int64)
def has_empty_bins(desc, y_edges, x_edges):
    """Tell whether a window has bins without cells: joined levels have none where the finer ones have none."""
    count = 0
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        if load_i64(level, FINER) < 0:
            count += count_empty(y_edges + 4 * load_i64(level, Y_EDGES), load_i64(level, ROWS))
            count += count_empty(x_edges + 4 * load_i64(level, X_EDGES), load_i64(level, COLUMNS))
    return count


@routine()
def settle_bins(desc, bins, y_edges, x_edges, box, t):
    """Divide sums by the cells of their bins in a box, and make the value of an empty bin 0."""
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            top, bottom = load_i32(y_places, row), load_i32(y_places, rows + row)
            for column in range(columns):
                left, right = load_i32(x_places, column), load_i32(x_places, columns + column)
                if not lies_outside(box, top, bottom, left, right, t):
                    settle(bin_, max(bottom - top, 0) * max(right - left, 0), t)
                bin_ += accumulator_bytes(t)


@routine()
def finish_bins(desc, bins, y_edges, x_edges, settled, t):
    """Join the levels of a window, and settle their bins, unless they are."""
    join_levels(desc, bins, t)
    if not settled and (is_sum(t) or (load_i64(desc, MAY_BE_EMPTY) and has_empty_bins(desc, y_edges, x_edges))):
        settle_bins(desc, bins, y_edges, x_edges, EVERYTHING, t)
