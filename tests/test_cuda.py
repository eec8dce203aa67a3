"""The CUDA backend against the oracle and the CPU: on the GPU where there is one, and always on the CPU, emulated."""

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
    ROUNDINGS,
    assert_equal,
    assert_same,
    compare,
    dtype_of,
    largest,
    make,
    make_map,
    make_rois,
)
from test_errors import raises

import sppfast

HOSTILE = [
    [-1e30, -1e30, 1e30, 1e30],
    [1e300, 1e300, 1.5e300, 1.5e300],
    [-1e300, 0, -1e299, 10],
    [0, 0, 0, 0],
    [5e8, 5e8, 5e9, 5e9],
    [-1e9, -1e9, -1e8, 1e9],
    [2.0**31, 2.0**31, 2.0**33, 2.0**33],
    [7.999999, 8.0, 8.000001, 8.0],
]


@pytest.fixture
def to(cupy):
    """Bring arrays to the device, as contiguous copies."""

    def bring(value):
        if isinstance(value, list | tuple):
            return type(value)(map(bring, value))
        return cupy.asarray(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value

    return bring


@pytest.fixture
def back(cupy):
    """Bring results to the host."""

    def fetch(value):
        return type(value)(map(fetch, value)) if isinstance(value, list | tuple) else cupy.asnumpy(value)

    return fetch


@pytest.fixture
def check(to, back):
    """Run an operator on the device, compare it with the oracle, and return the result on the host."""

    def run(name, x, *args, **options):
        got = back(getattr(sppfast, name)(to(x), *map(to, args), **{k: to(v) for k, v in options.items()}))
        want = getattr(oracle, name)(x, *args, **options)
        mode = options.get("mode", "max")
        compare(got, want, mode, largest(x), options.get("flatten", True), options.get("return_indices", False))
        return got

    return run


def rois_for(rng, count, size, rounding):
    if rounding == "cells":
        return make_rois(rng, count, size, whole=True).astype(np.int64)
    return make_rois(rng, count, (size[0] * 16, size[1] * 16))


# ---- whole maps


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pool(dtype, mode, check, rng):
    for bins in BINS:
        for kind in KINDS:
            layout = rng.choice(LAYOUTS)
            x = make_map(rng, (2, *rng.integers(1, 20, 3)), dtype, kind, layout)
            options = {"mode": mode, "bins": bins, "layout": str(layout), "return_indices": mode == "max"}
            check("pool", x, (4, (2, 3), 1), flatten=kind == "ties", **options)
            check("pool", x[0], 3, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "uint8", "int16", "bfloat16"])
def test_pool_of_maps_larger_than_shared_memory(dtype, layout, check, rng):
    size = {1: (231, 240), 2: (160, 170), 4: (111, 120), 8: (81, 90)}[
        oracle.result_dtype(dtype_of(dtype), "max").itemsize
    ]
    x = make_map(rng, (1, 3, *size), dtype, "special" if dtype in FLOATS else "spread", layout)
    check("pool", x, (4, (2, 3), 1), layout=layout, return_indices=True)
    check("pool", x, (5, (1, 60)), layout=layout, mode="avg")


TILED = {
    "many_levels": ((1, 1, 130, 110), "NCHW", tuple((n, 1) for n in range(1, 40))),
    "long_rows": ((1, 2, 3, 13000), "NCHW", (4, (2, 700), 1)),
    "many_rows": ((1, 1, 13000, 1), "NCHW", (7, (500, 2))),
    "channels": ((1, 40, 29, 35), "NHWC", (6, 3, 2, 1)),
    "many_bins": ((2, 3, 71, 73), "NHWC", ((71, 73), 5, 1)),
}


@pytest.mark.parametrize("bins", BINS)
@pytest.mark.parametrize("maps", TILED)
def test_pool_of_maps_in_tiles(maps, bins, check, rng):
    """Large maps are cut into tiles: of rows, of parts of rows, of channels that lie together."""
    shape, layout, levels = TILED[maps]
    x = make_map(rng, shape, "float32", "special", layout)
    check("pool", x, levels, bins=bins, layout=layout, return_indices=True)
    check("pool", make_map(rng, shape, "float32", "spread", layout), levels, bins=bins, layout=layout, mode="avg")


