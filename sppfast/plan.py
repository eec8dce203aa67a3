"""Plans: the tables that a kernel reduces by. Every rule of section and rounding ends here, as integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .pyramid import Level, Pyramid

Bins: TypeAlias = NDArray[np.int64]  # (2, R, n): starts and stops of n bins, for each of R windows
LEVEL_FIELDS = 7


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """Where the bins of R windows lie, for the kernels.

    Attributes
    ----------
    edges : ndarray of int32, shape (R, T)
        For each level: starts of its rows, stops of its rows, starts of its columns, stops of its columns.
    levels : ndarray of int64, shape (L, 7)
        Finest level first: rows, columns, first bin in the result, place of its edges, the level whose bins
        its own are unions of (or -1), how many of its rows, how many of its columns.
    bins : int
        Bins of all levels.
    edges_at, levels_at : int
        Addresses of the two tables, which live as long as the plan.
    """

    edges: NDArray[np.int32]
    levels: NDArray[np.int64]
    bins: int
    edges_at: int
    levels_at: int


def make_plan(pyramid: Pyramid, rows: Callable[[int], Bins], columns: Callable[[int], Bins], unions: bool) -> Plan:
    """Lay out the tables.

    Parameters
    ----------
    pyramid : Pyramid
        The levels.
    rows, columns : callable
        The bins of an axis: number of bins to starts and stops, for all windows.
    unions : bool
        Whether bins may be reduced from overlapping finer ones: true of a maximum, false of a sum.
    """
    bins_y = {n: rows(n) for n in {level[0] for level in pyramid.levels}}
    bins_x = {n: columns(n) for n in {level[1] for level in pyramid.levels}}
    count = next(iter(bins_y.values())).shape[1]
    edges = np.empty((count, 2 * sum(map(sum, pyramid.levels))), dtype=np.int32)
    first = np.cumsum([0, *(r * c for r, c in pyramid.levels)])
    order = sorted(range(len(pyramid.levels)), key=lambda i: -pyramid.levels[i][0] * pyramid.levels[i][1])
    table = np.empty((len(order), LEVEL_FIELDS), dtype=np.int64)
    place = 0
    done: list[Level] = []
    for k, i in enumerate(order):
        level = pyramid.levels[i]
        table[k] = (*level, first[i], place, *_finer(level, done, bins_y, bins_x, unions))
        for part in (*bins_y[level[0]], *bins_x[level[1]]):
            edges[:, place : place + part.shape[1]] = part
            place += part.shape[1]
        done.append(level)
    return Plan(edges, table, int(first[-1]), edges.ctypes.data, table.ctypes.data)


def _finer(
    level: Level, done: list[Level], bins_y: dict[int, Bins], bins_x: dict[int, Bins], unions: bool
) -> tuple[int, int, int]:
    """Find the coarsest finished level whose bins `level`'s are unions of."""
    for k in range(len(done) - 1, -1, -1) if unions else ():
        finer = done[k]
        if _nests(bins_y[level[0]], bins_y[finer[0]]) and _nests(bins_x[level[1]], bins_x[finer[1]]):
            return k, finer[0] // level[0], finer[1] // level[1]
    return -1, 1, 1


def _nests(coarse: Bins, fine: Bins) -> bool:
    """Whether every coarse bin is the union of as many fine ones, without a gap, in every window."""
    ratio, rest = divmod(fine.shape[2], coarse.shape[2])
    if rest or coarse is fine:
        return not rest
    same = np.array_equal(coarse[0], fine[0, :, ::ratio]) and np.array_equal(coarse[1], fine[1, :, ratio - 1 :: ratio])
    return same and bool((fine[0, :, 1:] <= fine[1, :, :-1]).all())
