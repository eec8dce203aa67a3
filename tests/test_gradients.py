"""The backward operators: finite differences, torch, the transpose of forward, the same bits for any workers."""

import numpy as np
import pytest
from helpers import (
    LAYOUTS,
    MODES,
    ROUNDINGS,
    assert_equal,
    dtype_of,
    in_layout,
    level_lists,
    make,
    make_rois,
    maps,
    windows,
)
from hypothesis import given
from hypothesis import strategies as st

import sppfast
from sppfast import gradients
from sppfast.cpu import weigh

LEVELS = (4, (1, 3), 2)


def pool_pair(levels=LEVELS, **options):
    """A forward function of the maps, and its gradient function."""
    return (
        lambda x: sppfast.pool(x, levels, **options),
        lambda grad, x, **more: sppfast.pool_backward(grad, x, levels, **options, **more),
    )


def roi_pool_pair(rois, levels=LEVELS, **options):
    return (
        lambda x: sppfast.roi_pool(x, rois, levels, **options),
        lambda grad, x, **more: sppfast.roi_pool_backward(grad, x, rois, levels, **options, **more),
    )


def roi_align_pair(rois, levels=LEVELS, **options):
    return (
        lambda x: sppfast.roi_align(x, rois, levels, **options),
        lambda grad, x, **more: sppfast.roi_align_backward(grad, x, rois, levels, **options, **more),
    )


def rois_for(rng, count, maps_, size, stride=16):
    """Rows of batch index and window, some windows partly or wholly outside, many overlapping."""
    return np.column_stack([rng.integers(0, maps_, count), make_rois(rng, count, (size[0] * stride, size[1] * stride))])


def cells_for(rng, count, maps_, size):
    return np.rint(rois_for(rng, count, maps_, size, 1)).astype(np.int64)


def every_pair(rng, maps_=2, size=(13, 17), count=20):
    """All operators in all modes, by name."""
    rois, cells = rois_for(rng, count, maps_, size), cells_for(rng, count, maps_, size)
    pairs = {}
    for mode in MODES:
        for bins in ("adaptive", "sliding", "caffe"):
            pairs[f"pool-{bins}-{mode}"] = pool_pair(bins=bins, mode=mode)
        for rounding in ROUNDINGS:
            windows_ = cells if rounding == "cells" else rois
            pairs[f"roi_pool-{rounding}-{mode}"] = roi_pool_pair(windows_, rounding=rounding, mode=mode)
        for ratio in (0, 2):
            for aligned in (True, False):
                options = {"sampling_ratio": ratio, "aligned": aligned, "mode": mode}
                pairs[f"roi_align-{ratio}-{aligned}-{mode}"] = roi_align_pair(rois, **options)
    return pairs


NAMES = list(every_pair(np.random.default_rng(0)))


@pytest.fixture(params=NAMES)
def pair(request, rng):
    return every_pair(rng)[request.param]


# ---- right


def test_finite_differences(pair, rng):
    """In float64, along random directions; a maximum is linear as long as none changes places."""
    forward, backward = pair
    x = rng.permutation(2 * 5 * 13 * 17).reshape(2, 5, 13, 17) / 100.0 + 1
    grad = rng.standard_normal(forward(x).shape)
    gradient = backward(grad, x)
    assert gradient.shape == x.shape
    assert gradient.dtype == np.float64
    step = 1e-7
    for _ in range(5):
        direction = rng.standard_normal(x.shape)
        change = (forward(x + step * direction) - forward(x - step * direction)) / (2 * step)
        assert (change * grad).sum() == pytest.approx((gradient * direction).sum(), rel=1e-5, abs=1e-5)


@given(maps(dtypes=("float64",), kinds=("spread",)), st.data(), level_lists)
def test_transpose_of_forward(x, data, levels):
    """A mean is linear: <backward(g), x> = <g, forward(x)>, exactly but for rounding."""
    rois = data.draw(windows((x.shape[-2] * 16, x.shape[-1] * 16)))
    index = np.arange(len(rois)) % len(x)
    pairs = [
        pool_pair(levels, mode="avg"),
        roi_pool_pair(rois, levels, mode="avg", batch_index=index, rounding="fast_rcnn"),
        roi_align_pair(rois, levels, mode="avg", batch_index=index, sampling_ratio=0),
    ]
    for forward, backward in pairs:
        y = forward(x)
        grad = np.random.default_rng(1).standard_normal(y.shape)
        scale = 1 + np.abs(grad).sum()
        assert abs((backward(grad, x) * x).sum() - (grad * y).sum()) < 1e-12 * scale


