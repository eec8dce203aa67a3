"""Kernels of gradients that go channel by channel: of maxima, and of the means of whole maps.

A task has a group of channels of one map to itself, (H, W) planes side by side in memory, as many as a near cache
holds. So no two threads write one cell, and the order of a sum never changes.
"""

from math import inf

from numba.core import types

from ..arrays import LINE_BYTES
from .compile import routine
from .descriptor import (
    BLOCKS,
    CHANNELS,
    COLUMNS,
    FIRST,
    GRAD_AT,
    GRAD_CHANNEL,
    GRAD_CHANNELS,
    GRAD_ROWS_AT,
    GRAD_STEP,
    GROUP,
    INDEX_AT,
    INDEX_STEP,
    LEVEL_BYTES,
    LEVELS,
    LEVELS_AT,
    LINES,
    OUT_AT,
    ROWS,
    ROWS_AT,
    STARTS_AT,
    STATUS_AT,
    WHAT,
    X_EDGES,
    Y_EDGES,
    edges_of,
    map_of,
    scratch_at,
)
from .lanes.accumulators import add_weighted, load_accumulator, start, store_rounded
from .lanes.memory import (
    add_item,
    are_below,
    clear_byte,
    clear_line,
    copy_item,
    copy_line,
    copy_part,
    fill_line,
    load_f64,
    load_i32,
    load_i64,
    load_number,
    prefetch_read,
    prefetch_write,
    store_f64,
    store_i64,
    store_number,
)
from .lanes.reduction import SHUFFLE_BYTES, accumulator_bytes, item_bytes, reduction
from .sums import list_strips, strip_of
from .taps import TAP_BYTES, first_tap, record_of, samples_of, taps_at

LINE_ITEMS = LINE_BYTES // 4  # indices of a cache line
FETCH_BYTES = 1024  # ahead of what is written: a line that is not there yet takes longer to store
AHEAD = 2  # windows, whose gradients are on their way here while one is scattered
MAXIMA, PEAKS, MEANS, MORE_MAXIMA = range(4)  # what a call scatters


@routine()
def clear(target, size):
    """Set bytes to 0."""
    i = 0
    while i <= size - LINE_BYTES:
        prefetch_write(target + i + FETCH_BYTES)
        clear_line(target + i)
        i += LINE_BYTES
    while i < size:
        clear_byte(target + i)
        i += 1


@routine()
def copy(target, source, size, t):
    """Copy whole items, that is bytes."""
    i = 0
    while i <= size - LINE_BYTES:
        prefetch_write(target + i + FETCH_BYTES)
        copy_line(target + i, source + i)
        i += LINE_BYTES
    while i <= size - SHUFFLE_BYTES:
        copy_part(target + i, source + i)
        i += SHUFFLE_BYTES
    while i < size:
        copy_item(target + i, source + i, t)
        i += item_bytes(t)


@routine()
def add_number(address, value, t):
    """Add to a number in memory."""
    store_number(address, load_number(address, t) + value, t)


# --- maxima, whose place is known -----------------------------------------------------------------------------------


@routine(types.boolean)
def are_inside(index, count, area):
    """Tell whether indices all lie in the map, if there are enough of them for that to be worth while."""
    inside = count >= LINE_ITEMS
    for i in range(0, count if inside else 0, LINE_ITEMS):
        inside &= are_below(index + min(i, count - LINE_ITEMS) * 4, area)
    return inside


@routine(types.int64)
def kept_inside(index, i, area):
    """Load an index of those that are inside; even if another thread has changed it since it lies in the map."""
    return min(max(load_i32(index, i), 0), area - 1)


@routine()
def prefetch_run(at, size):
    """Fetch what will be read."""
    for i in range(0, size + LINE_BYTES, LINE_BYTES):
        prefetch_read(at + i)


@routine()
def scatter_pairs(planes, grad, index, next_grad, next_index, area, count, channels, t):
    """Add the gradients of runs of bins, one for each channel, to the cells that were their maxima; fetch later runs.

    Two channels at a time: bins next to each other often have the same maximum, and each must wait for the one before.
    """
    item = item_bytes(t)
    plane, run, places = area * item, count * item, count * 4
    for k in range(0, channels, 2):
        prefetch_run(next_grad + k * run, 2 * run)
        prefetch_run(next_index + k * places, 2 * places)
        one, from_, where = planes + k * plane, grad + k * run, index + k * places
        for i in range(count):
            add_item(one + kept_inside(where, i, area) * item, from_ + i * item, t)
            add_item(one + plane + kept_inside(where, count + i, area) * item, from_ + run + i * item, t)


@routine(types.int64)
def scatter_checked(planes, grad, index, area, count, first, last, t):
    """Do the same for any channels, where bins may be empty; return whether an index is wrong."""
    wrong = 0
    for k in range(first, last):
        for i in range(k * count, k * count + count):
            place = load_i32(index, i)
            if 0 <= place < area:
                add_item(planes + (k * area + place) * item_bytes(t), grad + i * item_bytes(t), t)
            elif place != -1:
                wrong = 1
    return wrong


