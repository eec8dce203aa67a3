"""Arrays of dask: lazy, the bits of the in-memory call whatever the chunks, one task for each chunk of maps."""

import dataclasses
import math
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
from helpers import DTYPES, assert_equal, make, make_map, make_rois, seeds
from hypothesis import given
from hypothesis import strategies as st
from test_errors import raises

import sppfast

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask is not installed")
db = pytest.importorskip("dask.bag", reason="dask is not installed")

LEVELS = (3, (2, 1))
SHAPE = (5, 6, 9, 7)
FORMS = [{}, {"flatten": False}, {"return_indices": True}, {"return_indices": True, "flatten": False}, {"mode": "avg"}]
CHUNKS = [(2, 6, 9, 7), (5, 6, 9, 7), ((1, 4), (1, 5), 4, 7), ((2, 0, 3), 2, 9, 3)]
INDEX = [4, 0, 0, 3, 1, 4, 0]  # no window of map 2
GROUPS = [(1, 2, 6), (4,), (), (3,), (0, 5)]  # the same windows by maps


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def array(rng):
    return make(rng, SHAPE, "float32", "spread")


@pytest.fixture
def windows(rng):
    return make_rois(rng, len(INDEX), (144, 112))


def in_chunks(x, chunks, layout="NCHW"):
    """Maps as a dask array in a layout; the chunks are those of (..., C, H, W)."""
    return da.moveaxis(da.from_array(x, chunks=chunks), -3, {"NCHW": -3, "NHWC": -1}[layout])


def assert_promised(lazy, want):
    """A lazy result is what it said it would be, and the same as in memory."""
    if isinstance(want, tuple):
        assert isinstance(lazy, tuple) and len(lazy) == len(want)
        for one_lazy, one_want in zip(lazy, want, strict=True):
            assert_promised(one_lazy, one_want)
        return
    assert isinstance(lazy, da.Array)
    assert (lazy.shape, lazy.dtype) == (want.shape, want.dtype)
    assert (lazy._meta.ndim, lazy._meta.dtype) == (want.ndim, want.dtype)
    assert_equal(np.asarray(lazy), want)


# ---- forms


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_pool(options, chunks, layout, array):
    options = {"layout": layout, **options}
    x = np.asarray(in_chunks(array, -1, layout))
    lazy = in_chunks(array, chunks, layout)
    assert_promised(sppfast.pool(lazy, LEVELS, **options), sppfast.pool(x, LEVELS, **options))
    assert_promised(sppfast.pool(lazy[3], LEVELS, **options), sppfast.pool(x[3], LEVELS, **options))


def forms_of_windows(windows):
    """The same windows in all forms: arguments, and the order of the rows."""
    lazy, index = da.from_array(windows, chunks=(3, 2)), da.from_array(np.array(INDEX), chunks=4)
    by_maps = [windows[list(group)] for group in GROUPS]
    with_index = np.column_stack([INDEX, windows])
    yield {"rois": windows, "batch_index": INDEX}, range(len(INDEX))
    yield {"rois": with_index}, range(len(INDEX))
    yield {"rois": by_maps}, sum(GROUPS, ())
    yield {"rois": lazy, "batch_index": INDEX}, range(len(INDEX))
    yield {"rois": lazy, "batch_index": index}, range(len(INDEX))
    yield {"rois": windows.tolist(), "batch_index": index}, range(len(INDEX))
    yield {"rois": da.from_array(with_index, chunks=(len(INDEX), 5))}, range(len(INDEX))
    yield {"rois": [da.from_array(by_maps[0]), [], *map(da.from_array, by_maps[2:])]}, (1, 2, 6, 3, 0, 5)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("options", FORMS, ids=str)
