"""Kernels that look at all windows before they are pooled: how much work they are, and in which order they come."""

from numba import int64
from numba.types import UniTuple

from .compile import compiled, routine
from .kernels import POWER
from .lanes import load_i32


@routine(UniTuple(int64, 2))
def power_of(edges, n):
    """Power of two of the blocks that n bins along an axis are made of, or -1; and the cells of all bins."""
    least, most, cells = load_i32(edges, n) - load_i32(edges, 0), 0, 0
    for i in range(n):
        extent = load_i32(edges, n + i) - load_i32(edges, i)
        least, most, cells = min(least, extent), max(most, extent), cells + extent
    power = 0
    while 2 << power <= least:
        power += 1
    return power if least > 0 and most <= 2 << power else -1, cells


@compiled("UniTuple(int64, 4)(int64, int64, int64, int64, int64, int64, int64, int64, int64[::1])")
def survey(y_edges, y_step, y_place, rows, x_edges, x_step, x_place, columns, powers):
    """Find the blocks that each window's bins are made of, -1: they differ too much in size.

    Returns the cells of all windows, those of the bins that are made of blocks, how many such bins, and how many
    sizes of blocks there are up to the largest.
    """
    cells, covered, bins, tallest, widest = 0, 0, 0, 0, 0
    for i in range(len(powers)):
        y, x = y_edges + i * y_step, x_edges + i * x_step
        cells += (load_i32(y, 1) - load_i32(y, 0)) * (load_i32(x, 1) - load_i32(x, 0))
        tall, height = power_of(y + 4 * y_place, rows)
        wide, width = power_of(x + 4 * x_place, columns)
        fits = min(tall, wide) >= 0
        powers[i] = tall * POWER + wide if fits else -1
        if fits:
            covered += height * width
            bins += rows * columns
            tallest, widest = max(tallest, tall), max(widest, wide)
    return cells, covered, bins, (tallest + 1) * (widest + 1)


@compiled("void(int64[::1], int64, int64[::1], int64[::1], int64[::1])")
def sort(keys, low, order, starts, result):
    """Sort an order stably by keys from `low` on; ``starts[i]`` is where those of ``low + i`` begin."""
    starts[:] = 0
    for key in keys:
        starts[key - low + 1] += 1
    for i in range(1, len(starts)):
        starts[i] += starts[i - 1]
    place = starts.copy()
    for i in order:
        result[place[keys[i] - low]] = i
        place[keys[i] - low] += 1
