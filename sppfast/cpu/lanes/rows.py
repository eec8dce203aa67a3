"""Rows of one channel: parts of rows to strips of columns, and columns to bins, within a vector."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.types import UniTuple

from ...arrays import LINE_BYTES
from .accumulators import parts_of
from .conversions import encode, to_double
from .llvm import F64, I32, I64, constant, load, shuffle, splat, store, view
from .reduction import Reduction


def _joined(builder: ir.IRBuilder, old: list[ir.Value], new: list[ir.Value], t: Reduction) -> list[ir.Value]:
    """Take the sum, or what is larger, of equals what is old."""
    if t.wide:
        return [builder.fadd(old[0], new[0])]
    larger = builder.icmp_signed(">", new[0], old[0])
    return [builder.select(larger, b, a) for a, b in zip(old, new, strict=True)]


def _row_parts(builder: ir.IRBuilder, address: ir.Value, y: ir.Value, t: Reduction) -> list[ir.Value]:
    cells = load(builder, address, t.row.llvm)
    parts = [to_double(builder, cells, t) if t.wide else encode(builder, cells, t)]
    if t.mode == "argmax":
        parts.append(splat(builder, builder.trunc(y, I32), t.row.count))
    return parts


def _whole_row(context: Any, builder: ir.IRBuilder, parts: list[ir.Value], t: Reduction) -> ir.Value:
    return context.make_tuple(builder, t.row_accumulator, parts) if t.mode == "argmax" else parts[0]


def _cells_of(
    builder: ir.IRBuilder, row: ir.Value, first: ir.Value, count: int, limit: ir.Value, t: Reduction
) -> list[ir.Value]:
    """Find so many parts of a row, the number `first` and on: each ends before column `limit`."""
    last = builder.sub(limit, I64(t.row.count))
    columns = [builder.mul(builder.add(first, I64(i)), I64(t.row.count)) for i in range(count)]
    columns = [builder.select(builder.icmp_signed("<", column, last), column, last) for column in columns]
    return [builder.add(row, builder.mul(column, I64(t.bits // 8))) for column in columns]


def _add_row(context: Any, builder: ir.IRBuilder, rows: ir.Value, address: ir.Value, y: ir.Value, t: Reduction) -> Any:
    """Reduce a part of row `y` into the same part of the rows before it."""
    if t.row_sum != t.row_accumulator:
        extend = builder.sext if t.kind == "signed" else builder.zext
        return builder.add(rows, extend(load(builder, address, t.row.llvm), t.row_sum.llvm))
    parts = _joined(builder, parts_of(builder, rows, t), _row_parts(builder, address, y, t), t)
    return _whole_row(context, builder, parts, t)


@intrinsic(prefer_literal=True)
def no_parts(typingctx: Any, count: Any, t: Any) -> Any:
    """Make as many parts of rows as are reduced at once: sums 0, or keys that are replaced, see `start_parts`."""
    parts = UniTuple(t.row_sum, count.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        none = context.get_constant_null(t.row_sum)
        return context.make_tuple(builder, parts, parts.count * [none])

    return parts(count, t), codegen


@intrinsic
def load_parts(typingctx: Any, parts: Any, place: Any, t: Any) -> Any:
    """Load parts of a strip to reduce more rows on them: sums of small integers begin at 0, see `store_parts`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if t.row_sum != t.row_accumulator:
            return args[0]
        places = [builder.add(args[1], I64(i * t.part_bytes)) for i in range(parts.count)]
        values = [_whole_row(context, builder, _load_part(builder, place, t), t) for place in places]
        return context.make_tuple(builder, parts, values)

    return parts(parts, types.int64, t), codegen


