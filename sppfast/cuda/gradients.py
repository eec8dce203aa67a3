"""The backward operators on arrays of CuPy. All sums have one order: the same bits each time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cupy
import numpy as np

from ..arrays import Maps, take_maps
from ..gradients import Targets, in_single, take, take_grad, take_indices
from ..pooling import INDEX_DTYPE, check_aligned, check_options, check_ratio, check_workers, result_dtypes
from ..pyramid import Pyramid
from . import operators
from .launch import (
    SHARED_BYTES,
    TYPES,
    VECTOR_BYTES,
    WARP,
    launch,
    level_fields,
    level_tables,
    map_fields,
    power_of_two,
)
from .reduce import pool_windows, row_fields
from .windows import is_checked, plan_windows

WARPS = 2048  # wanted, to keep all of a device busy
MAX_PARTS = 8  # of the windows, each with planes of its own
GATHERED, GATHER_THREADS = 8, 128  # of gather_means: channels of a thread, threads of a block
PART_WINDOWS = 64  # at least


def pool_backward(
    grad: Any,
    x: Any,
    levels: Any,
    *,
    indices: Any,
    mode: str,
    bins: str,
    layout: str,
    out: Any,
    workers: int | None,
) -> Any:
    """Gradient of `pool`, see `sppfast.pool_backward`."""
    pyramid, _, _ = check_options(levels, mode, layout, bins)
    kept, maps = take(x, mode, layout, indices, cupy)
    check_workers(workers)
    rows = take_grad(grad, pyramid, maps, maps.count, layout, maps.single, cupy)
    if mode == "avg":
        targets = Targets(out, kept, maps, layout, [rows], cupy)
        _gather_means(rows, pyramid, bins, None, None, targets)
        return targets.present()
    checked = indices is not None and is_checked()
    if indices is None:
        indices = operators.pool(
            x,
            pyramid.levels,
            mode=mode,
            bins=bins,
            layout=layout,
            flatten=True,
            return_indices=True,
            out=None,
            workers=None,
        )[1]
    places = take_indices(indices, pyramid, maps, maps.count, layout, maps.single, cupy)
    targets = Targets(out, kept, maps, layout, [rows, places], cupy)
    _scatter_maxima(rows, places, None, pyramid, None, targets, checked)
    return targets.present()


def roi_pool_backward(
    grad: Any,
    x: Any,
    rois: Any,
    levels: Any,
    *,
    indices: Any,
    geometry: Any,
    rounding: str,
    batch_index: Any,
    mode: str,
    layout: str,
    out: Any,
    workers: int | None,
) -> Any:
    """Gradient of `roi_pool`, see `sppfast.roi_pool_backward`."""
    pyramid, _, where = check_options(levels, mode, layout, "adaptive", False, geometry, rounding)
    kept, maps = take(x, mode, layout, indices, cupy)
    check_workers(workers)
    windows = plan_windows(kept, maps, rois, batch_index, where, rounding, {})
    rule = "fast_rcnn" if rounding == "fast_rcnn" else "adaptive"
    rows = take_grad(grad, pyramid, maps, len(windows), layout, False, cupy)
    if mode == "avg":
        targets = Targets(out, kept, maps, layout, [rows], cupy)
        _gather_means(rows, pyramid, rule, windows, None, targets)
        return targets.present()
    checked = indices is not None and is_checked()
    if indices is None:
        shape = (len(windows), pyramid.output_length(maps.channels))
        values, indices = (cupy.empty(shape, dtype) for dtype in result_dtypes(maps, "argmax"))
        pool_windows(kept, maps, pyramid, rule, windows, "argmax", [values, indices])
    places = take_indices(indices, pyramid, maps, len(windows), layout, False, cupy)
    targets = Targets(out, kept, maps, layout, [rows, places], cupy)
    _scatter_maxima(rows, places, None, pyramid, windows, targets, checked)
    return targets.present()


def roi_align_backward(
    grad: Any,
    x: Any,
    rois: Any,
    levels: Any,
    *,
    geometry: Any,
    sampling_ratio: int,
    aligned: bool,
    batch_index: Any,
    mode: str,
    layout: str,
    out: Any,
    workers: int | None,
) -> Any:
    """Gradient of `roi_align`, see `sppfast.roi_align_backward`."""
    pyramid, _, where = check_options(levels, mode, layout, "adaptive", False, geometry)
    kept, maps = take(x, mode, layout, None, cupy)
    check_workers(workers)
    options = {"sampling": check_ratio(sampling_ratio), "aligned": check_aligned(aligned)}
    windows = plan_windows(kept, maps, rois, batch_index, where, "align", options)
    rows = take_grad(grad, pyramid, maps, len(windows), layout, False, cupy)
    targets = Targets(out, kept, maps, layout, [rows, *(kept if maps.ragged else [kept])], cupy)
    if mode == "avg":
        _gather_means(rows, pyramid, "adaptive", windows, options, targets)
        return targets.present()
    single = in_single(maps)
    if single.dtype != maps.dtype:
        arrays = [array.astype(single.dtype) for array in (kept if maps.ragged else [kept])]
        kept, maps = take_maps(arrays if maps.ragged else arrays[0], layout, cupy)
    weights, places = cupy.empty(rows.shape, rows.dtype), cupy.empty(rows.shape, INDEX_DTYPE)
    pool_windows(kept, maps, pyramid, "adaptive", windows, "argpeak", [weights, places], options)
    _scatter_maxima(rows, places, weights, pyramid, windows, targets, False)
    return targets.present()


def _planes(targets: Targets) -> tuple[Any, Maps]:
    """Take the arrays that gradients are written to as maps."""
    return take_maps(targets.arrays if targets.maps.ragged else targets.arrays[0], "NCHW", cupy)


def _gather_means(
    rows: Any, pyramid: Pyramid, rule: str, windows: Any, options: Mapping[str, int] | None, targets: Targets
) -> None:
    """Write the gradients of the means of windows, or of whole maps; with `options` those of RoI align."""
    if windows is not None and not len(windows):
        return targets.clear()
    kept, maps = _planes(targets)
    levels = level_tables(pyramid, False)
    alive, fields = map_fields(kept, maps)
    fields |= level_fields(levels, pyramid.size, rule) | row_fields([rows]) | _window_fields(windows)
    lanes = power_of_two(2 * int(maps.widths.max()) - 1, WARP)
    chunk = int((-(-maps.widths // lanes) * -(-maps.heights * lanes // GATHER_THREADS)).max())
    align = "false" if options is None else "true"
    name = f"gather_means<{TYPES[maps.name]}, {align}>"
    blocks = maps.count * -(-maps.channels // GATHERED) * chunk
    fields |= {"lanes": lanes, "chunk": chunk, **(options or {})}
    launch(name, blocks, fields, threads=GATHER_THREADS, shared=4 * (GATHER_THREADS + WARP))
    del alive


def _window_fields(windows: Any) -> dict[str, int]:
    return {} if windows is None else {"windows": len(windows), "windows_at": windows.data.ptr}


def _scatter_maxima(
    rows: Any, places: Any, weights: Any, pyramid: Pyramid, windows: Any, targets: Targets, checked: bool
) -> None:
    """Write the gradients of maxima, times weights if there are any; `checked`: refuse places outside their map."""
    if windows is not None and not len(windows):
        return targets.clear()
    kept, maps = _planes(targets)
    parts = _count_parts(maps, windows)
    partial = None
    if parts > 1:
        partial = cupy.empty((parts, *kept.shape), kept.dtype)
        kept, maps = take_maps(partial[0], "NCHW", cupy)
    levels, status = level_tables(pyramid, False), cupy.zeros(1, dtype=np.int64) if checked else None
    alive, fields = map_fields(kept, maps)
    fields |= level_fields(levels, pyramid.size, "adaptive") | row_fields([rows, places]) | _window_fields(windows)
    if weights is not None:
        fields |= {"weights_at": weights.data.ptr, "weights_step": weights.strides[0]}
    plane = maps.largest * maps.dtype.itemsize
    shared = plane + VECTOR_BYTES if plane + VECTOR_BYTES <= SHARED_BYTES else 0
    fields |= {"status_at": 0 if status is None else status.data.ptr, "parts": parts, "shared_planes": int(shared > 0)}
    fields["part_step"] = 0 if partial is None else partial.strides[0]
    name = f"scatter_maxima<{TYPES[maps.name]}>"
    launch(name, maps.count * maps.channels * parts, fields, threads=WARP, shared=shared)
    del alive
    if status is not None and int(status[0]):
        raise ValueError(f"indices[{int(status[0]) - 1}]: not all lie in the map, or are -1")
    if partial is not None:
        cupy.sum(partial, axis=0, out=targets.arrays[0])


def _count_parts(maps: Maps, windows: Any) -> int:
    """Count the parts that windows are scattered in: by the shapes alone, so that sums keep their order."""
    if windows is None or maps.ragged:
        return 1
    wanted = min(WARPS // max(maps.count * maps.channels, 1), len(windows) // PART_WINDOWS, MAX_PARTS)
    return max(1, wanted)
