"""From arrays to the kernels of weighted cells and of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import LINE_BYTES, Maps, address_of
from ..memory import allocate
from ..plan import Plan, Samples
from . import descriptor, division, halves, scatter, taps, ways
from .descriptor import RAW_WAY, ROWS
from .division import SPILL, count_chunks, enough_tasks, group_channels, lead_of
from .lanes.reduction import HALVES, NARROW
from .launch import (
    STREAM_BYTES,
    Launch,
    edge_fields,
    fill_fields,
    level_fields,
    map_fields,
    run,
    set_fields,
    stream_result,
)
from .order import Order, by_place, order_windows
from .ways import Kernel, count_halvings, count_used, is_far, kernel_of, reads_at_once, shared_way

LANES_BYTES = 2**18  # of gradients of one channel block: up to here they lie in a near cache
WIDE_BYTES = 2**25  # of gradients of one channel block: from here on the block is made narrow
NEAR_BYTES = 2**17  # of gradients that are scattered together: part of a second-level cache
MAX_GROUP = 32  # channels
TABLE_BYTES, LEAST_BYTES = 2**25, 2**21  # of taps, at a time: a small part of the result
ALL_BYTES = 2**62
PARTS = 32
MANY_WINDOWS = 4096
TABLE_WINDOWS = 64  # for a task that lists taps
WINDOW_CELLS = 2**11  # to list the taps of a window takes as long as to reduce so many cells
RAW_CELLS = 30  # of a bin of windows that have as many cells as their map, where it takes as long to pack that
FAR_RAW_CELLS = 300  # into a tile that leaves the near caches
ALIGNED_CELLS = 8  # to align a bin, as so many


class Table:
    """The taps of windows, listed: of as many as have `room` for them, and of one at least.

    Attributes
    ----------
    fields : array of int64
        What a kernel must know to find them.
    count : int
        How many windows these are.
    cells, met : int
        Of the lines that their taps name, for RoI align, and where taps of both axes meet, at most.
    """

    def __init__(
        self,
        maps: Maps,
        plan: Plan | Samples,
        mode: str,
        workers: int | None,
        room: int = ALL_BYTES,
    ) -> None:
        index, records = _index_of(plan, maps), 2 * len(plan.grids.levels)
        self._places = np.empty(records * len(index) + 3, dtype=np.int64)
        places = {descriptor.RECORDS_AT: address_of(self._places), descriptor.MAP_NUMBERS_AT: address_of(index)}
        self.fields = fill_fields(_window_fields(plan) | map_fields(maps) | places)
        address = self.fields.buffer_info()[0]
        self.count: int = taps.lay_records(address, len(index), room, address_of(self._places))
        size, self.cells, self.met = self._places[records * self.count :][:3].tolist()
        self._memory = np.empty(size, dtype=np.uint8)
        chunks = -(-self.count // TABLE_WINDOWS)
        own = {descriptor.TABLE_AT: address_of(self._memory), descriptor.CHUNKS: chunks, descriptor.WINDOWS: self.count}
        set_fields(self.fields, own)
        precision = "float64" if maps.in_double else "float32"
        kernel = kernel_of(precision, mode, 0, taps.build_tabulate).address()
        items = len(index) * WINDOW_CELLS
        launch = Launch(kernel, self.fields, chunks, items, scratch_bytes=0, order=None)
        run(launch, self.fields, workers)


def align_maps(
    kept: Any,
    maps: Maps,
    samples: Samples,
    mode: str,
    target: NDArray[Any],
    workers: int | None,
) -> None:
    """Align every window into its row of the target; `mode` is ``"mean"`` or ``"peak"``.

    So many windows at a time that their table stays small.
    """
    if not target.size:
        return
    room, first = min(max(target.nbytes // PARTS, LEAST_BYTES), TABLE_BYTES), 0
    while first < len(target):
        part = slice(first, first + MANY_WINDOWS)
        first += _align_part(kept, maps, samples.part(part), mode, target[part], room, workers)


def _align_part(
    kept: Any,
    maps: Maps,
    samples: Samples,
    mode: str,
    target: NDArray[Any],
    room: int,
    workers: int | None,
) -> int:
    """Align as many windows as have room for their taps; tell how many."""
    table = Table(maps, samples, mode, workers, room)
    index, target = samples.index[: table.count], target[: table.count]
    base, used = 0 if maps.ragged else address_of(kept), count_used(maps, index)
    kernel, shared = _choose_kernel(maps, mode, used, samples.grids.bins, table)
    tile = maps.largest if shared else max(ways.TILE_BYTES // kernel.cell_bytes, maps.widest)
    stream, places = stream_result(target.nbytes, samples.grids.bins, shared)
    bins = samples.grids.bins + SPILL
    parts = max(min(len(index), enough_tasks()), used)
    group = kernel.lanes if shared else group_channels(maps, samples.grids, kernel, parts)
    lead = lead_of(maps, kernel, base % LINE_BYTES) if shared else 0
    groups, chunks = -(-(maps.channels + lead) // group), 1
    packed = maps.count * maps.largest if shared else 0
    items = ALIGNED_CELLS * target.size + maps.channels * (packed or table.cells)
    if items >= division.SERIAL_ITEMS:
        chunks = count_chunks(len(index), used * groups, table.cells, samples.grids.bins, packed)
    fields = {
        descriptor.BASE_AT: base,
        descriptor.OUT_AT: address_of(target),
        descriptor.OUT_STEP: target.strides[0],
        descriptor.BLOCKS: groups,
        descriptor.GROUP: group,
        descriptor.LEAD: lead,
        descriptor.CHUNKS: chunks,
        descriptor.SHARED: shared,
        descriptor.STREAM: stream,
        descriptor.TILE_CELLS: tile,
        descriptor.BINS: bins,
    }
    blocks = -(-group // kernel.lanes)
    scratch = tile * kernel.cell_bytes + bins * (blocks * kernel.bin_bytes + places * kernel.result_bytes)
    starts, extents = samples.windows[: table.count, :2].T
    first = by_place(starts, starts + extents) if is_far(maps, kernel) else None
    order = order_windows(index, maps.count, first=first)
    way = RAW_WAY if not shared and reads_at_once(maps, kernel) else ""
    _run(kernel, table, order, fields, maps.count * groups * chunks, items, scratch, workers, way)
    return table.count


def _choose_kernel(maps: Maps, mode: str, used: int, bins: int, table: Table) -> tuple[Kernel, bool]:
    """Choose a kernel, and whether it packs each of so many maps once for all windows, or the cells of each.

    Where channels lie side by side they are read where they lie, of fewer windows the more cells their bins have: these
    are read again for each channel block, and what is fetched meanwhile is further away.
    """
    shared, apart = shared_way(maps, mode, taps.build_gather)
    if shared is None:
        return apart, False
    if reads_at_once(maps, apart):
        most = FAR_RAW_CELLS if is_far(maps, shared.kernel) else RAW_CELLS
        packs = table.met**2 > most * bins * table.count * used * maps.largest
    else:
        packs = shared.pays(table.cells, table.count, used)
    return (shared.kernel, True) if packs else (apart, False)


def spread_means(
    grad: NDArray[Any],
    maps: Maps,
    plan: Plan | Samples,
    targets: list[NDArray[Any]],
    workers: int | None,
) -> None:
    """Add the gradients of the windows' means, rows of `grad`, up in the targets, contiguous (C, H, W) arrays."""
    is_wide = maps.largest * kernel_of(maps.name, "avg").bin_bytes > WIDE_BYTES
    kernel = kernel_of(maps.name, "avg", NARROW if is_wide else count_halvings(maps, "avg"), taps.build_spread)
    table = Table(maps, plan, "mean", workers)
    _spread(kernel, grad, maps, plan, {}, table, targets, workers)


