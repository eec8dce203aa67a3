"""Arrays of other libraries on a CUDA device: by DLPack, and tensors of torch with their gradients."""

import sys

import numpy as np
import pytest
from helpers import assert_equal, make, make_rois
from test_errors import raises

import sppfast


class OnCuda:
    """An array of a library that has nothing but DLPack, which says that it is on a CUDA device."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        raise BufferError("the emulated CuPy takes the array itself")

    def __dlpack_device__(self):
        return 2, 0


def from_dlpack(shell):
    """Import an array of CuPy: this module is the library."""
    return OnCuda(shell.array)


def wrap(value):
    return type(value)(map(wrap, value)) if isinstance(value, list | tuple) else OnCuda(value.copy())


def unwrap(value):
    if isinstance(value, list | tuple):
        return type(value)(map(unwrap, value))
    assert isinstance(value, OnCuda)
    return value.array


@pytest.fixture
def emulated(cupy):
    if hasattr(cupy, "is_available"):
        pytest.skip("the arrays of this test are in the memory of the host")
    return cupy


@pytest.fixture
def inputs(rng):
    x = make(rng, (2, 5, 9, 7), "float32", "spread")
    return x, make_rois(rng, 6, (144, 112)), np.array([0, 1, 1, 0, 1, 0])


def test_every_operator(emulated, inputs):
    x, rois, index = inputs
    assert_equal(unwrap(sppfast.pool(wrap(x), flatten=False)), sppfast.pool(x, flatten=False))
    y, places = sppfast.roi_pool(x, rois, 3, batch_index=index, return_indices=True)
    got = sppfast.roi_pool(wrap(x), wrap(rois), 3, batch_index=wrap(index), return_indices=True)
    assert_equal(unwrap(got), (y, places))
    grad = np.ones_like(y)
    for name, options in (("roi_pool", {"indices": places}), ("roi_align", {})):
        backward = getattr(sppfast, f"{name}_backward")
        want = backward(grad, x, rois, 3, batch_index=index, **options)
        options = {key: wrap(value) for key, value in options.items()}
        got = backward(wrap(grad), wrap(x), rois.tolist(), 3, batch_index=index, **options)
        np.testing.assert_allclose(unwrap(got), want, 1e-5, 1e-5)
    want = sppfast.roi_align(x, rois, 3, batch_index=index)
    np.testing.assert_allclose(unwrap(sppfast.roi_align(wrap(x), wrap(rois), 3, batch_index=index)), want, 1e-5, 1e-6)
    sequence = unwrap(sppfast.pool_backward(wrap(np.ones((2, 20), np.float32)), [wrap(x[0]), wrap(x[1])], 2))
    assert_equal(sequence, sppfast.pool_backward(np.ones((2, 20), np.float32), [x[0], x[1]], 2))


def test_out(emulated, inputs):
    out = wrap(np.empty((2, 105), np.float32))
    assert sppfast.pool(wrap(inputs[0]), out=out) is out
    assert_equal(out.array, sppfast.pool(inputs[0]))


def test_devices_that_do_not_match(emulated, inputs):
    x, rois, index = inputs
    with raises(TypeError, "out", "cupy", "ndarray"):
        sppfast.pool(wrap(x), out=np.empty((2, 105), np.float32))

    class OnCpu(OnCuda):
        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return (1, 0) if self.array.ndim == 4 else (2, 0)

    with raises(ValueError, "rois", "CUDA device 0", "CPU"):
        sppfast.roi_pool(OnCpu(x), OnCpu(rois), batch_index=index)


def test_without_cupy(inputs, monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises(ImportError, "an array on a CUDA device", "cupy", "sppfast[cuda13]"):
        sppfast.pool(wrap(inputs[0]))


def test_torch(emulated, inputs, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    import sppfast.torch as adapter

    x, rois, index = inputs
    plain = torch.from_numpy(x.copy()).requires_grad_()
    moved = torch.from_numpy(x.copy()).requires_grad_()
    want = sppfast.roi_pool(plain, rois, 3, batch_index=index)
    want.square().sum().backward()
    streams = []
    monkeypatch.setattr(adapter, "_is_on_cuda", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: type("Stream", (), {"cuda_stream": 7}))
    monkeypatch.setattr(emulated.cuda, "ExternalStream", lambda at: streams.append(at) or emulated.cuda.Device())
    monkeypatch.setattr("sppfast.dlpack._to_cupy", lambda name, tensor: emulated.wrap(tensor.numpy()))
    monkeypatch.setattr(torch.utils.dlpack, "from_dlpack", lambda shell: torch.from_numpy(shell.array))
    got = sppfast.roi_pool(moved, rois, 3, batch_index=index)
    got.square().sum().backward()
    assert torch.equal(got, want)
    torch.testing.assert_close(moved.grad, plain.grad)
    assert streams == [7, 7]
    out = torch.empty(2, 105)
    with torch.no_grad():
        assert sppfast.pool(moved, out=out) is out
    assert torch.equal(out, torch.from_numpy(sppfast.pool(x)))


@pytest.mark.gpu
def test_torch_on_a_gpu(inputs):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    x, rois, index = inputs
    results = []
    for device in ("cpu", "cuda"):
        maps = torch.from_numpy(x.copy()).to(device).requires_grad_()
        with torch.cuda.stream(torch.cuda.Stream()):
            y = sppfast.roi_pool(maps, torch.from_numpy(rois).to(device), 3, batch_index=torch.from_numpy(index))
            y.square().sum().backward()
        torch.cuda.synchronize()
        results.append((y.detach().cpu(), maps.grad.cpu()))
    torch.testing.assert_close(*results)
