"""The ways that the CPU backend has of doing the same thing give the same result."""

import ctypes
import itertools
import math
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import oracle
import pytest
from helpers import DTYPES, check_pool, check_roi_pool, dtype_of, make, make_rois
from torture.fences import fenced

import sppfast
from sppfast import pooling
from sppfast.arrays import address_of, take_maps
from sppfast.cpu import descriptor, division, kernels, launch, order, taps, threads, ways, weigh
from sppfast.cpu import windows as cpu_windows
from sppfast.cpu.lanes.reduction import NARROW
from sppfast.windows import take_rois

pytestmark = pytest.mark.usefixtures("forget")
LEVELS = [7, 13, (6, 3, 2, 1), (5, (3, 4), 2)]  # in float32, 13 bins of 7 cells reach into an 8th
ROUNDINGS = ["sppnet", "fast_rcnn", "cells"]


@pytest.mark.parametrize("narrow", range(NARROW + 1))
@pytest.mark.parametrize("options", [{}, {"return_indices": True}, {"mode": "avg"}], ids=str)
@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - {"bool"}))
def test_every_kernel(rng, monkeypatch, dtype, options, narrow):
    """Each that pooling can ask for: of small and of large maps, of a few windows and of many."""
    asked, size = set(), dtype_of(dtype).itemsize

    def address(kernel, way="", address=ways.Kernel.address):
        asked.add((kernel.mode, way))
        assert (kernel.dtype, kernel.lanes) == (dtype, ways.kernel_of(dtype, kernel.mode, narrow).lanes)
        return address(kernel, way)

    monkeypatch.setattr(ways.Kernel, "address", address)
    wide = ways.kernel_of(dtype, options.get("mode", "max")).lanes
    channels = wide >> narrow if narrow else wide // 2 + 1  # where half would be padding, and where less would
    small, large = (make(rng, (2, channels, *sides), dtype, "spread") for sides in ((9, 11), (12, 70)))
    rois, batch_index = make_rois(rng, 100, (144, 176)), rng.integers(0, 2, 100)
    rois[25:] = 0, 0, 175, 143  # so many cells that pairs of a key and an index are worth while
    check_pool(small[:, :, :5, :4], 2, **options)
    check_pool(large, 1, **options)
    for count in (25, 100):
        check_roi_pool(small, rois[:count], 2, batch_index=batch_index[:count], **options)
    mode = "argmax" if "return_indices" in options else options.get("mode", "max")
    paired = {("paired", "shared")} if mode == "argmax" and size <= 4 else set()
    assert asked == {(mode, way) for way in ("parts", "rows", "shared")} | paired


def windows(rng, count, rounding):
    """Windows of every size, some of them partly or wholly outside the maps of 60 x 80 cells."""
    corner = rng.uniform(-200, 1500, (count, 2))
    rois = np.concatenate([corner, corner + rng.uniform(0, 900, (count, 2))], axis=1)
    return np.floor(rois / 16) if rounding == "cells" else rois


@pytest.fixture
def maps(rng):
    return rng.integers(-9, 9, (2, 40, 60, 80)).astype(np.float32)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("options", [{}, {"mode": "avg"}, {"return_indices": True}], ids=str)
@pytest.mark.parametrize("tile", [0, 60 * 80 * 32], ids=["parts", "few lanes"])
def test_a_window_in_parts_is_the_window_in_one(rng, monkeypatch, forget, maps, levels, rounding, options, tile):
    rois, batch_index = windows(rng, 300, rounding), rng.integers(0, 2, 300)

    def call():
        return sppfast.roi_pool(maps, rois, levels, rounding=rounding, batch_index=batch_index, **options)

    whole = call()
    monkeypatch.setattr(ways, "SHARED_BYTES", tile)
    monkeypatch.setattr(ways, "TILE_BYTES", 128 * 70)
    forget()
    for a, b in zip(np.atleast_2d(whole), np.atleast_2d(call()), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(40, 60, 80), (3, 2, 3000)], ids=str)
@pytest.mark.parametrize("operator", [sppfast.roi_pool, sppfast.roi_align])
def test_a_window_alone_is_the_window_among_many(rng, operator, shape):
    """By itself it is packed alone, among many the whole map is: sums have the same bits."""
    x = rng.standard_normal(shape)
    corner = rng.uniform(0, 16 * np.array([shape[2], shape[1]]) / 2, (40, 2))
    rois = np.hstack([corner, corner + rng.uniform(0, 16 * np.array([shape[2], shape[1]]) / 2, (40, 2))])
    rois[0] = 0, 0, 16 * shape[2] - 1, 16 * shape[1] - 1
    among = operator(x, rois, (3, 1), mode="avg")
    for roi, row in zip(rois[:9], among, strict=False):
        np.testing.assert_array_equal(operator(x, roi[None], (3, 1), mode="avg")[0], row)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("levels", [7, (6, 3, 2, 1), (4, (2, 1))], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64])
def test_bins_of_blocks_are_the_bins_of_cells(rng, monkeypatch, maps, levels, rounding, dtype):
    maps = np.abs(maps).astype(dtype)
    rois, batch_index = windows(rng, 700, rounding), rng.integers(0, 2, 700)

    def call(step_blocks):
        monkeypatch.setattr(order, "STEP_BLOCKS", step_blocks)
        return sppfast.roi_pool(maps, rois, levels, rounding=rounding, batch_index=batch_index)

    by_cells = call(step_blocks=10**9)
    for step_blocks in (0, 1, 3, 10, 30, 100):  # the narrower the blocks
        np.testing.assert_array_equal(call(step_blocks), by_cells)
    monkeypatch.setattr(ways, "SECOND_BYTES", 0)
    np.testing.assert_array_equal(call(step_blocks=0), by_cells)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("levels", [7, 1, ((2, 13),)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.float64, np.float16])
def test_bins_of_runs_are_the_bins_of_cells(rng, monkeypatch, dtype, levels, rounding):
    """Sums of runs are added up in the order of the cells: the same bits."""
    maps = (99 * np.abs(rng.standard_normal((2, 40, 50, 70)))).astype(dtype)
    if maps.dtype.kind == "f":
        maps.reshape(-1)[rng.integers(0, maps.size, 9)] = 3 * [np.nan, np.inf, -np.inf]
    rois, batch_index = windows(rng, 700, rounding), rng.integers(0, 2, 700)
    chosen = []
    monkeypatch.setattr(ways, "AREA_CELLS", 2**40)

    def call(run_cells):
        monkeypatch.setattr(order, "RUN_CELLS", run_cells)
        return sppfast.roi_pool(maps, rois, levels, rounding=rounding, batch_index=batch_index, mode="avg")

    def order_windows(*arguments, order_windows=order.order_windows):
        found = order_windows(*arguments)
        chosen.append(found.powers_at)
        return found

    monkeypatch.setattr(launch, "order_windows", order_windows)
    by_cells = call(run_cells=10**9)
    assert chosen == [0]
    for run_cells in (0, 1, 3, 10, 30):
        np.testing.assert_array_equal(call(run_cells), by_cells)
    assert any(chosen[1:])


FLOATS = "float32", "float16", ml_dtypes.bfloat16, "float64"
OF_FLOATS = "rectified", "halfway", "outliers"
TO_ADD_UP = itertools.product(
    (*FLOATS, "int8", "uint8", "int32", "int64"), ("normal", "few digits", "wide range", "close", "special")
)


