"""Arrays of other libraries on a CUDA device: by DLPack, tensors of torch with their gradients, and those of JAX.

Where there is no GPU, CuPy is the emulated one, and the arrays lie in the memory of the host and say otherwise.
"""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from cuda_emulation.fixture import emulation
from helpers import assert_equal, dtype_of, make, make_rois
from test_errors import raises

import sppfast
from sppfast import dlpack

LEVELS = (3, (2, 1))
INDEX = np.array([0, 1, 1, 0, 1, 0])
CPU, CUDA, OTHER_CUDA = (1, 0), (2, 0), (2, 1)


class Foreign:
    """An array of a library that has nothing but DLPack; this module is the library."""

    def __init__(self, array, device=CUDA):
        self.array = array
        self.device = device

    def __dlpack__(self, **options):
        if self.device != CPU:
            raise BufferError("this memory is not on the CPU")
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def from_dlpack(array):
    assert array.__dlpack_device__() == CUDA
    return Foreign(array.array)


def wrap(value, device=CUDA):
    """Put NumPy arrays on a device."""
    if isinstance(value, list | tuple):
        return type(value)(wrap(item, device) for item in value)
    return Foreign(value.copy(), device) if isinstance(value, np.ndarray) else value


def unwrap(value):
    """A result as NumPy arrays."""
    if isinstance(value, list | tuple):
        return type(value)(map(unwrap, value))
    assert isinstance(value, Foreign)
    return value.array


@pytest.fixture(scope="module")
def module():
    with emulation() as cupy:
        yield cupy


@pytest.fixture
def emulated(module):
    """The emulated CuPy, which takes arrays of the host for arrays of a device."""
    module.launched.clear()
    return module


@pytest.fixture
def x(rng):
    return make(rng, (2, 5, 9, 7), "float32", "spread")


@pytest.fixture
def rois(rng):
    return make_rois(rng, 6, (144, 112))


def calls(x, rois):
    """A call of each operator, in several forms."""
    windows = {"rois": rois, "levels": LEVELS, "batch_index": INDEX}
    for mode in ("max", "avg"):
        for name, arguments in (("pool", {"levels": LEVELS}), ("roi_pool", windows), ("roi_align", windows)):
            forward = getattr(sppfast, name)
            yield forward, {"x": x, "mode": mode, **arguments}
            yield forward, {"x": x, "mode": mode, "flatten": False, **arguments}
            grad = np.ones_like(forward(x, mode=mode, **arguments))
            yield getattr(sppfast, f"{name}_backward"), {"grad": grad, "x": x, "mode": mode, **arguments}
    values, places = sppfast.pool(x, LEVELS, return_indices=True)
    yield sppfast.pool, {"x": x, "levels": LEVELS, "return_indices": True}
    yield sppfast.pool_backward, {"grad": values, "x": x, "levels": LEVELS, "indices": places}
    yield sppfast.pool, {"x": list(x), "levels": LEVELS}
    yield sppfast.pool_backward, {"grad": values, "x": list(x), "levels": LEVELS}
    yield sppfast.roi_pool, {"x": list(x), "rois": [rois[:2], rois[2:]], "levels": LEVELS}


def assert_close(got, want):
    """Means may differ by the order of their sums."""
    if isinstance(want, list | tuple):
        assert type(got) is type(want) and len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_close(one, other)
        return
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, 1e-5, 1e-5)


def test_every_operator(emulated, x, rois):
    for operator, arguments in calls(x, rois):
        emulated.launched.clear()
        arrays = {name: value if name == "levels" else wrap(value) for name, value in arguments.items()}
        assert_close(unwrap(operator(**arrays)), operator(**arguments))
        assert emulated.launched


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "uint8", "bool"])
def test_dtypes(emulated, dtype, rng):
    x = make(rng, (2, 3, 9, 7), dtype)
    assert_equal(unwrap(sppfast.pool(wrap(x), LEVELS)), sppfast.pool(x, LEVELS))


