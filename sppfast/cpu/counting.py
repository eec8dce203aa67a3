"""Kernels that look at all windows before they are pooled: their cells, their bins, how much work, in which order."""

from math import ceil, floor

from numba import boolean, float64, int64
from numba.types import UniTuple

from .compile import compiled_later, routine
from .kernels import POWER
from .lanes import clip, load_f64, load_i32, load_i64, single, store_f64, store_i32, store_i64

SPPNET, FAST_RCNN, CELLS = range(3)
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


@routine(int64)
def map_of(numbers, step, i, maps):
    """Find the map of a window: the first if there are no numbers, -1 if there is no such map."""
    if not numbers:
        return 0
    value = load_f64(numbers + i * step, 0)
    return int64(value) if 0.0 <= value < maps and is_whole(value) else -1


@routine(boolean)
def is_window(low, high):
    """Tell whether a window is finite and not inverted along an axis."""
    return low - low == 0.0 and high - high == 0.0 and low <= high


@compiled_later(
    "int64(int64, int64, int64, int64, int64, int64, int64, int64, float64, float64, float64, int64, int64)"
)
def round_windows(
    windows, step, numbers, numbers_step, count, sides, sides_step, maps, stride, offset, largest, rule, out
):
    """Round windows x0, y0, x1, y1, float64, to cells.

    Writes for each axis, y first, where windows begin, their cells, and those of the map; then each one's map. Returns
    twice as many as the most cells along an axis, and one more if all windows lie inside; below 0 it is ``-1 - i``
    where window i is not as it should be.
    """
    longest, inside = 0, 0 if rule == FAST_RCNN else 1
    for i in range(count):
        window, number = windows + i * step, map_of(numbers, numbers_step, i, maps)
        if number < 0:
            return -1 - i
        for axis in range(2):
            low, high = load_f64(window, 1 - axis), load_f64(window, 3 - axis)
            if not is_window(low, high) or (rule == CELLS and not (is_whole(low) and is_whole(high))):
                return -1 - i
            size = load_i64(sides + number * sides_step, axis)
            start, extent = round_window(low, high, size, rule, stride, offset, largest)
            inside = inside and extent > 0
            longest = max(longest, extent)
            place = out + 8 * (3 * axis * count + i)
            store_i64(place, 0, start)
            store_i64(place, count, extent)
            store_i64(place, 2 * count, size)
        store_i64(out, 6 * count + i, number)
    return 2 * longest + inside


@compiled_later(
    "int64(int64, int64, int64, int64, int64, int64, float64, float64, float64, float64, int64, int64, int64)"
)
def scale_windows(windows, step, numbers, numbers_step, count, maps, scale, offset, largest, far, shifted, wide, out):
    """Scale windows x0, y0, x1, y1, float64, to cells, `shifted` by half of one or at least one wide.

    Writes, for each window, where it begins along y and its extent, then along x, float64; behind them each one's map.
    Returns 0, or one more than a window that is not as it should be.
    """
    half = 0.5 if shifted else 0.0
    for i in range(count):
        window, number = windows + i * step, map_of(numbers, numbers_step, i, maps)
        if number < 0:
            return i + 1
        store_i64(out, 4 * count + i, number)
        for axis in range(2):
            low, high = load_f64(window, 1 - axis), load_f64(window, 3 - axis)
            if not is_window(low, high):
                return i + 1
            low = scale_pixel(low, wide, scale, offset, largest, largest)
            high = scale_pixel(high, wide, scale, offset, largest, largest)
            begin = clip(in_precision(low - half, wide), -far, far)
            extent = in_precision(clip(in_precision(high - half, wide), -far, far) - begin, wide)
            store_f64(out, 4 * i + 2 * axis, begin)
            store_f64(out, 4 * i + 2 * axis + 1, extent if shifted else max(extent, 1.0))
    return 0


@routine(int64)
def lay_axis(table, by_extent, i, window, step, limited, width, place):
    """Lay out the edges of a window along an axis, and count its cells there."""
    start, extent, limit = load_i64(window, 0), load_i64(window + step, 0), load_i64(window + 2 * step, 0)
    row = table + 4 * width * (extent if by_extent else i)
    if limited:
        for j in range(width):
            store_i32(place, j, max(min(load_i32(row, j) + start, limit), 0))
    else:
        for j in range(width):
            store_i32(place, j, load_i32(row, j) + start)
    return load_i32(place, 1) - load_i32(place, 0)


