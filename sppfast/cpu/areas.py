"""Means of bins from a table of areas (Crow 1984), where it is certain that they are what adding up cells gives."""

from numba.core import types
from numba.types import UniTuple

from ..arrays import LINE_BYTES
from .compile import routine
from .descriptor import (
    AREAS,
    CHANNELS,
    COLUMNS,
    EVERYTHING,
    FIRST,
    LEVEL_BYTES,
    LEVELS,
    LEVELS_AT,
    LINES,
    ROWS,
    X_EDGES,
    Y_EDGES,
    count_cells,
    grid_at,
)
from .lanes.accumulators import start, store_mean
from .lanes.areas import (
    EXACT,
    LARGEST,
    ROW,
    add_area,
    add_area_cell,
    add_depth,
    add_magnitude,
    add_rest,
    float_area,
    grid_of,
    join_digits,
    larger,
    larger_magnitude,
    load_area,
    load_fixed_area,
    may_add,
    start_area,
    store_area,
    store_bounds,
    store_close,
)
from .lanes.memory import load_f64, load_i32, load_i64
from .lanes.reduction import accumulator_bytes, area_bytes, cell_bytes, is_fixed, lane_count
from .sums import SUM_CELLS, list_strips, shares_sums, strip_of
from .write import send_line

EXACT_AREAS = 2**62  # of a table of areas all sums are exact


@routine(types.int64, only=lambda t: t.fixed)
def rate_areas(areas, bounds, height, width, valid, t):
    """Tell what a table of integers is worth, see `sum_areas`; where all sums are exact, it becomes one of float64."""
    size, exact, whole = accumulator_bytes(t), 1.0 * height * width, True
    for lane in range(min(valid, lane_count(t))):
        most = load_f64(bounds + EXACT * size, lane)
        whole = whole and height * load_f64(bounds + ROW * size, lane) <= most
        exact = min(exact, most / load_f64(bounds + LARGEST * size, lane))
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
    lie behind it: it is worth as many cells as a bin must have for its sum not to be exact. Otherwise, and where no
    table is asked for, it is worth 0.
    Bound: a vector load, two additions and a store per line of a sum, and a dozen operations to see what it is worth.
    """
    if load_i64(desc, AREAS) == 0:
        return 0
    height, width, size = load_i64(map_, 1), load_i64(map_, 2), area_bytes(t)
    valid, step = load_i64(desc, CHANNELS) - channel, (width + 1) * size
    largest, longest, total, depth, rest, joined = start(t), start(t), start(t), start(t), start(t), start(t)
    for y in range(height):
        row = start(t) if is_fixed(t) else total
        for x in range(width):
            cell = tile + (y * width + x) * cell_bytes(t)
            row, largest = add_magnitude(row, cell, t), larger_magnitude(largest, cell, t)
        total, longest = row, larger(longest, row, t)
    grid = grid_of(largest, longest, height if is_fixed(t) else 1, t)
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
    store_bounds(bounds, grid, longest, largest, depth, rest, joined, valid, t)
    return rate_areas(areas, bounds, height, width, valid, t) if is_fixed(t) else EXACT_AREAS


@routine(types.int64)
def longest_strip(cuts, count):
    """Find the length of the longest strip."""
    longest = 0
    for i in range(count):
        longest = max(longest, load_i64(cuts, i + 1) - load_i64(cuts, i))
    return longest


@routine(types.int64)
def most_strips(strips, edges, bins, low, high, part):
    """Count the strips of a bin along an axis, at most, of as many bins; they are cut where a part ends, too."""
    most = 0
    for i in range(bins):
        first, last = load_i32(edges, i), load_i32(edges, bins + i)
        count = strip_of(strips, last, low, high) - strip_of(strips, first, low, high)
        most = max(most, count - (first - last) // part)
    return most


@routine(UniTuple(types.int64, 2), only=lambda t: t.fixed)
def list_patches(desc, more, y_edges, x_edges, t):
    """List the strips of a window, see `sum_patches`; tell how many cells a patch has, at most, and where they are.

    As many as the window, and nowhere, where there is no room for as many strips as that may have.
    """
    y0, y1, x0, x1 = load_i32(y_edges, 0), load_i32(y_edges, 1), load_i32(x_edges, 0), load_i32(x_edges, 1)
    height, width = y1 - y0, x1 - x0
    if load_i64(desc, LEVELS) == 1 or height < 1 or width < 1:
        return 0, 0
    if height + width > SUM_CELLS:
        return height * width, 0
    cuts, y_strips = more, more + 16 * load_i64(desc, LINES) + 16
    x_strips = y_strips + 8 * (height + 1)
    tall = list_strips(desc, cuts, y_strips, y_edges, ROWS, Y_EDGES, y0, y1)
    tallest = min(longest_strip(cuts, tall), SUM_CELLS // width)
    wide = list_strips(desc, cuts, x_strips, x_edges, COLUMNS, X_EDGES, x0, x1)
    return tallest * longest_strip(cuts, wide), y_strips


@routine(types.int64, only=lambda t: t.fixed)
def count_joins(level, strips, y_edges, x_edges, t):
    """Count the patches that a bin of a level is summed from, at most."""
    if strips == 0:
        return 0
    y0, y1, x0, x1 = load_i32(y_edges, 0), load_i32(y_edges, 1), load_i32(x_edges, 0), load_i32(x_edges, 1)
    rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
    part, x_strips = SUM_CELLS // (x1 - x0), strips + 8 * (y1 - y0 + 1)
    tall = most_strips(strips, y_places, rows, y0, y1, part)
    return tall * most_strips(x_strips, x_places, columns, x0, x1, SUM_CELLS)


@routine(UniTuple(types.int64, 4), only=shares_sums)
def subtract_areas(desc, areas, worth, bins, y_edges, x_edges, map_, waiting, beside, t):
    """Find the means of the bins of a window, of all levels, each from the four corners of its area.

    Return the box of those that are to be summed again, because they may be others: if none are, it ends where it has
    not begun.
    Bound: four vector loads and three operations per line of a sum, however large the bin; then to make it a mean, and
    where it may not be exact twenty operations to see that it is the mean. `waiting` and `beside` as in
    `reduce_blocks`, with each bin of the finest level.
    """
    size, cell, ahead = accumulator_bytes(t), area_bytes(t), beside - waiting
    y1, y0, x1, x0 = EVERYTHING
    step = (load_i64(map_, 2) + 1) * cell
    bounds = areas + (load_i64(map_, 1) + 1) * step
    patch, strips = 0, 0
    if count_cells(y_edges, x_edges) >= worth:
        patch, strips = list_patches(desc, areas + load_i64(desc, AREAS), y_edges, x_edges, t)
    for i in range(load_i64(desc, LEVELS)):
        level = load_i64(desc, LEVELS_AT) + LEVEL_BYTES * i
        rows, columns, y_places, x_places = grid_at(level, y_edges, x_edges)
        bin_ = bins + load_i64(level, FIRST) * size
        joins = patch + count_joins(level, strips, y_edges, x_edges, t)
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
                    if store_close(bin_, total, height, width, joins + height + width, bounds, t):
                        y0, y1, x0, x1 = min(y0, top), max(y1, bottom), min(x0, left), max(x1, right)
                bin_ += size
                if beside and i == 0:
                    send_line(waiting + ahead, waiting)
                    waiting += LINE_BYTES
    return y0, y1, x0, x1
