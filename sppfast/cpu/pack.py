"""Pack: the channel lanes of cells lie side by side in a tile, whatever the layout of their map."""

from numba.core import types

from ..arrays import LINE_BYTES
from .compile import routine
from .descriptor import CHANNELS, SHARED_WAY, STAGED_BYTES, staging_at
from .lanes.accumulators import number_cell
from .lanes.memory import copy_byte, copy_cell, copy_item, copy_line, copy_part, load_i64, prefetch_read
from .lanes.reduction import SHUFFLE_BYTES, cell_bytes, item_bytes, lane_count, transpose_rows
from .lanes.transposition import transpose_in

LINE_PARTS = LINE_BYTES // SHUFFLE_BYTES
NEAR_WAYS = 8  # lines that the first-level cache keeps of those whose addresses differ by a multiple of its period
NEAR_PERIOD = 4096
FAR_BYTES = 2**20  # of cells that are copied, from which on they are fetched: a common second-level cache
AHEAD_CELLS = 64


@routine(types.boolean)
def crowds(channel_step, t):
    """Tell whether the rows of channels that are transposed together push each other out of the first-level cache."""
    group = transpose_rows(t)
    return group > NEAR_WAYS and channel_step % (2 * NEAR_WAYS * NEAR_PERIOD // group) == 0


@routine()
def copy_bytes(target, source, size, behind):
    """Copy so many bytes; of less than a part also what lies `behind` them, if that may be read and written."""
    i = 0
    while i <= size - LINE_BYTES:
        copy_line(target + i, source + i)
        i += LINE_BYTES
    while i < size and (size >= SHUFFLE_BYTES or behind):
        i = max(min(i, size - SHUFFLE_BYTES), 0)
        copy_part(target + i, source + i)
        i += SHUFFLE_BYTES
    while i < size:
        copy_byte(target + i, source + i)
        i += 1


@routine()
def stage_rows(target, source, row_step, rows, size, ahead):
    """Copy rows of a channel to where they lie one behind the other, and fetch what is `ahead`, if that is not 0.

    Each but the last may be read further than it goes: the next one, which is copied over that, lies behind it.
    """
    for i in range(rows):
        copy_bytes(target + i * size, source + i * row_step, size, i < rows - 1 and row_step >= SHUFFLE_BYTES)
    for i in range(0, size if ahead else 0, LINE_BYTES):
        prefetch_read(source + ahead + i)


@routine()
def pack_staged(staging, tile, address, channel_step, row_step, height, width, valid, t):
    """Pack by way of a place for a piece of each channel of a group: some rows, or a part of one.

    So all of a line is taken at once, and a block has cells of several rows. Pieces are of one size; the last one
    reaches back.
    """
    lanes, item, cell = lane_count(t), item_bytes(t), cell_bytes(t)
    block, group = transpose_rows(t) // 2, transpose_rows(t)
    columns = -(-width // -(-width * item // STAGED_BYTES))
    rows = max(STAGED_BYTES // (columns * item), 1)
    rows = -(-height // -(-height // rows))
    for y in range(0, height, rows):
        y = min(y, height - rows)
        for x in range(0, width, columns):
            ahead = columns * item if x + columns < width else 0
            x = min(x, width - columns)
            target, from_ = tile + (y * width + x) * cell, address + y * row_step + x * item
            for lane in range(0, lanes, group):
                first = min(lane, valid - 1)
                last = min(valid - 1 - first, group - 1)
                for i in range(last + 1):
                    source = from_ + (first + i) * channel_step
                    stage_rows(staging + i * STAGED_BYTES, source, row_step, rows, columns * item, ahead)
                for i in range(0, rows * columns, block):
                    i = min(i, rows * columns - block)
                    place = target + i * cell + lane * (cell // lanes)
                    transpose_in(place, cell, staging + i * item, STAGED_BYTES, last, t)


@routine()
def prefetch_cell(address, t):
    """Fetch a block of channels that lie side by side, but not the end of one that begins within a cache line."""
    for line in range(0, lane_count(t) * item_bytes(t), LINE_BYTES):
        prefetch_read(address + line)


@routine()
def fetch_end(address, blocks, last, t):
    """Fetch the end of some channel blocks of a cell; `last` is how far the last one may be behind the first."""
    size = lane_count(t) * item_bytes(t)
    prefetch_read(address + min((blocks - 1) * size, last) + size - 1)


@routine()
def fetch_cell(address, t):
    """Fetch a block of channels that lie side by side."""
    prefetch_cell(address, t)
    fetch_end(address, 1, 0, t)


@routine()
def copy_cells(target, across, source, step, count, size, t):
    """Copy cells of a row whose channels lie side by side, and fetch those that follow if they are of far memory."""
    for x in range(count):
        if size >= FAR_BYTES:
            fetch_cell(source + (x + AHEAD_CELLS) * step, t)
        copy_cell(target + x * across, source + x * step, t)


@routine()
def pack(staging, tile, map_, address, channel, channels, y0, y1, x0, x1, t):
    """Copy the cells [y0, y1) x [x0, x1) of one channel block into the tile, encoded.

    Where the channels lie side by side it is a copy, also of what lies behind them, where that belongs to the row;
    where the columns do, blocks are transposed in registers, the last one of a run reaching back over the one before
    it, while the next row or, where there is only one, the next channels are fetched, whose short runs the processor
    does not foresee; anything else goes item by item. A row of more than half a block is transposed with what lies
    behind it, over which the next row is packed. If `staging` is not 0, that is a place for rows that crowd a cache.
    Rows that lie side by side are packed as columns, and what is upside down from its end.
    """
    channel_step, row_step, column_step = load_i64(map_, 3), load_i64(map_, 4), load_i64(map_, 5)
    lanes, item, cell = lane_count(t), item_bytes(t), cell_bytes(t)
    address += y0 * row_step + x0 * column_step + channel * channel_step
    valid = min(lanes, channels - channel)
    height, width = max(y1 - y0, 0), max(x1 - x0, 0)
    block, group = transpose_rows(t) // 2, transpose_rows(t)
    down, across = width * cell, cell
    if abs(row_step) == item and abs(column_step) != item:
        height, width, down, across, row_step, column_step = width, height, across, down, column_step, row_step
    if column_step == -item and width > 0:
        address, tile = address + (width - 1) * column_step, tile + (width - 1) * across
        column_step, across = item, -across
    in_order = across == cell and down == width * cell
    if row_step == width * column_step and in_order:
        height, width = 1, height * width
    transposable = column_step == item and width >= block
    if staging and column_step == item and in_order and height * width >= block and crowds(channel_step, t):
        pack_staged(staging, tile, address, channel_step, row_step, height, width, valid, t)
        return
    ahead = row_step if height > 1 else group * channel_step
    copied = 0
    if channel_step == item and not transposable and (valid == lanes or column_step > 0):
        copied = width - -(-(lanes - valid) * item // max(column_step, 1))
    for y in range(height):
        source = address + y * row_step
        target = tile + y * down
        copy_cells(target, across, source, column_step, copied, height * width * column_step, t)
        covered = 2 * width > block and row_step >= SHUFFLE_BYTES and y * width + block <= height * width
        if transposable or (column_step == item and in_order and covered):
            for lane in range(0, lanes, group):
                first = min(lane, valid - 1)
                last = min(valid - 1 - first, group - 1)
                from_ = source + first * channel_step
                for x in range(0, width, block):
                    for row in range(x // block % LINE_PARTS, group, LINE_PARTS):
                        prefetch_read(source + (lane + row) * channel_step + x * item + ahead)
                    x = max(min(x, width - block), 0)
                    place = target + x * across + lane * (cell // lanes)
                    transpose_in(place, across, from_ + x * item, channel_step, last, t)
        else:
            for x in range(max(copied, 0), width):
                for lane in range(valid):
                    from_ = source + x * column_step + lane * channel_step
                    copy_item(target + x * across + lane * item, from_, t)
                copy_cell(target + x * across, target + x * across, t)


@routine(only=lambda t: t.mode == "paired")
def number_cells(tile, count, t):
    """Make the keys of a tile pairs with the indices of their cells."""
    for i in range(count):
        number_cell(tile + i * cell_bytes(t), i, t)


@routine(only=lambda t: t.way == SHARED_WAY)
def pack_whole(desc, tile, map_, address, channel, t):
    """Copy a channel block of a whole map into the tile."""
    height, width, staging = load_i64(map_, 1), load_i64(map_, 2), staging_at(desc, tile)
    pack(staging, tile, map_, address, channel, load_i64(desc, CHANNELS), 0, height, 0, width, t)
    number_cells(tile, height * width, t)