def test_windows_in_the_memory_of_the_host(emulated, x, rois):
    want = sppfast.roi_pool(x, rois, LEVELS, batch_index=INDEX)
    got = sppfast.roi_pool(wrap(x), wrap(rois, CPU), LEVELS, batch_index=wrap(INDEX, CPU))
    assert_equal(unwrap(got), want)
    assert_equal(unwrap(sppfast.roi_pool(wrap(x), rois.tolist(), LEVELS, batch_index=INDEX)), want)
    groups = [rois[:2], rois[2:]]
    got = sppfast.roi_align(wrap(x), [wrap(groups[0], CPU), wrap(groups[1])], LEVELS)
    assert_close(unwrap(got), sppfast.roi_align(x, groups, LEVELS))


def test_out(emulated, x):
    want, want_places = sppfast.pool(x, LEVELS, return_indices=True)
    out = wrap(np.empty_like(want)), wrap(np.empty_like(want_places))
    assert sppfast.pool(wrap(x), LEVELS, out=out[0]) is out[0]
    assert_equal(out[0].array, want)
    got = sppfast.pool(wrap(x), LEVELS, return_indices=True, out=out)
    assert got[0] is out[0] and got[1] is out[1]
    assert_equal(out[1].array, want_places)


def test_a_library_on_a_stream_unknown_to_it_is_waited_for(emulated, x, monkeypatch):
    waits = []
    stream = SimpleNamespace(synchronize=lambda: waits.append(len(emulated.launched)))
    monkeypatch.setattr(emulated.cuda, "get_current_stream", lambda: stream)
    sppfast.pool(wrap(x), LEVELS)
    assert waits[-1] == len(emulated.launched) > 0


def test_devices_that_do_not_match(emulated, x, rois):
    y, places = sppfast.roi_pool(x, rois, LEVELS, batch_index=INDEX, return_indices=True)
    arguments = {"grad": y, "x": x, "rois": rois, "batch_index": INDEX, "indices": places}
    for name in ("grad", "rois", "batch_index", "indices"):
        arrays = {key: wrap(value, OTHER_CUDA if key == name else CUDA) for key, value in arguments.items()}
        with raises(ValueError, name, "CUDA device 1", "CUDA device 0 as x"):
            sppfast.roi_pool_backward(levels=LEVELS, **arrays)
        arrays = {key: wrap(value, CUDA if key == name else CPU) for key, value in arguments.items()}
        with raises(ValueError, name, "CUDA device 0", "CPU as x"):
            sppfast.roi_pool_backward(levels=LEVELS, **arrays)
    for name in ("grad", "indices"):
        arrays = {key: wrap(value, CPU if key == name else CUDA) for key, value in arguments.items()}
        with raises(ValueError, name, "is on the CPU", "CUDA device 0 as x"):
            sppfast.roi_pool_backward(levels=LEVELS, **arrays)
    with raises(ValueError, "out", "is on the CPU", "CUDA device 0 as x"):
        sppfast.pool(wrap(x), LEVELS, out=wrap(np.empty((2, 55), np.float32), CPU))
    with raises(ValueError, "x[1]", "is on the CPU", "CUDA device 0 as x"):
        sppfast.pool([wrap(x[0]), wrap(x[1], CPU)], LEVELS)


def test_windows_on_a_device_and_maps_of_numpy(emulated, x, rois):
    with raises(TypeError, "rois", "NumPy array"):
        sppfast.roi_pool(x, emulated.asarray(rois), LEVELS, batch_index=INDEX)
    with raises(TypeError, "rois[1]", "NumPy array"):
        sppfast.roi_pool(x, [rois[:2], emulated.asarray(rois[2:])], LEVELS)
    with raises(TypeError, "batch_index", "NumPy array"):
        sppfast.roi_pool(x, rois, LEVELS, batch_index=emulated.asarray(INDEX))