def test_roi_pool(options, chunks, layout, array, windows):
    options = {"layout": layout, "levels": LEVELS, **options}
    x = np.asarray(in_chunks(array, -1, layout))
    lazy = in_chunks(array, chunks, layout)
    for arguments, order in forms_of_windows(windows):
        want = sppfast.roi_pool(x, windows[list(order)], batch_index=np.take(INDEX, order), **options)
        assert_promised(sppfast.roi_pool(lazy, **arguments, **options), want)
    assert_promised(sppfast.roi_pool(lazy[3], windows, **options), sppfast.roi_pool(x[3], windows, **options))
    assert_promised(
        sppfast.roi_pool(lazy, np.zeros((0, 5)), **options), sppfast.roi_pool(x, np.zeros((0, 5)), **options)
    )


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(mode, array, windows):
    for arguments, order in forms_of_windows(windows):
        want = sppfast.roi_align(array, windows[list(order)], 3, batch_index=np.take(INDEX, order), mode=mode)
        assert_promised(sppfast.roi_align(in_chunks(array, CHUNKS[2]), **arguments, levels=3, mode=mode), want)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_maps_of_different_sizes(options, rng, windows):
    maps = [make(rng, shape) for shape in ((3, 9, 7), (3, 4, 12), (3, 5, 5))]
    lazy = [da.from_array(one, chunks=(2, 3, 4)) for one in maps]
    groups = [windows[:3], windows[3:4], windows[4:]]
    assert_promised(sppfast.pool(lazy, **options), sppfast.pool(maps, **options))
    want = sppfast.roi_pool(maps, groups, **options)
    assert_promised(sppfast.roi_pool(lazy, groups, **options), want)
    assert_promised(sppfast.roi_pool(lazy, list(map(da.from_array, groups)), **options), want)
    index = [2, 0, 0, 2, 0, 2, 0]
    want = sppfast.roi_pool(maps, windows, batch_index=index, **options)
    assert_promised(sppfast.roi_pool(lazy, windows, batch_index=index, **options), want)
    none = np.zeros((0, 5))
    assert_promised(sppfast.roi_pool(lazy, none, **options), sppfast.roi_pool(maps, none, **options))


@pytest.mark.parametrize("dtype", [*DTYPES, ">f4", ">i2"])
def test_dtypes(dtype, rng):
    x = make(rng, (3, 5, 6, 7), dtype.replace(">f4", "float32").replace(">i2", "int16"))
    x = x.astype(dtype) if dtype.startswith(">") else x
    for mode in ("max", "avg"):
        assert_promised(sppfast.pool(in_chunks(x, (2, 2, 6, 7)), mode=mode), sppfast.pool(x, mode=mode))


def test_empty():
    x = da.zeros((0, 3, 9, 7), chunks=(1, 3, 9, 7))
    assert_promised(sppfast.pool(x), np.zeros((0, 63)))
    assert_promised(sppfast.roi_pool(x, np.zeros((0, 5))), np.zeros((0, 150)))


def test_how_many_maps_there_are_need_not_be_known(array):
    x = in_chunks(array, CHUNKS[2])
    some = sppfast.pool(x[da.from_array(np.array([True, False, True, True, False]), chunks=2)])
    assert math.isnan(some.shape[0]) and some.shape[1] == 6 * 21
    assert_equal(some.compute(), sppfast.pool(array[[0, 2, 3]]))


# ---- properties


@st.composite
def chunked(draw, shape):
    """Chunks of a shape, at random, empty ones too."""

    def cut(length, least):
        sizes = draw(st.lists(st.integers(least, length), max_size=4))
        stops = [0, *(stop for stop in np.cumsum(sizes).tolist() if stop < length), length]
        return tuple(np.diff(stops).tolist())

    return cut(shape[0], 0), *(cut(side, 1) for side in shape[1:])


@given(chunked(SHAPE), seeds, st.sampled_from(["max", "avg"]), st.sampled_from(["NCHW", "NHWC"]), st.booleans())
def test_chunks_change_no_bit(chunks, seed, mode, layout, late):
    rng = np.random.default_rng(seed)
    x = make(rng, SHAPE, "float32", "spread")
    rois, index = make_rois(rng, 9, (144, 112)), rng.integers(0, 5, 9)
    lazy, whole = in_chunks(x, chunks, layout), np.asarray(in_chunks(x, -1, layout))
    options = {"mode": mode, "layout": layout}
    assert_equal(np.asarray(sppfast.pool(lazy, **options)), sppfast.pool(whole, **options))
    given_index = da.from_array(index, chunks=chunks[2]) if late else index
    got = sppfast.roi_pool(lazy, rois, batch_index=given_index, **options)
    assert_equal(np.asarray(got), sppfast.roi_pool(whole, rois, batch_index=index, **options))


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_blocks_of_channels_change_no_bit_of_large_maps(mode, rng):
    """Kernels for few channels divide a map into other parts than those for many."""
    x = rng.standard_normal((1, 20, 300, 200), dtype=np.float32)
    lazy = da.from_array(x, chunks=(1, (1, 3, 16), 300, 200))
    assert_equal(np.asarray(sppfast.pool(lazy, 3, mode=mode)), sppfast.pool(x, 3, mode=mode))


