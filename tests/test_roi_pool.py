"""``roi_pool`` against the oracle: every option with every dtype, every form of rois, hostile windows."""

import numpy as np
import oracle
import pytest
from helpers import (
    DTYPES,
    FLOATS,
    KINDS,
    LAYOUTS,
    MODES,
    ROUNDINGS,
    check_roi_pool,
    in_layout,
    make,
    make_map,
    make_rois,
)

import sppfast
from sppfast.windows import parse_rois

SIZES = [(1, 1), (1, 9), (9, 1), (5, 5), (14, 7), (38, 63), (300, 5), (5, 300)]
LEVELS = [(6, 3, 2, 1), 7, (1, 2, 3, 6), ((2, 3), 4), (1,), ((1, 9), (9, 1)), (14,), (4, 4)]


NO_ROIS = [np.empty((0, 4)), np.empty((0, 5)), [], np.empty((0, 4), np.int64)]


def rois_for(rng, count, size, rounding, stride=16):
    """Windows for a map of a size: in cells, or in image pixels."""
    if rounding == "cells":
        return make_rois(rng, count, size, whole=True).astype(np.int64)
    return make_rois(rng, count, (size[0] * stride, size[1] * stride))


# ---- options, one by one


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_option(dtype, mode, rounding, layout, rng):
    for kind in KINDS:
        size = rng.integers(1, 24, 2)
        x = make_map(rng, (2, int(rng.integers(1, 40)), *size), dtype, kind, layout)
        options = {"mode": mode, "rounding": rounding, "layout": layout}
        options["return_indices"] = mode == "max" and kind != "spread"
        batch_index = rng.integers(0, 2, 9)
        rois = rois_for(rng, 9, size, rounding)
        check_roi_pool(x, rois, batch_index=batch_index, flatten=kind == "ties", **options)
        check_roi_pool(x[0], rois, (7, (2, 3)), flatten=kind != "ties", **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 7, 8, 16, 17, 31, 33, 64, 65, 100, 130, 257])
def test_channels(channels, layout, rng):
    for dtype in ("float32", rng.choice(DTYPES)):
        x = make_map(rng, (2, channels, 11, 13), dtype, "ties", layout)
        rois, batch_index = rois_for(rng, 12, (11, 13), "sppnet"), rng.integers(0, 2, 12)
        for mode in MODES:
            check_roi_pool(x, rois, batch_index=batch_index, mode=mode, layout=layout)
        check_roi_pool(x, rois, batch_index=batch_index, layout=layout, return_indices=True)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(size, rounding, rng):
    for layout in LAYOUTS:
        x = make_map(rng, (1, 19, *size), "float32", "ties", layout)
        rois = rois_for(rng, 20, size, rounding)
        check_roi_pool(x, rois, rounding=rounding, layout=layout, return_indices=True)
        check_roi_pool(x, rois, rounding=rounding, layout=layout, mode="avg")


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_levels(levels, rounding, rng):
    x = make(rng, (2, 18, 17, 23))
    rois, batch_index = rois_for(rng, 25, (17, 23), rounding), rng.integers(0, 2, 25)
    options = {"batch_index": batch_index, "rounding": rounding}
    check_roi_pool(x, rois, levels, return_indices=True, **options)
    check_roi_pool(x, rois, levels, mode="avg", flatten=False, **options)


@pytest.mark.parametrize("seed", range(60))
def test_random_sweep(seed):
    rng = np.random.default_rng(seed)
    mode, rounding, layout = (str(rng.choice(names)) for names in (MODES, ROUNDINGS, LAYOUTS))
    for _ in range(3):
        size = rng.integers(1, 50, 2)
        batch, count = int(rng.integers(1, 4)), int(rng.integers(0, 30))
        stride = float(rng.choice([16, 8, 12, 1, 0.5, 13.7]))
        geometry = sppfast.ConvGeometry(stride, float(rng.choice([0.0, 7.5, -3.0, 0.1])))
        levels = [tuple(rng.integers(1, 9, 2).tolist()) for _ in range(rng.integers(1, 5))]
        x = make_map(rng, (batch, rng.integers(1, 70), *size), rng.choice(DTYPES), rng.choice(KINDS), layout)
        rois = rois_for(rng, count, size, rounding, stride)
        options = {"mode": mode, "rounding": rounding, "layout": layout, "flatten": rng.random() < 0.5}
        options["return_indices"] = mode == "max" and rng.random() < 0.5
        options["workers"] = rng.choice([None, 1, 2, 3])
        batch_index = rng.integers(0, batch, count)
        check_roi_pool(x, rois, levels, geometry=geometry, batch_index=batch_index, **options)


