"""``pool`` against the oracle: every option with every dtype, and every kind of memory."""

import mmap

import numpy as np
import oracle
import pytest
from helpers import (
    BINS,
    DTYPES,
    FLOATS,
    KINDS,
    LAYOUTS,
    MODES,
    check_pool,
    dtype_of,
    in_layout,
    make,
    make_map,
)

import sppfast
from sppfast.cpu import ways

# Where NumPy 1 has it, or else where NumPy 2 does.
byte_bounds = getattr(np, "byte_bounds", None) or np.lib.array_utils.byte_bounds

CHANNELS = [1, 3, 7, 8, 16, 17, 31, 33, 64, 65, 100, 130, 257]
SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (5, 5), (13, 13), (14, 7), (31, 33), (38, 63), (50, 70)]
LONG = [(300, 5), (5, 300)]
LEVELS = [
    (4, 2, 1),
    (6, 3, 2, 1),
    (1, 2, 4),
    (3, 2, 4, 1),
    5,
    (7,),
    ((2, 3),),
    ((1, 5), 3, (4, 1)),
    (1,),
    (2, 2),
    (17, 1),
    ((40, 1), (1, 40)),
    [4, [2, 3]],
]


# ---- options, one by one


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_option(dtype, mode, bins, layout, rng):
    for kind in KINDS:
        shape = (2, int(rng.integers(1, 40)), *rng.integers(1, 24, 2))
        options = {"mode": mode, "bins": bins, "layout": layout}
        options["return_indices"] = mode == "max" and kind != "spread"
        x = make_map(rng, shape, dtype, kind, layout)
        check_pool(x, (4, 2, 1), flatten=kind == "ties", **options)
        check_pool(x[0], (3, (2, 5)), flatten=kind != "ties", **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_channels(channels, mode, layout, rng):
    for dtype in ("float32", rng.choice(DTYPES)):
        x = make_map(rng, (3, channels, 11, 13), dtype, "spread", layout)
        check_pool(x, (6, 3, 2, 1), mode=mode, layout=layout)
    if mode == "max":
        x = make_map(rng, (2, channels, 9, 7), "float32", "ties", layout)
        check_pool(x, (4, 2, 1), layout=layout, return_indices=True)


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("size", SIZES + LONG, ids=str)
def test_sizes(size, bins, rng):
    for layout in LAYOUTS:
        for levels in ((4, 2, 1), (6, 3, 2, 1)):
            x = make_map(rng, (2, 19, *size), "float32", "spread", layout)
            check_pool(x, levels, bins=bins, layout=layout)
            check_pool(x, levels, bins=bins, layout=layout, mode="avg")
        x = make_map(rng, (1, 5, *size), "float32", "ties", layout)
        check_pool(x, (4, 2, 1), bins=bins, layout=layout, return_indices=True)


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_levels(levels, bins, rng):
    for size in ((13, 13), (3, 5), (40, 26)):
        x = make(rng, (2, 18, *size), "float32", "ties")
        check_pool(x, levels, bins=bins, return_indices=True)
        check_pool(x, levels, bins=bins, mode="avg")
        check_pool(x, levels, bins=bins, flatten=False)


def test_levels_of_numpy_integers(rng):
    x = make(rng, (2, 3, 9, 9))
    want = oracle.pool(x, (4, 2))
    np.testing.assert_array_equal(sppfast.pool(x, np.array([4, 2])), want)
    np.testing.assert_array_equal(sppfast.pool(x, [np.int64(4), (np.int32(2), np.uint8(2))]), want)
    np.testing.assert_array_equal(sppfast.pool(x, np.int64(4)), oracle.pool(x, 4))


def test_options_in_a_subclass_of_str(rng, monkeypatch, forget):
    """As ``rng.choice`` gives them, or an Enum of strings: a kernel is compiled for a plain one."""
    x = make(rng, (2, 3, 9, 9))
    asked = []

    def kernel_of(dtype, mode, *more, find=ways.kernel_of):
        asked.append(mode)
        return find(dtype, mode, *more)

    monkeypatch.setattr(ways, "kernel_of", kernel_of)
    forget()
    for mode in np.array(MODES):
        got = sppfast.pool(x, mode=mode, bins=np.str_("caffe"), layout=np.str_("NCHW"))
        np.testing.assert_allclose(got, oracle.pool(x, mode=str(mode), bins="caffe"), rtol=2e-6)
        sppfast.roi_pool(x, [[0, 0, 0, 99, 99]], mode=mode, rounding=np.str_("fast_rcnn"))
        sppfast.roi_align(x, [[0, 0, 0, 99, 99]], mode=mode)
    assert set(map(type, asked)) == {str}


@pytest.mark.parametrize("seed", range(60))
def test_random_sweep(seed):
    rng = np.random.default_rng(seed)
    mode, bins, layout = (str(rng.choice(names)) for names in (MODES, BINS, LAYOUTS))
    for _ in range(4):
        few_channels = rng.random() < 0.3
        channels = rng.integers(1, 8 if few_channels else 90)
        size = rng.integers(1, 120 if few_channels else 30, 2)
        levels = [tuple(rng.integers(1, 9, 2).tolist()) for _ in range(rng.integers(1, 5))]
        shape = rng.integers(1, 5), channels, *size
        x = make_map(rng, shape, rng.choice(DTYPES), rng.choice(KINDS), layout)
        x = x if rng.random() < 0.8 else x[0]
        options = {"mode": mode, "bins": bins, "layout": layout, "flatten": rng.random() < 0.5}
        options["return_indices"] = mode == "max" and rng.random() < 0.5
        check_pool(x, levels, workers=rng.choice([None, 1, 2, 3]), **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 1, 512, 512), (1, 3, 400, 611), (2, 40, 150, 200)], ids=str)
