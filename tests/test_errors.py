"""Every wrong input is an error that names the argument and says what came."""

import itertools
import re

import numpy as np
import pytest

import sppfast

X = np.arange(2 * 3 * 6 * 7, dtype=np.float32).reshape(2, 3, 6, 7)
ROIS = np.array([[0.0, 0, 0, 40, 40], [1, 5, 5, 60, 60], [0, 8, 8, 9, 9]])
NOT_A_TYPE_OR_VALUE = (TypeError, ValueError)


def raises(error, argument, *parts):
    """pytest.raises for a message that starts with the argument's name and holds all the parts."""
    holds = "".join(f"(?=.*{re.escape(str(part))})" for part in parts)
    return pytest.raises(error, match=rf"(?s)^{holds}{re.escape(argument)}(\W|$)")


def pool(x=X, levels=(4, 2, 1), **options):
    return sppfast.pool(x, levels, **options)


def roi_pool(rois=ROIS, x=X, levels=(2, 1), **options):
    return sppfast.roi_pool(x, rois, levels, **options)


def both(**options):
    """An option that both operators take."""
    return [lambda: pool(**options), lambda: roi_pool(**options)]


def name_of(value):
    """Name a value in the name of a test, by which two processes know it: without an address."""
    return repr(value).split(" at 0x")[0]


# ---- x


@pytest.mark.parametrize("x", [None, "image", 3.0, 7, b"abc", memoryview(X), object(), {"x": 1}, {1, 2}], ids=name_of)
def test_x_of_a_wrong_type(x):
    with raises(TypeError, "x", type(x).__name__):
        pool(x)
    with raises(TypeError, "x", type(x).__name__):
        roi_pool(x=x)


@pytest.mark.parametrize("shape", [(), (5,), (4, 5), (1, 2, 3, 4, 5), (0, 5)], ids=str)
def test_x_of_a_wrong_number_of_axes(shape):
    x = np.zeros(shape, np.float32)
    with raises(ValueError, "x", shape):
        pool(x)
    with raises(ValueError, "x", shape):
        roi_pool(x=x)


@pytest.mark.parametrize("shape", [(3, 0, 5), (3, 5, 0), (2, 3, 0, 5), (2, 3, 5, 0), (0, 3, 0, 0)], ids=str)
def test_map_without_cells(shape):
    x = np.zeros(shape, np.float32)
    with raises(ValueError, "x", shape):
        pool(x)
    with raises(ValueError, "x", shape):
        roi_pool([[0, 0, 0, 0, 0]], x)


def test_map_without_cells_in_nhwc():
    with raises(ValueError, "x", (2, 0, 5, 3)):
        pool(np.zeros((2, 0, 5, 3), np.float32), layout="NHWC")


DTYPES = [
    ("complex64", "complex64"),
    ("complex128", "complex128"),
    ("object", "object"),
    ("U3", "U3"),
    ("S3", "S3"),
    ("M8[s]", "datetime64"),
    ("m8[s]", "timedelta64"),
    ([("r", "f4")], "r"),
    ("V4", "V4"),
]


@pytest.mark.parametrize("dtype, shown", DTYPES, ids=[str(shown) for _, shown in DTYPES])
def test_x_of_an_unsupported_dtype(dtype, shown):
    x = np.zeros((2, 3, 6, 7), dtype)
    with raises(TypeError, "x", "dtype", shown):
        pool(x)
    with raises(TypeError, "x", "dtype", shown):
        roi_pool(x=x)
    with raises(TypeError, "x[0]", "dtype", shown):
        pool([x[0], x[1]])


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="longdouble is float64 here")
def test_x_of_longdouble():
    with raises(TypeError, "x", "dtype", np.dtype(np.longdouble).name):
        pool(X.astype(np.longdouble))


def test_x_of_an_unsupported_small_float():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with raises(TypeError, "x", "dtype", "float8_e4m3fn"):
        pool(X.astype(ml_dtypes.float8_e4m3fn))


# ---- ragged x


def test_no_maps():
    with raises(ValueError, "x"):
        pool([])
    with raises(ValueError, "x"):
        pool(())


def test_maps_with_different_channels():
    with raises(ValueError, "x[1]", 3, "channels", "x[0]", 4):
        pool([np.zeros((4, 5, 5)), np.zeros((3, 5, 5))])
    with raises(ValueError, "x[2]", 5, "channels", "x[0]", 6):
        pool([np.zeros((4, 5, 6)), np.zeros((3, 5, 6)), np.zeros((5, 5, 5))], layout="NHWC")
    with raises(ValueError, "x[1]", 3, "x[0]", 4):
        roi_pool(x=[np.zeros((4, 5, 5)), np.zeros((3, 5, 5))])