def scatter_maxima(
    grad: NDArray[Any],
    indices: NDArray[np.int32],
    maps: Maps,
    plan: Plan,
    targets: list[NDArray[Any]],
    workers: int | None,
    more: bool,
    channel: int,
    rows: NDArray[np.int64] | None,
) -> int:
    """Add the gradients to the cells that were maxima; return one more than a row with a wrong index, or 0.

    The maps, targets and indices may be of some of the gradients' channels, from `channel` on, and the windows and
    indices of some of their `rows`. The targets are cleared first, unless there is `more` to add to them.
    """
    status = np.zeros(1, dtype=np.int64)
    fields = {
        **level_fields(plan.grids),
        **map_fields(maps),
        descriptor.WHAT: scatter.MORE_MAXIMA if more else scatter.MAXIMA,
        descriptor.INDEX_AT: address_of(indices),
        descriptor.INDEX_STEP: indices.strides[0],
        descriptor.STATUS_AT: address_of(status),
        descriptor.GRAD_CHANNELS: grad.shape[1] // plan.grids.bins,
        descriptor.GRAD_CHANNEL: channel,
        descriptor.GRAD_ROWS_AT: 0 if rows is None else address_of(rows),
    }
    _scatter(grad, maps, fields, None, _index_of(plan, maps), targets, 0, workers)
    return int(status[0])


def scatter_peaks(
    grad: NDArray[Any],
    kept: Any,
    maps: Maps,
    samples: Samples,
    targets: list[NDArray[Any]],
    workers: int | None,
) -> None:
    """Add the gradients of RoI align's maxima to the cells that they came from."""
    table = Table(maps, samples, "peak", workers)
    fields = {descriptor.WHAT: scatter.PEAKS, descriptor.BASE_AT: 0 if maps.ragged else address_of(kept)}
    _scatter(grad, maps, fields, table, samples.index, targets, 0, workers)


