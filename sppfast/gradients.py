"""Gradients of the public operators: from a gradient with respect to a result to that with respect to the maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import Maps, take_maps
from .cores import available_cores
from .dispatch import Arrays, call_foreign, is_foreign
from .geometry import ConvGeometry
from .memory import allocate
from .plan import Plan
from .pooling import (
    INDEX_DTYPE,
    MAX_INDEX,
    backend,
    check_options,
    check_out,
    check_workers,
    plan_of,
    plan_samples,
    pool,
    result_dtypes,
)
from .pyramid import Levels, Pyramid
from .windows import take_rois

Array: TypeAlias = NDArray[Any]

# Maxima that are looked for again: of so many windows and channels at a time that they take a small part of the memory
# of a call. Fewer channels are better, whose planes stay in a cache, but all cores need some.
PART_BYTES = 2**22
PARTS = 20
CORE_CHANNELS = 32


def pool_backward(
    grad: Arrays,
    x: Arrays,
    levels: Levels = (4, 2, 1),
    *,
    indices: Arrays | None = None,
    mode: str = "max",
    bins: str = "adaptive",
    layout: str = "NCHW",
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Gradient of `pool` with respect to its maps.

    Parameters
    ----------
    grad : ndarray or tuple of ndarray
        Gradient with respect to the result, in either of its forms: flat, or one array per level.
    x : ndarray or sequence of ndarray
        The maps that were pooled, of a floating dtype. For ``mode="avg"``, or with `indices`, only their shapes count.
        Or arrays of another library, as in `pool`.
    levels, mode, bins, layout, workers
        As they were given to `pool`.
    indices : ndarray or tuple of ndarray, optional
        What ``return_indices=True`` gave, in either form: saves looking for the maxima again (``mode="max"`` only).
    out : ndarray, optional
        Where to put the gradient, of the shape and dtype of `x`; for a sequence of maps a sequence.

    Returns
    -------
    ndarray, or list of ndarray for a sequence of maps
        Of the shape and dtype of `x`. Where bins overlap their gradients are summed, always in the same order: the bits
        do not depend on `workers`. A maximum's gradient goes to the first of equal cells. In memory the channels come
        first whatever the layout: with ``layout="NHWC"`` the result is a view.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above; the message names it.

    Examples
    --------
    >>> import numpy as np, sppfast
    >>> x = np.random.default_rng(0).random((2, 256, 13, 20), dtype=np.float32)
    >>> grad = np.ones_like(sppfast.pool(x, (4, 2, 1)))
    >>> sppfast.pool_backward(grad, x, (4, 2, 1)).shape
    (2, 256, 13, 20)
    """
    if is_foreign(x):
        return call_foreign(pool_backward, **locals())
    pyramid, _, _ = check_options(levels, mode, layout, bins)
    kept, maps = take(x, mode, layout, indices)
    threads = check_workers(workers)
    plan = plan_of(maps, pyramid, mode)
    rows = take_grad(grad, pyramid, maps, maps.count, layout, maps.single, workers=threads)
    if mode == "avg":
        targets = Targets(out, kept, maps, layout, [rows], workers=threads)
        backend("weigh").spread_maps(rows, in_single(maps), plan, targets.planes, threads)
        return targets.present()
    if indices is None:
        indices = pool(x, pyramid.levels, bins=bins, layout=layout, return_indices=True, workers=workers)[1]
    places = take_indices(indices, pyramid, maps, maps.count, layout, maps.single)
    targets = Targets(out, kept, maps, layout, [rows, places], workers=threads)
    _scatter_maxima(rows, places, maps, plan, targets.planes, threads)
    return targets.present()