def test_maps_with_different_dtypes():
    with raises(TypeError, "x[1]", "float64", "float32"):
        pool([np.zeros((4, 5, 5), np.float32), np.zeros((4, 5, 5))])
    with raises(TypeError, "x[2]", "int8", "bool"):
        pool([np.zeros((4, 5, 5), bool), np.zeros((4, 9, 5), bool), np.zeros((4, 5, 5), np.int8)])


@pytest.mark.parametrize("shape", [(5,), (5, 5), (1, 4, 5, 5)], ids=str)
def test_maps_with_a_wrong_number_of_axes(shape):
    with raises(ValueError, "x[1]", shape):
        pool([np.zeros((4, 5, 5)), np.zeros(shape)])
    with raises(ValueError, "x[0]", shape):
        pool([np.zeros(shape), np.zeros((4, 5, 5))])


def test_one_map_of_many_without_cells():
    with raises(ValueError, "x[1]", (4, 0, 5)):
        pool([np.zeros((4, 5, 5)), np.zeros((4, 0, 5))])
    with raises(ValueError, "x[1]", (4, 0, 5)):
        roi_pool(x=[np.zeros((4, 5, 5)), np.zeros((4, 0, 5))])


@pytest.mark.parametrize("item", [None, "map", 3.0], ids=repr)
def test_maps_of_a_wrong_type(item):
    with raises(TypeError, "x[1]", type(item).__name__):
        pool([np.zeros((4, 5, 5)), item])


# ---- levels and the other options

LEVELS = [
    ((), ValueError, ""),
    ([], ValueError, ""),
    (0, ValueError, 0),
    (-1, ValueError, -1),
    ((4, 0), ValueError, 0),
    ((4, -2), ValueError, -2),
    (((0, 2),), ValueError, 0),
    (((2, -3),), ValueError, -3),
    (((1, 2, 3),), ValueError, (1, 2, 3)),
    (((1,),), ValueError, (1,)),
    ((4, ()), ValueError, "()"),
    (2.5, TypeError, 2.5),
    ((4, 2.0), TypeError, 2.0),
    ((4, (2, 1.5)), TypeError, 1.5),
    ("4", TypeError, "4"),
    (("4", 2), TypeError, "4"),
    (None, TypeError, None),
    ((4, None), TypeError, None),
    (True, TypeError, True),
    ((True, 2), TypeError, True),
    (memoryview(np.ones((2, 2), np.int64)), TypeError, "memory"),
]


@pytest.mark.parametrize("levels, error, shown", LEVELS, ids=[name_of(case[0]) for case in LEVELS])
def test_levels(levels, error, shown):
    for call in (pool, roi_pool, lambda levels: sppfast.Pyramid(levels)):
        with raises(error, "levels", shown):
            call(levels=levels)


def test_levels_without_end():
    for call in (pool, roi_pool, lambda levels: sppfast.Pyramid(levels)):
        with raises(ValueError, "levels", 1024):
            call(levels=itertools.repeat(1))
        with raises(ValueError, "levels[0]"):
            call(levels=[itertools.repeat(1)])
    assert sppfast.Pyramid([1] * 1024).size == 1024


def test_levels_are_checked_after_equal_ones_were_used():
    """4.0 == 4 and True == 1, so a cache of levels may take one for the other."""
    pool(levels=(4, 2, 1))
    with raises(TypeError, "levels", 4.0):
        pool(levels=(4.0, 2, 1))
    with raises(TypeError, "levels", True):
        pool(levels=(4, 2, True))
    pool(levels=7)
    with raises(TypeError, "levels", 7.0):
        pool(levels=7.0)
    roi_pool(levels=((2, 3), 1))
    with raises(TypeError, "levels", 3.0):
        roi_pool(levels=((2, 3.0), 1))


def test_too_many_bins():
    with raises(ValueError, "levels"):
        pool(levels=2**40)


@pytest.mark.parametrize("call", both(mode="median"))
def test_mode(call):
    with raises(ValueError, "mode", "'median' is not one of 'max', 'avg'"):
        call()


def test_bins_layout_rounding():
    with raises(ValueError, "bins", "'round'", "'adaptive'", "'sliding'", "'caffe'"):
        pool(bins="round")
    with raises(ValueError, "bins", "'round'"):
        sppfast.Pyramid(4, "round")
    for call in both(layout="CHWN"):
        with raises(ValueError, "layout", "'CHWN'", "'NCHW'", "'NHWC'"):
            call()
    with raises(ValueError, "rounding", "'nearest'", "'sppnet'", "'fast_rcnn'", "'cells'"):
        roi_pool(rounding="nearest")