@given(maps(dtypes=("float32",), kinds=("ties",)), level_lists)
def test_gradient_of_a_maximum_goes_to_the_first(x, levels):
    y, indices = sppfast.pool(x, levels, return_indices=True)
    grad = np.random.default_rng(1).integers(1, 9, y.shape).astype(np.float32)
    want = np.zeros(x.shape, np.float32)
    planes = want.reshape(len(x), x.shape[1], -1)
    for where, (rows, columns) in zip(
        sppfast.Pyramid(levels).slices(x.shape[1]), sppfast.Pyramid(levels).levels, strict=True
    ):
        shape = (len(x), x.shape[1], rows * columns)
        for n, c, i in np.ndindex(shape):
            planes[n, c, indices[:, where].reshape(shape)[n, c, i]] += grad[:, where].reshape(shape)[n, c, i]
    np.testing.assert_array_equal(sppfast.pool_backward(grad, x, levels), want)
    np.testing.assert_array_equal(sppfast.pool_backward(grad, x, levels, indices=indices), want)


@pytest.mark.peers
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 5, 13, 13), (1, 3, 7, 22), (3, 40, 1, 1), (2, 17, 40, 50)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch(mode, shape, dtype, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    levels = (4, 2, 1)
    x = make(rng, shape, dtype, "spread")
    operator = getattr(torch.nn.functional, f"adaptive_{mode}_pool2d")
    tensor = torch.from_numpy(x).requires_grad_()
    y = torch.cat([operator(tensor, n).flatten(1) for n in levels], 1)
    grad = make(rng, tuple(y.shape), dtype, "spread")
    y.backward(torch.from_numpy(grad))
    tolerance = 1e-6 if dtype == "float32" else 1e-13
    got = sppfast.pool_backward(grad, x, levels, mode=mode)
    np.testing.assert_allclose(got, tensor.grad.numpy(), rtol=tolerance, atol=4 * tolerance)


def test_overlapping_windows_are_summed(rng):
    x = make(rng, (5, 9, 8), "float64", "spread")
    rois = make_rois(rng, 10, (9 * 16, 8 * 16))
    for make_pair in (roi_pool_pair, roi_align_pair):
        for mode in MODES:
            forward, backward = make_pair(rois, mode=mode)
            grad = rng.standard_normal(forward(x).shape)
            alone = [make_pair(rois[i : i + 1], mode=mode)[1](grad[i : i + 1], x) for i in range(10)]
            np.testing.assert_allclose(backward(grad, x), np.sum(alone, axis=0), rtol=1e-12, atol=1e-12)


def test_lines_and_lanes_agree(monkeypatch, rng):
    """Means of maps are spread in channel lanes where maps are small, line by line where they are large."""
    x = make(rng, (3, 37, 21, 30), "float32", "spread")
    for bins in ("adaptive", "sliding", "caffe"):
        forward, backward = pool_pair((5, (1, 3), 2), mode="avg", bins=bins)
        grad = make(rng, forward(x).shape, "float32", "spread")
        results = []
        for lanes in (0, 2**30):
            monkeypatch.setattr(weigh, "LANES_BYTES", lanes)
            results.append(backward(grad, x))
        np.testing.assert_allclose(*results, rtol=1e-6, atol=1e-7)


def test_large_maps_in_narrow_lanes(monkeypatch, rng):
    x = make(rng, (40, 21, 30), "float32", "spread")
    forward, backward = roi_align_pair(make_rois(rng, 10, (21 * 16, 30 * 16)))
    grad = make(rng, forward(x).shape, "float32", "spread")
    want = backward(grad, x)
    monkeypatch.setattr(weigh, "WIDE_BYTES", 0)
    np.testing.assert_array_equal(backward(grad, x), want)


# ---- forms


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes(pair, dtype, rng):
    """Sums of halves are those of float32, rounded once."""
    forward, backward = pair
    x = make(rng, (2, 5, 13, 17), dtype, "spread")
    grad = make(rng, forward(x).shape, dtype, "spread")
    got = backward(grad, x)
    assert got.dtype == x.dtype
    deep = backward(grad.astype(np.float64), x.astype(np.float64))
    tolerance = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 1e-5, "float64": 1e-13}[dtype]
    wrong = np.abs(got.astype(np.float64) - deep) > tolerance * (4 + np.abs(deep))
    assert wrong.mean() < 0.02  # a coordinate of float32 can put a sample into the next cell, a tie elsewhere


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_become_float32_and_back(rng, dtype):
    """As NumPy does it, which takes longer: of any size, every number, and every one halfway between two."""
    dtype, single = dtype_of(dtype), np.dtype(np.float32)
    every = np.arange(2**16, dtype=np.uint16).view(dtype)
    np.testing.assert_array_equal(weigh.convert(every, single, 2), every.astype(single))
    positive = every[: every.tolist().index(np.inf)].astype(np.float64)
    halfway = np.repeat((positive[1:] + positive[:-1]) / 2, 3).astype(single)
    halfway[::3], halfway[2::3] = np.nextafter(halfway[::3], -np.inf), np.nextafter(halfway[2::3], np.inf, dtype=single)
    numbers = np.concatenate([halfway, -halfway, rng.integers(0, 2**32, 2**17, dtype=np.uint32).view(single)])
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = numbers.astype(dtype)
    for size in (0, 1, 31, 32, 33, 1000, 2**15 + 1, numbers.size):
        found = weigh.convert(numbers[:size], dtype, 2)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.astype(single), wanted[:size].astype(single))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_forms_of_grad(layout, rng):
    x = make(rng, (2, 5, 13, 17), "float32", "spread")
    own = in_layout(x, layout)
    rois = rois_for(rng, 20, 2, (13, 17))
    for (_, backward), forward in (
        (roi_pool_pair(rois, layout=layout), lambda **o: sppfast.roi_pool(own, rois, LEVELS, layout=layout, **o)),
        (pool_pair(layout=layout), lambda **o: sppfast.pool(own, LEVELS, layout=layout, **o)),
    ):
        flat, flat_indices = forward(return_indices=True)
        levels, indices = forward(return_indices=True, flatten=False)
        want = backward(flat, own)
        assert want.shape == own.shape
        for grad in (flat, levels, np.asfortranarray(flat), np.repeat(flat, 2, axis=1)[:, ::2]):
            for places in (None, flat_indices, indices, flat_indices.astype(np.int64)):
                np.testing.assert_array_equal(backward(grad, own, indices=places), want)
    first = pool_pair()[1](flat, x)
    np.testing.assert_array_equal(want if layout == "NCHW" else np.moveaxis(want, -1, -3), first)


