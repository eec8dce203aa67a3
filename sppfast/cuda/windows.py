"""Windows on the device: their cells are computed there, from rois that never leave it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import cupy
import numpy as np

from ..arrays import Maps
from ..geometry import ConvGeometry
from ..windows import ROUNDINGS, check_whole_cells, parse_rois
from .launch import THREADS, launch, map_fields

WINDOW_BYTES = 40  # struct Window of kernels.cu

_checked = ContextVar("checked", default=True)


@contextmanager
def unchecked() -> Iterator[None]:
    """Leave out the checks that wait for the device: of the values of `rois`, `batch_index` and `indices` there.

    Within it a window that is none (not finite, inverted, of no map) gives a row of zeros, and an index outside its
    map adds nothing, instead of an error; nothing is read outside the arrays in either case. Arrays in the memory of
    the host, which are checked without waiting, still are.

    Examples
    --------
    >>> import sppfast.cuda  # doctest: +SKIP
    >>> with sppfast.cuda.unchecked():  # doctest: +SKIP
    ...     y = sppfast.roi_pool(x, rois, batch_index=index)
    """
    token = _checked.set(False)
    try:
        yield
    finally:
        _checked.reset(token)


def is_checked() -> bool:
    """Whether values on the device are checked."""
    return _checked.get()


def plan_windows(
    kept: Any,
    maps: Maps,
    rois: Any,
    batch_index: Any,
    geometry: ConvGeometry,
    rounding: str,
    options: Mapping[str, Any],
) -> Any:
    """Turn windows of images into windows of cells, on the device.

    `rounding` is one of `ROUNDINGS`, or ``"align"`` with the `options` of RoI align. Returns an array with a row for
    each window, which kernels know as ``windows_at``.
    """
    on_device = _is_plain(rois, batch_index, maps.count)
    if on_device:
        numbers, index = cupy.ascontiguousarray(rois, dtype=np.float64), batch_index
        if index is not None:
            index = cupy.ascontiguousarray(cupy.asarray(index), dtype=np.int64)
    else:
        numbers, index = _upload(rois, batch_index, maps.count, rounding)
    planned = cupy.empty((len(numbers), WINDOW_BYTES // 8), dtype=np.float64)
    status = cupy.zeros(1, dtype=np.int64) if on_device and is_checked() else None
    alive, fields = map_fields(kept, maps)
    fields |= {
        "windows": len(numbers),
        "rois_at": numbers.data.ptr,
        "roi_fields": numbers.shape[1],
        "index_at": 0 if index is None else index.data.ptr,
        "windows_at": planned.data.ptr,
        "rounding": (*ROUNDINGS, "align").index(rounding),
        "status_at": 0 if status is None else status.data.ptr,
    }
    precision = "double" if rounding == "align" and maps.in_double else "float"
    where: dict[str, Any] = {"stride": geometry.stride, "offset": geometry.offset}
    launch(f"plan_windows<{precision}>", -(-len(numbers) // THREADS), {**fields, **where, **options})
    if status is not None and int(status[0]):
        _upload(rois, batch_index, maps.count, rounding)  # raises
    del alive
    return planned


def _is_plain(rois: Any, batch_index: Any, maps: int) -> bool:
    """Whether windows can be taken as they lie on the device; all else, also all that is wrong, goes by the host."""
    if not isinstance(rois, cupy.ndarray) or rois.dtype.kind not in "iuf" or rois.ndim != 2 or not len(rois):
        return False
    if rois.shape[1] == 5:
        return batch_index is None
    if rois.shape[1] != 4:
        return False
    if isinstance(batch_index, cupy.ndarray):
        return batch_index.dtype.kind in "iu" and batch_index.shape == (len(rois),)
    return batch_index is None and maps == 1


def _upload(rois: Any, batch_index: Any, maps: int, rounding: str) -> tuple[Any, None]:
    """Check windows on the host, and bring them to the device with the map of each in front."""
    windows, index = parse_rois(_to_host(rois), _to_host(batch_index), maps)
    if rounding == "cells":
        check_whole_cells(windows)
    return cupy.asarray(np.concatenate([index[:, None], windows], axis=1, dtype=np.float64)), None


def _to_host(value: Any) -> Any:
    if isinstance(value, cupy.ndarray):
        return cupy.asnumpy(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_to_host, value))
    return value
