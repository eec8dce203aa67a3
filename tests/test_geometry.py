"""``ConvGeometry``: receptive-field arithmetic against probing, windows to cells and back."""

import dataclasses
import math

import numpy as np
import pytest
from helpers import windows
from hypothesis import assume, given
from hypothesis import strategies as st

import sppfast
from sppfast import ConvGeometry

layers = st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2)).filter(lambda layer: layer[2] < layer[0])
chains = st.lists(layers, min_size=1, max_size=4)


# ---- receptive fields


def convolve(signal, kernel, stride, padding):
    """Which input pixels each output cell sees: a layer of ones over rows of 0/1 marks, one row per pixel."""
    padded = np.pad(signal, ((0, 0), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=1)[:, ::stride]
    return windows.max(axis=2)


def probe(chain, size):
    """For each cell of a map, the first and last image pixel it sees; the pixels are probed one at a time."""
    marks = np.eye(size, dtype=bool)
    for layer in chain:
        if marks.shape[1] + 2 * layer[2] < layer[0]:
            return []
        marks = convolve(marks, *layer)
    return [(np.flatnonzero(cell).min(), np.flatnonzero(cell).max()) for cell in marks.T]


@given(chains)
def test_receptive_field_by_probing(chain):
    geometry = ConvGeometry.from_layers(chain)
    seen = probe(chain, 700)
    assert geometry.stride == math.prod(stride for _, stride, _ in chain)
    whole = [(cell, a, b) for cell, (a, b) in enumerate(seen) if b > 200 and a < 400]  # far from any padding
    assume(whole and all(kernel >= stride for kernel, stride, _ in chain))
    for cell, a, b in whole:
        assert b - a + 1 == geometry.receptive_field
        assert (a + b) / 2 == geometry.stride * cell + geometry.offset
        assert geometry.boxes([[cell, cell, cell + 1, cell + 1]]).tolist() == [[a, a, b, b]]


@given(chains, st.integers(1, 300))
def test_map_size_by_probing(chain, size):
    seen = probe(chain, size)
    assume(seen)
    geometry = ConvGeometry.from_layers(chain)
    assert geometry.map_size(size) == len(seen)
    assert geometry.map_size((size, size)) == (len(seen), len(seen))


def test_from_layers_by_hand():
    geometry = ConvGeometry.from_layers([(7, 2, 3), (3, 2, 1), (3, 1, 1)])
    assert (geometry.stride, geometry.offset, geometry.receptive_field) == (4, 0, 19)
    assert geometry.map_size(224) == 56
    geometry = ConvGeometry.from_layers([(4, 2, 0)])
    assert (geometry.stride, geometry.offset, geometry.receptive_field) == (2, 1.5, 4)


@given(chains, chains)
def test_then_is_the_longer_chain(first, second):
    joined = ConvGeometry.from_layers(first).then(ConvGeometry.from_layers(second))
    assert joined == ConvGeometry.from_layers([*first, *second])


def test_then_without_layers():
    joined = ConvGeometry(4, 1.5, 7).then(ConvGeometry(2, -0.5, 3))
    assert (joined.stride, joined.offset, joined.receptive_field) == (8, -0.5, 15)


@pytest.mark.parametrize(
    "name, stride, cells",
    [("ZF-5", 16, 13), ("Convnet*-5", 16, 13), ("Overfeat-5", 12, 18), ("Overfeat-7", 12, 18)],
)
def test_presets(name, stride, cells):
    geometry = ConvGeometry.preset(name)
    assert geometry.stride == stride
    assert geometry.map_size(224) == cells
    assert geometry.map_size((224, 224)) == (cells, cells)


@pytest.mark.parametrize("size, cells", [(1, 1), (16, 1), (17, 2), (224, 14), (225, 15)])
def test_map_size_without_layers(size, cells):
    """The cells whose centre lies in the image."""
    assert ConvGeometry(16).map_size(size) == cells


@given(st.floats(0.5, 40), st.floats(0, 50), st.integers(1, 2000))
def test_map_size_counts_centres(stride, offset, size):
    want = sum(stride * cell + offset <= size - 1 for cell in range(2 * size + 2))
    got = ConvGeometry(stride, offset).map_size(size)
    nearest = abs((size - 1 - offset) / stride - round((size - 1 - offset) / stride))
    assume(nearest > 1e-9)  # a centre on the very edge may round either way
    assert got == want


def test_map_size_of_a_tuple():
    assert ConvGeometry(16).map_size((480, 640)) == (30, 40)


def test_frozen_hashable_and_equal():
    a, b = ConvGeometry(16, 0.0), ConvGeometry(stride=16)
    assert a == b and hash(a) == hash(b)
    assert a != ConvGeometry(16, 1) and a != ConvGeometry(12) and a != 16
    assert ConvGeometry.preset("ZF-5") == ConvGeometry.preset("ZF-5")
    assert hash(ConvGeometry.from_layers([[3, 1, 1]])) == hash(ConvGeometry.from_layers([(3, 1, 1)]))
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
        a.stride = 8


def test_defaults():
    geometry = ConvGeometry(16)
    assert (geometry.stride, geometry.offset, geometry.receptive_field, geometry.layers) == (16, 0, 1, ())


# ---- windows to cells


def appendix_a1(x0, x1, stride, offset, length):
    """A plain loop's worth of appendix A.1, half-open."""
    a = math.floor((x0 - offset) / stride) + 1
    b = math.ceil((x1 - offset) / stride) - 1
    if a > b:
        a = b = math.floor((a + b) / 2)
    return min(max(a, 0), length - 1), min(max(b, 0), length - 1) + 1


@given(
    windows((600, 900), max_count=20),
    st.sampled_from([16, 12, 1, 0.5, 13.7]),
    st.sampled_from([0.0, 7.5, -20.25]),
    st.integers(1, 60),
    st.integers(1, 60),
)
def test_cells(rois, stride, offset, height, width):
    for some in (rois, np.rint(rois)):
        cells = ConvGeometry(stride, offset).cells(some, height, width)
        assert cells.dtype == np.int64 and cells.shape == some.shape
        want = []
        for x0, y0, x1, y1 in some.tolist():
            left, right = appendix_a1(x0, x1, stride, offset, width)
            top, bottom = appendix_a1(y0, y1, stride, offset, height)
            want.append([left, top, right, bottom])
        assert cells.tolist() == want


def test_cells_by_hand():
    geometry = ConvGeometry(16)
    rois = [[0, 0, 160, 160], [17, 32, 31, 32], [-900, -900, -800, 1e30]]
    want = [[1, 1, 10, 9], [1, 2, 2, 3], [0, 0, 1, 9]]
    assert geometry.cells(rois, height=9, width=12).tolist() == want


def test_cells_of_no_rois():
    assert ConvGeometry(16).cells(np.empty((0, 4)), 9, 9).shape == (0, 4)


def test_cells_of_huge_coordinates():
    rois = np.array([[-1e30, -1e300, 1e30, 1e300], [1e300] * 4, [-1e300] * 4])
    want = [[0, 0, 7, 5], [6, 4, 7, 5], [0, 0, 1, 1]]
    assert ConvGeometry(16).cells(rois, 5, 7).tolist() == want


def test_roi_pool_uses_cells(rng):
    x = rng.integers(0, 9, (1, 5, 20, 30)).astype(np.float32)
    geometry = ConvGeometry(13.7, 4.5)
    rois = np.sort(rng.uniform(-60, 480, (40, 2, 2)), axis=1).reshape(40, 4)
    got = sppfast.roi_pool(x, geometry.cells(rois, 20, 30), rounding="cells")
    np.testing.assert_array_equal(got, sppfast.roi_pool(x, rois, geometry=geometry))


# ---- cells to boxes


def test_boxes_by_hand():
    assert ConvGeometry(16).boxes([[0, 1, 3, 5]]).tolist() == [[0, 16, 32, 64]]
    got = ConvGeometry(16, 2.0, 51).boxes(np.array([[0, 1, 3, 5]]))
    assert got.dtype == np.float64
    assert got.tolist() == [[2 - 25, 18 - 25, 34 + 25, 66 + 25]]
    assert ConvGeometry(16).boxes(np.empty((0, 4), int)).shape == (0, 4)


@given(windows((300, 400), max_count=10), st.sampled_from([0.0, 7.5, -3.0]))
def test_cells_lie_strictly_inside_their_window(rois, offset):
    """Appendix A.1 takes the cells whose centre lies inside the window, where there are any."""
    geometry = ConvGeometry(16, offset)
    boxes = geometry.boxes(geometry.cells(rois, 1000, 1000))
    first, last = geometry.cells([[-1e9, -1e9, 1e9, 1e9]], 1000, 1000)[0, [0, 2]]
    assert (first, last) == (0, 1000)
    wide = ((rois[:, 2:] - rois[:, :2]) > 32).all(axis=1) & (rois[:, :2] >= offset - 16).all(axis=1)
    assert (boxes[wide, :2] > rois[wide, :2]).all()
    assert (boxes[wide, 2:] < rois[wide, 2:]).all()