# ---- forms of rois


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_three_forms_agree(rounding, rng):
    x = make(rng, (3, 7, 15, 21))
    rois = np.rint(rois_for(rng, 12, (15, 21), rounding))
    batch_index = np.sort(rng.integers(0, 3, 12))
    forms = [
        (rois, batch_index),
        (rois.tolist(), batch_index.tolist()),
        (tuple(map(tuple, rois)), tuple(batch_index)),
        (rois.astype(np.float32), batch_index.astype(np.int32)),
        (rois.astype(np.int64), batch_index.astype(np.uint8)),
        (rois.astype(np.int16), batch_index),
        (rois.astype(">f8"), batch_index.astype(">i4")),
        (memoryview(rois), memoryview(batch_index)),
        (np.asfortranarray(rois), batch_index[::-1].copy()[::-1]),
        (np.column_stack([batch_index, rois]), None),
        (np.column_stack([batch_index, rois]).tolist(), None),
        (np.column_stack([batch_index, rois]).astype(np.int32), None),
        ([rois[batch_index == b] for b in range(3)], None),
        (tuple(rois[batch_index == b].tolist() for b in range(3)), None),
    ]
    want = check_roi_pool(x, rois, batch_index=batch_index, rounding=rounding)
    for form, index in forms:
        got = sppfast.roi_pool(x, form, batch_index=index, rounding=rounding)
        np.testing.assert_array_equal(got, want)


class OfAnotherLibrary:
    """What NumPy 2 warns of when it is told to copy: an array whose ``__array__`` takes a dtype alone."""

    def __array__(self, dtype=None):
        return np.array([[5.0, 5, 40, 60]], dtype)


@pytest.mark.filterwarnings("error")
def test_windows_of_another_library(rng):
    x = make(rng, (3, 7, 9))
    np.testing.assert_array_equal(sppfast.roi_pool(x, OfAnotherLibrary()), sppfast.roi_pool(x, [[5, 5, 40, 60]]))


def test_sequence_with_a_map_that_has_no_rois(rng):
    x = make(rng, (3, 7, 15, 21))
    rois = rois_for(rng, 6, (15, 21), "sppnet")
    check_roi_pool(x, [rois[:2], np.empty((0, 4)), rois[2:]])
    check_roi_pool(x, [np.empty((0, 4)), rois, np.empty((0, 4))], return_indices=True)


