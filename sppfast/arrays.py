"""Arrays in and out: the one place that knows which arrays are taken, and how their maps lie in memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from operator import mul
from types import ModuleType
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

DTYPES = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
    ]
)
LAYOUTS = ("NCHW", "NHWC")
LINE_BYTES = 64  # of a cache line
_DATA_FIELD = object.__basicsize__  # of NumPy's array object: the first after Python's own, fixed by its C API
_number_at = ctypes.c_ssize_t.from_address
MAX_SIDE = 2**31 - 1  # cells; the tables of edges are int32


@dataclass(frozen=True, eq=False, slots=True)
class Maps:
    """How feature maps of one dtype and number of channels lie in memory.

    Attributes
    ----------
    dtype : dtype
        Native-endian.
    name : str
        Of the dtype.
    count, channels : int
        N and C.
    table : ndarray of int64, shape (1 or N, 6)
        Address (0 for a batch: its array's), height, width, and the bytes from one channel, row, column to the next.
    batch_step : int
        Bytes from one map to the next; 0 for a ragged batch.
    single : bool
        Whether there was no batch axis.
    ragged : bool
        Whether there is a row of the table for each map.
    address : int
        Of the table, which lives as long as this.
    largest : int
        Cells of the largest map.
    widest : int
        Columns of the widest map.
    longest : int
        Rows of the tallest map, or columns of the widest, whichever are more.
    """

    dtype: np.dtype[Any]
    name: str
    count: int
    channels: int
    table: NDArray[np.int64]
    batch_step: int
    single: bool
    ragged: bool
    address: int
    largest: int
    widest: int
    longest: int

    @property
    def bytes(self) -> int:
        """Size of the largest map."""
        return self.largest * self.channels * self.dtype.itemsize

    @property
    def in_double(self) -> bool:
        """Whether RoI align computes coordinates in float64, as its results are."""
        return result_dtype(self.dtype, "avg").itemsize == 8

    @property
    def heights(self) -> NDArray[np.int64]:
        """Height of all maps, (1,), or of each map of a ragged batch, (N,)."""
        return self.table[:, 1]

    @property
    def widths(self) -> NDArray[np.int64]:
        """Width of all maps, (1,), or of each map of a ragged batch, (N,)."""
        return self.table[:, 2]


OfMaps = TypeVar("OfMaps", bound=Callable[..., Any])


def remembered(function: OfMaps) -> OfMaps:
    """Remember what a function of maps found, unless they are a list: that is never described again."""
    known = lru_cache(maxsize=256)(function)
    _forgetting.append(known.cache_clear)

    @wraps(function)
    def find(maps: Maps, *given: Any) -> Any:
        return function(maps, *given) if maps.ragged else known(maps, *given)

    return cast(OfMaps, find)


_forgetting: list[Callable[[], None]] = []


def forget() -> None:
    """Forget what all such functions found: where limits that they go by are changed."""
    for clear in _forgetting:
        clear()


def take_maps(x: Any, layout: str, xp: ModuleType = np) -> tuple[Any, Maps]:
    """Take an array or a ragged batch: what to keep alive while its memory is in use, and how it lies there.

    `xp` is the library of the arrays, NumPy or CuPy.
    """
    if isinstance(x, xp.ndarray):
        x = _plain(x, "x")
        return x, _batch(x.shape, x.strides, x.dtype, layout)
    if is_sequence(x):
        return _ragged(x, layout, xp)
    raise TypeError(f"x: expected an array or a sequence of arrays, got {type(x).__name__}")


def is_sequence(value: Any) -> bool:
    """Tell whether a value may be a sequence of arrays: text is none, and a view of memory is one array."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | memoryview)


def address_of(array: NDArray[Any]) -> int:
    """Address of an array's first item: ``array.ctypes.data``, which takes six times as long."""
    return _number_at(id(array) + _DATA_FIELD).value


@lru_cache(maxsize=256)
def _batch(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], layout: str) -> Maps:
    if len(shape) not in (3, 4):
        names = "(C, H, W) or (N, C, H, W)" if layout == "NCHW" else "(H, W, C) or (N, H, W, C)"
        raise ValueError(f"x: expected shape {names}, got {shape}")
    row = _map_row("x", 0, shape, strides, layout)
    single = len(shape) == 3
    count, step = (1, 0) if single else (shape[0], strides[0])
    channels = shape[-3] if layout == "NCHW" else shape[-1]
    return _maps("x", dtype, count, channels, [row], step, single, False)


def _ragged(x: Sequence[Any], layout: str, xp: ModuleType) -> tuple[Any, Maps]:
    if not len(x):
        raise ValueError("x: an empty sequence of maps does not tell the number of channels")
    arrays: list[Any] = []
    rows: list[tuple[int, ...]] = []
    channels = -1
    for i, item in enumerate(x):
        name = f"x[{i}]"
        if not isinstance(item, xp.ndarray):
            raise TypeError(f"{name}: expected a {xp.__name__} array, got {type(item).__name__}")
        array = _plain(item, name)
        if array.ndim != 3:
            names = "(C, H, W)" if layout == "NCHW" else "(H, W, C)"
            raise ValueError(f"{name}: expected shape {names}, got {array.shape}")
        if array.dtype != (arrays[0] if arrays else array).dtype:
            raise TypeError(f"{name}: has dtype {array.dtype}, x[0] has {arrays[0].dtype}")
        address = address_of(array) if xp is np else array.data.ptr
        rows.append(_map_row(name, address, array.shape, array.strides, layout))
        own = array.shape[0 if layout == "NCHW" else 2]
        channels = own if channels < 0 else channels
        if own != channels:
            raise ValueError(f"{name}: has {own} channels, x[0] has {channels}")
        arrays.append(array)
    return arrays, _maps("x[0]", arrays[0].dtype, len(arrays), channels, rows, 0, False, True)


def _maps(
    name: str, dtype: Any, count: int, channels: int, rows: list[Any], step: int, single: bool, ragged: bool
) -> Maps:
    dtype_name = _name_of(dtype)
    if dtype_name not in DTYPES:
        raise TypeError(f"{name}: dtype {dtype} is not supported, expected bool, integers or floats up to 64 bits")
    table, (_, heights, widths, *_) = np.array(rows, dtype=np.int64), zip(*rows, strict=True)
    sizes = max(map(mul, heights, widths)), max(widths), max(*heights, *widths)
    return Maps(dtype, dtype_name, count, channels, table, step, single, ragged, address_of(table), *sizes)


@lru_cache(maxsize=256)
def _name_of(dtype: np.dtype[Any]) -> str:
    """Name of a dtype, which NumPy makes anew each time."""
    return str(dtype.name)


def _map_row(name: str, address: int, shape: tuple[int, ...], strides: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """Row of the table of maps."""
    channel, row, column = (-3, -2, -1) if layout == "NCHW" else (-1, -3, -2)
    if 0 in shape[-3:]:
        raise ValueError(f"{name}: maps of zero size, shape {shape}")
    if max(shape[row], shape[column]) > MAX_SIDE:
        raise ValueError(f"{name}: more than {MAX_SIDE} cells along a side, shape {shape}")
    return address, shape[row], shape[column], strides[channel], strides[row], strides[column]


def _plain(x: Any, name: str) -> Any:
    """Refuse what is more than an array, and convert what is not in the machine's byte order."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name}: masked arrays are not supported; fill it first")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


def result_dtype(dtype: np.dtype[Any], reduction: str) -> np.dtype[Any]:
    """Dtype of a result: a mean of integers is a float."""
    if reduction != "avg" or dtype.kind not in "biu":
        return dtype
    return np.result_type(dtype, np.float32)
