"""The CPU kernels: pack channel lanes, reduce bins, write the result. No rounding rule is known here: the plan has it.

One task pools one channel block of one map: 64 bytes of channels of each cell (16 of float32) lie side by side in a
*tile*, so that a reduction over cells is a full-width vector operation, whatever the map's size and layout.
"""

from __future__ import annotations

from numba import njit
from numba.extending import overload

from .lanes import (
    LINE_BYTES,
    accumulator_bytes,
    cell_bytes,
    copy_byte,
    copy_cell,
    copy_item,
    copy_line,
    finished,
    identity,
    index_bytes,
    item_bytes,
    join,
    lane_count,
    load_accumulator,
    load_cell,
    load_i32,
    load_i64,
    load_index,
    out_item_bytes,
    reduction,
    splat_index,
    store,
    stream_line,
    take_first,
    take_larger,
    transpose_in,
    transpose_index,
    transpose_out,
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
    EDGES_AT,  # per row: for each level, starts and stops of the rows, starts and stops of the columns (int32)
    EDGES_STEP,
    LEVELS_AT,  # per level: rows, columns, first bin, place in the edges, finer level or -1, its factors
    LEVELS,
    BINS,  # of all levels
    OUT_AT,
    OUT_STEP,
    INDEX_AT,
    INDEX_STEP,
    SHARED,  # whether the tile holds the whole map for all windows, or parts of one window's cells
    TILE_CELLS,  # what the tile holds
    STREAM,  # whether the result is written past the caches
    SCRATCH_AT,
    SCRATCH_STEP,
) = range(23)
LEVEL_FIELDS = 7

_jit = njit(nogil=True, error_model="numpy")