def test_large_maps(shape, mode, layout, rng):
    x = make_map(rng, shape, "float32", "spread", layout)
    for levels in ((4, 2, 1), (6, 3, 2, 1), (1,), (7, (3, 5))):
        check_pool(x, levels, mode=mode, layout=layout)
    if mode == "max":
        ties = make_map(rng, shape, "float32", "ties", layout)
        check_pool(ties, (4, 2, 1), layout=layout, return_indices=True)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("size", [(3, 9001), (9001, 3)], ids=str)
def test_very_long_maps(size, dtype, rng):
    """One row of cells is more than any cache holds."""
    for layout in LAYOUTS:
        x = make_map(rng, (1, 5, *size), dtype, "ties", layout)
        check_pool(x, (4, 3, 1), layout=layout, return_indices=True)
        check_pool(x, (4, 3, 1), layout=layout, mode="avg")


def test_many_bins(rng):
    check_pool(make(rng, (1, 5, 9, 13)), (100, (1, 300), 1), return_indices=True)
    check_pool(make(rng, (1, 5, 9, 13)), ((1, 300), 100), mode="avg")


@pytest.mark.parametrize("mode", MODES)
def test_large_results(mode, rng):
    """More than any cache holds, in rows that begin anywhere; nothing is written beside them."""
    x = make(rng, (900, 257, 5, 5), "float32", "spread")
    buffer = np.full((902, 257 * 21 + 5), 1234.5, np.float32)
    check_pool(x, mode=mode, out=buffer[1:-1, 3:-2])
    buffer[1:-1, 3:-2] = 1234.5
    assert (buffer == 1234.5).all()


# ---- ragged, empty


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_ragged(dtype, mode, layout, rng):
    sizes = [(13, 9), (1, 1), (4, 30), (25, 3), (13, 9)]
    x = [make_map(rng, (11, *size), dtype, "ties", layout) for size in sizes]
    for bins in BINS:
        options = {"mode": mode, "layout": layout, "bins": bins}
        check_pool(x, (4, 2, 1), return_indices=mode == "max", **options)
        check_pool(tuple(x), (3, (1, 2)), flatten=False, **options)


