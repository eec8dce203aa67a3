"""What the tests share: random inputs, the comparison with the oracle, and hypothesis strategies."""

import ml_dtypes
import numpy as np
import oracle
from hypothesis import strategies as st

import sppfast

FLOATS = ("float16", "bfloat16", "float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = (*FLOATS, "bool", *INTEGERS)
LAYOUTS = ("NCHW", "NHWC")
MODES = ("max", "avg")
BINS = ("adaptive", "sliding", "caffe")
ROUNDINGS = ("sppnet", "fast_rcnn", "cells")
KINDS = ("ties", "spread", "special")

# float32 means are rounded once from float64; float64 means may differ by the order of the sum;
# None: the two must be equal.
TOLERANCE = {"float32": 2e-6, "float64": 1e-12, "float16": None, "bfloat16": None}


def dtype_of(name):
    """A NumPy dtype from its name, bfloat16 included."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


# ---- inputs


def make(rng, shape, dtype="float32", kind="ties"):
    """A random array: many ties, values spread over the dtype, or NaN, infinities and both zeros too."""
    dtype = dtype_of(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.2
    if dtype.kind in "iu" and kind != "ties":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        return rng.integers(low, high, shape, dtype, endpoint=True)
    if kind == "ties":
        return rng.integers(-3 if dtype.kind != "u" else 0, 4, shape).astype(dtype)
    values = rng.standard_normal(shape)
    if kind == "special":
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])
        values = np.where(rng.random(shape) < 0.1, rng.choice(special, shape), values)
    return values.astype(dtype)


def in_layout(x, layout):
    """A contiguous copy in the given layout of a (..., C, H, W) array."""
    return x if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(x, -3, -1))


def make_map(rng, shape, dtype="float32", kind="ties", layout="NCHW"):
    """A random array of (..., C, H, W) shape, put into a layout."""
    return in_layout(make(rng, shape, dtype, kind), layout)


def make_rois(rng, count, image, *, whole=False, reach=0.5):
    """Random (count, 4) windows of an image of (height, width) pixels; some lie partly or wholly outside."""
    height, width = image
    low, high = -reach, 1 + reach
    x = np.sort(rng.uniform(low * width, high * width, (count, 2)), axis=1)
    y = np.sort(rng.uniform(low * height, high * height, (count, 2)), axis=1)
    rois = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    return np.rint(rois) if whole else rois


# ---- comparison


def assert_same(got, want, mode="max", scale=1.0):
    """One array against the oracle's: shape, dtype, and values as close as the design promises."""
    assert isinstance(got, np.ndarray)
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert got.dtype.isnative
    tolerance = TOLERANCE[want.dtype.name] if mode == "avg" else None
    if tolerance is None:
        np.testing.assert_array_equal(as_plain(got), as_plain(want))
        if mode == "max" and want.dtype.name in FLOATS:
            numbers = want == want
            np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(want[numbers]), "sign of zero")
        return
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=1e-13 * scale)


def assert_equal(got, want):
    """Two results of the same form, equal to the last bit."""
    assert type(got) is type(want)
    if isinstance(want, list | tuple):
        for one_got, one_want in zip(got, want, strict=True):
            assert_equal(one_got, one_want)
        return
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(as_plain(got), as_plain(want))


def compare(got, want, mode, scale, flatten, return_indices):
    """A whole result against the oracle's, in whichever form."""
    results = [(got, want, mode)]
    if return_indices:
        assert isinstance(got, tuple) and len(got) == 2
        results = [(got[0], want[0], mode), (got[1], want[1], "max")]
    for one_got, one_want, one_mode in results:
        if flatten:
            assert_same(one_got, one_want, one_mode, scale)
            continue
        assert isinstance(one_got, tuple) and len(one_got) == len(one_want)
        for level_got, level_want in zip(one_got, one_want, strict=True):
            assert_same(level_got, level_want, one_mode, scale)


def largest(x):
    """The largest finite magnitude in x: what rounding errors of a mean are measured against."""
    arrays = [x] if isinstance(x, np.ndarray) else x
    sizes = [np.abs(a[np.isfinite(a)].astype(np.float64)).max(initial=0) for a in map(as_plain, arrays)]
    return max(sizes, default=0)


def as_plain(array):
    """The same values in a dtype that every NumPy function takes."""
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype == oracle.BFLOAT16 else array


def check_pool(x, levels=(4, 2, 1), *, workers=None, out=None, **options):
    """Pool with the package and with the oracle, compare, and return the package's result."""
    want = oracle.pool(x, levels, **options)
    got = sppfast.pool(x, levels, workers=workers, out=out, **options)
    form = options.get("flatten", True), options.get("return_indices", False)
    compare(got, want, options.get("mode", "max"), largest(x), *form)
    return got


def check_roi_pool(x, rois, levels=(6, 3, 2, 1), *, workers=None, out=None, **options):
    """The same for windows."""
    want = oracle.roi_pool(x, rois, levels, **options)
    got = sppfast.roi_pool(x, rois, levels, workers=workers, out=out, **options)
    form = options.get("flatten", True), options.get("return_indices", False)
    compare(got, want, options.get("mode", "max"), largest(x), *form)
    return got


# ---- strategies

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 20)
counts = st.integers(1, 7)
pairs = st.tuples(counts, counts)
level_lists = st.lists(st.one_of(counts, pairs), min_size=1, max_size=4).map(tuple)


@st.composite
def maps(draw, *, batch=True, dtypes=("float32",), kinds=("ties",)):
    """A random (N, C, H, W) array, or (C, H, W) without the batch."""
    shape = (draw(st.integers(1, 20)), draw(sides), draw(sides))
    if batch:
        shape = (draw(st.integers(1, 3)), *shape)
    rng = np.random.default_rng(draw(seeds))
    return make(rng, shape, draw(st.sampled_from(dtypes)), draw(st.sampled_from(kinds)))


@st.composite
def windows(draw, image, max_count=6):
    """Random (R, 4) windows in and around an image of (height, width) pixels."""
    rng = np.random.default_rng(draw(seeds))
    return make_rois(rng, draw(st.integers(1, max_count)), image)
