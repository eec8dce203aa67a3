"""Tables of areas: sums of cells above and to the left, whether they are exact, and how far from it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .accumulators import cell_at, divide
from .conversions import to_double, to_result
from .llvm import F64, I1, I32, I64, constant, load, splat, store, view
from .reduction import Reduction

SUM_DIGITS, AREA_DIGITS, CELL_DIGITS = 53, 62, 51  # of a sum of float64; of a sum of integers, and of one of its cells
UNIT, ROW, LARGEST, DEPTH, REST, EXACT, BOUNDS = range(7)  # of a table of areas, see `store_bounds`
ROUNDING = 2.0**-20  # more than what bounds themselves are rounded by
OTHER_ADDITIONS = 8  # what turns sums into means, and bounds them, rounds less than as many additions


def _magnitude(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    bits = builder.and_(view(builder, value, I64), constant(ir.VectorType(I64, value.type.count), 2**63 - 1))
    return view(builder, bits, F64)


@intrinsic
def add_magnitude(typingctx: Any, accumulator: Any, address: Any, t: Any) -> Any:
    """Add the magnitude of a cell to a sum of them."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        cell = to_double(builder, cell_at(builder, args[1], t), t)
        return builder.fadd(args[0], _magnitude(builder, cell))

    return t.accumulator(t.accumulator, types.int64, t), codegen


@intrinsic
def larger_magnitude(typingctx: Any, accumulator: Any, address: Any, t: Any) -> Any:
    """Take the larger magnitude, of a cell or those before it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        cell = to_double(builder, cell_at(builder, args[1], t), t)
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
        magnitude = builder.fmul(row, splat(builder, builder.sitofp(rows, F64), t.count))
        if t.fixed:
            spare = constant(largest.type, 2.0 ** (AREA_DIGITS - CELL_DIGITS))
            magnitude = _larger(builder, builder.fmul(largest, spare), magnitude)
        power = builder.and_(view(builder, magnitude, I64), constant(ty, 0x7FF << 52))
        if t.fixed:  # 0 has no power of two
            least = constant(ty, 0x300 << 52)
            power = builder.select(builder.icmp_signed(">", power, least), power, least)
        more = constant(ty, (53 - (AREA_DIGITS if t.fixed else SUM_DIGITS)) << 52)
        return view(builder, builder.add(builder.or_(power, constant(ty, 1 << 51)), more), F64)

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
        cell = to_double(builder, cell_at(builder, address, t), t)
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
        cell, zero = to_double(builder, cell_at(builder, address, t), t), constant(accumulator.type, 0.0)
        near = _near(builder, cell, grid)
        is_lost = builder.fcmp_ordered("==", near, zero)
        depth = builder.select(is_lost, _magnitude(builder, cell), builder.fsub(zero, near))
        return _larger(builder, depth, accumulator)

    return t.accumulator(t.accumulator, types.int64, t.accumulator, t), codegen


def _times(builder: ir.IRBuilder, address: ir.Value, grid: ir.Value, t: Reduction) -> ir.Value:
    """Count how often a cell has the unit of a grid."""
    near = builder.fadd(to_double(builder, cell_at(builder, address, t), t), grid)
    return builder.sub(*(view(builder, value, I64) for value in (near, grid)))


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
        store(builder, *args[:2])
        return context.get_dummy_value()

    return types.void(types.int64, t.area, t), codegen


@intrinsic
def add_area_cell(typingctx: Any, area: Any, address: Any, grid: Any, t: Any) -> Any:
    """Add a cell to an area; where those are fixed, how often it has the unit of the grid."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        area, address, grid, _ = args
        if t.fixed:
            return builder.add(area, _times(builder, address, grid, t))
        cell = cell_at(builder, address, t)
        if t.area.is_float:
            return builder.fadd(area, to_double(builder, cell, t))
        return builder.add(area, (builder.sext if t.kind == "signed" else builder.zext)(cell, t.area.llvm))

    return t.area(t.area, types.int64, t.accumulator, t), codegen


@intrinsic
def join_digits(typingctx: Any, accumulator: Any, address: Any, grid: Any, t: Any) -> Any:
    """Collect the binary digits of how often cells have the unit of the grid."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        accumulator, address, grid, _ = args
        if not t.fixed:
            return accumulator
        return view(builder, builder.or_(view(builder, accumulator, I64), _times(builder, address, grid, t)), F64)

    return t.accumulator(t.accumulator, types.int64, t.accumulator, t), codegen


@intrinsic
def add_area(typingctx: Any, area: Any, address: Any, t: Any) -> Any:
    """Add an area that is in memory to another."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        add = builder.fadd if t.area.is_float else builder.add
        return add(args[0], load(builder, args[1], t.area.llvm))

    return t.area(t.area, types.int64, t), codegen


