"""``Pyramid``: bin rules, edges, windows and the layout of a result."""

import dataclasses

import numpy as np
import oracle
import pytest
from helpers import BINS, level_lists
from hypothesis import given
from hypothesis import strategies as st

from sppfast import Pyramid

lengths = st.integers(1, 2000)
bin_counts = st.integers(1, 40)


# ---- by hand

ADAPTIVE = {
    (13, 4): [[0, 4], [3, 7], [6, 10], [9, 13]],
    (13, 2): [[0, 7], [6, 13]],
    (13, 1): [[0, 13]],
    (12, 3): [[0, 4], [4, 8], [8, 12]],
    (2, 3): [[0, 1], [0, 2], [1, 2]],
    (1, 4): [[0, 1]] * 4,
}
SLIDING = {
    (13, 3): [[0, 5], [4, 9], [8, 13]],  # the paper's table: 13 x 13, window 5, stride 4
    (13, 2): [[0, 7], [6, 13]],
    (13, 1): [[0, 13]],
    (10, 3): [[0, 4], [3, 7], [6, 10]],
    (2, 3): [[0, 1]] * 3,
}
CAFFE = {
    (13, 4): [[0, 2], [2, 6], [6, 10], [10, 13]],  # k = 4, pad = (16 - 13 + 1) // 2 = 2
    (13, 2): [[0, 6], [6, 13]],  # k = 7, pad = 1
    (12, 3): [[0, 4], [4, 8], [8, 12]],
    (5, 4): [[0, 0], [0, 2], [2, 4], [4, 5]],  # k = 2, pad = 2
}


@pytest.mark.parametrize("rule, cases", [("adaptive", ADAPTIVE), ("sliding", SLIDING), ("caffe", CAFFE)])
def test_edges_by_hand(rule, cases):
    for (length, n), want in cases.items():
        edges = Pyramid(n, rule).edges(length, n)
        assert edges.dtype == np.int64 and edges.shape == (n, 2)
        empty = np.array([a == b for a, b in want])
        assert edges[~empty].tolist() == [bin for bin in want if bin[0] != bin[1]], (length, n)
        assert (edges[empty, 0] >= edges[empty, 1]).all()


def test_attributes():
    pyramid = Pyramid((4, (2, 3), 1))
    assert pyramid.levels == ((4, 4), (2, 3), (1, 1))
    assert pyramid.bins == "adaptive"
    assert pyramid.size == 16 + 6 + 1
    assert pyramid.output_length(256) == 256 * 23
    assert pyramid.slices(10) == (slice(0, 160), slice(160, 220), slice(220, 230))


def test_bare_int_and_other_spellings():
    assert Pyramid(7).levels == Pyramid([7]).levels == Pyramid(((7, 7),)).levels == ((7, 7),)
    assert Pyramid(np.int64(7)) == Pyramid(7)
    assert Pyramid(np.array([4, 2])) == Pyramid((4, 2)) == Pyramid([[4, 4], [2, 2]])
    assert all(type(n) is int for pair in Pyramid(np.array([4, 2])).levels for n in pair)


def test_frozen_hashable_and_equal():
    a, b = Pyramid((4, 2, 1)), Pyramid([(4, 4), 2, 1])
    assert a == b and hash(a) == hash(b) and len({a, b}) == 1
    assert a != Pyramid((4, 1, 2)) and a != Pyramid((4, 2, 1), "caffe") and a != (4, 2, 1)
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
        a.bins = "caffe"
    with pytest.raises((AttributeError, dataclasses.FrozenInstanceError)):
        a.levels = ((1, 1),)


def test_windows_by_hand():
    (level,) = Pyramid(((1, 2),)).windows(5, 13)
    assert level.dtype == np.int64
    assert level.tolist() == [[[0, 0, 7, 5], [6, 0, 13, 5]]]  # x0, y0, x1, y1
    (level,) = Pyramid(((2, 1),)).windows(5, 13)
    assert level.tolist() == [[[0, 0, 13, 3]], [[0, 2, 13, 5]]]


# ---- by rule


@given(lengths, bin_counts, st.sampled_from(BINS))
def test_edges_are_the_rule(length, n, rule):
    edges = Pyramid(n, rule).edges(length, n)
    for (start, stop), (want_start, want_stop) in zip(
        edges.tolist(), oracle.whole_axis_bins(length, n, rule), strict=True
    ):
        if want_start < want_stop:
            assert (start, stop) == (want_start, want_stop)
        else:
            assert start >= stop


