"""Windows of an image to windows of a map, and those to a plan: the rounding rules themselves are in `counting`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Maps, address_of
from ..geometry import ConvGeometry
from ..plan import Plan, bins_of
from ..pyramid import Pyramid
from ..windows import Rois, check_whole_cells, float_steps
from . import counting

SIDES = 1, 6  # where a map's height and width are in its row of the table of maps, and how long the row is
# By rounding: its number, and the rule by which windows are then divided into bins.
RULES = {
    "sppnet": (counting.SPPNET, "adaptive"),
    "fast_rcnn": (counting.FAST_RCNN, "fast_rcnn"),
    "cells": (counting.CELLS, "adaptive"),
}
LARGEST = float(np.finfo(np.float64).max)
VERY_FAR = 2.0**100  # cells: exact in float32, with room for sums and products


@dataclass(eq=False, slots=True)
class Cut:
    """R windows in cells of their maps.

    Attributes
    ----------
    cells : ndarray of int64, shape (7, R)
        Along y where a window begins, its cells, and the cells of its map; the same along x; its map.
    longest : int
        No window has more cells along an axis.
    rule : str
        How the cells are divided into bins, see `bin_edges`.
    inside : bool
        Whether all windows are known to lie inside their maps; what lies outside is cut off, from the bins.
    """

    cells: NDArray[np.int64]
    longest: int
    rule: str
    inside: bool

    def __len__(self) -> int:
        return len(self.index)

    @property
    def index(self) -> NDArray[np.int64]:
        """The map of each window."""
        index: NDArray[np.int64] = self.cells[6]
        return index


def cut_windows(rois: Rois, maps: Maps, geometry: ConvGeometry, rounding: str) -> Cut:
    """Check windows and round them to cells."""
    field, fields = SIDES
    sides = maps.address + 8 * field, 8 * fields if maps.ragged else 0
    number, rule = RULES[rounding]
    cells, longest, inside = _round(rois, sides, maps.count, geometry, number)
    return Cut(cells, longest, rule, inside)


def sppnet_cells(windows: NDArray[np.float64], height: int, width: int, geometry: ConvGeometry) -> NDArray[np.int64]:
    """Windows x0, y0, x1, y1 in half-open cells of a map, by the paper's appendix A.1."""
    sides = np.array([height, width], dtype=np.int64)
    cells, *_ = _round(Rois(np.ascontiguousarray(windows), None), (address_of(sides), 0), 1, geometry, counting.SPPNET)
    y, rows, _, x, columns = cells[:5]
    return np.stack([x, y, x + columns, y + rows], axis=1)


def _round(
    rois: Rois, sides: tuple[int, int], maps: int, geometry: ConvGeometry, rule: int
) -> tuple[NDArray[np.int64], int, bool]:
    """Round windows: see `Cut` for what is returned."""
    count = len(rois.windows)
    windows, numbers = _float64(rois.windows), None if rois.numbers is None else _float64(rois.numbers)
    steps = float_steps(geometry, False) if rule == counting.FAST_RCNN else (geometry.stride, geometry.offset, LARGEST)
    cells = np.empty((7, count), dtype=np.int64)
    found = counting.round_windows(
        *_place(windows), *_place(numbers), count, *sides, maps, *steps, rule, address_of(cells)
    )
    if found < 0:
        rois.check(maps)
        check_whole_cells(rois.windows)
        raise _not_a_window(rois, -found - 1)
    return cells, found // 2, found % 2 == 1


def _not_a_window(rois: Rois, i: int) -> ValueError:
    return ValueError(f"rois[{i}]: {rois.windows[i].tolist()} is not a window")


def scale_windows(
    rois: Rois, maps: Maps, geometry: ConvGeometry, aligned: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Check windows and scale them to cells for RoI align, see `Samples`, with the map of each."""
    count, wide = len(rois.windows), maps.dtype.itemsize == 8
    windows, numbers = _float64(rois.windows), None if rois.numbers is None else _float64(rois.numbers)
    memory = np.empty(5 * count, dtype=np.int64)
    places, steps = (*_place(windows), *_place(numbers), count, maps.count), float_steps(geometry, wide)
    found = counting.scale_windows(*places, *steps, VERY_FAR, aligned, wide, address_of(memory))
    if found:
        rois.check(maps.count)
        raise _not_a_window(rois, found - 1)
    return memory[: 4 * count].view(np.float64).reshape(count, 4), memory[4 * count :]


def _float64(array: NDArray[Any]) -> NDArray[np.float64]:
    """Convert: what is beyond its range is at its end."""
    if array.dtype == np.float64:
        return array
    if array.dtype.itemsize > 8:
        array = np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), array)
    return array.astype(np.float64, copy=False)


def _place(array: NDArray[np.float64] | None) -> tuple[int, int]:
    """Address, and bytes from one row to the next."""
    return (0, 0) if array is None else (address_of(array), array.strides[0])


def plan_windows(pyramid: Pyramid, cut: Cut, part: slice, unions: bool) -> Plan:
    """Lay out the tables for some of the windows; `unions` as in `plan_maps`."""
    cells = cut.cells[:, part]
    count = cells.shape[1]
    (grids, y_table, x_table), by_extent = bins_of(pyramid.levels, cut.rule, cells[1], cells[4], cut.longest, unions)
    tall, wide = y_table.shape[1], x_table.shape[1]
    edges = np.empty((count, tall + wide), dtype=np.int32)
    tables = address_of(y_table), address_of(x_table), by_extent
    windows = address_of(cells), cells.strides[0], not cut.inside
    total = counting.lay_edges(*tables, *windows, count, tall, wide, address_of(edges))
    return Plan(cells[6], grids, edges[:, :tall], edges[:, tall:], total, not cut.inside)
