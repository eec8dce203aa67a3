"""Kernels that look at all windows before they are pooled: their cells, their bins, how much work, in which order."""

from math import ceil, floor

from numba import boolean, float64, int64
from numba.types import UniTuple

from ..plan import WINDOW_FIELDS
from .compile import compiled_later, routine
from .descriptor import POWER
from .lanes.memory import (
    EDGES,
    clip,
    lay_edges,
    load_f32,
    load_f64,
    load_i32,
    load_i64,
    single,
    store_f64,
    store_i32,
    store_i64,
)

SPPNET, FAST_RCNN, CELLS = range(3)
NOTHING, BLOCKS, RUNS = range(3)  # that windows are sorted by
HEADER = 2  # numbers before those of windows, see `plan_windows`
WINDOW_NUMBERS = 5  # of a window
# What `plan_windows` is told of all windows of some maps.
(
    SIDES_AT,  # height and width of each map
    SIDES_STEP,  # from one map's to the next's
    MAPS,
    ROUNDING,  # see `SPPNET`, and three numbers for it
    STRIDE,
    OFFSET,
    MOST,
    Y_TABLE,  # of edges along y
    X_TABLE,
    LENGTHS,  # that tables have rows for; 0: one for each window
    TALL,  # edges of a row along y
    WIDE,
) = range(12)
SHORTEST = 2  # where a row of edges has the cells of the shortest bin, see `Plan`
MOST_POWER = POWER**2 - 1
FAR = 2.0**29  # cells: of Girshick's rounding, safe in int32 sums
BEYOND = 2.0**40  # cells: further out than maps reach


@routine(UniTuple(int64, 2))
def round_sppnet(low, high, size, stride, offset):
    """Round a window along an axis by the paper's appendix A.1: where it begins, and its cells; in float64."""
    first = floor(clip((low - offset) / stride, -BEYOND, BEYOND)) + 1
    last = ceil(clip((high - offset) / stride, -BEYOND, BEYOND)) - 1
    if first > last:
        first = last = (first + last) >> 1
    first, last = min(max(first, 0), size - 1), min(max(last, 0), size - 1)
    return first, last - first + 1


@routine(float64)
def in_precision(value, wide):
    """Round to float32, unless `wide`."""
    return value if wide else single(value)


@routine(float64)
def scale_pixel(pixel, wide, scale, offset, largest, far):
    """Scale a coordinate to cells, every step in float32 or, if `wide`, in float64; what is beyond, to the end."""
    pixel = clip(in_precision(pixel, wide), -largest, largest)
    pixel = clip(in_precision(pixel - offset, wide), -largest, largest)
    return clip(in_precision(pixel * scale, wide), -far, far)


@routine(int64)
def half_away(pixel, scale, offset, largest):
    """Scale a coordinate and round it half away from zero, as Girshick does: every step in float32."""
    cell = scale_pixel(pixel, False, scale, offset, largest, FAR)
    whole = int64(cell)
    return whole + int64(2.0 * (cell - whole))


@routine(UniTuple(int64, 2))
def round_window(low, high, size, rule, stride, offset, largest):
    """Round a window along an axis by a rule: where it begins, and its cells."""
    if rule == SPPNET:
        return round_sppnet(low, high, size, stride, offset)
    if rule == FAST_RCNN:
        first = half_away(low, stride, offset, largest)
        return first, max(half_away(high, stride, offset, largest) - first + 1, 1)
    first = int64(clip(low, 0.0, float64(size)))
    return first, int64(clip(high, 0.0, float64(size))) - first


@routine(int64)
def is_whole(value):
    """Tell whether a finite number is one, as all from 2**53 on are."""
    return abs(value) >= 2.0**53 or float64(int64(value)) == value


@routine(float64)
def load_float(row, i, size):
    """Load a float64 of a row, or a float32 as one, by their size."""
    return load_f64(row, i) if size == 8 else load_f32(row, i)


@routine(int64)
def map_of(numbers, step, size, i, maps):
    """Find the map of a window: the first if there are no numbers, -1 if there is no such map."""
    if not numbers:
        return 0
    value = load_float(numbers + i * step, 0, size)
    return int64(value) if 0.0 <= value < maps and is_whole(value) else -1


@routine(boolean)
def is_window(low, high):
    """Tell whether a window is finite and not inverted along an axis."""
    return low - low == 0.0 and high - high == 0.0 and low <= high


@routine(UniTuple(int64, 2))
def lay_axis(row, start, size, width, place):
    """Lay out the edges of a window along an axis, by the row of a table, as far as they lie in the map.

    Returns its cells, and whether bins may be empty.
    """
    for j in range(0, width, EDGES):
        some = 4 * min(j, width - EDGES)
        lay_edges(place + some, row + some, start, size)
    stop = start + load_i32(row, 1)
    if start >= 0 and start < stop <= size:
        for j in range(SHORTEST, WINDOW_FIELDS):
            store_i32(place, j, load_i32(row, j))
        return stop - start, 0
    store_i32(place, SHORTEST, -1)
    return load_i32(place, 1) - load_i32(place, 0), 1


