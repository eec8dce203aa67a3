"""The order in which windows are pooled: by map, and where it pays by the size of their bins, and by place.

The maximum of an h x w bin is the maximum of overlapping blocks of 2^a x 2^b cells that cover it: of four, if a and b
are as large as they can be. So windows are sorted by (a, b) and the tile is widened step by step: every cell then holds
the maximum of its block, and a bin costs a few cells, however large it is. But a step costs as much as thousands of
blocks, and those across are needed again after each one down: so b is limited where few windows gain by another.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..arrays import address_of
from ..plan import Grids
from . import counting
from .counting import BLOCKS, MOST_POWER, NOTHING, RUNS
from .descriptor import COLUMNS, POWER, ROWS, X_EDGES, Y_EDGES

CELL_BLOCKS = 2  # a cell that is reduced by itself costs as much as so many blocks
STEP_BLOCKS = 4  # to widen a cell of the tile by a step, as so many
RUN_CELLS = 3  # to make a run longer by a cell costs as much as adding so many
NO_CHOICE = NOTHING, *8 * [0]

Choice: TypeAlias = tuple[int, ...]  # what `counting.order_windows` is to choose from, and by which bins and prices


@dataclass(eq=False, slots=True)
class Order:
    """Windows by map.

    Attributes
    ----------
    memory : ndarray of int64
        What has the following, one after the other.
    rows_at : int
        Address of R rows, of each window in the result and in the plan; 0: they are in order.
    starts_at : int
        Of where each of N maps' begin, and where the last ones end.
    powers_at : int
        Of ``a * POWER + b`` of each window, -1 where bins are empty or differ too much in height; of means of the
        length of runs, or 0; 0: reduce cell by cell.
    """

    memory: NDArray[np.int64]
    rows_at: int
    starts_at: int
    powers_at: int = 0


def order_room(count: int, maps: int) -> int:
    """Count the integers that it takes to order windows."""
    return 3 * count + maps + MOST_POWER + 6


def by_place(starts: NDArray[Any], stops: NDArray[Any]) -> NDArray[np.int64]:
    """Order windows by their middles: one after the other they read cells near each other."""
    return np.argsort(starts + stops, kind="stable")


def order_windows(
    index: NDArray[np.int64],
    maps: int,
    choice: Choice | None = None,
    edges: tuple[int, int] = (0, 0),
    room: int = 0,
    first: NDArray[np.int64] | None = None,
) -> Order:
    """Order windows by the map that each belongs to and then by what is chosen; otherwise they stay as they are.

    `edges` are where those of the first window are, and bytes to those of the next, for a choice; `room` is as in
    `Plan`, and `first` an order that they are brought into before.
    """
    count = len(index)
    if choice is None and maps == 1:
        memory = np.arange(count + 2)
        memory[count:] = 0, count
        if first is not None:
            memory[:count] = first
        return Order(memory, address_of(memory), address_of(memory) + 8 * count)
    memory = index if room else np.empty(order_room(count, maps), dtype=np.int64)
    rows = room or address_of(memory)
    starts = rows + 8 * count
    first_at = 0 if first is None else address_of(first)
    is_chosen = counting.order_windows(address_of(index), maps, count, first_at, *edges, *(choice or NO_CHOICE), rows)
    return Order(memory, rows, starts, starts + 8 * (maps + 2) if is_chosen else 0)


@lru_cache(maxsize=256)
def blocks_of(grids: Grids, packed_cells: int, across: bool) -> Choice | None:
    """Choose blocks, as in `Order`; `packed_cells` is how many cells are packed, and widened, down or `across`, too."""
    if grids.apart > 1:  # levels that are not joined from the finest
        return None
    return BLOCKS, *_finest(grids), CELL_BLOCKS, STEP_BLOCKS * packed_cells, POWER - 1 if across else 0


def runs_of(grids: Grids, packed_cells: int) -> Choice | None:
    """Choose how long the runs are that each window's bins are summed from, as in `Order`.

    A run is the sum of neighbouring cells, in a tile of its own: no longer than the narrowest bin of a window, and
    longer by a cell only where that saves more additions than it takes; `packed_cells` as in `blocks_of`.
    """
    if len(grids.levels) > 1:  # of more the patches are summed
        return None
    return RUNS, *_finest(grids), 0, RUN_CELLS * packed_cells, 0


def _finest(grids: Grids) -> tuple[int, ...]:
    """Where the edges of the bins of the finest level are, and how many."""
    base = grids.finest
    return 4 * grids.tall, base[Y_EDGES], base[ROWS], base[X_EDGES], base[COLUMNS]
