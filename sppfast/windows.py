"""Windows of an image: what `rois` may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import is_sequence
from .geometry import check_windows

ROUNDINGS = ("sppnet", "fast_rcnn", "cells")

Windows = NDArray[Any]  # (R, 4): x0, y0, x1, y1


@dataclass(eq=False, slots=True)
class Rois:
    """Windows, copied, of which only the form is known to be right.

    Attributes
    ----------
    rows : ndarray, shape (R, 4) or (R, 5)
        x0, y0, x1, y1; with the number of its map before, or without.
    batch_index : ndarray, shape (R,), or None
        The map of each that is without; None: the first.
    """

    rows: NDArray[Any]
    batch_index: NDArray[Any] | None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def windows(self) -> Windows:
        """Without the number of the map."""
        return self.rows[:, -4:]

    @property
    def numbers(self) -> NDArray[Any] | None:
        """The map of each."""
        return self.batch_index if self.rows.shape[1] == 4 else self.rows[:, 0]

    def check(self, maps: int) -> None:
        """Check that windows are finite and not inverted, and that there are their maps."""
        numbers = self.numbers
        if numbers is not None:
            _check_numbers(numbers, maps, "batch_index" if numbers is self.batch_index else "rois")
        check_windows(np.ascontiguousarray(self.windows), "rois")  # see `memory.expect`

    @property
    def index(self) -> NDArray[np.int64]:
        """The map of each window."""
        numbers = self.numbers
        if numbers is None:
            return np.zeros(len(self.rows), dtype=np.int64)
        return np.ascontiguousarray(numbers, dtype=np.int64)


def parse_rois(rois: Any, batch_index: Any, maps: int) -> tuple[Windows, NDArray[np.int64]]:
    """Bring the three forms of `rois` into one, checked: windows (R, 4) and the map of each (R,)."""
    taken = take_rois(rois, batch_index, maps)
    taken.check(maps)
    return np.ascontiguousarray(taken.windows), taken.index


def take_rois(rois: Any, batch_index: Any, maps: int) -> Rois:
    """Bring the three forms of `rois` into one."""
    if _is_sequence_of_windows(rois):
        return _take_sequence(rois, batch_index, maps)
    array = _real("rois", rois)
    if array.size == 0 and array.ndim < 2:
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] not in (4, 5):
        raise ValueError(f"rois: expected shape (R, 4) or (R, 5), got {array.shape}")
    if array.shape[1] == 4:
        return Rois(array, _take_batch_index(batch_index, len(array), maps))
    if batch_index is not None:
        raise ValueError("batch_index: rois of shape (R, 5) already hold the batch index, expected None")
    return Rois(array, None)


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


def _take_sequence(rois: Sequence[Any], batch_index: Any, maps: int) -> Rois:
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
    return Rois(np.concatenate(parts), index)


def _real(name: str, value: Any) -> NDArray[Any]:
    try:
        array = _copy(name, value)
    except ValueError:
        raise ValueError(f"{name}: rows of different lengths, expected shape (R, 4) or (R, 5)") from None
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: dtype {array.dtype} is not supported, expected integers or floats")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _copy(name: str, value: Any) -> NDArray[Any]:
    """Copy: what is checked is what is used, whatever another thread does meanwhile."""
    try:
        array = value if type(value) is np.ndarray else np.asarray(value)
        return array.copy()  # np.array(value) warns of an __array__ that knows no copy
    except (RuntimeError, TypeError) as error:  # on another device, for instance
        raise TypeError(f"{name}: cannot be taken as a NumPy array: {error}") from error


def _check_numbers(numbers: NDArray[Any], maps: int, source: str) -> None:
    for i in np.flatnonzero(~((numbers >= 0) & (numbers < maps) & (numbers == np.floor(numbers))))[:1]:
        if source == "rois":
            raise ValueError(f"rois[{i}]: batch index {numbers[i]} is not a whole number from 0 to {maps - 1}")
        raise ValueError(f"batch_index[{i}]: {numbers[i]} is out of range for {maps} maps")


def _take_batch_index(batch_index: Any, count: int, maps: int) -> NDArray[Any] | None:
    if batch_index is None:
        if maps != 1 and count:
            raise ValueError(f"batch_index: needed to tell which of {maps} maps each of the rois belongs to")
        return None
    index = _copy("batch_index", batch_index)
    if index.size and index.dtype.kind not in "iu":
        raise TypeError(f"batch_index: expected integers, got dtype {index.dtype}")
    if index.shape != (count,):
        raise ValueError(f"batch_index: expected shape ({count},) for {count} rois, got {index.shape}")
    return index


def check_whole_cells(windows: Windows) -> None:
    """Check that windows are in whole cells."""
    if windows.dtype.kind == "f":
        windows = np.ascontiguousarray(windows)
        for i, k in np.argwhere(windows != np.floor(windows))[:1]:
            raise ValueError(f"rois[{i}]: {('x0', 'y0', 'x1', 'y1')[k]} = {windows[i, k]} is not a whole cell")


@lru_cache(maxsize=256)
def float_steps(stride: float, offset: float, wide: bool) -> list[float]:
    """Cells of a pixel, pixels of the offset and the largest number, in float64 if `wide`, otherwise in float32."""
    dtype = np.float64 if wide else np.float32
    largest = np.finfo(dtype).max
    with np.errstate(over="ignore", divide="ignore"):
        scale = np.float64(1) / stride
    steps: list[float] = np.clip([scale, offset, largest], -largest, largest).astype(dtype).tolist()
    return steps