@intrinsic
def start_parts(typingctx: Any, parts: Any, row: Any, first: Any, limit: Any, y: Any, t: Any) -> Any:
    """Make what parts of row `y` and more are reduced on: those, which count once however often, or the sums 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        none, row, first, limit, y, _ = args
        if t.wide:
            return none
        places = _cells_of(builder, row, first, parts.count, limit, t)
        values = [_whole_row(context, builder, _row_parts(builder, place, y, t), t) for place in places]
        return context.make_tuple(builder, parts, values)

    return parts(parts, *4 * [types.int64], t), codegen


@intrinsic
def add_parts(typingctx: Any, parts: Any, row: Any, first: Any, limit: Any, y: Any, t: Any) -> Any:
    """Reduce parts of row `y`, the number `first` and on, into the same parts of the rows before it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows, row, first, limit, y, _ = args
        places = _cells_of(builder, row, first, parts.count, limit, t)
        held = [builder.extract_value(rows, i) for i in range(parts.count)]
        values = [_add_row(context, builder, old, place, y, t) for old, place in zip(held, places, strict=True)]
        return context.make_tuple(builder, parts, values)

    return parts(parts, *4 * [types.int64], t), codegen


@intrinsic
def store_parts(typingctx: Any, place: Any, parts: Any, held: Any, t: Any) -> Any:
    """Store parts of a strip, sums of small integers on top of those that are `held` there, if any."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first, values, held, _ = args
        for i in range(parts.count):
            value, place = builder.extract_value(values, i), builder.add(first, I64(i * t.part_bytes))
            if t.row_sum != t.row_accumulator:
                before, zero = _load_part(builder, place, t)[0], constant(t.row_accumulator.llvm, 0.0)
                value = builder.sitofp(value, t.row_accumulator.llvm)
                value = builder.fadd(value, builder.select(held, before, zero))
            _store_part(builder, place, value, t)
        return context.get_dummy_value()

    return types.void(types.int64, parts, types.boolean, t), codegen


@intrinsic
def count_parts(typingctx: Any, parts: Any, t: Any) -> Any:
    """Count parts."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return I64(parts.count)

    return types.int64(parts, t), codegen


def _places(builder: ir.IRBuilder, place: ir.Value, t: Reduction) -> list[tuple[Any, Any]]:
    """Where a part of a strip has sums, or keys and then indices, and their types."""
    if t.wide:
        return [(place, t.row_accumulator.llvm)]
    places = [(place, t.row.llvm)]
    if t.mode == "argmax":
        places.append((builder.add(place, I64(LINE_BYTES)), ir.VectorType(I32, t.row.count)))
    return places


def _load_part(builder: ir.IRBuilder, place: ir.Value, t: Reduction) -> list[ir.Value]:
    return [load(builder, *at) for at in _places(builder, place, t)]


def _store_part(builder: ir.IRBuilder, place: ir.Value, value: ir.Value, t: Reduction) -> None:
    for (at, _), part in zip(_places(builder, place, t), parts_of(builder, value, t), strict=True):
        store(builder, at, part)


@intrinsic
def load_part(typingctx: Any, place: Any, t: Any) -> Any:
    """Load a part of a strip."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _whole_row(context, builder, _load_part(builder, args[0], t), t)

    return t.row_accumulator(types.int64, t), codegen


@intrinsic
def store_part(typingctx: Any, place: Any, accumulator: Any, t: Any) -> Any:
    """Store a part of a strip."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _store_part(builder, args[0], args[1], t)
        return context.get_dummy_value()

    return types.void(types.int64, t.row_accumulator, t), codegen


