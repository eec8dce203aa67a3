"""Rows of one channel: parts of rows to strips of columns, and columns to bins, within a vector."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

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


@intrinsic
def start_row(typingctx: Any, address: Any, y: Any, t: Any) -> Any:
    """Make what a part of row `y` and more are reduced on: that part, which counts once however often, or the sum 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if t.wide:
            return constant(t.row_accumulator.llvm, 0.0)
        return _whole_row(context, builder, _row_parts(builder, args[0], args[1], t), t)

    return t.row_accumulator(types.int64, types.int64, t), codegen


@intrinsic
def start_rows(typingctx: Any, columns: Any, t: Any) -> Any:
    """Make what a few rows are reduced on: the columns reduced so far, or sums of small integers by themselves."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if t.row_sum == t.row_accumulator else constant(t.row_sum.llvm, 0)

    return t.row_sum(t.row_accumulator, t), codegen


@intrinsic
def add_row(typingctx: Any, rows: Any, address: Any, y: Any, t: Any) -> Any:
    """Reduce a part of row `y` into the same part of the rows before it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if t.row_sum != t.row_accumulator:
            extend = builder.sext if t.kind == "signed" else builder.zext
            return builder.add(args[0], extend(load(builder, args[1], t.row.llvm), t.row_sum.llvm))
        parts = _joined(builder, parts_of(builder, args[0], t), _row_parts(builder, args[1], args[2], t), t)
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
        parts = [load(builder, place, ty) for place, ty in _strip_places(builder, args, t)]
        return _whole_row(context, builder, parts, t)

    return t.row_accumulator(*3 * [types.int64], t), codegen


@intrinsic
def store_strip(typingctx: Any, strip: Any, x: Any, capacity: Any, accumulator: Any, t: Any) -> Any:
    """Store the columns `x` and on of a strip."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        places = _strip_places(builder, args, t)
        for (place, _), part in zip(places, parts_of(builder, args[3], t), strict=True):
            store(builder, place, part)
        return context.get_dummy_value()

    return types.void(*3 * [types.int64], t.row_accumulator, t), codegen


@intrinsic
def add_strip(typingctx: Any, accumulator: Any, strip: Any, x: Any, t: Any) -> Any:
    """Add the columns `x` and on of a strip of sums."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = builder.add(args[1], builder.mul(args[2], I64(8)))
        return builder.fadd(args[0], load(builder, place, t.row_accumulator.llvm)) if t.wide else args[0]

    return t.row_accumulator(t.row_accumulator, types.int64, types.int64, t), codegen


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
def add_run(typingctx: Any, accumulator: Any, columns: Any, count: Any, x: Any, width: Any, t: Any) -> Any:
    """Reduce the first `count` columns of a part of a strip, `x` and on in a map of `width`.

    Of equals the one with the smaller index stays: ``row * width + column``.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        accumulator, columns, count, x, width, _ = args
        lanes = t.row.count
        last = builder.select(builder.icmp_signed("<", count, I64(lanes)), count, I64(lanes))
        old, new = parts_of(builder, accumulator, t), parts_of(builder, columns, t)
        numbers = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        outside = builder.icmp_signed(">=", numbers, splat(builder, builder.trunc(last, I32), lanes))
        new[0] = builder.select(outside, constant(new[0].type, -(2 ** (t.bits - 1))), new[0])
        take = builder.icmp_signed(">", new[0], old[0])
        if t.mode == "argmax":
            index = builder.mul(new[1], splat(builder, builder.trunc(width, I32), lanes))
            index = builder.add(builder.add(index, numbers), splat(builder, builder.trunc(x, I32), lanes))
            new[1] = builder.select(outside, constant(index.type, -1), index)
            tie = builder.icmp_signed("==", new[0], old[0])
            take = builder.or_(take, builder.and_(tie, builder.icmp_unsigned("<", new[1], old[1])))
        parts = [builder.select(take, a, b) for a, b in zip(new, old, strict=True)]
        return _whole_row(context, builder, parts, t)

    return t.row_accumulator(t.row_accumulator, t.row_accumulator, *3 * [types.int64], t), codegen


@intrinsic
def first_columns(typingctx: Any, columns: Any, count: Any, t: Any) -> Any:
    """Make 0 of a part of a strip of sums from column `count` on: by a mask that is loaded, a third of the time."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        columns, count, _ = args
        lanes = t.row.count
        masks = ir.Constant(ir.ArrayType(I64, 2 * lanes), lanes * [-1] + lanes * [0])
        place = cgutils.global_constant(builder, f"masks.{lanes}", masks)
        address = builder.gep(place, [I64(0), builder.sub(I64(lanes), count)])
        mask = load(builder, builder.ptrtoint(address, I64), ir.VectorType(I64, lanes))
        return view(builder, builder.and_(view(builder, columns, I64), mask), F64)

    return t.row_accumulator(t.row_accumulator, types.int64, t), codegen


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