def _used(builder: ir.IRBuilder, valid: ir.Value, t: Reduction) -> ir.Value:
    numbers = ir.Constant(t.index.llvm, list(range(t.count)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(valid, I32), t.count))


@intrinsic
def may_add(typingctx: Any, rest: Any, valid: Any, t: Any) -> Any:
    """Tell whether nothing is left of cells in the first `valid` lanes; where areas are fixed, if all are numbers."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rest, valid, _ = args
        fails = builder.fcmp_unordered("uno" if t.fixed else "!=", rest, constant(rest.type, 0.0))
        bits = builder.bitcast(builder.and_(_used(builder, valid, t), fails), ir.IntType(t.count))
        return builder.icmp_signed("==", bits, ir.Constant(bits.type, 0))

    return types.boolean(t.accumulator, types.int64, t), codegen


def _float_of_integer(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Turn integers of 64 bits into float64, half by half: not every machine converts them.

    The halves become the last digits of 2**52 and 2**84, and the upper half's sign one of that.
    """
    low = builder.or_(builder.and_(value, constant(value.type, 2**32 - 1)), constant(value.type, 0x433 << 52))
    high = builder.lshr(value, constant(value.type, 32))
    high = builder.xor(high, constant(value.type, (0x453 << 52) + 2**31))
    both = constant(ir.VectorType(F64, value.type.count), 2.0**84 + 2.0**63 + 2.0**52)
    return builder.fadd(builder.fsub(view(builder, high, F64), both), view(builder, low, F64))


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
        ty, zero = ir.VectorType(I64, t.count), constant(grid.type, 0.0)
        power = builder.and_(view(builder, grid, I64), constant(ty, 0x7FF << 52))
        unit = view(builder, builder.sub(power, constant(ty, 52 << 52)), F64)
        bits = builder.or_(view(builder, joined, I64), constant(ty, 1 << 62))
        last = _float_of_integer(builder, builder.and_(bits, builder.sub(constant(ty, 0), bits)))
        exact = builder.fmul(builder.fmul(last, unit), constant(unit.type, 2.0**53 * (1 - ROUNDING)))
        exact = builder.select(builder.fcmp_ordered("==", rest, zero), exact, zero)
        row = builder.fmul(row, constant(row.type, 1 + ROUNDING))
        rest = _smaller(builder, rest, builder.fmul(unit, constant(unit.type, 0.5)))
        used = _used(builder, valid, t)
        for i, value in enumerate((unit, row, largest, builder.fadd(depth, depth), rest, exact)):
            value = builder.select(used, value, zero)
            store(builder, builder.add(address, I64(i * t.accumulator_bytes)), value)
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
                return load(builder, builder.add(row, column), area)

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
    return builder.fmul(_float_of_integer(builder, times), load(builder, bounds, t.reduced.llvm))


@intrinsic
def float_area(typingctx: Any, address: Any, bounds: Any, t: Any) -> Any:
    """Turn an area of a fixed table into float64."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address, bounds, _ = args
        store(builder, address, _float_of_times(builder, load(builder, address, t.area.llvm), bounds, t))
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

        def bound(i: int) -> ir.Value:
            return load(builder, builder.add(bounds, I64(i * t.accumulator_bytes)), accumulator.type)

        area, width = (builder.sitofp(value, F64) for value in (builder.mul(height, width), width))
        mean = divide(builder, accumulator, area, t)
        row = builder.fmul(bound(ROW), splat(builder, builder.fdiv(F64(1.0), width), t.count))
        magnitude = _smaller(builder, builder.fadd(mean, bound(DEPTH)), row)
        share = builder.fmul(builder.sitofp(builder.add(additions, I64(OTHER_ADDITIONS)), F64), F64(2.0**-53))
        error = builder.fmul(magnitude, splat(builder, share, t.count))
        error = builder.fadd(error, _smaller(builder, magnitude, bound(REST)))
        is_exact = builder.fcmp_ordered("<=", builder.fmul(magnitude, splat(builder, area, t.count)), bound(EXACT))
        error = builder.select(is_exact, constant(error.type, 0.0), error)
        low, high = (to_result(builder, change(mean, error), t) for change in (builder.fsub, builder.fadd))
        store(builder, address, low)
        bits = builder.bitcast(builder.icmp_signed("!=", low, high), ir.IntType(t.count))
        return builder.icmp_signed("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(types.int64, t.accumulator, *4 * [types.int64], t), codegen