def test_gradients_on_a_device_and_maps_of_numpy(emulated, x):
    levels = sppfast.pool(x, LEVELS, flatten=False)
    _, places = sppfast.pool(x, LEVELS, flatten=False, return_indices=True)
    with raises(TypeError, "grad[1]", "numpy array"):
        sppfast.pool_backward((levels[0], emulated.asarray(levels[1])), x, LEVELS)
    with raises(TypeError, "indices[0]", "numpy array"):
        sppfast.pool_backward(levels, x, LEVELS, indices=(emulated.asarray(places[0]), places[1]))
    with raises(TypeError, "grad", "numpy array"):
        sppfast.pool_backward(emulated.asarray(sppfast.pool(x, LEVELS)), x, LEVELS)


def test_what_cupy_does_not_take(emulated, x, monkeypatch):
    def refuse(array):
        raise BufferError("quaternions are not taken")

    monkeypatch.setattr(emulated, "from_dlpack", refuse)
    with raises(TypeError, "x", "CuPy", "Foreign", "quaternions"):
        sppfast.pool(wrap(x))


def test_without_cupy(x, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with raises(ImportError, "x", "CuPy", 'pip install "sppfast[cuda13]"', "sppfast[cuda12]"):
        sppfast.pool(wrap(x))


def test_without_a_driver(emulated, x, monkeypatch):
    def fail():
        raise RuntimeError("cudaErrorInsufficientDriver")

    monkeypatch.setattr(emulated.cuda.runtime, "getDeviceCount", fail)
    with raises(RuntimeError, "x", "CUDA device", "driver", "cudaErrorInsufficientDriver"):
        sppfast.pool(wrap(x))


# ---- torch


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture
def moved(torch, emulated, monkeypatch):
    """Make tensors that say that they are on a CUDA device, and note the streams that are used."""

    class Moved(torch.Tensor):
        device = property(lambda self: torch.device("cuda", 0))
        is_cuda, is_cpu = True, False

        def __dlpack_device__(self):
            return CUDA

    def from_cupy(shell):
        return torch.from_numpy(shell.array).as_subclass(Moved)

    def to_cupy(tensor):
        return emulated.wrap(tensor.as_subclass(torch.Tensor).numpy())

    streams = []
    current = SimpleNamespace(cuda_stream=7)
    stream = SimpleNamespace(from_external=lambda s: streams.append(s.__cuda_stream__()) or emulated.cuda.Device())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(emulated.cuda, "Stream", stream)
    monkeypatch.setattr(emulated, "from_dlpack", to_cupy)
    monkeypatch.setattr(torch.utils.dlpack, "from_dlpack", from_cupy)
    return SimpleNamespace(kind=Moved, streams=streams, to=lambda tensor: tensor.detach().clone().as_subclass(Moved))


@pytest.mark.parametrize("options", [{}, {"mode": "avg"}, {"flatten": False, "return_indices": True}], ids=str)
def test_tensors(torch, moved, options, x, rois):
    tensors = moved.to(torch.from_numpy(x)), moved.to(torch.from_numpy(rois)), moved.to(torch.from_numpy(INDEX))
    got = sppfast.roi_pool(tensors[0], tensors[1], LEVELS, batch_index=tensors[2], **options)
    want = sppfast.roi_pool(x, rois, LEVELS, batch_index=INDEX, **options)
    assert_close(dlpack_numpy(torch, got), want)
    assert moved.streams == [(0, 7)]
    on_host = sppfast.roi_pool(tensors[0], torch.from_numpy(rois), LEVELS, batch_index=INDEX.tolist(), **options)
    assert_close(dlpack_numpy(torch, on_host), want)


def dlpack_numpy(torch, value):
    if isinstance(value, list | tuple):
        return type(value)(dlpack_numpy(torch, item) for item in value)
    assert value.device.type == "cuda"
    return value.as_subclass(torch.Tensor).detach().numpy()


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("name", ["pool", "roi_pool", "roi_align"])
def test_gradients_of_tensors(torch, moved, name, mode, x, rois):
    arguments = () if name == "pool" else (rois,)
    options = {"mode": mode, **({} if name == "pool" else {"batch_index": INDEX})}
    plain = torch.from_numpy(x.copy()).requires_grad_()
    other = moved.to(plain).requires_grad_()
    for maps in (plain, other):
        y = getattr(sppfast, name)(maps, *arguments, LEVELS, **options)
        grad = (2 * y).detach()
        y.backward(moved.to(grad) if maps is other else grad)
    torch.testing.assert_close(other.grad.as_subclass(torch.Tensor), plain.grad)
    assert moved.streams == [(0, 7), (0, 7)]


def test_the_backward_of_tensors_does_not_wait(torch, moved, x, rois, monkeypatch):
    from sppfast.cuda import windows

    checked = []
    monkeypatch.setattr(windows, "is_checked", lambda: checked.append(windows._checked.get()) or checked[-1])
    maps = moved.to(torch.from_numpy(x)).requires_grad_()
    y = sppfast.roi_pool(maps, moved.to(torch.from_numpy(rois)), LEVELS, batch_index=moved.to(torch.from_numpy(INDEX)))
    assert checked == [True]
    y.backward(moved.to(torch.ones(y.shape)))
    assert set(checked[1:]) == {False}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_of_tensors(torch, moved, dtype, rng):
    array = make(rng, (2, 3, 9, 7), dtype)
    maps = torch.from_numpy(array.view(np.int16)).view(getattr(torch, dtype))
    got = sppfast.pool(moved.to(maps), LEVELS)
    assert got.dtype == maps.dtype
    bits = got.as_subclass(torch.Tensor).view(torch.int16).numpy()
    assert_equal(bits.view(dtype_of(dtype)), sppfast.pool(array, LEVELS))


def test_out_of_tensors(torch, moved, x):
    want = sppfast.pool(x, LEVELS)
    out = moved.to(torch.empty(want.shape))
    version = out._version
    assert sppfast.pool(moved.to(torch.from_numpy(x)), LEVELS, out=out) is out
    assert_equal(dlpack_numpy(torch, out), want)
    assert out._version > version


def test_tensors_on_devices_that_do_not_match(torch, moved, x, rois):
    maps, windows = torch.from_numpy(x), torch.from_numpy(rois)
    with raises(ValueError, "rois", "cuda:0", "cpu as x", "rois.cpu()"):
        sppfast.roi_pool(maps, moved.to(windows), LEVELS, batch_index=INDEX)
    with raises(ValueError, "x[1]", "is on the CPU", "CUDA device 0"):
        sppfast.pool([moved.to(maps[0]), maps[1]], LEVELS)
    with raises(ValueError, "out", "is on the CPU", "CUDA device 0"):
        sppfast.pool(moved.to(maps), LEVELS, out=torch.empty(2, 55))


def test_a_tensor_without_cupy(torch, moved, x, monkeypatch):
    maps = moved.to(torch.from_numpy(x))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with raises(ImportError, "x", "CuPy", "sppfast[cuda13]"):
        sppfast.pool(maps)


# ---- JAX


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="JAX is not installed")


