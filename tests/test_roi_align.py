"""``roi_align`` against the oracle, ONNX Runtime and the ONNX project's own node tests; properties; wrong input."""

import warnings

import numpy as np
import oracle
import pytest
from helpers import FLOATS, LAYOUTS, as_plain, dtype_of, in_layout, level_lists, make, make_rois, maps, windows
from hypothesis import given
from hypothesis import strategies as st

import sppfast
from sppfast.cpu import ways, weigh

MODES = ("avg", "max")
SIZES = [(1, 1), (1, 9), (9, 1), (5, 5), (14, 7), (38, 63)]
# Of the largest cell: the weights' and the sum's rounding, and the result's.
TOLERANCE = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2e-6, "float64": 1e-13}


def check(x, rois, levels=(7,), **options):
    """Align with the package and with the oracle, compare, and return the package's result."""
    want = oracle.roi_align(x, rois, levels, **options)
    got = sppfast.roi_align(x, rois, levels, **options)
    pairs = [(got, want)] if options.get("flatten", True) else zip(got, want, strict=True)
    for one_got, one_want in pairs:
        assert one_got.dtype == one_want.dtype
        assert one_got.shape == one_want.shape
        tolerance = TOLERANCE[one_want.dtype.name]
        np.testing.assert_allclose(as_plain(one_got), as_plain(one_want), rtol=tolerance, atol=4 * tolerance)
    return got


def rois_for(rng, count, size, stride=16):
    return make_rois(rng, count, (size[0] * stride, size[1] * stride))


# ---- against the oracle


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
def test_options(mode, aligned, sampling_ratio, rng):
    x = make(rng, (2, 5, 14, 17), "float32", "spread")
    rois = rois_for(rng, 8, (14, 17))
    options = {"sampling_ratio": sampling_ratio, "aligned": aligned, "mode": mode}
    check(x, rois, (3, (1, 2)), batch_index=rng.integers(0, 2, 8), **options)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [*FLOATS, "bool", "int8", "uint16", "int32", "int64"])
def test_dtypes(dtype, mode, rng):
    check(make(rng, (40, 9, 8), dtype, "ties"), rois_for(rng, 5, (9, 8)), (2, 1), mode=mode)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integers_give_the_bits_of_the_floats_that_they_are(dtype, layout, rng):
    """They are not converted before: by tile or where they lie, of few windows and of many."""
    limits = np.iinfo(dtype)
    x = in_layout(rng.integers(limits.min, limits.max, (2, 40, 9, 8), dtype, endpoint=True), layout)
    floats = x.astype(np.result_type(dtype, np.float32))
    for count in (1, 60):
        rois = np.column_stack([rng.integers(0, 2, count), rois_for(rng, count, (9, 8))])
        for options in ({"mode": mode, "sampling_ratio": ratio} for mode in MODES for ratio in (0, 2)):
            want = sppfast.roi_align(floats, rois, (3, 1), layout=layout, **options)
            got = sppfast.roi_align(x, rois, (3, 1), layout=layout, **options)
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 33, 100])
def test_sizes(size, channels, rng):
    check(make(rng, (channels, *size), "float32", "spread"), rois_for(rng, 4, size), (3, 1), sampling_ratio=0)


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_forms(layout, flatten, rng):
    x = in_layout(make(rng, (2, 6, 9, 8), "float32", "spread"), layout)
    rois = np.column_stack([rng.integers(0, 2, 5), rois_for(rng, 5, (9, 8))])
    check(x, rois, (3, (2, 1)), layout=layout, flatten=flatten)
    check(x[..., ::-1], rois, 2, layout=layout, flatten=flatten)


@pytest.mark.parametrize("mode", MODES)
def test_maps_of_different_sizes(mode, rng):
    sizes = [(9, 8), (3, 12), (1, 1)]
    x = [make(rng, (5, *size), "float32", "spread") for size in sizes]
    check(x, [rois_for(rng, 3, size) for size in sizes], (3, 1), mode=mode, sampling_ratio=0)