@compiled_later(f"UniTuple(int64, 4)(int64{9 * ', int64'})")
def plan_windows(rules, windows, step, item, numbers, numbers_step, numbers_item, count, edges, out):
    """Round windows x0, y0, x1, y1 to cells, and lay out the edges of their bins.

    They are float64 or float32, an item of so many bytes, each a step behind the one before; so are the numbers of
    their maps, if there are any. `rules` is where `SIDES_AT` and so on are.

    The edges along an axis, `TALL` or `WIDE` of them, are a row of its table: that of an extent below `LENGTHS` or, if
    this is 0, of a window; without tables none are laid out. Returns 0, or one more than a window that is not as it
    should be; the most cells of a window along an axis, the cells of all, and whether bins may be empty. Writes 0 and
    `count`, where a single map's windows begin and end, as `order_windows` does; then the map of each window; then
    along y, and along x, where each begins, and its cells.
    """
    sides, sides_step, maps = load_i64(rules, SIDES_AT), load_i64(rules, SIDES_STEP), load_i64(rules, MAPS)
    rule, given = load_i64(rules, ROUNDING), (load_f64(rules, STRIDE), load_f64(rules, OFFSET), load_f64(rules, MOST))
    y_table, x_table, lengths = load_i64(rules, Y_TABLE), load_i64(rules, X_TABLE), load_i64(rules, LENGTHS)
    tall, wide = load_i64(rules, TALL), load_i64(rules, WIDE)
    longest, cells, may_be_empty = 0, 0, 0
    found = out + 8 * HEADER
    for i in range(count):
        window, number = windows + i * step, map_of(numbers, numbers_step, numbers_item, i, maps)
        if number < 0:
            return i + 1, longest, cells, may_be_empty
        store_i64(found, i, number)
        area = 1
        for axis in range(2):
            low, high = load_float(window, 1 - axis, item), load_float(window, 3 - axis, item)
            if not is_window(low, high) or (rule == CELLS and not (is_whole(low) and is_whole(high))):
                return i + 1, longest, cells, may_be_empty
            size = load_i64(sides + number * sides_step, axis)
            start, extent = round_window(low, high, size, rule, *given)
            longest = max(longest, extent)
            store_i64(found, (1 + 2 * axis) * count + i, start)
            store_i64(found, (2 + 2 * axis) * count + i, extent)
            if y_table and (extent < lengths or not lengths):
                row, width = extent if lengths else i, wide if axis else tall
                table = (x_table if axis else y_table) + 4 * row * width
                place = edges + 4 * (i * (tall + wide) + axis * tall)
                extent, hidden = lay_axis(table, start, size, width, place)
                area *= extent
                may_be_empty |= hidden
        cells += area
    store_i64(out, 0, 0)
    store_i64(out, 1, count)
    return 0, longest, cells, may_be_empty


@compiled_later(f"int64({8 * 'int64, '}float64, float64, float64, float64, int64, int64, int64)")
def scale_windows(
    windows,
    step,
    item,
    numbers,
    numbers_step,
    numbers_item,
    count,
    maps,
    scale,
    offset,
    largest,
    far,
    shifted,
    wide,
    out,
):
    """Scale windows, given as to `plan_windows`, to cells, `shifted` by half of one or at least one wide.

    Writes, for each window, where it begins along y and its extent, then along x, float64; behind them each one's map.
    Returns 0, or one more than a window that is not as it should be.
    """
    half = 0.5 if shifted else 0.0
    for i in range(count):
        window, number = windows + i * step, map_of(numbers, numbers_step, numbers_item, i, maps)
        if number < 0:
            return i + 1
        store_i64(out, 4 * count + i, number)
        for axis in range(2):
            low, high = load_float(window, 1 - axis, item), load_float(window, 3 - axis, item)
            if not is_window(low, high):
                return i + 1
            low = scale_pixel(low, wide, scale, offset, largest, largest)
            high = scale_pixel(high, wide, scale, offset, largest, largest)
            begin = clip(in_precision(low - half, wide), -far, far)
            extent = in_precision(clip(in_precision(high - half, wide), -far, far) - begin, wide)
            store_f64(out, 4 * i + 2 * axis, begin)
            store_f64(out, 4 * i + 2 * axis + 1, extent if shifted else max(extent, 1.0))
    return 0


@routine(UniTuple(int64, 4))
def survey_bins(row, place, n):
    """Survey the n bins of the finest level along an axis: what the row has of them, see `Plan`, or what is cut off."""
    if load_i32(row, SHORTEST) >= 0:
        first = row + 4 * SHORTEST
        return load_i32(first, 0), load_i32(first, 1), load_i32(first, 2), load_i32(first, 3)
    edges = row + 4 * place
    least, most, cells, power = load_i32(edges, n) - load_i32(edges, 0), 0, 0, 0
    for i in range(n):
        extent = load_i32(edges, n + i) - load_i32(edges, i)
        least, most, cells = min(least, extent), max(most, extent), cells + extent
    while 2 << power <= least:
        power += 1
    return least, power, most, cells


