"""Plans: the tables that a kernel reduces by. Every rule of section and rounding ends here, as integers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arrays import address_of
from .memory import expect
from .pyramid import Level, Pyramid, bin_edges

LEVEL_FIELDS = 8
WINDOW_FIELDS = 6  # of a window along an axis, before the edges of its bins
LOOKUP = 4096  # extents up to here are looked up, not divided, where windows are many
SMALL_TABLE = 2**14  # edges: up to here a table is worth while for any number of windows

Edges: TypeAlias = NDArray[np.int32]


@dataclass(frozen=True, eq=False, slots=True)
class Grids:
    """The grids of bins that windows are divided into, each alike.

    Attributes
    ----------
    levels : ndarray of int64, shape (L, 8)
        Finest level first: rows, columns, first bin in the result; where its edges begin along y and along x; the level
        whose bins its own are unions of, or -1, how many of its rows, how many of its columns.
    finest : tuple of int
        The first of them.
    bins : int
        Bins of all levels.
    apart, bins_apart : int
        Levels that are not unions of finer ones, and their bins.
    lines : int
        Rows of bins of all levels, or columns, whichever are more.
    tall : int
        How many of a row of edges are along y, see `Plan`.
    """

    levels: NDArray[np.int64]
    finest: tuple[int, ...]
    bins: int
    apart: int
    bins_apart: int
    lines: int
    tall: int


@dataclass(eq=False, slots=True)
class Plan:
    """Where the bins of R windows lie, for the kernels.

    Attributes
    ----------
    index : ndarray of int64, shape (R,), or None
        The map of each window; None: each map is one.
    grids : Grids
        The bins of a window.
    edges : ndarray of int32, shape (R or 1, T)
        Along y, then along x: start and stop of all bins; of those of the finest level the cells of the shortest, or -1
        where the map cuts the window off, the power of two in those, the cells of the longest, and of all; then for
        each number of bins their starts and their stops.
    edges_at, edges_step : int
        Address of them, and bytes from one row to the next; 0: all maps have the same.
    cells : int
        Of all windows.
    may_be_empty : bool
        Whether there are bins without cells.
    starts_at, room : int
        Addresses of 0 and R, and of memory behind the index to order the windows in; or 0.
    """

    index: NDArray[np.int64] | None
    grids: Grids
    edges: Edges
    edges_at: int
    edges_step: int
    cells: int
    may_be_empty: bool
    starts_at: int = 0
    room: int = 0

    def part(self, part: Any) -> Plan:
        """Plan some of the windows: of a slice, or of an array of indices."""
        index = None if self.index is None else self.index[part]
        edges = self.edges[part]
        return replace(self, index=index, edges=edges, edges_at=address_of(edges), starts_at=0, room=0)


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """Where the samples of R windows lie, for RoI align.

    Attributes
    ----------
    index : ndarray of int64, shape (R,)
        The map of each window.
    windows : ndarray of float64, shape (R, 4)
        In cells: start and extent along y, start and extent along x.
    ratio : int
        Samples of a bin along an axis; 0: as many as the bin is cells wide, rounded up.
    grids : Grids
        The bins of a window.
    """

    index: NDArray[np.int64]
    windows: NDArray[np.float64]
    ratio: int
    grids: Grids

    def part(self, part: slice) -> Samples:
        """Plan some of the windows."""
        return replace(self, index=self.index[part], windows=self.windows[part])


def make_samples(pyramid: Pyramid, index: NDArray[np.int64], windows: NDArray[np.float64], ratio: int) -> Samples:
    """Lay out the tables of RoI align."""
    return Samples(index, windows, ratio, grids_of(pyramid.levels, frozenset(), frozenset(), False))


Nests: TypeAlias = frozenset[tuple[int, int]]  # pairs (coarse, fine) whose bins nest


@dataclass(frozen=True, eq=False, slots=True)
class Bins:
    """Where the bins of windows lie that begin at 0.

    Attributes
    ----------
    grids : Grids
        The bins of a window.
    y_edges, x_edges : ndarray of int32, shape (lengths or R, T)
        As in `Plan`, along an axis.
    lengths : int
        Rows of both are those of windows of 0, 1 ... cells, of so many; 0: of R windows.
    tables : tuple of int
        Addresses of both, `lengths`, and how long their rows are.
    """

    grids: Grids
    y_edges: Edges
    x_edges: Edges
    lengths: int
    tables: tuple[int, ...]


def plan_maps(pyramid: Pyramid, heights: NDArray[np.int64], widths: NDArray[np.int64], unions: bool) -> Plan:
    """Lay out the tables for whole maps, each a window of its own.

    `unions` says whether a bin may be reduced from finer ones that overlap: true of a maximum, false of a sum.
    """
    levels, rule = pyramid.levels, pyramid.bins
    axes = zip(counts_of(levels), max(levels, key=math.prod), (heights, widths), strict=True)
    (y_edges, y_nests), (x_edges, x_nests) = (_of_maps(counts, rule, sides, finest) for counts, finest, sides in axes)
    edges = np.concatenate([y_edges, x_edges], axis=1)
    step = edges.strides[0] if len(edges) > 1 else 0
    grids, cells = grids_of(levels, y_nests, x_nests, unions), int(np.dot(heights, widths))
    return Plan(None, grids, edges, address_of(edges), step, cells, rule == "caffe")


def _of_maps(counts: tuple[int, ...], rule: str, sides: NDArray[np.int64], finest: int) -> tuple[Edges, Nests]:
    """Edges of maps along an axis, see `_relative`: of any sizes, but those that a side can have come again."""
    edges, nests = zip(*(_of_map(counts, rule, side, finest) for side in sides.tolist()), strict=True)
    return np.concatenate(edges), frozenset.intersection(*nests)


@lru_cache(maxsize=2**12)
def _of_map(counts: tuple[int, ...], rule: str, side: int, finest: int) -> tuple[Edges, Nests]:
    return _relative(counts, rule, np.array([side]), finest)


def plan_bytes(pyramid: Pyramid) -> int:
    """Size of a window's row of both tables of edges."""
    return window_edges(pyramid.levels) * np.dtype(np.int32).itemsize


