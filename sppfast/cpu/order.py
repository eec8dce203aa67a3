"""The order in which windows are pooled: by map, and where it pays by the size of their bins.

The maximum of an h x w bin is the maximum of overlapping blocks of 2^a x 2^b cells that cover it: of four, if a and b
are as large as they can be. So windows are sorted by (a, b) and the tile is widened step by step: every cell then holds
the maximum of its block, and a bin costs a few cells, however large it is. But a step costs as much as thousands of
blocks, and those across are needed again after each one down: so b is limited where few windows gain by another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..arrays import address_of
from ..plan import Plan
from . import counting
from .kernels import COLUMNS, POWER, ROWS, X_EDGES, Y_EDGES

CELL_BLOCKS = 2  # a cell that is reduced by itself costs as much as so many blocks
STEP_BLOCKS = 4  # to widen a cell of the tile by a step, as so many
RUN_CELLS = 3  # to make a run longer by a cell costs as much as adding so many
MOST_POWER = POWER**2 - 1


@dataclass(eq=False, slots=True)
class Order:
    """Windows by map.

    Attributes
    ----------
    rows : ndarray of int64, shape (R,)
        Their rows in the result and in the plan.
    starts : ndarray of int64
        Where each of N maps' begin, and where the last ones end.
    powers : ndarray of int64, shape (R,), or None
        ``a * POWER + b`` of each row, -1 where bins are empty or differ too much in height; of means the length of
        runs, or 0; none: reduce cell by cell.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    powers: NDArray[np.int64] | None


def order_windows(index: NDArray[np.int64], maps: int, powers: NDArray[np.int64] | None = None) -> Order:
    """Order windows by the map that each belongs to and then by their powers; otherwise they stay as they are."""
    count = len(index)
    if powers is None and maps == 1:
        return Order(np.arange(count), np.array([0, count]), None)
    more = 0 if powers is None else count + MOST_POWER + 4
    memory = np.empty(count + maps + 2 + more, dtype=np.int64)
    keys = address_of(index), maps, 0 if powers is None else address_of(powers), MOST_POWER
    counting.sort_windows(*keys, count, address_of(memory))
    return Order(memory[:count], memory[count:], powers)


def choose_powers(plan: Plan, packed_cells: int, across: bool) -> NDArray[np.int64] | None:
    """Choose blocks, as in `Order`; `packed_cells` is how many cells are packed, and widened, down or `across`, too."""
    if plan.grids.apart > 1:  # levels that are not joined from the finest
        return None
    prices = CELL_BLOCKS, STEP_BLOCKS * packed_cells
    return _choose(counting.choose_blocks, plan, POWER, *prices, POWER - 1 if across else 0)


def choose_runs(plan: Plan, packed_cells: int) -> NDArray[np.int64] | None:
    """Choose how long the runs are that each window's bins are summed from, as in `Order`.

    A run is the sum of neighbouring cells, in a tile of its own: no longer than the narrowest bin of a window, and
    longer by a cell only where that saves more additions than it takes; `packed_cells` as in `choose_powers`.
    """
    if len(plan.grids.levels) > 1:  # of more the patches are summed
        return None
    return _choose(counting.choose_lengths, plan, MOST_POWER + 1, RUN_CELLS * packed_cells)


def _choose(choose: Callable[..., bool], plan: Plan, room: int, *prices: int) -> NDArray[np.int64] | None:
    """Choose by the bins of the finest level, with room for so many costs."""
    base, count = plan.grids.finest, len(plan.y_edges)
    memory = np.empty(count + room, dtype=np.int64)
    chosen, costs = address_of(memory), address_of(memory) + 8 * count
    edges = address_of(plan.y_edges), address_of(plan.x_edges), plan.y_edges.strides[0]
    places = base[Y_EDGES], base[ROWS], base[X_EDGES], base[COLUMNS]
    return memory[:count] if choose(*edges, *places, count, *prices, costs, chosen) else None
