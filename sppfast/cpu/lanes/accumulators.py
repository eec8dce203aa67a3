"""Bins: what a cell, or a finer bin, does to one, and what it is in the end."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .conversions import to_cell, to_double, to_result
from .llvm import F64, I32, I64, constant, load, splat, store, view
from .reduction import Reduction


def parts_of(builder: ir.IRBuilder, accumulator: ir.Value, t: Reduction) -> list[ir.Value]:
    """Take an accumulator apart: what its cells are reduced to and, for ``"argmax"``, where that was found."""
    return [builder.extract_value(accumulator, i) for i in range(2)] if t.mode == "argmax" else [accumulator]


def _whole(context: Any, builder: ir.IRBuilder, parts: list[ir.Value], t: Reduction) -> ir.Value:
    return context.make_tuple(builder, t.accumulator, parts) if t.mode == "argmax" else parts[0]


def _load_parts(builder: ir.IRBuilder, address: ir.Value, t: Reduction) -> list[ir.Value]:
    parts = [load(builder, address, t.reduced.llvm)]
    if t.mode == "argmax":
        parts.append(load(builder, builder.add(address, I64(t.reduced_bytes)), t.index.llvm))
    return parts


@intrinsic
def start(typingctx: Any, t: Any) -> Any:
    """Make the accumulator of no cells: the smallest key at no index, or the sum 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        smallest = constant(t.reduced.llvm, 0.0 if t.mode == "avg" else -(2 ** (t.reduced.bits - 1)))
        return _whole(context, builder, [smallest, constant(t.index.llvm, -1)], t)

    return t.accumulator(t), codegen


