"""The CPU kernels: pack channel lanes, reduce bins, write the result. No rounding rule is known here: the plan has it.

One task pools one channel block of one map: 128 bytes of channels of each cell (32 of float32) lie side by side in
a *tile*, so that a reduction over cells is a full-width vector operation, whatever the map's size and layout.
"""

from numba.core import types
from numba.types import UniTuple

from ..arrays import LINE_BYTES
from .compile import routine
from .lanes import (
    EXACT,
    ROW,
    SHUFFLE_BYTES,
    UNIT,
    accumulator_bytes,
    add_area,
    add_area_cell,
    add_bin,
    add_cell,
    add_depth,
    add_magnitude,
    add_raw_cell,
    add_rest,
    add_row,
    add_run,
    add_strip,
    area_bytes,
    begin,
    begin_row,
    cell_bytes,
    column_bytes,
    copy_byte,
    copy_cell,
    copy_item,
    copy_line,
    copy_part,
    end_row,
    end_rows,
    float_area,
    grid_of,
    has_index,
    index_group,
    is_fixed,
    is_paired,
    is_sum,
    item_bytes,
    join_digits,
    lane_count,
    larger,
    larger_magnitude,
    load_accumulator,
    load_area,
    load_f64,
    load_fixed_area,
    load_i32,
    load_i64,
    load_strip,
    may_add,
    number_cell,
    out_group,
    out_item_bytes,
    pair_group,
    prefetch_read,
    prefetch_write,
    reduced_bytes,
    reduction,
    result_bytes,
    row_block,
    row_lanes,
    settle,
    start,
    start_area,
    start_row,
    start_rows,
    start_run,
    store_accumulator,
    store_area,
    store_bounds,
    store_close,
    store_i64,
    store_lanes,
    store_mean,
    store_run,
    store_strip,
    stream_line,
    transpose_in,
    transpose_index,
    transpose_out,
    transpose_pairs,
    transpose_rows,
)

# Fields of the descriptor, an array of int64 that the launcher fills. *_AT are addresses, *_STEP are bytes.
(
    BASE_AT,  # what the addresses in the table of maps are relative to
    BATCH_STEP,  # from one map to the next
    MAPS_AT,  # per map: address, height, width, channel step, row step, column step
    MAPS_STEP,  # 0 where all maps lie alike
    CHANNELS,
    BLOCKS,  # channel blocks of a map
    CHUNKS,  # parts that the windows of a map are divided into
    STARTS_AT,  # per map (and one more): where its windows begin in the order; 0: each map is one window
    ROWS_AT,  # per window, ordered by map: its row in the result and in the edges
    Y_EDGES_AT,  # per row, int32: start and stop of the window, then as the table of levels says
    Y_EDGES_STEP,
    X_EDGES_AT,
    X_EDGES_STEP,
    LEVELS_AT,  # per level, finest first: see LEVEL_FIELDS
    LEVELS,
    MAY_BE_EMPTY,  # whether there are bins without cells
    OUT_AT,
    OUT_STEP,
    INDEX_AT,
    INDEX_STEP,
    STREAM,  # how a result is written that leaves the caches, see `PAST_CACHES`; 0: it stays there
    POWERS_AT,  # per row: the blocks or runs that its bins are made of, see `order`; 0: none
    SHARED,  # whether the tile holds the whole map for all windows, or parts of one window's cells
    TILE_CELLS,  # what the tile holds
    MORE_BYTES,  # between the tile and the bins: a widened tile, runs, or patches
    ROW_CELLS,  # of a window, from which on it is summed by rows; 0: none is
    ROW_MAP_CELLS,  # of a map whose windows are
    BINS,  # of all levels, and as many as transposed blocks may read past the last
    SCRATCH_AT,
    SCRATCH_STEP,
    WINDOWS_AT,  # per row, float64, for taps: start and extent along y, start and extent along x, in cells
    SAMPLING,  # samples of a bin along an axis, 0: one for each cell that it is wide; -1: the cells between edges
    WINDOWS,
    MAP_NUMBERS_AT,  # per row: its map
    TABLE_AT,  # of taps, see `taps`
    RECORDS_AT,  # per row, level and axis, and one more: where its record begins in the table
    GRAD_AT,  # gradients of the result
    GRAD_STEP,
    WHAT,  # is scattered, see `scatter`
    GROUP,  # channels of a task: channel blocks, or some of one
    LINES,  # rows of bins of all levels
    STATUS_AT,  # int64: 0, or one more than a row with an index outside its map
    BANDS,  # of rows that a map is divided into, at most
    BAND_CELLS,  # at least
    BANDS_AT,  # bins of each map, task's channels and band; 0: a task does all bands of its map
    BANDS_STEP,  # from one band to the next
    MERGE,  # whether bands are made whole now, not reduced
    AREAS,  # bytes of the table of areas that is made of the tile, for sums, and of its bounds; 0: none
    FIELDS,
) = range(49)
SHARED_WAY, ROWS_WAY, PARTS_WAY = "shared", "rows", "parts"
# A row of the table of levels: rows, columns, first bin in the result; where its row edges and its column edges are
# (starts, then stops); the finer level whose bins its bins are unions of, or -1; how many of its rows and columns.
ROWS, COLUMNS, FIRST, Y_EDGES, X_EDGES, FINER, TALL, WIDE = range(8)
LEVEL_BYTES = 64
AHEAD_BYTES = 8192  # of what is read: the processor does not foresee rows that are read side by side
SUM_CELLS = 2048  # of a part that is summed
SUM_DIGITS, AREA_DIGITS, CELL_DIGITS = 53, 62, 51  # of a sum of float64; of a sum of integers, and of one of its cells
PATCHES = 512  # of it, at most
STRIPS_BYTES = 2**22  # of a plane that is summed, at most
BLOCK_MODES = "max", "paired"  # cells may be reduced twice, and in any order
LINE_PARTS = LINE_BYTES // SHUFFLE_BYTES
EXACT_AREAS = 2**62  # of a table of areas all sums are exact
# Of `STREAM`: past the caches at once, or a line at a time beside other work; or into lines that are fetched beside it.
PAST_CACHES, BESIDE, FETCHED = 1, 2, 3
POWER = 32  # the powers of two of a block of cells, in one number


