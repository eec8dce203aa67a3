"""Arrays of dask in and out: lazy, and chunk by chunk along the batch.

A task is a call of the operator itself with a chunk of maps, which may be of any kind that the operator takes. The maps
of a chunk are whole: height and width are gathered into one chunk. Of channels the results are gathered, which are
smaller than maps.

Windows go to the chunk that holds their map: they are sorted by chunks, and their results put back in order. Where only
the tasks will know which map each window lies in, every chunk of maps is given all windows.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from .arrays import LAYOUTS
from .dispatch import ARRAYS, Call, map_items, outline
from .pyramid import Pyramid, as_pyramid, one_of
from .windows import parse_rois

AXES = {"NCHW": "nchw", "NHWC": "nhwc"}

Operator: TypeAlias = Callable[..., Any]
Arguments: TypeAlias = dict[str, Any]
Index: TypeAlias = NDArray[np.int64]
Chunks: TypeAlias = tuple[int, ...]  # sizes along an axis
Part: TypeAlias = tuple[Index, tuple[Any, ...]]  # of the results: which rows, and those


def apply(call: Call, arrays: list[da.Array]) -> Any:
    """Call an operator with dask arrays: one task for each chunk of maps, and nothing is computed yet."""
    given = call.changed(flatten=True).filled(lambda place: arrays[place.i])
    if given["out"] is not None:
        raise ValueError("out: arrays of dask cannot be written to, expected None; da.store writes a result")
    _check_arrays(given, call.arguments.get("flatten", True))
    if given["workers"] is None:
        given["workers"] = 1  # the tasks keep the cores busy
    x = given["x"]
    if "grad" in given:
        return _pull_back(call.function, given)
    if isinstance(x, list):
        return call.present(_pool_each(call.function, given), x[0])
    if x.ndim != 3:
        return call.present(_pool(call.function, given), x)
    results = _pool(call.function, given | {"x": x[None]})
    return call.present(results if "rois" in given else [result[0] for result in results], x)


def _check_arrays(given: Arguments, flatten: bool) -> None:
    """Check that sizes are known; only how many maps a batch has need not be, to pool whole ones into flat rows."""
    free = flatten and not given.keys() & {"rois", "grad"}
    for name in ARRAYS:
        value: Any = given.get(name)
        several = isinstance(value, list | tuple)
        for i, item in enumerate(value if several else [value]):
            if not isinstance(item, da.Array):
                continue
            if several and name != "x" and item.ndim < 2:
                raise TypeError(f"{name}: expected an array, got a {type(value).__name__} of dask arrays")
            if any(map(isnan, item.shape[free and not several :])):
                where = f"{name}[{i}]" if several else name
                raise ValueError(f"{where}: sizes of chunks are unknown; call compute_chunk_sizes() on it first")


def _outline(function: Operator, given: Arguments) -> tuple[Any, list[NDArray[Any]]]:
    """Check a call by arrays of zeros in the place of dask's: its windows, and results without rows."""

    def zeros(array: da.Array) -> NDArray[Any]:
        return np.broadcast_to(np.zeros((), array.dtype), [0 if isnan(n) else n for n in array.shape])

    _, windows, rows = outline(function, {name: map_items(zeros, value, da.Array) for name, value in given.items()})
    return windows, rows


# ---- tasks


def _blockwise(
    function: Operator, given: Arguments, arrays: dict[str, tuple[da.Array, str]], axes: str, meta: Any, **chunks: Any
) -> da.Array:
    """Lay out a call for each chunk, by the axes of the arrays and of the result, whose chunks may differ."""
    call = partial(_run, _bind(function, given), tuple(arrays))
    pairs = itertools.chain.from_iterable(arrays.values())
    return da.blockwise(
        call, axes, *pairs, token=function.__name__, align_arrays=False, adjust_chunks=chunks, meta=meta
    )