def test_one_map_needs_no_batch_index(rng):
    x = make(rng, (1, 7, 15, 21))
    rois = rois_for(rng, 6, (15, 21), "sppnet")
    want = check_roi_pool(x, rois)
    for form in (x[0], x, [x[0]]):
        np.testing.assert_array_equal(sppfast.roi_pool(form, rois), want)
        np.testing.assert_array_equal(sppfast.roi_pool(form, rois, batch_index=np.zeros(6, int)), want)
        np.testing.assert_array_equal(sppfast.roi_pool(form, [rois]), want)
        np.testing.assert_array_equal(sppfast.roi_pool(form, np.insert(rois, 0, 0, axis=1)), want)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_ragged(rounding, mode, layout, rng):
    sizes = [(13, 9), (1, 1), (4, 30), (25, 3)]
    for dtype in ("float32", rng.choice(DTYPES)):
        x = [make_map(rng, (11, *size), dtype, layout=layout) for size in sizes]
        options = {"rounding": rounding, "mode": mode, "layout": layout, "return_indices": mode == "max"}
        rois, batch_index = rois_for(rng, 20, (20, 25), rounding), rng.integers(0, 4, 20)
        check_roi_pool(x, rois, batch_index=batch_index, **options)
        check_roi_pool(x, np.column_stack([batch_index, rois]), flatten=False, **options)
        check_roi_pool(x, [rois[:3], rois[3:3], rois[3:9], rois[9:]], (3, (1, 2)), **options)


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rois", NO_ROIS, ids=["(0, 4)", "(0, 5)", "[]", "integers"])
def test_no_rois(rois, layout, flatten, rng):
    shapes = [(3, 7, 15, 21), (1, 7, 15, 21), (7, 15, 21)]
    for shape in shapes:
        x = make_map(rng, shape, layout=layout)
        values, indices = sppfast.roi_pool(x, rois, layout=layout, flatten=flatten, return_indices=True)
        for got, dtype in ((values, np.float32), (indices, np.int32)):
            if flatten:
                assert got.shape == (0, 7 * 50) and got.dtype == dtype
                continue
            want = [(0, 7, n, n) if layout == "NCHW" else (0, n, n, 7) for n in (6, 3, 2, 1)]
            assert [level.shape for level in got] == want
    assert sppfast.roi_pool([make(rng, (7, 5, 5)), make(rng, (7, 9, 9))], rois).shape == (0, 7 * 50)


def test_no_rois_on_an_empty_batch():
    x = np.empty((0, 7, 5, 5), np.float32)
    assert sppfast.roi_pool(x, np.empty((0, 5))).shape == (0, 350)
    assert sppfast.roi_pool(x, np.empty((0, 4)), batch_index=np.empty(0, int), mode="avg").shape == (0, 350)


@pytest.mark.parametrize("channels", [3, 40])
def test_unsorted_and_repeated(channels, rng):
    x = make(rng, (5, channels, 15, 21))
    rois = np.repeat(rois_for(rng, 8, (15, 21), "sppnet"), 6, axis=0)
    rng.shuffle(rois)
    batch_index = rng.integers(0, 5, len(rois))
    check_roi_pool(x, rois, batch_index=batch_index, return_indices=True)
    check_roi_pool(x, rois, batch_index=np.full(len(rois), 3))
    check_roi_pool(x, rois, batch_index=batch_index[::-1], mode="avg")


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("channels", [2, 37])
def test_many_windows(channels, rounding, rng):
    x = make(rng, (2, channels, 38, 63), "float32", "spread")
    rois, batch_index = rois_for(rng, 3000, (38, 63), rounding), rng.integers(0, 2, 3000)
    check_roi_pool(x, rois, (3, 1), batch_index=batch_index, rounding=rounding)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("shape", [(1, 2, 300, 400), (2, 64, 120, 90), (1, 3, 800, 700)], ids=str)
def test_large_maps(shape, rounding, rng):
    x = make(rng, shape, "float32", "spread")
    rois, batch_index = rois_for(rng, 30, shape[2:], rounding), rng.integers(0, shape[0], 30)
    for mode in MODES:
        check_roi_pool(x, rois, batch_index=batch_index, rounding=rounding, mode=mode)
    ties = make(rng, shape)
    check_roi_pool(ties, rois, batch_index=batch_index, rounding=rounding, return_indices=True)


@pytest.mark.parametrize("dtype, count", [("float32", 400), ("uint8", 1400)])
def test_large_results(dtype, count, rng):
    """More than any cache holds, in rows that begin anywhere; nothing is written beside them."""
    x = make(rng, (1, 257, 12, 17), dtype, "spread")
    rois = rois_for(rng, count, (12, 17), "sppnet")
    buffer = np.full((count + 2, 257 * 50 + 5), 77, dtype)
    check_roi_pool(x, rois, out=buffer[1:-1, 3:-2])
    buffer[1:-1, 3:-2] = 77
    assert (buffer == 77).all()
    if dtype == "float32":
        check_roi_pool(x, rois, mode="avg")
        check_roi_pool(x, rois, return_indices=True)


# ---- geometry, rounding