@pytest.mark.parametrize("bins", BINS)
def test_pool_of_maps_that_differ_in_tiles(bins, check, rng):
    maps = [make(rng, (2, *size), "float32", "special") for size in ((3, 4), (150, 100), (20, 6000), (1, 1))]
    check("pool", maps, (6, 3, (2, 1)), bins=bins, return_indices=True)
    check("pool", make(rng, (1, 2, 130, 230), "float32", "special")[:, :, ::-1, ::2], (4, 2), bins=bins)


def test_launches(cupy, to, rng):
    """One for whole maps that fit into shared memory, two for others; no more for windows than docs/cuda.md says."""
    if hasattr(cupy, "is_available"):
        pytest.skip("launches are counted where they are emulated")
    rois = np.column_stack([np.zeros(20), rois_for(rng, 20, (13, 13), "sppnet")])
    small, large = to(make(rng, (1, 8, 13, 13))), to(make(rng, (1, 2, 120, 120)))
    nhwc = to(np.ascontiguousarray(np.moveaxis(make(rng, (1, 8, 13, 13)), 1, -1)))
    grad = to(np.ones((20, 8 * 4), np.float32))
    for call, want in (
        (lambda: sppfast.pool(small), ["pool_tiles"]),
        (lambda: sppfast.pool(large), ["pool_tiles", "merge_tiles"]),
        (lambda: sppfast.roi_pool(small, to(rois)), ["plan_windows", "pack_maps", "pool_windows"]),
        (lambda: sppfast.roi_align(nhwc, to(rois), layout="NHWC"), ["plan_windows", "pool_windows"]),
        (lambda: sppfast.roi_pool(small, to(rois[:3])), ["plan_windows", "pool_windows"]),
        (lambda: sppfast.pool_backward(to(np.ones((1, 8 * 21), np.float32)), small, mode="avg"), ["gather_means"]),
        (lambda: sppfast.roi_align_backward(grad, small, to(rois), 2), ["plan_windows", "gather_means"]),
    ):
        cupy.launched.clear()
        call()
        assert [name.partition("<")[0] for name in cupy.launched] == want


def test_kernels_are_kept_for_each_device(cupy, to, back, rng, monkeypatch):
    if hasattr(cupy, "is_available"):
        pytest.skip("devices are counted where they are emulated")
    from sppfast.cuda import launch

    made, module, x = [], cupy.RawModule, make(rng, (1, 2, 6, 5))
    monkeypatch.setattr(cupy, "RawModule", lambda **options: made.append(options) or module(**options))
    launch._function.cache_clear()
    for device in (0, 1, 0, 1):
        monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda device=device: device)
        assert_equal(back(sppfast.pool(to(x))), sppfast.pool(x))
    assert len(made) == 2
    launch._function.cache_clear()


def test_pool_of_many_channels_and_maps(check, rng):
    for channels in (1, 3, 31, 32, 33, 100):
        x = make(rng, (6, channels, 5, 4), "float32", "spread")
        check("pool", x, (4, 2, 1), return_indices=True)
    check("pool", make(rng, (40, 30, 3, 3)), 2)  # several planes to a block
    x = make(rng, (1, 70, 120, 120), "float32", "spread")
    check("pool", np.ascontiguousarray(np.moveaxis(x, 1, -1)), 2, layout="NHWC")


def test_ragged(check, rng):
    for dtype in ("float32", "uint8", "float16"):
        x = [make(rng, (5, *rng.integers(1, 15, 2)), dtype, "spread") for _ in range(5)]
        check("pool", x, (3, 1), return_indices=True)
        rois = [rois_for(rng, n, m.shape[1:], "sppnet") for n, m in zip((0, 1, 30, 2, 5), x, strict=True)]
        check("roi_pool", x, rois, (3, 1), return_indices=True)
        check("roi_pool", x, [rois[0][:0]] * 4 + [rois[2][:3]], (3, 1), mode="avg")