@routine(types.int64)
def grad_at(desc, row):
    """Find a row of gradients."""
    rows = load_i64(desc, GRAD_ROWS_AT)
    return load_i64(desc, GRAD_AT) + (load_i64(rows, row) if rows else row) * load_i64(desc, GRAD_STEP)


@routine()
def scatter_window(desc, planes, map_, row, next_row, channel, valid, t):
    """Add the gradients of a window's maxima to their cells, and fetch those of one to come meanwhile."""
    area, channels = load_i64(map_, 1) * load_i64(map_, 2), load_i64(desc, CHANNELS)
    grads, next_grads = grad_at(desc, row), grad_at(desc, next_row)
    indices, index_step = load_i64(desc, INDEX_AT), load_i64(desc, INDEX_STEP)
    all_channels, grad_channel = load_i64(desc, GRAD_CHANNELS), load_i64(desc, GRAD_CHANNEL) + channel
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        first, count = load_i64(level, FIRST), load_i64(level, ROWS) * load_i64(level, COLUMNS)
        place = (all_channels * first + grad_channel * count) * item_bytes(t)
        grad, next_grad = grads + place, next_grads + place
        index = indices + (channels * first + channel * count) * 4
        index, next_index = index + row * index_step, index + next_row * index_step
        paired = valid // 2 * 2 if are_inside(index, valid * count, area) else 0
        scatter_pairs(planes, grad, index, next_grad, next_index, area, count, paired, t)
        if scatter_checked(planes, grad, index, area, count, paired, valid, t):
            store_i64(load_i64(desc, STATUS_AT), 0, row + 1)


# --- maxima of RoI align, looked for again --------------------------------------------------------------------------


@routine()
def scatter_peak(y_taps, y_count, x_taps, x_count, best, grad, source, plane, map_, t):
    """Add the gradient of a bin to the cell that was the largest, times its weights; the first, where several tie."""
    row_step, column_step, width = load_i64(map_, 4), load_i64(map_, 5), load_i64(map_, 2)
    best_weight, best_place = 0.0, -1
    for i in range(y_count):
        y, y_weight = load_i64(y_taps, 2 * i), load_f64(y_taps, 2 * i + 1)
        for j in range(x_count):
            x, x_weight = load_i64(x_taps, 2 * j), load_f64(x_taps, 2 * j + 1)
            value = load_number(source + y * row_step + x * column_step, t) * y_weight * x_weight
            if value > best or (value != value and best == best):
                best, best_weight, best_place = value, y_weight * x_weight, y * width + x
    if best_place >= 0:
        add_number(plane + best_place * item_bytes(t), load_number(grad, t) * best_weight, t)


@routine()
def scatter_peaks(desc, planes, map_, source, row, channel, valid, t):
    """Add the gradients of a window's largest weighted cells to them."""
    area, step = load_i64(map_, 1) * load_i64(map_, 2), load_i64(map_, 3)
    channels, item = load_i64(desc, CHANNELS), item_bytes(t)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
        y_record, x_record = record_of(desc, row, i, 0), record_of(desc, row, i, 1)
        y_samples, x_samples = samples_of(desc, row, rows, 0, t), samples_of(desc, row, columns, 1, t)
        first = channels * load_i64(level, FIRST) + channel * rows * columns
        grads = load_i64(desc, GRAD_AT) + row * load_i64(desc, GRAD_STEP) + first * item
        for bin_ in range(rows * columns):
            y, x = bin_ // columns, bin_ % columns
            y_taps = taps_at(y_record, rows) + first_tap(y_record, y) * TAP_BYTES
            x_taps = taps_at(x_record, columns) + first_tap(x_record, x) * TAP_BYTES
            y_count = first_tap(y_record, y + 1) - first_tap(y_record, y)
            x_count = first_tap(x_record, x + 1) - first_tap(x_record, x)
            best = 0.0 if y_count < 2 * y_samples or x_count < 2 * x_samples else -inf  # a sample outside counts as 0
            for k in range(valid):
                grad, plane = grads + (k * rows * columns + bin_) * item, planes + k * area * item
                from_ = source + (channel + k) * step
                scatter_peak(y_taps, y_count, x_taps, x_count, best, grad, from_, plane, map_, t)


# --- means of whole maps --------------------------------------------------------------------------------------------


@routine(types.int64)
def whole_lines(size):
    """Round up to whole cache lines."""
    return (size + LINE_BYTES - 1) // LINE_BYTES * LINE_BYTES


@routine()
def lay_lines(desc, grads, x_edges, strips, width, lines, pitch, channel, t):
    """Lay out what each row of bins, of all levels, gives to a row of cells: a line of `pitch` bytes, by strips."""
    channels = load_i64(desc, CHANNELS)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns = load_i64(level, ROWS), load_i64(level, COLUMNS)
        places = x_edges + 4 * load_i64(level, X_EDGES)
        place = grads + (channels * load_i64(level, FIRST) + channel * rows * columns) * item_bytes(t)
        for _ in range(rows):
            clear(lines, pitch)
            for column in range(columns):
                left, right = load_i32(places, column), load_i32(places, columns + column)
                share = load_number(place, t) / (right - left) if left < right else 0.0
                for strip in range(strip_of(strips, left, 0, width), strip_of(strips, right, 0, width)):
                    store_f64(lines, strip, load_f64(lines, strip) + share)
                place += item_bytes(t)
            lines += pitch