def test_ragged_of_one_and_of_mixed_strides(rng):
    maps = [make(rng, (5, 9, 8)), make(rng, (5, 12, 7))[:, ::-1], make(rng, (9, 5, 6)).transpose(1, 0, 2)]
    check_pool(maps)
    check_pool(maps[:1], return_indices=True)


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_empty_batch(mode, layout, flatten):
    x = np.empty((0, 3, 5, 7) if layout == "NCHW" else (0, 5, 7, 3), np.float32)
    check_pool(x, mode=mode, layout=layout, flatten=flatten, return_indices=mode == "max")


# ---- special values, ties


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(dtype, mode, rng):
    for _ in range(3):
        x = make(rng, (2, 35, 12, 12), dtype, "special")
        check_pool(x, (6, 3, 2, 1), mode=mode)
        if mode == "max":
            check_pool(x, (4, 2, 1), return_indices=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_anywhere(dtype, layout, rng):
    """A NaN in one cell reaches the bins that hold the cell, and no other."""
    for cell in [(0, 0), (12, 12), (6, 6), (3, 9)]:
        x = make(rng, (1, 20, 13, 13), dtype)
        x[0, 7, *cell] = np.nan
        x = in_layout(x, layout)
        check_pool(x, (4, 2, 1), layout=layout)
        check_pool(x, (4, 2, 1), layout=layout, mode="avg")
        values, indices = check_pool(x, 1, layout=layout, return_indices=True)
        assert np.flatnonzero(np.isnan(values.astype(np.float64))).tolist() == [7]
        assert indices[0, 7] == cell[0] * 13 + cell[1]


def test_negative_nan(rng):
    x = make(rng, (1, 20, 9, 9), "float32", "spread")
    x[0, 5, 4, 4] = np.copysign(np.nan, -1)
    check_pool(x)
    check_pool(x, return_indices=True)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [-np.inf, np.inf, -0.0, 0.0])
def test_one_value_everywhere(value, dtype):
    x = np.full((1, 17, 9, 10), value).astype(dtype_of(dtype))
    check_pool(x, return_indices=True)
    check_pool(x, bins="caffe", return_indices=True)
    check_pool(x, mode="avg")


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_of_both_signs_tie(dtype, rng):
    x = rng.choice([0.0, -0.0], (2, 33, 9, 9))
    x = x.astype(dtype_of(dtype))
    values, indices = check_pool(x, return_indices=True)
    assert not np.signbit(values).any()
    assert indices[0, 0] == 0
    assert not np.signbit(sppfast.pool(x)).any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", *(d for d in DTYPES if "int" in d)])