@pytest.mark.parametrize("rounding", ["sppnet", "fast_rcnn"])
@pytest.mark.parametrize("offset", [0.0, 7.5, -20.25, 0.1])
@pytest.mark.parametrize("stride", [16, 12, 1, 0.5, 13.7, np.float32(8)])
def test_geometry(stride, offset, rounding, rng):
    x = make(rng, (1, 9, 15, 21), "float32", "spread")
    geometry = sppfast.ConvGeometry(float(stride), offset)
    rois = rois_for(rng, 30, (15, 21), rounding, stride)
    check_roi_pool(x, rois, geometry=geometry, rounding=rounding)
    if offset == 0:
        check_roi_pool(x, rois, geometry=stride, rounding=rounding)
    edges = offset + stride * rng.integers(-4, 50, (30, 2, 2)) / 2  # on cells, and halfway between
    edges.sort(axis=1)
    check_roi_pool(x, edges.reshape(30, 4), geometry=geometry, rounding=rounding, return_indices=True)


@pytest.mark.parametrize("name", ["ZF-5", "Convnet*-5", "Overfeat-5", "Overfeat-7"])
def test_presets(name, rng):
    x = make(rng, (1, 9, 13, 18))
    check_roi_pool(x, rois_for(rng, 30, (13, 18), "sppnet"), geometry=sppfast.ConvGeometry.preset(name))


@pytest.mark.parametrize("rounding", ["sppnet", "fast_rcnn"])
def test_float32_rois(rounding, rng):
    """Rois in float32 are taken as they are; rois in float64 are rounded to float32 for fast_rcnn only."""
    x = make(rng, (1, 9, 15, 21), "float32", "spread")
    rois = rois_for(rng, 60, (15, 21), rounding)
    near = 16 * np.rint(rois / 16) + rng.choice([-1e-9, 1e-9, 8 - 1e-9, 8 + 1e-9], rois.shape)
    near.reshape(-1, 2, 2).sort(axis=1)
    for some in (rois, near):
        check_roi_pool(x, some.astype(np.float32), rounding=rounding)
        check_roi_pool(x, some, rounding=rounding)


def test_sppnet_by_hand():
    """Stride 16, one row of cells 0..9: the worked cases of appendix A.1."""
    x = np.arange(10, dtype=np.float32).reshape(1, 1, 10)
    cases = {
        (0, 160): (1, 9),  # floor(0)+1 to ceil(10)-1
        (1, 159): (1, 9),
        (-1, 33): (0, 2),
        (16, 48): (2, 2),
        (17, 31): (1, 1),  # crosses, (2 + 1) // 2
        (32, 32): (2, 2),  # crosses, (3 + 1) // 2
        (40, 40): (2, 2),  # crosses, (3 + 2) // 2
        (-500, -400): (0, 0),
        (400, 500): (9, 9),
    }
    for (x0, x1), (first, last) in cases.items():
        low = sppfast.roi_pool(-x, [[x0, 0, x1, 0]], 1)[0, 0]
        high = sppfast.roi_pool(x, [[x0, 0, x1, 0]], 1)[0, 0]
        assert (-low, high) == (first, last), (x0, x1)


def test_fast_rcnn_by_hand():
    """Halves go away from zero, the extent is at least one cell, an empty bin is 0."""
    x = np.arange(1, 11, dtype=np.float32).reshape(1, 1, 10)
    cases = {
        (8, 8): (2, 2),  # 0.5 -> 1, one cell
        (7.9, 23.9): (1, 2),
        (24, 40): (3, 4),  # 1.5 -> 2, 2.5 -> 3
        (-8, 0): (1, 1),  # -0.5 -> -1: cells -1 and 0
        (-500, -400): (0, 0),
        (400, 500): (0, 0),
        (144, 500): (10, 10),
    }
    for (x0, x1), (first, last) in cases.items():
        low = sppfast.roi_pool(-x, [[x0, 0, x1, 0]], 1, rounding="fast_rcnn")[0, 0]
        high = sppfast.roi_pool(x, [[x0, 0, x1, 0]], 1, rounding="fast_rcnn")[0, 0]
        assert (-low, high) == (first, last), (x0, x1)


