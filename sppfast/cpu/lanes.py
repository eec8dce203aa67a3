"""Vectors of the target machine in Numba: one value per channel lane.

A `Lanes` value is an LLVM vector. LLVM splits it into the registers that the machine has (two of AVX2 for 64 bytes,
four of SSE or NEON, one of AVX-512), so the kernels are written once for every instruction set. Addresses are plain
integers: the kernels compute them, and the plan sets the bounds that keep them inside the arrays.

Everything that depends on the dtype or on what is computed hangs on one compile-time token, a `Reduction`, that the
functions here take as their last argument. Max works on *keys*: the bits of a number turned into a signed integer of
the same order, every NaN above infinity, so that one integer comparison does it all, for every dtype. What needs
arithmetic, avg and the weighted peak of RoI align, works on float64.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models, register_default
from numba.core.types.containers import Tuple
from numba.extending import intrinsic

from ..arrays import LINE_BYTES

I1, I16, I32, I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()
CELL_BYTES = 128  # channel lanes of one cell of a tile: two cache lines, four registers of AVX2
SUMMED_LANES = 16  # columns that are summed over rows at a time
SUM_DIGITS, AREA_DIGITS, CELL_DIGITS = 53, 62, 51  # of a sum of float64; of a sum of integers, and of one of its cells
UNIT, ROW, LARGEST, DEPTH, REST, EXACT, BOUNDS = range(7)  # of a table of areas, see `store_bounds`
ROUNDING = 2.0**-20  # more than what bounds themselves are rounded by
OTHER_ADDITIONS = 8  # what turns sums into means, and bounds them, rounds less than as many additions
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


def lanes_of(bits: int, mode: str, narrow: bool) -> int:
    """Channel lanes of a cell."""
    block = 2 * SHUFFLE_BYTES * 8 // bits
    if narrow:
        return block
    return min(CELL_BYTES * 8 // bits, 32 if mode in ("avg", "peak") else 64)


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
    mode : {"max", "argmax", "paired", "avg", "peak"}
        What is reduced; ``"paired"`` are maxima and their indices, too, each with its key in one integer, and
        ``"peak"`` is the largest of weighted cells.
    narrow : bool
        Whether there are few channels: as few lanes as a transposed block has, instead of as many as are fast.
    way : str
        How bins are reduced, where a kernel has several ways, see `kernels.build`.
    """

    def __init__(self, dtype: str, mode: str, narrow: bool, way: str = "") -> None:
        self.dtype = dtype
        self.mode = mode
        self.way = way
        self.bits, self.kind, self.infinity = _DTYPES[dtype]
        self.wide = mode in ("avg", "peak")  # reduced as float64, from the dtype's own bits
        self.count = lanes_of(self.bits, mode, narrow)
        super().__init__(name=f"Reduction({dtype}, {mode}, {self.count}, {way})")

    @property
    def out_bits(self) -> int:
        """Bits of one item of the result."""
        if self.mode != "avg" or self.kind == "float":
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
        """A cell of the tile: keys, pairs or, of what is reduced as float64, the dtype's bits, of halves float32's."""
        if self.mode == "paired":
            return Lanes(self.pair_bits, self.count)
        return Lanes(32 if self.wide and self.kind == "float" and self.bits == 16 else self.bits, self.count)

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
    def row_sum(self) -> Any:
        """Columns reduced over a few rows: small integers are summed as 32 bits, in half of the time."""
        small = self.mode == "avg" and self.kind != "float" and self.bits <= 16
        return Lanes(32, self.row.count) if small else self.row_accumulator

    @property
    def column_bytes(self) -> int:
        """Size of one column of that."""
        return 8 if self.wide else self.bits // 8 + (4 if self.mode == "argmax" else 0)

    @property
    def accumulator(self) -> Any:
        """The state of a bin: what its cells are reduced to and, for ``"argmax"``, where that was found."""
        return Tuple((self.reduced, self.index)) if self.mode == "argmax" else self.reduced

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


# --- LLVM, a few instructions at a time -----------------------------------------------------------------------------


def _constant(ty: ir.VectorType, value: Any) -> ir.Constant:
    return ir.Constant(ty, [value] * ty.count)


def _splat(builder: ir.IRBuilder, value: ir.Value, count: int) -> ir.Value:
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    one = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(one, undefined, _constant(ir.VectorType(I32, count), 0))


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, indices: list[int]) -> ir.Value:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(indices)), indices))


def _as(builder: ir.IRBuilder, value: ir.Value, element: ir.Type) -> ir.Value:
    return builder.bitcast(value, ir.VectorType(element, value.type.count))


def _load(builder: ir.IRBuilder, address: ir.Value, ty: ir.Type) -> ir.Value:
    value = builder.load(builder.inttoptr(address, ty.as_pointer()))
    value.align = 1
    return value


def _store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> ir.Instruction:
    instruction = builder.store(value, builder.inttoptr(address, value.type.as_pointer()))
    instruction.align = 1
    return instruction