@pytest.mark.parametrize("value", [None, 3, b"max", ["max"]], ids=repr)
def test_string_options_of_another_type(value):
    for name in ("mode", "layout"):
        for call in both(**{name: value}):
            with raises(NOT_A_TYPE_OR_VALUE, name):
                call()
    with raises(NOT_A_TYPE_OR_VALUE, "bins"):
        pool(bins=value)
    with raises(NOT_A_TYPE_OR_VALUE, "rounding"):
        roi_pool(rounding=value)


@pytest.mark.parametrize("call", both(mode="avg", return_indices=True))
def test_indices_of_an_average(call):
    with pytest.raises(ValueError, match=r"^(return_indices|mode)\W.*max"):
        call()


def test_indices_beyond_int32():
    """2**31 cells of a map that takes one byte."""
    x = np.broadcast_to(np.uint8(1), (1, 1, 2**31))
    with raises(ValueError, "x", 2**31):
        pool(x, 1, return_indices=True)
    with raises(ValueError, "x", 2**31):
        roi_pool([[0, 0, 1, 1]], x, rounding="cells", return_indices=True)


@pytest.mark.parametrize("workers", [0, -(10**6)])
def test_workers_out_of_range(workers):
    for call in both(workers=workers):
        with raises(ValueError, "workers", workers):
            call()


@pytest.mark.parametrize("workers", [1.5, 2.0, "2", (1,), "all"], ids=repr)
def test_workers_of_a_wrong_type(workers):
    for call in both(workers=workers):
        with raises(TypeError, "workers", workers):
            call()


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        sppfast.pool(X, (4, 2, 1), "max")
    with pytest.raises(TypeError):
        sppfast.roi_pool(X, ROIS, (4, 2, 1), 16)


# ---- out


@pytest.mark.parametrize("shape", [(2, 62), (2, 64), (1, 63), (63, 2), (126,), (2, 63, 1), (2, 1, 63)], ids=str)
def test_out_of_a_wrong_shape(shape):
    with raises(ValueError, "out", shape, (2, 63)):
        pool(out=np.empty(shape, np.float32))


def test_out_of_a_wrong_shape_for_one_map():
    with raises(ValueError, "out", (1, 63), (63,)):
        pool(X[0], out=np.empty((1, 63), np.float32))
    with raises(ValueError, "out", (2, 15), (3, 15)):
        roi_pool(out=np.empty((2, 15), np.float32))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", ">f4"])
def test_out_of_a_wrong_dtype(dtype):
    for call in both(out=np.empty((2, 63), dtype))[:1] + both(out=np.empty((3, 15), dtype))[1:]:
        with raises(NOT_A_TYPE_OR_VALUE, "out", np.dtype(dtype), "float32"):
            call()


def test_out_of_the_dtype_of_x_for_an_average_of_integers():
    with raises(NOT_A_TYPE_OR_VALUE, "out", "int16", "float32"):
        pool(X.astype(np.int16), mode="avg", out=np.empty((2, 63), np.int16))


def test_out_that_is_read_only():
    out = np.empty((2, 63), np.float32)
    out.flags.writeable = False
    with raises(ValueError, "out", "read-only"):
        pool(out=out)


@pytest.mark.parametrize("out", ["result", 3.0, [[0.0] * 63] * 2, {}], ids=["str", "float", "list", "dict"])
def test_out_that_is_no_array(out):
    with raises(TypeError, "out", type(out).__name__):
        pool(out=out)


def test_out_pairs():
    values, indices = np.empty((2, 63), np.float32), np.empty((2, 63), np.int32)
    with raises(NOT_A_TYPE_OR_VALUE, "out"):
        pool(out=(values, indices))
    with raises(NOT_A_TYPE_OR_VALUE, "out"):
        pool(out=(values, indices, indices), return_indices=True)
    with raises(NOT_A_TYPE_OR_VALUE, "out", "int64", "int32"):
        pool(out=(values, indices.astype(np.int64)), return_indices=True)
    with raises(ValueError, "out", (2, 62), (2, 63)):
        pool(out=(values, indices[:, 1:]), return_indices=True)
    with raises(ValueError, "out", (2, 62), (2, 63)):
        pool(out=(values[:, 1:], indices), return_indices=True)
    with raises(TypeError, "out"):
        pool(out=(values, "indices"), return_indices=True)