def test_a_geometry_with_an_offset(rng):
    geometry = sppfast.ConvGeometry(12, offset=5.5)
    check(make(rng, (5, 9, 8), "float32", "spread"), rois_for(rng, 5, (9, 8), 12), 3, geometry=geometry)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tile", [0, 2**20])
def test_maps_larger_than_the_tile(monkeypatch, forget, mode, tile, rng):
    """Rows that the taps name are packed one by one, few at a time where the tile is small."""
    x = make(rng, (40, 30, 25), "float32", "spread")
    rois = rois_for(rng, 6, (30, 25))
    whole = sppfast.roi_align(x, rois, (5, 1), sampling_ratio=0, mode=mode)
    monkeypatch.setattr(ways, "SHARED_BYTES", 0)
    monkeypatch.setattr(ways, "TILE_BYTES", tile)
    forget()
    np.testing.assert_array_equal(sppfast.roi_align(x, rois, (5, 1), sampling_ratio=0, mode=mode), whole)


def test_windows_in_parts(monkeypatch, rng):
    """The table of taps is made for as many windows at a time as fit into it."""
    x = make(rng, (2, 5, 14, 17), "float32", "spread")
    rois, index = rois_for(rng, 50, (14, 17)), rng.integers(0, 2, 50)
    whole = sppfast.roi_align(x, rois, (3, 1), batch_index=index, sampling_ratio=0)
    monkeypatch.setattr(weigh, "TABLE_BYTES", 2000)
    np.testing.assert_array_equal(sppfast.roi_align(x, rois, (3, 1), batch_index=index, sampling_ratio=0), whole)


# ---- against others


def onnx_runtime(x, rois, index, n, **attributes):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper = pytest.importorskip("onnx.helper", reason="onnx is not installed")
    attributes |= {"output_height": n, "output_width": n}
    feeds = {"x": x, "rois": rois, "index": index}
    inputs = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()
    ]
    output = helper.make_tensor_value_info("y", inputs[0].type.tensor_type.elem_type, None)
    graph = helper.make_graph([helper.make_node("RoiAlign", list(feeds), ["y"], **attributes)], "g", inputs, [output])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 16)])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of its own max
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


@pytest.mark.peers
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 5])
def test_onnx_runtime(mode, aligned, sampling_ratio, rng):
    x = make(rng, (3, 19, 23, 31), "float32", "spread")
    rois = rois_for(rng, 300, (23, 31)).astype(np.float32)
    index = rng.integers(0, 3, 300)
    transformation = "half_pixel" if aligned else "output_half_pixel"
    attributes = {"mode": mode, "sampling_ratio": sampling_ratio, "coordinate_transformation_mode": transformation}
    want = onnx_runtime(x, rois, index, 7, spatial_scale=1 / 16, **attributes)
    options = {"sampling_ratio": sampling_ratio, "aligned": aligned, "mode": mode, "flatten": False}
    got = sppfast.roi_align(x, rois, (7,), batch_index=index, **options)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def onnx_cases():
    """The cases of RoiAlign among the node tests that the onnx wheel carries."""
    case = pytest.importorskip("onnx.backend.test.case.node", reason="onnx is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other operators' cases overflow on purpose
        return {test.name: test for test in case.collect_testcases("RoiAlign") if "roialign" in test.name}


@pytest.mark.peers
def test_onnx_node_tests():
    cases = onnx_cases()
    assert len(cases) >= 3
    for test in cases.values():
        attributes = {a.name: a for a in test.model.graph.node[0].attribute}
        shape = attributes["output_height"].i, attributes["output_width"].i
        mode = attributes["mode"].s.decode() if "mode" in attributes else "avg"
        transformation = attributes["coordinate_transformation_mode"].s.decode()
        for (x, rois, index), (want,) in test.data_sets:
            got = sppfast.roi_align(
                x,
                rois,
                (shape,),
                geometry=1 / attributes["spatial_scale"].f,
                sampling_ratio=attributes["sampling_ratio"].i,
                aligned=transformation == "half_pixel",
                batch_index=index,
                mode=mode,
                flatten=False,
            )[0]
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4, err_msg=test.name)  # four digits are kept