@lru_cache(maxsize=256)
def window_edges(levels: tuple[Level, ...]) -> int:
    """Count the edges of a window along both axes."""
    return sum(axis_edges(counts) for counts in counts_of(levels))


def axis_edges(counts: tuple[int, ...]) -> int:
    """Count the edges of a window along an axis that has these numbers of bins."""
    return WINDOW_FIELDS + 2 * sum(counts)


@lru_cache(maxsize=256)
def counts_of(levels: tuple[Level, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Distinct numbers of rows and of columns, falling."""
    rows, columns = (tuple(sorted(set(counts), reverse=True)) for counts in zip(*levels, strict=True))
    return rows, columns


def bins_by_extent(levels: tuple[Level, ...], rule: str, longest: int, are_many: bool, unions: bool) -> Bins | None:
    """Divide windows of each extent up to `longest`, and some more, where that is worth while, as for many windows."""
    if longest >= LOOKUP or not (are_many or longest < SMALL_TABLE // window_edges(levels)):
        return None
    return _bins_by_extent(levels, rule, 1 << longest.bit_length(), unions)


def bins_by_window(
    levels: tuple[Level, ...], rule: str, heights: NDArray[np.int64], widths: NDArray[np.int64], unions: bool
) -> Bins:
    """Divide windows of these extents."""
    expect(len(heights), window_edges(levels))
    return _divide(levels, rule, heights, widths, unions)


@lru_cache(maxsize=64)
def _bins_by_extent(levels: tuple[Level, ...], rule: str, lengths: int, unions: bool) -> Bins:
    return _divide(levels, rule, np.arange(lengths), np.arange(lengths), unions, lengths)


def _divide(
    levels: tuple[Level, ...],
    rule: str,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    unions: bool,
    lengths: int = 0,
) -> Bins:
    rows, columns = counts_of(levels)
    finest = max(levels, key=math.prod)
    y_edges, y_nests = _relative(rows, rule, heights, finest[0])
    x_edges, x_nests = _relative(columns, rule, widths, finest[1])
    tables = address_of(y_edges), address_of(x_edges), lengths, y_edges.shape[1], x_edges.shape[1]
    return Bins(grids_of(levels, y_nests, x_nests, unions), y_edges, x_edges, lengths, tables)


def _relative(counts: tuple[int, ...], rule: str, extents: NDArray[np.int64], finest: int) -> tuple[Edges, Nests]:
    """Edges of windows that begin at 0, and which numbers of bins nest; `finest` is that of the finest level."""
    bins = {n: bin_edges(extents, n, rule) for n in counts}
    nests = frozenset((coarse, fine) for coarse in counts for fine in counts if _nest(bins[coarse], bins[fine]))
    parts = [part for n in counts for part in bins[n]]
    stop = np.max([part.max(axis=1, initial=0) for part in (extents[:, None], *parts)], axis=0)
    cells = bins[finest][1] - bins[finest][0]
    shortest = cells.min(axis=1)
    power = np.frexp(np.maximum(shortest, 1))[1] - 1
    window = np.zeros_like(stop), stop, shortest, power, cells.max(axis=1), cells.sum(axis=1)
    return np.concatenate([np.stack(window, axis=1), *parts], axis=1).astype(np.int32), nests


def _nest(coarse: NDArray[np.int64], fine: NDArray[np.int64]) -> bool:
    """Whether every coarse bin is the union of as many fine ones, without a gap, in every window."""
    ratio, rest = divmod(fine.shape[2], coarse.shape[2])
    if rest or ratio == 1:
        return not rest
    same = np.array_equal(coarse[0], fine[0, :, ::ratio]) and np.array_equal(coarse[1], fine[1, :, ratio - 1 :: ratio])
    return same and bool((fine[0, :, 1:] <= fine[1, :, :-1]).all())


@lru_cache(maxsize=256)
def grids_of(levels: tuple[Level, ...], y_nests: Nests, x_nests: Nests, unions: bool) -> Grids:
    """Survey the levels; `unions` as in `plan_maps`."""
    table = level_table(levels, y_nests, x_nests, unions)
    rows, columns, finer = table[:, 0], table[:, 1], table[:, 5]
    bins, apart = rows * columns, finer < 0
    lines = int(max(rows.sum(), columns.sum()))
    counts = int(bins.sum()), int(apart.sum()), int(bins[apart].sum()), lines, axis_edges(counts_of(levels)[0])
    return Grids(table, tuple(table[0].tolist()), *counts)


@lru_cache(maxsize=256)
def level_table(levels: tuple[Level, ...], y_nests: Nests, x_nests: Nests, unions: bool) -> NDArray[np.int64]:
    """Describe the levels to the kernels, finest first, each after the level that it is made from."""
    first = np.cumsum([0, *(r * c for r, c in levels)])
    order = sorted(range(len(levels)), key=lambda i: -levels[i][0] * levels[i][1])
    table = np.empty((len(levels), LEVEL_FIELDS), dtype=np.int64)
    y_places, x_places = (
        dict(zip(counts, WINDOW_FIELDS + 2 * np.cumsum((0, *counts)), strict=False)) for counts in counts_of(levels)
    )
    for k, i in enumerate(order):
        r, c = levels[i]
        finer, tall, wide = -1, 1, 1
        for j in range(k if unions else 0):  # the last that fits is the coarsest, and the least work
            fine_r, fine_c = levels[order[j]]
            if (r, fine_r) in y_nests and (c, fine_c) in x_nests:
                finer, tall, wide = j, fine_r // r, fine_c // c
        table[k] = r, c, first[i], y_places[r], x_places[c], finer, tall, wide
    return table