@routine(types.int64)
def list_lines(desc, y_edges, y, height, pitch, found):
    """List the lines of the rows of bins that a row of cells lies in, and their heights; return the next other row."""
    change, line, count = height, 0, 0
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, places = load_i64(level, ROWS), y_edges + 4 * load_i64(level, Y_EDGES)
        for row in range(rows):
            top, bottom = load_i32(places, row), load_i32(places, rows + row)
            if top <= y < bottom:
                store_i64(found, 1 + 2 * count, line)
                store_i64(found, 2 + 2 * count, bottom - top)
                count += 1
                change = min(change, bottom)
            elif y < top < bottom:
                change = min(change, top)
            line += pitch
    store_i64(found, 0, count)
    return change


@routine()
def sum_lines(found, lines, pitch, target, t):
    """Sum the lines of a row of cells, each over its height, and round them."""
    for x in range(0, pitch, accumulator_bytes(t)):
        accumulator = start(t)
        for i in range(load_i64(found, 0)):
            line = load_accumulator(lines + load_i64(found, 1 + 2 * i) + x, t)
            accumulator = add_weighted(accumulator, line, 1.0 / load_i64(found, 2 + 2 * i), t)
        store_rounded(target + x // 8 * item_bytes(t), accumulator, t)


@routine()
def fill_row(target, values, cuts, count, t):
    """Write a row of cells, of which those of a strip are equal; and up to a cache line behind the last."""
    item = item_bytes(t)
    for strip in range(count):
        for x in range(load_i64(cuts, strip) * item, load_i64(cuts, strip + 1) * item, LINE_BYTES):
            fill_line(target + x, values + strip * item, t)


@routine()
def spread_map(desc, planes, map_, row, channel, valid, scratch, t):
    """Write the gradient of a map's means. Cells in the same bins are equal. Bound: every cell is written once."""
    height, width = load_i64(map_, 1), load_i64(map_, 2)
    y_edges, x_edges = edges_of(desc, row)
    grads = load_i64(desc, GRAD_AT) + row * load_i64(desc, GRAD_STEP)
    cuts, strips = scratch, scratch + 8 * (width + 2)
    count = list_strips(desc, cuts, strips, x_edges, COLUMNS, X_EDGES, 0, width)
    widest, pitch = whole_lines(8 * width), whole_lines(8 * count)
    target = strips + 8 * (width + 2)
    values = target + widest + LINE_BYTES
    found = values + widest
    lines = found + whole_lines(16 * load_i64(desc, LINES) + 8)
    size = load_i64(desc, LINES) * pitch
    for k in range(valid):
        lay_lines(desc, grads, x_edges, strips, width, lines + k * size, pitch, channel + k, t)
    y = 0
    while y < height:
        change = list_lines(desc, y_edges, y, height, pitch, found)
        for k in range(valid):
            sum_lines(found, lines + k * size, pitch, values, t)
            fill_row(target, values, cuts, count, t)
            for i in range(y, change):
                copy(planes + (k * height + i) * width * item_bytes(t), target, width * item_bytes(t), t)
        y = change


# --- tasks ----------------------------------------------------------------------------------------------------------


@routine()
def run_task(desc, task, worker, t):
    """Sum the gradients of all windows of one map, one group of channels."""
    blocks, group, what = load_i64(desc, BLOCKS), load_i64(desc, GROUP), load_i64(desc, WHAT)
    number, channel = task // blocks, task % blocks * group
    map_, source = map_of(desc, number)
    valid = min(group, load_i64(desc, CHANNELS) - channel)
    size = load_i64(map_, 1) * load_i64(map_, 2) * item_bytes(t)
    planes = load_i64(load_i64(desc, OUT_AT), number) + channel * size
    scratch = scratch_at(desc, worker)
    starts = load_i64(desc, STARTS_AT)
    if what in (MAXIMA, PEAKS):
        clear(planes, valid * size)
    rows, last = load_i64(desc, ROWS_AT), load_i64(starts, number + 1)
    for i in range(load_i64(starts, number), last):
        row = load_i64(rows, i)
        if what in (MAXIMA, MORE_MAXIMA):
            scatter_window(desc, planes, map_, row, load_i64(rows, min(i + AHEAD, last - 1)), channel, valid, t)
        elif what == PEAKS:
            scatter_peaks(desc, planes, map_, source, row, channel, valid, t)
        else:
            spread_map(desc, planes, map_, row, channel, valid, scratch, t)


def build(dtype, mode, narrow, way, digest):
    """Make the Python function of the kernel, for `numba.cfunc`: (descriptor, task, worker)."""

    def kernel(desc, task, worker):
        run_task(desc, task, worker, reduction(dtype, mode, narrow, way, digest))

    return kernel
