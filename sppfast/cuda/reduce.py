"""How the work of the forward operators is divided into blocks and threads, see docs/cuda.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cupy
import numpy as np

from ..arrays import Maps
from ..pyramid import Pyramid, bin_edges
from .launch import (
    MAX_VECTOR,
    SHARED_BYTES,
    THREADS,
    TYPES,
    VECTOR_BYTES,
    WARP,
    Slots,
    launch,
    level_fields,
    level_tables,
    map_fields,
    power_of_two,
)

TILE_BYTES = 16 * 1024  # of shared memory: several blocks run side by side
LINE_BYTES = 64  # of memory, read at once where the channels lie together
PAD_BYTES = 512  # of shared memory, before a tile
UNION_LEVELS = 16  # of which some may be made from others: REACHES of kernels.cu
BLOCKS = 512  # wanted, to keep all of a device busy
MOST_ITEMS = 2**20  # bins of all channels of a block
PACK_WINDOWS = 8  # of each map: fewer are not worth bringing the maps into another layout


@dataclass(frozen=True, slots=True)
class Tiling:
    """How whole maps are divided: channels of a block, cells of a tile, shared memory, tiles of a map, their states."""

    group: int
    room: int
    shared: int
    tiles: int
    slots: Slots | None


def pool_maps(kept: Any, maps: Maps, pyramid: Pyramid, reduction: str, targets: list[Any]) -> None:
    """Pool whole maps into the rows of the targets."""
    if not targets[0].size:
        return
    tiling = _tile(maps, pyramid)
    unions = pyramid.bins == "adaptive" and reduction != "avg" and len(pyramid.levels) <= UNION_LEVELS
    levels = level_tables(pyramid, unions, tiling.slots)
    alive, fields = map_fields(kept, maps)
    fields |= level_fields(levels, pyramid.size, pyramid.bins) | row_fields(targets)
    fields |= {"group": tiling.group, "room": tiling.room, "tiles": tiling.tiles}
    kind = f"<{TYPES[maps.name]}, {reduction.upper()}>"
    planes = maps.count * maps.channels
    states = None
    if tiling.slots:
        slots = sum(rows * columns for rows, columns in tiling.slots)
        states = cupy.empty(planes * slots * tiling.tiles * _state_bytes(maps, reduction), np.uint8)
        fields |= {"states_at": states.data.ptr, "slots": slots}
    blocks = maps.count * -(-maps.channels // tiling.group) * tiling.tiles
    launch(f"pool_tiles{kind}", blocks, fields, shared=tiling.shared)
    if tiling.slots:
        launch(f"merge_tiles{kind}", -(-planes * pyramid.size * WARP // THREADS), fields)
    del alive, states


def _state_bytes(maps: Maps, reduction: str) -> int:
    """Bytes of the struct of a reduction: what a bin is known to be made of."""
    item = max(maps.dtype.itemsize, 4)
    return {"max": item, "argmax": 2 * item, "avg": 8}[reduction]


def _tile(maps: Maps, pyramid: Pyramid) -> Tiling:
    """Divide whole maps."""
    return (_tile_maps if maps.ragged else _tile_batch)(maps, pyramid)


def _tile_maps(maps: Maps, pyramid: Pyramid) -> Tiling:
    size, cells = maps.dtype.itemsize, maps.largest
    together = bool((maps.table[:, 3] == size).all())
    line = LINE_BYTES // size if together else 1
    fair = min(TILE_BYTES // (cells * size), maps.count * maps.channels // BLOCKS)
    group = max(1, min(max(fair, line), maps.channels, MOST_ITEMS // pyramid.size))
    if group * (cells + 1) * size + PAD_BYTES <= SHARED_BYTES:
        return Tiling(group, cells, group * (cells + 1) * size + PAD_BYTES, 1, None)
    room = TILE_BYTES // (group * size)
    sizes = set(zip(maps.heights.tolist(), maps.widths.tolist(), strict=True))
    steps = [_cut(height, width, room) for height, width in sizes]
    tiles = max(-(-h // rows) * -(-w // columns) for (h, w), (rows, columns) in zip(sizes, steps, strict=True))

    def count(axis: int, n: int) -> int:
        return max(_count_bins(own[axis], step[axis], n, pyramid.bins) for own, step in zip(sizes, steps, strict=True))

    slots = tuple((count(0, rows), count(1, columns)) for rows, columns in pyramid.levels)
    return Tiling(group, room, group * (room + 1) * size + PAD_BYTES, tiles, slots)


_tile_batch = lru_cache(maxsize=256)(_tile_maps)  # a batch's description is kept, see `take_maps`


def _cut(height: int, width: int, room: int) -> tuple[int, int]:
    """Cut a map into tiles as kernels.cu does: the rows and the columns of one."""
    columns = min(width, room)
    rows = min(room // columns, height)
    return -(-height // -(-height // rows)), -(-width // -(-width // columns))


@lru_cache(maxsize=1024)
def _count_bins(length: int, step: int, n: int, rule: str) -> int:
    """Count the bins that have cells of one of an axis's tiles, at most; all of them if there is one tile only."""
    if step >= length:
        return n
    starts, stops = bin_edges(np.asarray(length), n, rule)
    firsts = np.arange(0, length, step)
    beyond = np.searchsorted(starts, np.minimum(firsts + step, length))
    return int((beyond - np.searchsorted(stops, firsts, side="right")).max(initial=1))