def test_cells_by_hand():
    x = np.arange(1, 21, dtype=np.float32).reshape(1, 2, 10)
    pool = sppfast.roi_pool
    rois = [[2, 0, 5, 2], [-3, -1, 2, 1], [4, 0, 4, 2], [10, 0, 12, 2], [-5, 0, 0, 1], [8, 1, 400, 7]]
    values, indices = pool(x, rois, 1, rounding="cells", return_indices=True)
    assert values.ravel().tolist() == [15, 2, 0, 0, 0, 20]
    assert indices.ravel().tolist() == [14, 1, -1, -1, -1, 19]
    assert pool(x, rois, 1, rounding="cells", mode="avg").ravel().tolist() == [9, 1.5, 0, 0, 0, 19.5]


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, np.float32, np.float64])
def test_cells_in_any_dtype_of_whole_numbers(dtype, rng):
    x = make(rng, (1, 9, 15, 21))
    rois = make_rois(rng, 20, (15, 21), whole=True, reach=0).astype(dtype)
    check_roi_pool(x, rois, rounding="cells", return_indices=True)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_bins(dtype, mode, rounding, rng):
    """An empty bin is 0 with index -1, in a map without zeros too; sppnet windows have none."""
    x = np.full((1, 18, 6, 6), 1).astype(make(rng, 1, dtype).dtype)
    rois = [[-900, -900, -800, -800], [900, 0, 999, 96], [0, 0, 96, 96]]
    form = {"rounding": rounding, "mode": mode, "return_indices": mode == "max"}
    got = check_roi_pool(x, rois, **form)
    values = got[0] if mode == "max" else got
    assert (values[:2].astype(float) == (1 if rounding == "sppnet" else 0)).all()
    if mode == "max":
        assert (got[1][:2] == -1).all() == (rounding != "sppnet")


@pytest.mark.parametrize("value", [np.nan, -np.inf, -5.0])
def test_an_empty_bin_stays_zero_among_other_values(value):
    x = np.full((1, 18, 3, 3), value, np.float32)
    for rounding in ("fast_rcnn", "cells"):
        check_roi_pool(x, [[-60, -60, 60, 60], [1, 1, 100, 100]], 7, rounding=rounding, return_indices=True)
        check_roi_pool(x, [[-60, -60, 60, 60], [1, 1, 100, 100]], 7, rounding=rounding, mode="avg")


# ---- hostile windows


@pytest.mark.parametrize("rounding", ["sppnet", "fast_rcnn"])
def test_windows_around_the_edges(rounding, rng):
    x = make(rng, (1, 18, 9, 7), "float32", "spread")
    positions = [
        -1e3,
        -16.0,
        -8.5,
        -8.0,
        -0.5,
        -0.0,
        0.0,
        0.5,
        7.5,
        8.0,
        16.0,
        95.9,
        104.0,
        112.0,
        120.0,
        9e3,
    ]
    spans = [(a, b) for a in positions for b in positions if a <= b]
    rois = [[x0, y0, x1, y1] for (x0, x1), (y0, y1) in zip(spans, spans[::-1], strict=True)]
    check_roi_pool(x, rois, rounding=rounding, return_indices=True)
    check_roi_pool(x, rois, (14, (1, 3)), rounding=rounding, mode="avg")


def test_one_cell_windows(rng):
    x = make(rng, (1, 18, 9, 7), "float32", "spread")
    cells = np.array([[c, r, c + 1, r + 1] for r in range(9) for c in range(7)])
    check_roi_pool(x, cells, rounding="cells", return_indices=True)
    check_roi_pool(x, cells * 16 - [0, 0, 16, 16], rounding="fast_rcnn", mode="avg")
    check_roi_pool(x, cells * 16 - [0, 0, 16, 16], return_indices=True)