def test_arrays_of_jax(jax, emulated, x, rois, monkeypatch):
    import sppfast.jax as adapter

    monkeypatch.setattr(adapter, "_platforms", lambda array: {"gpu"})
    monkeypatch.setattr(dlpack, "_device", lambda array: CUDA)
    monkeypatch.setattr(jax.dlpack, "from_dlpack", lambda shell: jax.numpy.asarray(shell.array))
    maps = jax.numpy.asarray(x)
    got = sppfast.roi_pool(maps, jax.numpy.asarray(rois), LEVELS, batch_index=jax.numpy.asarray(INDEX))
    assert_equal(np.asarray(got), sppfast.roi_pool(x, rois.astype(np.float32), LEVELS, batch_index=INDEX))
    gradient = jax.grad(lambda maps: (sppfast.pool(maps, LEVELS) ** 2).sum())(maps)
    assert_close(np.asarray(gradient), sppfast.pool_backward(2 * sppfast.pool(x, LEVELS), x, LEVELS))
    assert "scatter_maxima<float>" in emulated.launched


def test_jit_of_jax_on_a_device(jax, x):
    traced = jax.jit(lambda maps: sppfast.pool(maps, LEVELS)).trace(x)
    traced.lower(lowering_platforms=("cpu",))
    with raises(NotImplementedError, "sppfast", "inside jit", "CUDA", "outside jit"):
        traced.lower(lowering_platforms=("cuda",))