def _encode(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn bits into keys: integers of the same order; zeros of both signs equal, every NaN the same and largest."""
    if t.wide or t.kind == "signed":
        return bits
    top = _constant(bits.type, -(2 ** (t.bits - 1)))
    if t.kind == "unsigned":
        return builder.xor(bits, top)
    magnitude = builder.and_(bits, builder.not_(top))
    sign = builder.ashr(bits, _constant(bits.type, t.bits - 1))
    ordered = builder.sub(builder.xor(magnitude, sign), sign)
    is_nan = builder.icmp_signed(">", magnitude, _constant(bits.type, t.infinity))
    quiet_nan = t.infinity | (t.infinity & -t.infinity) >> 1  # the highest bit of the mantissa set
    return builder.select(is_nan, _constant(bits.type, quiet_nan), ordered)


def _decode(builder: ir.IRBuilder, key: ir.Value, t: Reduction) -> ir.Value:
    if t.wide or t.kind != "float":
        return _encode(builder, key, t)
    sign = builder.and_(key, _constant(key.type, -(2 ** (t.bits - 1))))
    ty, name = ir.FunctionType(key.type, [key.type, I1]), f"llvm.abs.v{key.type.count}i{t.bits}"
    magnitude = builder.call(cgutils.get_or_insert_function(builder.module, ty, name), [key, I1(0)])
    return builder.or_(magnitude, sign)


def _widen(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn the bits of any dtype, or of a cell, into float64."""
    double = ir.VectorType(F64, bits.type.count)
    if t.kind == "signed":
        return builder.sitofp(bits, double)
    if t.kind == "unsigned":
        return builder.uitofp(bits, double)
    if t.bits == 64:
        return _as(builder, bits, F64)
    if bits.type.element == I16:
        bits = _single_of_half(builder, bits, t)
    return builder.fpext(_as(builder, bits, F32), double)


def _single_of_half(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn the bits of halves into those of float32, by integer arithmetic: not every machine converts them."""
    wide = builder.zext(bits, ir.VectorType(I32, bits.type.count))
    if t.dtype == "bfloat16":
        return builder.shl(wide, _constant(wide.type, 16))
    magnitude = builder.shl(builder.and_(wide, _constant(wide.type, 0x7FFF)), _constant(wide.type, 13))
    scaled = builder.fmul(_as(builder, magnitude, F32), _constant(ir.VectorType(F32, wide.type.count), 2.0**112))
    not_finite = builder.icmp_signed(">=", magnitude, _constant(wide.type, 0x7C00 << 13))
    special = builder.or_(magnitude, _constant(wide.type, 0x7F800000))
    finite = _as(builder, scaled, I32)
    sign = builder.shl(builder.and_(wide, _constant(wide.type, 0x8000)), _constant(wide.type, 16))
    return builder.or_(builder.select(not_finite, special, finite), sign)


def _to_cell(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn the bits of the dtype into what a tile holds."""
    if t.mode == "paired":
        key = builder.zext(_encode(builder, bits, t), ir.VectorType(t.cell.llvm.element, bits.type.count))
        return builder.shl(key, _constant(key.type, t.index_bits))
    return _encode(builder, bits, t) if t.cell.bits == t.bits else _single_of_half(builder, bits, t)


def _narrow(builder: ir.IRBuilder, value: ir.Value, t: Reduction) -> ir.Value:
    """Turn float64 into the bits of the result's dtype, rounded once, to nearest even."""
    if t.out_bits == 64:
        return _as(builder, value, I64)
    single = ir.VectorType(F32, value.type.count)
    if t.out_bits == 32:
        return _as(builder, builder.fptrunc(value, single), I32)
    return (_to_bfloat16 if t.dtype == "bfloat16" else _to_float16)(builder, value)


def _limited(builder: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """Limit numbers."""
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


def _rounded_to(builder: ir.IRBuilder, value: ir.Value, digits: int, smallest: float) -> ir.Value:
    """Round float64 to so many binary digits, below the smallest normal number to its last: a float32 then.

    To a large number, of which the last bit is worth as much as that digit, it is added, and that taken away.
    """
    power = builder.and_(_as(builder, value, I64), _constant(ir.VectorType(I64, value.type.count), 0x7FF << 52))
    low, high = _constant(value.type, smallest), _constant(value.type, 2.0**512)  # infinity stays what it is
    power = _limited(builder, _as(builder, power, F64), low, high)
    grid = builder.fmul(power, _constant(value.type, 1.5 * 2.0 ** (53 - digits)))
    rounded = builder.fsub(builder.fadd(value, grid), grid)
    ty, name = ir.FunctionType(value.type, 2 * [value.type]), f"llvm.copysign.v{value.type.count}f64"
    rounded = builder.call(cgutils.get_or_insert_function(builder.module, ty, name), [rounded, value])  # of 0
    return _as(builder, builder.fptrunc(rounded, ir.VectorType(F32, value.type.count)), I32)


def _to_bfloat16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    bits = _rounded_to(builder, value, 8, 2.0**-126)
    return builder.trunc(builder.lshr(bits, _constant(bits.type, 16)), ir.VectorType(I16, bits.type.count))


def _to_float16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """By scaling, which makes exponents float16's, and subnormal numbers; infinity and NaN keep their bits."""
    bits = _rounded_to(builder, value, 11, 2.0**-14)
    ty = bits.type
    scaled = builder.fmul(_as(builder, bits, F32), _constant(ir.VectorType(F32, ty.count), 2.0**-112))
    magnitude = builder.and_(builder.lshr(_as(builder, scaled, I32), _constant(ty, 13)), _constant(ty, 0x7FFF))
    sign = builder.and_(builder.lshr(bits, _constant(ty, 16)), _constant(ty, 0x8000))
    return builder.trunc(builder.or_(magnitude, sign), ir.VectorType(I16, ty.count))


# --- the token and its sizes ----------------------------------------------------------------------------------------


@intrinsic(prefer_literal=True)
def reduction(typingctx: Any, dtype: Any, mode: Any, narrow: Any, way: Any, digest: Any) -> Any:
    """Make the token of literals."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_dummy_value()

    token = Reduction(dtype.literal_value, mode.literal_value, bool(narrow.literal_value), way.literal_value)
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
area_bytes = _size("area_bytes", lambda t: t.area_bytes)
result_bytes = _size("result_bytes", lambda t: t.result_bytes)
out_item_bytes = _size("out_item_bytes", lambda t: t.out_bits // 8)
transpose_rows = _size("transpose_rows", lambda t: 2 * SHUFFLE_BYTES * 8 // t.bits)
column_bytes = _size("column_bytes", lambda t: t.column_bytes)
row_lanes = _size("row_lanes", lambda t: t.row.count)
row_block = _size("row_block", lambda t: 16 if t.mode == "avg" and t.bits == 8 else 4)
out_group = _size("out_group", lambda t: group_of(t.out_bits, t.count))
pair_group = _size("pair_group", lambda t: LINE_BYTES * 8 // t.pair_bits)
index_group = _size("index_group", lambda t: group_of(32, t.count))
is_sum = _size("is_sum", lambda t: t.mode == "avg")
is_fixed = _size("is_fixed", lambda t: t.fixed)
is_paired = _size("is_paired", lambda t: t.mode == "paired")
has_index = _size("has_index", lambda t: t.mode in ("argmax", "paired"))


# --- memory ---------------------------------------------------------------------------------------------------------


def _load_item(name: str, bits: int) -> Any:
    def typing(typingctx: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            place = builder.add(args[0], builder.mul(args[1], I64(bits // 8)))
            return builder.sext(_load(builder, place, ir.IntType(bits)), I64)

        return types.int64(types.int64, types.int64), codegen

    typing.__name__ = name
    return intrinsic(typing)


load_i32 = _load_item("load_i32", 32)  # of a table
load_i64 = _load_item("load_i64", 64)  # of a descriptor


@intrinsic
def are_below(typingctx: Any, address: Any, limit: Any) -> Any:
    """Tell whether the integers of a cache line of a table are all less than a limit, and none is negative."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        line = _load(builder, args[0], ir.VectorType(I32, LINE_BYTES // 4))
        limit = _splat(builder, builder.trunc(args[1], I32), line.type.count)
        bits = builder.bitcast(builder.icmp_unsigned("<", line, limit), ir.IntType(line.type.count))
        return builder.icmp_signed("==", bits, ir.Constant(bits.type, -1))

    return types.boolean(types.int64, types.int64), codegen


@intrinsic
def load_f64(typingctx: Any, address: Any, index: Any) -> Any:
    """Load a number of a table."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(builder, builder.add(args[0], builder.mul(args[1], I64(8))), F64)

    return types.float64(types.int64, types.int64), codegen


@intrinsic
def load_f32(typingctx: Any, address: Any, index: Any) -> Any:
    """Load a number of a table of float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number = _load(builder, builder.add(args[0], builder.mul(args[1], I64(4))), ir.FloatType())
        return builder.fpext(number, F64)

    return types.float64(types.int64, types.int64), codegen


@intrinsic
def store_i64(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Store an integer in a table."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(builder, builder.add(args[0], builder.mul(args[1], I64(8))), args[2])
        return context.get_dummy_value()

    return types.void(*3 * [types.int64]), codegen


@intrinsic
def store_i32(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Store an integer in a table of int32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(builder, builder.add(args[0], builder.mul(args[1], I64(4))), builder.trunc(args[2], I32))
        return context.get_dummy_value()

    return types.void(*3 * [types.int64]), codegen


EDGES = 8  # of a window along an axis, at least


@intrinsic
def lay_edges(typingctx: Any, place: Any, row: Any, start: Any, size: Any) -> Any:
    """Store edges of a window: those of a row of a table, shifted by where it begins, and limited to the map."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        edges = _load(builder, args[1], ir.VectorType(I32, EDGES))
        start, size = (_splat(builder, builder.trunc(value, I32), EDGES) for value in args[2:])
        edges, none = builder.add(edges, start), ir.Constant(edges.type, None)
        edges = builder.select(builder.icmp_signed("<", edges, size), edges, size)
        _store(builder, args[0], builder.select(builder.icmp_signed(">", edges, none), edges, none))
        return context.get_dummy_value()

    return types.void(*4 * [types.int64]), codegen


@intrinsic
def store_f64(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Store a number in a table."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(builder, builder.add(args[0], builder.mul(args[1], I64(8))), args[2])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float64), codegen


@intrinsic
def load_number(typingctx: Any, address: Any, t: Any) -> Any:
    """Load one element of a floating dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = _load(builder, args[0], ir.VectorType(ir.IntType(t.bits), 1))
        return builder.extract_element(_widen(builder, bits, t), I32(0))

    return types.float64(types.int64, t), codegen


@intrinsic
def store_number(typingctx: Any, address: Any, value: Any, t: Any) -> Any:
    """Store one element of a floating dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(builder, args[0], _narrow(builder, _splat(builder, args[1], 1), t))
        return context.get_dummy_value()

    return types.void(types.int64, types.float64, t), codegen


@intrinsic
def add_item(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Add one element of float32 or float64 to another."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        ty = F64 if t.bits == 64 else F32
        _store(builder, args[0], builder.fadd(_load(builder, args[0], ty), _load(builder, args[1], ty)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


def _to_single(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    return builder.fpext(builder.fptrunc(value, F32), F64)


@intrinsic
def single(typingctx: Any, value: Any) -> Any:
    """Round to float32: after one operation on such numbers it is what float32's own gives."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _to_single(builder, args[0])

    return types.float64(types.float64), codegen


@intrinsic
def clip(typingctx: Any, value: Any, low: Any, high: Any) -> Any:
    """Limit a number."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _limited(builder, *args)

    return types.float64(*3 * [types.float64]), codegen


@intrinsic
def rounded(typingctx: Any, value: Any, t: Any) -> Any:
    """Round to the precision of coordinates: float32, but for maps of float64 theirs."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if t.bits == 64 else _to_single(builder, args[0])

    return types.float64(types.float64, t), codegen


@intrinsic
def copy_item(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Copy one element of the dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(builder, args[0], _load(builder, args[1], ir.IntType(t.bits)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def fill_line(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Fill a cache line with one element of the dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        item = _load(builder, args[1], ir.IntType(t.bits))
        _store(builder, args[0], _splat(builder, item, 8 * LINE_BYTES // t.bits))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def copy_cell(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Copy the channels of one cell into the tile, encoded. `target` and `source` may be the same."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(builder, args[0], _to_cell(builder, _load(builder, args[1], t.raw.llvm), t))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


def _copy_intrinsic(name: str, size: int, nontemporal: bool = False) -> Any:
    def typing(typingctx: Any, target: Any, source: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            instruction = _store(builder, args[0], _load(builder, args[1], ir.VectorType(ir.IntType(8), size)))
            if nontemporal:
                instruction.align = size
                instruction.set_metadata("nontemporal", builder.module.add_metadata([I32(1)]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), codegen

    typing.__name__ = name
    return intrinsic(typing)


copy_byte = _copy_intrinsic("copy_byte", 1)
copy_part = _copy_intrinsic("copy_part", SHUFFLE_BYTES)
copy_line = _copy_intrinsic("copy_line", LINE_BYTES)
stream_line = _copy_intrinsic("stream_line", LINE_BYTES, nontemporal=True)  # to a multiple of its size


def _clear_intrinsic(name: str, size: int) -> Any:
    def typing(typingctx: Any, target: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _store(builder, args[0], _constant(ir.VectorType(ir.IntType(8), size), 0))
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    typing.__name__ = name
    return intrinsic(typing)


clear_byte = _clear_intrinsic("clear_byte", 1)
clear_line = _clear_intrinsic("clear_line", LINE_BYTES)


def _prefetch_intrinsic(name: str, write: int, locality: int) -> Any:
    def typing(typingctx: Any, address: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer = ir.IntType(8).as_pointer()
            ty = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
            function = cgutils.get_or_insert_function(builder.module, ty, "llvm.prefetch.p0i8")
            builder.call(function, [builder.inttoptr(args[0], pointer), I32(write), I32(locality), I32(1)])
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    typing.__name__ = name
    return intrinsic(typing)


prefetch_read = _prefetch_intrinsic("prefetch_read", 0, 2)  # a cache line that will be read, to the second level
prefetch_write = _prefetch_intrinsic("prefetch_write", 1, 3)  # or written, to the first


# --- accumulators ---------------------------------------------------------------------------------------------------


def _parts(builder: ir.IRBuilder, accumulator: ir.Value, t: Reduction) -> list[ir.Value]:
    return [builder.extract_value(accumulator, i) for i in range(2)] if t.mode == "argmax" else [accumulator]


def _whole(context: Any, builder: ir.IRBuilder, parts: list[ir.Value], t: Reduction) -> ir.Value:
    return context.make_tuple(builder, t.accumulator, parts) if t.mode == "argmax" else parts[0]


def _load_parts(builder: ir.IRBuilder, address: ir.Value, t: Reduction) -> list[ir.Value]:
    parts = [_load(builder, address, t.reduced.llvm)]
    if t.mode == "argmax":
        parts.append(_load(builder, builder.add(address, I64(t.reduced_bytes)), t.index.llvm))
    return parts


@intrinsic
def start(typingctx: Any, t: Any) -> Any:
    """Make the accumulator of no cells: the smallest key at no index, or the sum 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        smallest = _constant(t.reduced.llvm, 0.0 if t.mode == "avg" else -(2 ** (t.reduced.bits - 1)))
        return _whole(context, builder, [smallest, _constant(t.index.llvm, -1)], t)

    return t.accumulator(t), codegen


@intrinsic
def begin(typingctx: Any, accumulator: Any, index: Any, t: Any) -> Any:
    """Point bins without an index at their first cell, which need not be larger than the smallest key."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        parts = _parts(builder, args[0], t)
        if t.mode == "argmax":
            first = _splat(builder, builder.trunc(args[1], I32), t.count)
            none = builder.icmp_signed("==", parts[1], _constant(t.index.llvm, -1))
            parts[1] = builder.select(none, first, parts[1])
        return _whole(context, builder, parts, t)

    return t.accumulator(t.accumulator, types.int64, t), codegen


@intrinsic
def load_accumulator(typingctx: Any, address: Any, t: Any) -> Any:
    """Load the state of a bin."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _whole(context, builder, _load_parts(builder, args[0], t), t)

    return t.accumulator(types.int64, t), codegen


@intrinsic
def store_accumulator(typingctx: Any, address: Any, accumulator: Any, t: Any) -> Any:
    """Store the state of a bin."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for i, part in enumerate(_parts(builder, args[1], t)):
            _store(builder, builder.add(args[0], I64(i * t.reduced_bytes)), part)
        return context.get_dummy_value()

    return types.void(types.int64, t.accumulator, t), codegen


def _add_cell(name: str, load: Any) -> Any:
    """Reduce a cell into a bin. Indices must come in rising order: the first of equals stays."""

    def typing(typingctx: Any, accumulator: Any, address: Any, index: Any, t: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            cell = load(builder, args[1], t)
            if t.mode == "avg":
                return builder.fadd(args[0], _widen(builder, cell, t))
            best = _parts(builder, args[0], t)
            larger = builder.icmp_signed(">", cell, best[0])
            new = [cell, _splat(builder, builder.trunc(args[2], I32), t.count)]
            return _whole(context, builder, [builder.select(larger, a, b) for a, b in zip(new, best, strict=False)], t)

        return t.accumulator(t.accumulator, types.int64, types.int64, t), codegen

    typing.__name__ = name
    return intrinsic(typing)


def _load_cell(builder: ir.IRBuilder, address: ir.Value, t: Reduction) -> ir.Value:
    return _load(builder, address, t.cell.llvm)


add_cell = _add_cell("add_cell", _load_cell)  # of the tile
add_raw_cell = _add_cell("add_raw_cell", lambda b, at, t: _to_cell(b, _load(b, at, t.raw.llvm), t))  # of the map


@intrinsic
def add_bin(typingctx: Any, accumulator: Any, address: Any, t: Any) -> Any:
    """Reduce a bin of a finer level into a bin: of equals the one with the smaller index stays."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        new, best = _load_parts(builder, args[1], t), _parts(builder, args[0], t)
        if t.mode == "avg":
            return builder.fadd(new[0], best[0])
        take = builder.icmp_signed(">", new[0], best[0])
        if t.mode == "argmax":
            tie = builder.icmp_signed("==", new[0], best[0])
            take = builder.or_(take, builder.and_(tie, builder.icmp_unsigned("<", new[1], best[1])))
        return _whole(context, builder, [builder.select(take, a, b) for a, b in zip(new, best, strict=True)], t)

    return t.accumulator(t.accumulator, types.int64, t), codegen


@intrinsic
def number_cell(typingctx: Any, address: Any, index: Any, t: Any) -> Any:
    """Put the index of a cell below its keys, which makes them pairs."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, index, _ = args
        low = builder.trunc(builder.sub(I64(2**t.index_bits - 1), index), t.cell.llvm.element)  # 0 would be no index
        _store(builder, address, builder.or_(_load_cell(builder, address, t), _splat(builder, low, t.count)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def begin_row(typingctx: Any, accumulator: Any, t: Any) -> Any:
    """Make the accumulator of a row of a bin's cells: a sum of its own, or that of the bin so far."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _constant(t.reduced.llvm, 0.0) if t.mode == "avg" else args[0]

    return t.accumulator(t.accumulator, t), codegen


@intrinsic
def end_row(typingctx: Any, accumulator: Any, row: Any, t: Any) -> Any:
    """Reduce a row of a bin's cells into the bin."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1]) if t.mode == "avg" else args[1]

    return t.accumulator(t.accumulator, t.accumulator, t), codegen


@intrinsic
def start_at(typingctx: Any, value: Any, t: Any) -> Any:
    """Make the accumulator of one value for all lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0], t.count)

    return t.accumulator(types.float64, t), codegen


@intrinsic
def load_cell(typingctx: Any, address: Any, t: Any) -> Any:
    """Make an accumulator of a cell."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _widen(builder, _load(builder, args[0], t.cell.llvm), t)

    return t.accumulator(types.int64, t), codegen


@intrinsic
def add_weighted(typingctx: Any, accumulator: Any, value: Any, weight: Any, t: Any) -> Any:
    """Reduce a weighted accumulator into another.

    Without a fused multiplication and addition, which not every machine has: the bits are the same everywhere.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.fmul(args[1], _splat(builder, args[2], t.count))
        if t.mode == "avg":
            return builder.fadd(args[0], value)
        larger = builder.fcmp_ordered(">", value, args[0])
        is_nan = builder.fcmp_unordered("uno", value, value)
        return builder.select(builder.or_(larger, is_nan), value, args[0])

    return t.accumulator(t.accumulator, t.accumulator, types.float64, t), codegen


def _divide(builder: ir.IRBuilder, value: ir.Value, area: ir.Value, t: Reduction) -> ir.Value:
    """Divide; where the result has fewer digits anyway by multiplication, which takes a tenth of the time.

    That may miss a number halfway between two halves by 2**-52 of it: so what is within 2**-50 counts as halfway.
    """
    if t.out_bits == 64:
        return builder.fdiv(value, _splat(builder, area, t.count))
    value = builder.fmul(value, _splat(builder, builder.fdiv(F64(1.0), area), t.count))
    if t.out_bits == 16:
        bits = _as(builder, value, I64)
        bits = builder.and_(builder.add(bits, _constant(bits.type, 4)), _constant(bits.type, -8))
        value = _as(builder, bits, F64)
    return value


@intrinsic
def store_rounded(typingctx: Any, address: Any, accumulator: Any, t: Any) -> Any:
    """Store float64 lanes as bits of the result's dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(builder, args[0], _narrow(builder, args[1], t))
        return context.get_dummy_value()

    return types.void(types.int64, t.accumulator, t), codegen


def _settled(builder: ir.IRBuilder, value: ir.Value, area: ir.Value, t: Reduction) -> ir.Value:
    if t.mode == "avg":
        value = _divide(builder, value, builder.sitofp(area, F64), t)
    value = _narrow(builder, value, t) if t.wide else value
    empty = _constant(value.type, 0) if t.wide else _to_cell(builder, _constant(t.raw.llvm, 0), t)
    return builder.select(builder.icmp_signed(">", area, I64(0)), value, empty)


@intrinsic
def settle(typingctx: Any, address: Any, area: Any, t: Any) -> Any:
    """Make a sum over `area` cells a mean, as bits of the result's dtype, and a bin of no cells 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, area, _ = args
        _store(builder, address, _settled(builder, _load_parts(builder, address, t)[0], area, t))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def store_mean(typingctx: Any, address: Any, accumulator: Any, area: Any, t: Any) -> Any:
    """Store a sum as `settle` leaves it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, accumulator, area, _ = args
        _store(builder, address, _settled(builder, accumulator, area, t))
        return context.get_dummy_value()

    return types.void(types.int64, t.accumulator, types.int64, t), codegen


# --- tables of areas ------------------------------------------------------------------------------------------------


def _magnitude(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    bits = builder.and_(_as(builder, value, I64), _constant(ir.VectorType(I64, value.type.count), 2**63 - 1))
    return _as(builder, bits, F64)


@intrinsic
def add_magnitude(typingctx: Any, accumulator: Any, address: Any, t: Any) -> Any:
    """Add the magnitude of a cell to a sum of them."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        cell = _widen(builder, _load_cell(builder, args[1], t), t)
        return builder.fadd(args[0], _magnitude(builder, cell))

    return t.accumulator(t.accumulator, types.int64, t), codegen


@intrinsic
def larger_magnitude(typingctx: Any, accumulator: Any, address: Any, t: Any) -> Any:
    """Take the larger magnitude, of a cell or those before it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        cell = _widen(builder, _load_cell(builder, args[1], t), t)
        return _larger(builder, _magnitude(builder, cell), args[0])

    return t.accumulator(t.accumulator, types.int64, t), codegen


@intrinsic
def larger(typingctx: Any, a: Any, b: Any, t: Any) -> Any:
    """Take the larger of two numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _larger(builder, *args[:2])

    return t.accumulator(t.accumulator, t.accumulator, t), codegen


def _larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _smaller(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@intrinsic
def grid_of(typingctx: Any, largest: Any, row: Any, rows: Any, t: Any) -> Any:
    """Find a number of which the last bit is a unit: the magnitudes of so many rows have no more digits than there are.

    If areas are fixed, nor has the largest of a cell. To add it to a cell rounds that to a multiple of the unit.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        largest, row, rows, _ = args
        ty = ir.VectorType(I64, t.count)
        magnitude = builder.fmul(row, _splat(builder, builder.sitofp(rows, F64), t.count))
        if t.fixed:
            spare = _constant(largest.type, 2.0 ** (AREA_DIGITS - CELL_DIGITS))
            magnitude = _larger(builder, builder.fmul(largest, spare), magnitude)
        power = builder.and_(_as(builder, magnitude, I64), _constant(ty, 0x7FF << 52))
        if t.fixed:  # 0 has no power of two
            least = _constant(ty, 0x300 << 52)
            power = builder.select(builder.icmp_signed(">", power, least), power, least)
        more = _constant(ty, (53 - (AREA_DIGITS if t.fixed else SUM_DIGITS)) << 52)
        return _as(builder, builder.add(builder.or_(power, _constant(ty, 1 << 51)), more), F64)

    return t.accumulator(t.accumulator, t.accumulator, types.int64, t), codegen


def _near(builder: ir.IRBuilder, value: ir.Value, grid: ir.Value) -> ir.Value:
    return builder.fsub(builder.fadd(value, grid), grid)


@intrinsic
def add_rest(typingctx: Any, accumulator: Any, address: Any, grid: Any, t: Any) -> Any:
    """Add the magnitude of what is left of a cell when it is rounded to a grid: 0 if nothing is."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        accumulator, address, grid, _ = args
        if t.area.bits == 32:
            return accumulator
        cell = _widen(builder, _load_cell(builder, address, t), t)
        cell = cell if t.fixed else _magnitude(builder, cell)
        rest = builder.fsub(_near(builder, cell, grid), cell)
        return builder.fadd(accumulator, _magnitude(builder, rest))

    return t.accumulator(t.accumulator, types.int64, t.accumulator, t), codegen


@intrinsic
def add_depth(typingctx: Any, accumulator: Any, address: Any, grid: Any, t: Any) -> Any:
    """Take the larger of how far cells go below 0 and, where one is rounded to 0, its magnitude."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        accumulator, address, grid, _ = args
        if not t.fixed:
            return accumulator
        cell, zero = _widen(builder, _load_cell(builder, address, t), t), _constant(accumulator.type, 0.0)
        near = _near(builder, cell, grid)
        is_lost = builder.fcmp_ordered("==", near, zero)
        depth = builder.select(is_lost, _magnitude(builder, cell), builder.fsub(zero, near))
        return _larger(builder, depth, accumulator)

    return t.accumulator(t.accumulator, types.int64, t.accumulator, t), codegen


def _times(builder: ir.IRBuilder, address: ir.Value, grid: ir.Value, t: Reduction) -> ir.Value:
    """Count how often a cell has the unit of a grid."""
    near = builder.fadd(_widen(builder, _load_cell(builder, address, t), t), grid)
    return builder.sub(*(_as(builder, value, I64) for value in (near, grid)))


@intrinsic
def start_area(typingctx: Any, t: Any) -> Any:
    """Make the area of no cells."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(t.area.llvm, None)

    return t.area(t), codegen


@intrinsic
def store_area(typingctx: Any, address: Any, area: Any, t: Any) -> Any:
    """Store an area."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store(builder, *args[:2])
        return context.get_dummy_value()

    return types.void(types.int64, t.area, t), codegen


@intrinsic
def add_area_cell(typingctx: Any, area: Any, address: Any, grid: Any, t: Any) -> Any:
    """Add a cell to an area; where those are fixed, how often it has the unit of the grid."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        area, address, grid, _ = args
        if t.fixed:
            return builder.add(area, _times(builder, address, grid, t))
        cell = _load_cell(builder, address, t)
        if t.area.is_float:
            return builder.fadd(area, _widen(builder, cell, t))
        return builder.add(area, (builder.sext if t.kind == "signed" else builder.zext)(cell, t.area.llvm))

    return t.area(t.area, types.int64, t.accumulator, t), codegen


@intrinsic
def join_digits(typingctx: Any, accumulator: Any, address: Any, grid: Any, t: Any) -> Any:
    """Collect the binary digits of how often cells have the unit of the grid."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        accumulator, address, grid, _ = args
        if not t.fixed:
            return accumulator
        return _as(builder, builder.or_(_as(builder, accumulator, I64), _times(builder, address, grid, t)), F64)

    return t.accumulator(t.accumulator, types.int64, t.accumulator, t), codegen


@intrinsic
def add_area(typingctx: Any, area: Any, address: Any, t: Any) -> Any:
    """Add an area that is in memory to another."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        add = builder.fadd if t.area.is_float else builder.add
        return add(args[0], _load(builder, args[1], t.area.llvm))

    return t.area(t.area, types.int64, t), codegen


def _used(builder: ir.IRBuilder, valid: ir.Value, t: Reduction) -> ir.Value:
    numbers = ir.Constant(t.index.llvm, list(range(t.count)))
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(valid, I32), t.count))


@intrinsic
def may_add(typingctx: Any, rest: Any, valid: Any, t: Any) -> Any:
    """Tell whether nothing is left of cells in the first `valid` lanes; where areas are fixed, if all are numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rest, valid, _ = args
        fails = builder.fcmp_unordered("uno" if t.fixed else "!=", rest, _constant(rest.type, 0.0))
        bits = builder.bitcast(builder.and_(_used(builder, valid, t), fails), ir.IntType(t.count))
        return builder.icmp_signed("==", bits, ir.Constant(bits.type, 0))

    return types.boolean(t.accumulator, types.int64, t), codegen


def _float_of_integer(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Turn integers of 64 bits into float64, half by half: not every machine converts them.

    The halves become the last digits of 2**52 and 2**84, and the upper half's sign one of that.
    """
    low = builder.or_(builder.and_(value, _constant(value.type, 2**32 - 1)), _constant(value.type, 0x433 << 52))
    high = builder.lshr(value, _constant(value.type, 32))
    high = builder.xor(high, _constant(value.type, (0x453 << 52) + 2**31))
    both = _constant(ir.VectorType(F64, value.type.count), 2.0**84 + 2.0**63 + 2.0**52)
    return builder.fadd(builder.fsub(_as(builder, high, F64), both), _as(builder, low, F64))


@intrinsic
def store_bounds(
    typingctx: Any,
    address: Any,
    grid: Any,
    row: Any,
    largest: Any,
    depth: Any,
    rest: Any,
    joined: Any,
    valid: Any,
    t: Any,
) -> Any:
    """Store, one behind the other, what a table of areas is worth, 0 in lanes that are not valid.

    Its unit; the largest magnitudes of a row of cells, and of a cell; twice the depth of cells; the most that a cell
    was rounded by; and up to which sum of magnitudes any sum is exact, in any order: as much as 53 digits hold, down to
    the last one that any cell has, if none was rounded.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, grid, row, largest, depth, rest, joined, valid, _ = args
        if not t.fixed:
            return context.get_dummy_value()
        ty, zero = ir.VectorType(I64, t.count), _constant(grid.type, 0.0)
        power = builder.and_(_as(builder, grid, I64), _constant(ty, 0x7FF << 52))
        unit = _as(builder, builder.sub(power, _constant(ty, 52 << 52)), F64)
        bits = builder.or_(_as(builder, joined, I64), _constant(ty, 1 << 62))
        last = _float_of_integer(builder, builder.and_(bits, builder.sub(_constant(ty, 0), bits)))
        exact = builder.fmul(builder.fmul(last, unit), _constant(unit.type, 2.0**53 * (1 - ROUNDING)))
        exact = builder.select(builder.fcmp_ordered("==", rest, zero), exact, zero)
        row = builder.fmul(row, _constant(row.type, 1 + ROUNDING))
        rest = _smaller(builder, rest, builder.fmul(unit, _constant(unit.type, 0.5)))
        used = _used(builder, valid, t)
        for i, value in enumerate((unit, row, largest, builder.fadd(depth, depth), rest, exact)):
            value = builder.select(used, value, zero)
            _store(builder, builder.add(address, I64(i * t.accumulator_bytes)), value)
        return context.get_dummy_value()

    return types.void(types.int64, *6 * [t.accumulator], types.int64, t), codegen


def _load_area(name: str, is_whole: bool) -> Any:
    """Make the sum of the cells between corners of a table of areas: above, below, and in those rows left and right.

    Of one that is whole, and float64 if it was fixed; or of a fixed one.
    """

    def typing(typingctx: Any, above: Any, below: Any, left: Any, right: Any, bounds: Any, t: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            above, below, left, right, bounds, _ = args
            area = t.reduced.llvm if t.fixed and is_whole else t.area.llvm
            subtract = builder.fsub if area.element == F64 else builder.sub

            def corner(row: ir.Value, column: ir.Value) -> ir.Value:
                return _load(builder, builder.add(row, column), area)

            rows = [subtract(corner(row, right), corner(row, left)) for row in (below, above)]
            total = subtract(*rows)
            if area.element == I64:
                return _float_of_times(builder, total, bounds, t)
            return total if area.element == F64 else builder.sitofp(total, t.reduced.llvm)

        return t.accumulator(*5 * [types.int64], t), codegen

    typing.__name__ = name
    return intrinsic(typing)


load_area = _load_area("load_area", is_whole=True)
load_fixed_area = _load_area("load_fixed_area", is_whole=False)


def _float_of_times(builder: ir.IRBuilder, times: ir.Value, bounds: ir.Value, t: Reduction) -> ir.Value:
    """Multiply integers by the unit of the table that they come from."""
    return builder.fmul(_float_of_integer(builder, times), _load(builder, bounds, t.reduced.llvm))


@intrinsic
def float_area(typingctx: Any, address: Any, bounds: Any, t: Any) -> Any:
    """Turn an area of a fixed table into float64."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, bounds, _ = args
        _store(builder, address, _float_of_times(builder, _load(builder, address, t.area.llvm), bounds, t))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def store_close(
    typingctx: Any,
    address: Any,
    accumulator: Any,
    height: Any,
    width: Any,
    additions: Any,
    bounds: Any,
    t: Any,
) -> Any:
    """Store the mean of what is close to a sum, as `settle` leaves the sum itself; tell whether it may be another.

    The sum is one of `height` x `width` cells, each of which took part in no more than so many `additions`. Each may
    have rounded by 2**-53 of the sum of all magnitudes; that is no more than the sum and what goes below 0, and no more
    than that of a whole row of cells, for each row. If all that the mean may be is rounded to one float32, it is that.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, accumulator, height, width, additions, bounds, _ = args
        if not t.fixed:
            return I1(0)

        def splat(value: ir.Value) -> ir.Value:
            return _splat(builder, value, t.count)

        def bound(i: int) -> ir.Value:
            return _load(builder, builder.add(bounds, I64(i * t.accumulator_bytes)), accumulator.type)

        area, width = (builder.sitofp(value, F64) for value in (builder.mul(height, width), width))
        mean = _divide(builder, accumulator, area, t)
        row = builder.fmul(bound(ROW), splat(builder.fdiv(F64(1.0), width)))
        magnitude = _smaller(builder, builder.fadd(mean, bound(DEPTH)), row)
        share = builder.fmul(builder.sitofp(builder.add(additions, I64(OTHER_ADDITIONS)), F64), F64(2.0**-53))
        error = builder.fadd(builder.fmul(magnitude, splat(share)), _smaller(builder, magnitude, bound(REST)))
        is_exact = builder.fcmp_ordered("<=", builder.fmul(magnitude, splat(area)), bound(EXACT))
        error = builder.select(is_exact, _constant(error.type, 0.0), error)
        low, high = (_narrow(builder, change(mean, error), t) for change in (builder.fsub, builder.fadd))
        _store(builder, address, low)
        bits = builder.bitcast(builder.icmp_signed("!=", low, high), ir.IntType(t.count))
        return builder.icmp_signed("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(types.int64, t.accumulator, *4 * [types.int64], t), codegen


# --- rows of one channel -------------------------------------------------------------------------------------------


def _joined(builder: ir.IRBuilder, old: list[ir.Value], new: list[ir.Value], t: Reduction) -> list[ir.Value]:
    """Take the sum, or what is larger, of equals what is old."""
    if t.wide:
        return [builder.fadd(old[0], new[0])]
    larger = builder.icmp_signed(">", new[0], old[0])
    return [builder.select(larger, b, a) for a, b in zip(old, new, strict=True)]


def _row_parts(builder: ir.IRBuilder, address: ir.Value, y: ir.Value, t: Reduction) -> list[ir.Value]:
    cells = _load(builder, address, t.row.llvm)
    parts = [_widen(builder, cells, t) if t.wide else _encode(builder, cells, t)]
    if t.mode == "argmax":
        parts.append(_splat(builder, builder.trunc(y, I32), t.row.count))
    return parts


def _whole_row(context: Any, builder: ir.IRBuilder, parts: list[ir.Value], t: Reduction) -> ir.Value:
    return context.make_tuple(builder, t.row_accumulator, parts) if t.mode == "argmax" else parts[0]


@intrinsic
def start_row(typingctx: Any, address: Any, y: Any, t: Any) -> Any:
    """Make what a part of row `y` and more are reduced on: that part, which counts once however often, or the sum 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if t.wide:
            return _constant(t.row_accumulator.llvm, 0.0)
        return _whole_row(context, builder, _row_parts(builder, args[0], args[1], t), t)

    return t.row_accumulator(types.int64, types.int64, t), codegen


@intrinsic
def start_rows(typingctx: Any, columns: Any, t: Any) -> Any:
    """Make what a few rows are reduced on: the columns reduced so far, or sums of small integers by themselves."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if t.row_sum == t.row_accumulator else _constant(t.row_sum.llvm, 0)

    return t.row_sum(t.row_accumulator, t), codegen


@intrinsic
def add_row(typingctx: Any, rows: Any, address: Any, y: Any, t: Any) -> Any:
    """Reduce a part of row `y` into the same part of the rows before it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if t.row_sum != t.row_accumulator:
            extend = builder.sext if t.kind == "signed" else builder.zext
            return builder.add(args[0], extend(_load(builder, args[1], t.row.llvm), t.row_sum.llvm))
        parts = _joined(builder, _parts(builder, args[0], t), _row_parts(builder, args[1], args[2], t), t)
        return _whole_row(context, builder, parts, t)

    return t.row_sum(t.row_sum, types.int64, types.int64, t), codegen


@intrinsic
def end_rows(typingctx: Any, columns: Any, rows: Any, t: Any) -> Any:
    """Reduce a few rows into the columns reduced so far."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if t.row_sum == t.row_accumulator:
            return args[1]
        return builder.fadd(args[0], builder.sitofp(args[1], t.row_accumulator.llvm))

    return t.row_accumulator(t.row_accumulator, t.row_sum, t), codegen


def _strip_places(builder: ir.IRBuilder, args: Any, t: Reduction) -> list[tuple[Any, Any]]:
    """Where columns `x` and on lie in a strip of `capacity` columns: sums, or keys, then indices."""
    strip, x, capacity = args[:3]
    first = t.row_accumulator if t.wide else t.row
    places = [(builder.add(strip, builder.mul(x, I64(first.bits // 8))), first.llvm)]
    if t.mode == "argmax":
        begin = builder.add(strip, builder.mul(capacity, I64(t.bits // 8)))
        places.append((builder.add(begin, builder.mul(x, I64(4))), ir.VectorType(I32, t.row.count)))
    return places


@intrinsic
def load_strip(typingctx: Any, strip: Any, x: Any, capacity: Any, t: Any) -> Any:
    """Load the columns `x` and on of a strip."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        parts = [_load(builder, place, ty) for place, ty in _strip_places(builder, args, t)]
        return _whole_row(context, builder, parts, t)

    return t.row_accumulator(*3 * [types.int64], t), codegen


@intrinsic
def store_strip(typingctx: Any, strip: Any, x: Any, capacity: Any, accumulator: Any, t: Any) -> Any:
    """Store the columns `x` and on of a strip."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        places = _strip_places(builder, args, t)
        for (place, _), part in zip(places, _parts(builder, args[3], t), strict=True):
            _store(builder, place, part)
        return context.get_dummy_value()

    return types.void(*3 * [types.int64], t.row_accumulator, t), codegen


@intrinsic
def add_strip(typingctx: Any, accumulator: Any, strip: Any, x: Any, t: Any) -> Any:
    """Add the columns `x` and on of a strip of sums."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.add(args[1], builder.mul(args[2], I64(8)))
        return builder.fadd(args[0], _load(builder, place, t.row_accumulator.llvm)) if t.wide else args[0]

    return t.row_accumulator(t.row_accumulator, types.int64, types.int64, t), codegen


@intrinsic
def start_run(typingctx: Any, t: Any) -> Any:
    """Make the accumulator of no columns: the sum 0, or the smallest key, at the largest index."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if t.wide:
            return _constant(t.row_accumulator.llvm, 0.0)
        none = _constant(ir.VectorType(I32, t.row.count), -1)
        return _whole_row(context, builder, [_constant(t.row.llvm, -(2 ** (t.bits - 1))), none], t)

    return t.row_accumulator(t), codegen


@intrinsic
def add_run(typingctx: Any, accumulator: Any, columns: Any, count: Any, x: Any, width: Any, t: Any) -> Any:
    """Reduce the first `count` columns of a part of a strip, `x` and on in a map of `width`.

    Of equals the one with the smaller index stays: ``row * width + column``.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        accumulator, columns, count, x, width, _ = args
        lanes = t.row.count
        numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        last = builder.select(builder.icmp_signed("<", count, I64(lanes)), count, I64(lanes))
        outside = builder.icmp_signed(">=", numbers, _splat(builder, builder.trunc(last, I32), lanes))
        old, new = _parts(builder, accumulator, t), _parts(builder, columns, t)
        none = 0.0 if t.wide else -(2 ** (t.bits - 1))
        new[0] = builder.select(outside, _constant(new[0].type, none), new[0])
        if t.wide:
            return builder.fadd(old[0], new[0])
        take = builder.icmp_signed(">", new[0], old[0])
        if t.mode == "argmax":
            index = builder.mul(new[1], _splat(builder, builder.trunc(width, I32), lanes))
            index = builder.add(builder.add(index, numbers), _splat(builder, builder.trunc(x, I32), lanes))
            new[1] = builder.select(outside, _constant(index.type, -1), index)
            tie = builder.icmp_signed("==", new[0], old[0])
            take = builder.or_(take, builder.and_(tie, builder.icmp_unsigned("<", new[1], old[1])))
        parts = [builder.select(take, a, b) for a, b in zip(new, old, strict=True)]
        return _whole_row(context, builder, parts, t)

    return t.row_accumulator(t.row_accumulator, t.row_accumulator, *3 * [types.int64], t), codegen


def _sum_across(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Sum a vector's elements, halves first: the order of the additions is the same on every machine."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        low, high = (_shuffle(builder, vector, vector, list(range(i, i + half))) for i in (0, half))
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, I32(0))


def _across(builder: ir.IRBuilder, operation: str, vector: ir.Value) -> ir.Value:
    """Reduce a vector's elements to one."""
    element = vector.type.element
    ty = ir.FunctionType(element, [vector.type])
    name = f"llvm.vector.reduce.{operation}.v{vector.type.count}i{element.width}"
    return builder.call(cgutils.get_or_insert_function(builder.module, ty, name), [vector])


@intrinsic
def store_run(typingctx: Any, address: Any, accumulator: Any, lane: Any, t: Any) -> Any:
    """Store what a bin's columns are reduced to in one lane of the bin's accumulator at `address`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, accumulator, lane, _ = args
        parts = _parts(builder, accumulator, t)
        key = _sum_across(builder, parts[0]) if t.wide else _across(builder, "smax", parts[0])
        _store(builder, builder.add(address, builder.mul(lane, I64(t.reduced.bits // 8))), key)
        if t.mode == "argmax":
            largest = builder.icmp_signed("==", parts[0], _splat(builder, key, t.row.count))
            index = _across(builder, "umin", builder.select(largest, parts[1], _constant(parts[1].type, -1)))
            place = builder.add(address, builder.mul(lane, I64(4)))
            _store(builder, builder.add(place, I64(t.reduced_bytes)), index)
        return context.get_dummy_value()

    return types.void(types.int64, t.row_accumulator, types.int64, t), codegen


# --- transposition --------------------------------------------------------------------------------------------------


def _transpose(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose E rows of E elements in each 16-byte part of the vectors, in log2(E) rounds of interleaving."""
    count = len(rows)
    lines = range(0, rows[0].type.count, count)
    low = [line + i // 2 + (i % 2) * rows[0].type.count for line in lines for i in range(count)]
    high = [i + count // 2 for i in low]
    for _ in range(count.bit_length() - 1):
        pairs = [(rows[i], rows[i + count // 2]) for i in range(count // 2)]
        rows = [_shuffle(builder, a, b, mask) for a, b in pairs for mask in (low, high)]
    return rows


@intrinsic
def transpose_in(
    typingctx: Any, target: Any, target_step: Any, source: Any, source_step: Any, last: Any, t: Any
) -> Any:
    """Transpose 2E rows of E elements (16 bytes: cells of a channel) into E rows of 2E (channels of a cell), encoded.

    Rows past `last` repeat it.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target, target_step, source, source_step, last, _ = args
        count = SHUFFLE_BYTES * 8 // t.bits
        line = ir.VectorType(ir.IntType(t.bits), count)

        def row(i: int) -> ir.Value:
            index = builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last)
            return _load(builder, builder.add(source, builder.mul(index, source_step)), line)

        both = list(range(2 * count))
        rows = [_shuffle(builder, row(i), row(i + count), both) for i in range(count)]
        for i, vector in enumerate(_transpose(builder, rows)):
            _store(builder, builder.add(target, builder.mul(I64(i), target_step)), _to_cell(builder, vector, t))
        return context.get_dummy_value()

    return types.void(*5 * [types.int64], t), codegen


def group_of(bits: int, count: int) -> int:
    """Lanes that are transposed together: a cache line of them where the registers hold as many bins."""
    return min(count, (LINE_BYTES if bits > 8 else LINE_BYTES // 2) * 8 // bits)


def _kept_whole(builder: ir.IRBuilder, vector: ir.Value, step: ir.Value) -> ir.Value:
    """Keep a vector whole of which parts are stored: LLVM shuffles each part by itself if nothing is in between.

    It does not know that a step is not negative, its highest bit 0.
    """
    zero = builder.trunc(builder.lshr(step, I64(63)), vector.type.element)
    return builder.xor(vector, _splat(builder, zero, vector.type.count))


def _joined_rows(builder: ir.IRBuilder, source: ir.Value, step: ir.Value, line: ir.VectorType) -> list[list[ir.Value]]:
    """Transpose 2E bins of a line of lanes, E elements being 16 bytes, and join the bins of a lane in whole vectors.

    Returns E vectors for each half of the lanes, or for all: the i-th has the bins of the i-th of every E lanes.
    """
    lanes, count = line.count, SHUFFLE_BYTES * 8 // line.element.width

    def rows(first: int) -> list[ir.Value]:
        places = [builder.add(source, builder.mul(I64(first + i), step)) for i in range(count)]
        return _transpose(builder, [_load(builder, place, line) for place in places])

    halves, joined = list(zip(rows(0), rows(count), strict=True)), []
    filled = max(lanes // 2, count)  # lanes of which the bins fill a vector
    for begin in range(0, lanes, filled):
        firsts = range(begin, begin + filled, count)
        mask = [first + half + k for first in firsts for half in (0, lanes) for k in range(count)]
        joined.append([_shuffle(builder, low, high, mask) for low, high in halves])
    return joined


def _store_rows(
    builder: ir.IRBuilder, joined: list[list[ir.Value]], target: ir.Value, step: ir.Value, bins: int
) -> None:
    """Store parts of joined vectors, `bins` of a lane each, lane by lane, rising: see `write.transpose`."""
    lane = 0
    for vectors in joined:
        for first in range(0, vectors[0].type.count, bins):
            for vector in vectors:
                place = builder.add(target, builder.mul(I64(lane), step))
                _store(builder, place, _shuffle(builder, vector, vector, list(range(first, first + bins))))
                lane += 1


def _transpose_out(name: str, bits: Any, decode: Any) -> Any:
    """Transpose 2E bins of a group of lanes, E elements being 16 bytes, into 2E bins of each lane, decoded.

    Bins are joined in whole vectors, and parts of those stored: with 64 bytes three shuffles a vector, not five.
    """

    def typing(typingctx: Any, target: Any, target_step: Any, source: Any, source_step: Any, t: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            target, target_step, source, source_step, _ = args
            line = ir.VectorType(ir.IntType(bits(t)), group_of(bits(t), t.count))
            joined = _joined_rows(builder, source, source_step, line)
            decoded = [[decode(builder, vector, t) for vector in vectors] for vectors in joined]
            if decoded == joined and len(joined) > 1:
                decoded = [[_kept_whole(builder, vector, target_step) for vector in vectors] for vectors in joined]
            _store_rows(builder, decoded, target, target_step, 2 * SHUFFLE_BYTES * 8 // line.element.width)
            return context.get_dummy_value()

        return types.void(*4 * [types.int64], t), codegen

    typing.__name__ = name
    return intrinsic(typing)


transpose_out = _transpose_out("transpose_out", lambda t: t.out_bits, _decode)
transpose_index = _transpose_out("transpose_index", lambda t: 32, lambda builder, vector, t: vector)


@intrinsic
def store_lanes(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Store the lanes of one bin, decoded."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = _load(builder, args[1], ir.VectorType(ir.IntType(t.out_bits), t.count))
        _store(builder, args[0], _decode(builder, lanes, t))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def transpose_pairs(
    typingctx: Any, target: Any, target_step: Any, places: Any, places_step: Any, source: Any, source_step: Any, t: Any
) -> Any:
    """Transpose 8 bins of a cache line of pairs into 8 keys of each lane, decoded, and 8 indices.

    To transpose 4 bytes at a time parts pairs of 8 bytes, too: every other row is of indices.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target, target_step, places, places_step, source, source_step, _ = args
        joined = _joined_rows(builder, source, source_step, ir.VectorType(I32, LINE_BYTES // 4))

        def key(pair: ir.Value) -> ir.Value:
            if t.bits < 32:
                high = builder.lshr(pair, _constant(pair.type, t.index_bits))
                pair = builder.trunc(high, ir.VectorType(ir.IntType(t.bits), pair.type.count))
            return _decode(builder, pair, t)

        def index(pair: ir.Value) -> ir.Value:
            pair, unused = builder.not_(pair), _constant(pair.type, 32 - min(t.index_bits, 32))
            return builder.ashr(builder.shl(pair, unused), unused)

        low, high = (slice(0, None, 2), slice(1, None, 2)) if t.pair_bits == 64 else 2 * (slice(None),)
        _store_rows(builder, [list(map(key, vectors[high])) for vectors in joined], target, target_step, 8)
        _store_rows(builder, [list(map(index, vectors[low])) for vectors in joined], places, places_step, 8)
        return context.get_dummy_value()

    return types.void(*6 * [types.int64], t), codegen