def test_nothing_is_written_before_an_error():
    values, indices = np.full((2, 63), 5, np.float32), np.empty((2, 63), np.int64)
    with raises(NOT_A_TYPE_OR_VALUE, "out"):
        pool(out=(values, indices), return_indices=True)
    assert (values == 5).all()


# ---- rois


@pytest.mark.parametrize("rounding", ["sppnet", "fast_rcnn", "cells"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column, name", [(1, "x0"), (2, "y0"), (3, "x1"), (4, "y1")])
def test_coordinates_that_are_not_finite(column, name, value, rounding):
    rois = ROIS.copy()
    rois[2, column] = value
    with raises(ValueError, "rois[2]", name, value, "not finite"):
        roi_pool(rois, rounding=rounding)
    with raises(ValueError, "rois[2]", name, value, "not finite"):
        roi_pool(rois[:, 1:].tolist(), batch_index=[0, 1, 0], rounding=rounding)


@pytest.mark.parametrize("rounding", ["sppnet", "fast_rcnn", "cells"])
def test_coordinates_in_the_wrong_order(rounding):
    rois = np.zeros((20, 5))
    rois[:, 3:] = 40
    rois[17, 1:] = 9, 0, 3, 5
    with raises(ValueError, "rois[17]", "x1 = 3", "left of", "x0 = 9"):
        roi_pool(rois, rounding=rounding)
    rois[17, 1:] = 0, 9, 3, 5
    with raises(ValueError, "rois[17]", "y1 = 5", "above", "y0 = 9"):
        roi_pool(rois, rounding=rounding)


def test_the_order_of_large_coordinates():
    """float32 cannot tell these apart; the check can."""
    with raises(ValueError, "rois[0]", "x1", "x0"):
        roi_pool([[0, 16777217.0, 0, 16777216.0, 5]], rounding="fast_rcnn")


@pytest.mark.parametrize("shape", [(4,), (5,), (3, 3), (3, 6), (0, 3), (4, 0)], ids=str)
def test_rois_of_a_wrong_shape(shape):
    rois = np.zeros(shape)
    with raises(ValueError, "rois", shape):
        roi_pool(rois, batch_index=[0] * shape[0])


def test_rois_of_three_axes():
    with raises(ValueError, "rois", (3, 5)):
        roi_pool(np.zeros((2, 3, 5)))


@pytest.mark.parametrize("rois", ["window", None, 3.0, {"a": 1}], ids=repr)
def test_rois_of_a_wrong_type(rois):
    with raises(NOT_A_TYPE_OR_VALUE, "rois"):
        roi_pool(rois)


@pytest.mark.parametrize("dtype", ["complex64", "U8", "object", "M8[s]"])
def test_rois_of_a_wrong_dtype(dtype):
    with raises(TypeError, "rois", "dtype"):
        roi_pool(np.zeros((3, 5)).astype(dtype))


def test_rois_that_are_ragged():
    with raises(NOT_A_TYPE_OR_VALUE, "rois"):
        roi_pool([[0, 0, 0, 5, 5], [0, 0, 0, 5]])
    with raises(NOT_A_TYPE_OR_VALUE, "rois"):
        roi_pool([[[0, 0, 5, 5]], [[0, 0, 5, 5], [0, 0, 5]]])


def test_number_of_groups_of_rois():
    group = np.array([[0.0, 0, 40, 40]])
    for groups in ([group], [group] * 3):
        with raises(ValueError, "rois", len(groups), 2):
            roi_pool(groups)


def test_groups_of_rois_of_a_wrong_shape():
    group = np.array([[0.0, 0, 40, 40]])
    for wrong in (np.zeros((2, 5)), np.zeros((2, 3))):
        with raises(ValueError, "rois[1]", wrong.shape):
            roi_pool([group, wrong])


def test_a_bad_window_in_a_group():
    group = np.array([[0.0, 0, 40, 40]])
    with pytest.raises(ValueError, match=r"^rois\[1\].*x1 = 3.*x0 = 9"):
        roi_pool([group, np.array([[9.0, 0, 3, 40]])])


def test_batch_index_that_is_missing():
    with raises(ValueError, "batch_index", 2):
        roi_pool(ROIS[:, 1:])


def test_batch_index_beside_five_columns_or_groups():
    with raises(ValueError, "batch_index"):
        roi_pool(ROIS, batch_index=[0, 1, 0])
    with raises(ValueError, "batch_index"):
        roi_pool([ROIS[:2, 1:], ROIS[2:, 1:]], batch_index=[0, 0, 1])


@pytest.mark.parametrize("index", [2, 7, -1, 2**40])
def test_batch_index_out_of_range(index):
    batch_index = [0, 1, index]
    with raises(ValueError, "batch_index[2]", index, "out of range", "2 maps"):
        roi_pool(ROIS[:, 1:], batch_index=batch_index)
    with raises(ValueError, "rois[2]", index):
        roi_pool(np.column_stack([batch_index, ROIS[:, 1:]]))


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e30])
def test_batch_index_column_that_is_no_whole_number_in_range(value):
    rois = ROIS.copy()
    rois[2, 0] = value
    with raises(ValueError, "rois[2]"):
        roi_pool(rois)


