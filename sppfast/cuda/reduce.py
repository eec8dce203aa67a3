"""How the work of the forward operators is divided into blocks and threads, see docs/cuda.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cupy
import numpy as np

from ..arrays import Maps
from ..pyramid import Pyramid
from .launch import (
    MAX_VECTOR,
    SHARED_BYTES,
    THREADS,
    TYPES,
    VECTOR_BYTES,
    WARP,
    launch,
    level_fields,
    level_tables,
    map_fields,
    power_of_two,
)

PLANES_BYTES = 16 * 1024  # of shared memory: several blocks run side by side
BLOCKS = 512  # wanted, to keep all of a device busy
STATE_BYTES = 16  # of a reduction, at most
LANE_CELLS = 8  # of a bin, for each thread that reduces it
FEW_WINDOWS = 16  # are not worth bringing the maps into another layout


def pool_maps(kept: Any, maps: Maps, pyramid: Pyramid, reduction: str, targets: list[Any]) -> None:
    """Pool whole maps into the rows of the targets."""
    if not targets[0].size:
        return
    size = maps.dtype.itemsize
    if maps.largest * size + VECTOR_BYTES <= SHARED_BYTES:
        _pool_planes(kept, maps, pyramid, reduction, targets)
    else:
        _pool_bins(kept, maps, pyramid, reduction, targets)


def _pool_planes(kept: Any, maps: Maps, pyramid: Pyramid, reduction: str, targets: list[Any]) -> None:
    plane = maps.largest * maps.dtype.itemsize
    fair = maps.count * maps.channels // BLOCKS
    group = max(1, min(PLANES_BYTES // plane, fair, maps.channels))
    threads = tuple(power_of_two(maps.largest // (r * c * LANE_CELLS), WARP) for r, c in pyramid.levels)
    blocks = maps.count * -(-maps.channels // group)
    fields = {"group": group}
    name = f"pool_planes<{TYPES[maps.name]}, {reduction.upper()}>"
    _pool(name, blocks, kept, maps, pyramid, threads, fields, targets, group * plane + VECTOR_BYTES)


def _pool_bins(kept: Any, maps: Maps, pyramid: Pyramid, reduction: str, targets: list[Any]) -> None:
    channels_last = maps.channels > 1 and bool((maps.table[:, 3] == maps.dtype.itemsize).all())
    lanes, items = (WARP, 1) if channels_last else (1, VECTOR_BYTES // maps.dtype.itemsize)
    threads = tuple(
        lanes * power_of_two(maps.largest // (r * c * LANE_CELLS * items), THREADS // lanes) for r, c in pyramid.levels
    )
    own = sum(-(-r * c * t // THREADS) for (r, c), t in zip(pyramid.levels, threads, strict=True))
    blocks = maps.count * -(-maps.channels // lanes) * own
    fields = {"lanes": lanes, "chunk": own}
    name = f"pool_bins<{TYPES[maps.name]}, {reduction.upper()}>"
    _pool(name, blocks, kept, maps, pyramid, threads, fields, targets, THREADS * STATE_BYTES)


def _pool(
    name: str,
    blocks: int,
    kept: Any,
    maps: Maps,
    pyramid: Pyramid,
    threads: tuple[int, ...],
    fields: dict[str, int],
    targets: list[Any],
    shared: int,
) -> None:
    levels = level_tables(pyramid, False, threads)
    alive, own = map_fields(kept, maps)
    own |= level_fields(levels, pyramid.size, pyramid.bins)
    launch(name, blocks, {**own, **row_fields(targets), **fields}, shared=shared)
    del alive


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
    vectors = _has_vectors(kept, maps, vector)
    if not vectors and len(windows) >= FEW_WINDOWS:
        kept, maps, vectors = *_pack(kept, maps, vector), True
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
    fields |= {"windows": len(windows), "windows_at": windows.data.ptr, "vectors": int(vectors)}
    fields |= {"group": group, "chunk": chunk, "lanes": lanes, "pitch": pitch, **(options or {})}
    blocks = len(windows) * -(-maps.channels // group) * -(-pyramid.size // chunk)
    name = f"pool_windows<{TYPES[maps.name]}, {reduction.upper()}, {vector}>"
    launch(name, blocks, fields, shared=chunk * step + 4)
    del alive


def _has_vectors(kept: Any, maps: Maps, vector: int) -> bool:
    """Whether the channels of all cells lie together and can be loaded as whole vectors."""
    size = vector * maps.dtype.itemsize
    steps = [*maps.table[:, 4:].ravel().tolist(), maps.batch_step]
    addresses = maps.table[:, 0].tolist() if maps.ragged else [kept.data.ptr]
    together = bool((maps.table[:, 3] == maps.dtype.itemsize).all()) and maps.channels % vector == 0
    return together and all(value % size == 0 for value in (*steps, *addresses))


def _pack(kept: Any, maps: Maps, vector: int) -> tuple[Any, Maps]:
    """Bring maps into the layout (cell, channel), with whole vectors of channels."""
    pitch = -(-maps.channels // vector) * vector
    cells = maps.heights * maps.widths
    firsts = np.cumsum(cells) - cells
    total = int(cells.sum()) * (1 if maps.ragged else maps.count)
    packed = cupy.empty((total, pitch), maps.dtype)
    alive, fields = map_fields(kept, maps)
    chunk = -(-maps.largest // WARP)
    fields |= {"packed_at": packed.data.ptr, "pitch": pitch, "chunk": chunk}
    if maps.ragged:
        uploaded = cupy.asarray(firsts)
        fields["firsts_at"] = uploaded.data.ptr
    blocks = maps.count * chunk * -(-maps.channels // WARP)
    name = f"pack_maps<{TYPES[maps.name]}>"
    launch(name, blocks, fields, shared=WARP * (WARP + 1) * maps.dtype.itemsize)
    del alive
    return packed, _packed_maps(packed, maps, firsts, pitch)


def _packed_maps(packed: Any, maps: Maps, firsts: Any, pitch: int) -> Maps:
    """Describe maps in their new layout."""
    size = maps.dtype.itemsize
    table = maps.table.copy()
    table[:, 0] = packed.data.ptr + firsts * pitch * size if maps.ragged else 0
    table[:, 3] = size
    table[:, 4] = maps.widths * pitch * size
    table[:, 5] = pitch * size
    step = 0 if maps.ragged else maps.largest * pitch * size
    return replace(maps, table=table, batch_step=step, address=table.ctypes.data)
