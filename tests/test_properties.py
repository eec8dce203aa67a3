"""What must hold for any input, whatever the oracle says."""

import numpy as np
from helpers import BINS, DTYPES, MODES, ROUNDINGS, level_lists, make_rois, maps, seeds, windows
from hypothesis import given
from hypothesis import strategies as st

import sppfast

modes, bins, roundings = (st.sampled_from(names) for names in (MODES, BINS, ROUNDINGS))
any_maps = maps(dtypes=DTYPES, kinds=("ties", "spread"))
IMAGE = (160, 160)


def same(got, want, mode):
    """Equal for max; to rounding for avg, whose sums may be in another order."""
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=2e-6 if mode == "avg" else 0, atol=1e-13
    )


# ---- pool


@given(any_maps, st.integers(1, 5), st.integers(1, 5))
def test_levels_nest(x, n, factor):
    """The maximum over the bins of a finer level that divides is the coarser level."""
    fine, coarse = sppfast.pool(x, (n * factor, n), flatten=False)
    fine = fine.reshape(*x.shape[:2], n, factor, n, factor)
    np.testing.assert_array_equal(fine.max(axis=(3, 5)), coarse)


@given(any_maps, level_lists, bins, st.randoms(use_true_random=False))
def test_levels_are_independent(x, levels, rule, random):
    """A level does not depend on the levels beside it, or on their order."""
    alone = {level: sppfast.pool(x, (level,), bins=rule) for level in levels}
    shuffled = random.sample(levels, len(levels))
    want = np.concatenate([alone[level] for level in shuffled], axis=1)
    np.testing.assert_array_equal(sppfast.pool(x, shuffled, bins=rule), want)


@given(any_maps, level_lists, bins, modes, seeds)
def test_permuting_channels_permutes_the_result(x, levels, rule, mode, seed):
    order = np.random.default_rng(seed).permutation(x.shape[1])
    options = {"bins": rule, "mode": mode, "flatten": False}
    for got, want in zip(sppfast.pool(x[:, order], levels, **options), sppfast.pool(x, levels, **options), strict=True):
        np.testing.assert_array_equal(got, want[:, order])


@given(any_maps, level_lists, bins, modes, seeds)
def test_permuting_the_batch_permutes_the_rows(x, levels, rule, mode, seed):
    order = np.random.default_rng(seed).permutation(len(x))
    options = {"bins": rule, "mode": mode}
    got = sppfast.pool(x[order], levels, **options)
    np.testing.assert_array_equal(got, sppfast.pool(x, levels, **options)[order])


@given(any_maps, level_lists, bins, modes)
def test_forms_of_a_batch_agree(x, levels, rule, mode):
    """A batch, its maps one by one, and its maps as a sequence."""
    options = {"bins": rule, "mode": mode}
    want = sppfast.pool(x, levels, **options)
    same(np.stack([sppfast.pool(one, levels, **options) for one in x]), want, mode)
    same(sppfast.pool(list(x), levels, **options), want, mode)


@given(any_maps, level_lists, bins, modes)
def test_layouts_agree(x, levels, rule, mode):
    options = {"bins": rule, "mode": mode}
    want = sppfast.pool(x, levels, **options)
    last = np.moveaxis(x, 1, -1)
    for nhwc in (last, np.ascontiguousarray(last)):
        same(sppfast.pool(nhwc, levels, layout="NHWC", **options), want, mode)
    if mode == "max":
        _, want = sppfast.pool(x, levels, bins=rule, return_indices=True)
        _, got = sppfast.pool(last, levels, bins=rule, layout="NHWC", return_indices=True)
        np.testing.assert_array_equal(got, want)


@given(
    maps(dtypes=("float32",)),
    level_lists,
    modes,
    st.sampled_from(["adaptive", "sliding"]),
    st.floats(-1e6, 1e6, width=32),
)
def test_a_constant_pools_to_itself(x, levels, mode, rule, value):
    x[...] = value
    np.testing.assert_array_equal(sppfast.pool(x, levels, mode=mode, bins=rule), np.float32(value))