@pytest.mark.parametrize("batch_index", [[0, 1], [0, 1, 0, 1], [[0], [1], [0]], 0], ids=str)
def test_batch_index_of_a_wrong_shape(batch_index):
    with raises(ValueError, "batch_index", np.shape(batch_index)):
        roi_pool(ROIS[:, 1:], batch_index=batch_index)


@pytest.mark.parametrize("batch_index", [[0.5, 1, 0], ["0", "1", "0"], [None, 0, 0]], ids=str)
def test_batch_index_of_a_wrong_type(batch_index):
    with raises(NOT_A_TYPE_OR_VALUE, "batch_index"):
        roi_pool(ROIS[:, 1:], batch_index=batch_index)


def test_windows_into_an_empty_batch():
    x = np.empty((0, 3, 6, 7), np.float32)
    with raises(ValueError, "rois[0]"):
        roi_pool(ROIS, x)
    with raises(ValueError, "batch_index[0]", "0 maps"):
        roi_pool(ROIS[:, 1:], x, batch_index=[0, 0, 0])


def test_cells_that_are_not_whole():
    with raises(ValueError, "rois[1]", "y0", 5.5):
        roi_pool([[0, 0, 0, 4, 4], [1, 5, 5.5, 6, 6]], rounding="cells")


# ---- geometry


@pytest.mark.parametrize("geometry", [0, -16, np.nan, np.inf], ids=repr)
def test_stride_out_of_range(geometry):
    with raises(ValueError, "geometry", geometry):
        roi_pool(geometry=geometry)


@pytest.mark.parametrize("geometry", ["16", None, (16, 0), True], ids=repr)
def test_geometry_of_a_wrong_type(geometry):
    with raises(TypeError, "geometry"):
        roi_pool(geometry=geometry)


@pytest.mark.parametrize(
    "argument, value",
    [
        ("stride", 0),
        ("stride", -1),
        ("stride", np.nan),
        ("stride", np.inf),
        ("offset", np.nan),
        ("offset", -np.inf),
        ("receptive_field", 0),
        ("receptive_field", np.nan),
    ],
)
def test_conv_geometry_out_of_range(argument, value):
    with raises(ValueError, argument, value):
        sppfast.ConvGeometry(**{"stride": 16, argument: value})


@pytest.mark.parametrize("argument", ["stride", "offset", "receptive_field"])
def test_conv_geometry_of_a_wrong_type(argument):
    for value in ("16", None, [16], 2j):
        with raises(TypeError, argument):
            sppfast.ConvGeometry(**{"stride": 16, argument: value})


@pytest.mark.parametrize("layer", [(0, 1, 0), (3, 0, 0), (3, 1, -1), (3, 1), (3.5, 1, 0), "311", None], ids=repr)
def test_layers(layer):
    with raises(NOT_A_TYPE_OR_VALUE, "layers[1]", layer):
        sppfast.ConvGeometry.from_layers([(3, 1, 1), layer])


def test_preset():
    with raises(ValueError, "name", "'VGG'", "'ZF-5'", "'Overfeat-7'"):
        sppfast.ConvGeometry.preset("VGG")


@pytest.mark.parametrize("rois", [[[0, 0, np.nan, 5]], [[0, np.inf, 3, np.inf]]], ids=str)
def test_cells_of_coordinates_that_are_not_finite(rois):
    with raises(ValueError, "rois[0]", "not finite"):
        sppfast.ConvGeometry(16).cells(rois, 9, 9)


# ---- Pyramid


def test_split_of_a_wrong_length():
    with raises(ValueError, "result", 84, 63):
        sppfast.Pyramid((4, 2, 1)).split(np.zeros((2, 84)), 3)
    with raises(ValueError, "layout", "'CHW'"):
        sppfast.Pyramid((4, 2, 1)).split(np.zeros((2, 63)), 3, "CHW")