@given(lengths, bin_counts, st.sampled_from(BINS))
def test_edges_lie_on_the_map(length, n, rule):
    edges = Pyramid(n, rule).edges(length, n)
    assert edges.min() >= 0
    assert edges.max() <= length


@given(lengths, bin_counts)
def test_adaptive_bins_cover_every_cell(length, n):
    edges = Pyramid(n).edges(length, n)
    covered = np.zeros(length, bool)
    for start, stop in edges:
        assert start < stop
        covered[start:stop] = True
    assert covered.all()
    assert (np.diff(edges, axis=0) >= 0).all()


@given(lengths, bin_counts)
def test_caffe_bins_tile_the_axis(length, n):
    edges = Pyramid(n, "caffe").edges(length, n)
    cells = [cell for start, stop in edges for cell in range(start, stop)]
    assert cells == list(range(length))[: len(cells)]
    k = -(-length // n)
    assert len(cells) >= min(length, n * k - (n * k - length + 1) // 2)


@given(lengths, bin_counts)
def test_sliding_bins_are_equally_wide(length, n):
    edges = Pyramid(n, "sliding").edges(length, n)
    assert set(np.diff(edges).ravel().tolist()) == {-(-length // n)}
    assert set(np.diff(edges[:, 0]).tolist()) <= {length // n}


@given(lengths, st.integers(1, 8), st.integers(1, 6))
def test_levels_that_divide_nest(length, n, factor):
    """Bin i of n is exactly the union of the bins i*factor to (i+1)*factor of n*factor."""
    coarse = Pyramid(n).edges(length, n)
    fine = Pyramid(n * factor).edges(length, n * factor).reshape(n, factor, 2)
    np.testing.assert_array_equal(coarse[:, 0], fine[:, :, 0].min(axis=1))
    np.testing.assert_array_equal(coarse[:, 1], fine[:, :, 1].max(axis=1))


@given(level_lists, lengths, lengths, st.sampled_from(BINS))
def test_windows_are_the_edges(levels, height, width, rule):
    pyramid = Pyramid(levels, rule)
    windows = pyramid.windows(height, width)
    assert len(windows) == len(pyramid.levels)
    for level, (rows, columns) in zip(windows, pyramid.levels, strict=True):
        assert level.shape == (rows, columns, 4) and level.dtype == np.int64
        y, x = pyramid.edges(height, rows), pyramid.edges(width, columns)
        for row in range(rows):
            for column in range(columns):
                assert level[row, column].tolist() == [x[column, 0], y[row, 0], x[column, 1], y[row, 1]]


def test_edges_of_long_axes_are_exact():
    """2**53 is where floating point would go wrong."""
    length, n = 2**58 + 1, 3
    assert Pyramid(n).edges(length, n).tolist() == [list(bin) for bin in oracle.adaptive_bins(0, length, n)]


# ---- layout of a result


@given(level_lists, st.integers(1, 9))
def test_slices_follow_each_other(levels, channels):
    pyramid = Pyramid(levels)
    slices = pyramid.slices(channels)
    assert [s.start for s in slices] == [0, *(s.stop for s in slices[:-1])]
    assert slices[-1].stop == pyramid.output_length(channels) == channels * pyramid.size
    for s, (rows, columns) in zip(slices, pyramid.levels, strict=True):
        assert s.stop - s.start == channels * rows * columns


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("batch", [(), (5,), (0,)])
def test_split(batch, layout):
    pyramid = Pyramid((3, (1, 2), 1))
    flat = np.arange(np.prod(batch, dtype=int) * 84, dtype=np.float32).reshape(*batch, 84)
    for result in (flat, np.asfortranarray(flat), np.repeat(flat, 2, axis=-1)[..., ::2]):
        views = pyramid.split(result, 7, layout)
        assert isinstance(views, tuple)
        for view, s, (rows, columns) in zip(views, pyramid.slices(7), pyramid.levels, strict=True):
            want = result[..., s].reshape(*batch, 7, rows, columns)
            np.testing.assert_array_equal(view, want if layout == "NCHW" else np.moveaxis(want, -3, -1))
            assert view.size == 0 or np.shares_memory(view, result)


def test_split_is_writable_through():
    result = np.zeros((2, 84))
    Pyramid((3, (1, 2), 1)).split(result, 7)[1][1, 6, 0, 1] = 5
    assert result[1, 63 + 13] == 5


@given(level_lists)
def test_repr_evaluates(levels):
    pyramid = Pyramid(levels, "caffe")
    assert eval(repr(pyramid), {"Pyramid": Pyramid}) == pyramid