def spread_maps(grad: NDArray[Any], maps: Maps, plan: Plan, targets: list[NDArray[Any]], workers: int | None) -> None:
    """Write the gradients of the means of whole maps; the plan has a row for each map, or one for all."""
    fields = {**edge_fields(plan), **level_fields(plan.grids), **map_fields(maps)}
    kernel = kernel_of(maps.name, "avg", count_halvings(maps, "avg"), taps.build_spread_map)
    if maps.largest * kernel.bin_bytes <= LANES_BYTES:
        return _spread(kernel, grad, maps, plan, fields, None, targets, workers)
    lines, widest = int(plan.grids.levels[:, ROWS].sum()), 8 * maps.widest + LINE_BYTES
    fields |= {descriptor.WHAT: scatter.MEANS, descriptor.LINES: lines}
    scratch = (4 + _group(maps) * lines) * widest + 16 * lines + 8 * LINE_BYTES
    _scatter(grad, maps, fields, None, _index_of(plan, maps), targets, scratch, workers)


def _spread(
    kernel: Kernel,
    grad: NDArray[Any],
    maps: Maps,
    plan: Plan | Samples,
    fields: dict[int, int],
    table: Table | None,
    targets: list[NDArray[Any]],
    workers: int | None,
) -> None:
    """Sum gradients of means in channel lanes."""
    cells, bins = maps.largest + SPILL, plan.grids.bins + SPILL
    blocks = -(-maps.channels // kernel.lanes)
    addresses = np.array([address_of(target) for target in targets], dtype=np.int64)
    size = grad.size + sum(target.size for target in targets)
    fields |= {
        descriptor.GRAD_AT: address_of(grad),
        descriptor.GRAD_STEP: grad.strides[0],
        descriptor.OUT_AT: address_of(addresses),
        descriptor.BLOCKS: blocks,
        descriptor.STREAM: size * maps.dtype.itemsize >= STREAM_BYTES,
        descriptor.TILE_CELLS: cells,
        descriptor.BINS: bins,
    }
    scratch = cells * (kernel.bin_bytes + kernel.result_bytes) + bins * kernel.cell_bytes + LINE_BYTES
    if table is None:  # sums of strips, and the strips: at most as many as there are cells
        scratch += cells * (kernel.bin_bytes + 8)
    index = _index_of(plan, maps)
    _run(kernel, table, order_windows(index, maps.count), fields, maps.count * blocks, size, scratch, workers)


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
    kernel = kernel_of(maps.name, "avg", NARROW, scatter.build)
    group = _group(maps)
    blocks = -(-maps.channels // group)
    addresses = np.array([address_of(target) for target in targets], dtype=np.int64)
    fields |= {
        descriptor.GROUP: group,
        descriptor.BLOCKS: blocks,
        descriptor.GRAD_AT: address_of(grad),
        descriptor.GRAD_STEP: grad.strides[0],
        descriptor.OUT_AT: address_of(addresses),
    }
    size = grad.size + sum(target.size for target in targets)
    _run(kernel, table, order_windows(index, maps.count), fields, maps.count * blocks, size, scratch, workers)


def _run(
    kernel: Kernel,
    table: Table | None,
    order: Order,
    fields: dict[int, int],
    tasks: int,
    items: int,
    scratch: int,
    workers: int | None,
    way: str = "",
) -> None:
    """Do the tasks of a kernel whose windows are ordered by map."""
    step = -(-scratch // LINE_BYTES) * LINE_BYTES
    values = table.fields[:] if table else fill_fields({})
    places = {descriptor.ROWS_AT: order.rows_at, descriptor.STARTS_AT: order.starts_at}
    set_fields(values, fields | places | {descriptor.SCRATCH_STEP: step})
    launch = Launch(kernel.address(way), values, tasks, items, step, order)
    run(launch, launch.fields, workers)


def convert(source: NDArray[Any], dtype: np.dtype[Any], workers: int | None) -> NDArray[Any]:
    """Turn halves into float32, or float32 into halves."""
    if source.size < HALVES:
        return source.astype(dtype)
    source, target = np.ascontiguousarray(source), allocate(source.shape, dtype)
    widens, tasks = source.itemsize == 2, -(-source.size // halves.TASK_NUMBERS)
    kernel = kernel_of((source.dtype if widens else dtype).name, "avg", 0, halves.build)
    places = {descriptor.BASE_AT: address_of(source), descriptor.OUT_AT: address_of(target)}
    fields = fill_fields(places | {descriptor.WINDOWS: source.size})
    address = kernel.address(halves.WIDEN if widens else halves.NARROW)
    run(Launch(address, fields, tasks, source.size, scratch_bytes=0, order=None), fields, workers)
    return target


def _index_of(plan: Plan | Samples, maps: Maps) -> NDArray[np.int64]:
    """Tell the map of each window."""
    return np.arange(maps.count) if plan.index is None else plan.index


def _group(maps: Maps) -> int:
    """Count the channels whose gradients are scattered together: pairs."""
    return min(max(NEAR_BYTES // (2 * maps.largest * maps.dtype.itemsize), 1) * 2, MAX_GROUP)


def _window_fields(plan: Plan | Samples) -> dict[int, int]:
    levels = level_fields(plan.grids)
    if isinstance(plan, Plan):
        return {descriptor.SAMPLING: -1, **edge_fields(plan), **levels}
    return {descriptor.SAMPLING: plan.ratio, descriptor.WINDOWS_AT: address_of(plan.windows), **levels}