def roi_pool_backward(
    grad: Arrays,
    x: Arrays,
    rois: ArrayLike | Sequence[ArrayLike],
    levels: Levels = (6, 3, 2, 1),
    *,
    indices: Arrays | None = None,
    geometry: float | ConvGeometry = 16,
    rounding: str = "sppnet",
    batch_index: ArrayLike | None = None,
    mode: str = "max",
    layout: str = "NCHW",
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Gradient of `roi_pool` with respect to its maps; windows that overlap are summed.

    Parameters
    ----------
    grad, x, indices, out
        As in `pool_backward`.
    rois, levels, geometry, rounding, batch_index, mode, layout, workers
        As they were given to `roi_pool`.

    Returns
    -------
    ndarray, or list of ndarray for a sequence of maps
        As in `pool_backward`.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above; the message names it.

    Examples
    --------
    >>> import numpy as np, sppfast
    >>> x = np.random.default_rng(0).random((256, 38, 63), dtype=np.float32)
    >>> rois = np.array([[0, 0, 223, 223], [100, 50, 400, 600]])
    >>> y, indices = sppfast.roi_pool(x, rois, (6, 3, 2, 1), return_indices=True)
    >>> sppfast.roi_pool_backward(np.ones_like(y), x, rois, (6, 3, 2, 1), indices=indices).shape
    (256, 38, 63)
    """
    if is_foreign(x):
        return call_foreign(roi_pool_backward, **locals())
    pyramid, _, where = check_options(levels, mode, layout, "adaptive", False, geometry, rounding)
    kept, maps = take(x, mode, layout, indices)
    threads, taken = check_workers(workers), take_rois(rois, batch_index, maps.count)
    every = slice(0, len(taken))
    plan = backend("windows").plan_windows(every, pyramid, taken, maps, where, rounding, mode != "avg")
    rows = take_grad(grad, pyramid, maps, len(plan.index), layout, workers=threads)
    if mode == "avg":
        targets = Targets(out, kept, maps, layout, [rows], workers=threads)
        backend("weigh").spread_means(rows, in_single(maps), plan, targets.planes, threads)
        return targets.present()
    if indices is not None:
        places = take_indices(indices, pyramid, maps, len(plan.index), layout)
        targets = Targets(out, kept, maps, layout, [rows, places], workers=threads)
        _scatter_maxima(rows, places, maps, plan, targets.planes, threads)
        return targets.present()
    sources = kept if maps.ragged else [kept]
    targets = Targets(out, kept, maps, layout, [rows, *sources], workers=threads)
    _look_again(rows, sources, maps, layout, plan, targets, threads)
    return targets.present()


def _look_again(
    rows: Array, sources: list[Array], maps: Maps, layout: str, plan: Plan, targets: Targets, threads: Any
) -> None:
    """Look for the maxima of windows again, and scatter their gradients: part by part, see `PARTS`."""
    assert plan.index is not None
    dtypes, bins = result_dtypes(maps, "argmax"), plan.grids.bins
    room = max(PART_BYTES, (rows.nbytes + sum(array.nbytes for array in targets.arrays)) // PARTS)
    room = max(room // (bins * sum(dtype.itemsize for dtype in dtypes)), 1)
    channels = max(room // max(len(plan.index), 1) // CORE_CHANNELS, available_cores()) * CORE_CHANNELS
    channels = min(channels, maps.channels)
    windows = min(max(room // channels, 1), len(plan.index))
    memory = [np.empty(windows * channels * bins, dtype) for dtype in dtypes]
    for number, part in enumerate(_parts(plan.index, max(windows, 1))):
        some = plan.part(part)
        grads, chosen = (rows[part], None) if isinstance(part, slice) else (rows, part)  # not copied
        for first in range(0, maps.channels, channels):
            every = slice(first, first + channels)
            views = [array[..., every, :, :] if layout == "NCHW" else array[..., every] for array in sources]
            kept, own = take_maps(views if maps.ragged else views[0], layout)
            shape = len(some.edges), own.channels * bins
            found = [place[: math.prod(shape)].reshape(shape) for place in memory]
            backend("launch").reduce_maps(kept, own, some, "argmax", found, threads)
            planes = [plane[every] for plane in targets.planes]
            _scatter_maxima(grads, found[1], own, some, planes, threads, number > 0, first, chosen)


def _parts(index: Array, count: int) -> Iterator[Any]:
    """Divide windows into parts of so many, at least one part, map by map as far as they go."""
    starts = range(0, max(len(index), 1), count)
    if (index[1:] >= index[:-1]).all():
        return (slice(start, start + count) for start in starts)
    order = np.argsort(index, kind="stable")
    return (order[start : start + count] for start in starts)


def roi_align_backward(
    grad: Arrays,
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
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Gradient of `roi_align` with respect to its maps; windows that overlap are summed.

    Parameters
    ----------
    grad, out
        As in `pool_backward`.
    x : ndarray or sequence of ndarray
        The maps that were aligned, of a floating dtype. For ``mode="avg"`` only their shapes count.
    rois, levels, geometry, sampling_ratio, aligned, batch_index, mode, layout, workers
        As they were given to `roi_align`.

    Returns
    -------
    ndarray, or list of ndarray for a sequence of maps
        As in `pool_backward`. With ``mode="max"`` a bin's gradient goes to the first of its largest weighted cells.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above; the message names it.

    Examples
    --------
    >>> import numpy as np, sppfast
    >>> x = np.random.default_rng(0).random((256, 38, 63), dtype=np.float32)
    >>> rois = np.array([[0, 0, 223.5, 223.5], [100, 50, 400, 600]])
    >>> grad = np.ones((2, 256 * 49), np.float32)
    >>> sppfast.roi_align_backward(grad, x, rois, 7).shape
    (256, 38, 63)
    """
    if is_foreign(x):
        return call_foreign(roi_align_backward, **locals())
    pyramid, _, where = check_options(levels, mode, layout, "adaptive", False, geometry)
    kept, maps = take(x, mode, layout, None)
    threads = check_workers(workers)
    samples = plan_samples(pyramid, rois, batch_index, maps, where, sampling_ratio, aligned)
    rows = take_grad(grad, pyramid, maps, len(samples.index), layout, workers=threads)
    sources = kept if maps.ragged else [kept]
    targets = Targets(out, kept, maps, layout, [rows, *sources], workers=threads)
    if mode == "avg":
        backend("weigh").spread_means(rows, in_single(maps), samples, targets.planes, threads)
        return targets.present()
    if maps.dtype.itemsize == 2:
        sources = [_converted(array, in_single(maps).dtype, np, threads) for array in sources]
        kept, maps = take_maps(sources if maps.ragged else sources[0], layout)
    backend("weigh").scatter_peaks(rows, kept, maps, samples, targets.planes, threads)
    return targets.present()


def take(x: Any, mode: str, layout: str, indices: Any, xp: ModuleType = np) -> tuple[Any, Maps]:
    """Take maps of the library `xp`, of floats, and see that `indices` come with maxima."""
    kept, maps = take_maps(x, layout, xp)
    if maps.dtype.kind in "biu":
        raise TypeError(f"x: only maps of floats have a gradient, got {maps.dtype}")
    if indices is not None and mode != "max":
        raise ValueError(f"indices: only mode='max' has indices, got mode={mode!r}")
    return kept, maps


def in_single(maps: Maps) -> Maps:
    """The same maps, in the precision that gradients are summed in: at least float32's."""
    return maps if maps.dtype.itemsize > 2 else replace(maps, dtype=np.dtype(np.float32), name="float32")


def _take_rows(
    name: str, value: Any, pyramid: Pyramid, maps: Maps, count: int, layout: str, single: bool, xp: ModuleType
) -> Any:
    """Bring a result's two forms into one, rows (count, F)."""
    length = pyramid.output_length(maps.channels)
    shape = (length,) if single else (count, length)
    if isinstance(value, tuple | list):
        parts = [_as_array(f"{name}[{i}]", part, xp) for i, part in enumerate(value)]
        rows = xp.empty(shape, parts[0].dtype if parts else maps.dtype)
        views = pyramid.split(rows, maps.channels, layout)
        if len(parts) != len(views):
            raise ValueError(f"{name}: expected an array for each of {len(views)} levels, got {len(parts)}")
        for i, (view, part) in enumerate(zip(views, parts, strict=True)):
            if part.shape != view.shape:
                raise ValueError(f"{name}[{i}]: expected shape {view.shape}, got {part.shape}")
            view[...] = part
        value = rows
    if not isinstance(value, xp.ndarray):
        raise TypeError(f"{name}: expected a {xp.__name__} array or a tuple of them, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {value.shape}")
    return value.reshape(count, length)


def _as_array(name: str, value: Any, xp: ModuleType) -> Any:
    try:
        return xp.asarray(value)
    except (RuntimeError, TypeError) as error:  # on another device, for instance
        raise TypeError(f"{name}: cannot be taken as a {xp.__name__} array: {error}") from error


def take_grad(
    grad: Any,
    pyramid: Pyramid,
    maps: Maps,
    count: int,
    layout: str,
    single: bool = False,
    xp: ModuleType = np,
    workers: int | None = None,
) -> Any:
    """Take a gradient in either of its forms as rows, in the precision that it is summed in."""
    rows = _take_rows("grad", grad, pyramid, maps, count, layout, single, xp)
    if rows.dtype.newbyteorder("=") != maps.dtype:
        raise TypeError(f"grad: expected dtype {maps.dtype} as the maps, got {rows.dtype}")
    return _converted(xp.ascontiguousarray(rows), in_single(maps).dtype, xp, workers)


def _converted(array: Any, dtype: np.dtype[Any], xp: ModuleType, workers: int | None) -> Any:
    """Give an array of floats a dtype: halves that of float32, or back, by our own threads."""
    if xp is np and array.dtype.isnative and {array.itemsize, dtype.itemsize} == {2, 4}:
        return backend("weigh").convert(array, dtype, workers)
    return array.astype(dtype, copy=False)


def take_indices(
    indices: Any, pyramid: Pyramid, maps: Maps, count: int, layout: str, single: bool = False, xp: ModuleType = np
) -> Any:
    """Take indices in either of their forms as rows of int32."""
    rows = _take_rows("indices", indices, pyramid, maps, count, layout, single, xp)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"indices: expected integers, got dtype {rows.dtype}")
    if rows.dtype != INDEX_DTYPE and rows.size and not -1 <= rows.min() <= rows.max() <= MAX_INDEX:
        raise ValueError(f"indices: from {rows.min()} to {rows.max()}, expected -1 to {MAX_INDEX}")
    return xp.ascontiguousarray(rows, dtype=INDEX_DTYPE)