@pytest.mark.parametrize("huge", [1e9, 1e15, 1e30, 1e300])
def test_huge_coordinates_sppnet(huge, rng):
    x = make(rng, (1, 18, 9, 7), "float32", "spread")
    rois = [
        [-huge, -huge, huge, huge],
        [huge, huge, huge, huge],
        [-huge, -huge, -huge, -huge],
        [5, -huge, huge, 70],
        [-huge, 5, 70, huge],
        [0, 0, huge / 7, huge / 3],
    ]
    for geometry in (16, 0.01, 1e6):
        check_roi_pool(x, rois, geometry=geometry, return_indices=True)
        check_roi_pool(x, rois, geometry=geometry, mode="avg")


@pytest.mark.parametrize("huge", [1e6, 1e9, 2**31, 2**40, 2**62])
def test_huge_coordinates_cells(huge, rng):
    x = make(rng, (1, 18, 9, 7), "float32", "spread")
    h = int(huge)
    rois = np.array([[-h, -h, h, h], [h, 0, h, 5], [-h, 0, -h, 5], [3, 3, h, h]])
    check_roi_pool(x, rois, rounding="cells", return_indices=True)
    check_roi_pool(x, rois.astype(np.float64), rounding="cells", mode="avg")


def test_huge_coordinates_fast_rcnn(rng):
    """Within the int32 cells of the C code the result is its own; beyond, only safety is promised."""
    x = np.abs(make(rng, (1, 18, 9, 7), "float32", "spread")) + 1
    rois = np.array([[-1e9, -1e9, 1e9, 1e9], [5, -1e9, 1e9, 70], [-1e9, 5, 70, 1e9], [1e9, 1e9, 1e9, 1e9]])
    check_roi_pool(x, rois, rounding="fast_rcnn", return_indices=True)
    for huge in (1e10, 1e15, 1e20, 1e30, 3e38):
        for geometry in (16, 0.5, 1e6):
            rois = np.array([[-1, -1, 1, 1], [0, -1, 1, 0], [1, 1, 1, 1], [-1, -1, -1, -1], [0, 0, 1, 1]]) * huge
            options = {"rounding": "fast_rcnn", "geometry": geometry}
            values, indices = sppfast.roi_pool(x, rois, return_indices=True, **options)
            flat = x[0].reshape(18, -1)
            channel = np.concatenate([np.repeat(np.arange(18), n * n) for n in (6, 3, 2, 1)])
            want = np.where(indices < 0, 0, flat[channel, np.maximum(indices, 0)])
            np.testing.assert_array_equal(values, want)
            assert np.isfinite(sppfast.roi_pool(x, rois, mode="avg", **options)).all()


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_random_hostile_windows(rounding, rng):
    """Coordinates over many magnitudes, on maps of odd sizes."""
    for size in [(1, 1), (3, 50), (50, 3), (17, 16)]:
        x = make(rng, (1, 18, *size), "float32", "spread")
        magnitude = 10.0 ** rng.uniform(-3, 7, (80, 2, 2))
        rois = np.sort(magnitude * rng.choice([-1, 1], magnitude.shape), axis=1).reshape(80, 4)
        rois = np.rint(rois) if rounding == "cells" else rois
        check_roi_pool(x, rois, rounding=rounding, return_indices=True)


# ---- special values


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_special_values(dtype, rounding, layout, rng):
    x = make_map(rng, (2, 20, 13, 17), dtype, "special", layout)
    rois, batch_index = rois_for(rng, 20, (13, 17), rounding), rng.integers(0, 2, 20)
    options = {"batch_index": batch_index, "rounding": rounding, "layout": layout}
    check_roi_pool(x, rois, return_indices=True, **options)
    check_roi_pool(x, rois, **options)
    check_roi_pool(x, rois, mode="avg", **options)


def test_avg_of_mean_zero_data(rng):
    x = make(rng, (1, 20, 50, 60), "float32", "spread")
    x -= x.mean((2, 3), keepdims=True)
    check_roi_pool(x, rois_for(rng, 40, (50, 60), "sppnet"), mode="avg")


