"""LLVM, an instruction or two at a time: constants, vectors of one value, loads and stores at integer addresses."""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core.registry import cpu_target

I1, I16, I32, I64 = ir.IntType(1), ir.IntType(16), ir.IntType(32), ir.IntType(64)
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()


@cache
def has_feature(name: str) -> bool:
    """Tell whether the machine that code is made for has a feature, as LLVM names it."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return f"+{name}" in features.split(",")


def constant(ty: ir.VectorType, value: Any) -> ir.Constant:
    """Make a vector of one constant."""
    return ir.Constant(ty, [value] * ty.count)


def splat(builder: ir.IRBuilder, value: ir.Value, count: int) -> ir.Value:
    """Make a vector of one value."""
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    one = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(one, undefined, constant(ir.VectorType(I32, count), 0))


def shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, indices: list[int]) -> ir.Value:
    """Take elements of two vectors, by their numbers in one after the other."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(indices)), indices))


def view(builder: ir.IRBuilder, value: ir.Value, element: ir.Type) -> ir.Value:
    """Take the bits of a vector as those of other elements of that size."""
    return builder.bitcast(value, ir.VectorType(element, value.type.count))


def load(builder: ir.IRBuilder, address: ir.Value, ty: ir.Type) -> ir.Value:
    """Load a value from any address."""
    value = builder.load(builder.inttoptr(address, ty.as_pointer()))
    value.align = 1
    return value


def store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> ir.Instruction:
    """Store a value at any address."""
    instruction = builder.store(value, builder.inttoptr(address, value.type.as_pointer()))
    instruction.align = 1
    return instruction
