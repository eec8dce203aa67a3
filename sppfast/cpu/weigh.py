"""From arrays to the kernels of weighted cells and of gradients."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import LINE_BYTES, Maps, address_of
from ..plan import Plan, Samples
from . import kernels, scatter, taps
from .kernels import COLUMNS, ROWS, X_EDGES, Y_EDGES
from .launch import (
    SERIAL_ITEMS,
    SPILL,
    STREAM_BYTES,
    TILE_BYTES,
    Kernel,
    Launch,
    choose_lanes,
    count_chunks,
    edge_fields,
    fill_fields,
    is_narrow,
    kernel_of,
    level_fields,
    map_fields,
    run,
    stream_result,
)
from .order import order_windows

LANES_BYTES = 2**18  # of gradients of one channel block: up to here they lie in a near cache
WIDE_BYTES = 2**25  # of gradients of one channel block: from here on the block is made narrow
NEAR_BYTES = 2**17  # of gradients that are scattered together: part of a second-level cache
MAX_GROUP = 32  # channels
TABLE_BYTES, LEAST_BYTES = 2**25, 2**21  # of taps, at a time: a small part of the result
PARTS = 32
MANY_WINDOWS = 4096
TABLE_WINDOWS = 64  # for a task that lists taps


class Table:
    """The taps of all windows, listed, and what a kernel must know to find them.

    `sizes` are those of its records, where they are known.
    """

    def __init__(
        self,
        maps: Maps,
        plan: Plan | Samples,
        index: NDArray[np.int64],
        mode: str,
        workers: int | None,
        sizes: NDArray[np.int64] | None = None,
    ) -> None:
        sizes = _record_bytes(plan, maps, index) if sizes is None else sizes
        self.memory = np.empty(int(sizes.sum()), dtype=np.uint8)
        self.records = np.concatenate([[0], np.cumsum(sizes)])
        self.fields = {
            **_window_fields(plan),
            **map_fields(maps),
            kernels.TABLE_AT: address_of(self.memory),
            kernels.RECORDS_AT: address_of(self.records),
        }
        chunks = -(-len(index) // TABLE_WINDOWS)
        own = {kernels.CHUNKS: chunks, kernels.WINDOWS: len(index), kernels.MAP_NUMBERS_AT: address_of(index)}
        precision = "float64" if maps.dtype.itemsize == 8 else "float32"
        launch = Launch(
            kernel_of(precision, mode, 0, taps.build_tabulate).address(),
            fill_fields(self.fields | own),
            chunks,
            parallel=chunks > 1,
            scratch_bytes=0,
            order=None,
        )
        run(launch, launch.fields, workers)


def align_maps(
    kept: Any,
    maps: Maps,
    samples: Samples,
    index: NDArray[np.int64],
    mode: str,
    target: NDArray[Any],
    workers: int | None,
) -> None:
    """Align every window into its row of the target; `mode` is ``"avg"`` or ``"peak"``.

    So many windows at a time that their table stays small.
    """
    if not target.size:
        return
    room = min(max(target.nbytes // PARTS, LEAST_BYTES), TABLE_BYTES)
    for begin in range(0, len(index), MANY_WINDOWS):
        end = min(begin + MANY_WINDOWS, len(index))
        sizes = _record_bytes(_some(samples, begin, end), maps, index[begin:end])
        cuts = begin + 1 + np.flatnonzero(np.diff(np.cumsum(sizes.sum(axis=(1, 2))) // room))
        for first, last in pairwise((begin, *cuts, end)):
            some, own = _some(samples, first, last), sizes[first - begin : last - begin]
            _align_part(kept, maps, some, index[first:last], own, mode, target[first:last], workers)


def _some(samples: Samples, first: int, last: int) -> Samples:
    return Samples(samples.windows[first:last], samples.ratio, samples.grids)


def _align_part(
    kept: Any,
    maps: Maps,
    samples: Samples,
    index: NDArray[np.int64],
    sizes: NDArray[np.int64],
    mode: str,
    target: NDArray[Any],
    workers: int | None,
) -> None:
    def build(narrow: bool) -> Kernel:
        return kernel_of(maps.name, mode, int(narrow), taps.build_gather)

    kernel, shared = choose_lanes(build, maps, index, _line_cells(samples, maps, index))
    table = Table(maps, samples, index, mode, workers, sizes)
    tile = maps.largest if shared else max(TILE_BYTES // kernel.cell_bytes, int(maps.widths.max()))
    bins = samples.grids.bins + SPILL
    stream, places = stream_result(target.nbytes, samples.grids.bins, shared)
    parallel = target.size >= SERIAL_ITEMS
    blocks = -(-maps.channels // kernel.lanes)
    chunks = count_chunks(len(index), maps.count * blocks) if parallel else 1
    fields = {
        kernels.BASE_AT: 0 if maps.ragged else address_of(kept),
        kernels.OUT_AT: address_of(target),
        kernels.OUT_STEP: target.strides[0],
        kernels.BLOCKS: blocks,
        kernels.GROUP: kernel.lanes,
        kernels.CHUNKS: chunks,
        kernels.SHARED: shared,
        kernels.STREAM: stream,
        kernels.TILE_CELLS: tile,
        kernels.BINS: bins,
    }
    scratch = tile * kernel.cell_bytes + bins * (kernel.bin_bytes + places * kernel.result_bytes)
    _run(kernel, maps, table, index, fields, maps.count * blocks * chunks, parallel, scratch, workers)


def spread_means(
    grad: NDArray[Any],
    maps: Maps,
    plan: Plan | Samples,
    index: NDArray[np.int64],
    targets: list[NDArray[Any]],
    workers: int | None,
) -> None:
    """Add the gradients of the windows' means, rows of `grad`, up in the targets, contiguous (C, H, W) arrays."""
    narrow = int(is_narrow(maps) or maps.largest * kernel_of(maps.name, "avg").bin_bytes > WIDE_BYTES)
    kernel = kernel_of(maps.name, "avg", narrow, taps.build_spread)
    table = Table(maps, plan, index, "avg", workers)
    _spread(kernel, grad, maps, plan.grids.bins, {}, table, index, targets, workers)


