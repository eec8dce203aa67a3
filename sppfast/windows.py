"""Windows of an image: what `rois` may be, and the rounding rules that turn windows into bins of cells."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import is_sequence
from .geometry import ConvGeometry, check_windows
from .plan import Axis

ROUNDINGS = ("sppnet", "fast_rcnn", "cells")
FAR = 2**29  # cells: further out than maps reach, and safe in int32 sums
VERY_FAR = 2.0**100  # cells: exact in float32, with room for sums and products

Windows = NDArray[Any]  # (R, 4): x0, y0, x1, y1


def parse_rois(rois: Any, batch_index: Any, maps: int) -> tuple[Windows, NDArray[np.int64]]:
    """Bring the three forms of `rois` into one: windows (R, 4) and the map of each (R,)."""
    if _is_sequence_of_windows(rois):
        return _parse_sequence(rois, batch_index, maps)
    array = _real("rois", rois)
    if array.size == 0 and array.ndim < 2:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise ValueError(f"rois: expected shape (R, 4) or (R, 5), got {array.shape}")
    if array.shape[1] == 5:
        if batch_index is not None:
            raise ValueError("batch_index: rois of shape (R, 5) already hold the batch index, expected None")
        windows, index = array[:, 1:], _whole_index(array[:, 0], maps)
    else:
        windows, index = array, _parse_batch_index(batch_index, len(array), maps)
    check_windows(windows, "rois")
    return windows, index


def _is_sequence_of_windows(rois: Any) -> bool:
    if isinstance(rois, np.ndarray):
        return rois.ndim == 3
    return is_sequence(rois) and len(rois) > 0 and all(_is_windows(windows) for windows in rois)


def _is_windows(windows: Any) -> bool:
    try:
        shape = np.shape(windows) if not isinstance(windows, str | bytes) else ()
    except ValueError:  # rows of different lengths: windows, if wrong ones
        return True
    return len(shape) == 2 or shape == (0,)


def _parse_sequence(rois: Sequence[Any], batch_index: Any, maps: int) -> tuple[Windows, NDArray[np.int64]]:
    if batch_index is not None:
        raise ValueError("batch_index: a sequence of rois already has one item per map, expected None")
    if len(rois) != maps:
        raise ValueError(f"rois: expected one item for each of {maps} maps, got {len(rois)}")
    parts = []
    for i, windows in enumerate(rois):
        part = _real(f"rois[{i}]", windows)
        part = part.reshape(0, 4) if part.shape == (0,) else part
        if part.ndim != 2 or part.shape[1] != 4:
            raise ValueError(f"rois[{i}]: expected shape (R, 4), got {part.shape}")
        check_windows(part, f"rois[{i}]")
        parts.append(part)
    index = np.repeat(np.arange(maps, dtype=np.int64), [len(part) for part in parts])
    return np.concatenate(parts), index


def _real(name: str, value: Any) -> NDArray[Any]:
    try:
        array = _copy(name, value)
    except ValueError:
        raise ValueError(f"{name}: rows of different lengths, expected shape (R, 4) or (R, 5)") from None
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: dtype {array.dtype} is not supported, expected integers or floats")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _copy(name: str, value: Any) -> NDArray[Any]:
    """Copy: what is checked is what is used, whatever another thread does meanwhile."""
    try:
        return np.asarray(value).copy()  # np.array(value) warns of an __array__ that knows no copy
    except (RuntimeError, TypeError) as error:  # on another device, for instance
        raise TypeError(f"{name}: cannot be taken as a NumPy array: {error}") from error


def _whole_index(column: NDArray[Any], maps: int) -> NDArray[np.int64]:
    if not column.any():
        return np.zeros(len(column), dtype=np.int64)
    for i in np.flatnonzero(~((column >= 0) & (column < maps) & (column == np.floor(column))))[:1]:
        raise ValueError(f"rois[{i}]: batch index {column[i]} is not a whole number from 0 to {maps - 1}")
    return column.astype(np.int64)


def _parse_batch_index(batch_index: Any, count: int, maps: int) -> NDArray[np.int64]:
    if batch_index is None:
        if maps != 1 and count:
            raise ValueError(f"batch_index: needed to tell which of {maps} maps each of the rois belongs to")
        return np.zeros(count, dtype=np.int64)
    index = _copy("batch_index", batch_index)
    if index.size and index.dtype.kind not in "iu":
        raise TypeError(f"batch_index: expected integers, got dtype {index.dtype}")
    if index.shape != (count,):
        raise ValueError(f"batch_index: expected shape ({count},) for {count} rois, got {index.shape}")
    for i in np.flatnonzero((index < 0) | (index >= maps))[:1]:
        raise ValueError(f"batch_index[{i}]: {index[i]} is out of range for {maps} maps")
    return index.astype(np.int64, copy=False)


def window_axes(
    windows: Windows, heights: NDArray[np.int64], widths: NDArray[np.int64], geometry: ConvGeometry, rounding: str
) -> tuple[Axis, Axis]:
    """Round windows to cells, by a rounding rule.

    Parameters
    ----------
    windows : ndarray, shape (R, 4)
        In image pixels, or in cells for ``"cells"``.
    heights, widths : ndarray of int64, shape (R,) or (1,)
        Size of each window's map, or of all maps.
    geometry : ConvGeometry
        Pixels to cells.
    rounding : {"sppnet", "fast_rcnn", "cells"}
        The rule.

    Returns
    -------
    y, x : Axis
        The windows along both axes of the maps.
    """
    if rounding == "fast_rcnn":
        return _fast_rcnn_axes(windows, geometry, heights, widths)
    if rounding == "sppnet":
        x0, y0, x1, y1 = geometry.sppnet_cells(windows.astype(np.float64, copy=False), heights, widths)
        return Axis(y0, y1 - y0, heights), Axis(x0, x1 - x0, widths)
    x0, y0, x1, y1 = _whole_cells(windows, heights, widths)
    inside = bool((x0 < x1).all() and (y0 < y1).all())
    return Axis(y0, y1 - y0, heights, inside=inside), Axis(x0, x1 - x0, widths, inside=inside)


def align_windows(
    windows: Windows, geometry: ConvGeometry, aligned: bool, dtype: type[np.floating[Any]]
) -> NDArray[np.float64]:
    """Windows in cells for RoI align: start and extent along y, then along x, computed in `dtype`."""
    half = dtype(0.5 if aligned else 0)
    cells = np.clip(_scaled(windows, geometry, dtype) - half, -VERY_FAR, VERY_FAR)
    extents = cells[:, 2:] - cells[:, :2]
    if not aligned:
        extents = np.maximum(extents, dtype(1))
    return np.stack([cells[:, 1], extents[:, 1], cells[:, 0], extents[:, 0]], axis=1).astype(np.float64)


def check_whole_cells(windows: Windows) -> None:
    """Check that windows are in whole cells."""
    if windows.dtype.kind == "f":
        for i, k in np.argwhere(windows != np.floor(windows))[:1]:
            raise ValueError(f"rois[{i}]: {('x0', 'y0', 'x1', 'y1')[k]} = {windows[i, k]} is not a whole cell")


def _whole_cells(windows: Windows, heights: NDArray[np.int64], widths: NDArray[np.int64]) -> Any:
    check_whole_cells(windows)
    for k, limit in enumerate((widths, heights, widths, heights)):
        yield np.clip(windows[:, k], 0, limit).astype(np.int64)


def _scaled(windows: Windows, geometry: ConvGeometry, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """Pixels to cells, every step in `dtype`; what is beyond its range is at its end or infinite, nothing is NaN."""
    scale, offset, largest = _steps(geometry, np.dtype(dtype))
    pixels = windows
    with np.errstate(over="ignore"):
        if pixels.dtype != dtype:
            pixels = np.clip(pixels.astype(np.float64).astype(dtype), -largest, largest)
        if offset:
            pixels = np.clip(pixels - offset, -largest, largest)
        cells: NDArray[Any] = pixels * scale
    return cells


@lru_cache(maxsize=256)
def _steps(geometry: ConvGeometry, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Cells of a pixel, pixels of the offset and the largest number, in `dtype`."""
    largest = np.finfo(dtype).max
    with np.errstate(over="ignore", divide="ignore"):
        scale = np.float64(1) / geometry.stride
    steps: NDArray[Any] = np.clip([scale, geometry.offset, largest], -largest, largest).astype(dtype)
    return steps


def _fast_rcnn_axes(
    windows: Windows, geometry: ConvGeometry, heights: NDArray[np.int64], widths: NDArray[np.int64]
) -> tuple[Axis, Axis]:
    """Girshick's rounding: float32 throughout, half away from zero."""
    cells = np.ascontiguousarray(_scaled(windows, geometry, np.float32).T)
    np.maximum(np.minimum(cells, FAR, out=cells), -FAR, out=cells)
    whole = np.trunc(cells)
    cells -= whole
    whole += np.trunc(cells + cells)  # half a cell and more makes another
    start, stop = whole.astype(np.int64).reshape(2, 2, -1)
    extent = np.maximum(stop - start + 1, 1)
    x, y = (Axis(start[k], extent[k], limit, "fast_rcnn", inside=False) for k, limit in enumerate((widths, heights)))
    return y, x