@given(any_maps, level_lists, modes)
def test_flipping_the_map_flips_the_bins(x, levels, mode):
    """Adaptive bins are symmetric: bin i from the left is bin n-1-i from the right."""
    for axis in (2, 3):
        flipped = sppfast.pool(np.flip(x, axis), levels, mode=mode, flatten=False)
        for got, want in zip(flipped, sppfast.pool(x, levels, mode=mode, flatten=False), strict=True):
            same(np.flip(got, axis), want, mode)


@given(any_maps, level_lists, bins, modes)
def test_transposing_the_map_transposes_the_bins(x, levels, rule, mode):
    pairs = sppfast.Pyramid(levels).levels
    options = {"bins": rule, "mode": mode, "flatten": False}
    swapped = sppfast.pool(x.swapaxes(2, 3), [pair[::-1] for pair in pairs], **options)
    for got, want in zip(swapped, sppfast.pool(x, pairs, **options), strict=True):
        same(got.swapaxes(2, 3), want, mode)


@given(any_maps, level_lists, bins)
def test_indices_point_at_the_maxima(x, levels, rule):
    values, indices = sppfast.pool(x, levels, bins=rule, flatten=False, return_indices=True)
    np.testing.assert_array_equal(
        np.concatenate([v.ravel() for v in values]),
        np.concatenate([v.ravel() for v in sppfast.pool(x, levels, bins=rule, flatten=False)]),
    )
    cells = x.reshape(*x.shape[:2], -1)
    for value, index in zip(values, indices, strict=True):
        flat = index.reshape(*x.shape[:2], -1)
        taken = np.take_along_axis(cells, np.maximum(flat, 0).astype(np.int64), axis=2)
        want = np.where(flat < 0, np.zeros((), x.dtype), taken)
        np.testing.assert_array_equal(value.reshape(want.shape), want)


@given(any_maps, level_lists, bins)
def test_indices_lie_in_their_bins(x, levels, rule):
    pyramid = sppfast.Pyramid(levels, rule)
    _, indices = sppfast.pool(x, levels, bins=rule, flatten=False, return_indices=True)
    height, width = x.shape[2:]
    for index, window in zip(indices, pyramid.windows(height, width), strict=True):
        x0, y0, x1, y1 = np.moveaxis(window, -1, 0)
        row, column = index // width, index % width
        inside = (row >= y0) & (row < y1) & (column >= x0) & (column < x1)
        empty = (x0 >= x1) | (y0 >= y1)
        assert (inside | (empty & (index == -1))).all()


@given(maps(dtypes=("float32", "float64"), kinds=("spread",)), level_lists)
def test_max_bounds_avg(x, levels):
    assert (sppfast.pool(x, levels) >= sppfast.pool(x, levels, mode="avg") - 1e-6).all()


@given(maps(dtypes=("float32", "int16"), kinds=("ties",)), level_lists, bins)
def test_max_commutes_with_monotone_maps(x, levels, rule):
    """Among non-empty bins: doubling, adding one, and a change of dtype."""
    values, indices = sppfast.pool(x, levels, bins=rule, return_indices=True)
    got = sppfast.pool((2 * x + 1).astype(np.float64), levels, bins=rule)
    np.testing.assert_array_equal(got, np.where(indices < 0, 0, 2 * values + 1))


# ---- roi_pool


@given(any_maps, level_lists, modes)
def test_the_whole_map_as_a_window(x, levels, mode):
    rois = [[n, 0, 0, x.shape[3], x.shape[2]] for n in range(len(x))]
    got = sppfast.roi_pool(x, rois, levels, rounding="cells", mode=mode)
    same(got, sppfast.pool(x, levels, mode=mode), mode)


@given(maps(batch=False, dtypes=DTYPES), level_lists, modes, seeds)
def test_a_window_of_cells_is_pool_of_the_slice(x, levels, mode, seed):
    rois = make_rois(np.random.default_rng(seed), 4, x.shape[1:], whole=True, reach=0).astype(int)
    got = sppfast.roi_pool(x, rois, levels, rounding="cells", mode=mode)
    for row, (x0, y0, x1, y1) in zip(got, rois, strict=True):
        if x0 == x1 or y0 == y1:
            assert (row == 0).all()
            continue
        same(row, sppfast.pool(x[:, y0:y1, x0:x1], levels, mode=mode), mode)


