"""The public operators: check, plan, dispatch, shape the result."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import LAYOUTS, Maps, remembered, result_dtype, take_maps
from .cores import available_cores
from .dispatch import Arrays, call_foreign, is_foreign
from .geometry import ConvGeometry, as_geometry
from .memory import allocate, allocate_together
from .plan import Plan, Samples, make_samples, plan_bytes, plan_maps
from .pyramid import Levels, Pyramid, are_plain, one_of
from .windows import ROUNDINGS, take_rois

MODES = ("max", "avg")
MAX_INDEX = 2**31 - 1
MAX_SAMPLES = 1024
INDEX_DTYPE = np.dtype(np.int32)
PARTS = 24  # of a result
LEAST_WINDOWS = 2**11  # of a part


def pool(
    x: Arrays,
    levels: Levels = (4, 2, 1),
    *,
    mode: str = "max",
    bins: str = "adaptive",
    layout: str = "NCHW",
    flatten: bool = True,
    return_indices: bool = False,
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Pool feature maps of any size into vectors of one length: spatial pyramid pooling.

    Parameters
    ----------
    x : ndarray or sequence of ndarray
        One map ``(C, H, W)``, a batch ``(N, C, H, W)``, or maps ``(C, Hi, Wi)`` of different sizes; with
        ``layout="NHWC"`` ``(H, W, C)``, ``(N, H, W, C)``, ``(Hi, Wi, C)``. Any strides; bool, integers, float16,
        bfloat16 (of `ml_dtypes`), float32 or float64. Or arrays of another library, on the CPU or a CUDA device, such
        as CuPy's, torch's or JAX's, or any with ``__dlpack__``: then the results are such arrays, and `out` is.
    levels : int or sequence of int or (rows, columns)
        The grids of bins of the pyramid, in any order; an int n is n x n.
    mode : {"max", "avg"}
        Maximum or mean of the cells of a bin. A NaN in a bin makes the bin NaN; an empty bin is 0.
    bins : {"adaptive", "sliding", "caffe"}
        Which cells a bin has, see `Pyramid`.
    layout : {"NCHW", "NHWC"}
        The order of the axes of `x`, and of the result with ``flatten=False``.
    flatten : bool
        Whether the result is one array, or a tuple with a view of it for each level.
    return_indices : bool
        Whether to return also where each maximum lies (``mode="max"`` only).
    out : ndarray, optional
        Where to put the result, of the shape and dtype of the flat result; with ``return_indices=True`` a pair of
        such arrays may be given.
    workers : int, optional
        Threads. None: as many as this process may use; -1 the same, -2 one less. The result does not depend on it.
        Ignored on a GPU.

    Returns
    -------
    ndarray, shape (N, F), or (F,) for one map
        ``F = C * sum(rows * columns)``: level by level in the order given, and in a level channel, row, column,
        whatever the layout. The dtype of `x`; a mean of integers is ``np.result_type(dtype, np.float32)``.
        With ``flatten=False`` a tuple with one view per level, ``(N, C, rows, columns)`` or
        ``(N, rows, columns, C)``.
    indices : the same form, int32
        With ``return_indices=True``: ``row * W + column`` of the maximum in its map, the first in row-major order
        where several tie, -1 for an empty bin.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above; the message names it.

    See Also
    --------
    roi_pool : the same for windows of an image.

    Notes
    -----
    With ``bins="adaptive"`` this is ``torch.cat([adaptive_max_pool2d(x, n).flatten(1) for n in levels], 1)``.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, TPAMI 2015,
    section 2.2.

    Examples
    --------
    >>> import numpy as np, sppfast
    >>> x = np.random.default_rng(0).random((2, 256, 13, 20), dtype=np.float32)
    >>> sppfast.pool(x, levels=(4, 2, 1)).shape
    (2, 5376)
    >>> maps = [x[0], x[1, :, :7, :9]]  # maps of different sizes, vectors of one length
    >>> sppfast.pool(maps, levels=(4, 2, 1)).shape
    (2, 5376)
    >>> [level.shape for level in sppfast.pool(x, (4, (1, 2)), mode="avg", flatten=False)]
    [(2, 256, 4, 4), (2, 256, 1, 2)]
    """
    if is_foreign(x):
        return call_foreign(pool, **locals())
    pyramid, reduction, _ = check_options(levels, mode, layout, bins, return_indices)
    kept, maps = take_maps(x, layout)
    plan = plan_of(maps, pyramid, reduction)
    length = maps.channels * plan.grids.bins
    results = _allocate(out, (length,) if maps.single else (maps.count, length), maps, reduction)
    threads = check_workers(workers)
    targets = results if out is None else _targets(results, kept, maps)
    backend("launch").reduce_maps(kept, maps, plan, reduction, targets, threads)
    return present(_copy_back(results, targets), pyramid, maps.channels, layout, flatten)