@routine(int64)
def choose_blocks(
    y_edges, x_edges, step, y_place, rows, x_place, columns, count, cell_cost, step_cost, limit, costs, powers
):
    """Choose the blocks that the bins of each window are made of, for the least work: powers below the one returned.

    Bins are two blocks tall, and as many wide as it takes, none wider than a power of two up to 2**limit. A cell costs
    as much as `cell_cost` blocks, to widen all tiles by a step as much as `step_cost`. `costs` is room for ``POWER``
    integers: how many more blocks there are if they are up to 2**b wide than if they are up to half of that. Returns 0
    where cells are less work.
    """
    for b in range(POWER):
        store_i64(costs, b, 0)
    tallest, widest, least = 0, 0, 0
    for i in range(count):
        short, tall, most, height = survey_bins(y_edges + i * step, y_place, rows)
        narrow, wide, broad, width = survey_bins(x_edges + i * step, x_place, columns)
        fits = short > 0 and narrow > 0 and most <= 2 << tall
        store_i64(powers, i, tall * POWER + wide if fits else -1)
        if fits:
            tallest, widest, least = max(tallest, tall), max(widest, wide), least + cell_cost * height * width
            before = 0
            for b in range(wide + 1):
                blocks = 2 * rows * columns * max(-(-broad >> b), 2)
                store_i64(costs, b, load_i64(costs, b) + blocks - before)
                before = blocks
    best, cost = -1, 0
    for b in range(min(widest, limit) + 1):
        cost += load_i64(costs, b)
        if cost + (tallest + (tallest + 1) * b) * step_cost < least:
            best, least = b, cost + (tallest + (tallest + 1) * b) * step_cost
    for i in range(count):
        power = load_i64(powers, i)
        if power % POWER > best >= 0 and power >= 0:
            store_i64(powers, i, power // POWER * POWER + best)
    return (tallest + 1) * POWER if best >= 0 else 0


@routine(int64)
def choose_lengths(y_edges, x_edges, step, y_place, rows, x_place, columns, count, price, saved, lengths):
    """Choose how long the runs are that the bins of each window are summed from: lengths below the one returned.

    To make all runs longer by a cell costs `price`. `saved` is room for ``POWER**2`` integers: by how long the
    narrowest bin is how many cells one more cell of the runs saves. Returns 0 where there are no runs.
    """
    longest = POWER * POWER - 1
    for length in range(longest + 1):
        store_i64(saved, length, 0)
    for i in range(count):
        _, _, _, height = survey_bins(y_edges + i * step, y_place, rows)
        least, _, _, _ = survey_bins(x_edges + i * step, x_place, columns)
        length = min(max(least, 0), longest)
        store_i64(lengths, i, length)
        store_i64(saved, length, load_i64(saved, length) + columns * height)
    worth = load_i64(saved, longest)
    while worth < price and longest > 1:
        longest -= 1
        worth += load_i64(saved, longest)
    for i in range(count):
        store_i64(lengths, i, min(load_i64(lengths, i), longest))
    return longest + 1 if longest > 1 else 0


@routine()
def sort(keys, low, high, order, count, starts, result):
    """Sort an order of `count`, or 0 for one that rises, stably by keys from `low` to below `high`.

    ``starts[i]`` is where those of ``low + i`` begin; there is room for one more than ``high - low + 1``.
    """
    for i in range(high - low + 2):
        store_i64(starts, i, 0)
    for i in range(count):
        key = load_i64(keys, i) - low + 2
        store_i64(starts, key, load_i64(starts, key) + 1)
    for i in range(2, high - low + 2):
        store_i64(starts, i, load_i64(starts, i) + load_i64(starts, i - 1))
    for i in range(count):
        row = load_i64(order, i) if order else i
        key = load_i64(keys, row) - low + 1
        place = load_i64(starts, key)
        store_i64(result, place, row)
        store_i64(starts, key, place + 1)


@compiled_later(f"boolean(int64{15 * ', int64'})")
def order_windows(
    index,
    maps,
    count,
    first,
    y_edges,
    step,
    what,
    x_edges_behind,
    y_place,
    rows,
    x_place,
    columns,
    cell_cost,
    step_cost,
    limit,
    out,
):
    """Sort windows by the map of each and, if blocks or runs are asked for and pay, within it by those; tell whether.

    Otherwise they stay in the order `first`, or as they are if it is 0. Writes the order, then where each map's windows
    begin, then the powers or lengths; behind them there must be room for as much again.
    """
    starts = out + 8 * count
    powers = starts + 8 * (maps + 2)
    room = powers + 8 * count
    edges = y_edges, y_edges + x_edges_behind, step, y_place, rows, x_place, columns, count
    high = 0
    if what == BLOCKS:
        high = choose_blocks(*edges, cell_cost, step_cost, limit, room, powers)
    elif what == RUNS:
        high = choose_lengths(*edges, step_cost, room, powers)
    order = room if maps > 1 else out
    if high:
        sort(powers, -1, high, first, count, room + 8 * count, order)
    if maps > 1 or not high:
        sort(index, 0, maps, order if high else first, count, starts, out)
    else:
        store_i64(starts, 0, 0)
        store_i64(starts, 1, count)
    return high > 0