@given(maps(batch=False, dtypes=DTYPES), windows(IMAGE), windows(IMAGE), level_lists, roundings, modes)
def test_adding_rois_changes_no_other_row(x, rois, more, levels, rounding, mode):
    rois, more = np.rint(rois), np.rint(more)
    options = {"rounding": rounding, "mode": mode}
    alone = sppfast.roi_pool(x, rois, levels, **options)
    for together, rows in (
        (np.concatenate([rois, more]), slice(None, len(rois))),
        (np.concatenate([more, rois]), slice(len(more), None)),
    ):
        np.testing.assert_array_equal(sppfast.roi_pool(x, together, levels, **options)[rows], alone)


@given(any_maps, windows(IMAGE, max_count=10), level_lists, roundings, modes, seeds)
def test_permuting_rois_permutes_the_rows(x, rois, levels, rounding, mode, seed):
    rng = np.random.default_rng(seed)
    batch_index, order = rng.integers(0, len(x), len(rois)), rng.permutation(len(rois))
    options = {"rounding": rounding, "mode": mode}
    want = sppfast.roi_pool(x, np.rint(rois), levels, batch_index=batch_index, **options)[order]
    got = sppfast.roi_pool(x, np.rint(rois)[order], levels, batch_index=batch_index[order], **options)
    np.testing.assert_array_equal(got, want)


@given(any_maps, windows(IMAGE), level_lists, roundings, seeds)
def test_permuting_channels_permutes_the_windows(x, rois, levels, rounding, seed):
    rng = np.random.default_rng(seed)
    order, batch_index = rng.permutation(x.shape[1]), rng.integers(0, len(x), len(rois))
    options = {"rounding": rounding, "batch_index": batch_index, "flatten": False}
    shuffled = sppfast.roi_pool(x[:, order], np.rint(rois), levels, **options)
    for got, want in zip(shuffled, sppfast.roi_pool(x, np.rint(rois), levels, **options), strict=True):
        np.testing.assert_array_equal(got, want[:, order])


@given(any_maps, windows(IMAGE), level_lists, roundings, seeds)
def test_roi_indices_point_at_the_maxima(x, rois, levels, rounding, seed):
    batch_index = np.random.default_rng(seed).integers(0, len(x), len(rois))
    options = {"rounding": rounding, "batch_index": batch_index, "flatten": False, "return_indices": True}
    values, indices = sppfast.roi_pool(x, np.rint(rois), levels, **options)
    cells = x.reshape(*x.shape[:2], -1)[batch_index]
    for value, index in zip(values, indices, strict=True):
        flat = index.reshape(*index.shape[:2], -1)
        taken = np.take_along_axis(cells, np.maximum(flat, 0).astype(np.int64), axis=2)
        want = np.where(flat < 0, np.zeros((), x.dtype), taken)
        np.testing.assert_array_equal(value.reshape(want.shape), want)


@given(maps(batch=False), windows(IMAGE), level_lists, st.sampled_from([2.0, 0.5, 4.0]), modes)
def test_scaling_image_and_stride_together(x, rois, levels, factor, mode):
    """Powers of two scale without rounding, so cells and result stay the same."""
    for rounding in ("sppnet", "fast_rcnn"):
        options = {"rounding": rounding, "mode": mode}
        want = sppfast.roi_pool(x, rois, levels, geometry=sppfast.ConvGeometry(16, 3), **options)
        wide = sppfast.ConvGeometry(16 * factor, 3 * factor)
        got = sppfast.roi_pool(x, rois * factor, levels, geometry=wide, **options)
        np.testing.assert_array_equal(got, want)


@given(maps(batch=False), windows(IMAGE), level_lists)
def test_sppnet_windows_are_never_empty(x, rois, levels):
    x = np.abs(x) + 1
    values, indices = sppfast.roi_pool(x, rois, levels, return_indices=True)
    assert (values > 0).all() and (indices >= 0).all()
