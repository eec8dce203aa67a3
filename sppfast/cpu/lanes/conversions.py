"""Bits of the dtype to what is reduced, keys or float64, and back: by operations that every machine has."""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

from .llvm import F32, F64, I1, I16, I32, I64, constant, view
from .reduction import Reduction


def encode(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn bits into keys: integers of the same order; zeros of both signs equal, every NaN the same and largest."""
    if t.wide or t.kind == "signed":
        return bits
    top = constant(bits.type, -(2 ** (t.bits - 1)))
    if t.kind == "unsigned":
        return builder.xor(bits, top)
    magnitude = builder.and_(bits, builder.not_(top))
    sign = builder.ashr(bits, constant(bits.type, t.bits - 1))
    ordered = builder.sub(builder.xor(magnitude, sign), sign)
    is_nan = builder.icmp_signed(">", magnitude, constant(bits.type, t.infinity))
    quiet_nan = t.infinity | (t.infinity & -t.infinity) >> 1  # the highest bit of the mantissa set
    return builder.select(is_nan, constant(bits.type, quiet_nan), ordered)


def decode(builder: ir.IRBuilder, key: ir.Value, t: Reduction) -> ir.Value:
    """Turn keys into bits."""
    if t.wide or t.kind != "float":
        return encode(builder, key, t)
    sign = builder.and_(key, constant(key.type, -(2 ** (t.bits - 1))))
    ty, name = ir.FunctionType(key.type, [key.type, I1]), f"llvm.abs.v{key.type.count}i{t.bits}"
    magnitude = builder.call(cgutils.get_or_insert_function(builder.module, ty, name), [key, I1(0)])
    return builder.or_(magnitude, sign)


def to_double(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn the bits of any dtype, or of a cell, into float64."""
    double = ir.VectorType(F64, bits.type.count)
    if t.kind == "signed":
        return builder.sitofp(bits, double)
    if t.kind == "unsigned":
        return builder.uitofp(bits, double)
    if t.bits == 64:
        return view(builder, bits, F64)
    if bits.type.element == I16:
        bits = _single_of_half(builder, bits, t)
    return builder.fpext(view(builder, bits, F32), double)


def _single_of_half(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn the bits of halves into those of float32, by integer arithmetic: not every machine converts them."""
    wide = builder.zext(bits, ir.VectorType(I32, bits.type.count))
    if t.dtype == "bfloat16":
        return builder.shl(wide, constant(wide.type, 16))
    magnitude = builder.shl(builder.and_(wide, constant(wide.type, 0x7FFF)), constant(wide.type, 13))
    scaled = builder.fmul(view(builder, magnitude, F32), constant(ir.VectorType(F32, wide.type.count), 2.0**112))
    not_finite = builder.icmp_signed(">=", magnitude, constant(wide.type, 0x7C00 << 13))
    special = builder.or_(magnitude, constant(wide.type, 0x7F800000))
    finite = view(builder, scaled, I32)
    sign = builder.shl(builder.and_(wide, constant(wide.type, 0x8000)), constant(wide.type, 16))
    return builder.or_(builder.select(not_finite, special, finite), sign)


def to_cell(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn the bits of the dtype into what a tile holds."""
    if t.mode == "paired":
        key = builder.zext(encode(builder, bits, t), ir.VectorType(t.cell.llvm.element, bits.type.count))
        return builder.shl(key, constant(key.type, t.index_bits))
    return encode(builder, bits, t) if t.cell.bits == t.bits else _single_of_half(builder, bits, t)


def to_result(builder: ir.IRBuilder, value: ir.Value, t: Reduction) -> ir.Value:
    """Turn float64 into the bits of the result's dtype, rounded once, to nearest even."""
    if t.out_bits == 64:
        return view(builder, value, I64)
    single = ir.VectorType(F32, value.type.count)
    if t.out_bits == 32:
        return view(builder, builder.fptrunc(value, single), I32)
    return (_to_bfloat16 if t.dtype == "bfloat16" else _to_float16)(builder, value)


def limited(builder: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """Limit numbers."""
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


def _rounded_to(builder: ir.IRBuilder, value: ir.Value, digits: int, smallest: float) -> ir.Value:
    """Round float64 to so many binary digits, below the smallest normal number to its last: a float32 then.

    To a large number, of which the last bit is worth as much as that digit, it is added, and that taken away.
    """
    power = builder.and_(view(builder, value, I64), constant(ir.VectorType(I64, value.type.count), 0x7FF << 52))
    low, high = constant(value.type, smallest), constant(value.type, 2.0**512)  # infinity stays what it is
    power = limited(builder, view(builder, power, F64), low, high)
    grid = builder.fmul(power, constant(value.type, 1.5 * 2.0 ** (53 - digits)))
    rounded = builder.fsub(builder.fadd(value, grid), grid)
    ty, name = ir.FunctionType(value.type, 2 * [value.type]), f"llvm.copysign.v{value.type.count}f64"
    rounded = builder.call(cgutils.get_or_insert_function(builder.module, ty, name), [rounded, value])  # of 0
    return view(builder, builder.fptrunc(rounded, ir.VectorType(F32, value.type.count)), I32)


def _to_bfloat16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    bits = _rounded_to(builder, value, 8, 2.0**-126)
    return builder.trunc(builder.lshr(bits, constant(bits.type, 16)), ir.VectorType(I16, bits.type.count))


def _to_float16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """By scaling, which makes exponents float16's, and subnormal numbers; infinity and NaN keep their bits."""
    bits = _rounded_to(builder, value, 11, 2.0**-14)
    ty = bits.type
    scaled = builder.fmul(view(builder, bits, F32), constant(ir.VectorType(F32, ty.count), 2.0**-112))
    magnitude = builder.and_(builder.lshr(view(builder, scaled, I32), constant(ty, 13)), constant(ty, 0x7FFF))
    sign = builder.and_(builder.lshr(bits, constant(ty, 16)), constant(ty, 0x8000))
    return builder.trunc(builder.or_(magnitude, sign), ir.VectorType(I16, ty.count))
