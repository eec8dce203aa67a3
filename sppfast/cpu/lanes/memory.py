"""Memory: items of tables, single numbers, cells, cache lines; copies, and hints to fetch."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ...arrays import LINE_BYTES
from .conversions import limited, single_to_half, to_cell, to_double, to_result
from .llvm import F32, F64, I32, I64, constant, load, splat, store
from .reduction import HALVES, SHUFFLE_BYTES


def _load_item(name: str, bits: int) -> Any:
    def typing(typingctx: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            place = builder.add(args[0], builder.mul(args[1], I64(bits // 8)))
            return builder.sext(load(builder, place, ir.IntType(bits)), I64)

        return types.int64(types.int64, types.int64), codegen

    typing.__name__ = name
    return intrinsic(typing)


load_i32 = _load_item("load_i32", 32)  # of a table
load_i64 = _load_item("load_i64", 64)  # of a descriptor


@intrinsic
def are_below(typingctx: Any, address: Any, limit: Any) -> Any:
    """Tell whether the integers of a cache line of a table are all less than a limit, and none is negative."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        line = load(builder, args[0], ir.VectorType(I32, LINE_BYTES // 4))
        limit = splat(builder, builder.trunc(args[1], I32), line.type.count)
        bits = builder.bitcast(builder.icmp_unsigned("<", line, limit), ir.IntType(line.type.count))
        return builder.icmp_signed("==", bits, ir.Constant(bits.type, -1))

    return types.boolean(types.int64, types.int64), codegen


@intrinsic
def load_f64(typingctx: Any, address: Any, index: Any) -> Any:
    """Load a number of a table."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load(builder, builder.add(args[0], builder.mul(args[1], I64(8))), F64)

    return types.float64(types.int64, types.int64), codegen


@intrinsic
def load_f32(typingctx: Any, address: Any, index: Any) -> Any:
    """Load a number of a table of float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        number = load(builder, builder.add(args[0], builder.mul(args[1], I64(4))), ir.FloatType())
        return builder.fpext(number, F64)

    return types.float64(types.int64, types.int64), codegen


@intrinsic
def store_i64(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Store an integer in a table."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store(builder, builder.add(args[0], builder.mul(args[1], I64(8))), args[2])
        return context.get_dummy_value()

    return types.void(*3 * [types.int64]), codegen


@intrinsic
def store_i32(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Store an integer in a table of int32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store(builder, builder.add(args[0], builder.mul(args[1], I64(4))), builder.trunc(args[2], I32))
        return context.get_dummy_value()

    return types.void(*3 * [types.int64]), codegen


EDGES = 8  # of a window along an axis, at least


@intrinsic
def lay_edges(typingctx: Any, place: Any, row: Any, start: Any, size: Any) -> Any:
    """Store edges of a window: those of a row of a table, shifted by where it begins, and limited to the map."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        edges = load(builder, args[1], ir.VectorType(I32, EDGES))
        start, size = (splat(builder, builder.trunc(value, I32), EDGES) for value in args[2:])
        edges, none = builder.add(edges, start), ir.Constant(edges.type, None)
        edges = builder.select(builder.icmp_signed("<", edges, size), edges, size)
        store(builder, args[0], builder.select(builder.icmp_signed(">", edges, none), edges, none))
        return context.get_dummy_value()

    return types.void(*4 * [types.int64]), codegen


@intrinsic
def store_f64(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Store a number in a table."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store(builder, builder.add(args[0], builder.mul(args[1], I64(8))), args[2])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float64), codegen


@intrinsic
def load_number(typingctx: Any, address: Any, t: Any) -> Any:
    """Load one element of a floating dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = load(builder, args[0], ir.VectorType(ir.IntType(t.bits), 1))
        return builder.extract_element(to_double(builder, bits, t), I32(0))

    return types.float64(types.int64, t), codegen


@intrinsic
def store_number(typingctx: Any, address: Any, value: Any, t: Any) -> Any:
    """Store one element of a floating dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store(builder, args[0], to_result(builder, splat(builder, args[1], 1), t))
        return context.get_dummy_value()

    return types.void(types.int64, types.float64, t), codegen


@intrinsic
def widen_line(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Copy a line of halves as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = load(builder, args[1], ir.VectorType(ir.IntType(t.bits), HALVES))
        store(builder, args[0], builder.fptrunc(to_double(builder, bits, t), ir.VectorType(F32, HALVES)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def narrow_line(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Round float32 to a line of halves."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        singles = load(builder, args[1], ir.VectorType(F32, HALVES))
        store(builder, args[0], single_to_half(builder, singles, t))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def add_item(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Add one element of float32 or float64 to another."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        ty = F64 if t.bits == 64 else F32
        store(builder, args[0], builder.fadd(load(builder, args[0], ty), load(builder, args[1], ty)))
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
        return limited(builder, *args)

    return types.float64(*3 * [types.float64]), codegen


@intrinsic
def rounded(typingctx: Any, value: Any, t: Any) -> Any:
    """Round to the precision of coordinates: float32, but where results are float64 theirs."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if t.out_bits == 64 else _to_single(builder, args[0])

    return types.float64(types.float64, t), codegen


@intrinsic
def copy_item(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Copy one element of the dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store(builder, args[0], load(builder, args[1], ir.IntType(t.bits)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def fill_line(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Fill a cache line with one element of the dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        item = load(builder, args[1], ir.IntType(t.bits))
        store(builder, args[0], splat(builder, item, 8 * LINE_BYTES // t.bits))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def copy_cell(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Copy the channels of one cell into the tile, encoded. `target` and `source` may be the same."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store(builder, args[0], to_cell(builder, load(builder, args[1], t.raw.llvm), t))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


def _copy_intrinsic(name: str, size: int, nontemporal: bool = False) -> Any:
    def typing(typingctx: Any, target: Any, source: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            instruction = store(builder, args[0], load(builder, args[1], ir.VectorType(ir.IntType(8), size)))
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
            store(builder, args[0], constant(ir.VectorType(ir.IntType(8), size), 0))
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