# ---- properties


@given(maps(batch=False), st.data(), level_lists, st.integers(0, 3), st.booleans())
def test_constant_maps(x, data, levels, ratio, aligned):
    """Inside the map every sample of a constant is the constant."""
    height, width = x.shape[-2:]
    rois = data.draw(windows((height, width)))
    rois = np.clip(rois, 0.5, [width - 0.5, height - 0.5] * 2)
    rois[:, 2:] = np.maximum(rois[:, 2:], rois[:, :2] + 1e-3)
    y = sppfast.roi_align(np.full_like(x, 3), rois, levels, geometry=1, sampling_ratio=ratio)
    np.testing.assert_allclose(y, 3, rtol=1e-6)


@given(maps(batch=False), st.data(), level_lists, st.sampled_from(MODES))
def test_a_window_changes_no_other(x, data, levels, mode):
    rois = data.draw(windows((x.shape[-2] * 16, x.shape[-1] * 16)))
    together = sppfast.roi_align(x, rois, levels, mode=mode)
    for i in range(len(rois)):
        np.testing.assert_array_equal(sppfast.roi_align(x, rois[i : i + 1], levels, mode=mode)[0], together[i])


@pytest.mark.parametrize("mode", MODES)
def test_workers_and_out_change_nothing(mode, rng):
    x = make(rng, (2, 70, 20, 30), "float32", "spread")
    rois, index = rois_for(rng, 500, (20, 30)), rng.integers(0, 2, 500)
    want = sppfast.roi_align(x, rois, (5, 2), batch_index=index, mode=mode, workers=1)
    for workers in (2, 3, 8):
        got = sppfast.roi_align(x, rois, (5, 2), batch_index=index, mode=mode, workers=workers)
        np.testing.assert_array_equal(got, want)
    for out in (np.empty_like(want), np.empty((want.shape[0], 2 * want.shape[1]), want.dtype)[:, ::2]):
        assert sppfast.roi_align(x, rois, (5, 2), batch_index=index, mode=mode, out=out) is out
        np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("mode", MODES)
def test_nan_stays_in_its_bins(mode):
    x = np.zeros((3, 8, 8), np.float32)
    x[1, 2, 2] = np.nan
    y = sppfast.roi_align(x, [[0, 0, 8, 8]], 4, geometry=1, mode=mode, flatten=False)[0][0]
    assert np.isnan(y[1, 1, 1])
    assert np.isfinite(y[[0, 2]]).all()
    assert np.isfinite(y[1, 3]).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 1024])
def test_hostile_windows(mode, sampling_ratio, rng):
    """Enormous, far away, without extent: finite, quick, and the samples outside count as 0."""
    x = make(rng, (5, 9, 8), "float32", "spread")
    far = [1e3, 1e9, 1e20, 3e38, 1e300]
    rois = [[-f, -f, f, f] for f in far] + [[f, f, 2 * f, 2 * f] for f in far[:3]] + [[50.0, 50, 50, 50]]
    y = sppfast.roi_align(x, np.array(rois), (3, 1), sampling_ratio=sampling_ratio, mode=mode)
    assert np.isfinite(y).all()
    assert not y[len(far) : -1].any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hostile_geometry(mode, dtype, rng):
    """Strides and offsets beyond the range of coordinates: finite, and nothing outside the map is read."""
    x = make(rng, (5, 9, 8), dtype, "spread")
    rois = np.array([[0.0, 0, 5, 5], [-3, -2, 0, 0], [0, 0, 1e300, 3], [1e300, -1e300, 1.5e300, 1e300]])
    for stride in (5e-324, 1e-300, 1e-40, 1e40, 1e300):
        for offset in (0.0, 1e300, -1e300):
            geometry = sppfast.ConvGeometry(stride, offset=offset)
            for ratio in (0, 2):
                y = sppfast.roi_align(x, rois, (3, 1), geometry=geometry, sampling_ratio=ratio, mode=mode)
                assert np.isfinite(y).all()
            grad = np.ones(y.shape, dtype)
            assert np.isfinite(sppfast.roi_align_backward(grad, x, rois, (3, 1), geometry=geometry, mode=mode)).all()
            assert np.isfinite(sppfast.roi_pool(x, rois, (3, 1), geometry=geometry, rounding="fast_rcnn")).all()