# ---- graphs


def tasks(result):
    """How many tasks are left of a graph when dask has optimised it; other names of tasks, and data, are none."""
    graph = dict(result.__dask_optimize__(result.dask, result.__dask_keys__()))
    return sum(type(node).__name__ not in ("Alias", "DataNode", "ndarray") for node in graph.values())


def test_nothing_is_computed_before_it_is_asked_for(array, windows):
    def never(block):
        raise AssertionError

    x = in_chunks(array, CHUNKS[0]).map_blocks(never, meta=np.empty((0,) * 4, np.float32))
    rois = da.from_array(windows).map_blocks(never, meta=np.empty((0, 0)))
    for lazy in (
        sppfast.pool(x, mode="avg"),
        sppfast.pool([x[0], x[1]]),
        sppfast.roi_pool(x, rois, batch_index=INDEX),
        sppfast.roi_pool(x, windows, batch_index=da.from_array(np.array(INDEX))),
    ):
        assert lazy.dtype == np.float32
        with pytest.raises(AssertionError):
            lazy.compute()


def test_one_task_for_each_chunk(rng):
    x = da.zeros((400, 8, 13, 13), chunks=(4, 8, 13, 13), dtype=np.float32)
    rois, index = make_rois(rng, 5000, (208, 208)), np.sort(rng.integers(0, 400, 5000))
    assert tasks(sppfast.pool(x)) == 100
    assert tasks(sppfast.roi_pool(x, rois, batch_index=index)) <= 200  # the maps, and their windows' results
    lazy = sppfast.roi_pool(x, rois, batch_index=da.from_array(index, chunks=2500))
    assert tasks(lazy) <= 100 * (1 + 1 + 2) + 2  # the maps, the results of all windows, of each chunk of them
    assert lazy.chunks == ((2500, 2500), (400,))


def test_chunks_of_results(array, windows):
    x, index = in_chunks(array, (1, 6, 9, 7)), da.from_array(np.array(INDEX), chunks=4)
    for lazy, chunks in (
        (sppfast.pool(in_chunks(array, CHUNKS[0])), ((2, 2, 1), (126,))),
        (sppfast.pool(in_chunks(array, CHUNKS[3])), ((2, 0, 3), (126,))),
        (sppfast.roi_pool(x, windows, 2, batch_index=sorted(INDEX)), ((3, 1, 1, 2), (24,))),
        (sppfast.roi_pool(x, windows, 2, batch_index=index), ((4, 3), (24,))),
    ):
        assert lazy.chunks == chunks
        for block in (lazy.blocks[i] for i in range(len(chunks[0]))):
            assert block.compute().shape == block.shape


def test_maps_without_windows_are_not_computed(array, windows):
    def source(block, block_info=None):
        assert block_info[0]["chunk-location"][0] in (0, 3)
        return block

    x = in_chunks(array, (1, 6, 9, 7)).map_blocks(source, dtype=np.float32)
    index = [3, 0, 0, 3, 3, 0, 0]
    assert_promised(
        sppfast.roi_pool(x, windows, batch_index=index), sppfast.roi_pool(array, windows, batch_index=index)
    )


@pytest.mark.parametrize("late", [False, True])
def test_maps_are_computed_once(late, array, windows):
    seen = []

    def source(block):
        seen.append(block.shape)
        return block

    x = in_chunks(array, (1, 6, 9, 7)).map_blocks(source, dtype=np.float32)
    index = da.from_array(np.array(INDEX), chunks=2) if late else INDEX
    values, indices = sppfast.roi_pool(x, windows, batch_index=index, return_indices=True)
    seen.clear()
    dask.compute(values, indices)
    assert len(seen) == (5 if late else 4)


def test_names_are_the_same_for_the_same_call(array, windows):
    def call():
        return sppfast.roi_pool(
            in_chunks(array, CHUNKS[1]), windows, batch_index=INDEX, geometry=sppfast.ConvGeometry(8)
        )

    assert call().name == call().name
    assert call().name != sppfast.roi_pool(in_chunks(array, CHUNKS[1]), windows, batch_index=INDEX).name


@pytest.mark.parametrize("workers, want", [(None, {1}), (3, {3})])
def test_tasks_have_one_thread_each_unless_told(workers, want, array, monkeypatch):
    from sppfast.cpu import threads

    seen = set()
    monkeypatch.setattr(threads.crew, "run", lambda kernel, descriptor, count, workers: seen.add(workers))
    x = da.from_array(np.concatenate([array] * 300, axis=-1), chunks=(5, 6, 9, 2100))
    sppfast.pool(x, workers=workers).compute()
    assert seen == want


