"""The order in which windows are pooled: by map, and where it pays by the size of their bins.

The maximum of any h x w bin is the maximum of four overlapping blocks of 2^a x 2^b cells, with 2^a <= h <= 2^(a+1) and
2^b <= w <= 2^(b+1). So windows are sorted by (a, b) and the tile is widened step by step: every cell then holds the
maximum of its block, and a bin costs four cells, however large it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import address_of
from ..plan import Plan
from . import counting
from .kernels import COLUMNS, POWER, ROWS, X_EDGES, Y_EDGES

BLOCKS = 4  # of a bin
STEP_CELLS = 1  # widening the tile by a step costs as much for each cell as reducing so many


@dataclass(eq=False, slots=True)
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


def order_windows(index: NDArray[np.int64], count: int, powers: NDArray[np.int64] | None = None) -> Order:
    """Order windows by the map that each belongs to and then by their powers; otherwise they stay as they are."""
    order = np.arange(len(index))
    if powers is not None:
        order = _sorted(powers, -1, order, POWER**2)[0]
    rows, starts = _sorted(index, 0, order, count) if count > 1 else (order, np.array([0, len(index)]))
    return Order(rows, starts, None if powers is None else powers[rows])


def _sorted(
    keys: NDArray[np.int64], low: int, order: NDArray[np.int64], high: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort by keys from `low` to below `high`, stably: the order, and where each key's begin."""
    result, starts = np.empty_like(order), np.empty(high - low + 2, dtype=np.int64)
    places = address_of(order), len(order), address_of(starts), address_of(result)
    counting.sort(address_of(keys), low, high, *places)
    return result, starts[:-1]


@dataclass(eq=False, slots=True)
class Survey:
    """What there is to do for all windows, in cells of one channel block.

    Attributes
    ----------
    cells : int
        Of all windows.
    powers : ndarray of int64, shape (R,), or None
        As in `Order`, if all levels but the finest are joined from finer ones.
    by_cells, by_blocks : int
        Work for the bins that may be made of blocks: cell by cell, or by blocks.
    steps : int
        By how many steps the tile is widened for the blocks.
    """

    cells: int
    powers: NDArray[np.int64] | None
    by_cells: int
    by_blocks: int
    steps: int

    def chosen_powers(self, packed_cells: int) -> NDArray[np.int64] | None:
        """Choose blocks where they are less work; `packed_cells` is how many cells are packed, and widened."""
        by_blocks = self.by_blocks + STEP_CELLS * self.steps * packed_cells
        return self.powers if by_blocks < self.by_cells else None


def survey_windows(plan: Plan) -> Survey:
    """Count the work of windows."""
    base = plan.levels[0]
    powers = np.empty(len(plan.y_edges), dtype=np.int64)
    edges = address_of(plan.y_edges), address_of(plan.x_edges), plan.y_edges.strides[0]
    places = base[Y_EDGES], base[ROWS], base[X_EDGES], base[COLUMNS]
    cells, covered, bins, steps = counting.survey(*edges, *places, len(powers), address_of(powers))
    return Survey(cells, powers if plan.apart == 1 else None, covered, BLOCKS * bins, steps)