@_jit
def _ceil_div(a, b):
    return -(-a // b)


@_jit
def pack(tile, source, channel, channels, box, t):
    """Copy the cells of `box` of one channel block into the tile, encoded.

    Where the channels lie side by side it is a copy; where the columns do, blocks are transposed in registers;
    anything else goes item by item.
    """
    address, channel_step, row_step, column_step = source
    y0, y1, x0, x1 = box
    width = x1 - x0
    cell = cell_bytes(t)
    item = item_bytes(t)
    address += y0 * row_step + x0 * column_step + channel * channel_step
    valid = min(lane_count(t), channels - channel)
    run = width
    if row_step == width * column_step:
        run *= y1 - y0
    if channel_step == item and valid == lane_count(t):
        for y in range(y1 - y0):
            for x in range(width):
                copy_cell(tile, address + y * row_step + x * column_step, t)
                tile += cell
    elif column_step == item and run >= transpose_rows(t) // 2:
        for y in range((y1 - y0) * width // run):
            _pack_run(tile, address + y * row_step, channel_step, run, valid, t)
            tile += run * cell
    else:
        for y in range(y1 - y0):
            for x in range(width):
                for i in range(valid):
                    copy_item(tile + i * item, address + y * row_step + x * column_step + i * channel_step, t)
                copy_cell(tile, tile, t)
                tile += cell


@_jit
def _pack_run(tile, address, channel_step, run, valid, t):
    """Transpose a run of cells; the last block reaches back over the one before it."""
    block = transpose_rows(t) // 2
    for i in range(_ceil_div(run, block)):
        first = min(i * block, run - block)
        source = address + first * item_bytes(t)
        target = tile + first * cell_bytes(t)
        for lane in range(0, lane_count(t), transpose_rows(t)):
            if lane + transpose_rows(t) <= valid:
                last = transpose_rows(t) - 1
                transpose_in(target, cell_bytes(t), source + lane * channel_step, channel_step, last, t)
            else:
                begin = min(lane, valid - 1)
                last = valid - 1 - begin
                transpose_in(target, cell_bytes(t), source + begin * channel_step, channel_step, last, t)
            target += transpose_rows(t) * item_bytes(t)


def reduce_cells(accumulator, index, first, rows, columns, tile_step, flat, flat_step, t):
    """Reduce a rectangle of the tile, in row-major order, on top of what the accumulator holds.

    Bound: one vector load and one vector operation per line of a cell.
    """


@overload(reduce_cells)
def _reduce_cells(accumulator, index, first, rows, columns, tile_step, flat, flat_step, t):
    def values(accumulator, index, first, rows, columns, tile_step, flat, flat_step, t):
        value = load_accumulator(accumulator, t)
        for y in range(rows):
            for x in range(columns):
                value = join(value, load_cell(first + y * tile_step + x * cell_bytes(t), t))
        store(accumulator, value)

    def pairs(accumulator, index, first, rows, columns, tile_step, flat, flat_step, t):
        best = load_accumulator(accumulator, t), load_index(index, t)
        for y in range(rows):
            for x in range(columns):
                value = load_cell(first + y * tile_step + x * cell_bytes(t), t)
                best = take_larger(value, splat_index(flat + y * flat_step + x, t), best[0], best[1])
        store(accumulator, best[0])
        store(index, best[1])

    return pairs if t.mode == "argmax" else values


def reduce_bin(accumulator, index, from_accumulator, from_index, t):
    """Reduce a bin of a finer level into one of a coarser level."""


@overload(reduce_bin)
def _reduce_bin(accumulator, index, from_accumulator, from_index, t):
    def values(accumulator, index, from_accumulator, from_index, t):
        value = join(load_accumulator(accumulator, t), load_accumulator(from_accumulator, t))
        store(accumulator, value)

    def pairs(accumulator, index, from_accumulator, from_index, t):
        value, place = load_accumulator(from_accumulator, t), load_index(from_index, t)
        best = take_first(value, place, load_accumulator(accumulator, t), load_index(index, t))
        store(accumulator, best[0])
        store(index, best[1])

    return pairs if t.mode == "argmax" else values


@_jit
def clear(accumulator, index, bins, t):
    """Set bins to where a reduction starts."""
    for i in range(bins):
        store(accumulator + i * accumulator_bytes(t), identity(t))
    for i in range(bins if index_bytes(t) else 0):
        store(index + i * index_bytes(t), splat_index(-1, t))


@_jit
def reduce_window(desc, scratch, edges, map_width, y0, y1, x0, x1, t):
    """Reduce the bins of one window over the cells [y0, y1) x [x0, x1) that the tile holds."""
    tile, accumulator, index, _ = scratch
    step = (x1 - x0) * cell_bytes(t)
    for i in range(load_i64(desc + 8 * LEVELS)):
        level = load_i64(desc + 8 * LEVELS_AT) + 8 * LEVEL_FIELDS * i
        if load_i64(level + 32) >= 0:
            continue
        rows, columns, bin_ = load_i64(level), load_i64(level + 8), load_i64(level + 16)
        starts = edges + 4 * load_i64(level + 24)
        for row in range(rows):
            top = max(load_i32(starts + 4 * row), y0)
            height = min(load_i32(starts + 4 * (rows + row)), y1) - top
            for column in range(columns):
                place = starts + 4 * (2 * rows + column)
                left = max(load_i32(place), x0)
                width = min(load_i32(place + 4 * columns), x1) - left
                if height > 0 and width > 0:
                    reduce_cells(
                        accumulator + bin_ * accumulator_bytes(t),
                        index + bin_ * index_bytes(t),
                        tile + (top - y0) * step + (left - x0) * cell_bytes(t),
                        height,
                        width,
                        step,
                        top * map_width + left,
                        map_width,
                        t,
                    )
                bin_ += 1


@_jit
def join_levels(desc, scratch, t):
    """Reduce levels whose bins are unions of a finer level's bins."""
    _, accumulator, index, _ = scratch
    for i in range(load_i64(desc + 8 * LEVELS)):
        level = load_i64(desc + 8 * LEVELS_AT) + 8 * LEVEL_FIELDS * i
        finer = load_i64(level + 32)
        if finer < 0:
            continue
        rows, columns, first = load_i64(level), load_i64(level + 8), load_i64(level + 16)
        tall, wide = load_i64(level + 40), load_i64(level + 48)
        finer_first = load_i64(load_i64(desc + 8 * LEVELS_AT) + 8 * LEVEL_FIELDS * finer + 16)
        for y in range(rows * tall):
            for x in range(columns * wide):
                bin_ = first + y // tall * columns + x // wide
                part = finer_first + y * columns * wide + x
                reduce_bin(
                    accumulator + bin_ * accumulator_bytes(t),
                    index + bin_ * index_bytes(t),
                    accumulator + part * accumulator_bytes(t),
                    index + part * index_bytes(t),
                    t,
                )


@_jit
def finish_window(desc, scratch, edges, row, channel, t):
    """Turn the accumulators into the result's dtype, in place, and write them: a level of a channel block is one run."""
    _, accumulator, index, flat = scratch
    channels = load_i64(desc + 8 * CHANNELS)
    valid = min(lane_count(t), channels - channel)
    item = out_item_bytes(t)
    step = lane_count(t) * item
    out = load_i64(desc + 8 * OUT_AT) + row * load_i64(desc + 8 * OUT_STEP)
    index_out = load_i64(desc + 8 * INDEX_AT) + row * load_i64(desc + 8 * INDEX_STEP)
    stream = load_i64(desc + 8 * STREAM)
    for i in range(load_i64(desc + 8 * LEVELS)):
        level = load_i64(desc + 8 * LEVELS_AT) + 8 * LEVEL_FIELDS * i
        rows, columns, first = load_i64(level), load_i64(level + 8), load_i64(level + 16)
        bins = rows * columns
        starts = edges + 4 * load_i64(level + 24)
        bin_ = first
        for y in range(rows):
            height = max(load_i32(starts + 4 * (rows + y)) - load_i32(starts + 4 * y), 0)
            for x in range(columns):
                place = starts + 4 * (2 * rows + x)
                width = max(load_i32(place + 4 * columns) - load_i32(place), 0)
                value = load_accumulator(accumulator + bin_ * accumulator_bytes(t), t)
                store(accumulator + bin_ * step, finished(value, height * width, t))
                bin_ += 1
        where = channels * first + channel * bins
        gather_lanes(flat, accumulator + first * step, bins, t)
        copy_out(out + where * item, flat, valid * bins * item, stream)
        if index_bytes(t):
            gather_indices(flat, index + first * index_bytes(t), bins, t)
            copy_out(index_out + where * 4, flat, valid * bins * 4, stream)


@_jit
def gather_lanes(flat, source, bins, t):
    """Transpose bins of lanes into lanes of bins.

    A block that reaches past a lane's last bin spills into the next lanes, which are written after it: that is why
    the last block of a lane comes first.
    """
    item = out_item_bytes(t)
    group = 16 // item
    blocks = _ceil_div(bins, 2 * group)
    step = lane_count(t) * item
    for lane in range(0, lane_count(t), group):
        for i in range(blocks):
            bin_ = (i if i else blocks) * 2 * group - 2 * group
            target = flat + (lane * bins + bin_) * item
            transpose_out(target, bins * item, source + bin_ * step + lane * item, step, t)


@_jit
def gather_indices(flat, source, bins, t):
    """`gather_lanes` of the indices."""
    blocks = _ceil_div(bins, 8)
    step = index_bytes(t)
    for lane in range(0, lane_count(t), 4):
        for i in range(blocks):
            bin_ = (i if i else blocks) * 8 - 8
            transpose_index(flat + (lane * bins + bin_) * 4, bins * 4, source + bin_ * step + lane * 4, step, t)


@_jit
def copy_out(target, source, size, stream):
    """Copy bytes to the result: past the caches where it is too large to stay in them."""
    end = target + size
    if stream:
        aligned = min(-(-target // LINE_BYTES) * LINE_BYTES, end)
        for _ in range(aligned - target):
            copy_byte(target, source)
            target += 1
            source += 1
        while target + LINE_BYTES <= end:
            stream_line(target, source)
            target += LINE_BYTES
            source += LINE_BYTES
    while target + LINE_BYTES <= end:
        copy_line(target, source)
        target += LINE_BYTES
        source += LINE_BYTES
    for _ in range(end - target):
        copy_byte(target, source)
        target += 1
        source += 1


@_jit
def bounds(desc, edges):
    """Smallest box of cells that holds all bins of a window."""
    y0 = x0 = 2**31
    y1 = x1 = 0
    for i in range(load_i64(desc + 8 * LEVELS)):
        level = load_i64(desc + 8 * LEVELS_AT) + 8 * LEVEL_FIELDS * i
        rows, columns = load_i64(level), load_i64(level + 8)
        starts = edges + 4 * load_i64(level + 24)
        for row in range(rows):
            y0 = min(y0, load_i32(starts + 4 * row))
            y1 = max(y1, load_i32(starts + 4 * (rows + row)))
        for column in range(columns):
            place = starts + 4 * (2 * rows + column)
            x0 = min(x0, load_i32(place))
            x1 = max(x1, load_i32(place + 4 * columns))
    return y0, y1, x0, x1


@_jit
def reduce_in_parts(desc, scratch, source, edges, channel, map_width, t):
    """Reduce a window part by part, each as large as the tile: every cell is packed once, and the tile stays small."""
    channels = load_i64(desc + 8 * CHANNELS)
    capacity = load_i64(desc + 8 * TILE_CELLS)
    y0, y1, x0, x1 = bounds(desc, edges)
    wide = max(min(x1 - x0, capacity), 1)
    tall = capacity // wide
    for top in range(y0, y1, tall):
        bottom = min(top + tall, y1)
        for left in range(x0, x1, wide):
            right = min(left + wide, x1)
            pack(scratch[0], source, channel, channels, (top, bottom, left, right), t)
            reduce_window(desc, scratch, edges, map_width, top, bottom, left, right, t)


@_jit
def run_task(desc, task, worker, t):
    """Pool a chunk of the windows of one map, one channel block."""
    chunks, blocks = load_i64(desc + 8 * CHUNKS), load_i64(desc + 8 * BLOCKS)
    chunk = task % chunks
    channel = task // chunks % blocks * lane_count(t)
    number = task // chunks // blocks
    map_ = load_i64(desc + 8 * MAPS_AT) + number * load_i64(desc + 8 * MAPS_STEP)
    height, width = load_i64(map_ + 8), load_i64(map_ + 16)
    address = load_i64(desc + 8 * BASE_AT) + number * load_i64(desc + 8 * BATCH_STEP) + load_i64(map_)
    source = (address, load_i64(map_ + 24), load_i64(map_ + 32), load_i64(map_ + 40))
    begin, end = number, number + 1
    ordered = load_i64(desc + 8 * STARTS_AT)
    if ordered:
        first = load_i64(ordered + 8 * number)
        count = load_i64(ordered + 8 * number + 8) - first
        begin, end = first + count * chunk // chunks, first + count * (chunk + 1) // chunks
    bins = load_i64(desc + 8 * BINS)
    tile = load_i64(desc + 8 * SCRATCH_AT) + worker * load_i64(desc + 8 * SCRATCH_STEP)
    accumulator = tile + load_i64(desc + 8 * TILE_CELLS) * cell_bytes(t)
    padded = bins + 32  # transposed blocks read past the last bin
    index = accumulator + padded * accumulator_bytes(t)
    scratch = (tile, accumulator, index, index + padded * index_bytes(t))
    shared = load_i64(desc + 8 * SHARED)
    if shared and begin < end:
        pack(tile, source, channel, load_i64(desc + 8 * CHANNELS), (0, height, 0, width), t)
    for i in range(begin, end):
        row = load_i64(load_i64(desc + 8 * ROWS_AT) + 8 * i) if ordered else i
        edges = load_i64(desc + 8 * EDGES_AT) + row * load_i64(desc + 8 * EDGES_STEP)
        clear(accumulator, index, bins, t)
        if shared:
            reduce_window(desc, scratch, edges, width, 0, height, 0, width, t)
        else:
            reduce_in_parts(desc, scratch, source, edges, channel, width, t)
        join_levels(desc, scratch, t)
        finish_window(desc, scratch, edges, row, channel, t)


def build(dtype, mode):
    """Make the Python function of a kernel, for `numba.cfunc`: (descriptor, task, worker)."""

    def kernel(desc, task, worker):
        run_task(desc, task, worker, reduction(dtype, mode))

    return kernel