def cells_to_add_up(rng, dtype, shape, kind):
    """Maps of which the sums are exact, or not, or not in some channels."""
    numbers = rng.standard_normal(shape)
    if kind == "few digits":
        numbers = np.round(99 * numbers)
    if kind == "wide range":
        numbers = np.exp(9 * numbers)
    if kind == "rectified":  # with channels of one number, hardly any, and parts of none
        numbers = np.maximum(numbers, 0)
        numbers[:, 1], numbers[:, 2], numbers[:, 3:9, 5:20] = 0.1, 0.01 * (rng.random(shape[-2:]) < 0.01), 0
    if kind in ("rectified", "halfway"):  # numbers that no unit beside the others has digits for
        numbers = np.where(rng.random(shape) < 0.001, 1e-25, numbers)
    if kind == "halfway":  # between two numbers are the means of many
        numbers = rng.choice([-1, 0, 1, 1 + 2.0**-23, 3, 2.0**-30, 2.0**-80], shape)
    if kind == "outliers":
        numbers[:, ::3, 20, 30], numbers[0, 1::3, 7, 7] = 1e30, -3e7
    if kind == "close":  # 53 bits hold the sums of some channels, and not those of others
        numbers = rng.integers(0, 2, shape) + rng.integers(0, 2, shape) * 2.0 ** -rng.integers(30, 55, (shape[1], 1, 1))
    if np.dtype(dtype).kind in "iu":
        return (numbers * {"wide range": 1e9}.get(kind, 30)).clip(*ranges(dtype)).astype(dtype)
    if kind == "special":
        numbers.reshape(-1)[rng.integers(0, numbers.size, 9)] = 3 * [np.nan, np.inf, -np.inf]
        numbers[:, 0], numbers[:, -1] = -0.0, 1e-42
    with np.errstate(over="ignore"):
        return numbers.astype(dtype)


def ranges(dtype):
    """The smallest and the largest number that float64 has, too."""
    info = np.iinfo(dtype)
    return float(info.min), np.nextafter(2.0**63, 0) if info.bits == 64 else float(info.max)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("levels", [7, (6, 3, 2, 1), ((2, 13), 3)], ids=str)
@pytest.mark.parametrize(("dtype", "kind"), [*TO_ADD_UP, *itertools.product(FLOATS, OF_FLOATS)])
def test_bins_of_areas_are_the_bins_of_cells(rng, monkeypatch, forget, dtype, kind, levels, rounding):
    """The same bits: where a table does not tell what they are the cells are added up."""
    maps = cells_to_add_up(rng, dtype, (2, 40, 50, 70), kind)
    rois, batch_index = windows(rng, 300, rounding), rng.integers(0, 2, 300)

    def call(area_cells):
        monkeypatch.setattr(ways, "AREA_CELLS", area_cells)
        forget()
        return sppfast.roi_pool(maps, rois, levels, rounding=rounding, batch_index=batch_index, mode="avg")

    by_cells, by_areas = call(2**40), call(0)
    assert by_areas.tobytes() == by_cells.tobytes()
    monkeypatch.setattr(ways, "SECOND_BYTES", 0)
    assert call(0).tobytes() == by_cells.tobytes()


@pytest.mark.parametrize("levels", [1, (2, 1), ((1, 3), 2)], ids=str)
def test_sums_that_are_close_are_not_taken_for_others(rng, monkeypatch, forget, levels):
    """All windows of small maps, of numbers of which many means lie halfway, or all but, between two of float32."""
    numbers = rng.choice([*-np.float32([1, 3]), *np.float32([0, 1, 1 + 2**-23, 5, 2**-24, 2**-40])], (9, 32, 7, 11))
    tiny = np.exp2(rng.integers(-75, -20, numbers.shape)) * rng.choice([-1, 1], numbers.shape)
    maps = np.where(rng.random(numbers.shape) < 0.05, tiny, numbers * np.exp2(rng.integers(-9, 9, (32, 1, 1))))
    maps = maps.astype(np.float32)
    sides = (np.stack(np.triu_indices(size + 1, 1), 1) for size in (11, 7))
    rois = np.array([[x0, y0, x1, y1] for (x0, x1), (y0, y1) in itertools.product(*sides)])
    results = []
    for area_cells in (2**40, 0):
        monkeypatch.setattr(ways, "AREA_CELLS", area_cells)
        forget()
        results.append(sppfast.roi_pool(maps, [rois] * 9, levels, rounding="cells", mode="avg"))
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize(
    ("dtype", "channels", "side", "lanes"),
    [
        ("float32", 16, 50, 16),  # more would be padding
        ("float32", 17, 50, 32),
        ("float32", 64, 50, 32),
        ("float32", 64, 80, 16),  # a table of more would leave the near caches
        ("float64", 64, 80, 16),  # none is made
        ("uint8", 64, 100, 32),  # there are no fewer
    ],
)
def test_areas_lie_in_few_lanes_where_more_are_far_or_padding(rng, monkeypatch, dtype, channels, side, lanes):
    """A narrow table is a small one."""
    asked = []
    monkeypatch.setattr(ways.Kernel, "address", lambda kernel, way: asked.append((kernel.lanes, way)) or 0)
    monkeypatch.setattr(launch.threads.crew, "run", lambda *_: None)
    x = rng.integers(0, 9, (channels, side, side)).astype(dtype)
    sppfast.roi_pool(x, [[0, 0, side, side]] * 50, 7, rounding="cells", mode="avg")
    assert asked == [(lanes, descriptor.SHARED_WAY)]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8"])
def test_lanes_of_which_half_would_be_padding_are_halved(rng, monkeypatch, forget, dtype, layout):
    asked = []
    monkeypatch.setattr(ways.Kernel, "address", lambda kernel, way: asked.append((kernel.lanes, way)) or 0)
    monkeypatch.setattr(launch.threads.crew, "run", lambda *_: None)
    wide, half, few = (ways.kernel_of(dtype, "max", narrow).lanes for narrow in (0, 1, NARROW))
    assert wide == 2 * half
    for channels, lanes in {1: few, few: few, half: half, half + 1: wide}.items():
        x = rng.integers(0, 9, (channels, 30, 40)).astype(dtype)
        x = x if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(x, 0, -1))
        asked.clear()
        sppfast.roi_pool(x, [[0, 0, 30, 30]] * 50, 7, rounding="cells", layout=layout)
        sppfast.pool(x, 2, layout=layout)
        assert [lanes for lanes, _ in asked] == [lanes, lanes]
        assert asked[0][1] == descriptor.SHARED_WAY


@pytest.mark.parametrize("shape", [(1, 16), (2, 8), (4, 4)], ids=str)
def test_sums_that_float64_rounds_are_not_taken_from_areas(monkeypatch, forget, shape):
    """Three small numbers are lost, one after the other, which together would lift the mean from halfway."""
    cells = np.array(7 * [1] + 5 * [1.5] + [1.5 + 2**-20] + 3 * [2**-50], np.float32)
    lost = np.add.accumulate(cells.astype(np.float64))[-1] / 16
    assert np.float32(lost) == 1 < np.float32((cells[:13].astype(np.float64).sum() + 4 * 2.0**-50) / 16)
    scales = np.exp2(np.arange(-16, 16)) * (-1) ** np.arange(32)
    maps = (scales[:, None] * cells).reshape(32, *shape).astype(np.float32)
    rois = np.tile([0, 0, *shape[::-1]], (50, 1))
    monkeypatch.setattr(ways, "AREA_CELLS", 0)
    forget()
    means = sppfast.roi_pool(maps, rois, 1, rounding="cells", mode="avg")
    rows = maps.astype(np.float64)
    expected = np.add.accumulate(np.add.accumulate(rows, axis=2)[..., -1], axis=1)[:, -1] / 16
    np.testing.assert_array_equal(means, np.tile(expected.astype(np.float32), (50, 1)))


