"""The slow, obvious NumPy version of the operators: what every backend is compared with.

Nothing here is fast, cached or clever, and nothing comes from the package: each rule is written down once,
as a function from a window and a number of bins to a list of half-open ``(start, stop)`` bins, and a loop
over the bins does the rest.
"""

import math

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


# ---- bins of one axis


def adaptive_bins(start, stop, n):
    """Appendix A.2: floor and ceil of equal shares of the window; no bin where the window is empty."""
    length = max(stop - start, 0)
    return [(start + i * length // n, start - (-(i + 1) * length // n)) for i in range(n)]


def sliding_bins(length, n):
    """Section 2.3: windows of ceil(L/n) cells, floor(L/n) cells apart."""
    window, stride = -(-length // n), length // n
    return [(i * stride, min(i * stride + window, length)) for i in range(n)]


def caffe_bins(length, n):
    """Caffe's SPP layer: kernel and stride ceil(L/n), the padding shared by both ends."""
    k = -(-length // n)
    pad = (k * n - length + 1) // 2
    return [clip_bin(i * k - pad, i * k - pad + k, length) for i in range(n)]


def clip_bin(start, stop, length):
    """The part of a bin that lies on the map."""
    return min(max(start, 0), length), min(max(stop, 0), length)


def whole_axis_bins(length, n, rule):
    """The bins of a whole axis of a map, by one of the three rules."""
    if rule == "adaptive":
        return adaptive_bins(0, length, n)
    return {"sliding": sliding_bins, "caffe": caffe_bins}[rule](length, n)


# ---- image windows to bins, one axis


def sppnet_window(x0, x1, stride, offset, length):
    """Appendix A.1: the half-open cells of an image window, never none."""
    first = math.floor((x0 - offset) / stride) + 1
    last = math.ceil((x1 - offset) / stride) - 1
    if first > last:
        first = last = (first + last) // 2
    first, last = (min(max(cell, 0), length - 1) for cell in (first, last))
    return first, last + 1


def round_half_away(value):
    """C's ``roundf``: to the nearest whole number, halves away from zero."""
    whole = np.trunc(value)
    if abs(value - whole) >= 0.5:
        whole += np.copysign(np.float32(1), value)
    return int(whole)


def fast_rcnn_bins(x0, x1, stride, offset, length, n):
    """Girshick's RoI pooling along one axis, every step in float32."""
    scale, offset = np.float32(1 / stride), np.float32(offset)
    far = np.float32(2**29)  # cells: what is further out counts as there
    first = round_half_away(np.clip((np.float32(x0) - offset) * scale, -far, far))
    last = round_half_away(np.clip((np.float32(x1) - offset) * scale, -far, far))
    size = np.float32(max(last - first + 1, 1)) / np.float32(n)
    bins = []
    for i in range(n):
        start = first + math.floor(np.float32(i) * size)
        stop = first + math.ceil(np.float32(i + 1) * size)
        bins.append(clip_bin(start, stop, length))
    return bins


def window_bins(x0, x1, length, n, rounding, stride, offset):
    """The bins of one axis of a window, by one of the three roundings."""
    if rounding == "fast_rcnn":
        return fast_rcnn_bins(x0, x1, stride, offset, length, n)
    if rounding == "sppnet":
        return adaptive_bins(*sppnet_window(float(x0), float(x1), stride, offset, length), n)
    return adaptive_bins(*clip_bin(int(x0), int(x1), length), n)


# ---- one reduction


def result_dtype(dtype, mode):
    """The dtype of a result, always in native byte order."""
    dtype = np.dtype(dtype)
    if dtype == BFLOAT16 or mode == "max" or dtype.kind == "f":
        return dtype.newbyteorder("=")
    return np.result_type(dtype, np.float32)


def round_to_bfloat16(values):
    """float64 to bfloat16, rounded once to nearest even (``astype`` rounds twice, by way of float32)."""
    values = np.asarray(values, np.float64)
    finite = np.where(np.isfinite(values), values, 0)
    exponent = np.maximum(np.frexp(finite)[1] - 8, -133)
    rounded = np.ldexp(np.rint(np.ldexp(finite, -exponent)), exponent)
    return np.where(np.isfinite(values), rounded, values).astype(BFLOAT16)


def cast(values, dtype):
    """Round a float64 mean, or give a maximum its dtype back."""
    if dtype == BFLOAT16:
        return round_to_bfloat16(values)
    return values.astype(dtype)


def reduce_bins(fmap, y_bins, x_bins, mode):
    """Values and indices, each ``(C, rows, columns)``, of the bins of one ``(C, H, W)`` map."""
    channels, _, width = fmap.shape
    work = fmap.astype(np.float64) if mode == "avg" or fmap.dtype == BFLOAT16 else fmap
    values = np.zeros((channels, len(y_bins), len(x_bins)), work.dtype)
    indices = np.full(values.shape, -1, np.int32)
    for row, (y0, y1) in enumerate(y_bins):
        for column, (x0, x1) in enumerate(x_bins):
            if y0 >= y1 or x0 >= x1 or not channels:
                continue
            cells = work[:, y0:y1, x0:x1].reshape(channels, -1)
            if mode == "avg":
                with np.errstate(invalid="ignore"):  # inf - inf
                    values[:, row, column] = cells.sum(axis=1) / cells.shape[1]
                continue
            best = cells.max(axis=1)
            values[:, row, column] = best
            first = ((cells == best[:, None]) | (cells != cells)).argmax(axis=1)
            indices[:, row, column] = (y0 + first // (x1 - x0)) * width + x0 + first % (x1 - x0)
    if work.dtype.kind == "f":
        values += 0  # a maximum of -0.0 comes back as +0.0
    return cast(values, result_dtype(fmap.dtype, mode)), indices


# ---- the two operators


def as_pairs(levels):
    """Levels as (rows, columns) pairs."""
    levels = [levels] if np.isscalar(levels) else levels
    return [(int(n), int(n)) if np.isscalar(n) else tuple(map(int, n)) for n in levels]


def as_maps(x, layout):
    """Every form of ``x`` as a list of (C, H, W) maps, and whether it was a single one."""
    single = isinstance(x, np.ndarray) and x.ndim == 3
    maps = [x] if single else list(x)
    if layout == "NHWC":
        maps = [m.transpose(2, 0, 1) for m in maps]
    return maps, single


def as_rois(rois, batch_index):
    """Every form of ``rois`` as a list of (map, x0, y0, x1, y1)."""
    if isinstance(rois, list | tuple) and any(np.ndim(r) == 2 for r in rois):
        return [(b, *roi) for b, group in enumerate(rois) for roi in np.asarray(group).reshape(-1, 4)]
    rois = np.asarray(rois)
    if rois.shape[-1] == 5:
        return [(int(roi[0]), *roi[1:]) for roi in rois]
    batch_index = [0] * len(rois) if batch_index is None else batch_index
    return [(int(b), *roi) for b, roi in zip(batch_index, rois, strict=True)]


def assemble(rows, channels, pairs, layout, flatten, dtype):
    """Rows of per-level (C, rows, columns) blocks, in the form that the operators return."""
    levels = []
    for i, (r, c) in enumerate(pairs):
        level = np.array([row[i] for row in rows], dtype).reshape(len(rows), channels, r, c)
        if flatten:
            level = level.reshape(len(rows), channels * r * c)
        elif layout == "NHWC":
            level = level.transpose(0, 2, 3, 1)
        levels.append(level)
    return np.concatenate(levels, axis=1) if flatten else tuple(levels)


def finish(rows, x, pairs, *, mode, layout, flatten, return_indices, single=False):
    """Values (and indices) of all rows; a row holds one (values, indices) pair per level."""
    first = x if isinstance(x, np.ndarray) else x[0]
    channels = first.shape[-3 if layout == "NCHW" else -1]
    results = []
    for which, dtype in enumerate((result_dtype(first.dtype, mode), np.dtype(np.int32))):
        blocks = [[level[which] for level in row] for row in rows]
        result = assemble(blocks, channels, pairs, layout, flatten, dtype)
        if single:
            result = result[0] if flatten else tuple(level[0] for level in result)
        results.append(result)
    return tuple(results) if return_indices else results[0]


def pool(x, levels=(4, 2, 1), *, mode="max", bins="adaptive", layout="NCHW", flatten=True, return_indices=False):
    """Spatial pyramid pooling of whole maps."""
    pairs = as_pairs(levels)
    maps, single = as_maps(x, layout)
    rows = [
        [
            reduce_bins(m, whole_axis_bins(m.shape[1], r, bins), whole_axis_bins(m.shape[2], c, bins), mode)
            for r, c in pairs
        ]
        for m in maps
    ]
    form = {"mode": mode, "layout": layout, "flatten": flatten, "return_indices": return_indices}
    return finish(rows, x, pairs, single=single, **form)


def roi_pool(
    x,
    rois,
    levels=(6, 3, 2, 1),
    *,
    geometry=16,
    rounding="sppnet",
    batch_index=None,
    mode="max",
    layout="NCHW",
    flatten=True,
    return_indices=False,
):
    """Spatial pyramid pooling of image windows."""
    pairs = as_pairs(levels)
    maps, _ = as_maps(x, layout)
    rule = (rounding, getattr(geometry, "stride", geometry), getattr(geometry, "offset", 0.0))
    rows = []
    for b, x0, y0, x1, y1 in as_rois(rois, batch_index):
        _, height, width = maps[b].shape
        row = []
        for r, c in pairs:
            y_bins = window_bins(y0, y1, height, r, *rule)
            x_bins = window_bins(x0, x1, width, c, *rule)
            row.append(reduce_bins(maps[b], y_bins, x_bins, mode))
        rows.append(row)
    form = {"mode": mode, "layout": layout, "flatten": flatten, "return_indices": return_indices}
    return finish(rows, x, pairs, **form)


# ---- RoI align


def align_axis(low, high, n, length, ratio, aligned, scale, offset, real):
    """Taps of each bin of one axis of a window, torchvision's way: a list of (cell, weight) pairs for each sample.

    A sample outside the map has no taps. ``real`` is the type that coordinates are computed in.
    """
    half = real(0.5 if aligned else 0)
    start = (real(low) - real(offset)) * scale - half
    extent = (real(high) - real(offset)) * scale - half - start
    if not aligned:
        extent = max(extent, real(1))
    size = extent / real(n)
    count = ratio or math.ceil(size)
    bins = []
    for i in range(n):
        samples = []
        for k in range(count):
            at = start + real(i) * size + real(k + 0.5) * size / real(count)
            taps = []
            if -1 <= at <= length:
                at = max(at, real(0))
                first = min(int(at), length - 1)
                last = min(first + 1, length - 1)
                fraction = real(0) if first == last else at - real(first)
                taps = [(first, real(1) - fraction), (last, fraction)]
            samples.append(taps)
        bins.append(samples)
    return bins


def align_bin(fmap, y_samples, x_samples, mode):
    """One bin of every channel of a (C, H, W) float64 map."""
    values = []
    for y_taps in y_samples:
        for x_taps in x_samples:
            corners = [fmap[:, y, x] * (float(wy) * float(wx)) for y, wy in y_taps for x, wx in x_taps]
            corners = corners or [np.zeros(len(fmap))]
            values.append(np.max(corners, axis=0) if mode == "max" else np.sum(corners, axis=0))
    if not values:
        return np.zeros(len(fmap))
    return np.max(values, axis=0) if mode == "max" else np.sum(values, axis=0) / len(values)


def roi_align(
    x,
    rois,
    levels=(7,),
    *,
    geometry=16,
    sampling_ratio=2,
    aligned=True,
    batch_index=None,
    mode="avg",
    layout="NCHW",
    flatten=True,
):
    """RoI align of image windows."""
    pairs = as_pairs(levels)
    maps, _ = as_maps(x, layout)
    dtype = result_dtype(maps[0].dtype, "avg")
    real = np.float64 if dtype.itemsize == 8 else np.float32
    scale = real(1 / getattr(geometry, "stride", geometry))
    rule = (sampling_ratio, aligned, scale, getattr(geometry, "offset", 0.0), real)
    rows = []
    for b, x0, y0, x1, y1 in as_rois(rois, batch_index):
        channels, height, width = maps[b].shape
        fmap = maps[b].astype(np.float64)
        row = []
        for r, c in pairs:
            y_bins, x_bins = align_axis(y0, y1, r, height, *rule), align_axis(x0, x1, c, width, *rule)
            values = [[align_bin(fmap, y_samples, x_samples, mode) for x_samples in x_bins] for y_samples in y_bins]
            row.append(cast(np.moveaxis(np.array(values).reshape(r, c, channels), -1, 0), dtype))
        rows.append(row)
    return assemble(rows, maps[0].shape[0], pairs, layout, flatten, dtype)


# ---- gradients


def pool_backward(grad, x, levels=(4, 2, 1), *, indices=None, mode="max", bins="adaptive", layout="NCHW"):
    """Gradient of `pool`: of flat rows, and of flat indices if there are any."""
    pairs = as_pairs(levels)
    maps, single = as_maps(x, layout)
    windows = [
        (b, [(whole_axis_bins(m.shape[1], r, bins), whole_axis_bins(m.shape[2], c, bins)) for r, c in pairs])
        for b, m in enumerate(maps)
    ]
    grad, indices = (rows[None] if single and rows is not None else rows for rows in (grad, indices))
    return as_x(spread(grad, indices, maps, windows, mode), x, layout)


def roi_pool_backward(
    grad,
    x,
    rois,
    levels=(6, 3, 2, 1),
    *,
    indices=None,
    geometry=16,
    rounding="sppnet",
    batch_index=None,
    mode="max",
    layout="NCHW",
):
    """Gradient of `roi_pool`."""
    pairs = as_pairs(levels)
    maps, _ = as_maps(x, layout)
    rule = (rounding, getattr(geometry, "stride", geometry), getattr(geometry, "offset", 0.0))
    windows = []
    for b, x0, y0, x1, y1 in as_rois(rois, batch_index):
        _, height, width = maps[b].shape
        row = [(window_bins(y0, y1, height, r, *rule), window_bins(x0, x1, width, c, *rule)) for r, c in pairs]
        windows.append((b, row))
    return as_x(spread(grad, indices, maps, windows, mode), x, layout)


def spread(grad, indices, maps, windows, mode):
    """Sums, in float64, of what each bin gives back to the cells of its map."""
    targets = [np.zeros(m.shape) for m in maps]
    for i, (b, bins) in enumerate(windows):
        begin = 0
        for y_bins, x_bins in bins:
            shape = (len(maps[b]), len(y_bins), len(x_bins))
            part = slice(begin, begin := begin + math.prod(shape))
            values = grad[i, part].reshape(shape).astype(np.float64)
            if mode == "avg":
                spread_means(targets[b], values, y_bins, x_bins)
                continue
            places = reduce_bins(maps[b], y_bins, x_bins, mode)[1] if indices is None else indices[i, part]
            places = places.reshape(len(maps[b]), -1)
            channel, bin_ = np.nonzero(places >= 0)
            cells = targets[b].reshape(len(maps[b]), -1)
            np.add.at(cells, (channel, places[channel, bin_]), values.reshape(places.shape)[channel, bin_])
    return targets


def spread_means(target, values, y_bins, x_bins):
    """Give each cell of a bin its share."""
    for row, (y0, y1) in enumerate(y_bins):
        for column, (x0, x1) in enumerate(x_bins):
            if y0 < y1 and x0 < x1:
                target[:, y0:y1, x0:x1] += values[:, row, column, None, None] / ((y1 - y0) * (x1 - x0))


def roi_align_backward(
    grad,
    x,
    rois,
    levels=(7,),
    *,
    geometry=16,
    sampling_ratio=2,
    aligned=True,
    batch_index=None,
    mode="avg",
    layout="NCHW",
):
    """Gradient of `roi_align`."""
    maps, _ = as_maps(x, layout)
    real = np.float64 if maps[0].dtype.itemsize == 8 else np.float32
    scale = real(1 / getattr(geometry, "stride", geometry))
    rule = (sampling_ratio, aligned, scale, getattr(geometry, "offset", 0.0), real)
    targets = [np.zeros(m.shape) for m in maps]
    for values, (b, x0, y0, x1, y1) in zip(grad, as_rois(rois, batch_index), strict=True):
        channels, height, width = maps[b].shape
        begin = 0
        for r, c in as_pairs(levels):
            block = values[begin : begin + channels * r * c].reshape(channels, r, c).astype(np.float64)
            begin += channels * r * c
            y_bins, x_bins = align_axis(y0, y1, r, height, *rule), align_axis(x0, x1, c, width, *rule)
            for row, y_samples in enumerate(y_bins):
                for column, x_samples in enumerate(x_bins):
                    spread_samples(targets[b], maps[b], block[:, row, column], y_samples, x_samples, mode)
    return as_x(targets, x, layout)


def spread_samples(target, fmap, values, y_samples, x_samples, mode):
    """Give the gradient of a bin to its samples' cells by weight, or to the first of the largest weighted cells."""
    taps = [(y, x, wy, wx) for ys in y_samples for y, wy in ys for xs in x_samples for x, wx in xs]
    taps = [(y, x, float(wy), float(wx)) for y, x, wy, wx in taps]
    if mode == "avg":
        for y, x, wy, wx in taps:
            target[:, y, x] += values * (wy * wx) / (len(y_samples) * len(x_samples))
        return
    if not taps:
        return
    weighted = np.array([fmap[:, y, x].astype(np.float64) * wy * wx for y, x, wy, wx in taps])
    some_outside = not all(y_samples) or not all(x_samples)  # which count as 0
    for channel, best in enumerate(weighted.argmax(axis=0)):
        if not (some_outside and weighted[best, channel] <= 0):
            y, x, wy, wx = taps[best]
            target[channel, y, x] += values[channel] * (wy * wx)


def as_x(targets, x, layout):
    """Gradients (C, H, W) of all maps in the form of ``x``."""
    results = [cast(target, first_dtype(x)) for target in targets]
    results = results if layout == "NCHW" else [result.transpose(1, 2, 0) for result in results]
    if not isinstance(x, np.ndarray):
        return results
    return results[0] if x.ndim == 3 else np.array(results, first_dtype(x)).reshape(x.shape)


def first_dtype(x):
    """The dtype of maps in any form, in native byte order."""
    return result_dtype((x if isinstance(x, np.ndarray) else x[0]).dtype, "max")
