"""The token that a kernel is compiled for, see `Reduction`, and the sizes that follow from it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models, register_default
from numba.core.types.containers import Tuple
from numba.extending import intrinsic

from ...arrays import LINE_BYTES
from .llvm import F64, I64, has_feature

CELL_BYTES = 128  # channel lanes of one cell of a tile: two cache lines, four registers of AVX2
SUMMED_LANES = 16  # columns that are summed over rows at a time
HALVES = 32  # that are converted at a time: a cache line
NARROW = 2  # times that the lanes are halved of few channels: in no dtype is a transposed block of fewer
WIDE = ("avg", "mean", "peak")  # modes that reduce float64
SHUFFLE_BYTES = 16  # interleaving within 16 bytes is one instruction on every machine

# dtype: bits, what the bits are, bits of infinity (floats)
_DTYPES = {
    "bool": (8, "unsigned", 0),
    "int8": (8, "signed", 0),
    "int16": (16, "signed", 0),
    "int32": (32, "signed", 0),
    "int64": (64, "signed", 0),
    "uint8": (8, "unsigned", 0),
    "uint16": (16, "unsigned", 0),
    "uint32": (32, "unsigned", 0),
    "uint64": (64, "unsigned", 0),
    "float16": (16, "float", 0x7C00),
    "bfloat16": (16, "float", 0x7F80),
    "float32": (32, "float", 0x7F800000),
    "float64": (64, "float", 0x7FF0000000000000),
}


def lanes_of(bits: int, mode: str, narrow: int) -> int:
    """Channel lanes of a cell: as many as are fast, halved so many times, but no fewer than a transposed block has."""
    most = min(CELL_BYTES * 8 // bits, 32 if mode in WIDE else 64)
    return max(most >> narrow, 2 * SHUFFLE_BYTES * 8 // bits)


def group_of(bits: int, count: int) -> int:
    """Lanes that are transposed together: a cache line of them where the registers hold as many bins."""
    return min(count, (LINE_BYTES if bits > 8 else LINE_BYTES // 2) * 8 // bits)


class Lanes(types.Type):
    """Numba's type of a vector of `count` elements, integers of so many bits or float64."""

    def __init__(self, bits: int, count: int, is_float: bool = False) -> None:
        self.bits = bits
        self.count = count
        self.is_float = is_float
        super().__init__(name=f"Lanes({'f' if is_float else 'i'}{bits} x {count})")

    @property
    def llvm(self) -> ir.VectorType:
        """LLVM's type."""
        return ir.VectorType(F64 if self.is_float else ir.IntType(self.bits), self.count)