@intrinsic
def add_part(typingctx: Any, accumulator: Any, place: Any, t: Any) -> Any:
    """Add a part of a strip of sums."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fadd(args[0], _load_part(builder, args[1], t)[0]) if t.wide else args[0]

    return t.row_accumulator(t.row_accumulator, types.int64, t), codegen


@intrinsic
def mask_columns(typingctx: Any, low: Any, high: Any, t: Any) -> Any:
    """Make a mask of the columns of a part from `low` to below `high`: loaded, so that LLVM takes it for bits.

    Of comparisons it would keep one bit for each column, and make bits of all of them wherever they are used.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask, columns = t.row_mask.llvm, I64(t.row.count)
        bits = [0] * mask.count + [-1] * mask.count + [0] * mask.count
        table = cgutils.global_constant(
            builder, f"masks.{mask.count}", ir.Constant(ir.ArrayType(mask.element, len(bits)), bits)
        )
        parts = []
        for edge, first in zip(args[:2], (columns, I64(2 * t.row.count)), strict=True):
            edge = builder.select(builder.icmp_signed(">", edge, I64(0)), edge, I64(0))
            edge = builder.select(builder.icmp_signed("<", edge, columns), edge, columns)
            place = builder.ptrtoint(builder.gep(table, [I64(0), builder.sub(first, edge)]), I64)
            parts.append(load(builder, place, mask))
        return builder.and_(*parts)

    return t.row_mask(types.int64, types.int64, t), codegen


@intrinsic
def start_run(typingctx: Any, t: Any) -> Any:
    """Make the accumulator of no columns: the sum 0, or the smallest key, at the largest index."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if t.wide:
            return constant(t.row_accumulator.llvm, 0.0)
        none = constant(ir.VectorType(I32, t.row.count), -1)
        return _whole_row(context, builder, [constant(t.row.llvm, -(2 ** (t.bits - 1))), none], t)

    return t.row_accumulator(t), codegen


@intrinsic
def add_run(typingctx: Any, run: Any, place: Any, mask: Any, x: Any, width: Any, t: Any) -> Any:
    """Reduce the columns of a mask of a part of a strip, column `x` and on in a map of `width`.

    Of equals the one with the smaller index stays: ``row * width + column``.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        run, place, mask, x, width, _ = args
        lanes = t.row.count
        old, new = parts_of(builder, run, t), _load_part(builder, place, t)
        if t.wide:
            return builder.fadd(old[0], view(builder, builder.and_(view(builder, new[0], I64), mask), F64))
        inside = builder.icmp_signed("<", mask, constant(mask.type, 0))
        new[0] = builder.select(inside, new[0], constant(new[0].type, -(2 ** (t.bits - 1))))
        take = builder.icmp_signed(">", new[0], old[0])
        if t.mode == "argmax":
            index = builder.mul(new[1], splat(builder, builder.trunc(width, I32), lanes))
            numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
            index = builder.add(builder.add(index, numbers), splat(builder, builder.trunc(x, I32), lanes))
            none = constant(index.type, -1)
            has_rows = builder.icmp_signed("!=", new[1], none)
            new[1] = builder.select(builder.and_(inside, has_rows), index, none)
            tie = builder.icmp_signed("==", new[0], old[0])
            take = builder.or_(take, builder.and_(tie, builder.icmp_unsigned("<", new[1], old[1])))
        parts = [builder.select(take, a, b) for a, b in zip(new, old, strict=True)]
        return _whole_row(context, builder, parts, t)

    return t.row_accumulator(t.row_accumulator, types.int64, t.row_mask, types.int64, types.int64, t), codegen


def _sum_across(builder: ir.IRBuilder, vector: ir.Value) -> ir.Value:
    """Sum a vector's elements, halves first: the order of the additions is the same on every machine."""
    while vector.type.count > 1:
        half = vector.type.count // 2
        low, high = (shuffle(builder, vector, vector, list(range(i, i + half))) for i in (0, half))
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
        parts = parts_of(builder, accumulator, t)
        key = _sum_across(builder, parts[0]) if t.wide else _across(builder, "smax", parts[0])
        store(builder, builder.add(address, builder.mul(lane, I64(t.reduced.bits // 8))), key)
        if t.mode == "argmax":
            largest = builder.icmp_signed("==", parts[0], splat(builder, key, t.row.count))
            index = _across(builder, "umin", builder.select(largest, parts[1], constant(parts[1].type, -1)))
            place = builder.add(address, builder.mul(lane, I64(4)))
            store(builder, builder.add(place, I64(t.reduced_bytes)), index)
        return context.get_dummy_value()

    return types.void(types.int64, t.row_accumulator, types.int64, t), codegen