def test_no_windows_and_no_maps():
    assert sppfast.roi_align(np.zeros((3, 4, 5), np.float32), np.empty((0, 4)), 2).shape == (0, 12)
    assert sppfast.roi_align(np.zeros((0, 3, 4, 5), np.float32), np.empty((0, 5)), 2).shape == (0, 12)


# ---- wrong input

X = np.zeros((2, 3, 6, 7), np.float32)
ROIS = np.array([[0.0, 0, 0, 40, 40], [1, 5, 5, 60, 60]])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sampling_ratio": -1}, ValueError, "sampling_ratio: expected 0 to 1024, got -1"),
        ({"sampling_ratio": 1025}, ValueError, "sampling_ratio: expected 0 to 1024, got 1025"),
        ({"sampling_ratio": 1.5}, TypeError, "sampling_ratio: expected an integer, got 1.5"),
        ({"sampling_ratio": True}, TypeError, "sampling_ratio: expected an integer, got True"),
        ({"aligned": 1}, TypeError, "aligned: expected a bool, got 1"),
        ({"mode": "min"}, ValueError, "mode: 'min' is not one of 'max', 'avg'"),
        ({"layout": "NWHC"}, ValueError, "layout: "),
        ({"geometry": 0}, ValueError, "geometry: "),
        ({"batch_index": [0, 0]}, ValueError, "batch_index: "),
        ({"out": np.empty((2, 5), np.float32)}, ValueError, "out: expected shape "),
        ({"workers": 0}, ValueError, "workers: "),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error) as caught:
        sppfast.roi_align(X, ROIS, 2, **options)
    assert str(caught.value).startswith(message)


def test_wrong_windows():
    with pytest.raises(ValueError, match=r"^rois\[1\]: x1 = 3 is left of x0 = 5"):
        sppfast.roi_align(X, [[0, 0, 0, 40, 40], [1, 5, 5, 3, 60]], 2)
    with pytest.raises(ValueError, match=r"^rois\[0\]: "):
        sppfast.roi_align(X, [[0, 0, np.nan, 40, 40]], 2)


def test_complex_maps():
    with pytest.raises(TypeError, match=r"^x: "):
        sppfast.roi_align(X.astype(np.complex64), ROIS, 2)


def test_float64_coordinates_are_float64(rng):
    """A sample's place is exact to float64 where the map is."""
    x = np.arange(40, dtype=np.float64)[None, None, :] * np.ones((1, 5, 1))
    y = sppfast.roi_align(x, [[1.1, 1, 30.7, 3]], ((1, 1),), geometry=1, sampling_ratio=1, aligned=False)
    assert y[0, 0] == pytest.approx((1.1 + 30.7) / 2, rel=1e-15)


def test_half_precision_is_rounded_once(rng):
    x = make(rng, (9, 12, 12), "float16", "spread")
    rois = rois_for(rng, 20, (12, 12))
    y = sppfast.roi_align(x, rois, 3)
    deep = sppfast.roi_align(x.astype(np.float32), rois, 3)
    np.testing.assert_allclose(y.astype(np.float32), deep, rtol=2.0**-11, atol=2.0**-24)
    assert y.dtype == dtype_of("float16")