def test_strides(check, cupy, back, rng):
    base = make(rng, (4, 12, 20, 22), "float32", "spread")
    rois, index = rois_for(rng, 20, (10, 11), "sppnet"), rng.integers(0, 2, 20)
    device = cupy.asarray(base)
    for cut in (np.s_[::2, ::3, ::2, ::2], np.s_[::-2, :, 10:, ::-2], np.s_[:2, 3:7, 5:15, 1:12]):
        x, y = base[cut], device[cut]
        index_ = index % len(x)
        assert_equal(back(sppfast.pool(y, return_indices=True)), oracle.pool(x, return_indices=True))
        assert_equal(back(sppfast.roi_pool(y, rois, batch_index=index_)), oracle.roi_pool(x, rois, batch_index=index_))
        few = {"batch_index": index_[:3], "mode": "avg"}
        assert_same(back(sppfast.roi_pool(y, rois[:3], **few)), oracle.roi_pool(x, rois[:3], **few), "avg", 10)
        got = sppfast.pool_backward(cupy.asarray(oracle.pool(x)), y)
        assert_equal(back(got), sppfast.pool_backward(oracle.pool(x), x))


def test_means_are_rounded_once(to, back):
    """A mean just above the middle of two bfloat16 numbers, which float32 cannot tell from the middle."""
    x = np.array([4, 2.0**-6, 2.0**-26, 0]).astype(dtype_of("bfloat16")).reshape(1, 1, 2, 2)
    assert float(back(sppfast.pool(to(x), 1, mode="avg"))[0, 0]) == 1 + 2.0**-7
    assert (
        float(back(sppfast.roi_pool(to(x[0]), to(np.array([[0, 0, 2, 2]])), 1, rounding="cells", mode="avg"))[0, 0])
        == 1 + 2.0**-7
    )


def test_misaligned(cupy, back, rng):
    x = make(rng, (2, 5, 9, 7), "float32", "spread")
    memory = cupy.empty(x.nbytes + 1, np.uint8)
    y = memory[1:].view(np.float32).reshape(x.shape)
    y[...] = cupy.asarray(x)
    assert y.data.ptr % 4 == 1
    assert_equal(back(sppfast.pool(y)), sppfast.pool(x))
    out = cupy.empty(2 * 5 * 21 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(2, 105)
    assert sppfast.pool(cupy.asarray(x), out=out) is out
    assert_equal(back(out), sppfast.pool(x))


# ---- windows


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_roi_pool(dtype, mode, rounding, check, rng):
    for kind in KINDS:
        layout = str(rng.choice(LAYOUTS))
        size = rng.integers(1, 20, 2)
        x = make_map(rng, (2, int(rng.integers(1, 40)), *size), dtype, kind, layout)
        options = {"mode": mode, "rounding": rounding, "layout": layout}
        options["return_indices"] = mode == "max" and kind != "spread"
        count = int(rng.choice([3, 20]))
        rois = rois_for(rng, count, size, rounding)
        check("roi_pool", x, rois, batch_index=rng.integers(0, 2, count), flatten=kind == "ties", **options)
        check("roi_pool", x[0], rois, (7, (2, 3), 1), **options)


@pytest.mark.parametrize(
    "levels", [(6, 3, 2, 1), (40,), ((1, 9), (9, 1)), (4, 4), (6, 5, 3, (2, 4)), (30, 15, 1)], ids=str
)
def test_levels(levels, check, rng):
    x = make(rng, (1, 70, 17, 23), "float32", "special")
    rois = rois_for(rng, 17, (17, 23), "sppnet")
    for options in ({"return_indices": True}, {"mode": "avg"}, {"rounding": "fast_rcnn"}):
        check("roi_pool", x, rois, levels, **options)
    check("pool", x, levels, return_indices=True)


@pytest.mark.parametrize("channels", [1, 3, 8, 16, 17, 64, 100, 130])
def test_channels(channels, check, rng):
    for dtype in ("float32", "float16", "int8"):
        for layout in LAYOUTS:
            x = make_map(rng, (2, channels, 6, 5), dtype, "ties", layout)
            rois = np.column_stack([rng.integers(0, 2, 18), rois_for(rng, 18, (6, 5), "sppnet")])
            check("roi_pool", x, rois, 3, layout=layout, return_indices=True)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float16, np.float32, np.float64])