@compiled_later("int64(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def lay_edges(y_table, x_table, by_extent, windows, step, limited, count, tall, wide, edges):
    """Lay out the edges of windows along both axes: a row of each table for each extent, or window.

    `windows` are as `round_windows` writes them, `step` bytes from one number to the next; the map cuts `limited` ones
    off. `tall` and `wide` are how many edges a window has. Returns how many cells all windows have.
    """
    cells = 0
    for i in range(count):
        window, place = windows + 8 * i, edges + 4 * (tall + wide) * i
        height = lay_axis(y_table, by_extent, i, window, step, limited, tall, place)
        cells += height * lay_axis(x_table, by_extent, i, window + 3 * step, step, limited, wide, place + 4 * tall)
    return cells


@routine(UniTuple(int64, 4))
def survey_bins(edges, n):
    """Survey n bins along an axis: cells of the shortest, the power of two in it, cells of the longest, and of all."""
    least, most, cells, power = load_i32(edges, n) - load_i32(edges, 0), 0, 0, 0
    for i in range(n):
        extent = load_i32(edges, n + i) - load_i32(edges, i)
        least, most, cells = min(least, extent), max(most, extent), cells + extent
    while 2 << power <= least:
        power += 1
    return least, power, most, cells


@compiled_later("boolean(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def choose_blocks(
    y_edges, x_edges, step, y_place, rows, x_place, columns, count, cell_cost, step_cost, limit, costs, powers
):
    """Choose the blocks that the bins of each window are made of, for the least work; tell whether of any.

    Bins are two blocks tall, and as many wide as it takes, none wider than a power of two up to 2**limit. A cell costs
    as much as `cell_cost` blocks, to widen all tiles by a step as much as `step_cost`. `costs` is room for ``POWER``
    integers: how many more blocks there are if they are up to 2**b wide than if they are up to half of that.
    """
    for b in range(POWER):
        store_i64(costs, b, 0)
    tallest, widest, least = 0, 0, 0
    for i in range(count):
        short, tall, most, height = survey_bins(y_edges + i * step + 4 * y_place, rows)
        narrow, wide, broad, width = survey_bins(x_edges + i * step + 4 * x_place, columns)
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
    return best >= 0


@compiled_later("boolean(int64, int64, int64, int64, int64, int64, int64, int64, int64, int64, int64)")
def choose_lengths(y_edges, x_edges, step, y_place, rows, x_place, columns, count, price, saved, lengths):
    """Choose how long the runs are that the bins of each window are summed from; tell whether there are any.

    To make all runs longer by a cell costs `price`. `saved` is room for ``POWER**2`` integers: by how long the
    narrowest bin is how many cells one more cell of the runs saves.
    """
    longest = POWER * POWER - 1
    for length in range(longest + 1):
        store_i64(saved, length, 0)
    for i in range(count):
        _, _, _, height = survey_bins(y_edges + i * step + 4 * y_place, rows)
        least, _, _, _ = survey_bins(x_edges + i * step + 4 * x_place, columns)
        length = min(max(least, 0), longest)
        store_i64(lengths, i, length)
        store_i64(saved, length, load_i64(saved, length) + columns * height)
    worth = load_i64(saved, longest)
    while worth < price and longest > 1:
        longest -= 1
        worth += load_i64(saved, longest)
    for i in range(count):
        store_i64(lengths, i, min(load_i64(lengths, i), longest))
    return longest > 1


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


@compiled_later("void(int64, int64, int64, int64, int64, int64)")
def sort_windows(index, maps, powers, most, count, out):
    """Sort windows by the map of each and, unless `powers` is 0, within it by their powers, from -1 to `most`.

    Writes the order, then where each map's windows begin; behind them there must be room for as much again.
    """
    starts = out + 8 * count
    order = 0
    if powers:
        order = starts + 8 * (maps + 2)
        sort(powers, -1, most + 1, 0, count, order + 8 * count, order)
    sort(index, 0, maps, order, count, starts, out)
