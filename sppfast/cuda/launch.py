"""From fields and a name to a kernel on the current device and stream."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from struct import Struct
from typing import Any, TypeAlias

import cupy
import numpy as np

from ..arrays import Maps
from ..plan import Nests, level_table
from ..pyramid import Level, Pyramid

SOURCE = Path(__file__).with_name("kernels.cu")
# Coordinates are rounded operation by operation, as on the CPU. CuPy adds -ftz=true at the end, which would take
# subnormal float32 numbers for 0, and the last such option counts: here it is the name of a folder that is not there.
OPTIONS = ("--std=c++17", "--fmad=false", "-I")
THREADS = 256  # of a block
WARP = 32
SHARED_BYTES = 48 * 1024  # of a block: what every device has, unasked
VECTOR_BYTES = 16  # that a thread loads at once
MAX_VECTOR = 8  # items

TYPES = {
    "bool": "unsigned char",
    "uint8": "unsigned char",
    "int8": "signed char",
    "uint16": "unsigned short",
    "int16": "short",
    "uint32": "unsigned",
    "int32": "int",
    "uint64": "unsigned long long",
    "int64": "i64",
    "float16": "Half",
    "bfloat16": "BFloat",
    "float32": "float",
    "float64": "double",
}

# struct Call of kernels.cu
FIELDS = (
    *("maps_at", "base", "height", "width", "channel_step", "row_step", "column_step", "batch_step"),
    *("maps", "channels", "levels_at", "levels", "bins", "rule"),
    *("windows", "rois_at", "roi_fields", "index_at", "windows_at", "rounding", "status_at", "stride", "offset"),
    *("aligned", "sampling"),
    *("values_at", "values_step", "places_at", "places_step", "weights_at", "weights_step"),
    *("packed_at", "firsts_at", "pitch"),
    *("group", "chunk", "lanes", "parts", "part_step", "shared_planes", "room", "tiles", "states_at", "slots"),
)
ZEROS = dict.fromkeys(FIELDS, 0)
CALL = Struct("".join("d" if name in ("stride", "offset") else "q" for name in FIELDS))
Slots: TypeAlias = tuple[tuple[int, int], ...]
RULES = ("adaptive", "sliding", "caffe", "fast_rcnn")


def launch(kernel: str, blocks: int, fields: dict[str, Any], threads: int = THREADS, shared: int = 0) -> None:
    """Run a kernel on the current device and stream; `shared` is bytes of shared memory for each block."""
    if not blocks:
        return
    call = np.void(CALL.pack(*(ZEROS | fields).values()))  # by value, of a type that CuPy takes without looking into it
    _function(kernel, cupy.cuda.runtime.getDevice())((blocks,), (threads,), (call,), shared_mem=shared)


@cache
def _function(kernel: str, device: int) -> Any:
    """Compile a kernel for a device, or load it from CuPy's cache on disk."""
    return cupy.RawModule(code=_source(), options=OPTIONS, name_expressions=(kernel,)).get_function(kernel)


@cache
def _source() -> str:
    return SOURCE.read_text()


def map_fields(kept: Any, maps: Maps) -> tuple[Any, dict[str, int]]:
    """Describe maps to a kernel: what to keep alive meanwhile, and the fields."""
    fields = {"maps": maps.count, "channels": maps.channels}
    if maps.ragged:
        table = cupy.asarray(maps.table)
        return (kept, table), fields | {"maps_at": table.data.ptr}
    names = ("height", "width", "channel_step", "row_step", "column_step")
    row = dict(zip(names, maps.table[0, 1:].tolist(), strict=True))
    return kept, fields | row | {"base": kept.data.ptr, "batch_step": maps.batch_step}


def level_fields(levels: Any, bins: int, rule: str) -> dict[str, int]:
    """Describe the levels of a pyramid to a kernel: `levels` is their table, on the device."""
    return {"levels_at": levels.data.ptr, "levels": len(levels), "bins": bins, "rule": RULES.index(rule)}


def level_tables(pyramid: Pyramid, unions: bool, slots: Slots | None = None) -> Any:
    """Lay out the table of levels on the current device.

    `unions` says whether levels may be made from finer ones; `slots` is how many states of a tile are enough for the
    rows and columns of bins of each level, all of them if not given.
    """
    return _level_tables(pyramid.levels, unions, slots or pyramid.levels, cupy.cuda.runtime.getDevice())


@lru_cache(maxsize=256)
def _level_tables(levels: tuple[Level, ...], unions: bool, slots: Slots, device: int) -> Any:
    rows, columns = ({level[axis] for level in levels} for axis in (0, 1))
    table = level_table(levels, _nests(rows), _nests(columns), unions)[:, [0, 1, 2, 5, 6, 7]]
    finest_first = np.argsort([-r * c for r, c in levels], kind="stable")
    sizes = np.array(slots, dtype=np.int64)[finest_first]
    before = np.cumsum(sizes.prod(axis=1)) - sizes.prod(axis=1)
    uploaded = cupy.asarray(np.column_stack([table, before, sizes]).astype(np.int32))
    cupy.cuda.get_current_stream().synchronize()  # it will be used on other streams, too
    return uploaded


def _nests(counts: set[int]) -> Nests:
    """Tell which numbers of bins nest whatever the extent is: those of adaptive bins that divide others."""
    return frozenset((coarse, fine) for coarse in counts for fine in counts if fine % coarse == 0)


def power_of_two(number: float, most: int) -> int:
    """Round down to a power of two from 1 to `most`."""
    return 1 << int(min(max(number, 1), most)).bit_length() - 1