class Reduction(types.Opaque):
    """Numba's type of the compile-time token.

    Parameters
    ----------
    dtype : str
        Of the maps.
    mode : {"max", "argmax", "paired", "avg", "mean", "peak"}
        What is reduced; ``"paired"`` are maxima and their indices, too, each with its key in one integer, and
        ``"mean"`` and ``"peak"`` are the mean and the largest of weighted cells.
    narrow : int
        How many times the lanes are halved, up to `NARROW`.
    way : str
        How bins are reduced, where a kernel has several ways, see `kernels.build`.
    """

    def __init__(self, dtype: str, mode: str, narrow: int, way: str = "") -> None:
        self.dtype = dtype
        self.mode = mode
        self.way = way
        self.bits, self.kind, self.infinity = _DTYPES[dtype]
        self.wide = mode in WIDE
        self.sums = mode in ("avg", "mean")
        self.count = lanes_of(self.bits, mode, narrow)
        super().__init__(name=f"Reduction({dtype}, {mode}, {self.count}, {way})")

    @property
    def out_bits(self) -> int:
        """Bits of one item of the result."""
        if not self.wide or self.kind == "float":
            return self.bits
        return 32 if self.bits < 32 else 64

    @property
    def pair_bits(self) -> int:
        """Bits of a key and, below it, of an index: its bits turned, so that the first of equal ones is the largest."""
        return 64 if self.bits > 16 else 32

    @property
    def index_bits(self) -> int:
        """Those of the index."""
        return self.pair_bits - self.bits

    @property
    def cell(self) -> Lanes:
        """A cell of the tile: keys, pairs or, of what is reduced as float64, the dtype's bits.

        Where it would take long to make that of them, cell by cell, they are float32's: of halves, and of small
        integers that are weighed.
        """
        if self.mode == "paired":
            return Lanes(self.pair_bits, self.count)
        is_single = self.wide and self.bits <= 16 and (self.kind == "float" or self.mode != "avg")
        return Lanes(32 if is_single else self.bits, self.count)

    @property
    def raw(self) -> Lanes:
        """A cell of the map."""
        return Lanes(self.bits, self.count)

    @property
    def reduced(self) -> Lanes:
        """What cells are reduced to: keys, pairs, or float64."""
        return Lanes(64, self.count, is_float=True) if self.wide else self.cell

    @property
    def fixed(self) -> bool:
        """Whether areas are of units that cells are rounded to: sums of float32 are exact only so."""
        return self.mode == "avg" and self.dtype == "float32"

    @property
    def area(self) -> Lanes:
        """The sum of a table of areas: of 8 bits, 32, which hold those of 2**23 cells."""
        small = self.kind != "float" and self.bits == 8
        return Lanes(32 if small else 64, self.count, is_float=not (small or self.fixed))

    @property
    def area_bytes(self) -> int:
        """Size of one of these."""
        return self.count * self.area.bits // 8

    @property
    def index(self) -> Lanes:
        """Where the cells lie that were taken."""
        return Lanes(32, self.count)

    @property
    def row(self) -> Lanes:
        """A part of one channel's row of cells: a cache line, or as many as their sums have registers."""
        count = 8 * LINE_BYTES // self.bits
        return Lanes(self.bits, min(count, SUMMED_LANES) if self.wide else count)

    @property
    def row_accumulator(self) -> Any:
        """Columns reduced over rows: sums, or keys and, for ``"argmax"``, an index for each."""
        if self.wide:
            return Lanes(64, self.row.count, is_float=True)
        return Tuple((self.row, Lanes(32, self.row.count))) if self.mode == "argmax" else self.row

    @property
    def row_mask(self) -> Lanes:
        """Which of the columns count: all bits of each, or none."""
        return Lanes(64 if self.wide else self.bits, self.row.count)

    @property
    def row_sum(self) -> Any:
        """Columns reduced over a few rows: small integers are summed as twice their bits, in half of the time."""
        return Lanes(2 * self.bits, self.row.count) if self.adds_integers else self.row_accumulator

    @property
    def column_bytes(self) -> int:
        """Size of one column of that."""
        return 8 if self.wide else self.bits // 8 + (4 if self.mode == "argmax" else 0)

    @property
    def part_bytes(self) -> int:
        """Size of a part of a strip."""
        return self.row.count * self.column_bytes

    @property
    def held_parts(self) -> int:
        """Parts of a row, at most, that registers hold: four are 8 registers of 32 bytes of maxima, 16 of sums.

        With 32 of 64 bytes they hold eight; sums of float64 that come from memory took 1.2 times as long so.
        """
        return 8 if has_feature("avx512f") and not (self.wide and self.bits == 64) else 4

    @property
    def accumulator(self) -> Any:
        """The state of a bin: what its cells are reduced to and, for ``"argmax"``, where that was found."""
        return Tuple((self.reduced, self.index)) if self.mode == "argmax" else self.reduced

    @property
    def adds_integers(self) -> bool:
        """Whether a few cells are added up as integers, which takes a third of the operations."""
        return self.mode == "avg" and self.kind != "float" and self.bits <= 16

    @property
    def some(self) -> Any:
        """The state of some cells of a bin, no more than a part has: sums of small integers are of 32 bits."""
        return Lanes(32, self.count) if self.adds_integers else self.accumulator

    @property
    def reduced_bytes(self) -> int:
        """Size of the first part of an accumulator in memory."""
        return self.count * self.reduced.bits // 8

    @property
    def accumulator_bytes(self) -> int:
        """In memory the two parts follow each other."""
        return self.reduced_bytes + (4 * self.count if self.mode == "argmax" else 0)

    @property
    def result_bytes(self) -> int:
        """Bytes of a bin of the result, all lanes, and of its indices."""
        return self.count * (self.out_bits // 8 + (4 if self.mode in ("argmax", "paired") else 0))


@register_default(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


register_default(Reduction)(models.OpaqueModel)


@intrinsic(prefer_literal=True)
def reduction(typingctx: Any, dtype: Any, mode: Any, narrow: Any, way: Any, digest: Any) -> Any:
    """Make the token of literals."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_dummy_value()

    token = Reduction(dtype.literal_value, mode.literal_value, narrow.literal_value, way.literal_value)
    return token(dtype, mode, narrow, way, digest), codegen


def _size(name: str, measure: Any) -> Any:
    def typing(typingctx: Any, t: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return I64(int(measure(t)))

        return types.int64(t), codegen

    typing.__name__ = name
    return intrinsic(typing)


lane_count = _size("lane_count", lambda t: t.count)
item_bytes = _size("item_bytes", lambda t: t.bits // 8)
cell_bytes = _size("cell_bytes", lambda t: t.count * t.cell.bits // 8)
reduced_bytes = _size("reduced_bytes", lambda t: t.reduced_bytes)
accumulator_bytes = _size("accumulator_bytes", lambda t: t.accumulator_bytes)
some_bytes = _size("some_bytes", lambda t: 4 * t.count if t.adds_integers else t.accumulator_bytes)
area_bytes = _size("area_bytes", lambda t: t.area_bytes)
result_bytes = _size("result_bytes", lambda t: t.result_bytes)
out_item_bytes = _size("out_item_bytes", lambda t: t.out_bits // 8)
transpose_rows = _size("transpose_rows", lambda t: 2 * SHUFFLE_BYTES * 8 // t.bits)
column_bytes = _size("column_bytes", lambda t: t.column_bytes)
row_lanes = _size("row_lanes", lambda t: t.row.count)
row_block = _size("row_block", lambda t: 16 if t.mode == "avg" and t.bits == 8 else 4)
held_parts = _size("held_parts", lambda t: t.held_parts)
part_bytes = _size("part_bytes", lambda t: t.part_bytes)
raw_cells = _size("raw_cells", lambda t: 8 if t.bits == 8 else 4 if t.wide or t.bits < 64 else 2)
out_group = _size("out_group", lambda t: group_of(t.out_bits, t.count))
pair_group = _size("pair_group", lambda t: LINE_BYTES * 8 // t.pair_bits)
index_group = _size("index_group", lambda t: group_of(32, t.count))
is_sum = _size("is_sum", lambda t: t.sums)
is_fixed = _size("is_fixed", lambda t: t.fixed)
is_paired = _size("is_paired", lambda t: t.mode == "paired")
has_index = _size("has_index", lambda t: t.mode in ("argmax", "paired"))
