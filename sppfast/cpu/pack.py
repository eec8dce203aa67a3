"""Pack: the channel lanes of cells lie side by side in a tile, whatever the layout of their map."""

from ..arrays import LINE_BYTES
from .compile import routine
from .descriptor import CHANNELS, SHARED_WAY
from .lanes.accumulators import number_cell
from .lanes.memory import copy_cell, copy_item, load_i64, prefetch_read
from .lanes.reduction import SHUFFLE_BYTES, cell_bytes, item_bytes, lane_count, transpose_rows
from .lanes.transposition import transpose_in

LINE_PARTS = LINE_BYTES // SHUFFLE_BYTES


@routine()
def pack(tile, map_, address, channel, channels, y0, y1, x0, x1, t):
    """Copy the cells [y0, y1) x [x0, x1) of one channel block into the tile, encoded.

    Where the channels lie side by side it is a copy, also of what lies behind them, where that belongs to the row;
    where the columns do, blocks are transposed in registers, the last one of a run reaching back over the one before
    it, while the next row or, where there is only one, the next channels are fetched, whose short runs the processor
    does not foresee; anything else goes item by item.
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
    ahead = row_step if height > 1 else group * channel_step
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
                        prefetch_read(source + (lane + row) * channel_step + x * item + ahead)
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