def test_one_map_and_maps_of_different_sizes(rng):
    x = [make(rng, (5, *size), "float32", "spread") for size in ((9, 8), (3, 12), (30, 40))]
    rois = [make_rois(rng, 4, (m.shape[1] * 16, m.shape[2] * 16)) for m in x]
    for mode in MODES:
        forward, backward = pool_pair(mode=mode)
        grad = make(rng, (3, forward(x[0]).size), "float32", "spread")
        for got, one, row in zip(backward(grad, x), x, grad, strict=True):  # the largest map says how means are spread
            np.testing.assert_allclose(got, backward(row, one), rtol=1e-6)
        for make_pair in (roi_pool_pair, roi_align_pair):
            grad = make(rng, make_pair(rois, mode=mode)[0](x).shape, "float32", "spread")
            results = make_pair(rois, mode=mode)[1](grad, x)
            for got, one, own, rows in zip(results, x, rois, np.split(grad, 3), strict=True):
                np.testing.assert_array_equal(got, make_pair(own, mode=mode)[1](rows, one))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("form", [list, np.asarray], ids=["ragged", "batch"])
@pytest.mark.parametrize("channels", [20, 150])
def test_maxima_of_few_windows_and_channels_at_a_time(monkeypatch, channels, form, dtype, layout, rng):
    """The same bits, though the gradient takes the place of the maps."""
    x = in_layout(make(rng, (3, channels, 13, 17), dtype, "spread"), layout)
    rois = rois_for(rng, 60, 3, (13, 17))
    grad = make(rng, (60, channels * 21), dtype, "spread")
    whole = sppfast.roi_pool_backward(grad, form(x), rois, (4, 2, 1), layout=layout)
    monkeypatch.setattr(gradients, "PART_BYTES", 0)
    monkeypatch.setattr(gradients, "available_cores", lambda: 2)
    for sort in (False, True):
        order = np.argsort(rois[:, 0], kind="stable") if sort else np.arange(60)
        out = form(x.copy())
        options = {"layout": layout, "out": out}
        got = sppfast.roi_pool_backward(grad[order], out, rois[order], (4, 2, 1), **options)
        assert_equal(got, whole)
    none = sppfast.roi_pool_backward(grad[:0], form(x), rois[:0], (4, 2, 1), layout=layout)
    assert not np.asarray(none).any()