@routine()
def send_line(target, source):
    """Stream a line from where it is waiting; fetch it if that is where it will be written."""
    if target == source:
        prefetch_write(target)
    else:
        stream_line(target, source)


@routine()
def pack(tile, map_, address, channel, channels, y0, y1, x0, x1, t):
    """Copy the cells [y0, y1) x [x0, x1) of one channel block into the tile, encoded.

    Where the channels lie side by side it is a copy, also of what lies behind them, where that belongs to the row;
    where the columns do, blocks are transposed in registers, the last one of a run reaching back over the one before
    it, while the next channels are fetched, whose short runs the processor does not foresee; anything else goes item by
    item.
    """
    channel_step, row_step, column_step = load_i64(map_, 3), load_i64(map_, 4), load_i64(map_, 5)
    lanes, item, cell = lane_count(t), item_bytes(t), cell_bytes(t)
    address += y0 * row_step + x0 * column_step + channel * channel_step
    valid = min(lanes, channels - channel)
    height, width = max(y1 - y0, 0), max(x1 - x0, 0)
    block, group = transpose_rows(t) // 2, transpose_rows(t)
    if column_step == item and row_step == width * item:
        height, width = 1, height * width
    transposable = column_step == item and width >= block
    copied = 0
    if channel_step == item and not transposable and (valid == lanes or column_step > 0):
        copied = width - -(-(lanes - valid) * item // max(column_step, 1))
    for y in range(height):
        source = address + y * row_step
        target = tile + y * width * cell
        for x in range(copied):
            copy_cell(target + x * cell, source + x * column_step, t)
        if transposable:
            for lane in range(0, lanes, group):
                first = min(lane, valid - 1)
                last = min(valid - 1 - first, group - 1)
                from_ = source + first * channel_step
                for x in range(0, width, block):
                    for row in range(x // block % LINE_PARTS, group, LINE_PARTS):
                        prefetch_read(source + (lane + group + row) * channel_step + x * item)
                    x = min(x, width - block)
                    place = target + x * cell + lane * (cell // lanes)
                    transpose_in(place, cell, from_ + x * item, channel_step, last, t)
        else:
            for x in range(max(copied, 0), width):
                for lane in range(valid):
                    from_ = source + x * column_step + lane * channel_step
                    copy_item(target + x * cell + lane * item, from_, t)
                copy_cell(target + x * cell, target + x * cell, t)


@routine(only=lambda t: t.mode == "paired")
def number_cells(tile, count, t):
    """Make the keys of a tile pairs with the indices of their cells."""
    for i in range(count):
        number_cell(tile + i * cell_bytes(t), i, t)


@routine(only=lambda t: t.way == SHARED_WAY)
def pack_whole(desc, tile, map_, address, channel, t):
    """Copy a channel block of a whole map into the tile."""
    pack(tile, map_, address, channel, load_i64(desc, CHANNELS), 0, load_i64(map_, 1), 0, load_i64(map_, 2), t)
    number_cells(tile, load_i64(map_, 1) * load_i64(map_, 2), t)


@routine()
def reduce_bins(desc, cells, step, across, bins, y_edges, x_edges, map_width, held, y0, y1, x0, x1, t):
    """Reduce the bins of a window over the cells [y0, y1) x [x0, x1), on top of what is held of them.

    `cells` is where the map's first cell would lie; `step` is from row to row, `across` from column to column.
    Bound: one vector load and one vector operation per line of a cell, for each bin that it is in.
    """
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        if load_i64(level, FINER) >= 0:
            continue
        rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
        y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            top = max(load_i32(y_places, row), y0)
            bottom = min(load_i32(y_places, rows + row), y1)
            for column in range(columns):
                left = max(load_i32(x_places, column), x0)
                right = min(load_i32(x_places, columns + column), x1)
                accumulator = load_accumulator(bin_, t) if held else start(t)
                if top < bottom and left < right:
                    accumulator = begin(accumulator, top * map_width + left, t)
                for y in range(top, bottom):
                    line = begin_row(accumulator, t)
                    for x in range(left, right):
                        cell = cells + y * step + x * across
                        line = add_cell(line, cell, y * map_width + x, t)
                    accumulator = end_row(accumulator, line, t)
                store_accumulator(bin_, accumulator, t)
                bin_ += accumulator_bytes(t)


@routine(only=lambda t: t.way == PARTS_WAY and t.mode != "avg")
def reduce_raw(desc, blocks, bins, bins_step, y_edges, x_edges, y0, y1, map_, address, channel, t):
    """Reduce the rows [y0, y1) of a window, some channel blocks at once, from a map whose channels lie side by side.

    Row by row, so that memory is read in its order; the blocks of a cell share its page.
    Bound: to read the map once for each level that is not joined from another.
    """
    map_width, step, across = load_i64(map_, 2), load_i64(map_, 4), load_i64(map_, 5)
    cells = address + channel * item_bytes(t)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        if load_i64(level, FINER) >= 0:
            continue
        rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
        y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
        first = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            top, bottom = max(load_i32(y_places, row), y0), min(load_i32(y_places, rows + row), y1)
            for y in range(min(top, bottom - 1), bottom):
                for column in range(columns):
                    left = load_i32(x_places, column)
                    right = load_i32(x_places, columns + column) if y >= top else left
                    place = first + (row * columns + column) * accumulator_bytes(t)
                    ahead = (right - left) * across  # the next bin's cells
                    if blocks * (right - left) * cell_bytes(t) > 2 * AHEAD_BYTES:
                        ahead = AHEAD_BYTES
                    for block in range(blocks):
                        bin_, from_ = place + block * bins_step, cells + y * step + block * cell_bytes(t)
                        accumulator = load_accumulator(bin_, t) if y > top else start(t)
                        if y == top and left < right:
                            accumulator = begin(accumulator, top * map_width + left, t)
                        for x in range(left, right):
                            prefetch_read(from_ + x * across + ahead)
                            prefetch_read(from_ + x * across + ahead + LINE_BYTES)
                            accumulator = add_raw_cell(accumulator, from_ + x * across, y * map_width + x, t)
                        store_accumulator(bin_, accumulator, t)


@routine(types.int64)
def count_cells(y_edges, x_edges):
    """Count the cells of a window."""
    return (load_i32(y_edges, 1) - load_i32(y_edges, 0)) * (load_i32(x_edges, 1) - load_i32(x_edges, 0))


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
def strip_of(strips, edges, i, low, high):
    """Find the strip that begins at an edge."""
    return load_i64(strips, min(max(load_i32(edges, i), low), high) - low)


@routine(types.boolean, only=lambda t: t.mode == "avg")
def sum_patches(desc, cells, step, across, more, bins, y_edges, x_edges, held, y0, y1, x0, x1, t):
    """Sum the bins of a window over a part of its cells from patches, cells in the same bins of all levels.

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
    if tall * wide > PATCHES or tall * wide * levels > area * (levels - 1):
        return False
    for i in range(tall):
        for j in range(wide):
            accumulator = start(t)
            for y in range(load_i64(y_cuts, i), load_i64(y_cuts, i + 1)):
                for x in range(load_i64(x_cuts, j), load_i64(x_cuts, j + 1)):
                    accumulator = add_cell(accumulator, cells + y * step + x * across, 0, t)
            store_accumulator(patches + (i * wide + j) * size, accumulator, t)
    for i in range(levels):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
        y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
        bin_ = bins + load_i64(level, FIRST) * size
        for row in range(rows):
            top, bottom = strip_of(y_strips, y_places, row, y0, y1), strip_of(y_strips, y_places, rows + row, y0, y1)
            for column in range(columns):
                left = strip_of(x_strips, x_places, column, x0, x1)
                right = strip_of(x_strips, x_places, columns + column, x0, x1)
                accumulator = load_accumulator(bin_, t) if held else start(t)
                for y in range(top, bottom):
                    for x in range(left, right):
                        accumulator = add_bin(accumulator, patches + (y * wide + x) * size, t)
                store_accumulator(bin_, accumulator, t)
                bin_ += size
    return True


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
    rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
    y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
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
        reduce_bins(desc, tile, step, across, bins, y_edges, x_edges, width, False, 0, height, 0, width, t)
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
    rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
    y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
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
                accumulator = end_row(accumulator, run, t)
            store_accumulator(bin_, accumulator, t)
            bin_ += accumulator_bytes(t)
    return length


@routine(types.int64, only=lambda t: t.fixed)
def rate_areas(areas, bounds, height, width, digits, valid, t):
    """Tell what a table of integers is worth, see `sum_areas`; where all sums are exact, it becomes one of float64."""
    size, exact, whole = accumulator_bytes(t), 1.0 * height * width, True
    for lane in range(min(valid, lane_count(t))):
        most, row = load_f64(bounds + EXACT * size, lane), load_f64(bounds + ROW * size, lane)
        largest = load_f64(bounds + UNIT * size, lane) * (1 << digits)
        whole = whole and height * row <= most
        exact = min(exact, most / largest)
    if not whole:
        return int(exact) + 1
    for i in range((height + 1) * (width + 1)):
        float_area(areas + i * area_bytes(t), bounds, t)
    return EXACT_AREAS


@routine(types.int64, only=shares_sums)
def sum_areas(desc, tile, areas, map_, channel, t):
    """Sum the cells above and to the left of each corner of a cell, a summed-area table (Crow 1984); tell its worth.

    A sum is exact, in whatever order it is added up, if cells are multiples of a unit, a power of two, and their
    magnitudes add up to no more than 2**53 of it: `EXACT_AREAS` if it is so for all of a channel. Of float32 the table
    is one of 64-bit integers, which hold more digits; cells are rounded to the last of them, and bounds of the error
    lie behind it: it is worth as many cells as a bin must have for its sum not to be exact. Otherwise it is worth 0.
    Bound: a vector load, two additions and a store per line of a sum, and a dozen operations to see what it is worth.
    """
    height, width, size = load_i64(map_, 1), load_i64(map_, 2), area_bytes(t)
    valid, step, bits = load_i64(desc, CHANNELS) - channel, (width + 1) * size, 0
    while height * width >> bits:
        bits += 1
    largest, longest, total, depth, rest, joined = start(t), start(t), start(t), start(t), start(t), start(t)
    for y in range(height):
        row = start(t) if is_fixed(t) else total
        for x in range(width):
            cell = tile + (y * width + x) * cell_bytes(t)
            row, largest = add_magnitude(row, cell, t), larger_magnitude(largest, cell, t)
        total, longest = row, larger(longest, row, t)
    digits = min(AREA_DIGITS - bits, CELL_DIGITS) if is_fixed(t) else SUM_DIGITS
    grid = grid_of(largest if is_fixed(t) else total, digits, t)
    for x in range(width + 1):
        store_area(areas + x * size, start_area(t), t)
    for y in range(height):
        above, sums = areas + y * step, start_area(t)
        store_area(above + step, sums, t)
        for x in range(width):
            cell = tile + (y * width + x) * cell_bytes(t)
            rest, depth = add_rest(rest, cell, grid, t), add_depth(depth, cell, grid, t)
            sums, joined = add_area_cell(sums, cell, grid, t), join_digits(joined, cell, grid, t)
            above += size
            store_area(above + step, add_area(sums, above, t), t)
        if not may_add(rest, valid, t):
            return 0
    bounds = areas + (height + 1) * step
    store_bounds(bounds, grid, longest, depth, rest, joined, valid, t)
    return rate_areas(areas, bounds, height, width, digits, valid, t) if is_fixed(t) else EXACT_AREAS


@routine(types.int64)
def longest_strip(cuts, count):
    """Find the length of the longest strip."""
    longest = 0
    for i in range(count):
        longest = max(longest, load_i64(cuts, i + 1) - load_i64(cuts, i))
    return longest


@routine(types.int64, only=lambda t: t.fixed)
def count_joins(desc, more, y_edges, x_edges, t):
    """Count the additions that a cell passes, at most, in its patch and when patches are joined, see `sum_patches`."""
    y0, y1, x0, x1 = load_i32(y_edges, 0), load_i32(y_edges, 1), load_i32(x_edges, 0), load_i32(x_edges, 1)
    height, width = y1 - y0, x1 - x0
    if load_i64(desc, LEVELS) == 1 or height < 1 or width < 1:
        return 0
    if height + width > SUM_CELLS:  # more than there is room for to list strips
        return height * width
    cuts = more
    strips = cuts + 16 * load_i64(desc, LINES) + 16
    tall = list_strips(desc, cuts, strips, y_edges, ROWS, Y_EDGES, y0, y1)
    tallest = longest_strip(cuts, tall)
    wide = list_strips(desc, cuts, strips, x_edges, COLUMNS, X_EDGES, x0, x1)
    parts = -(-height // (SUM_CELLS // width))
    return tallest * longest_strip(cuts, wide) + (tall + parts) * wide


@routine(types.boolean, only=shares_sums)
def subtract_areas(desc, areas, worth, bins, y_edges, x_edges, map_, waiting, beside, t):
    """Find the means of the bins of a window, of all levels, each from the four corners of its area; tell if for sure.

    Bound: four vector loads and three operations per line of a sum, however large the bin; then to make it a mean, and
    where it may not be exact twenty operations to see that it is the mean. `waiting` and `beside` as in
    `reduce_blocks`, with each bin of the finest level.
    """
    size, ahead, doubts = accumulator_bytes(t), beside - waiting, 0
    cell = area_bytes(t)
    step = (load_i64(map_, 2) + 1) * cell
    bounds = areas + (load_i64(map_, 1) + 1) * step
    joins = 0
    if count_cells(y_edges, x_edges) >= worth:
        joins = count_joins(desc, areas + load_i64(desc, AREAS), y_edges, x_edges, t)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
        y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
        bin_ = bins + load_i64(level, FIRST) * size
        for row in range(rows):
            top, bottom = load_i32(y_places, row), load_i32(y_places, rows + row)
            height, above, below = max(bottom - top, 0), areas + top * step, areas + bottom * step
            for column in range(columns):
                left, right = load_i32(x_places, column), load_i32(x_places, columns + column)
                width, corners = right - left, (above, below, left * cell, right * cell, bounds)
                if worth == EXACT_AREAS:
                    store_mean(bin_, load_area(*corners, t), height * width, t)
                elif height * width < worth:
                    store_mean(bin_, load_fixed_area(*corners, t), height * width, t)
                else:
                    total = load_fixed_area(*corners, t)
                    doubts += store_close(bin_, total, height, width, joins + height + width, bounds, t)
                bin_ += size
                if beside and i == 0:
                    send_line(waiting + ahead, waiting)
                    waiting += LINE_BYTES
    return doubts == 0


@routine()
def join_levels(desc, bins, t):
    """Reduce the levels whose bins are unions of a finer level's bins."""
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        finer = load_i64(level, FINER)
        if finer < 0:
            continue
        tall, wide = load_i64(level, TALL), load_i64(level, WIDE)
        columns = load_i64(level, COLUMNS)
        from_level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * finer
        step = accumulator_bytes(t)
        next_line = step + (columns - 1) * wide * step
        bin_ = bins + load_i64(level, FIRST) * step
        finer_bins = bins + load_i64(from_level, FIRST) * step
        for row in range(load_i64(level, ROWS)):
            for column in range(columns):
                accumulator = start(t)
                line = finer_bins + (row * tall * columns + column) * wide * step
                left, across = tall * wide, wide
                while left:
                    accumulator = add_bin(accumulator, line, t)
                    left, across = left - 1, across - 1
                    line += step if across else next_line
                    across = across if across else wide
                store_accumulator(bin_, accumulator, t)
                bin_ += step


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
def settle_bins(desc, bins, y_edges, x_edges, t):
    """Divide sums by the cells of their bins, and make the value of an empty bin 0."""
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
        y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            height = max(load_i32(y_places, rows + row) - load_i32(y_places, row), 0)
            for column in range(columns):
                width = max(load_i32(x_places, columns + column) - load_i32(x_places, column), 0)
                settle(bin_, height * width, t)
                bin_ += accumulator_bytes(t)


@routine(types.int64)
def share_of(size, line, begun):
    """Tell how many bytes are sent with a block of so many, where a bin has a `line` of them: less if begun."""
    return size * (line - LINE_BYTES) // line if begun else size


@routine(UniTuple(types.int64, 2))
def rest_of(size, begun, fetched):
    """Find where the rest of a run begins and ends that is sent with blocks, of which so many bytes are with bins.

    With bins go the first bytes of what is waiting, and the last of what is fetched, which is later.
    """
    return (0, size - begun) if fetched else (begun, size)


@routine(types.int64)
def head_of(place):
    """Count the bytes before the first whole line."""
    return -place % LINE_BYTES


@routine(types.int64)
def stream_share(beside, waiting, done, share, size):
    """Send lines of a run of `size` bytes that is waiting, from `done` on, a share of them; tell how far it is."""
    head = head_of(beside)
    stop = min(done + share, size - head)
    while done + LINE_BYTES <= stop:
        send_line(beside + head + done, waiting + head + done)
        done += LINE_BYTES
    return done


@routine()
def copy_ends(beside, waiting, size):
    """Copy what a run of `size` bytes that is waiting elsewhere has before its first whole line and behind the last."""
    if beside == 0 or beside == waiting:
        return
    head = head_of(beside)
    tail = (size - head) % LINE_BYTES
    copy_run(beside, waiting, head, False)
    copy_run(beside + size - tail, waiting + size - tail, tail, False)


@routine()
def transpose(target, source, bins, indices, waiting, beside, begun, t):
    """Transpose bins of lanes into lanes of bins.

    The last block of a lane reaches back over the one before it. Where a block has more bins than there are, it spills
    into the next lanes, which are written after it. With each block as many lines of the run that is `waiting` are sent
    to `beside`, if that is not 0, of which as many as there are bins have been if it is `begun`.
    """
    item, group = (4, index_group(t)) if indices else (out_item_bytes(t), out_group(t))
    block, line = 2 * SHUFFLE_BYTES // item, lane_count(t) * item
    step = accumulator_bytes(t)
    done, size = rest_of(bins * line, bins * LINE_BYTES * begun, waiting == beside)
    share = share_of(block * group * item, line, begun)
    for lane in range(0, lane_count(t), group):
        for first in range(0, bins, block):
            bin_ = max(min(first, bins - block), 0)
            place, from_ = target + (lane * bins + bin_) * item, source + bin_ * step + lane * item
            if indices:
                transpose_index(place, bins * item, from_, step, t)
            else:
                transpose_out(place, bins * item, from_, step, t)
            if beside:
                done = stream_share(beside, waiting, done, share, size)
    copy_ends(beside, waiting, bins * line)


@routine()
def write_one(target, source, waiting, beside, t):
    """Write a level of one bin: its lanes lie as in the result. The rest as in `transpose`."""
    size = lane_count(t) * out_item_bytes(t)
    store_lanes(target, source, t)
    if beside:
        stream_share(beside, waiting, 0, size, size)
    copy_ends(beside, waiting, size)


@routine(only=lambda t: t.mode == "paired")
def part_pairs(target, source, bins, waiting, beside, begun, index_target, index_waiting, index_beside, t):
    """Transpose bins of lanes of pairs into lanes of bins, keys and indices; as in `transpose`."""
    item, group, block = out_item_bytes(t), pair_group(t), 2 * SHUFFLE_BYTES // 4
    line, index_line, step = lane_count(t) * item, lane_count(t) * 4, accumulator_bytes(t)
    done, size = rest_of(bins * line, bins * LINE_BYTES * begun, waiting == beside)
    index_done, index_size = 0, bins * index_line
    share, index_share = share_of(block * group * item, line, begun), block * group * 4
    for lane in range(0, lane_count(t), group):
        for first in range(0, bins, block):
            bin_ = max(min(first, bins - block), 0)
            from_, number = source + bin_ * step + lane // group * LINE_BYTES, lane * bins + bin_
            transpose_pairs(target + number * item, bins * item, index_target + number * 4, bins * 4, from_, step, t)
            if beside:
                done = stream_share(beside, waiting, done, share, size)
                index_done = stream_share(index_beside, index_waiting, index_done, index_share, index_size)
    copy_ends(beside, waiting, bins * line)
    copy_ends(index_beside, index_waiting, index_size)


@routine()
def copy_run(target, source, size, stream):
    """Copy to the result, past the caches if it is to be streamed."""
    i = 0
    if stream and size >= 2 * LINE_BYTES:
        while (target + i) % SHUFFLE_BYTES:
            copy_byte(target + i, source + i)
            i += 1
        while (target + i) % LINE_BYTES:
            copy_part(target + i, source + i)
            i += SHUFFLE_BYTES
        while i <= size - LINE_BYTES:
            stream_line(target + i, source + i)
            i += LINE_BYTES
    while i <= size - LINE_BYTES:
        copy_line(target + i, source + i)
        i += LINE_BYTES
    while i <= size - SHUFFLE_BYTES:
        copy_part(target + i, source + i)
        i += SHUFFLE_BYTES
    while i < size:
        copy_byte(target + i, source + i)
        i += 1


@routine()
def write(target, flat, source, bins, valid, stream, t):
    """Write bins of lanes to the result, where they are one run, by way of `flat`."""
    transpose(flat, source, bins, False, 0, 0, False, t)
    copy_run(target, flat, valid * bins * out_item_bytes(t), stream)


@routine(types.int64)
def place_of(desc, level, out, channel, item):
    """Find the run of a level and a channel block in a row of the result."""
    count = load_i64(level, ROWS) * load_i64(level, COLUMNS)
    return out + (load_i64(desc, CHANNELS) * load_i64(level, FIRST) + channel * count) * item


@routine()
def prefetch_ends(desc, row, channel, t):
    """Fetch the cache lines that a window's runs share with others: the rest of a streamed result is not fetched."""
    valid = min(lane_count(t), load_i64(desc, CHANNELS) - channel)
    out = load_i64(desc, OUT_AT) + row * load_i64(desc, OUT_STEP)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        count = load_i64(level, ROWS) * load_i64(level, COLUMNS)
        place = place_of(desc, level, out, channel, out_item_bytes(t))
        for end in (place, place + valid * count * out_item_bytes(t)):
            if end % LINE_BYTES:
                prefetch_write(end)


def may_wait(t):
    """Tell whether a kernel's windows may share a tile, and its lanes fill the lines of a result."""
    return t.way in (SHARED_WAY, "") and t.count * t.out_bits // 8 % LINE_BYTES == 0


@routine(types.boolean, only=may_wait)
def can_wait(desc, channel, t):
    """Tell whether the runs of a window wait, transposed, until there are other bins, or no more.

    Streamed at once, lines fill the processor's queue of stores, and the next bins wait until they are written.
    """
    return load_i64(desc, STREAM) == BESIDE and channel + lane_count(t) <= load_i64(desc, CHANNELS)


@routine(UniTuple(types.int64, 2), only=may_wait)
def lines_beside(desc, row, before, waiting, channel, t):
    """Find the lines of the finest level that are sent with bins, and where they go, as whole ones: 0 if none are.

    Those of the row `before` that are waiting; or the last of the row's own, which are fetched.
    """
    level, line = load_i64(desc, LEVELS_AT), lane_count(t) * out_item_bytes(t)
    fetched = load_i64(desc, STREAM) == FETCHED
    sent = row if fetched else before
    place = place_of(desc, level, load_i64(desc, OUT_AT) + sent * load_i64(desc, OUT_STEP), channel, out_item_bytes(t))
    if fetched:
        place += load_i64(level, ROWS) * load_i64(level, COLUMNS) * (line - LINE_BYTES)
    head = head_of(place)
    none = sent < 0 or line < LINE_BYTES or (head > 0 and line < 2 * LINE_BYTES)
    return (place if fetched else waiting) + head, 0 if none else place + head


@routine(types.boolean)
def goes_straight(desc, level, channel, item, t):
    """Tell whether a run is written into the result itself: all lanes, and bins enough for a block, or one."""
    whole = min(load_i64(desc, GROUP), load_i64(desc, CHANNELS) - channel) >= lane_count(t)
    bins = load_i64(level, ROWS) * load_i64(level, COLUMNS)
    fills = bins * item >= 2 * SHUFFLE_BYTES or (bins == 1 and not has_index(t))
    return whole and fills and load_i64(desc, STREAM) in (0, FETCHED)


@routine(UniTuple(types.int64, 3))
def run_of(desc, level, out, step, row, other, flat, waiting, channel, item, t):
    """Find where a run is transposed to: into the result, or `flat`; and which run is sent beside, and where to.

    That is the run of the `other` row: none if it is -1, waiting, or where it will be written, to be fetched.
    """
    place = place_of(desc, level, out + row * step, channel, item)
    beside = place + (other - row) * step if other >= 0 else 0
    lines = beside if load_i64(desc, STREAM) == FETCHED else waiting
    return place if goes_straight(desc, level, channel, item, t) else flat, lines, beside


@routine(UniTuple(types.int64, 3), only=lambda t: t.mode in ("argmax", "paired"))
def index_run_of(desc, level, row, other, flat, waiting, channel, t):
    """Find the same of indices."""
    out, step = load_i64(desc, INDEX_AT), load_i64(desc, INDEX_STEP)
    return run_of(desc, level, out, step, row, other, flat, waiting, channel, 4, t)


@routine()
def transpose_levels(desc, bins, flat, waiting, row, other, begun, channel, t):
    """Transpose the bins of all levels of a row: keys and, behind them, indices. For the rest see `run_of`.

    All of them before one is copied: what is stored waits, in order, for the streamed lines before it.
    """
    levels, item = load_i64(desc, LEVELS_AT), out_item_bytes(t)
    out, step = load_i64(desc, OUT_AT), load_i64(desc, OUT_STEP)
    behind = load_i64(desc, BINS) * lane_count(t) * item
    for level in range(levels, levels + load_i64(desc, LEVELS) * LEVEL_BYTES, LEVEL_BYTES):
        count = load_i64(level, ROWS) * load_i64(level, COLUMNS)
        source, is_begun = bins + load_i64(level, FIRST) * accumulator_bytes(t), begun and level == levels
        target, lines, beside = run_of(desc, level, out, step, row, other, flat, waiting, channel, item, t)
        index_flat, index_waiting = flat + behind, waiting + behind
        index_run = index_run_of(desc, level, row, other, index_flat, index_waiting, channel, t)
        if is_paired(t):
            part_pairs(target, source, count, lines, beside, is_begun, *index_run, t)
        elif count == 1:
            write_one(target, source, lines, beside, t)
        else:
            transpose(target, source, count, False, lines, beside, is_begun, t)
        if has_index(t) and not is_paired(t):
            index_target, index_lines, index_beside = index_run
            transpose(index_target, source + reduced_bytes(t), count, True, index_lines, index_beside, False, t)
        flat += count * lane_count(t) * item
        waiting += count * lane_count(t) * item
        behind += count * lane_count(t) * (4 - item)


@routine()
def copy_levels(desc, out, flat, channel, item, t):
    """Copy those transposed bins of all levels, one channel block, that are not in the result yet to a row of it."""
    channels, levels = load_i64(desc, CHANNELS), load_i64(desc, LEVELS_AT)
    valid, stream = min(load_i64(desc, GROUP), lane_count(t), channels - channel), load_i64(desc, STREAM)
    for level in range(levels, levels + load_i64(desc, LEVELS) * LEVEL_BYTES, LEVEL_BYTES):
        count = load_i64(level, ROWS) * load_i64(level, COLUMNS)
        if not goes_straight(desc, level, channel, item, t):
            place = place_of(desc, level, out, channel, item)
            copy_run(place, flat, valid * count * item, stream in (PAST_CACHES, BESIDE))
        flat += count * lane_count(t) * item


@routine()
def copy_window(desc, row, flat, channel, t):
    """Copy the transposed bins of a window, one channel block, to its row of the result, and their indices."""
    out = load_i64(desc, OUT_AT) + row * load_i64(desc, OUT_STEP)
    copy_levels(desc, out, flat, channel, out_item_bytes(t), t)
    if has_index(t):
        index_out = load_i64(desc, INDEX_AT) + row * load_i64(desc, INDEX_STEP)
        behind = load_i64(desc, BINS) * lane_count(t) * out_item_bytes(t)
        copy_levels(desc, index_out, flat + behind, channel, 4, t)


@routine()
def finish_bins(desc, bins, y_edges, x_edges, settled, t):
    """Join the levels of a window, and settle their bins, unless they are."""
    join_levels(desc, bins, t)
    if not settled and (is_sum(t) or (load_i64(desc, MAY_BE_EMPTY) and has_empty_bins(desc, y_edges, x_edges))):
        settle_bins(desc, bins, y_edges, x_edges, t)


@routine()
def reduce_parts(desc, tile, more, bins, y_edges, x_edges, y0, y1, map_, address, channel, t):
    """Reduce the rows [y0, y1) of a window part by part, each as large as a tile in a near cache: all is packed once.

    Sums do without where the lanes lie side by side in the map; they take the same parts, and with them the same order,
    there and where the tile holds the whole map.
    """
    x0, x1 = load_i32(x_edges, 0), load_i32(x_edges, 1)
    channels, map_width, shared = load_i64(desc, CHANNELS), load_i64(map_, 2), load_i64(desc, SHARED)
    as_it_is = is_sum(t) and cell_bytes(t) == lane_count(t) * item_bytes(t)  # what a tile would hold
    raw = as_it_is and not shared and load_i64(map_, 3) == item_bytes(t) and channel + lane_count(t) <= channels
    capacity = SUM_CELLS if is_sum(t) else load_i64(desc, TILE_CELLS)
    wide = max(min(x1 - x0, capacity), 1)
    tall = capacity // wide
    cells, step, across = tile, map_width * cell_bytes(t), cell_bytes(t)
    if raw:
        cells, step, across = address + channel * item_bytes(t), load_i64(map_, 4), load_i64(map_, 5)
    top = y0
    while top == y0 or top < y1:
        bottom, left = min(top + tall, y1), x0
        while left == x0 or left < x1:
            right = min(left + wide, x1)
            if not shared and not raw:
                pack(tile, map_, address, channel, channels, top, bottom, left, right, t)
                step = (right - left) * across
                cells = tile - top * step - left * across
            held = top > y0 or left > x0
            place = (held, top, bottom, left, right)
            if not sum_patches(desc, cells, step, across, more, bins, y_edges, x_edges, *place, t):
                reduce_bins(desc, cells, step, across, bins, y_edges, x_edges, map_width, *place, t)
            left += wide
        top += tall


@routine(types.int64, only=shares_sums)
def sum_shared(desc, tile, more, areas, length, longer, bins, y_edges, x_edges, map_, channel, t):
    """Sum a window from the tile of the whole map: from runs, or part by part; return how long the runs are.

    Where there is a table of areas, there are no runs: they would be in its place.
    """
    if longer > 0 and not areas:
        return sum_runs(desc, tile, more, length, longer, bins, y_edges, x_edges, map_, t)
    y0, y1 = load_i32(y_edges, 0), load_i32(y_edges, 1)
    reduce_parts(desc, tile, more + load_i64(desc, AREAS), bins, y_edges, x_edges, y0, y1, map_, 0, channel, t)
    return length


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


@routine()
def pool_columns(strip, bin_, x_places, columns, filled, x0, cell, lane, map_width, t):
    """Reduce a strip, which begins at column `x0`, to a row of bins: to one of their lanes, or all channels to all."""
    lanes = row_lanes(t)
    capacity = map_width * cell + lanes
    for column in range(columns):
        left = load_i32(x_places, column)
        right = load_i32(x_places, columns + column) if filled else left
        if cell > 1:
            accumulator = start(t)
            for x in range(left - x0, right - x0):
                accumulator = add_bin(accumulator, strip + x * cell * column_bytes(t), t)
            store_accumulator(bin_, accumulator, t)
        else:
            run = start_run(t)
            for x in range(left, right, lanes):
                run = add_run(run, load_strip(strip, x - x0, capacity, t), right - x, x, map_width, t)
            store_run(bin_, run, lane, t)
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
        rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
        y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            top, bottom = max(load_i32(y_places, row), y0), min(load_i32(y_places, rows + row), y1)
            reduce_rows(strip, capacity, plane, row_step, top, bottom, width, limit, t)
            pool_columns(strip, bin_, x_places, columns, top < bottom, x0, cell, lane, map_width, t)
            bin_ += columns * accumulator_bytes(t)


@routine()
def add_strips(line, strips, step, first, last, width, t):
    """Sum strips."""
    for x in range(0, width, row_lanes(t)):
        columns = start_run(t)
        for strip in range(first, last):
            columns = add_strip(columns, strips + strip * step, x, t)
        store_strip(line, x, 0, columns, t)


@routine(only=lambda t: t.mode == "avg")
def sum_plane(desc, scratch, bins, y_edges, x_edges, y0, y1, plane, row_step, x0, cell, lane, map_width, t):
    """Sum rows of a plane: those in the same bins to a strip, strips to a line for each row of bins, those to bins."""
    limit, width = (map_width - x0) * cell, (load_i32(x_edges, 1) - x0) * cell
    step = (map_width * cell + row_lanes(t)) * column_bytes(t)
    cuts, numbers = scratch, scratch + 16 * load_i64(desc, LINES) + 16
    line = numbers + 8 * (y1 - y0 + 1)
    strips = line + step
    if lane == 0:
        list_strips(desc, cuts, numbers, y_edges, ROWS, Y_EDGES, y0, y1)
    for strip in range(load_i64(numbers, y1 - y0)):
        top, bottom = load_i64(cuts, strip), load_i64(cuts, strip + 1)
        reduce_rows(strips + strip * step, 0, plane, row_step, top, bottom, width, limit, t)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
        y_places, x_places = y_edges + 4 * load_i64(level, Y_EDGES), x_edges + 4 * load_i64(level, X_EDGES)
        bin_ = bins + load_i64(level, FIRST) * accumulator_bytes(t)
        for row in range(rows):
            first, last = strip_of(numbers, y_places, row, y0, y1), strip_of(numbers, y_places, rows + row, y0, y1)
            if first < last:
                add_strips(line, strips, step, first, last, width, t)
            pool_columns(line, bin_, x_places, columns, first < last, x0, cell, lane, map_width, t)
            bin_ += columns * accumulator_bytes(t)


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
    row, strips = load_i64(map_, 2) * column_step // item, 2 * load_i64(desc, LINES) + 2
    size = strips * row * column_bytes(t) + 8 * (load_i32(y_edges, 1) - load_i32(y_edges, 0))
    return row >= row_lanes(t) and size <= STRIPS_BYTES


@routine(only=lambda t: t.way == PARTS_WAY or t.mode == "avg")
def reduce_apart(desc, tile, more, bins, bins_step, y_edges, x_edges, y0, y1, map_, address, channel, blocks, t):
    """Reduce the rows [y0, y1) of a window that shares no tile: some channel blocks."""
    channels, raw = load_i64(desc, CHANNELS), 0
    if not is_sum(t) and load_i64(map_, 3) == item_bytes(t):
        raw = min(blocks, (channels - channel) // lane_count(t))
        reduce_raw(desc, raw, bins, bins_step, y_edges, x_edges, y0, y1, map_, address, channel, t)
    for i in range(raw, blocks):
        first = channel + i * lane_count(t)
        reduce_parts(desc, tile, more, bins + i * bins_step, y_edges, x_edges, y0, y1, map_, address, first, t)


@routine(types.int64)
def count_bands(desc, map_):
    """Count the bands of rows that a map is divided into: by its cells, so that no other map decides a sum's order."""
    return max(min(load_i64(map_, 1) * load_i64(map_, 2) // load_i64(desc, BAND_CELLS), load_i64(desc, BANDS)), 1)


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


@routine(types.int64)
def row_at(desc, i):
    """Find the row of the window that is the i-th in the order."""
    return load_i64(load_i64(desc, ROWS_AT), i) if load_i64(desc, STARTS_AT) else i


@routine(types.int64)
def other_row(desc, i, last, before):
    """Find the row whose runs are sent beside the i-th window: the next, fetched, or the one before; -1: none."""
    return row_at(desc, i + 1) if load_i64(desc, STREAM) == FETCHED and i + 1 < last else before


@routine()
def run_task(desc, task, worker, t):
    """Pool a chunk of the windows of one map, or a band of it, some channels: channel blocks or, by rows, fewer."""
    chunks, groups = load_i64(desc, CHUNKS), load_i64(desc, BLOCKS)
    chunk, group, number = task % chunks, task // chunks % groups, task // chunks // groups
    map_ = load_i64(desc, MAPS_AT) + number * load_i64(desc, MAPS_STEP)
    address = load_i64(desc, BASE_AT) + number * load_i64(desc, BATCH_STEP) + load_i64(map_, 0)
    first, last = number, number + 1
    ordered, powers = load_i64(desc, STARTS_AT), load_i64(desc, POWERS_AT)
    if ordered:
        starts = load_i64(ordered, number)
        count = load_i64(ordered, number + 1) - starts
        first, last = starts + count * chunk // chunks, starts + count * (chunk + 1) // chunks
    channel, channels, lanes = group * load_i64(desc, GROUP), load_i64(desc, CHANNELS), lane_count(t)
    blocks = -(-min(load_i64(desc, GROUP), channels - channel) // lanes)
    tile = load_i64(desc, SCRATCH_AT) + worker * load_i64(desc, SCRATCH_STEP)
    more = tile + load_i64(desc, TILE_CELLS) * cell_bytes(t)
    bins, step = more + load_i64(desc, MORE_BYTES), load_i64(desc, BINS) * accumulator_bytes(t)
    flat, into = bins + blocks * step * min(load_i64(desc, BANDS), 2), bins
    shared, merge = load_i64(desc, SHARED), load_i64(desc, MERGE)
    bands, partial, bands_step = count_bands(desc, map_), load_i64(desc, BANDS_AT), load_i64(desc, BANDS_STEP)
    first_band, last_band = 0, bands
    if partial:
        partial += (number * groups + group) * load_i64(desc, BANDS) * bands_step
        into = bins if merge else partial + chunk * bands_step
        last = last if chunk < bands else first
        first_band, last_band = chunk, chunk + 1
    if shared and first < last:
        pack_whole(desc, tile, map_, address, channel, t)
    areas, again, pooled = 0, 0, 0
    if load_i64(desc, AREAS) and first < last:
        areas = sum_areas(desc, tile, more, map_, channel, t)
    waits, state, before = can_wait(desc, channel, t), 0, -1
    waiting = flat + load_i64(desc, BINS) * result_bytes(t)
    for i in range(first, last):
        row = row_at(desc, i)
        y_edges = load_i64(desc, Y_EDGES_AT) + row * load_i64(desc, Y_EDGES_STEP)
        x_edges = load_i64(desc, X_EDGES_AT) + row * load_i64(desc, X_EDGES_STEP)
        for block in range(blocks if load_i64(desc, STREAM) and into == bins else 0):
            prefetch_ends(desc, row, channel + block * lanes, t)
        lines, beside = lines_beside(desc, row, before, waiting, channel, t)
        power = load_i64(powers, row) if powers else -1
        settled = areas > 0 if is_sum(t) else power >= 0
        begun = beside > 0 and settled
        if shared and is_sum(t):
            place = (bins, y_edges, x_edges, map_)
            if settled:
                settled = subtract_areas(desc, more, areas, *place, lines, beside, t)
            cells = count_cells(y_edges, x_edges)
            if not settled:
                state = sum_shared(desc, tile, more, areas, state, power, *place, channel, t)
                again += cells if areas else 0
            pooled += cells
            areas = areas if again < SUM_CELLS + pooled // 4 * 3 else 0
        elif shared:
            state = reduce_shared(desc, tile, more, state, bins, y_edges, x_edges, map_, power, lines, beside, t)
        elif merge:
            merge_bands(bins, partial, bands_step, bands, blocks * load_i64(desc, BINS), t)
        else:
            place = (y_edges, x_edges, map_, address, channel, blocks)
            reduce_bands(desc, tile, more, into, step, *place, first_band, last_band, bands, t)
        other = other_row(desc, i, last, before)
        for block in range(blocks if into == bins else 0):
            place, first_channel = bins + block * step, channel + block * lanes
            finish_bins(desc, place, y_edges, x_edges, settled, t)
            transpose_levels(desc, place, flat, waiting, row, other, begun, first_channel, t)
            if not waits:
                copy_window(desc, row, flat, first_channel, t)
        if waits:
            flat, waiting, before = waiting, flat, row
    if before >= 0:
        copy_window(desc, before, waiting, channel, t)


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