def _bind(function: Operator, given: Arguments) -> Operator:
    """Give an operator its options."""
    return partial(function, **{name: value for name, value in given.items() if name not in ARRAYS})


def _run(call: Operator, names: tuple[str, ...], *blocks: Any) -> Any:
    return call(**dict(zip(names, map(_only, blocks), strict=True)))


def _only(block: Any) -> Any:
    """Take a block out of the lists that dask puts it in, one for each axis that the result has not."""
    while isinstance(block, list):
        (block,) = block
    return block


def _gather(x: da.Array, axes: str, layout: str) -> da.Array:
    """Gather axes into one chunk."""
    return x.rechunk({AXES[layout].index(axis): -1 for axis in axes})


def _cut(rows: Any, counts: Chunks) -> da.Array:
    """Cut rows, of dask or not, into chunks."""
    rows = rows if isinstance(rows, da.Array) else np.asarray(rows)
    chunks = (counts, *rows.shape[1:])
    return rows.rechunk(chunks) if isinstance(rows, da.Array) else da.from_array(rows, chunks=chunks)


def _take(rows: Any, order: Index) -> Any:
    return rows if (np.diff(order) > 0).all() else rows[order]


# ---- results


def _pool(function: Operator, given: Arguments) -> list[da.Array]:
    """Pool a batch of maps, or windows of them."""
    windows, rows = _outline(function, given)
    x = _gather(given["x"], "hw", given["layout"])
    metas = [meta_from_array(x._meta, ndim=2, dtype=row.dtype) for row in rows]
    if windows is None:
        return _reduce(function, given, x, {}, metas)
    if _comes_late(given):
        return _pool_late(function, given, x, rows[0].shape[1], metas)
    route = _route(windows[1], x.chunks[0])
    if len(route.used) < x.numblocks[0]:
        x = x.blocks[route.used]  # the others are not computed
    results = _reduce(function, given, x, route.windows(given["rois"], windows[0]), metas)
    return [route.restore(result) for result in results]


def _pool_each(function: Operator, given: Arguments) -> list[da.Array]:
    """Pool maps of different sizes, each an array, or windows of them."""
    windows, _ = _outline(function, given)
    x = given["x"]
    if windows is None:
        parts = [_pool(function, given | {"x": one[None]}) for one in x]
        return [da.concatenate(part) for part in zip(*parts, strict=True)]
    if _comes_late(given):
        raise TypeError("rois: for a list of dask arrays the map of each window must be known, got it in a dask array")
    route = _route(windows[1], (1,) * len(x))
    rois, _ = route.windows(given["rois"], windows[0])["rois"]
    parts = [
        _pool(function, given | {"x": x[i][None], "rois": rois.blocks[k], "batch_index": None})
        for k, i in enumerate(route.used)
    ]
    return [route.restore(da.concatenate(part)) for part in zip(*parts, strict=True)]


def _reduce(
    function: Operator, given: Arguments, x: da.Array, windows: dict[str, tuple[da.Array, str]], metas: list[Any]
) -> list[da.Array]:
    """Call the operator with each chunk of maps and its windows."""
    axes = AXES[given["layout"]]
    pyramid = as_pyramid(given["levels"], given.get("bins", "adaptive"))
    channels = x.chunks[axes.index("c")]
    lengths = tuple(map(pyramid.output_length, channels))
    counts = windows["rois"][0].chunks[0] if windows else x.chunks[0]
    blocks = _blockwise(function, given, {"x": (x, axes)} | windows, "nc", metas[0], n=counts, c=lengths)
    results = [blocks]
    if len(metas) > 1:
        results = [blocks.map_blocks(operator.itemgetter(i), meta=meta) for i, meta in enumerate(metas)]
    if len(channels) == 1:
        return results
    columns = _columns(pyramid, channels)
    return [result.rechunk({1: -1}).map_blocks(_take_columns, columns, meta=result._meta) for result in results]


