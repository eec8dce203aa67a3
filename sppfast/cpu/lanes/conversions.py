"""Bits of the dtype to what is reduced, keys or float64, and back: by operations that every machine has."""

from __future__ import annotations

import math

from llvmlite import ir
from numba.core import cgutils

from .llvm import F16, F32, F64, I1, I16, I32, I64, constant, has_feature, view
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


def converts_halves() -> bool:
    """Tell whether the machine converts float16 to float32 and back; not all of x86 do."""
    return has_feature("f16c")


def to_double(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn the bits of any dtype, or of a cell, into float64."""
    double = ir.VectorType(F64, bits.type.count)
    is_single = bits.type.element.width > t.bits  # as a cell may be
    if t.kind != "float" and not is_single:
        return (builder.sitofp if t.kind == "signed" else builder.uitofp)(bits, double)
    if t.bits == 64:
        return view(builder, bits, F64)
    return builder.fpext(view(builder, bits if is_single else _to_single(builder, bits, t), F32), double)


def _to_single(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn the bits of up to 32 bits into those of float32."""
    if t.kind != "float":
        single = ir.VectorType(F32, bits.type.count)
        return view(builder, (builder.sitofp if t.kind == "signed" else builder.uitofp)(bits, single), I32)
    return _single_of_half(builder, bits, t) if t.bits == 16 else bits


def _single_of_half(builder: ir.IRBuilder, bits: ir.Value, t: Reduction) -> ir.Value:
    """Turn the bits of halves into those of float32, by integer arithmetic unless the machine converts them."""
    if t.dtype == "float16" and converts_halves():
        return view(builder, builder.fpext(view(builder, bits, F16), ir.VectorType(F32, bits.type.count)), I32)
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
    return encode(builder, bits, t) if t.cell.bits == t.bits else _to_single(builder, bits, t)


def to_result(builder: ir.IRBuilder, value: ir.Value, t: Reduction) -> ir.Value:
    """Turn float64 into the bits of the result's dtype, rounded once, to nearest even."""
    if t.out_bits == 64:
        return view(builder, value, I64)
    single = ir.VectorType(F32, value.type.count)
    if t.out_bits == 32:
        return view(builder, builder.fptrunc(value, single), I32)
    return (_to_bfloat16 if t.dtype == "bfloat16" else _to_float16)(builder, value)


def single_to_half(builder: ir.IRBuilder, single: ir.Value, t: Reduction) -> ir.Value:
    """Round any float32 to the bits of a half: what no mean is, a NaN of any digits or too large a number, too."""
    is_number = builder.fcmp_ordered("ord", single, single)
    single = builder.select(is_number, single, constant(single.type, math.nan))
    if t.dtype == "float16":
        for compare, limit in ((">=", 65520.0), ("<=", -65520.0)):
            is_too_large = builder.fcmp_ordered(compare, single, constant(single.type, limit))
            single = builder.select(is_too_large, constant(single.type, math.copysign(math.inf, limit)), single)
    return to_result(builder, builder.fpext(single, ir.VectorType(F64, single.type.count)), t)


def limited(builder: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """Limit numbers."""
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


def _cut_to(builder: ir.IRBuilder, value: ir.Value, digits: int) -> ir.Value:
    """Cut float64 to so many binary digits, of which the last is 1 where anything is cut off: a float32 then.

    What is rounded from there to two digits less is rounded as from all of them.
    """
    bits = view(builder, value, I64)
    rest = constant(bits.type, 2 ** (53 - digits) - 1)
    last = builder.add(builder.and_(bits, rest), rest)
    bits = builder.and_(builder.or_(bits, last), builder.not_(rest))
    return view(builder, builder.fptrunc(view(builder, bits, F64), ir.VectorType(F32, value.type.count)), I32)


def _to_bfloat16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """By cutting float32 in half: what is below its smallest normal number has all ten digits wherever they count."""
    bits = _cut_to(builder, value, 10)
    high = builder.lshr(bits, constant(bits.type, 16))
    half = builder.add(builder.and_(high, constant(bits.type, 1)), constant(bits.type, 0x7FFF))
    high = builder.lshr(builder.add(bits, half), constant(bits.type, 16))
    return builder.trunc(high, ir.VectorType(I16, bits.type.count))


def _to_float16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    single = view(builder, _cut_to(builder, value, 13), F32)
    if not converts_halves():
        return _scaled_to_float16(builder, single)
    return view(builder, builder.fptrunc(single, ir.VectorType(F16, value.type.count)), I16)


def _scaled_to_float16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """By rounding to 11 digits, of subnormal numbers to the last, and scaling; infinity and NaN keep their bits.

    To a large number, of which the last bit is worth as much as that digit, it is added, and that taken away.
    """
    ty = ir.VectorType(I32, value.type.count)
    power = view(builder, builder.and_(view(builder, value, I32), constant(ty, 0xFF << 23)), F32)
    power = limited(builder, power, constant(value.type, 2.0**-14), constant(value.type, 2.0**100))
    grid = builder.fmul(power, constant(value.type, 1.5 * 2.0**13))
    rounded = builder.fsub(builder.fadd(value, grid), grid)
    scaled = view(builder, builder.fmul(rounded, constant(value.type, 2.0**-112)), I32)
    magnitude = builder.and_(builder.lshr(scaled, constant(ty, 13)), constant(ty, 0x7FFF))
    sign = builder.and_(builder.lshr(view(builder, value, I32), constant(ty, 16)), constant(ty, 0x8000))
    return builder.trunc(builder.or_(magnitude, sign), ir.VectorType(I16, ty.count))