@intrinsic
def begin(typingctx: Any, accumulator: Any, index: Any, t: Any) -> Any:
    """Point bins without an index at their first cell, which need not be larger than the smallest key."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        parts = parts_of(builder, args[0], t)
        if t.mode == "argmax":
            first = splat(builder, builder.trunc(args[1], I32), t.count)
            none = builder.icmp_signed("==", parts[1], constant(t.index.llvm, -1))
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
        for i, part in enumerate(parts_of(builder, args[1], t)):
            store(builder, builder.add(args[0], I64(i * t.reduced_bytes)), part)
        return context.get_dummy_value()

    return types.void(types.int64, t.accumulator, t), codegen


def _add_cell(name: str, find: Any, to_some: bool = False) -> Any:
    """Reduce a cell into a bin, or into some of its cells. Indices must rise: the first of equals stays."""

    def typing(typingctx: Any, accumulator: Any, address: Any, index: Any, t: Any) -> Any:
        state = t.some if to_some else t.accumulator

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            cell = find(builder, args[1], t)
            if to_some and t.adds_integers:
                return builder.add(args[0], (builder.sext if t.kind == "signed" else builder.zext)(cell, state.llvm))
            if t.mode == "avg":
                return builder.fadd(args[0], to_double(builder, cell, t))
            best = parts_of(builder, args[0], t)
            larger = builder.icmp_signed(">", cell, best[0])
            new = [cell, splat(builder, builder.trunc(args[2], I32), t.count)]
            return _whole(context, builder, [builder.select(larger, a, b) for a, b in zip(new, best, strict=False)], t)

        return state(state, types.int64, types.int64, t), codegen

    typing.__name__ = name
    return intrinsic(typing)


def cell_at(builder: ir.IRBuilder, address: ir.Value, t: Reduction) -> ir.Value:
    """Load a cell of the tile."""
    return load(builder, address, t.cell.llvm)


def _raw_cell_at(builder: ir.IRBuilder, address: ir.Value, t: Reduction) -> ir.Value:
    bits = load(builder, address, t.raw.llvm)
    return bits if t.wide else to_cell(builder, bits, t)


add_cell = _add_cell("add_cell", cell_at)  # of the tile
add_some_cell = _add_cell("add_some_cell", cell_at, to_some=True)
add_some_raw_cell = _add_cell("add_some_raw_cell", _raw_cell_at, to_some=True)  # of the map


@intrinsic
def add_bin(typingctx: Any, accumulator: Any, address: Any, t: Any) -> Any:
    """Reduce a bin of a finer level into a bin: of equals the one with the smaller index stays."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        new, best = _load_parts(builder, args[1], t), parts_of(builder, args[0], t)
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
        store(builder, address, builder.or_(cell_at(builder, address, t), splat(builder, low, t.count)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def begin_some(typingctx: Any, accumulator: Any, t: Any) -> Any:
    """Make the state of some of a bin's cells: a sum of their own, or what the bin is reduced to so far."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(t.some.llvm, None) if t.mode == "avg" else args[0]

    return t.some(t.accumulator, t), codegen


def _sum_of(builder: ir.IRBuilder, some: ir.Value, t: Reduction) -> ir.Value:
    return builder.sitofp(some, t.reduced.llvm) if t.adds_integers else some


@intrinsic
def end_some(typingctx: Any, accumulator: Any, some: Any, t: Any) -> Any:
    """Reduce some of a bin's cells into the bin."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fadd(args[0], _sum_of(builder, args[1], t)) if t.mode == "avg" else args[1]

    return t.accumulator(t.accumulator, t.some, t), codegen


@intrinsic
def add_sum(typingctx: Any, accumulator: Any, other: Any, t: Any) -> Any:
    """Add a sum to another."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1])

    return t.accumulator(t.accumulator, t.accumulator, t), codegen


@intrinsic
def load_patch(typingctx: Any, address: Any, t: Any) -> Any:
    """Load the sum of a patch of cells."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load(builder, args[0], t.some.llvm)

    return t.some(types.int64, t), codegen


@intrinsic
def store_patch(typingctx: Any, address: Any, patch: Any, t: Any) -> Any:
    """Store the sum of a patch of cells."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store(builder, *args[:2])
        return context.get_dummy_value()

    return types.void(types.int64, t.some, t), codegen


@intrinsic
def begin_patches(typingctx: Any, accumulator: Any, t: Any) -> Any:
    """Make what patches are added to: a sum of their own, of integers, or that of the bin so far."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(t.some.llvm, None) if t.adds_integers else args[0]

    return t.some(t.accumulator, t), codegen


@intrinsic
def add_patch(typingctx: Any, patches: Any, address: Any, t: Any) -> Any:
    """Add the sum of a patch."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        patch = load(builder, args[1], t.some.llvm)
        return (builder.add if t.adds_integers else builder.fadd)(patch, args[0])

    return t.some(t.some, types.int64, t), codegen


@intrinsic
def end_patches(typingctx: Any, accumulator: Any, patches: Any, t: Any) -> Any:
    """Make the sum of a bin of what it was before and its patches."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fadd(args[0], _sum_of(builder, args[1], t)) if t.adds_integers else args[1]

    return t.accumulator(t.accumulator, t.some, t), codegen


@intrinsic
def start_at(typingctx: Any, value: Any, t: Any) -> Any:
    """Make the accumulator of one value for all lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return splat(builder, args[0], t.count)

    return t.accumulator(types.float64, t), codegen


def _load_cell(name: str, find: Any) -> Any:
    """Make an accumulator of a cell."""

    def typing(typingctx: Any, address: Any, t: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return to_double(builder, find(builder, args[0], t), t)

        return t.accumulator(types.int64, t), codegen

    typing.__name__ = name
    return intrinsic(typing)


load_cell = _load_cell("load_cell", cell_at)
load_raw_cell = _load_cell("load_raw_cell", _raw_cell_at)


@intrinsic
def add_weighted(typingctx: Any, accumulator: Any, value: Any, weight: Any, t: Any) -> Any:
    """Reduce a weighted accumulator into another.

    Without a fused multiplication and addition, which not every machine has: the bits are the same everywhere.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.fmul(args[1], splat(builder, args[2], t.count))
        if t.sums:
            return builder.fadd(args[0], value)
        larger = builder.fcmp_ordered(">", value, args[0])
        is_nan = builder.fcmp_unordered("uno", value, value)
        return builder.select(builder.or_(larger, is_nan), value, args[0])

    return t.accumulator(t.accumulator, t.accumulator, types.float64, t), codegen


def divide(builder: ir.IRBuilder, value: ir.Value, area: ir.Value, t: Reduction) -> ir.Value:
    """Divide; where the result has fewer digits anyway by multiplication, which takes a tenth of the time.

    That may miss a number halfway between two halves by 2**-52 of it: so what is within 2**-50 counts as halfway.
    """
    if t.out_bits == 64:
        return builder.fdiv(value, splat(builder, area, t.count))
    value = builder.fmul(value, splat(builder, builder.fdiv(F64(1.0), area), t.count))
    if t.out_bits == 16:
        bits = view(builder, value, I64)
        bits = builder.and_(builder.add(bits, constant(bits.type, 4)), constant(bits.type, -8))
        value = view(builder, bits, F64)
    return value


@intrinsic
def store_rounded(typingctx: Any, address: Any, accumulator: Any, t: Any) -> Any:
    """Store float64 lanes as bits of the result's dtype."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store(builder, args[0], to_result(builder, args[1], t))
        return context.get_dummy_value()

    return types.void(types.int64, t.accumulator, t), codegen


def _settled(builder: ir.IRBuilder, value: ir.Value, area: ir.Value, t: Reduction) -> ir.Value:
    if t.sums:
        value = divide(builder, value, builder.sitofp(area, F64), t)
    value = to_result(builder, value, t) if t.wide else value
    empty = constant(value.type, 0) if t.wide else to_cell(builder, constant(t.raw.llvm, 0), t)
    return builder.select(builder.icmp_signed(">", area, I64(0)), value, empty)


@intrinsic
def settle(typingctx: Any, address: Any, area: Any, t: Any) -> Any:
    """Make a sum over `area` cells a mean, as bits of the result's dtype, and a bin of no cells 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, area, _ = args
        store(builder, address, _settled(builder, _load_parts(builder, address, t)[0], area, t))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, t), codegen


@intrinsic
def store_mean(typingctx: Any, address: Any, accumulator: Any, area: Any, t: Any) -> Any:
    """Store a sum as `settle` leaves it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, accumulator, area, _ = args
        store(builder, address, _settled(builder, accumulator, area, t))
        return context.get_dummy_value()

    return types.void(types.int64, t.accumulator, types.int64, t), codegen