# ---- kinds of memory


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "uint8"])
def test_strides(dtype, layout, rng):
    base = make(rng, (3, 18, 12, 14), dtype, "spread")
    rois, batch_index = rois_for(rng, 15, (12, 14), "sppnet"), rng.integers(0, 2, 15)
    views = [
        base[::-1, ::-1, ::-1, ::-1],
        base[:, 1::2, 1:-1, 2:-2],
        base[..., ::3],
        np.asfortranarray(base),
        base.swapaxes(2, 3),
        base.transpose(1, 0, 3, 2),
        np.broadcast_to(base[:1, :1, :1], base.shape),
        np.moveaxis(np.ascontiguousarray(np.moveaxis(base, 1, -1)), -1, 1),
    ]
    for x in views:
        x = x if layout == "NCHW" else np.moveaxis(x, 1, -1)
        check_roi_pool(x, rois, batch_index=batch_index, layout=layout)
        check_roi_pool(x[0], rois, layout=layout, mode="avg")


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_read_only_misaligned_and_big_endian(dtype, rng):
    x = make(rng, (2, 18, 12, 14), dtype, "spread")
    rois, batch_index = rois_for(rng, 15, (12, 14), "sppnet"), rng.integers(0, 2, 15)
    misaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    big = x.astype(x.dtype.newbyteorder(">"))
    odd_rois = np.frombuffer(b"\0" + rois.tobytes(), np.uint8)[1:].view(rois.dtype).reshape(rois.shape)
    for form in (misaligned, big):
        check_roi_pool(form, rois, batch_index=batch_index, return_indices=True)
        check_roi_pool(form, odd_rois, batch_index=batch_index, mode="avg")


# ---- form of the result


@pytest.mark.parametrize("layout", LAYOUTS)
def test_levels_are_views_of_one_buffer(layout, rng):
    x = make_map(rng, (1, 5, 9, 9), layout=layout)
    rois = rois_for(rng, 4, (9, 9), "sppnet")
    out = np.empty((4, 5 * 50), np.float32)
    levels = check_roi_pool(x, rois, layout=layout, flatten=False, out=out)
    assert all(np.shares_memory(level, out) for level in levels)
    np.testing.assert_array_equal(out, oracle.roi_pool(x, rois, layout=layout))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out(dtype, mode, rng):
    x = make(rng, (2, 18, 9, 12), dtype)
    rois, batch_index = rois_for(rng, 7, (9, 12), "sppnet"), rng.integers(0, 2, 7)
    result_dtype = oracle.result_dtype(x.dtype, mode)
    outs = [
        np.empty((7, 900), result_dtype),
        np.empty((7, 900), result_dtype, order="F"),
        np.empty((14, 1805), result_dtype)[::-2, 3:-2:2],
    ]
    for out in outs:
        out[...] = 1
        assert check_roi_pool(x, rois, batch_index=batch_index, mode=mode, out=out) is out
    if mode == "max":
        pair = outs[2], np.empty((7, 1800), np.int32)[:, ::-2]
        got = check_roi_pool(x, rois, batch_index=batch_index, return_indices=True, out=pair)
        assert got[0] is pair[0] and got[1] is pair[1]


def test_out_of_no_rois(rng):
    out = np.empty((0, 7 * 50), np.float32)
    assert sppfast.roi_pool(make(rng, (7, 9, 9)), np.empty((0, 4)), out=out) is out


def test_out_leaves_its_surroundings_alone(rng):
    x = make(rng, (1, 18, 9, 12), "float32", "spread")
    buffer = np.full((11, 18 * 50 + 9), 1234.5, np.float32)
    sppfast.roi_pool(x, rois_for(rng, 5, (9, 12), "sppnet"), out=buffer[1:-1:2, 4:-5])
    buffer[1:-1:2, 4:-5] = 1234.5
    assert (buffer == 1234.5).all()


