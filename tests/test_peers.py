"""The package and the oracle against other libraries: torch's adaptive pooling, ONNX Runtime's MaxRoiPool."""

import numpy as np
import oracle
import pytest
from helpers import make, make_rois

import sppfast

pytestmark = pytest.mark.peers
both = pytest.mark.parametrize("library", [oracle, sppfast], ids=["oracle", "sppfast"])

SHAPES = [(2, 5, 13, 13), (1, 3, 7, 22), (3, 16, 1, 1), (1, 17, 3, 5), (2, 64, 30, 41), (1, 2, 120, 90)]
LEVELS = [(4, 2, 1), (6, 3, 2, 1), (5,), ((3, 1), (1, 4), 2)]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@both
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_adaptive_max(torch, library, shape, levels, rng):
    x = make(rng, shape, "float32", "spread")
    peer = [torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(x), n, return_indices=True) for n in levels]
    values, indices = library.pool(x, levels, return_indices=True)
    np.testing.assert_array_equal(values, torch.cat([v.flatten(1) for v, _ in peer], 1).numpy())
    np.testing.assert_array_equal(indices, torch.cat([i.flatten(1) for _, i in peer], 1).numpy())


@both
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_adaptive_avg(torch, library, shape, levels, rng):
    x = make(rng, shape, "float32", "spread")
    deep = torch.from_numpy(x).double()
    peer = torch.cat([torch.nn.functional.adaptive_avg_pool2d(deep, n).flatten(1) for n in levels], 1)
    np.testing.assert_allclose(library.pool(x, levels, mode="avg"), peer.numpy(), rtol=2e-6)
    got = library.pool(x.astype(np.float64), levels, mode="avg")
    np.testing.assert_allclose(got, peer.numpy(), rtol=1e-12, atol=1e-13)


def strided(length, n):
    """Kernel, stride and padding of the caffe rule."""
    kernel = -(-length // n)
    return kernel, kernel, (kernel * n - length + 1) // 2


LENGTHS = [(length, n) for length in (6, 13, 24, 37) for n in (1, 2, 3, 4, 6)]
# torch takes no padding above half the kernel
CAFFE_LENGTHS = [case for case in LENGTHS if strided(*case)[2] <= strided(*case)[0] // 2]


@both
@pytest.mark.parametrize(("length", "n"), LENGTHS)
def test_torch_sliding(torch, library, length, n, rng):
    x = make(rng, (2, 5, length, length), "float32", "spread")
    peer = torch.nn.functional.max_pool2d(torch.from_numpy(x), -(-length // n), length // n)[:, :, :n, :n]
    np.testing.assert_array_equal(library.pool(x, n, bins="sliding"), peer.flatten(1).numpy())


@both
@pytest.mark.parametrize(("length", "n"), CAFFE_LENGTHS)
def test_torch_caffe(torch, library, length, n, rng):
    x = make(rng, (2, 5, length, length), "float32", "spread")
    kernel_stride_pad = strided(length, n)
    peer = torch.nn.functional.max_pool2d(torch.from_numpy(x), *kernel_stride_pad)
    np.testing.assert_array_equal(library.pool(x, n, bins="caffe"), peer.flatten(1).numpy())
    deep = torch.from_numpy(x).double()
    peer = torch.nn.functional.avg_pool2d(deep, *kernel_stride_pad, count_include_pad=False)
    got = library.pool(x, n, mode="avg", bins="caffe")
    np.testing.assert_allclose(got, peer.flatten(1).numpy(), rtol=2e-6)


def max_roi_pool(x, rois, pooled, scale):
    """ONNX Runtime's MaxRoiPool; rois are (R, 5), float32."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    tensor = onnx.helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    node = onnx.helper.make_node("MaxRoiPool", ["x", "rois"], ["y"], pooled_shape=pooled, spatial_scale=float(scale))
    graph = onnx.helper.make_graph(
        [node],
        "peer",
        [tensor("x", float32, [None] * 4), tensor("rois", float32, [None, 5])],
        [tensor("y", float32, [None] * 4)],
    )
    opset = [onnx.helper.make_opsetid("", 13)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "rois": rois})[0]


def batched_rois(rng, count, batch, image, **options):
    rois = make_rois(rng, count, image, **options)
    return np.column_stack([rng.integers(0, batch, count), rois]).astype(np.float32)


@both
@pytest.mark.parametrize("pooled", [(7, 7), (6, 6), (1, 1), (3, 5), (14, 2)], ids=str)
@pytest.mark.parametrize("stride", [16, 8, 12, 1, 0.5, 13.7])
def test_onnxruntime_max_roi_pool(library, stride, pooled, rng):
    x = make(rng, (3, 9, 19, 31), "float32", "spread")
    image = 19 * stride, 31 * stride
    rois = np.concatenate(
        [
            batched_rois(rng, 120, 3, image),
            batched_rois(rng, 60, 3, image, whole=True, reach=0),
            batched_rois(rng, 30, 3, image, reach=40),
        ]
    )
    peer = max_roi_pool(x, rois, pooled, np.float32(1 / stride))
    got = library.roi_pool(x, rois, (pooled,), geometry=stride, rounding="fast_rcnn")
    np.testing.assert_array_equal(got, peer.reshape(len(rois), -1))


@both
def test_onnxruntime_halves_round_away_from_zero(library, rng):
    x = make(rng, (1, 4, 12, 12), "float32", "spread")
    edges = np.arange(-40, 240, 8)  # multiples of half a cell
    corners = rng.choice(edges, (300, 2))
    extents = rng.choice(edges[edges >= 0], (300, 2))
    rois = np.column_stack([np.zeros(300), corners, corners + extents]).astype(np.float32)
    peer = max_roi_pool(x, rois, (7, 7), 1 / 16)
    got = library.roi_pool(x, rois, 7, geometry=16, rounding="fast_rcnn")
    np.testing.assert_array_equal(got, peer.reshape(300, -1))