def _columns(pyramid: Pyramid, channels: Chunks) -> Index:
    """Where the columns of a result lie among those of its chunks of channels."""
    lengths = [pyramid.output_length(count) for count in channels]
    chunks = np.split(np.arange(sum(lengths)), np.cumsum(lengths)[:-1])
    splits = [pyramid.split(chunk, count) for chunk, count in zip(chunks, channels, strict=True)]
    return np.concatenate([part.ravel() for level in zip(*splits, strict=True) for part in level])


def _take_columns(block: Any, columns: Index) -> Any:
    return block[:, columns]


# ---- windows whose maps are known


@dataclass(frozen=True, eq=False, slots=True)
class _Route:
    """How windows are sorted by the chunks that hold their maps.

    Attributes
    ----------
    order : ndarray of int64, shape (R,)
        The windows, sorted.
    index : ndarray of int64, shape (R,)
        The map of each sorted window, counted from the first of its chunk.
    used : list of int
        The chunks that have windows; the first, where there are no windows at all.
    counts : tuple of int
        How many windows each of these has.
    """

    order: Index
    index: Index
    used: list[int]
    counts: Chunks

    def windows(self, rois: Any, parsed: NDArray[Any]) -> dict[str, tuple[da.Array, str]]:
        """Sort windows, of dask or parsed, with a chunk for each chunk of maps."""
        if isinstance(rois, list | tuple) and any(isinstance(item, da.Array) for item in rois):
            rois = da.concatenate([da.asarray(item).reshape(-1, 4) for item in rois])
        rows = self.sort(rois if isinstance(rois, da.Array) else parsed)
        return {"rois": (rows, "nr"), "batch_index": (_cut(self.index, self.counts), "n")}

    def sort(self, rows: Any) -> da.Array:
        """Sort rows, one for each window, with a chunk for each chunk of maps."""
        return _cut(_take(rows, self.order), self.counts)

    def restore(self, rows: da.Array) -> da.Array:
        """Put sorted rows back in the order of the windows."""
        restored: da.Array = _take(rows, np.argsort(self.order))
        return restored


def _route(index: Index, sizes: Chunks, every: bool = False) -> _Route:
    """Sort windows by the chunks of maps; with `every`, chunks without windows are used, too."""
    bounds = np.cumsum((0, *sizes))
    chunk = np.searchsorted(bounds[1:], index, side="right")
    order = np.argsort(chunk, kind="stable")
    counts = np.bincount(chunk, minlength=len(sizes))
    used = np.flatnonzero(counts) if len(index) else np.arange(1)
    if every:
        used = np.arange(len(sizes))
    return _Route(order, index[order] - bounds[chunk[order]], used.tolist(), tuple(counts[used].tolist()))


# ---- windows whose maps only the tasks will know


def _comes_late(given: Arguments) -> bool:
    """Whether which map each window lies in is in an array of dask."""
    rois = given["rois"]
    return isinstance(given["batch_index"], da.Array) or (isinstance(rois, da.Array) and rois.shape[1] == 5)


def _pool_late(function: Operator, given: Arguments, x: da.Array, length: int, metas: list[Any]) -> list[da.Array]:
    """Give every chunk of maps all windows, and gather the results by the chunks of the windows.

    A chunk of maps is an argument of one task, so that it need not be kept until all windows are done.
    """
    x = _gather(x, "c", given["layout"])
    sizes = x.chunks[0]
    windows = {name: given[name] for name in ("rois", "batch_index") if given[name] is not None}
    counts = next(value.chunks[0] for value in windows.values() if isinstance(value, da.Array))
    starts = _cut(np.cumsum(sizes) - sizes, (1,) * len(sizes))
    pairs = [(x, AXES[given["layout"]]), (starts, "n")]
    pairs += [(_cut(value, counts), axes) for value, axes in zip(windows.values(), ("kr", "k"), strict=False)]
    call = partial(_run_late, _bind(function, given), sum(sizes))
    parts = da.blockwise(call, "n", *itertools.chain(*pairs), align_arrays=False, meta=np.empty(0, object))
    grid = list(itertools.product(range(len(sizes)), range(len(counts))))
    name = f"{function.__name__}-part-{parts.name}"
    graph = {(name, b, k): (operator.getitem, (parts.name, b), k) for b, k in grid}
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[parts])
    ones = (1,) * len(sizes), (1,) * len(counts)
    split = da.Array(layers, name, ones, meta=np.empty((0, 0), object))
    merge = partial(da.blockwise, new_axes={"f": length}, adjust_chunks={"k": counts})
    return [merge(partial(_merge, i), "kf", split, "nk", meta=meta) for i, meta in enumerate(metas)]