@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("start", [0, 1, 17, 400])
def test_out_overlaps_x_or_rois(start, channels, rng):
    size = 2 * channels * 30 * 40
    buffer = make(rng, size + 500, "float32", "spread")
    x = buffer[:size].reshape(2, channels, 30, 40)
    rois, batch_index = rois_for(rng, 9, (30, 40), "sppnet"), rng.integers(0, 2, 9)
    out = buffer[start : start + 9 * channels * 50].reshape(9, -1)
    want = oracle.roi_pool(x, rois, batch_index=batch_index)
    np.testing.assert_array_equal(sppfast.roi_pool(x, rois, batch_index=batch_index, out=out), want)

    shared = np.zeros((9, channels * 50), np.float32)
    shared[:, :4] = rois
    want = oracle.roi_pool(x, shared[:, :4].copy(), batch_index=batch_index)
    got = sppfast.roi_pool(x, shared[:, :4], batch_index=batch_index, out=shared)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("columns", [4, 5])
def test_windows_are_those_of_the_moment_they_are_checked(columns):
    """What another thread writes to them after the check has no way into a kernel."""
    rois, batch_index = np.ones((3, columns)), np.zeros(3, np.int64)
    windows, index = parse_rois(rois, batch_index if columns == 4 else None, 2)
    assert not any(np.shares_memory(given, own) for given in (rois, batch_index) for own in (windows, index))


@pytest.mark.parametrize("rounding", ["sppnet", "cells"])
def test_windows_far_out_on_a_very_wide_map(rounding):
    x = np.broadcast_to(np.float32(1), (1, 1, 2**30))
    cells = np.array([[2**29 + 1000, 0, 2**29 + 1003, 1], [2**30 - 2, 0, 2**31, 1], [-(2**40), 0, 2, 1]])
    rois = cells if rounding == "cells" else cells * [16, 16, 16, 16] + [-8, 0, -8, 15]
    indices = sppfast.roi_pool(x, rois, 1, rounding=rounding, return_indices=True)[1]
    assert indices.tolist() == [[2**29 + 1000], [2**30 - 2], [0]]


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", "float32", "longdouble", ">f8"])
@pytest.mark.parametrize("columns", [4, 5])
def test_dtypes_of_windows(dtype, columns, rng):
    x = rng.standard_normal((2, 3, 9, 12), dtype=np.float32)
    rois = np.hstack([rng.integers(0, 2, (20, 1)), rng.integers(0, 60, (20, 2)), rng.integers(60, 120, (20, 2))])
    index = rois[:, 0]
    given, numbers = (rois, None) if columns == 5 else (rois[:, 1:], index)
    for rounding in ROUNDINGS:
        options = {"rounding": rounding, "return_indices": True}
        expected = sppfast.roi_pool(x, rois.astype(np.float64), 3, **options)
        found = sppfast.roi_pool(x, given.astype(dtype), 3, batch_index=numbers, **options)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    aligned = sppfast.roi_align(x, given.astype(dtype), 3, batch_index=numbers)
    np.testing.assert_array_equal(aligned, sppfast.roi_align(x, rois.astype(np.float64), 3))


def test_windows_of_longdouble_beyond_float64():
    rois = np.array([[np.longdouble("-1e4000"), 0, np.longdouble("1e4000"), 20]])
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    assert sppfast.roi_pool(x, rois, 1).tolist() == [[7]]


# ---- workers


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_workers_give_the_same_bits(layout, rounding, rng):
    for shape, count in (((3, 40, 13, 13), 50), ((1, 2, 60, 70), 400), ((1, 200, 20, 20), 3)):
        x = make_map(rng, shape, "float32", "special", layout)
        rois, batch_index = rois_for(rng, count, shape[2:], rounding), rng.integers(0, shape[0], count)
        for mode in MODES:
            options = {"batch_index": batch_index, "layout": layout, "rounding": rounding, "mode": mode}
            results = [
                sppfast.roi_pool(x, rois, workers=workers, **options).tobytes() for workers in (1, 2, 7, -1, None)
            ]
            assert len(set(results)) == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_agree(layout, rng):
    x = make(rng, (2, 40, 13, 13))
    rois, batch_index = rois_for(rng, 20, (13, 13), "sppnet"), rng.integers(0, 2, 20)
    got = sppfast.roi_pool(in_layout(x, layout), rois, batch_index=batch_index, layout=layout)
    np.testing.assert_array_equal(got, oracle.roi_pool(x, rois, batch_index=batch_index))