@pytest.mark.parametrize("size", [(9, 9), (40, 60), (700, 70)], ids=["tile", "parts", "rows"])
def test_extreme_values(dtype, size):
    """The lowest value of a dtype is a maximum like any other; a mean of the largest does not overflow."""
    info = np.finfo(dtype) if "float" in dtype else np.iinfo(dtype)
    for value in (info.min, info.max):
        x = np.full((1, 18, *size), value, dtype)
        np.testing.assert_array_equal(check_pool(x, return_indices=True)[0], value)
        if dtype != "float64":
            check_pool(x, mode="avg")


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_large_integers_stay_exact(dtype, rng):
    """2**53 and above: a detour through float64 would show."""
    x = rng.integers(2**62, 2**62 + 50, (2, 19, 10, 10)).astype(dtype)
    check_pool(x, (3, 2, 1), return_indices=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_and_tiny_differences(dtype, rng):
    if dtype not in FLOATS:
        x = make(rng, (1, 9, 8, 8), dtype, "spread")
    else:
        dtype = dtype_of(dtype)
        bits = rng.integers(0, 9, (1, 9, 8, 8)).astype(f"u{dtype.itemsize}")
        x = bits.view(dtype)
    check_pool(x, return_indices=True)


# ---- averages


def test_avg_of_mean_zero_data(rng):
    """Cancellation: float32 sums would lose most digits."""
    x = rng.standard_normal((2, 20, 60, 60)) * 10.0 ** rng.integers(-3, 4, (2, 20, 60, 60))
    x = x.astype(np.float32)
    x -= x.mean((2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    for layout in LAYOUTS:
        check_pool(in_layout(x, layout), (4, 3, 2, 1), mode="avg", layout=layout)


def test_avg_of_long_sums():
    x = np.full((1, 3, 700, 700), np.float32(0.1))
    x[..., 0, 0] = 1e6
    check_pool(x, (2, 1), mode="avg")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "whole"), [("bfloat16", 256), ("float16", 2048)])
def test_avg_divides_before_it_rounds(dtype, whole, layout):
    """49 cells whose mean is halfway between two values of the dtype: a product with 1/49 can miss it."""
    maps = []
    for tie in range(whole + 1, 2 * whole, 2):
        odd = 3 * tie % 4
        cells = [tie - 1, tie + 1] * 23 + [odd, 2 * whole, 3 * tie - odd - 2 * whole]
        assert sum(cells) == 49 * tie
        maps.append(np.array(cells, np.float64).reshape(7, 7))
    maps = np.stack(maps)
    x = maps.astype(dtype_of(dtype))
    assert (x.astype(np.float64) == maps).all()
    check_pool(in_layout(x, layout), 1, mode="avg", layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_avg_rounds_once(dtype, layout):
    """Just above halfway between two values of the dtype: float32 on the way would make it a tie."""
    bits = {"float16": 11, "bfloat16": 8}[dtype]
    cells = np.array([4, 2, 1, 1, 8 * 2.0**-bits, 2.0**-24, 0, 0])
    x = cells.astype(dtype_of(dtype))
    assert x.astype(np.float64).tolist() == cells.tolist()
    x = in_layout(np.tile(x.reshape(1, 1, 2, 4), (1, 17, 1, 1)), layout)
    got = check_pool(x, 1, mode="avg", layout=layout)
    assert (got.astype(np.float64) == 1 + 2.0 ** (1 - bits)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_means_of_all_halves(dtype):
    """Of each number and the next, subnormal ones too: halfway between them, a third of the way, and just beyond."""
    all_of_them = np.arange(2**16, dtype=np.uint16).view(dtype_of(dtype))
    x = np.stack([all_of_them, np.roll(all_of_them, -1)], axis=-1)
    for cells in ([0, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0, 1, 1, 1, 1]):
        maps = x[:, cells].reshape(1, 2**16, 1, len(cells))
        with np.errstate(invalid="ignore"):
            mean = maps.astype(np.float64).sum(axis=(2, 3)) / len(cells)
            expected = oracle.cast(mean, maps.dtype)
        np.testing.assert_array_equal(sppfast.pool(maps, 1, mode="avg").astype(np.float64), expected.astype(np.float64))


# ---- kinds of memory

VIEWS = {
    "negative strides": lambda x: x[:, ::-1, ::-1, ::-1],
    "negative batch stride": lambda x: x[::-1],
    "Fortran": np.asfortranarray,
    "sliced": lambda x: x[:, 1::2, 1:-1, 2:-2],
    "every other column": lambda x: x[..., ::2],
    "every other row": lambda x: x[:, :, ::2],
    "one value broadcast": lambda x: np.broadcast_to(x[:1, :1, :1, :1], x.shape),
    "one row broadcast": lambda x: np.broadcast_to(x[:, :, :1, :], x.shape),
    "one map broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "one channel broadcast": lambda x: np.broadcast_to(x[:, :1], x.shape),
    "rows and columns swapped": lambda x: x.swapaxes(2, 3),
    "channels last in memory": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1),
    "batch last in memory": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0),
}


def frozen(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def misaligned(x):
    """The same values one byte away from where they should be."""
    raw = np.frombuffer(bytearray(b"\0" + x.tobytes()), np.uint8)[1:]
    return raw.view(x.dtype).reshape(x.shape)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "uint8", "bool"])
@pytest.mark.parametrize("view", VIEWS)
def test_strides(view, dtype, layout, rng):
    x = VIEWS[view](make_map(rng, (3, 18, 12, 14), dtype, "spread"))
    x = x if layout == "NCHW" else np.moveaxis(x, 1, -1)
    check_pool(x, layout=layout)
    check_pool(x[0], layout=layout, return_indices=True)
    check_pool(x, layout=layout, mode="avg")


