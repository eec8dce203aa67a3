"""Transposition: channels of cells side by side, and bins of a channel side by side, within registers."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ...arrays import LINE_BYTES
from .conversions import decode, to_cell
from .llvm import I32, I64, constant, load, shuffle, splat, store
from .reduction import SHUFFLE_BYTES, group_of


def _transpose(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Transpose E rows of E elements in each 16-byte part of the vectors, in log2(E) rounds of interleaving."""
    count = len(rows)
    lines = range(0, rows[0].type.count, count)
    low = [line + i // 2 + (i % 2) * rows[0].type.count for line in lines for i in range(count)]
    high = [i + count // 2 for i in low]
    for _ in range(count.bit_length() - 1):
        pairs = [(rows[i], rows[i + count // 2]) for i in range(count // 2)]
        rows = [shuffle(builder, a, b, mask) for a, b in pairs for mask in (low, high)]
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
            return load(builder, builder.add(source, builder.mul(index, source_step)), line)

        both = list(range(2 * count))
        rows = [shuffle(builder, row(i), row(i + count), both) for i in range(count)]
        for i, vector in enumerate(_transpose(builder, rows)):
            store(builder, builder.add(target, builder.mul(I64(i), target_step)), to_cell(builder, vector, t))
        return context.get_dummy_value()

    return types.void(*5 * [types.int64], t), codegen


def _kept_whole(builder: ir.IRBuilder, vector: ir.Value, step: ir.Value) -> ir.Value:
    """Keep a vector whole of which parts are stored: LLVM shuffles each part by itself if nothing is in between.

    It does not know that a step is not negative, its highest bit 0.
    """
    zero = builder.trunc(builder.lshr(step, I64(63)), vector.type.element)
    return builder.xor(vector, splat(builder, zero, vector.type.count))


def _joined_rows(builder: ir.IRBuilder, source: ir.Value, step: ir.Value, line: ir.VectorType) -> list[list[ir.Value]]:
    """Transpose 2E bins of a line of lanes, E elements being 16 bytes, and join the bins of a lane in whole vectors.

    Returns E vectors for each half of the lanes, or for all: the i-th has the bins of the i-th of every E lanes.
    """
    lanes, count = line.count, SHUFFLE_BYTES * 8 // line.element.width

    def rows(first: int) -> list[ir.Value]:
        places = [builder.add(source, builder.mul(I64(first + i), step)) for i in range(count)]
        return _transpose(builder, [load(builder, place, line) for place in places])

    halves, joined = list(zip(rows(0), rows(count), strict=True)), []
    filled = max(lanes // 2, count)  # lanes of which the bins fill a vector
    for begin in range(0, lanes, filled):
        firsts = range(begin, begin + filled, count)
        mask = [first + half + k for first in firsts for half in (0, lanes) for k in range(count)]
        joined.append([shuffle(builder, low, high, mask) for low, high in halves])
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
                store(builder, place, shuffle(builder, vector, vector, list(range(first, first + bins))))
                lane += 1


def _transpose_out(name: str, bits: Any, change: Any) -> Any:
    """Transpose 2E bins of a group of lanes, E elements being 16 bytes, into 2E bins of each lane, decoded.

    Bins are joined in whole vectors, and parts of those stored: with 64 bytes three shuffles a vector, not five.
    """

    def typing(typingctx: Any, target: Any, target_step: Any, source: Any, source_step: Any, t: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            target, target_step, source, source_step, _ = args
            line = ir.VectorType(ir.IntType(bits(t)), group_of(bits(t), t.count))
            joined = _joined_rows(builder, source, source_step, line)
            decoded = [[change(builder, vector, t) for vector in vectors] for vectors in joined]
            if decoded == joined and len(joined) > 1:
                decoded = [[_kept_whole(builder, vector, target_step) for vector in vectors] for vectors in joined]
            _store_rows(builder, decoded, target, target_step, 2 * SHUFFLE_BYTES * 8 // line.element.width)
            return context.get_dummy_value()

        return types.void(*4 * [types.int64], t), codegen

    typing.__name__ = name
    return intrinsic(typing)


transpose_out = _transpose_out("transpose_out", lambda t: t.out_bits, decode)
transpose_index = _transpose_out("transpose_index", lambda t: 32, lambda builder, vector, t: vector)


@intrinsic
def store_lanes(typingctx: Any, target: Any, source: Any, t: Any) -> Any:
    """Store the lanes of one bin, decoded."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        lanes = load(builder, args[1], ir.VectorType(ir.IntType(t.out_bits), t.count))
        store(builder, args[0], decode(builder, lanes, t))
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
                high = builder.lshr(pair, constant(pair.type, t.index_bits))
                pair = builder.trunc(high, ir.VectorType(ir.IntType(t.bits), pair.type.count))
            return decode(builder, pair, t)

        def index(pair: ir.Value) -> ir.Value:
            pair, unused = builder.not_(pair), constant(pair.type, 32 - min(t.index_bits, 32))
            return builder.ashr(builder.shl(pair, unused), unused)

        low, high = (slice(0, None, 2), slice(1, None, 2)) if t.pair_bits == 64 else 2 * (slice(None),)
        _store_rows(builder, [list(map(key, vectors[high])) for vectors in joined], target, target_step, 8)
        _store_rows(builder, [list(map(index, vectors[low])) for vectors in joined], places, places_step, 8)
        return context.get_dummy_value()

    return types.void(*6 * [types.int64], t), codegen