# ---- versions


def test_the_gpu_is_told(monkeypatch):
    card = {"name": b"NVIDIA Card", "major": 9, "minor": 0}
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda i: card,
        driverGetVersion=lambda: 13010,
        runtimeGetVersion=lambda: 13000,
    )
    fake = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    assert sppfast.versions()["gpu"] == "NVIDIA Card (compute capability 9.0), driver 13010, runtime 13000"


def test_no_gpu_is_told(monkeypatch):
    def fail():
        raise RuntimeError("cudaErrorNoDevice")

    fake = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=fail)))
    monkeypatch.setitem(sys.modules, "cupy", fake)
    assert sppfast.versions()["gpu"] == "none found (cudaErrorNoDevice)"
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert sppfast.versions()["gpu"].startswith("none found (")


# ---- on a GPU


@pytest.fixture
def gpu_torch(torch):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return torch


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_on_a_gpu(gpu_torch, dtype, rng, rois):
    torch = gpu_torch
    x = torch.from_numpy(make(rng, (2, 5, 9, 7), "float32", "spread")).to(getattr(torch, dtype))
    results = []
    for device in ("cpu", "cuda"):
        maps = x.detach().to(device).requires_grad_()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            y = sppfast.roi_pool(maps, torch.from_numpy(rois).to(device), LEVELS, batch_index=torch.from_numpy(INDEX))
            y.square().sum().backward()
        torch.cuda.synchronize()
        assert y.device.type == maps.grad.device.type == device
        results.append((y.detach().cpu(), maps.grad.cpu()))
    torch.testing.assert_close(*results)


@pytest.mark.gpu
def test_results_follow_the_stream_on_a_gpu(gpu_torch, rng):
    torch = gpu_torch
    x = torch.from_numpy(make(rng, (8, 64, 56, 56), "float32", "spread"))
    for _ in range(3):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            maps = x.cuda()
            torch.cuda._sleep(20_000_000)  # cycles: what is launched on another stream would not wait for this
            maps = maps + 1
            y = sppfast.pool(maps, LEVELS) * 2
        stream.synchronize()
        torch.testing.assert_close(y.cpu(), sppfast.pool(x + 1, LEVELS) * 2, rtol=0, atol=0)


@pytest.mark.gpu
def test_out_on_a_gpu(gpu_torch, x):
    torch = gpu_torch
    out = torch.empty(2, 55, device="cuda")
    assert sppfast.pool(torch.from_numpy(x).cuda(), LEVELS, out=out) is out
    assert_equal(out.cpu().numpy(), sppfast.pool(x, LEVELS))
    with raises(ValueError, "rois", "cuda:0", "cpu as x"):
        sppfast.roi_pool(torch.from_numpy(x), torch.zeros(1, 5, device="cuda"))


@pytest.mark.gpu
def test_arrays_of_jax_on_a_gpu(jax, x):
    pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        device = jax.devices("cuda")[0]
    except RuntimeError as error:
        pytest.skip(f"JAX finds no CUDA device: {error}")
    maps = jax.device_put(x, device)
    got = sppfast.pool(maps, LEVELS)
    assert got.devices() == {device}
    assert_equal(np.asarray(got), sppfast.pool(x, LEVELS))
    gradient = jax.grad(lambda maps: (sppfast.pool(maps, LEVELS) ** 2).sum())(maps)
    assert_close(np.asarray(gradient), sppfast.pool_backward(2 * sppfast.pool(x, LEVELS), x, LEVELS))