@pytest.mark.parametrize("dtype", DTYPES)
def test_read_only(dtype, rng):
    x = frozen(make(rng, (2, 9, 12, 14), dtype, "spread"))
    check_pool(x, return_indices=True)
    check_pool([x[0], x[1]], mode="avg")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_misaligned(dtype, layout, rng):
    x = misaligned(make(rng, (2, 18, 12, 14), dtype, "spread"))
    check_pool(x, layout=layout, return_indices=True)
    check_pool(x, layout=layout, mode="avg")
    check_pool(x[..., ::-1], layout=layout)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d not in ("bfloat16", "bool", "int8", "uint8")])
def test_big_endian(dtype, rng):
    x = make(rng, (2, 9, 12, 14), dtype, "spread")
    x = x.astype(x.dtype.newbyteorder(">"))
    check_pool(x, return_indices=True)
    check_pool(x, mode="avg")
    check_pool(misaligned(x)[:, ::-1])
    check_pool([x[0], x[1, :, 3:]])


def test_memory_mapped(tmp_path, rng):
    x = make(rng, (2, 9, 30, 40), "float32", "spread")
    path = tmp_path / "maps.npy"
    np.save(path, x)
    mapped = np.load(path, mmap_mode="r")
    check_pool(mapped, return_indices=True)
    check_pool(mapped[:, :, 5:, ::2], mode="avg")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        data = np.frombuffer(raw, np.float32, offset=raw.size() - x.nbytes).reshape(x.shape)
        check_pool(data)
        del data


def test_input_is_left_alone(rng):
    x = make(rng, (2, 17, 12, 14), "float32", "special")
    before = x.copy()
    sppfast.pool(x, return_indices=True)
    sppfast.pool(x, mode="avg")
    np.testing.assert_array_equal(x, before)


def test_ndarray_subclass(rng):
    class Tagged(np.ndarray):
        pass

    x = make(rng, (2, 4, 9, 9))
    np.testing.assert_array_equal(sppfast.pool(x.view(Tagged)), oracle.pool(x))


# ---- form of the result


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batched", [True, False])
def test_levels_are_views_of_one_buffer(layout, batched, rng):
    x = make_map(rng, (2, 5, 9, 9), layout=layout)
    out = np.empty((2, 5 * 21) if batched else 5 * 21, np.float32)
    levels = check_pool(x if batched else x[0], layout=layout, flatten=False, out=out)
    assert all(np.shares_memory(level, out) for level in levels)
    np.testing.assert_array_equal(out, oracle.pool(x if batched else x[0], layout=layout))

    own = sppfast.pool(x if batched else x[0], layout=layout, flatten=False)
    low = min(byte_bounds(level)[0] for level in own)
    high = max(byte_bounds(level)[1] for level in own)
    assert high - low == out.nbytes