def _run_late(call: Operator, count: int, x: Any, start: Index, rois: list[Any], *index: list[Any]) -> list[Part]:
    """Pool the windows in a chunk of maps, of each chunk of windows."""
    x = _only(x)
    parts = []
    for k, block in enumerate(rois):
        try:
            windows, maps = parse_rois(_only(block), index[0][k] if index else None, count)
        except ValueError as error:
            raise ValueError(f"{error} (in chunk {k} of the windows)") from None
        own = np.flatnonzero((maps >= start) & (maps < start + len(x)))
        results = call(x=x, rois=windows[own], batch_index=maps[own] - start)
        parts.append((own, results if isinstance(results, tuple) else (results,)))
    return parts


def _merge(i: int, parts: list[Part]) -> Any:
    """Put a result of a chunk of windows together."""
    parts = [part for part in parts if len(part[0])] or parts[:1]
    order = np.argsort(np.concatenate([own for own, _ in parts]))
    rows = [results[i] for _, results in parts]
    return _take(rows[0] if len(rows) == 1 else np.concatenate(rows), order)


# ---- gradients


def _pull_back(function: Operator, given: Arguments) -> da.Array:
    """Lay out a gradient: each chunk of maps with the rows of its results."""
    x, layout = given["x"], one_of("layout", given["layout"], LAYOUTS)
    rows = {name: given[name] for name in ("grad", "indices") if given.get(name) is not None}
    for name, value in {"x": x, **rows}.items():
        if isinstance(value, list | tuple):
            raise TypeError(f"{name}: gradients of dask arrays take one array, flat, got a {type(value).__name__}")
    if x.ndim == 3:
        per_map = ["x"] if "rois" in given else ["x", *rows]
        gradient: da.Array = _pull_back(function, given | {name: given[name][None] for name in per_map})[0]
        return gradient
    axes = AXES[layout]
    pyramid = as_pyramid(given["levels"], given.get("bins", "adaptive"))
    length = pyramid.output_length(x.shape[axes.index("c")]) if x.ndim == 4 else 0
    windows, _ = _outline(function, given | {name: np.empty((0, length), v.dtype) for name, v in rows.items()})
    for name, value in rows.items():
        count = x.shape[0] if windows is None else len(windows[1])
        if value.shape != (count, length):
            raise ValueError(f"{name}: expected shape {(count, length)}, got {value.shape}")
    x = _gather(x, "hwc", layout)
    arrays = {"x": (x, axes)}
    if windows is None:
        arrays |= {name: (_cut(value, x.chunks[0]), "nf") for name, value in rows.items()}
    elif _comes_late(given):
        raise TypeError("rois: gradients of dask arrays need windows whose maps are known, got a dask array")
    else:
        route = _route(windows[1], x.chunks[0], every=True)
        arrays |= {name: (route.sort(value), "nf") for name, value in rows.items()}
        arrays |= route.windows(given["rois"], windows[0])
    meta = meta_from_array(x._meta, dtype=x.dtype.newbyteorder("="))
    return _blockwise(function, given, arrays, axes, meta)