# ---- kinds of chunks


@dataclasses.dataclass(eq=False)
class Foreign:
    """An array of a library of its own, as CuPy's are: it does not become a NumPy array. This module is the library."""

    array: np.ndarray

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)

    def __len__(self):
        return len(self.array)

    def __getitem__(self, key):
        return Foreign(self.array[key])

    def __array__(self, *args, **kwargs):
        raise TypeError("not implicitly")

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def astype(self, dtype, **options):
        return Foreign(self.array.astype(dtype, **options))

    def reshape(self, *shape, **options):
        return Foreign(self.array.reshape(*shape))

    def __array_function__(self, function, types, args, kwargs):
        result = function(*unwrapped(args), **unwrapped(kwargs))
        return Foreign(result) if isinstance(result, np.ndarray) else result


def unwrapped(value):
    if isinstance(value, Foreign):
        return value.array
    if isinstance(value, dict):
        return {name: unwrapped(item) for name, item in value.items()}
    return type(value)(map(unwrapped, value)) if isinstance(value, list | tuple) else value


def from_dlpack(array):
    return Foreign(array)


def assert_foreign(lazy, want):
    assert isinstance(lazy._meta, Foreign)
    computed = lazy.compute()
    assert isinstance(computed, Foreign)
    assert_equal(computed.array, want)


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_chunks_stay_of_their_kind(chunks, array, windows):
    x = in_chunks(array, chunks).map_blocks(Foreign, meta=Foreign(np.empty((0,) * 4, np.float32)))
    assert_foreign(sppfast.pool(x), sppfast.pool(array))
    assert_foreign(sppfast.pool(x[1], flatten=False)[1], sppfast.pool(array[1], flatten=False)[1])
    want = sppfast.roi_pool(array, windows, batch_index=INDEX, return_indices=True)
    for index in (INDEX, da.from_array(np.array(INDEX), chunks=3)):
        got = sppfast.roi_pool(x, windows, batch_index=index, return_indices=True)
        assert_foreign(got[0], want[0])
        assert_foreign(got[1], want[1])
    grad = np.ones((5, 126), np.float32)
    assert_foreign(sppfast.pool_backward(foreign(grad), x), sppfast.pool_backward(grad, array))


def foreign(array):
    """A dask array of such chunks."""
    return da.from_array(array, chunks=2).map_blocks(Foreign, meta=Foreign(array[:0]))


# ---- gradients


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_gradients(mode, chunks, layout, array, windows, rng):
    x, lazy = np.asarray(in_chunks(array, -1, layout)), in_chunks(array, chunks, layout)
    options = {"mode": mode, "layout": layout, "levels": LEVELS}
    maps, rows = (rng.standard_normal((n, 6 * 11), dtype=np.float32) for n in (5, len(INDEX)))
    for wrap in (np.asarray, lambda grad: da.from_array(grad, chunks=4)):
        want = sppfast.pool_backward(maps, x, **options)
        assert_promised(sppfast.pool_backward(wrap(maps), lazy, **options), want)
        assert_promised(sppfast.pool_backward(wrap(maps[1]), lazy[1], **options), want[1])
        for operator in (sppfast.roi_pool_backward, sppfast.roi_align_backward):
            want = operator(rows, x, windows, batch_index=INDEX, **options)
            assert_promised(operator(wrap(rows), lazy, windows, batch_index=INDEX, **options), want)
            want = operator(rows, x[1], windows, **options)
            assert_promised(operator(wrap(rows), lazy[1], windows, **options), want)


def test_gradients_by_indices(array, windows, rng):
    x = in_chunks(array, CHUNKS[2])
    values, indices = sppfast.pool(x, return_indices=True)
    assert_promised(sppfast.pool_backward(values, x, indices=indices), sppfast.pool_backward(np.asarray(values), array))
    values, indices = sppfast.roi_pool(x, windows, batch_index=INDEX, return_indices=True)
    want = sppfast.roi_pool_backward(np.asarray(values), array, windows, batch_index=INDEX)
    assert_promised(sppfast.roi_pool_backward(values, x, windows, batch_index=INDEX, indices=indices), want)