class Targets:
    """Where gradients are written: planes, contiguous (C, H, W) arrays of the library `xp`, one for each map."""

    def __init__(
        self,
        out: Any,
        kept: Any,
        maps: Maps,
        layout: str,
        sources: Sequence[Any],
        xp: ModuleType = np,
        workers: int | None = None,
    ) -> None:
        self.maps, self.layout, self.xp, self.workers = maps, layout, xp, workers
        dtype = in_single(maps).dtype
        shapes = [array.shape for array in kept] if maps.ragged else [kept.shape]
        self.outs = _check_outs(out, shapes, maps, xp)
        self.arrays: list[Any] = []
        for i, shape in enumerate(shapes):
            own = self._first(self.outs[i]) if self.outs else None
            usable = own is not None and own.flags.c_contiguous and own.dtype == dtype
            if own is None or not usable or any(xp.may_share_memory(own, source) for source in sources):
                own = (allocate if xp is np else xp.empty)(self._first_shape(shape), dtype)
            self.arrays.append(own)
        size = (maps.count, maps.channels)
        self.planes = self.arrays if maps.ragged else list(self.arrays[0].reshape(*size, *self.arrays[0].shape[-2:]))

    def present(self) -> Any:
        """Give the gradients the form of the maps."""
        results = [_converted(array, self.maps.dtype, self.xp, self.workers) for array in self.arrays]
        results = [array if self.layout == "NCHW" else self.xp.moveaxis(array, -3, -1) for array in results]
        if self.outs:
            for out, result in zip(self.outs, results, strict=True):
                if not self.xp.may_share_memory(out, result):
                    out[...] = result
            results = self.outs
        return results if self.maps.ragged else results[0]

    def clear(self) -> None:
        """Write zeros: the gradient of no windows."""
        for array in self.arrays:
            array[...] = 0

    def _first(self, array: Any) -> Any:
        """Channels first."""
        return array if self.layout == "NCHW" else self.xp.moveaxis(array, -1, -3)

    def _first_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.layout == "NCHW" else (*shape[:-3], shape[-1], *shape[-3:-1])