def roi_pool(
    x: Arrays,
    rois: ArrayLike | Sequence[ArrayLike],
    levels: Levels = (6, 3, 2, 1),
    *,
    geometry: float | ConvGeometry = 16,
    rounding: str = "sppnet",
    batch_index: ArrayLike | None = None,
    mode: str = "max",
    layout: str = "NCHW",
    flatten: bool = True,
    return_indices: bool = False,
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Pool windows of images out of their feature maps: region-of-interest pyramid pooling.

    Parameters
    ----------
    x : ndarray or sequence of ndarray
        One map, a batch, or maps of different sizes, as in `pool`.
    rois : array_like, shape (R, 4) or (R, 5), or a sequence of (Ri, 4)
        Windows ``x0, y0, x1, y1`` in image pixels, corners inclusive. Of shape (R, 4) with `batch_index`, or (R, 5)
        with the batch index first, or one array for each map.
    levels : int or sequence of int or (rows, columns)
        The grids of bins that each window is divided into, adaptively.
    geometry : float or ConvGeometry
        Where the cells of the maps lie in the image; a number is a stride with offset 0.
    rounding : {"sppnet", "fast_rcnn", "cells"}
        From pixels to cells:

        - ``"sppnet"`` (the paper's appendix A.1): see `ConvGeometry.cells`; a window is clamped to the map and is
          never empty;
        - ``"fast_rcnn"``: float32, half away from zero, bit for bit ``torchvision.ops.roi_pool`` and ONNX
          ``MaxRoiPool`` with ``spatial_scale = 1 / stride``; bins are clipped to the map;
        - ``"cells"``: the windows are half-open cells already, whole numbers; what lies outside the map is cut off
          before the window is divided.
    batch_index : array_like of int, shape (R,), optional
        The map of each window. Not needed for a single map.
    mode, layout, flatten, return_indices, out, workers
        As in `pool`.

    Returns
    -------
    ndarray, shape (R, F)
        One row per window, in the order of `rois` (of the maps, for a sequence), as in `pool`; with ``flatten=False``
        and ``return_indices=True`` as there. An empty bin is 0, its index -1.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above; the message names it. NaN or infinite windows, ``x1 < x0``,
        ``y1 < y0`` and a batch index out of range are errors; no windows at all are not.

    See Also
    --------
    pool : the same for whole images.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, TPAMI 2015,
    section 4 and appendix A. Girshick: Fast R-CNN, ICCV 2015, section 2.1.

    Examples
    --------
    >>> import numpy as np, sppfast
    >>> x = np.random.default_rng(0).random((256, 38, 63), dtype=np.float32)  # of an image of 608 x 1008 pixels
    >>> rois = np.array([[0, 0, 223, 223], [100, 50, 400, 600]])
    >>> sppfast.roi_pool(x, rois, levels=(6, 3, 2, 1), geometry=16).shape
    (2, 12800)
    >>> batch = np.stack([x, x])
    >>> sppfast.roi_pool(batch, rois, 7, rounding="fast_rcnn", batch_index=[1, 0], flatten=False)[0].shape
    (2, 256, 7, 7)
    """
    if is_foreign(x):
        return call_foreign(roi_pool, **locals())
    pyramid, reduction, where = check_options(levels, mode, layout, "adaptive", return_indices, geometry, rounding)
    kept, maps = take_maps(x, layout)
    taken = take_rois(rois, batch_index, maps.count)
    first, *more = parts = _parts(len(taken), pyramid, maps)
    if more:  # that all windows are right is known before any is pooled
        backend("windows").check_windows(taken, maps, where, rounding)
    plan_windows, given = backend("windows").plan_windows, (pyramid, taken, maps, where, rounding, reduction != "avg")
    plan = plan_windows(first, *given)
    results = _allocate(out, (len(taken), pyramid.output_length(maps.channels)), maps, reduction)
    threads = check_workers(workers)
    targets = results if out is None else _targets(results, kept, maps)
    for part in parts:
        plan = plan or plan_windows(part, *given)
        rows = [target[part] for target in targets] if more else targets
        backend("launch").reduce_maps(kept, maps, plan, reduction, rows, threads)
        plan = None  # before there is another
    return present(_copy_back(results, targets), pyramid, maps.channels, layout, flatten)


def roi_align(
    x: Arrays,
    rois: ArrayLike | Sequence[ArrayLike],
    levels: Levels = (7,),
    *,
    geometry: float | ConvGeometry = 16,
    sampling_ratio: int = 2,
    aligned: bool = True,
    batch_index: ArrayLike | None = None,
    mode: str = "avg",
    layout: str = "NCHW",
    flatten: bool = True,
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Pool windows of images out of their feature maps at points between the cells: RoI align, for every level.

    Nothing is rounded: a bin is the mean of samples, points spread evenly over it, each interpolated bilinearly between
    the four cells around it. A sample further than one cell outside the map counts as 0.

    Parameters
    ----------
    x : ndarray or sequence of ndarray
        One map, a batch, or maps of different sizes, as in `pool`; integers are aligned as floats.
    rois : array_like, shape (R, 4) or (R, 5), or a sequence of (Ri, 4)
        Windows ``x0, y0, x1, y1`` in image pixels, as in `roi_pool`.
    levels : int or sequence of int or (rows, columns)
        The grids of bins that each window is divided into.
    geometry : float or ConvGeometry
        Where the cells of the maps lie in the image; a number is a stride with offset 0.
    sampling_ratio : int
        Samples of a bin along each axis, at most 1024; 0: as many as the bin is cells wide, rounded up.
    aligned : bool
        Whether a window is shifted by half a cell, so that pixel centres lie on cell centres (ONNX
        ``coordinate_transformation_mode="half_pixel"``). Without it a window is at least one cell wide.
    batch_index : array_like of int, shape (R,), optional
        The map of each window. Not needed for a single map.
    mode : {"avg", "max"}
        Mean of the samples, or ONNX's maximum: the largest of the four weighted cells of any sample.
    layout, flatten, out, workers
        As in `pool`.

    Returns
    -------
    ndarray, shape (R, F)
        One row per window, as in `roi_pool`; the dtype of `x`, for integers ``np.result_type(dtype, np.float32)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above; the message names it. Windows as in `roi_pool`.

    See Also
    --------
    roi_pool : whole cells, no interpolation.

    Notes
    -----
    This is ``torchvision.ops.roi_align`` with ``spatial_scale = 1 / stride``, and ONNX ``RoiAlign``. Coordinates are
    computed in float32 as there (in float64 for maps of float64), sums in float64.

    References
    ----------
    He, Gkioxari, Dollar, Girshick: Mask R-CNN, ICCV 2017, section 3.

    Examples
    --------
    >>> import numpy as np, sppfast
    >>> x = np.random.default_rng(0).random((256, 38, 63), dtype=np.float32)  # of an image of 608 x 1008 pixels
    >>> rois = np.array([[0, 0, 223.5, 223.5], [100, 50, 400, 600]])
    >>> sppfast.roi_align(x, rois, 7, geometry=16, flatten=False)[0].shape
    (2, 256, 7, 7)
    """
    if is_foreign(x):
        return call_foreign(roi_align, **locals())
    pyramid, mode, where = check_options(levels, mode, layout, "adaptive", False, geometry)
    kept, maps = take_maps(x, layout)
    samples = plan_samples(pyramid, rois, batch_index, maps, where, sampling_ratio, aligned)
    results = _allocate(out, (len(samples.index), maps.channels * samples.grids.bins), maps, "avg")
    threads = check_workers(workers)
    targets = results if out is None else _targets(results, kept, maps)
    reduction = "peak" if mode == "max" else "mean"
    backend("weigh").align_maps(kept, maps, samples, reduction, targets[0], threads)
    return present(_copy_back(results, targets), pyramid, maps.channels, layout, flatten)


def _parts(count: int, pyramid: Pyramid, maps: Maps) -> list[slice]:
    """Divide windows into parts whose plans are small beside the result, and that are worth a pack."""
    step = maps.count * maps.largest
    if count <= step:
        return [slice(0, count)]
    size = count * pyramid.output_length(maps.channels) * maps.dtype.itemsize
    step = max(step, size // PARTS // plan_bytes(pyramid), LEAST_WINDOWS)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def plan_samples(
    pyramid: Pyramid, rois: Any, batch_index: Any, maps: Maps, where: ConvGeometry, sampling_ratio: Any, aligned: Any
) -> Samples:
    """Check what is asked of RoI align, and plan it."""
    ratio, shifted = check_ratio(sampling_ratio), check_aligned(aligned)
    taken = take_rois(rois, batch_index, maps.count)
    windows, index = backend("windows").scale_windows(taken, maps, where, shifted)
    return make_samples(pyramid, index, windows, ratio)


def check_options(levels: Any, *options: Any) -> tuple[Pyramid, str, ConvGeometry]:
    """Check the options that operators have in common, see `_check_options`, or find them where they have been."""
    try:
        found = _checked(levels, *options) if are_plain(levels) else None
    except TypeError:  # of a value that is wrong, or has no hash
        found = None
    return found or _check_options(levels, *options)


def _check_options(
    levels: Any,
    mode: Any,
    layout: Any,
    bins: Any = "adaptive",
    return_indices: Any = False,
    geometry: Any = 1,
    rounding: Any = "sppnet",
) -> tuple[Pyramid, str, ConvGeometry]:
    """Check options: the pyramid, the reduction of the kernels, and where cells lie."""
    mode = one_of("mode", mode, MODES)
    one_of("layout", layout, LAYOUTS)
    one_of("rounding", rounding, ROUNDINGS)
    return Pyramid(levels, bins), _reduction_of(mode, return_indices), as_geometry(geometry)


_checked = lru_cache(maxsize=256, typed=True)(_check_options)


def _reduction_of(mode: str, return_indices: bool) -> str:
    """Name the reduction that is asked for, of the kernels."""
    if not return_indices:
        return mode
    if mode != "max":
        raise ValueError(f"return_indices: only mode='max' has indices, got mode={mode!r}")
    return "argmax"


@remembered
def plan_of(maps: Maps, pyramid: Pyramid, reduction: str) -> Plan:
    """Plan the pooling of whole maps."""
    return plan_maps(pyramid, maps.heights, maps.widths, unions=reduction != "avg")


def _allocate(out: Any, shape: tuple[int, ...], maps: Maps, reduction: str) -> list[NDArray[Any]]:
    """Allocate the result, or check the caller's: the values, and the indices where they are asked for."""
    dtypes = result_dtypes(maps, reduction)
    if out is None:
        return allocate_together(shape, dtypes)
    outs = [out] if not (isinstance(out, tuple) and reduction == "argmax") else list(out)
    if len(outs) > len(dtypes):
        raise ValueError(f"out: expected an array or a pair of arrays, got {len(outs)}")
    outs += [None] * (len(dtypes) - len(outs))
    return [
        allocate(shape, dtype) if given is None else check_out("out", given, shape, dtype)
        for given, dtype in zip(outs, dtypes, strict=True)
    ]


@remembered
def result_dtypes(maps: Maps, reduction: str) -> tuple[np.dtype[Any], ...]:
    """Tell the dtypes of the results: the values, and the indices where they are asked for."""
    dtype = result_dtype(maps.dtype, reduction)
    if reduction != "argmax":
        return (dtype,)
    if maps.largest > MAX_INDEX:
        raise ValueError(f"return_indices: a map of {maps.largest} cells is too large for int32 indices")
    return dtype, INDEX_DTYPE


def check_out(name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], xp: ModuleType = np) -> Any:
    """Check an array of the library `xp` that the caller wants a result in."""
    if not isinstance(out, xp.ndarray):
        raise TypeError(f"{name}: expected a {xp.__name__} array, got {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {out.shape}")
    if xp is np and not out.flags.writeable:
        raise ValueError(f"{name}: is read-only")
    return out


@cache
def backend(module: str) -> ModuleType:
    """Import a module of the CPU backend, and with it Numba, on first use."""
    return import_module(f".cpu.{module}", __package__)


def _targets(results: list[NDArray[Any]], kept: Any, maps: Maps) -> list[NDArray[Any]]:
    """Where to write the caller's results: in place, where rows are contiguous and share no memory with the maps."""
    sources = kept if maps.ragged else (kept,)

    def in_place(result: NDArray[Any]) -> bool:
        shared = any(np.may_share_memory(result, source) for source in sources)
        return result.strides[-1] == result.itemsize and not shared

    return [result if in_place(result) else np.empty(result.shape, result.dtype) for result in results]


def _copy_back(results: list[NDArray[Any]], targets: list[NDArray[Any]]) -> list[NDArray[Any]]:
    if targets is results:
        return results
    for result, target in zip(results, targets, strict=True):
        if target is not result:
            result[...] = target
    return results


def present(results: Sequence[Any], pyramid: Pyramid, channels: int, layout: str, flatten: bool) -> Any:
    """Give the result the form asked for."""
    if flatten and len(results) == 1:
        return results[0]
    forms = [result if flatten else pyramid.split(result, channels, layout) for result in results]
    return forms[0] if len(forms) == 1 else tuple(forms)


def check_integer(name: str, value: Any) -> int:
    """Check an integer option."""
    if isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None


def check_ratio(sampling_ratio: Any) -> int:
    """Check the samples of a bin along an axis."""
    ratio = check_integer("sampling_ratio", sampling_ratio)
    if not 0 <= ratio <= MAX_SAMPLES:
        raise ValueError(f"sampling_ratio: expected 0 to {MAX_SAMPLES}, got {ratio}")
    return ratio


def check_aligned(aligned: Any) -> bool:
    """Check whether samples are shifted."""
    if not isinstance(aligned, bool | np.bool_):
        raise TypeError(f"aligned: expected a bool, got {aligned!r}")
    return bool(aligned)


def check_workers(workers: int | None) -> int | None:
    """Take SciPy's `workers`: None, or how many threads."""
    if workers is None:
        return None
    number = check_integer("workers", workers)
    if number < 0:
        number += available_cores() + 1
    if number < 1:
        raise ValueError(f"workers: {workers} leaves no thread of {available_cores()}")
    return number
