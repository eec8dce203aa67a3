"""Windows of an image to windows of a map, and those to a plan: the rounding rules themselves are in `counting`."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Maps, address_of, remembered
from ..geometry import ConvGeometry
from ..plan import Bins, Plan, bins_by_extent, bins_by_window, window_edges
from ..pyramid import Level, Pyramid
from ..windows import Rois, check_whole_cells, float_steps
from . import counting
from .counting import HEADER, WINDOW_NUMBERS
from .order import order_room

FIRST_SIDE = 1  # where a map's height, and then its width, is in its row of the table of maps
# By rounding: its number, and the rule by which windows are then divided into bins.
ROUNDINGS = {
    "sppnet": (counting.SPPNET, "adaptive"),
    "fast_rcnn": (counting.FAST_RCNN, "fast_rcnn"),
    "cells": (counting.CELLS, "adaptive"),
}
LARGEST = float(np.finfo(np.float64).max)
NO_TABLES = 0, 0, 0, 0, 0
FLOATS = np.dtype(np.float64), np.dtype(np.float32)
VERY_FAR = 2.0**100  # cells: exact in float32, with room for sums and products


class Rules:
    """How windows of some maps are rounded to cells and divided into bins.

    Attributes
    ----------
    address : int
        Of what `counting.plan_windows` is told.
    bins : Bins, or None
        Where bins lie, of windows of each extent or of each window; None: that is not asked.
    """

    def __init__(
        self, sides: tuple[int, int], maps: int, stride: float, offset: float, rounding: str, bins: Bins | None
    ) -> None:
        number, _ = ROUNDINGS[rounding]
        steps = [stride, offset, LARGEST]
        if number == counting.FAST_RCNN:
            steps = float_steps(stride, offset, False)
        tables = NO_TABLES if bins is None else bins.tables
        self.bins = bins
        self._fields = array("q", [*sides, maps, number, *np.array(steps).view(np.int64).tolist(), *tables])
        self.address = self._fields.buffer_info()[0]


def plan_windows(
    part: slice, pyramid: Pyramid, rois: Rois, maps: Maps, geometry: ConvGeometry, rounding: str, unions: bool
) -> Plan:
    """Check some windows, round them to cells, and lay out their tables; `unions` as in `plan_maps`."""
    levels, count = pyramid.levels, part.stop - part.start
    room = HEADER + WINDOW_NUMBERS * count
    numbers = np.empty(room + order_room(count, maps.count), dtype=np.int64)
    edges = np.empty((count, window_edges(levels)), dtype=np.int32)
    edges_at, numbers_at = address_of(edges), address_of(numbers)
    given = levels, geometry.stride, geometry.offset, rounding, unions
    rules = _rules_by_extent(maps, *given, 2 * count > maps.longest + 1)
    longest, cells, may_be_empty = _round(rois, part, maps.count, rules, edges_at, numbers_at)
    if rules.bins is None or longest >= rules.bins.lengths:
        extents = numbers[HEADER:room].reshape(WINDOW_NUMBERS, count)[2::2]
        rules = _rules_of_windows(maps, *given, longest, *extents)
        _, cells, may_be_empty = _round(rois, part, maps.count, rules, edges_at, numbers_at)
    bins, index = rules.bins, numbers[HEADER : HEADER + count]
    assert bins is not None
    step = edges.strides[0]
    return Plan(index, bins.grids, edges, edges_at, step, cells, may_be_empty > 0, numbers_at, numbers_at + 8 * room)


def check_windows(rois: Rois, maps: Maps, geometry: ConvGeometry, rounding: str) -> None:
    """Check all windows."""
    rules = Rules(_sides(maps), maps.count, geometry.stride, geometry.offset, rounding, None)
    numbers = np.empty(HEADER + WINDOW_NUMBERS * len(rois), dtype=np.int64)
    _round(rois, slice(0, len(rois)), maps.count, rules, 0, address_of(numbers))


def sppnet_cells(windows: NDArray[np.float64], height: int, width: int, geometry: ConvGeometry) -> NDArray[np.int64]:
    """Windows x0, y0, x1, y1 in half-open cells of a map, by the paper's appendix A.1."""
    sides, count = np.array([height, width], dtype=np.int64), len(windows)
    rules = Rules((address_of(sides), 0), 1, geometry.stride, geometry.offset, "sppnet", None)
    numbers = np.empty(HEADER + WINDOW_NUMBERS * count, dtype=np.int64)
    _round(Rois(np.ascontiguousarray(windows), None), slice(0, count), 1, rules, 0, address_of(numbers))
    y, rows, x, columns = numbers[HEADER + count :].reshape(4, count)
    return np.stack([x, y, x + columns, y + rows], axis=1)