def scatter_maxima(
    grad: NDArray[Any],
    indices: NDArray[np.int32],
    maps: Maps,
    plan: Plan,
    index: NDArray[np.int64],
    targets: list[NDArray[Any]],
    workers: int | None,
    more: bool,
) -> int:
    """Add the gradients to the cells that were maxima; return one more than a row with a wrong index, or 0.

    The targets are cleared first, unless there is `more` to add to them.
    """
    status = np.zeros(1, dtype=np.int64)
    fields = {
        **level_fields(plan.grids),
        **map_fields(maps),
        kernels.WHAT: scatter.MORE_MAXIMA if more else scatter.MAXIMA,
        kernels.INDEX_AT: address_of(indices),
        kernels.INDEX_STEP: indices.strides[0],
        kernels.STATUS_AT: address_of(status),
    }
    _scatter(grad, maps, fields, None, index, targets, 0, workers)
    return int(status[0])


def scatter_peaks(
    grad: NDArray[Any],
    kept: Any,
    maps: Maps,
    samples: Samples,
    index: NDArray[np.int64],
    targets: list[NDArray[Any]],
    workers: int | None,
) -> None:
    """Add the gradients of RoI align's maxima to the cells that they came from."""
    table = Table(maps, samples, index, "peak", workers)
    fields = {kernels.WHAT: scatter.PEAKS, kernels.BASE_AT: 0 if maps.ragged else address_of(kept)}
    _scatter(grad, maps, fields, table, index, targets, 0, workers)


def spread_maps(grad: NDArray[Any], maps: Maps, plan: Plan, targets: list[NDArray[Any]], workers: int | None) -> None:
    """Write the gradients of the means of whole maps; the plan has a row for each map, or one for all."""
    index = np.arange(maps.count)
    fields = {**edge_fields(plan), **level_fields(plan.grids), **map_fields(maps)}
    kernel = kernel_of(maps.name, "avg", int(is_narrow(maps)), taps.build_spread_map)
    if maps.largest * kernel.bin_bytes <= LANES_BYTES:
        return _spread(kernel, grad, maps, plan.grids.bins, fields, None, index, targets, workers)
    lines, widest = int(plan.grids.levels[:, ROWS].sum()), 8 * int(maps.widths.max()) + LINE_BYTES
    fields |= {kernels.WHAT: scatter.MEANS, kernels.LINES: lines}
    scratch = (4 + _group(maps) * lines) * widest + 16 * lines + 8 * LINE_BYTES
    _scatter(grad, maps, fields, None, index, targets, scratch, workers)


