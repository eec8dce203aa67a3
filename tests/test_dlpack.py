"""Arrays of other libraries by DLPack: what comes back, what is refused, and what is not imported."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from helpers import assert_equal, make, make_rois
from test_errors import raises

import sppfast
from sppfast.dispatch import call_foreign, is_foreign


class Foreign:
    """An array of a library that has nothing but DLPack; this module is the library."""

    def __init__(self, array, device=(1, 0)):
        self.array = array
        self.device = device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def from_dlpack(array):
    return Foreign(array)


def library(name):
    """How to make an array of a library, and what it makes."""
    if name == "foreign":
        return Foreign, Foreign
    module = pytest.importorskip(name, reason=f"{name} is not installed")
    return module.from_dlpack, type(module.from_dlpack(np.zeros(1)))


@pytest.fixture(params=["foreign", "array_api_strict", "tvm_ffi"])
def wrap(request):
    """Put NumPy arrays into a library."""
    return library(request.param)[0]


def unwrap(result):
    """A result as NumPy arrays."""
    if isinstance(result, list | tuple):
        return type(result)(map(unwrap, result))
    assert not isinstance(result, np.ndarray)
    return np.from_dlpack(result)


new_numpy = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.2.0",
    reason="this NumPy gives no read-only arrays by DLPack, and takes all as read-only",
)

FORMS = [{}, {"flatten": False}, {"return_indices": True}, {"return_indices": True, "flatten": False}, {"mode": "avg"}]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_pool(wrap, options, rng):
    x = make(rng, (2, 5, 9, 7), "float32", "spread")
    assert_equal(unwrap(sppfast.pool(wrap(x), **options)), sppfast.pool(x, **options))
    assert_equal(unwrap(sppfast.pool(wrap(x[0]), 3, **options)), sppfast.pool(x[0], 3, **options))


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_roi_pool(wrap, options, rng):
    x = make(rng, (2, 5, 9, 7), "float32", "spread")
    rois, index = make_rois(rng, 6, (144, 112)), np.array([0, 1, 1, 0, 1, 0])
    want = sppfast.roi_pool(x, rois, batch_index=index, **options)
    assert_equal(unwrap(sppfast.roi_pool(wrap(x), wrap(rois), batch_index=wrap(index), **options)), want)
    assert_equal(unwrap(sppfast.roi_pool(wrap(x), rois.tolist(), batch_index=index, **options)), want)


@pytest.mark.parametrize("sequence", [list, tuple])
def test_maps_of_different_sizes(wrap, sequence, rng):
    maps = [make(rng, shape) for shape in ((3, 9, 7), (3, 4, 12))]
    groups = [make_rois(rng, 2, (64, 64)), make_rois(rng, 3, (64, 64))]
    got = sppfast.pool(sequence(map(wrap, maps)), layout="NCHW")
    assert_equal(unwrap(got), sppfast.pool(maps))
    got = sppfast.roi_pool(sequence(map(wrap, maps)), sequence(map(wrap, groups)))
    assert_equal(unwrap(got), sppfast.roi_pool(maps, groups))


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint8"])
def test_dtypes(wrap, dtype, rng):
    x = make(rng, (2, 3, 9, 7), dtype)
    for mode in ("max", "avg"):
        assert_equal(unwrap(sppfast.pool(wrap(x), mode=mode)), sppfast.pool(x, mode=mode))


def test_nothing_is_copied(wrap):
    x, result, seen = np.zeros((1, 2, 3, 4), np.float32), np.zeros(3, np.float32), []

    def operator(x, levels, out):
        seen.append(x)
        return result

    got = call_foreign(operator, x=wrap(x), levels=(1,), out=None)
    assert np.shares_memory(seen[0], x)
    assert np.shares_memory(np.from_dlpack(got), result)


@new_numpy
def test_read_only(wrap, rng):
    x = make(rng, (2, 3, 9, 7))
    x.flags.writeable = False
    try:
        foreign = wrap(x)
    except BufferError:
        pytest.skip("the library takes no read-only arrays")
    assert_equal(unwrap(sppfast.pool(foreign)), sppfast.pool(x))


def test_strides(wrap, rng):
    x = make(rng, (2, 9, 14, 3)).transpose(0, 3, 1, 2)[:, :, :, ::2]
    assert_equal(unwrap(sppfast.pool(wrap(x))), sppfast.pool(x))


@new_numpy
def test_out(wrap, rng):
    x = make(rng, (2, 3, 9, 7), "float32", "spread")
    want, want_indices = sppfast.pool(x, return_indices=True)
    values, indices = np.empty_like(want), np.empty_like(want_indices)
    out = wrap(values)
    assert sppfast.pool(wrap(x), out=out) is out
    np.testing.assert_array_equal(values, want)
    pair = wrap(values), wrap(indices)
    got = sppfast.pool(wrap(x), return_indices=True, out=pair)
    assert got[0] is pair[0] and got[1] is pair[1]
    np.testing.assert_array_equal(indices, want_indices)


@new_numpy
def test_levels_of_out(rng):
    x, values = make(rng, (2, 3, 9, 7)), np.empty((2, 63), np.float32)
    levels = sppfast.pool(Foreign(x), flatten=False, out=Foreign(values))
    assert all(np.shares_memory(level.array, values) for level in levels)


# ---- errors


@pytest.mark.parametrize("device, shown", [((10, 1), "ROCm"), ((8, 0), "Metal"), ((99, 0), "99")])
def test_a_device_that_is_not_supported(device, shown):
    x, rois = np.zeros((1, 2, 3, 4), np.float32), np.zeros((1, 4))
    for call in (lambda: sppfast.pool(Foreign(x, device)), lambda: sppfast.roi_pool(Foreign(x, device), rois)):
        with raises(ValueError, "x", shown, "copy it to the CPU"):
            call()
    with raises(ValueError, "x[1]", shown):
        sppfast.pool([Foreign(x[0]), Foreign(x[0], device)])
    with raises(ValueError, "rois", shown):
        sppfast.roi_pool(Foreign(x), Foreign(rois, device))


def test_memory_of_another_device_that_the_cpu_reads(rng):
    x = make(rng, (1, 2, 3, 4))
    assert_equal(unwrap(sppfast.pool(Foreign(x, (3, 0)))), sppfast.pool(x))  # pinned for CUDA


def test_arrays_of_different_libraries(rng):
    x = make(rng, (3, 9, 7))
    with raises(TypeError, "x[1]", "Foreign", "ndarray"):
        sppfast.pool([Foreign(x), x])
    with raises(TypeError, "x[1]", "numpy array", "Foreign"):
        sppfast.pool([x, Foreign(x)])
    with raises(TypeError, "out", "Foreign"):
        sppfast.pool(x, out=Foreign(np.empty(63, np.float32)))


def test_a_library_that_takes_no_arrays(rng, monkeypatch):
    monkeypatch.delattr(sys.modules[__name__], "from_dlpack")
    with raises(TypeError, "x", "test_dlpack has no from_dlpack", "np.from_dlpack(x)"):
        sppfast.pool(Foreign(make(rng, (3, 9, 7))))


class Unreadable(Foreign):
    def __dlpack__(self, **options):
        raise BufferError("quaternions are not exported")


def test_an_array_that_is_not_exported(rng):
    with raises(TypeError, "x", "Unreadable", "quaternions"):
        sppfast.pool(Unreadable(make(rng, (3, 9, 7))))


def test_other_errors_are_the_same():
    x = np.zeros((1, 2, 3, 4), np.float32)
    with raises(ValueError, "mode", "'median'"):
        sppfast.pool(Foreign(x), mode="median")
    with raises(ValueError, "x", (3, 4)):
        sppfast.pool(Foreign(x[0, 0]))
    with raises(TypeError, "x", "complex64"):
        sppfast.pool(Foreign(x.astype(np.complex64)))
    with raises(ValueError, "rois[0]", "x1 = 3", "x0 = 9"):
        sppfast.roi_pool(Foreign(x), Foreign(np.array([[9.0, 0, 3, 5]])))


# ---- what belongs to NumPy, and what is imported


def test_numpy_is_not_foreign():
    x = np.zeros((2, 3, 4))
    for mine in (x, [x], (x, x), [], None, "x", 3.0, x[0, 0, 0], np.ma.masked_array(x)):
        assert not is_foreign(mine)
    for other in (Foreign(x), [Foreign(x)], (Foreign(x), x)):
        assert is_foreign(other)


def run(code):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_no_adapter_is_imported_before_it_is_needed():
    code = """
    import sys
    import numpy as np
    import sppfast
    sppfast.pool(np.ones((2, 5, 5), np.float32))
    print(*sys.modules)
    """
    names = set(run(code))
    assert "sppfast.dispatch" in names
    assert not names & {"torch", "jax", "array_api_strict", "tvm_ffi", "ml_dtypes"}
    assert not names & {"sppfast.torch", "sppfast.jax", "sppfast.dlpack"}


def test_a_framework_is_known_however_late_it_is_imported():
    pytest.importorskip("torch", reason="torch is not installed")
    code = """
    import sys
    import sppfast
    import torch
    assert "sppfast.torch" not in sys.modules
    print(type(sppfast.pool(torch.ones(2, 5, 5))).__name__)
    assert "sppfast.jax" not in sys.modules and "jax" not in sys.modules
    """
    assert run(code) == ["Tensor"]