def _check_outs(out: Any, shapes: list[tuple[int, ...]], maps: Maps, xp: ModuleType) -> list[Any]:
    if out is None:
        return []
    if not maps.ragged:
        return [check_out("out", out, shapes[0], maps.dtype, xp)]
    if not isinstance(out, Sequence) or len(out) != len(shapes):
        raise TypeError(f"out: expected a sequence of {len(shapes)} {xp.__name__} arrays, as the maps")
    return [
        check_out(f"out[{i}]", own, shape, maps.dtype, xp)
        for i, (own, shape) in enumerate(zip(out, shapes, strict=True))
    ]


def _scatter_maxima(
    rows: Array,
    places: Array,
    maps: Maps,
    plan: Plan,
    planes: list[Array],
    threads: Any,
    more: bool = False,
    channel: int = 0,
    chosen: Array | None = None,
) -> None:
    """Add the gradients to the cells that were maxima, and to what is there already if there is `more` than before.

    The maps, indices and planes may be of some of the channels, from `channel` on, and of the `chosen` rows.
    """
    some = more, channel, chosen
    wrong = backend("weigh").scatter_maxima(rows, places, in_single(maps), plan, planes, threads, *some)
    if wrong:
        raise ValueError(f"indices[{wrong - 1}]: not all lie in the map, or are -1")
