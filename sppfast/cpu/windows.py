"""Windows of an image to windows of a map, and those to a plan: the rounding rules themselves are in `counting`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Maps, address_of
from ..geometry import ConvGeometry
from ..plan import Bins, Plan, bins_by_extent, bins_by_window, window_edges
from ..pyramid import Pyramid
from ..windows import Rois, check_whole_cells, float_steps
from . import counting
from .counting import HEADER, WINDOW_NUMBERS
from .order import order_room

FIRST_SIDE = 1  # where a map's height, and then its width, is in its row of the table of maps
# By rounding: its number, and the rule by which windows are then divided into bins.
RULES = {
    "sppnet": (counting.SPPNET, "adaptive"),
    "fast_rcnn": (counting.FAST_RCNN, "fast_rcnn"),
    "cells": (counting.CELLS, "adaptive"),
}
LARGEST = float(np.finfo(np.float64).max)
NO_TABLES = 0, 0, 0, 0, 0
FLOATS = np.dtype(np.float64), np.dtype(np.float32)
VERY_FAR = 2.0**100  # cells: exact in float32, with room for sums and products


def plan_windows(
    part: slice, pyramid: Pyramid, rois: Rois, maps: Maps, geometry: ConvGeometry, rounding: str, unions: bool
) -> Plan:
    """Check some windows, round them to cells, and lay out their tables; `unions` as in `plan_maps`."""
    levels, count = pyramid.levels, part.stop - part.start
    room = HEADER + WINDOW_NUMBERS * count
    numbers = np.empty(room + order_room(count, maps.count), dtype=np.int64)
    edges = np.empty((count, window_edges(levels)), dtype=np.int32)
    rule, division = RULES[rounding]
    edges_at = address_of(edges)
    given = rois, part, _sides(maps), maps.count, geometry, rule, numbers, edges_at
    bins = bins_by_extent(levels, division, count, maps.longest + 1, unions)
    longest, cells, may_be_empty = _round(*given, bins)
    if bins is None or longest >= bins.lengths:
        heights, widths = numbers[HEADER:room].reshape(WINDOW_NUMBERS, count)[2::2]
        bins = bins_by_extent(levels, division, count, longest, unions)
        bins = bins or bins_by_window(levels, division, heights, widths, unions)
        _, cells, may_be_empty = _round(*given, bins)
    index, room_at = numbers[HEADER : HEADER + count], address_of(numbers) + 8 * room
    return Plan(index, bins.grids, edges, edges_at, bins.y_edges.shape[1], cells, may_be_empty > 0, room_at)


def check_windows(rois: Rois, maps: Maps, geometry: ConvGeometry, rounding: str) -> None:
    """Check all windows."""
    rule, _ = RULES[rounding]
    every = slice(0, len(rois))
    numbers = np.empty(HEADER + WINDOW_NUMBERS * len(rois), dtype=np.int64)
    _round(rois, every, _sides(maps), maps.count, geometry, rule, numbers)


def sppnet_cells(windows: NDArray[np.float64], height: int, width: int, geometry: ConvGeometry) -> NDArray[np.int64]:
    """Windows x0, y0, x1, y1 in half-open cells of a map, by the paper's appendix A.1."""
    sides, count = np.array([height, width], dtype=np.int64), len(windows)
    rois, every = Rois(np.ascontiguousarray(windows), None), slice(0, count)
    numbers = np.empty(HEADER + WINDOW_NUMBERS * count, dtype=np.int64)
    _round(rois, every, (address_of(sides), 0), 1, geometry, counting.SPPNET, numbers)
    y, rows, x, columns = numbers[HEADER + count :].reshape(4, count)
    return np.stack([x, y, x + columns, y + rows], axis=1)


def _sides(maps: Maps) -> tuple[int, int]:
    """Where the heights and widths of maps are, and bytes from one map's to the next's."""
    return maps.address + 8 * FIRST_SIDE, maps.table.strides[0] if maps.ragged else 0


def _round(
    rois: Rois,
    part: slice,
    sides: tuple[int, int],
    maps: int,
    geometry: ConvGeometry,
    rule: int,
    numbers: NDArray[np.int64],
    edges_at: int = 0,
    bins: Bins | None = None,
) -> list[int]:
    """Round some windows, and lay out the edges of their bins: see `counting.plan_windows` for what is returned."""
    windows, index = _floats(rois.windows[part]), None if rois.numbers is None else _floats(rois.numbers[part])
    steps = [geometry.stride, geometry.offset, LARGEST]
    if rule == counting.FAST_RCNN:
        steps = float_steps(geometry.stride, geometry.offset, False)
    tables = NO_TABLES if bins is None else bins.tables
    given = *_place(windows), *_place(index), len(windows), *sides, maps, *steps, rule, *tables
    wrong = counting.plan_windows(*given, edges_at, address_of(numbers))
    if wrong:
        rois.check(maps)
        check_whole_cells(rois.windows)
        raise _not_a_window(rois, part.start + wrong - 1)
    found: list[int] = numbers[:HEADER].tolist()
    return found


def _not_a_window(rois: Rois, i: int) -> ValueError:
    return ValueError(f"rois[{i}]: {rois.windows[i].tolist()} is not a window")


def scale_windows(
    rois: Rois, maps: Maps, geometry: ConvGeometry, aligned: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Check windows and scale them to cells for RoI align, see `Samples`, with the map of each."""
    count, wide = len(rois), maps.dtype.itemsize == 8
    windows, numbers = _floats(rois.windows), None if rois.numbers is None else _floats(rois.numbers)
    memory = np.empty(5 * count, dtype=np.int64)
    steps = float_steps(geometry.stride, geometry.offset, wide)
    places = *_place(windows), *_place(numbers), count, maps.count
    found = counting.scale_windows(*places, *steps, VERY_FAR, aligned, wide, address_of(memory))
    if found:
        rois.check(maps.count)
        raise _not_a_window(rois, found - 1)
    return memory[: 4 * count].view(np.float64).reshape(count, 4), memory[4 * count :]


def _floats(array: NDArray[Any]) -> NDArray[Any]:
    """Convert to float64, unless it is float32: what is beyond its range is at its end."""
    if array.dtype in FLOATS:
        return array
    array = np.ascontiguousarray(array)  # see `memory.expect`
    if array.dtype.itemsize > 8:
        array = np.where(np.isfinite(array), np.clip(array, -LARGEST, LARGEST), array)
    return array.astype(np.float64)


def _place(array: NDArray[Any] | None) -> tuple[int, int, int]:
    """Address, and bytes from one row to the next, and from one item of a row to the next."""
    return (0, 0, 8) if array is None else (address_of(array), array.strides[0], array.itemsize)