@pytest.mark.parametrize(
    ("shape", "levels", "rows", "together"),
    [
        ((20, 40), ((2, 1), 1), (5, 10), 1),  # within a patch
        ((20, 40), ((20, 20), 1), (10, 20), 2),  # by patches of two cells
        ((104, 512), ((1, 256), 1), (52, 104), 8),  # by patches that are cut where parts of a window end
    ],
    ids=["patch", "patches", "parts"],
)
def test_what_patches_lose_is_not_taken_from_areas(monkeypatch, forget, shape, levels, rows, together):
    """Rows of small numbers are lost, few at a time, which together would lift the mean of all from halfway."""
    cells, (large, small) = np.zeros(shape), rows
    cells[:large] = shape[0] / large
    cells[large:small] = np.spacing(float(cells.size)) / 2 / together
    cells[0, 0] += cells.size * 2.0**-24
    assert np.float32(math.fsum(cells.flat) / cells.size) == 1 + 2**-23
    scales = np.exp2(np.arange(-16, 16))  # negative numbers have a wider bound, and are summed together with others
    maps = (scales[:, None, None] * cells).astype(np.float32)
    rois, results = np.tile([0, 0, *shape[::-1]], (50, 1)), []
    for area_cells in (2**40, 0):
        monkeypatch.setattr(ways, "AREA_CELLS", area_cells)
        forget()
        results.append(sppfast.roi_pool(maps, rois, levels, rounding="cells", mode="avg"))
    np.testing.assert_array_equal(results[0][:, -32:], np.tile(scales, (50, 1)))
    assert results[0].tobytes() == results[1].tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_areas_hold_53_bits(monkeypatch, dtype):
    """A number that leaves no digit, or just one, for the ones beside it."""
    rois = np.array(
        [[x0, y0, x1, y1] for y0 in range(3) for y1 in (3, 4) for x0 in range(7) for x1 in range(x0 + 1, 9)]
    )
    for large in range(2**53 - 20, 2**53 + 20, 2):
        x = np.tile(np.array([0, 1, 1], dtype), 11)[:32].reshape(1, 4, 8)
        x[0, 0, 0] = large
        monkeypatch.setattr(ways, "AREA_CELLS", 2**40)
        by_cells = sppfast.roi_pool(x, rois, (2, 1), rounding="cells", mode="avg")
        monkeypatch.setattr(ways, "AREA_CELLS", 0)
        by_areas = sppfast.roi_pool(x, rois, (2, 1), rounding="cells", mode="avg")
        assert by_areas.tobytes() == by_cells.tobytes()


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("levels", [7, (6, 3, 2, 1), ((2, 13), 3)], ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    "dtype", ["float32", "float16", ml_dtypes.bfloat16, "uint8", "int8", "int32", "uint16", "bool"]
)
def test_pairs_are_maxima_and_indices(rng, monkeypatch, forget, dtype, layout, levels, rounding):
    """Of equal cells the first counts; empty bins have no index."""
    few = [-np.inf, -1.0, 0.0, -0.0, 3.0, 4.0, np.nan]
    numbers = rng.choice(few, (2, 70, 38, 63), p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.09, 0.01])
    maps = numbers.astype(dtype) if np.dtype(dtype).kind in "fV" else np.nan_to_num(numbers, neginf=0).astype(dtype)
    if np.dtype(dtype).kind in "iu":
        maps[:, ::2][numbers[:, ::2] < -1] = np.iinfo(dtype).min
    maps = maps if layout == "NCHW" else np.ascontiguousarray(maps.transpose(0, 2, 3, 1))
    rois, batch_index = windows(rng, 300, rounding), rng.integers(0, 2, 300)
    modes = []

    def call(pair_cells):
        monkeypatch.setattr(ways, "PAIR_CELLS", pair_cells)
        forget()
        keywords = {"rounding": rounding, "batch_index": batch_index, "layout": layout, "return_indices": True}
        return sppfast.roi_pool(maps, rois, levels, **keywords), modes[-1]

    def choose(*arguments, choose=launch.choose_way):
        way = choose(*arguments)
        modes.append(way.kernel.mode)
        return way

    monkeypatch.setattr(launch, "choose_way", choose)
    singly, paired = call(2**40), call(1)
    assert (singly[1], paired[1]) == ("argmax", "paired")
    for a, b in zip(singly[0], paired[0], strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.fixture
def set_row_cells(monkeypatch, forget):
    """Set how many cells a bin must have to be reduced by rows."""

    def set_(cells):
        monkeypatch.setattr(ways, "ROW_CELLS", cells)
        forget()

    return set_


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int16", "int64"])
@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (5, 3), [(2, 9), (70, 1)]], ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 40, 67), (1, 3, 3, 64), (1, 2, 90, 130), (1, 2, 140, 47)], ids=str)
def test_bins_by_rows_are_the_bins_of_cells(rng, set_row_cells, shape, levels, dtype, return_indices):
    """Rows that fill vectors or not quite, few and many; many cells are equal, the smallest number is among them."""
    low = np.iinfo(dtype).min if np.dtype(dtype).kind in "iu" else -np.inf
    x = rng.choice(np.array([low, low, low, 0, 1], dtype), shape, p=[0.4, 0.3, 0.2, 0.09, 0.01])
    if np.dtype(dtype).kind == "f":
        x[rng.random(shape) < 0.01] = -0.0
        x[rng.random(shape) < 0.0005] = np.nan
    wide = np.ascontiguousarray(np.moveaxis(x, -1, 0))

    def calls():
        for maps in (x, np.moveaxis(wide, 0, -1), x[..., ::-1], list(x)):
            pooled = sppfast.pool(maps, levels, return_indices=return_indices)
            yield from pooled if return_indices else [pooled]
        if not return_indices:
            yield sppfast.pool(np.ascontiguousarray(np.moveaxis(x, 1, -1)), levels, layout="NHWC")

    set_row_cells(10**9)
    by_cells = list(calls())
    set_row_cells(0)
    for a, b in zip(by_cells, calls(), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(np.signbit(a), np.signbit(b))


@pytest.mark.parametrize("bins", ["adaptive", "sliding", "caffe"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int16", "int64"])
@pytest.mark.parametrize("levels", [(6, 3, 2, 1), (5, 3), [(2, 9), (70, 1), 4]], ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 5, 40, 67), (1, 3, 3, 64), (1, 2, 90, 130), (3, 2, 17, 16), (1, 2, 140, 47)], ids=str
)
def test_means_by_rows_are_the_means_of_cells(rng, set_row_cells, shape, levels, dtype, bins):
    """The sums are of float64 and in another order; no cell counts twice, none is left out."""
    x = (100 * rng.standard_normal(shape)).astype(dtype)
    if np.dtype(dtype).kind == "f":
        x[rng.random(shape) < 0.0005] = np.nan
        x[rng.random(shape) < 0.0005] = np.inf
    wide = np.ascontiguousarray(np.moveaxis(x, -1, 0))

    def calls():
        for maps in (x, np.moveaxis(wide, 0, -1), x[..., ::-1], list(x)):
            yield sppfast.pool(maps, levels, mode="avg", bins=bins)
        yield sppfast.pool(np.ascontiguousarray(np.moveaxis(x, 1, -1)), levels, mode="avg", bins=bins, layout="NHWC")

    set_row_cells(10**9)
    by_cells = list(calls())
    set_row_cells(1e-9)
    for a, b in zip(by_cells, calls(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3 if dtype == "float16" else 1e-6, atol=1e-12)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_bits_of_a_mean_do_not_depend_on_the_other_maps(rng, layout):
    """Maps that are summed by rows and maps that are not, alone and together."""
    shapes = [(4, 100, 120), (4, 9, 9), (4, 1, 500), (4, 40, 33), (4, 300, 8)]
    maps = [rng.standard_normal(shape if layout == "NCHW" else (*shape[1:], shape[0])) for shape in shapes]
    together = sppfast.pool(maps, mode="avg", layout=layout)
    for x, row in zip(maps, together, strict=True):
        np.testing.assert_array_equal(sppfast.pool(x, mode="avg", layout=layout), row)
        np.testing.assert_array_equal(sppfast.pool(np.stack([x] * 9), mode="avg", layout=layout), [row] * 9)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("options", [{}, {"mode": "avg"}, {"return_indices": True}], ids=str)
@pytest.mark.parametrize("ragged", [False, True])
def test_windows_planned_in_parts_are_windows_planned_at_once(rng, monkeypatch, rounding, options, ragged):
    """So few cells that a part has 80 windows."""
    x = rng.standard_normal((2, 3, 5, 8))
    options = {"rounding": rounding, "batch_index": rng.integers(0, 2, 500), **options}
    maps = [x[0], x[1, :, :4, :7]] if ragged else x
    rois = windows(rng, 500, rounding)
    parts = []

    def plan(part, *arguments, plan=cpu_windows.plan_windows):
        parts.append(part)
        return plan(part, *arguments)

    monkeypatch.setattr(cpu_windows, "plan_windows", plan)
    at_once = sppfast.roi_pool(maps, rois, **options)
    assert parts == [slice(0, 500)]
    monkeypatch.setattr(pooling, "PARTS", 10**9)
    monkeypatch.setattr(pooling, "LEAST_WINDOWS", 1)
    for a, b in zip(np.atleast_2d(at_once), np.atleast_2d(sppfast.roi_pool(maps, rois, **options)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(parts) == 1 + 7
    with pytest.raises(ValueError, match=r"rois\[499\]"):
        sppfast.roi_pool(maps, np.concatenate([rois[:-1], [[3, 3, 2, 4]]]), **options)
    assert len(parts) == 1 + 7  # that is known before any is pooled


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("longest", [3, 8, 9, 70, 5000])
def test_windows_longer_than_their_map(rng, mode, longest):
    """Fast R-CNN's, for which the table of edges of such a map may be too short, and any."""
    x = rng.standard_normal((3, 5, 6))
    starts = rng.integers(-longest, 6, (60, 2))
    rois = np.concatenate([starts, starts + rng.integers(0, longest, (60, 2))], axis=1)
    rois[0] = -longest // 2, 0, longest - longest // 2, longest
    options = {"levels": (3, 1), "geometry": 1, "rounding": "fast_rcnn", "mode": mode}
    np.testing.assert_allclose(sppfast.roi_pool(x, rois, **options), oracle.roi_pool(x, rois, **options), 1e-12, 1e-15)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("levels", [7, (6, 3, 2, 1), ((2, 60), 5, 1)], ids=str)
def test_bits_of_a_mean_do_not_depend_on_the_other_windows(rng, levels, rounding):
    """Windows of one part and of more, summed by patches or not, in a tile of the whole map, in their own, in none."""
    x = rng.standard_normal((40, 61, 70))
    rois = np.concatenate([windows(rng, 12, rounding), [[0, 0, 9999, 9999], [0, 0, 9999, 30]]])
    options = {"mode": "avg", "rounding": rounding}
    together = sppfast.roi_pool(x, np.tile(rois, (20, 1)), levels, **options).reshape(20, len(rois), -1)
    wide = np.ascontiguousarray(np.moveaxis(x, 0, -1))
    for i, window in enumerate(rois):
        for maps, layout in ((x, "NCHW"), (wide, "NHWC")):
            alone = sppfast.roi_pool(maps, window[None], levels, layout=layout, **options)[0]
            np.testing.assert_array_equal(together[:, i], [alone] * 20)


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("levels", [7, (5, (3, 4), 2)], ids=str)
def test_windows_by_rows_are_windows_of_cells(rng, monkeypatch, set_row_cells, maps, levels, rounding, return_indices):
    rois, batch_index = windows(rng, 200, rounding), rng.integers(0, 2, 200)
    options = {"rounding": rounding, "batch_index": batch_index, "return_indices": return_indices}
    shared = sppfast.roi_pool(maps, rois, levels, **options)
    monkeypatch.setattr(ways, "SHARED_BYTES", 0)
    set_row_cells(0)
    by_rows = sppfast.roi_pool(maps, rois, levels, **options)
    for a, b in zip(np.atleast_2d(shared), np.atleast_2d(by_rows), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [2, 40])
@pytest.mark.parametrize("levels", [7, (5, (3, 4), 2)], ids=str)
def test_means_of_windows_by_rows(rng, monkeypatch, set_row_cells, levels, channels, layout):
    """Windows of a map that is too large to be shared are summed by rows, whatever else is pooled with them."""
    maps = [rng.standard_normal((channels, *size)) for size in ((60, 80), (12, 9), (61, 79))]
    maps = [np.ascontiguousarray(np.moveaxis(x, 0, -1)) if layout == "NHWC" else x for x in maps]
    rois = [windows(rng, count, "sppnet") for count in (60, 5, 1)]

    def call(maps, rois, **options):
        return sppfast.roi_pool(maps, rois, levels, mode="avg", layout=layout, **options)

    by_parts = call(maps, rois)
    monkeypatch.setattr(ways, "SHARED_BYTES", ways.kernel_of("float64", "avg", NARROW).cell_bytes * 12 * 9)
    monkeypatch.setattr(division, "CHUNK_WINDOWS", 1)
    set_row_cells(1e-9)
    by_rows = call(maps, rois)
    np.testing.assert_allclose(by_rows, by_parts, rtol=1e-9, atol=1e-12)
    assert (by_rows[:60] != by_parts[:60]).any() == (channels == 2 or layout == "NCHW")  # others have no rows
    np.testing.assert_array_equal(by_rows[60:65], by_parts[60:65])
    np.testing.assert_array_equal(by_rows, call(maps, rois, workers=1))
    np.testing.assert_array_equal(by_rows, np.concatenate([call([x], [r]) for x, r in zip(maps, rois, strict=True)]))
    np.testing.assert_array_equal(by_rows[:60], np.concatenate([call(maps[0], r[None]) for r in rois[0]]))


@pytest.fixture
def set_band_cells(monkeypatch, forget):
    """Set how many cells a band of a map has at least."""

    def set_(cells):
        for module in (division, launch):
            monkeypatch.setattr(module, "band_cells", lambda *_: cells)
        forget()

    return set_


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("shape", [(1, 1, 80, 90), (2, 3, 37, 50), (1, 40, 30, 21), (1, 70, 64, 5)], ids=str)
@pytest.mark.parametrize("levels", [(4, 2, 1), (7, (5, 2), 3)], ids=str)
def test_maps_in_bands_are_whole_maps(rng, set_band_cells, shape, levels, layout):
    """Rows of a map are reduced apart and put together: the first of equals, empty bins and NaN as before."""
    x = rng.integers(-9, 9, shape).astype(np.float32)
    x.reshape(-1)[:: max(x.size // 3, 1)] = np.nan
    maps = x if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(x, 1, -1))

    def call(cells, maps=maps, **options):
        set_band_cells(cells)
        return sppfast.pool(maps, levels, layout=layout, **options)

    for bins in ("adaptive", "caffe"):
        for a, b in zip(
            call(2**40, return_indices=True, bins=bins), call(13, return_indices=True, bins=bins), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(call(2**40, bins=bins), call(13, bins=bins))
        np.testing.assert_allclose(call(2**40, bins=bins, mode="avg"), call(13, bins=bins, mode="avg"), rtol=1e-6)
    alone = call(13, mode="avg")
    np.testing.assert_array_equal(alone, call(13, mode="avg", workers=1))
    small = maps[0, :, :3, :4] if layout == "NCHW" else maps[0, :3, :4]
    np.testing.assert_array_equal(alone, call(13, mode="avg", maps=[*maps, small])[: len(maps)])
    several = call(13, mode="avg", maps=np.concatenate([maps] * 40))
    np.testing.assert_array_equal(alone, several[: len(maps)])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint16", "int32"])
@pytest.mark.parametrize("size", [(40, 64), (5, 2000), (3, 2100), (90, 11)], ids=str)
@pytest.mark.parametrize("levels", [1, (4, 2, 1), (3, (1, 5))], ids=str)
def test_means_where_channels_lie_side_by_side(rng, dtype, size, levels):
    """Channel blocks at once, and what is left of them: in the same order whatever maps there are beside it."""
    x = make(rng, (2, 134, *size), dtype, "spread")
    maps = np.ascontiguousarray(np.moveaxis(x, 1, -1))

    def call(maps, **options):
        return sppfast.pool(maps, levels, mode="avg", layout="NHWC", **options)

    alone = call(maps[1])
    np.testing.assert_allclose(alone, sppfast.pool(x[1], levels, mode="avg"), rtol=1e-6, atol=1e-6)
    several = [call(maps)[1], call(maps, workers=1)[1], call(np.concatenate([maps] * 20))[21]]
    several += [call([maps[0], maps[1]])[1], call([np.moveaxis(x[0], 0, -1), maps[1], maps[0, :2, :9]])[1]]
    for row in several:
        np.testing.assert_array_equal(row, alone)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_largest_sums_where_channels_lie_side_by_side(set_band_cells, dtype):
    """More cells of the largest magnitude than 32 bits hold the sum of, not divided into bands."""
    set_band_cells(2**40)
    extreme = np.iinfo(dtype).min or np.iinfo(dtype).max
    maps = np.full((70, 1000, 64), extreme, dtype)
    np.testing.assert_array_equal(sppfast.pool(maps, (2, 1), mode="avg", layout="NHWC"), np.float32(extreme))


@pytest.mark.parametrize("height", [127, 128, 129, 1000])
@pytest.mark.parametrize("width", [16, 17, 48, 64, 65])
@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_largest_sums_by_rows(set_row_cells, dtype, width, height):
    """As many rows of the largest magnitude as twice the bits hold the sum of, and more."""
    set_row_cells(1e-9)
    extreme = np.iinfo(dtype).min or np.iinfo(dtype).max
    maps = np.full((2, height, width), extreme, dtype)
    np.testing.assert_array_equal(sppfast.pool(maps, (2, 1), mode="avg"), np.float32(extreme))


def test_windows_are_sorted_into_blocks_that_fit(rng):
    """Bins are one or two blocks tall, and as many wide as a limit makes it, or their window is reduced by cells."""
    starts = rng.integers(0, 40, 900)
    plan = plan_of(np.stack([starts, starts, *2 * [starts + rng.integers(0, 60, 900)]], axis=1))
    place = plan.grids.levels[0, 3]
    found = []
    for packed_cells in range(50, 400_000, 50):  # the more they are, the fewer steps
        rows, powers = ordered(plan, packed_cells, across=True)
        if powers is None:
            break
        assert (np.diff(powers[rows]) >= 0).all()
        extents = plan.edges[:, place + 7 : place + 14] - plan.edges[:, place : place + 7]
        blocked = powers >= 0
        assert blocked.any()
        assert not blocked.all()
        tall, wide = 2 ** (powers[blocked] // order.POWER), 2 ** (powers[blocked] % order.POWER)
        assert (tall <= extents[blocked].min(axis=1)).all()
        assert (2 * tall >= extents[blocked].max(axis=1)).all()
        np.testing.assert_array_equal(wide, np.minimum(tall, wide.max()))  # the axes are alike
        found.append(wide.max())
    assert powers is None
    assert sorted(set(found), reverse=True) == [8, 4, 2, 1]
    assert found == sorted(found, reverse=True)
    assert ordered(plan, 100, across=False)[1].max() % order.POWER == 0


def plan_of(rois, batch_index=None, maps=1):
    """Plan 7 x 7 bins of windows of cells of maps of 70 x 70."""
    _, maps = take_maps(np.empty((maps, 1, 70, 70)), "NCHW")
    taken = take_rois(rois, batch_index, maps.count)
    every, geometry = slice(0, len(rois)), sppfast.ConvGeometry(1)
    return cpu_windows.plan_windows(every, sppfast.Pyramid(7), taken, maps, geometry, "fast_rcnn", unions=True)


def ordered(plan, packed_cells, across):
    """Order windows of one map: their rows, and their powers, if any."""
    count, edges = len(plan.index), (plan.edges_at, plan.edges.strides[0])
    found = order.order_windows(plan.index, 1, order.blocks_of(plan.grids, packed_cells, across), edges)
    rows, starts, powers = np.split(found.memory[: 2 * count + 3], [count, count + 3])
    assert starts[:2].tolist() == [0, count]
    return rows, powers if found.powers_at else None


def test_windows_by_place(rng):
    """By map, then by blocks, if any, then by their middles, then as they were."""
    corners = rng.integers(0, 30, (500, 2))
    plan = plan_of(np.hstack([corners, corners + rng.integers(0, 40, (500, 2))]), rng.integers(0, 3, 500), maps=3)
    starts, stops = plan.edges[:, 0], plan.edges[:, 1]
    first = order.by_place(starts, stops)
    edges = plan.edges_at, plan.edges.strides[0]
    for choice in (None, order.blocks_of(plan.grids, 10, across=True)):
        found = order.order_windows(plan.index, 3, choice, edges, first=first)
        assert bool(found.powers_at) == bool(choice)
        rows, _, powers = np.split(found.memory[: 2 * 500 + 5], [500, 505])
        by = (starts + stops, powers, plan.index) if choice else (starts + stops, plan.index)
        np.testing.assert_array_equal(rows, np.lexsort(by))
    alone = order.order_windows(plan.index, 1, first=first)
    np.testing.assert_array_equal(alone.memory[:500], first)


@pytest.mark.parametrize("count", [1, 5, 20])
@pytest.mark.parametrize("options", [{}, {"mode": "avg"}, {"return_indices": True}], ids=str)
@pytest.mark.parametrize("levels", [7, (4, (2, 1))], ids=str)
def test_few_windows_of_a_map_stay_in_order(rng, monkeypatch, maps, levels, options, count):
    """To order them takes longer than to pool them; those of several maps are ordered, whatever it takes."""
    rois = windows(rng, count, "fast_rcnn")
    rows = []

    def run(kind, fields, workers, run=launch.run):
        rows.append(fields[descriptor.ROWS_AT])
        run(kind, fields, workers)

    def call(least):
        monkeypatch.setattr(launch, "ORDERED_ITEMS", least)
        return sppfast.roi_pool(maps[0, :8], rois, levels, rounding="fast_rcnn", **options)

    monkeypatch.setattr(launch, "run", run)
    for a, b in zip(np.atleast_2d(call(least=2**40)), np.atleast_2d(call(least=0)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [bool(at) for at in rows] == [False, True]
    monkeypatch.setattr(launch, "ORDERED_ITEMS", 2**40)
    both = {"batch_index": [1, 0] * count, **options}
    found = sppfast.roi_pool(maps[:, :8], np.repeat(rois, 2, axis=0), levels, rounding="fast_rcnn", **both)
    assert rows[-1]
    for number, every in enumerate([slice(1, None, 2), slice(0, None, 2)]):
        alone = sppfast.roi_pool(maps[number, :8], rois, levels, rounding="fast_rcnn", **options)
        pair = (result if isinstance(result, tuple) else (result,) for result in (found, alone))
        for a, b in zip(*pair, strict=True):
            np.testing.assert_array_equal(a[every], b)


def pool_maxima(*arguments, out, indices, **options):
    return sppfast.roi_pool(*arguments, **options, out=out), indices


def find_maxima(*arguments, out, indices, **options):
    return sppfast.roi_pool(*arguments, **options, return_indices=True, out=(out, indices))


def pool_means(*arguments, out, indices, **options):
    return sppfast.roi_pool(*arguments, **options, mode="avg", out=out), indices


def align_means(*arguments, out, indices, **options):
    return sppfast.roi_align(*arguments, **options, out=out), indices


def align_maxima(*arguments, out, indices, **options):
    return sppfast.roi_align(*arguments, **options, mode="max", out=out), indices


FLOAT_RESULTS = pool_means, align_means, align_maxima  # also of integers


@pytest.mark.parametrize("pool", [pool_maxima, find_maxima, pool_means, align_means])
def test_windows_past_the_near_caches_are_pooled_by_place(rng, monkeypatch, forget, maps, pool):
    rois, batch_index = windows(rng, 300, "sppnet"), rng.integers(0, 2, 300)
    asked = []

    def by_place(*axis):
        asked.append(order.by_place(*axis))
        return asked[-1]

    def call(second_bytes):
        monkeypatch.setattr(ways, "SECOND_BYTES", second_bytes)
        forget()
        values, indices = (np.zeros((300, 25 * maps.shape[1]), dtype) for dtype in (maps.dtype, np.int32))
        pool(maps, rois, 5, batch_index=batch_index, out=values, indices=indices)
        return values, indices

    for module in (launch, weigh):
        monkeypatch.setattr(module, "by_place", by_place)
    near = call(second_bytes=60 * 80 * 256)
    assert not asked
    np.testing.assert_array_equal(near, call(second_bytes=0))
    assert len(asked) == 1
    assert (np.diff(asked[0]) < 0).any()


@pytest.mark.parametrize("pool", [pool_maxima, find_maxima, pool_means, align_means])
@pytest.mark.parametrize("levels", [7, (6, 3, 2, 1), (1, 5)], ids=str)
@pytest.mark.parametrize("channels", [32, 70, 128])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
def test_streamed_results_are_the_results(rng, monkeypatch, forget, pool, levels, channels, dtype):
    """Past the caches, at once or beside the next window's bins, or into lines fetched before.

    At the beginning of a cache line or not; with areas or without.
    """
    x = (30 * rng.standard_normal((2, channels, 30, 40))).astype(dtype)
    rois, batch_index = windows(rng, 300, "sppnet"), rng.integers(0, 2, 300)
    shape = 300, sppfast.Pyramid(levels).output_length(channels)

    def allocate(dtype, shift):
        memory = np.zeros(np.prod(shape) * dtype.itemsize + 128, np.uint8)
        memory = memory[-memory.ctypes.data % 64 + shift * dtype.itemsize :]
        return memory[: np.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)

    def call(stream_bytes, beside, fetched, shift, cells):
        monkeypatch.setattr(launch, "STREAM_BYTES", stream_bytes)
        monkeypatch.setattr(launch, "_streams_beside", lambda: beside)
        monkeypatch.setattr(launch, "_fetches_lines", lambda: fetched)
        monkeypatch.setattr(ways, "AREA_CELLS", cells)
        monkeypatch.setattr(ways, "PAIR_CELLS", cells)
        forget()
        kind = np.dtype(np.float32) if dtype == "int8" and pool in FLOAT_RESULTS else x.dtype
        out, indices = allocate(kind, shift), allocate(np.dtype(np.int32), shift)
        return pool(x, rois, levels, batch_index=batch_index, out=out, indices=indices)

    plain = call(2**60, beside=False, fetched=False, shift=0, cells=1)
    writes = (False, False), (True, False), (True, True)
    for way, shift, cells in itertools.product(writes, (0, 1), (1, 10**6)):
        for result, expected in zip(call(0, *way, shift, cells), plain, strict=True):
            np.testing.assert_array_equal(result, expected)


SIDE_BY_SIDE = [
    ((2, 33, 40, 60), 7),
    ((2, 100, 40, 60), (3, (1, 2))),
    ((1, 257, 30, 90), (6, 3, 2, 1)),
    ((1, 257, 30, 90), (9, (2, 5))),
    ((1, 1030, 20, 30), 7),
    ((1, 272, 190, 180), 7),
]


@pytest.mark.parametrize("pool", [pool_maxima, find_maxima, pool_means, align_means, align_maxima])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8"])
@pytest.mark.parametrize(("shape", "levels"), SIDE_BY_SIDE, ids=str)
def test_windows_are_read_where_they_lie(rng, monkeypatch, forget, shape, levels, dtype, pool):
    """All channels at once, if they lie side by side: the bits are those of channels apart. Beside fences."""
    x = make(rng, shape, dtype, "spread")
    rois, batch_index = make_rois(rng, 30, (32 * shape[2], 32 * shape[3])) / 2, rng.integers(0, shape[0], 30)
    rois[:25, 2:] = rois[:25, :2] + rng.uniform(0, 100, (25, 2))
    rois[25] = 0, 0, 16 * shape[3], 16 * shape[2]
    groups = []

    def run(kind, fields, workers, run=launch.run):
        groups.append(fields[descriptor.GROUP])
        run(kind, fields, workers)

    for module, name in ((ways, "RAW_TIMES"), (weigh, "RAW_CELLS"), (weigh, "FAR_RAW_CELLS")):
        monkeypatch.setattr(module, name, 2**40)  # windows share no tile
    monkeypatch.setattr(division, "FAR_SUMS_BYTES", 0)
    forget()
    for module in (launch, weigh):
        monkeypatch.setattr(module, "run", run)

    def call(x, layout):
        groups.clear()
        result = np.float32 if dtype == "int8" and pool in FLOAT_RESULTS else x.dtype
        outs = [np.zeros((30, sppfast.Pyramid(levels).output_length(shape[1])), kind) for kind in (result, np.int32)]
        return pool(x, rois, levels, batch_index=batch_index, layout=layout, out=outs[0], indices=outs[1])

    apart, block = call(x, "NCHW"), max(groups)
    for side in ("end", "begin"):
        with fenced(side):
            beside = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        for a, b in zip(call(beside, "NHWC"), apart, strict=True):
            np.testing.assert_array_equal(a, b)
    if shape[1] > 128:
        assert max(groups) > block


HALVED = {  # with which kernel, where there are pairs
    pool_maxima: ("max", kernels.build),
    find_maxima: ("paired", kernels.build),
    pool_means: ("avg", kernels.build),
    align_means: ("mean", taps.build_gather),
    align_maxima: ("peak", taps.build_gather),
}


FLOATS = "float16", "bfloat16", "float32", "float64"


@pytest.mark.parametrize(("pool", "dtype"), [*itertools.product(HALVED, FLOATS), (pool_maxima, "uint8")])
@pytest.mark.parametrize("levels", [7, (6, 3, 2, 1)], ids=str)
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_large_maps_are_packed_in_half_the_lanes(rng, monkeypatch, forget, layout, dtype, levels, pool):
    """A cache line of channels of each cell: the bits are those of all lanes. Of means if there is a table of areas."""
    mode, build = HALVED[pool]
    mode = "argmax" if dtype == "float64" and mode == "paired" else mode
    has_table = pool is pool_means and dtype != "float64"
    x = make(rng, (2, 100, 26, 30), dtype, "spread")
    rois, batch_index = make_rois(rng, 90, (32 * 26, 32 * 30)) / 2, rng.integers(0, 2, 90)
    half, lanes = ways.kernel_of(dtype, mode, 1, build), []

    def address(kernel, way="", address=ways.Kernel.address):
        lanes.append(kernel.lanes)
        return address(kernel, way)

    def call(x, layout):
        outs = [np.zeros((90, sppfast.Pyramid(levels).output_length(100)), kind) for kind in (x.dtype, np.int32)]
        return pool(x, rois, levels, batch_index=batch_index, layout=layout, out=outs[0], indices=outs[1])

    whole = call(x, "NCHW")
    monkeypatch.setattr(ways, "_shared_from", lambda *_: 0)
    monkeypatch.setattr(weigh, "FAR_RAW_CELLS", 0)
    monkeypatch.setattr(ways, "WIDE_SHARED_BYTES", 2**30 if has_table else 26 * 30 * half.cell_bytes)
    monkeypatch.setattr(ways, "SECOND_BYTES", 0)
    monkeypatch.setattr(ways, "AREA_CELLS", 0)
    monkeypatch.setattr(ways.Kernel, "address", address)
    forget()
    again = call(x if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(x, 1, -1)), layout)
    for a, b in zip(again, whole, strict=True):
        np.testing.assert_array_equal(a, b)
    few = ways.kernel_of(dtype, mode, NARROW, build)
    assert lanes[-1] == (few if pool is pool_means and not has_table else half).lanes


@pytest.mark.parametrize(("place", "lead"), [(0, 0), (16, 4), (60, 15), (62, 0)])
@pytest.mark.parametrize("pool", [pool_maxima, find_maxima, align_means, align_maxima])
def test_blocks_of_far_maps_begin_where_cache_lines_do(rng, monkeypatch, forget, pool, place, lead):
    """All but the first, which has channels in common with the next one; where a line begins with an item."""
    x = make(rng, (48, 26, 30), "float32", "spread")
    rois, fields = make_rois(rng, 90, (32 * 26, 32 * 30)) / 2, []
    memory = np.zeros(x.nbytes + 128, np.uint8)
    first = -address_of(memory) % 64 + place
    moved = memory[first : first + x.nbytes].view(x.dtype).reshape(26, 30, 48)
    moved[...] = np.moveaxis(x, 0, -1)

    def run(kind, given, workers, run=launch.run):
        fields.append(list(given))
        run(kind, given, workers)

    def call(x, layout):
        outs = [np.zeros((90, 48 * 49), dtype) for dtype in (x.dtype, np.int32)]
        return pool(x, rois, 7, batch_index=np.zeros(90, int), layout=layout, out=outs[0], indices=outs[1])

    whole = call(x, "NCHW")
    monkeypatch.setattr(ways, "_shared_from", lambda *_: 0)
    monkeypatch.setattr(weigh, "FAR_RAW_CELLS", 0)
    monkeypatch.setattr(ways, "SECOND_BYTES", 0)
    monkeypatch.setattr(ways, "WIDE_SHARED_BYTES", 26 * 30 * (128 if pool is find_maxima else 64))
    monkeypatch.setattr(division, "LINE_BLOCKS", 2)
    for module in (launch, weigh):
        monkeypatch.setattr(module, "run", run)
    forget()
    for a, b in zip(call(moved, "NHWC"), whole, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (fields[-1][descriptor.LEAD], fields[-1][descriptor.BLOCKS]) == (lead, 4 if lead else 3)


@pytest.mark.parametrize(("workers", "way"), [(1, "FETCHED"), (4, "FETCHED"), (5, "BESIDE"), (None, "BESIDE")])
def test_only_few_threads_fetch_the_lines_that_they_write(rng, monkeypatch, forget, workers, way):
    """It is twice the memory traffic."""
    asked = []

    def run(kernel, fields, *_):
        asked.append(ctypes.c_int64.from_address(fields + 8 * descriptor.STREAM).value)

    monkeypatch.setattr(launch, "STREAM_BYTES", 0)
    for module in (division, launch):
        monkeypatch.setattr(module, "available_cores", lambda: 8)
    monkeypatch.setattr(launch, "_streams_beside", lambda: True)
    monkeypatch.setattr(launch, "_fetches_lines", lambda: True)
    monkeypatch.setattr(launch.threads.crew, "run", run)
    forget()
    x = rng.random((256, 30, 40), dtype=np.float32)
    sppfast.roi_pool(x, windows(rng, 300, "sppnet"), 7, workers=workers)
    assert asked == [getattr(descriptor, way)]


def test_little_work_wakes_no_thread(rng, monkeypatch, forget):
    """To wake one takes as long as the work; but where calls come one after the other one is, or would be, awake."""
    asked, clock = [], SimpleNamespace(monotonic=lambda: clock.now, now=100.0)
    crew = threads.Crew()
    monkeypatch.setattr(threads, "time", clock)
    monkeypatch.setattr(threads, "crew", crew)
    monkeypatch.setattr(crew, "run", lambda kernel, fields, tasks, workers: asked.append(workers))
    for module in (division, launch):
        monkeypatch.setattr(module, "available_cores", lambda: 2)
    forget()
    tiny, little, much = (rng.random(shape, np.float32) for shape in ((8, 13, 13), (64, 38, 63), (512, 64, 64)))
    calls = (little, 1), (little, 1e-5), (little, 1), (much, 1), (tiny, 1e-5)
    for x, pause in calls:
        clock.now += pause
        sppfast.pool(x)
    crew._fields[threads.AWAKE] = 1
    for x in (little, tiny):
        clock.now += 1
        sppfast.pool(x)
    assert asked == [1, 2, 1, 2, 1, 2, 1]


def test_cells_of_aligned_windows_count_as_work(rng, monkeypatch):
    """Few bins of large windows are work for several threads: their cells are packed, or the map's."""
    asked = []
    monkeypatch.setattr(weigh, "run", lambda launch, *_: asked.append(launch.items))
    x = rng.standard_normal((64, 90, 120)).astype(np.float32)
    sizes = [sppfast.roi_align(x, [[0, 0, 1900, 1400]] * count, 7).size for count in (1, 100)]
    _, alone, _, shared = asked  # the first of each lists taps
    assert alone - weigh.ALIGNED_CELLS * sizes[0] > 64 * 14 * 119  # two rows of samples for each row of bins
    assert shared - weigh.ALIGNED_CELLS * sizes[1] >= 64 * 90 * 120


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 250, 256, 700])
@pytest.mark.parametrize("size", [(13, 13), (40, 9), (1, 70)], ids=str)
def test_channels_side_by_side_are_channels_apart(rng, channels, size):
    """Their blocks are read together, as many as there are tasks to spare, and the last may be part of one."""
    for count in (1, 3, 40):
        x = rng.integers(-9, 9, (count, channels, *size)).astype(np.float32)
        x.reshape(-1)[:: max(x.size // 5, 1)] = np.nan
        with fenced("end"):  # what lies behind the last channel may not be read
            beside = np.ascontiguousarray(np.moveaxis(x, 1, -1))
        for levels in (5, (4, 2, 1), (3, (7, 2))):
            apart = sppfast.pool(x, levels, return_indices=True)
            together = sppfast.pool(beside, levels, layout="NHWC", return_indices=True)
            for a, b in zip(apart, together, strict=True):
                np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(sppfast.pool(beside, levels, layout="NHWC"), apart[0])


@pytest.mark.parametrize("options", [{}, {"return_indices": True}, {"mode": "avg"}], ids=str)
@pytest.mark.parametrize("row_cells", [0, 1e-9, 1e9])
def test_channels_and_columns_with_one_step(rng, set_row_cells, row_cells, options):
    """Channels lie side by side, and so do columns: each cell is the next channel of the one before it."""
    set_row_cells(row_cells)
    for channels in (33, 70, 250):
        for step in (8, -8):  # float64
            line = rng.standard_normal(2000)
            strides = (step, 41 * 8, step)
            begin = line[channels + 40 :] if step < 0 else line
            x = np.lib.stride_tricks.as_strided(begin, (channels, 30, 40), strides)
            for levels in (3, (4, 2, 1)):
                found = sppfast.pool(x, levels, **options)
                wanted = sppfast.pool(np.ascontiguousarray(x), levels, **options)
                for a, b in zip(*((r if isinstance(r, tuple) else (r,)) for r in (found, wanted)), strict=True):
                    np.testing.assert_allclose(a, b, rtol=1e-12 if "mode" in options else 0, atol=1e-14)


VIEWS = {
    "all": lambda x: x,
    "some columns, upside down": lambda x: x[:, ::-1, : -(-x.shape[2] * 3 // 4)],
    "some channels and rows": lambda x: x[::-2, ::3],
    "mirrored": lambda x: x[..., ::-1],
    "transposed": lambda x: x.swapaxes(1, 2)[:, :, ::-1],
}


@pytest.mark.parametrize("options", [{}, {"return_indices": True}, {"mode": "avg"}], ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(70, 64, 64), (33, 17, 23), (40, 5, 2048), (65, 33, 3), (40, 600, 17)], ids=str)
@pytest.mark.parametrize("view", VIEWS)
def test_staged_cells_are_the_cells(rng, set_row_cells, view, shape, dtype, options):
    """Of channels that push each other out of a cache, and rows shorter than a block: beside fences, as in NHWC."""
    set_row_cells(1e9)
    whole = make(rng, shape, dtype, "spread")
    _, height, width = VIEWS[view](whole).shape
    sides = [
        (h, w) for h in (1, 2, 3, 16, height) for w in (1, 2, 3, 5, 9, 15, 17, width) if h <= height and w <= width
    ]
    corners = [(rng.integers(height - h + 1), rng.integers(width - w + 1)) for h, w in sides]
    rois = np.array([(x, y, x + w - 1, y + h - 1) for (y, x), (h, w) in zip(corners, sides, strict=True)])

    def call(x):
        pooled = [sppfast.roi_pool(x, roi[None], (3, 1), rounding="cells", workers=1, **options) for roi in rois]
        return [np.array(one, np.float64) for one in (*pooled, sppfast.pool(x, (9, 2), workers=1, **options))]

    wanted = call(np.moveaxis(np.ascontiguousarray(np.moveaxis(VIEWS[view](whole), 0, -1)), -1, 0))
    rounded = {2: 1e-2}.get(whole.itemsize, 1e-6) if "mode" in options else 0
    for side in ("end", "begin"):
        with fenced(side):
            found = call(VIEWS[view](whole.copy()))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=rounded)


@pytest.mark.parametrize("levels", [5, (6, 3, 2, 1), (4, (2, 3)), (9, 8, 1)], ids=str)
@pytest.mark.parametrize("size", [(7, 9), (13, 13), (30, 41), (60, 50)], ids=str)
def test_means_that_are_summed_at_once_have_the_same_bits(rng, monkeypatch, forget, size, levels):
    """Of whole maps and of windows: it may not depend on how many others there are."""
    x = rng.standard_normal((2, *size, 80))
    corners = np.sort(rng.integers(0, size[::-1], (2, 20, 2, 2)), axis=2)  # of windows: the first and the last cell
    rois = np.concatenate([corners[:, :, 0], corners[:, :, 1] + 1], axis=2)
    monkeypatch.setattr(ways, "RAW_TIMES", 2**40)  # windows share no tile
    monkeypatch.setattr(division, "TASKS_PER_CORE", 0)  # and tasks have all channels
    results, options = [], {"mode": "avg", "layout": "NHWC"}
    for least in (0, 2**60):
        monkeypatch.setattr(division, "FAR_SUMS_BYTES", least)
        forget()
        of_windows = sppfast.roi_pool(x, list(rois), levels, rounding="cells", **options)
        results.append((sppfast.pool(x, levels, **options), of_windows))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("count", "shared"), [(1, 0), (8, 1)])
def test_small_windows_share_tiles_where_their_maps_leave_the_caches(rng, monkeypatch, forget, count, shared):
    """Each of their rows is a line or two from memory: three small ones of one map do not, those of several do."""
    x = rng.standard_normal((count, 32, 16, 16), dtype=np.float32)
    corners = 16 * rng.integers(1, 10, (count, 3, 2))
    rois = np.concatenate([corners, corners + 96.0], axis=2)
    alone = np.concatenate([sppfast.roi_pool(*own, 2) for own in zip(x, rois, strict=True)])
    seen = []

    def run(kind, fields, workers, run=launch.run):
        seen.append(fields[descriptor.SHARED])
        run(kind, fields, workers)

    monkeypatch.setattr(ways, "FAR_ROWS_BYTES", 2 * x[0].nbytes)
    monkeypatch.setattr(launch, "run", run)
    forget()
    np.testing.assert_array_equal(sppfast.roi_pool(x, list(rois), 2), alone)
    assert seen == [shared]