@remembered
def _rules_by_extent(
    maps: Maps, levels: tuple[Level, ...], stride: float, offset: float, rounding: str, unions: bool, are_many: bool
) -> Rules:
    """Look up the bins of each extent that the maps have, where that is worth while: for many windows it is."""
    longest = maps.longest + 1
    bins = bins_by_extent(levels, ROUNDINGS[rounding][1], longest, are_many, unions)
    return Rules(_sides(maps), maps.count, stride, offset, rounding, bins)


def _rules_of_windows(
    maps: Maps,
    levels: tuple[Level, ...],
    stride: float,
    offset: float,
    rounding: str,
    unions: bool,
    longest: int,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
) -> Rules:
    """Look up or divide the bins of windows of these extents, none above the longest."""
    _, division = ROUNDINGS[rounding]
    bins = bins_by_extent(levels, division, longest, 2 * len(heights) > longest, unions)
    bins = bins or bins_by_window(levels, division, heights, widths, unions)
    return Rules(_sides(maps), maps.count, stride, offset, rounding, bins)


def _sides(maps: Maps) -> tuple[int, int]:
    """Where the heights and widths of maps are, and bytes from one map's to the next's."""
    return maps.address + 8 * FIRST_SIDE, maps.table.strides[0] if maps.ragged else 0


def _round(rois: Rois, part: slice, maps: int, rules: Rules, edges_at: int, numbers_at: int) -> tuple[int, int, int]:
    """Round some windows, and lay out the edges of their bins: see `counting.plan_windows` for what is written.

    Returns the most cells of a window along an axis, the cells of all, and whether bins may be empty.
    """
    _kept, places = _place(rois, part)
    wrong, longest, cells, may_be_empty = counting.plan_windows(
        rules.address, *places, part.stop - part.start, edges_at, numbers_at
    )
    if wrong:
        rois.check(maps)
        check_whole_cells(rois.windows)
        raise _not_a_window(rois, part.start + wrong - 1)
    return longest, cells, may_be_empty


def _not_a_window(rois: Rois, i: int) -> ValueError:
    return ValueError(f"rois[{i}]: {rois.windows[i].tolist()} is not a window")


def scale_windows(
    rois: Rois, maps: Maps, geometry: ConvGeometry, aligned: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Check windows and scale them to cells for RoI align, see `Samples`, with the map of each."""
    count, wide = len(rois), maps.in_double
    _kept, places = _place(rois, slice(0, count))
    memory = np.empty(5 * count, dtype=np.int64)
    steps = float_steps(geometry.stride, geometry.offset, wide)
    found = counting.scale_windows(*places, count, maps.count, *steps, VERY_FAR, aligned, wide, address_of(memory))
    if found:
        rois.check(maps.count)
        raise _not_a_window(rois, found - 1)
    return memory[: 4 * count].view(np.float64).reshape(count, 4), memory[4 * count :]


def _place(rois: Rois, part: slice) -> tuple[Any, tuple[int, ...]]:
    """Find some windows and the numbers of their maps: what to keep alive, and where both lie.

    That is, of each, an address, and bytes from one row to the next, and from one item of a row to the next.
    """
    every = part.stop - part.start == len(rois.rows)
    rows, index = _floats(rois.rows if every else rois.rows[part]), rois.batch_index
    address, (step, item) = address_of(rows), rows.strides
    if rows.shape[1] == 5:
        return rows, (address + item, step, item, address, step, item)
    if index is None:
        return rows, (address, step, item, 0, 0, item)
    index = _floats(index if every else index[part])
    return (rows, index), (address, step, item, address_of(index), index.strides[0], index.itemsize)


def _floats(array: NDArray[Any]) -> NDArray[Any]:
    """Convert to float64, unless it is float32: what is beyond its range is at its end."""
    if array.dtype in FLOATS:
        return array
    array = np.ascontiguousarray(array)  # see `memory.expect`
    if array.dtype.itemsize > 8:
        array = np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), array)
    return array.astype(np.float64)