# ---- schedulers, bags and delayed


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_schedulers(scheduler, array, windows):
    x = in_chunks(array, CHUNKS[3])
    late = da.from_array(np.array(INDEX), chunks=4)
    lazy = [
        sppfast.pool(x, return_indices=True),
        sppfast.roi_pool(x, windows, batch_index=INDEX, geometry=sppfast.ConvGeometry(16, 2)),
        sppfast.roi_pool(x, windows, batch_index=late),
        sppfast.roi_align(x, windows, 3, batch_index=INDEX),
    ]
    got = dask.compute(*lazy, scheduler=scheduler, num_workers=2)
    assert_equal(got[0], sppfast.pool(array, return_indices=True))
    assert_equal(got[1], sppfast.roi_pool(array, windows, batch_index=INDEX, geometry=sppfast.ConvGeometry(16, 2)))
    assert_equal(got[2], sppfast.roi_pool(array, windows, batch_index=INDEX))
    assert_equal(got[3], sppfast.roi_align(array, windows, 3, batch_index=INDEX))


def test_bags_and_delayed(rng):
    maps = [make_map(rng, (3, 5 + i, 9)) for i in range(7)]
    want = sppfast.pool(maps)
    bag = db.from_sequence(maps, npartitions=3)
    assert_equal(np.stack(bag.map(sppfast.pool, workers=1).compute()), want)
    by_partition = bag.map_partitions(lambda part: [sppfast.pool(list(part), workers=1)])
    assert_equal(np.concatenate(by_partition.compute()), want)
    rows = [da.from_delayed(dask.delayed(sppfast.pool)(one, workers=1), (63,), np.float32) for one in maps]
    assert_equal(np.asarray(da.stack(rows)), want)


def test_what_tasks_hold_can_be_pickled(array, windows):
    lazy = sppfast.roi_pool(in_chunks(array, CHUNKS[0]), windows, batch_index=INDEX, levels=[3, (2, 1)])
    assert_equal(np.asarray(pickle.loads(pickle.dumps(lazy))), np.asarray(lazy))


def test_example_with_zarr(tmp_path, capsys):
    """As it is run without arguments; and from a store to a store, which holds what the call in memory gives."""
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    example = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "examples" / "zarr_features.py"))
    example["main"]([])
    assert "64 vectors of 5376" in capsys.readouterr().out
    maps, vectors = str(tmp_path / "maps.zarr"), str(tmp_path / "vectors.zarr")
    example["make_maps"](maps, 10)
    example["main"]([maps, vectors, "--levels", "2", "1"])
    assert "100%" in capsys.readouterr().out
    assert_equal(zarr.open(vectors)[:], sppfast.pool(zarr.open(maps)[:], (2, 1)))


# ---- errors

X = da.zeros((2, 3, 6, 7), chunks=(1, 3, 6, 7), dtype=np.float32)
ROIS = np.array([[0.0, 0, 40, 40], [5, 5, 60, 60]])
UNKNOWN = X[da.from_array(np.array([True, False]), chunks=1)]


def test_out_is_refused():
    for out in (np.empty((2, 63), np.float32), da.empty((2, 63), dtype=np.float32)):
        with raises(ValueError, "out", "dask", "da.store"):
            sppfast.pool(X, out=out)


def test_unknown_sizes_are_refused():
    unknown = da.from_array(ROIS)[da.from_array(ROIS[:, 0] > 1)]
    for name, call in {
        "x": lambda: sppfast.pool(UNKNOWN, flatten=False),
        "x[1]": lambda: sppfast.pool([X[0], UNKNOWN[:, 0]]),
        "rois": lambda: sppfast.roi_pool(X, unknown, batch_index=[0]),
        "rois[1]": lambda: sppfast.roi_pool(X, [ROIS, unknown]),
        "batch_index": lambda: sppfast.roi_pool(X, ROIS, batch_index=unknown[:, 0].astype(int)),
        "grad": lambda: sppfast.pool_backward(sppfast.pool(UNKNOWN), X),
    }.items():
        with raises(ValueError, name, "unknown", "compute_chunk_sizes()"):
            call()
    with raises(ValueError, "x", "unknown"):
        sppfast.roi_pool(UNKNOWN, ROIS, batch_index=[0, 0])
    with raises(ValueError, "x", "unknown"):
        sppfast.pool(X[:, :, :, X[0, 0, 0] > 0])