def test_result_is_fresh_and_writable(rng):
    x = make(rng, (2, 5, 1, 1))
    first, second = sppfast.pool(x, 1), sppfast.pool(x, 1)
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(first, x)
    assert first.flags.writeable and first.flags.c_contiguous
    first[:] = 99
    np.testing.assert_array_equal(second, oracle.pool(x, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out(dtype, mode, layout, rng):
    x = make_map(rng, (3, 18, 9, 12), dtype, "ties", layout)
    result_dtype = oracle.result_dtype(x.dtype, mode)
    length = 18 * 21
    outs = [
        np.empty((3, length), result_dtype),
        np.empty((3, length), result_dtype, order="F"),
        np.empty((3, 2 * length), result_dtype)[:, ::2],
        np.empty((6, length + 5), result_dtype)[::-2, 3:-2],
        np.empty((3, length), result_dtype)[:, ::-1],
        misaligned(np.empty((3, length), result_dtype)),
    ]
    for out in outs:
        out[...] = 1
        assert check_pool(x, mode=mode, layout=layout, out=out) is out


def test_out_leaves_its_surroundings_alone(rng):
    x = make(rng, (3, 18, 9, 12), "float32", "spread")
    buffer = np.full((7, 18 * 21 + 9), 1234.5, np.float32)
    sppfast.pool(x, out=buffer[1:-1:2, 4:-5])
    buffer[1:-1:2, 4:-5] = 1234.5
    assert (buffer == 1234.5).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_of_one_map_and_of_ragged_maps(layout, rng):
    maps = [make_map(rng, (7, *size), layout=layout) for size in [(9, 12), (5, 5)]]
    out = np.empty(7 * 21, np.float32)
    assert check_pool(maps[0], layout=layout, out=out) is out
    out = np.empty((2, 7 * 21), np.float32)
    assert check_pool(maps, layout=layout, out=out) is out


def test_out_pair(rng):
    x = make(rng, (3, 18, 9, 12))
    values, indices = np.empty((3, 18 * 21), np.float32), np.empty((3, 18 * 42), np.int32)[:, ::2]
    got = check_pool(x, out=(values, indices), return_indices=True)
    assert got[0] is values and got[1] is indices
    levels = check_pool(x, out=(values, indices), return_indices=True, flatten=False)
    assert np.shares_memory(levels[0][2], values) and np.shares_memory(levels[1][2], indices)


def test_out_of_values_alone(rng):
    """With indices, ``out`` may still be the values only."""
    x = make(rng, (3, 18, 9, 12))
    values = np.empty((3, 18 * 21), np.float32)
    assert check_pool(x, out=values, return_indices=True)[0] is values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("start", [0, 1, 17, 400])
def test_out_overlaps_x(start, channels, mode, rng):
    shape = (3, channels, 9, 12)
    size = int(np.prod(shape))
    buffer = make(rng, size + 500, "float32", "spread")
    x = buffer[:size].reshape(shape)
    out = buffer[start : start + 3 * channels * 21].reshape(3, -1)
    want = oracle.pool(x, mode=mode)
    got = sppfast.pool(x, mode=mode, out=out)
    assert got is out
    np.testing.assert_allclose(got, want, rtol=2e-6 if mode == "avg" else 0)


def test_out_owns_the_memory_of_x(rng):
    out = make(rng, (3, 20 * 21), "float32", "spread")
    x = out.reshape(-1)[: 3 * 20 * 20].reshape(3, 20, 4, 5)
    want = oracle.pool(x)
    assert sppfast.pool(x, out=out) is out
    np.testing.assert_array_equal(out, want)


def test_out_overlaps_one_of_ragged_maps(rng):
    maps = [make(rng, (20, 9, 12), "float32", "spread"), make(rng, (20, 40, 30), "float32", "spread")]
    out = maps[1].reshape(-1)[: 2 * 20 * 21].reshape(2, -1)
    want = oracle.pool(maps)
    np.testing.assert_array_equal(sppfast.pool(maps, out=out), want)


def test_outs_of_a_pair_overlap_x(rng):
    buffer = make(rng, 20 * 9 * 60, "float32", "spread")
    x = buffer.reshape(1, 20, 9, 60)
    values, indices = buffer[:420].reshape(1, 420), buffer[420:840].view(np.int32).reshape(1, 420)
    want = oracle.pool(x, return_indices=True)
    got = sppfast.pool(x, return_indices=True, out=(values, indices))
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])


# ---- workers


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_workers_give_the_same_bits(dtype, layout, rng):
    for shape in ((9, 40, 13, 13), (1, 3, 200, 150), (1, 70, 30, 40)):
        x = make_map(rng, shape, dtype, "special", layout)
        for mode in MODES:
            results = [
                sppfast.pool(x, (6, 4, 3), mode=mode, layout=layout, workers=workers).tobytes()
                for workers in (1, 2, 7, -1, None)
            ]
            assert len(set(results)) == 1
        want = oracle.pool(x, layout=layout, return_indices=True)[1]
        for workers in (1, 2, 7, -1):
            got = sppfast.pool(x, layout=layout, workers=workers, return_indices=True)[1]
            np.testing.assert_array_equal(got, want)