def test_workers_change_nothing(pair, rng):
    forward, backward = pair
    x = make(rng, (2, 70, 13, 17), "float32", "spread")
    grad = make(rng, forward(x).shape, "float32", "spread")
    want = backward(grad, x, workers=1)
    for workers in (2, 3, 8, None):
        np.testing.assert_array_equal(backward(grad, x, workers=workers), want)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out(layout, rng):
    x = in_layout(make(rng, (2, 5, 13, 17), "float32", "spread"), layout)
    forward, backward = pool_pair(layout=layout)
    grad = forward(x)
    want = backward(grad, x)
    spread = np.empty((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)[..., ::2]
    for out in (np.full_like(x, 7), np.asfortranarray(x), spread, x.copy()):
        assert backward(grad, x, out=out) is out
        np.testing.assert_array_equal(out, want)
    alias = x.copy()
    assert (
        roi_align_pair([[0, 0, 99, 99]], mode="max", layout=layout, batch_index=[1])[1](
            np.ones((1, 5 * 23), np.float32), alias, out=alias
        )
        is alias
    )
    one = [x[0].copy(), x[1].copy()]
    for got, own in zip(backward(grad, [x[0], x[1]], out=one), one, strict=True):
        assert got is own


def test_nothing_to_sum(rng):
    x = make(rng, (2, 5, 13, 17), "float32", "spread")
    for make_pair in (roi_pool_pair, roi_align_pair):
        for mode in MODES:
            assert not make_pair(np.empty((0, 5)), mode=mode)[1](np.empty((0, 5 * 23), np.float32), x).any()
    assert sppfast.pool_backward(np.empty((0, 105), np.float32), x[:0]).shape == (0, 5, 13, 17)


def test_windows_outside_the_map_have_no_gradient(rng):
    x = make(rng, (5, 9, 8), "float32", "spread")
    rois = [[1e4, 1e4, 2e4, 2e4], [1e30, -1e30, 2e30, 1e30]]
    for options in ({"rounding": "fast_rcnn"}, {"rounding": "fast_rcnn", "mode": "avg"}):
        assert not roi_pool_pair(rois, **options)[1](np.ones((2, 5 * 23), np.float32), x).any()
    for mode in MODES:
        assert not roi_align_pair(rois, mode=mode)[1](np.ones((2, 5 * 23), np.float32), x).any()


# ---- wrong input

X = np.zeros((2, 3, 6, 7), np.float32)
GRAD = np.zeros((2, 63), np.float32)
PLACES = np.zeros((2, 63), np.int32)


@pytest.mark.parametrize(
    ("grad", "options", "error", "message"),
    [
        (GRAD[:, :-1], {}, ValueError, "grad: expected shape (2, 63), got (2, 62)"),
        (GRAD[0], {}, ValueError, "grad: expected shape (2, 63), got (63,)"),
        (GRAD.astype(np.float64), {}, TypeError, "grad: expected dtype float32 as the maps, got float64"),
        (GRAD.astype(np.int32), {}, TypeError, "grad: expected dtype float32 as the maps, got int32"),
        ("grad", {}, TypeError, "grad: expected a numpy array or a tuple of them, got str"),
        ((GRAD,), {}, ValueError, "grad: expected an array for each of 3 levels, got 1"),
        ((GRAD, GRAD, GRAD), {}, ValueError, "grad[0]: expected shape (2, 3, 4, 4), got (2, 63)"),
        (GRAD, {"indices": PLACES[:1]}, ValueError, "indices: expected shape (2, 63), got (1, 63)"),
        (GRAD, {"indices": GRAD}, TypeError, "indices: expected integers, got dtype float32"),
        (GRAD, {"indices": PLACES + 42}, ValueError, "indices["),
        (GRAD, {"indices": PLACES - 2}, ValueError, "indices["),
        (GRAD, {"indices": PLACES + np.int64(2**40)}, ValueError, "indices: from 1099511627776"),
        (GRAD, {"indices": PLACES, "mode": "avg"}, ValueError, "indices: only mode='max' has indices"),
        (GRAD, {"out": X[:1].copy()}, ValueError, "out: expected shape (2, 3, 6, 7), got (1, 3, 6, 7)"),
        (GRAD, {"out": X.astype(np.float64)}, TypeError, "out: expected dtype float32"),
        (GRAD, {"mode": "sum"}, ValueError, "mode: "),
        (GRAD, {"layout": 3}, TypeError, "layout: "),
        (GRAD, {"workers": 0}, ValueError, "workers: "),
    ],
)
def test_wrong_options(grad, options, error, message):
    with pytest.raises(error) as caught:
        sppfast.pool_backward(grad, X, (4, 2, 1), **options)
    assert str(caught.value).startswith(message)


def test_wrong_rounding():
    with pytest.raises(ValueError, match=r"^rounding: 'nearest' is not one of"):
        sppfast.roi_pool_backward(GRAD[:1], X[0], [[0, 0, 9, 9]], (4, 2, 1), rounding="nearest")


def test_wrong_maps():
    with pytest.raises(TypeError, match=r"^x: only maps of floats have a gradient, got int32"):
        sppfast.pool_backward(GRAD.astype(np.int32), X.astype(np.int32))
    with pytest.raises(ValueError, match=r"^grad: expected shape"):
        sppfast.roi_align_backward(GRAD, X, [[0, 0, 0, 9, 9]], (4, 2, 1))
    with pytest.raises(TypeError, match=r"^out: expected a sequence of 2"):
        sppfast.pool_backward(GRAD, [X[0], X[1]], (4, 2, 1), out=X.copy())