def row_fields(targets: list[Any]) -> dict[str, int]:
    """Describe rows of values, and of places where there are two arrays, to a kernel."""
    names = (("values_at", "values_step"), ("places_at", "places_step"))
    fields: dict[str, int] = {}
    for (at, step), target in zip(names, targets, strict=False):
        fields |= {at: target.data.ptr, step: target.strides[0] if target.ndim == 2 else 0}
    return fields


def pool_windows(
    kept: Any,
    maps: Maps,
    pyramid: Pyramid,
    rule: str,
    windows: Any,
    reduction: str,
    targets: list[Any],
    options: Mapping[str, int] | None = None,
) -> None:
    """Pool or align windows, planned by `plan_windows`, into the rows of the targets; `options` are RoI align's."""
    if not targets[0].size:
        return
    vector = min(VECTOR_BYTES // maps.dtype.itemsize, MAX_VECTOR)
    if not _has_vectors(kept, maps, vector):
        if len(windows) >= PACK_WINDOWS * maps.count:
            kept, maps = _pack(kept, maps, vector)
        else:
            vector = 1
    lanes = power_of_two(2 * -(-maps.channels // vector) - 1, WARP)
    group = lanes * vector
    size = targets[0].itemsize
    pitch = group + max(4 // size, 1)  # odd in words of shared memory, whose banks take turns
    step = pitch * (size + (4 if len(targets) == 2 else 0))
    chunk = min(pyramid.size, SHARED_BYTES // step)
    unions = rule == "adaptive" and reduction in ("max", "argmax") and chunk == pyramid.size
    levels = level_tables(pyramid, unions)
    alive, fields = map_fields(kept, maps)
    fields |= level_fields(levels, pyramid.size, rule) | row_fields(targets)
    fields |= {"windows": len(windows), "windows_at": windows.data.ptr}
    fields |= {"group": group, "chunk": chunk, "lanes": lanes, "pitch": pitch, **(options or {})}
    blocks = len(windows) * -(-maps.channels // group) * -(-pyramid.size // chunk)
    name = f"pool_windows<{TYPES[maps.name]}, {reduction.upper()}, {vector}>"
    launch(name, blocks, fields, shared=chunk * step + 4)
    del alive


def _has_vectors(kept: Any, maps: Maps, vector: int) -> bool:
    """Whether the channels of all cells lie together and can be loaded as whole vectors."""
    size = vector * maps.dtype.itemsize
    if maps.ragged:
        return _steps_in_vectors(maps, vector) and not (maps.table[:, 0] % size).any()
    return kept.data.ptr % size == 0 and _batch_steps_in_vectors(maps, vector)


def _steps_in_vectors(maps: Maps, vector: int) -> bool:
    size = vector * maps.dtype.itemsize
    together = (maps.table[:, 3] == maps.dtype.itemsize).all() and maps.channels % vector == 0
    return bool(together and not (maps.table[:, 4:] % size).any() and maps.batch_step % size == 0)


_batch_steps_in_vectors = lru_cache(maxsize=256)(_steps_in_vectors)


def _pack(kept: Any, maps: Maps, vector: int) -> tuple[Any, Maps]:
    """Bring maps into the layout (cell, channel), with whole vectors of channels."""
    pitch = -(-maps.channels // vector) * vector
    layout, firsts, total = (_lay_out if maps.ragged else _lay_out_batch)(maps, pitch)
    packed = cupy.empty((total, pitch), maps.dtype)
    alive, fields = map_fields(kept, maps)
    chunk = -(-maps.largest // WARP)
    fields |= {"packed_at": packed.data.ptr, "pitch": pitch, "chunk": chunk}
    if maps.ragged:
        uploaded = cupy.asarray(firsts)
        fields["firsts_at"] = uploaded.data.ptr
        layout.table[:, 0] += packed.data.ptr
    blocks = maps.count * chunk * -(-maps.channels // WARP)
    name = f"pack_maps<{TYPES[maps.name]}>"
    launch(name, blocks, fields, shared=WARP * (WARP + 1) * maps.dtype.itemsize)
    del alive
    return packed, layout


def _lay_out(maps: Maps, pitch: int) -> tuple[Maps, Any, int]:
    """Describe maps in another layout, from address 0 on: also the first cell of each, and all cells."""
    size, cells = maps.dtype.itemsize, maps.heights * maps.widths
    firsts = np.cumsum(cells) - cells
    table = maps.table.copy()
    table[:, 0] = firsts * pitch * size
    table[:, 3] = size
    table[:, 4] = maps.widths * pitch * size
    table[:, 5] = pitch * size
    step = 0 if maps.ragged else maps.largest * pitch * size
    total = int(cells.sum()) * (1 if maps.ragged else maps.count)
    return replace(maps, table=table, batch_step=step, address=table.ctypes.data), firsts, total


_lay_out_batch = lru_cache(maxsize=256)(_lay_out)
