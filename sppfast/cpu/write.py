"""Write: bins of lanes are transposed to lanes of bins, where the result has them, and go there by the cache line."""

from numba.core import types
from numba.types import UniTuple

from ..arrays import LINE_BYTES
from .compile import routine
from .descriptor import (
    BESIDE,
    BINS,
    CHANNELS,
    COLUMNS,
    FETCHED,
    FIRST,
    GROUP,
    INDEX_AT,
    INDEX_STEP,
    LEVEL_BYTES,
    LEVELS,
    LEVELS_AT,
    OUT_AT,
    OUT_STEP,
    PAST_CACHES,
    ROWS,
    SHARED_WAY,
    STREAM,
    row_at,
)
from .lanes.memory import copy_byte, copy_part, load_i64, prefetch_write, stream_line
from .lanes.reduction import (
    SHUFFLE_BYTES,
    accumulator_bytes,
    has_index,
    index_group,
    is_paired,
    lane_count,
    out_group,
    out_item_bytes,
    pair_group,
    reduced_bytes,
)
from .lanes.transposition import store_lanes, transpose_index, transpose_out, transpose_pairs
from .pack import copy_bytes


@routine()
def send_line(target, source):
    """Stream a line from where it is waiting; fetch it if that is where it will be written."""
    if target == source:
        prefetch_write(target)
    else:
        stream_line(target, source)


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
    copy_bytes(target + i, source + i, size - i, False)


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
    if load_i64(desc, STREAM) == 0:
        return
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
def copy_levels(desc, out, flat, channel, at_end, item, t):
    """Copy those transposed bins of all levels, one channel block, that are not in the result yet to a row of it.

    Its lanes begin at its channel or, if they are `at_end`, reach back so that all are channels.
    """
    channels, levels = load_i64(desc, CHANNELS), load_i64(desc, LEVELS_AT)
    valid, stream = min(load_i64(desc, GROUP), lane_count(t), channels - channel), load_i64(desc, STREAM)
    others = max(channel + lane_count(t) - channels, 0) if at_end else 0
    for level in range(levels, levels + load_i64(desc, LEVELS) * LEVEL_BYTES, LEVEL_BYTES):
        count = load_i64(level, ROWS) * load_i64(level, COLUMNS)
        if not goes_straight(desc, level, channel, item, t):
            place, source = place_of(desc, level, out, channel, item), flat + others * count * item
            copy_run(place, source, valid * count * item, stream in (PAST_CACHES, BESIDE))
        flat += count * lane_count(t) * item


@routine()
def copy_window(desc, row, flat, channel, at_end, t):
    """Copy the transposed bins of a window, one channel block, to its row of the result, and their indices.

    `at_end` as in `copy_levels`.
    """
    out = load_i64(desc, OUT_AT) + row * load_i64(desc, OUT_STEP)
    copy_levels(desc, out, flat, channel, at_end, out_item_bytes(t), t)
    if has_index(t):
        index_out = load_i64(desc, INDEX_AT) + row * load_i64(desc, INDEX_STEP)
        behind = load_i64(desc, BINS) * lane_count(t) * out_item_bytes(t)
        copy_levels(desc, index_out, flat + behind, channel, at_end, 4, t)


@routine(types.int64)
def other_row(desc, i, last, before):
    """Find the row whose runs are sent beside the i-th window: the next, fetched, or the one before; -1: none."""
    return row_at(desc, i + 1) if load_i64(desc, STREAM) == FETCHED and i + 1 < last else before