def _spread(
    kernel: Kernel,
    grad: NDArray[Any],
    maps: Maps,
    bins: int,
    fields: dict[int, int],
    table: Table | None,
    index: NDArray[np.int64],
    targets: list[NDArray[Any]],
    workers: int | None,
) -> None:
    """Sum gradients of means in channel lanes."""
    cells, bins = maps.largest + SPILL, bins + SPILL
    blocks = -(-maps.channels // kernel.lanes)
    addresses = np.array([address_of(target) for target in targets], dtype=np.int64)
    size = grad.size + sum(target.size for target in targets)
    fields |= {
        kernels.GRAD_AT: address_of(grad),
        kernels.GRAD_STEP: grad.strides[0],
        kernels.OUT_AT: address_of(addresses),
        kernels.BLOCKS: blocks,
        kernels.STREAM: size * maps.dtype.itemsize >= STREAM_BYTES,
        kernels.TILE_CELLS: cells,
        kernels.BINS: bins,
    }
    scratch = cells * (kernel.bin_bytes + kernel.result_bytes) + bins * kernel.cell_bytes + LINE_BYTES
    if table is None:  # sums of strips, and the strips: at most as many as there are cells
        scratch += cells * (kernel.bin_bytes + 8)
    _run(kernel, maps, table, index, fields, maps.count * blocks, size >= SERIAL_ITEMS, scratch, workers)


def _scatter(
    grad: NDArray[Any],
    maps: Maps,
    fields: dict[int, int],
    table: Table | None,
    index: NDArray[np.int64],
    targets: list[NDArray[Any]],
    scratch: int,
    workers: int | None,
) -> None:
    kernel = kernel_of(maps.name, "avg", 1, scatter.build)
    group = _group(maps)
    blocks = -(-maps.channels // group)
    addresses = np.array([address_of(target) for target in targets], dtype=np.int64)
    fields |= {
        kernels.GROUP: group,
        kernels.BLOCKS: blocks,
        kernels.GRAD_AT: address_of(grad),
        kernels.GRAD_STEP: grad.strides[0],
        kernels.OUT_AT: address_of(addresses),
    }
    parallel = grad.size + sum(target.size for target in targets) >= SERIAL_ITEMS
    _run(kernel, maps, table, index, fields, maps.count * blocks, parallel, scratch, workers)


def _run(
    kernel: Kernel,
    maps: Maps,
    table: Table | None,
    index: NDArray[np.int64],
    fields: dict[int, int],
    tasks: int,
    parallel: bool,
    scratch: int,
    workers: int | None,
) -> None:
    """Do the tasks of a kernel whose windows are ordered by map."""
    order = order_windows(index, maps.count)
    step = -(-scratch // LINE_BYTES) * LINE_BYTES
    values = {
        **(table.fields if table else {}),
        **fields,
        kernels.STARTS_AT: address_of(order.starts),
        kernels.ROWS_AT: address_of(order.rows),
        kernels.SCRATCH_STEP: step,
    }
    launch = Launch(kernel.address(), fill_fields(values), tasks, parallel, step, order)
    run(launch, launch.fields, workers)


def _group(maps: Maps) -> int:
    """Count the channels whose gradients are scattered together: pairs."""
    return min(max(NEAR_BYTES // (2 * maps.largest * maps.dtype.itemsize), 1) * 2, MAX_GROUP)


def _window_fields(plan: Plan | Samples) -> dict[int, int]:
    levels = level_fields(plan.grids)
    if isinstance(plan, Plan):
        return {kernels.SAMPLING: -1, **edge_fields(plan), **levels}
    return {kernels.SAMPLING: plan.ratio, kernels.WINDOWS_AT: address_of(plan.windows), **levels}


def _record_bytes(plan: Plan | Samples, maps: Maps, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Size of each record of the table, (R, L, 2)."""
    sizes = np.empty((len(index), len(plan.grids.levels), 2), dtype=np.int64)
    for axis, field in enumerate((ROWS, COLUMNS)):
        for level, count in enumerate(_taps(plan, maps, index, axis)):
            sizes[:, level, axis] = 8 * (plan.grids.levels[level, field] + 1) + taps.TAP_BYTES * count
    return sizes


def _taps(plan: Plan | Samples, maps: Maps, index: NDArray[np.int64], axis: int) -> Iterator[NDArray[Any] | float]:
    """Count the taps of all bins along an axis, at most: for each level (R,), or one number for equal windows.

    Arrays of one dimension and of one dtype: others take buffers, see `memory.expect`.
    """
    if isinstance(plan, Plan):
        return _edge_taps(plan, *((plan.y_edges, Y_EDGES, ROWS), (plan.x_edges, X_EDGES, COLUMNS))[axis])
    return _sample_taps(plan, maps, index, axis)


def _edge_taps(plan: Plan, edges: NDArray[np.int32], places: int, counts: int) -> Iterator[NDArray[Any]]:
    for place, n in plan.grids.levels[:, [places, counts]]:
        begins, ends = (edges[:, at : at + n].astype(np.int64) for at in (place, place + n))
        yield np.maximum(ends - begins, 0).sum(axis=1)


def _sample_taps(samples: Samples, maps: Maps, index: NDArray[np.int64], axis: int) -> Iterator[NDArray[Any] | float]:
    extents = samples.windows[:, 1 + 2 * axis]
    sides = (maps.heights, maps.widths)[axis].astype(np.float64)
    for bins in samples.grids.levels[:, (ROWS, COLUMNS)[axis]].tolist():
        if samples.ratio:
            yield 2.0 * samples.ratio * bins
        else:  # samples of a bin are at least half a cell apart: no more of them lie near the map
            near = np.minimum(np.ceil(extents / bins) + 1, 2 * (sides[index] if maps.ragged else sides[0]) + 8)
            yield 2.0 * bins * near


def _line_cells(samples: Samples, maps: Maps, index: NDArray[np.int64]) -> int:
    """Count the cells of the lines that the taps of all windows name, at most."""
    lines = sum(_sample_taps(samples, maps, index, 0))
    return int((lines * np.minimum(samples.windows[:, 3] + 2, float(maps.widths.max()))).sum())