def test_dtypes_of_rois(dtype, check, rng):
    x = make(rng, (2, 5, 12, 11))
    rois = rois_for(rng, 20, (12, 11), "cells").clip(0)
    for form in (rois.astype(dtype), np.column_stack([rng.integers(0, 2, 20), rois]).astype(dtype)):
        index = None if form.shape[1] == 5 else rng.integers(0, 2, 20)
        check("roi_pool", x, form, 3, geometry=2, batch_index=index)
        check("roi_pool", x, form, 3, rounding="cells", batch_index=index)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", FLOATS)
def test_roi_align(dtype, ratio, aligned, to, back, rng):
    for mode in MODES:
        for layout in LAYOUTS:
            x = make_map(rng, (2, 9, 11, 13), dtype, "spread", layout)
            rois, index = rois_for(rng, 20, (11, 13), "sppnet"), rng.integers(0, 2, 20)
            options = {"sampling_ratio": ratio, "aligned": aligned, "mode": mode, "layout": layout}
            want = oracle.roi_align(x, rois, (3, (2, 4)), batch_index=index, **options)
            got = back(sppfast.roi_align(to(x), to(rois), (3, (2, 4)), batch_index=to(index), **options))
            assert got.dtype == want.dtype
            tolerance = {"float64": 1e-12, "float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
            np.testing.assert_allclose(got.astype(float), want.astype(float), tolerance, tolerance)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_of_integers(mode, to, back, rng):
    for dtype in ("uint8", "int64"):
        x, rois = make(rng, (5, 8, 9), dtype, "ties"), rois_for(rng, 6, (8, 9), "sppnet")
        want = sppfast.roi_align(x, rois, 3, mode=mode)
        got = back(sppfast.roi_align(to(x), to(rois), 3, mode=mode))
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_hostile_windows(dtype, to, back, rng):
    x = make(rng, (1, 9, 7, 8), dtype, "spread")
    rois = np.array(HOSTILE)
    grad = np.ones((len(rois), 9 * 10), dtype)
    for options in (
        {"rounding": r, "geometry": g}
        for r in ("sppnet", "fast_rcnn")
        for g in (16, 1e-3, sppfast.ConvGeometry(3, 1e9))
    ):
        for mode in MODES:
            want = sppfast.roi_pool(x, rois, (3, 1), mode=mode, **options)
            np.testing.assert_allclose(
                back(sppfast.roi_pool(to(x), to(rois), (3, 1), mode=mode, **options)).astype(float),
                want.astype(float),
                2e-3,
            )
            back(sppfast.roi_pool_backward(to(grad), to(x), to(rois), (3, 1), mode=mode, **options))
    for options in (
        {"sampling_ratio": s, "mode": m, "aligned": a} for s in (0, 2) for m in MODES for a in (True, False)
    ):
        want = sppfast.roi_align(x, rois, (3, 1), **options)
        got = back(sppfast.roi_align(to(x), to(rois), (3, 1), **options))
        np.testing.assert_allclose(got.astype(float), want.astype(float), 2e-3, 1e-5)
        back(sppfast.roi_align_backward(to(grad), to(x), to(rois), (3, 1), **options))


@pytest.mark.parametrize("count", [2, 20])
def test_what_is_not_checked_gives_zeros(count, cupy, to, back, rng):
    import sppfast.cuda

    x = make(rng, (2, 5, 7, 8), "float32", "spread")
    rois = rois_for(rng, count, (7, 8), "sppnet")
    want = sppfast.roi_pool(x, rois, 2, batch_index=np.zeros(count, int))
    bad = np.array([[np.nan, 0, 10, 10], [0, 0, np.inf, 10], [50, 0, 10, 10], [0, 50, 10, 10]])
    index = np.concatenate([np.zeros(count, int), [0] * 4, [-1, 2, 2**40, -(2**62)]])
    windows = np.concatenate([rois, bad, rois[:1].repeat(4, axis=0)])
    with sppfast.cuda.unchecked():
        got = back(sppfast.roi_pool(to(x), to(windows), 2, batch_index=to(index)))
        grad = to(np.ones_like(got))
        gradients = [
            back(sppfast.roi_pool_backward(grad, to(x), to(windows), 2, batch_index=to(index), mode=mode))
            for mode in MODES
        ]
        indices = np.full(got.shape, 56, np.int32)
        indices[::2] = -7
        wrong = {"indices": to(indices), "batch_index": to(index)}
        assert not back(sppfast.roi_pool_backward(grad, to(x), to(windows), 2, **wrong)).any()
        samples = back(sppfast.roi_align(to(x), to(windows), 2, batch_index=to(index)))
        assert not samples[count:].any()
    assert_equal(got[:count], want)
    assert not got[count:].any()
    assert not any(gradient[1].any() for gradient in gradients)


def test_more_than_2_to_the_31(cupy, back):
    """Steps beyond 32 bits, in memory that is reserved and hardly used."""
    if hasattr(cupy, "is_available"):
        pytest.skip("memory of a GPU is not reserved without being used")
    reserved = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    memory = np.frombuffer(mmap.mmap(-1, 3 * 2**34, flags=reserved), np.uint8)
    x = np.lib.stride_tricks.as_strided(memory.view(np.float32), (3, 2, 4, 4), (2**34, 2**33, 2**31, 2**29))
    values = np.random.default_rng(0).random(x.shape, dtype=np.float32)
    x[...] = values
    y, rois, index = cupy.wrap(x), np.array([[0, 0, 63, 63]] * 20), np.arange(20) % 3
    assert_equal(back(sppfast.pool(y, 2)), oracle.pool(values, 2))
    assert_equal(
        back(sppfast.roi_pool(y, rois, 2, batch_index=index)), oracle.roi_pool(values, rois, 2, batch_index=index)
    )
    few = {"batch_index": index[:3]}
    assert_equal(back(sppfast.roi_pool(y, rois[:3], 2, **few)), oracle.roi_pool(values, rois[:3], 2, **few))
    out = np.lib.stride_tricks.as_strided(memory.view(np.float32)[1:], (3, 8), (2**34, 4))
    sppfast.pool(cupy.asarray(values), 2, out=cupy.wrap(out))
    assert_equal(out.copy(), oracle.pool(values, 2))


# ---- gradients


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_are_those_of_the_cpu(dtype, mode, layout, to, back, rng):
    x = make_map(rng, (2, 5, 9, 11), dtype, "spread", layout)
    rois, index = rois_for(rng, 150, (9, 11), "sppnet"), rng.integers(0, 2, 150)
    tolerance = {"float64": 1e-12, "float32": 2e-5, "float16": 2e-2, "bfloat16": 2e-1}[dtype]
    calls = [
        *(("pool", (), {"bins": bins}) for bins in BINS),
        *(("roi_pool", (rois,), {"rounding": r, "batch_index": index}) for r in ("sppnet", "fast_rcnn")),
        *(
            ("roi_align", (rois,), {"sampling_ratio": s, "aligned": a, "batch_index": index})
            for s, a in ((2, True), (0, False))
        ),
    ]
    for name, args, options in calls:
        options |= {"mode": mode, "layout": layout}
        y = getattr(sppfast, name)(x, *args, (3, (1, 2)), **options)
        grad = make(rng, y.shape, dtype, "spread")
        backward = getattr(sppfast, f"{name}_backward")
        want = backward(grad, x, *args, (3, (1, 2)), **options)
        got = backward(to(grad), to(x), *map(to, args), (3, (1, 2)), **{k: to(v) for k, v in options.items()})
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(back(got).astype(float), want.astype(float), tolerance, tolerance)
        again = backward(to(grad), to(x), *map(to, args), (3, (1, 2)), **{k: to(v) for k, v in options.items()})
        assert_equal(back(again), back(got))


@pytest.mark.parametrize("name", ["roi_pool", "roi_align"])
def test_gradients_of_means_of_many_windows(name, to, back, rng):
    """More windows than a block lists at once, on more cells and channels than it has."""
    x = make(rng, (2, 11, 23, 45), "float32", "spread")
    rois, index = rois_for(rng, 300, (23, 45), "sppnet"), rng.integers(0, 2, 300)
    options = {"mode": "avg", "batch_index": index}
    grad = make(rng, (300, 11 * 10), "float32", "spread")
    want = getattr(sppfast, f"{name}_backward")(grad, x, rois, (3, 1), **options)
    device = {"mode": "avg", "batch_index": to(index)}
    got = back(getattr(sppfast, f"{name}_backward")(to(grad), to(x), to(rois), (3, 1), **device))
    np.testing.assert_allclose(got, want, 2e-5, 2e-5)
    again = back(getattr(sppfast, f"{name}_backward")(to(grad), to(x), to(rois), (3, 1), **device))
    assert_equal(again, got)


def test_gradients_of_large_planes(to, back, rng):
    x = make(rng, (1, 2, 120, 115), "float32", "spread")
    grad = make(rng, (1, 2 * 21), "float32", "spread")
    for mode in MODES:
        got = back(sppfast.pool_backward(to(grad), to(x), mode=mode))
        np.testing.assert_allclose(got, sppfast.pool_backward(grad, x, mode=mode), 2e-6, 1e-6)


def test_gradients_of_ragged_maps_and_given_indices(to, back, rng):
    x = [make(rng, (5, *size), "float32", "spread") for size in ((7, 9), (3, 3), (12, 4))]
    rois = [rois_for(rng, 4, m.shape[1:], "sppnet") for m in x]
    y, indices = sppfast.roi_pool(x, rois, 2, return_indices=True)
    grad = make(rng, y.shape, "float32", "spread")
    want = sppfast.roi_pool_backward(grad, x, rois, 2, indices=indices)
    got = sppfast.roi_pool_backward(to(grad), to(x), to(rois), 2, indices=to(indices))
    for one_got, one_want in zip(back(got), want, strict=True):
        np.testing.assert_allclose(one_got, one_want, 1e-6, 1e-6)


def test_gradients_into_out_and_of_no_windows(cupy, to, back, rng):
    x = make(rng, (2, 5, 7, 8), "float32", "spread")
    grad = make(rng, (2, 5 * 21), "float32", "spread")
    out = cupy.empty(x.shape, np.float32)
    assert sppfast.pool_backward(to(grad), to(x), out=out) is out
    assert_equal(back(out), sppfast.pool_backward(grad, x))
    for mode in MODES:
        none = sppfast.roi_pool_backward(to(grad[:0, :20]), to(x), np.empty((0, 5)), 2, mode=mode)
        assert_equal(back(none), np.zeros_like(x))


# ---- forms and errors


def test_forms(cupy, to, back, rng):
    x = make(rng, (2, 5, 7, 8), "float32", "spread")
    levels = sppfast.pool(to(x), (2, 1), flatten=False)
    assert isinstance(levels, tuple) and all(isinstance(level, cupy.ndarray) for level in levels)
    assert_equal(back(levels), sppfast.pool(x, (2, 1), flatten=False))
    out = cupy.empty((2, 25), np.float32), cupy.empty((2, 25), np.int32)
    got = sppfast.pool(to(x), (2, 1), out=out, return_indices=True, workers=3)
    assert got[0] is out[0] and got[1] is out[1]
    assert_equal(back(got), sppfast.pool(x, (2, 1), return_indices=True))
    wide = cupy.empty((2, 50), np.float32)[:, ::2]
    sppfast.pool(to(x), (2, 1), out=wide)
    assert_equal(np.ascontiguousarray(back(wide)), sppfast.pool(x, (2, 1)))
    y = to(x)
    shared = y.reshape(2, -1)[:, :25]
    sppfast.pool(y, (2, 1), out=shared)  # into the maps themselves
    assert_equal(np.ascontiguousarray(back(shared)), sppfast.pool(x, (2, 1)))


def test_empty(to, back):
    x = np.ones((3, 5, 7, 8), np.float32)
    assert back(sppfast.pool(to(x[:0]), 2)).shape == (0, 20)
    for none in (np.empty((0, 4)), np.empty((0, 5)), []):
        assert back(sppfast.roi_pool(to(x), to(none), 2)).shape == (0, 20)
        assert back(sppfast.roi_align(to(x), to(none), 2)).shape == (0, 20)


def test_errors_are_those_of_the_cpu(cupy, to, rng):
    x = make(rng, (2, 5, 7, 8))
    roi = [0.0, 0.0, 50.0, 50.0]
    wrong_rois = [
        ([[np.nan, 0, 1, 1]], [0]),
        ([roi, [0, 0, np.inf, 1]], [0, 1]),
        ([[5, 0, 1, 1]], [0]),
        ([[0, 5, 1, 1]], [0]),
        ([roi], [2]),
        ([roi], [-1]),
        ([roi], [0, 1]),
        ([[0.5, *roi]], None),
        ([[2.0, *roi]], None),
        ([roi[:3]], [0]),
        ([roi], None),
    ]
    for rois, index in wrong_rois:
        rois, index = np.array(rois), None if index is None else np.array(index)
        for operator in (sppfast.roi_pool, sppfast.roi_align):
            same_error(lambda x, r, i, of=operator: of(x, r, 2, batch_index=i), (x, rois, index), to)
    same_error(lambda x, r: sppfast.roi_pool(x[0], r, 2, rounding="cells"), (x, np.array([[0.5, 0, 1, 1]])), to)
    for options in ({"mode": "min"}, {"layout": "CHW"}, {"levels": ()}, {"bins": "x"}, {"workers": 0}):
        same_error(lambda x, options=options: sppfast.pool(x, **options), (x,), to)
    for options in ({"sampling_ratio": -1}, {"aligned": 1}, {"geometry": 0}, {"levels": 0}):
        same_error(lambda x, r, o=options: sppfast.roi_align(x[0], r, **o), (x, np.array([roi])), to)
    same_error(lambda x: sppfast.pool(x[0, 0]), (x,), to)
    same_error(lambda x: sppfast.pool(x[:, :, :0]), (x,), to)
    same_error(lambda x: sppfast.pool(x.astype(np.complex64)), (x,), to)
    same_error(lambda x: sppfast.pool(x, mode="avg", return_indices=True), (x,), to)
    same_error(lambda x: sppfast.pool([x[0], x[1, :3]]), (x,), to)
    same_error(lambda x, g: sppfast.pool_backward(g, x, 1, indices=g), (x, np.zeros((2, 5), np.float32)), to)
    same_error(
        lambda x, g, i: sppfast.pool_backward(g, x, 1, indices=i),
        (x, np.zeros((2, 5), np.float32), np.full((2, 5), 56, np.int32)),
        to,
        "indices",
    )
    with raises(TypeError, "out", "cupy", "ndarray"):
        sppfast.pool(to(x), out=np.empty((2, 105), np.float32))
    with raises(ValueError, "out", "(2, 105)", "(2, 104)"):
        sppfast.pool(to(x), out=cupy.empty((2, 104), np.float32))


def same_error(call, arrays, to, part=None):
    """The device's error is the CPU's, word for word, or in one part."""
    with pytest.raises((TypeError, ValueError)) as on_cpu:
        call(*arrays)
    with pytest.raises(type(on_cpu.value)) as on_device:
        call(*map(to, arrays))
    said = str(on_device.value).replace("cupy", "numpy")
    assert said == str(on_cpu.value) if part is None else part in said