def test_options_are_checked_at_once():
    with raises(ValueError, "mode", "'median'"):
        sppfast.pool(X, mode="median")
    with raises(ValueError, "layout", "'CHW'"):
        sppfast.pool(X, layout="CHW")
    with raises(ValueError, "levels[1]", 0):
        sppfast.pool(X, (1, 0))
    with raises(ValueError, "workers", 0):
        sppfast.pool(X, workers=0)
    with raises(ValueError, "x", (6, 7)):
        sppfast.pool(X[0, 0])
    with raises(ValueError, "x", "zero size"):
        sppfast.pool(X[:, :, :0])
    with raises(TypeError, "x", "complex64"):
        sppfast.pool(X.astype(np.complex64))
    with raises(ValueError, "x[1]", "2 channels"):
        sppfast.pool([X[0], X[0, :2]])
    with raises(TypeError, "x[1]", "Array", "ndarray"):
        sppfast.pool([X[0], np.zeros((3, 6, 7), np.float32)])


def test_windows_are_checked_as_far_as_they_are_known():
    lazy = da.from_array(ROIS)
    with raises(ValueError, "rois[1]", "x1 = 5", "x0 = 60"):
        sppfast.roi_pool(X, [[0, 0, 9, 9], [60, 5, 5, 60]], batch_index=[0, 1])
    with raises(ValueError, "batch_index", "needed"):
        sppfast.roi_pool(X, lazy)
    with raises(ValueError, "batch_index[1]", 2, "out of range"):
        sppfast.roi_pool(X, lazy, batch_index=[0, 2])
    with raises(ValueError, "rois", (2, 3)):
        sppfast.roi_pool(X, lazy[:, :3], batch_index=[0, 1])
    with raises(ValueError, "batch_index", (2,), (1,)):
        sppfast.roi_pool(X, lazy, batch_index=da.zeros(1, dtype=int))
    with raises(TypeError, "batch_index", "float64"):
        sppfast.roi_pool(X, lazy, batch_index=da.zeros(2))
    with raises(TypeError, "batch_index", "list of dask arrays"):
        sppfast.roi_pool(X, ROIS, batch_index=list(da.zeros(2, dtype=int)))
    with raises(TypeError, "rois", "known"):
        sppfast.roi_pool([X[0], X[1]], ROIS, batch_index=da.zeros(2, dtype=int))


def test_windows_are_checked_when_they_are_known():
    with raises(ValueError, "batch_index[0]", 2, "chunk 1"):
        sppfast.roi_pool(X, ROIS, batch_index=da.from_array(np.array([0, 2]), chunks=1)).compute()
    with raises(ValueError, "rois[0]", "x1 = 1", "x0 = 40"):
        sppfast.roi_pool(X[0], da.from_array(ROIS[:1, [2, 1, 0, 3]] + [0, 0, 1, 0])).compute()


def test_gradients_that_are_refused():
    grad = da.zeros((2, 63), dtype=np.float32)
    with raises(TypeError, "x", "one array", "list"):
        sppfast.pool_backward(grad, [X[0], X[1]])
    with raises(TypeError, "grad", "flat", "tuple"):
        sppfast.pool_backward(sppfast.pool(X, flatten=False), X)
    with raises(ValueError, "grad", (2, 63), (2, 62)):
        sppfast.pool_backward(grad[:, 1:], X)
    with raises(ValueError, "grad", (2, 150), (1, 150)):
        sppfast.roi_pool_backward(np.zeros((1, 150), np.float32), X, ROIS, batch_index=[0, 1])
    with raises(TypeError, "grad", "float32", "float64"):
        sppfast.pool_backward(grad.astype(np.float64), X)
    with raises(TypeError, "rois", "known"):
        rows = np.zeros((2, 150), np.float32)
        sppfast.roi_pool_backward(rows, X, ROIS, batch_index=da.zeros(2, dtype=int))
    with raises(TypeError, "x", "int64"):
        sppfast.pool_backward(grad, X.astype(int))


def test_other_collections_are_no_maps():
    with raises(TypeError, "x", "Delayed"):
        sppfast.pool(dask.delayed(np.zeros)((3, 6, 7)))
    with raises(TypeError, "x", "Bag"):
        sppfast.pool(db.from_sequence([1]))


def test_maps_of_numpy_take_windows_of_dask():
    x = np.arange(2 * 3 * 6 * 7, dtype=np.float32).reshape(2, 3, 6, 7)
    got = sppfast.roi_pool(x, da.from_array(ROIS), batch_index=da.from_array(np.array([1, 0])))
    assert_equal(got, sppfast.roi_pool(x, ROIS, batch_index=[1, 0]))
