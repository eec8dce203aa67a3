"""The order in which windows are pooled: by map, and where it pays by the size of their bins.

The maximum of any h x w bin is the maximum of four overlapping blocks of 2^a x 2^b cells, with 2^a <= h <= 2^(a+1) and
2^b <= w <= 2^(b+1). So windows are sorted by (a, b) and the tile is widened step by step: every cell then holds the
maximum of its block, and a bin costs four cells, however large it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..plan import Plan
from .kernels import COLUMNS, FINER, POWER, ROWS, X_EDGES, Y_EDGES

ENOUGH_WINDOWS = 400  # fewer are reduced before the tile is widened
STEP_CELLS = 4  # widening the tile by a step costs as much for each cell as reducing so many


@dataclass(frozen=True, eq=False, slots=True)
class Order:
    """Windows by map.

    Attributes
    ----------
    rows : ndarray of int64, shape (R,)
        Their rows in the result and in the plan.
    starts : ndarray of int64, shape (N + 1,)
        Where each map's begin.
    powers : ndarray of int64, shape (R,), or None
        ``a * POWER + b`` of each window, -1 where its bins differ too much in size; none: reduce cell by cell.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    powers: NDArray[np.int64] | None


def order_windows(index: NDArray[np.int64], count: int, plan: Plan, cells: int, blocks: bool) -> Order:
    """Order windows by the map that each belongs to.

    `cells` is the number of cells of a map, `blocks` whether what is reduced may be reduced in overlapping blocks.
    """
    powers = _powers(plan, count * cells) if blocks and len(index) >= ENOUGH_WINDOWS else None
    if powers is None:
        return order_by_map(index, count)
    return _sorted(index * POWER**2 + powers, index, count, powers)


def order_by_map(index: NDArray[np.int64], count: int) -> Order:
    """Order windows by the map that each belongs to, and otherwise leave them as they are."""
    return _sorted(index, index, count, None)


def _sorted(key: NDArray[np.int64], index: NDArray[np.int64], count: int, powers: NDArray[np.int64] | None) -> Order:
    rows = np.argsort(key, kind="stable")
    starts = np.searchsorted(index[rows], np.arange(count + 1))
    return Order(rows, starts, None if powers is None else powers[rows])


def _powers(plan: Plan, cells: int) -> NDArray[np.int64] | None:
    """Sort the windows by the blocks that their bins are made of, if that is less work."""
    base = plan.levels[0]
    if (plan.levels[1:, FINER] < 0).any():
        return None
    tall = _extents(plan.y_edges, base[Y_EDGES], base[ROWS])
    wide = _extents(plan.x_edges, base[X_EDGES], base[COLUMNS])
    a, b = _power(tall), _power(wide)
    fits = (tall.max(axis=0) <= 2 << a) & (wide.max(axis=0) <= 2 << b) & (tall.min(axis=0) > 0) & (wide.min(axis=0) > 0)
    powers = np.where(fits, a * POWER + b, -1)
    steps = (int(a.max()) + 1) * (int(b.max()) + 1)
    by_cells = int((tall.sum(axis=0) * wide.sum(axis=0))[fits].sum())
    by_blocks = 4 * len(tall) * len(wide) * np.count_nonzero(fits) + STEP_CELLS * steps * cells
    return powers if by_blocks < by_cells else None


def _extents(edges: NDArray[np.int32], place: int, n: int) -> NDArray[np.int32]:
    """Cells of each bin of each window along an axis, (n, R): reductions over few bins are fast that way round."""
    stops, starts = edges[:, place + n : place + 2 * n], edges[:, place : place + n]
    return np.subtract(stops.T, starts.T, order="C")


def _power(extents: NDArray[np.int32]) -> NDArray[np.int64]:
    """Logarithm of the smallest of each window's extents, rounded down."""
    exponents: NDArray[np.int64] = np.frexp(np.maximum(extents.min(axis=0), 1))[1].astype(np.int64)
    return exponents - 1
