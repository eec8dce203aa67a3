"""The public operators on arrays of CuPy: the checks of the CPU's, then launches."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import cupy
import numpy as np

from ..arrays import Maps, take_maps
from ..dispatch import Call, Place
from ..pooling import (
    check_aligned,
    check_options,
    check_out,
    check_ratio,
    check_workers,
    present,
    result_dtypes,
)
from .reduce import pool_maps, pool_windows
from .windows import plan_windows


def apply(call: Call, arrays: list[Any]) -> Any:
    """Call an operator with arrays of one device."""
    from . import gradients  # which imports this module

    operators: dict[str, Callable[..., Any]] = {
        "pool": pool,
        "roi_pool": roi_pool,
        "roi_align": roi_align,
        "pool_backward": gradients.pool_backward,
        "roi_pool_backward": gradients.roi_pool_backward,
        "roi_align_backward": gradients.roi_align_backward,
    }
    device = arrays[0].device

    def check(place: Place) -> Any:
        array = arrays[place.i]
        if array.device != device:
            raise ValueError(f"{place.name}: is on CUDA device {array.device.id}, expected {device.id} as the others")
        return array if place.name.startswith("out") else aligned(array)

    with device:
        return operators[call.function.__name__](**call.filled(check))


def pool(
    x: Any,
    levels: Any,
    *,
    mode: str,
    bins: str,
    layout: str,
    flatten: bool,
    return_indices: bool,
    out: Any,
    workers: int | None,
) -> Any:
    """Pool whole maps, see `sppfast.pool`."""
    pyramid, reduction, _ = check_options(levels, mode, layout, bins, return_indices)
    kept, maps = take_maps(x, layout, cupy)
    length = pyramid.output_length(maps.channels)
    results = Results(out, (length,) if maps.single else (maps.count, length), maps, reduction, kept)
    check_workers(workers)
    pool_maps(kept, maps, pyramid, reduction, results.targets)
    return present(results.copied_back(), pyramid, maps.channels, layout, flatten)


def roi_pool(
    x: Any,
    rois: Any,
    levels: Any,
    *,
    geometry: Any,
    rounding: str,
    batch_index: Any,
    mode: str,
    layout: str,
    flatten: bool,
    return_indices: bool,
    out: Any,
    workers: int | None,
) -> Any:
    """Pool windows, see `sppfast.roi_pool`."""
    pyramid, reduction, where = check_options(levels, mode, layout, "adaptive", return_indices, geometry, rounding)
    kept, maps = take_maps(x, layout, cupy)
    windows = plan_windows(kept, maps, rois, batch_index, where, rounding, {})
    results = Results(out, (len(windows), pyramid.output_length(maps.channels)), maps, reduction, kept)
    check_workers(workers)
    rule = "fast_rcnn" if rounding == "fast_rcnn" else "adaptive"
    pool_windows(kept, maps, pyramid, rule, windows, reduction, results.targets)
    return present(results.copied_back(), pyramid, maps.channels, layout, flatten)


def roi_align(
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
    flatten: bool,
    out: Any,
    workers: int | None,
) -> Any:
    """Align windows, see `sppfast.roi_align`."""
    pyramid, _, where = check_options(levels, mode, layout, "adaptive", False, geometry)
    kept, maps = take_maps(x, layout, cupy)
    options = {"sampling": check_ratio(sampling_ratio), "aligned": check_aligned(aligned)}
    windows = plan_windows(kept, maps, rois, batch_index, where, "align", options)
    results = Results(out, (len(windows), pyramid.output_length(maps.channels)), maps, "avg", kept)
    check_workers(workers)
    reduction = "peak" if mode == "max" else "mean"
    pool_windows(kept, maps, pyramid, "adaptive", windows, reduction, results.targets, options)
    return present(results.copied_back(), pyramid, maps.channels, layout, flatten)


class Results:
    """The results of a call, and where kernels write them: rows without gaps that share no memory with the maps."""

    def __init__(self, out: Any, shape: tuple[int, ...], maps: Maps, reduction: str, kept: Any) -> None:
        dtypes = result_dtypes(maps, reduction)
        outs = list(out) if isinstance(out, tuple) and len(dtypes) == 2 else [out]
        if len(outs) > len(dtypes):
            raise ValueError(f"out: expected an array or a pair of arrays, got {len(outs)}")
        outs += [None] * (len(dtypes) - len(outs))
        self.results = [
            cupy.empty(shape, dtype) if given is None else check_out("out", given, shape, dtype, cupy)
            for given, dtype in zip(outs, dtypes, strict=True)
        ]
        sources = kept if maps.ragged else [kept]
        self.targets = [
            result if given is None or _in_place(result, sources) else cupy.empty(shape, result.dtype)
            for given, result in zip(outs, self.results, strict=True)
        ]

    def copied_back(self) -> list[Any]:
        """Give the results, with what was written elsewhere."""
        for result, target in zip(self.results, self.targets, strict=True):
            if target is not result:
                copy_into(result, target)
        return self.results


def _in_place(result: Any, sources: Any) -> bool:
    shared = any(cupy.may_share_memory(result, source) for source in sources)
    return result.strides[-1] == result.itemsize and is_aligned(result) and not shared


def is_aligned(array: Any) -> bool:
    """Whether the items of an array lie at multiples of their size, as devices load them."""
    return bool(reduce(operator.or_, array.strides, array.data.ptr) % array.itemsize == 0)


def aligned(array: Any) -> Any:
    """Copy an array whose items are not aligned, byte by byte."""
    return array if is_aligned(array) else _bytes_of(array).copy().view(array.dtype)[..., 0]


def copy_into(target: Any, source: Any) -> None:
    """Copy an array into one that may not be aligned."""
    if is_aligned(target):
        target[...] = source
    else:
        _bytes_of(target)[...] = _bytes_of(source)


def _bytes_of(array: Any) -> Any:
    """View an array with the bytes of its items along another axis."""
    strides = (*array.strides, 1)
    return cupy.ndarray((*array.shape, array.itemsize), np.uint8, memptr=array.data, strides=strides)
