"""The peers: operators of other libraries that compute the same as sppfast's.

Each function takes the work as NumPy arrays and builds a call without arguments. OpenCV's `dnn` module has RoI align
and pooling in bins of one size; its RoI max pooling came with models of Caffe, which OpenCV 5 no longer reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sppfast

from .devices import Device
from .timing import Call

# What each needs, in the order of the table.
NEEDS = {
    "torch": ("torch",),
    "torchvision": ("torch", "torchvision"),
    "openvino": ("openvino",),
    "onnxruntime": ("onnx", "onnxruntime"),
    "cv2": ("cv2", "onnx"),
    "C": (),
}
ON_GPU = ("torch", "torchvision")
C_SOURCE = Path(__file__).with_name("stand_ins.c")

Array = NDArray[Any]
Sizes = Sequence[int]


def installed(device: Device) -> list[str]:
    """Name the peers that are installed and run on the device."""
    there = [name for name, modules in NEEDS.items() if all(map(importlib.util.find_spec, modules))]
    return [name for name in there if (name in ON_GPU if device.name == "cuda" else name != "C" or _has_compiler())]


def load(device: Device) -> None:
    """Import what is installed, as far as it can be, before there are arrays.

    OpenVINO forks when it is imported, which divides the huge pages that arrays lie in.
    """
    for name in installed(device):
        with contextlib.suppress(Exception):
            for module in NEEDS[name]:
                importlib.import_module(module)


def in_parts(build: Callable[..., Call], parts: Sequence[Sequence[Any]], device: Device) -> Call:
    """One call for each part of the work; the results are not joined."""
    calls = [build(*part, device) for part in parts]
    return lambda: [call() for call in calls]


# ---- torch and torchvision


def torch_pool(x: Array, levels: Sizes, device: Device) -> Call:
    """One adaptive pooling for each level."""
    return _torch_call(partial(_torch_levels, "max", levels), x, device)


def torch_pool_backward(x: Array, grad: Array, levels: Sizes, mode: str, device: Device) -> Call:
    """Autograd of the same."""
    return _torch_gradient(partial(_torch_levels, mode, levels), x, grad, device)


def torchvision_roi_pool(x: Array, rois: Array, levels: Sizes, stride: int, device: Device) -> Call:
    """One `roi_pool` for each level."""
    return _torch_call(partial(_torchvision_levels, levels, stride, _tensor(rois, device)), x, device)


def torchvision_roi_align(x: Array, rois: Array, stride: int, device: Device) -> Call:
    """One `roi_align`."""
    return _torch_call(partial(_torchvision_align, stride, _tensor(rois, device)), x, device)


def torchvision_roi_pool_backward(x: Array, rois: Array, grad: Array, stride: int, device: Device) -> Call:
    """Autograd of `roi_pool`."""
    return _torch_gradient(partial(_torchvision_levels, (7,), stride, _tensor(rois, device)), x, grad, device)


def torchvision_roi_align_backward(x: Array, rois: Array, grad: Array, stride: int, device: Device) -> Call:
    """Autograd of `roi_align`."""
    return _torch_gradient(partial(_torchvision_align, stride, _tensor(rois, device)), x, grad, device)


def _torch_levels(mode: str, levels: Sizes, x: Any) -> Any:
    import torch

    operator = getattr(torch.nn.functional, f"adaptive_{mode}_pool2d")
    return torch.cat([operator(x, n).flatten(1) for n in levels], 1)


def _torchvision_levels(levels: Sizes, stride: int, rois: Any, x: Any) -> Any:
    import torch
    from torchvision.ops import roi_pool

    return torch.cat([roi_pool(x, rois, n, 1 / stride).flatten(1) for n in levels], 1)


def _torchvision_align(stride: int, rois: Any, x: Any) -> Any:
    from torchvision.ops import roi_align

    return roi_align(x, rois, 7, 1 / stride, sampling_ratio=2, aligned=True).flatten(1)


def _tensor(array: Array, device: Device) -> Any:
    import torch

    torch.set_num_threads(device.threads)
    return torch.from_numpy(array).to(device.name)


def _torch_call(function: Callable[[Any], Any], x: Array, device: Device) -> Call:
    import torch

    return torch.inference_mode()(partial(function, _tensor(x, device)))


def _torch_gradient(function: Callable[[Any], Any], x: Array, grad: Array, device: Device) -> Call:
    import torch

    tensor, given = _tensor(x, device).requires_grad_(), _tensor(grad, device)
    y = function(tensor)
    return lambda: torch.autograd.grad(y, tensor, given, retain_graph=True)[0]


# ---- OpenVINO


def openvino_pool(x: Array, levels: Sizes, device: Device) -> Call:
    """One model with an adaptive pooling for each level."""
    import openvino.opset8 as ops

    def pooled(inputs: Sequence[Any]) -> list[Any]:
        return [ops.adaptive_max_pool(inputs[0], [n, n], "i32").output(0) for n in levels]

    return _openvino_call([x], pooled, device)


def openvino_roi_pool(x: Array, rois: Array, levels: Sizes, stride: int, device: Device) -> Call:
    """One model with a RoI pooling for each level."""
    import openvino.opset8 as ops

    def pooled(inputs: Sequence[Any]) -> list[Any]:
        return [ops.roi_pooling(*inputs, [n, n], 1 / stride, "max").output(0) for n in levels]

    return _openvino_call([x, rois], pooled, device)


def openvino_roi_align(x: Array, rois: Array, stride: int, device: Device) -> Call:
    """One model with a RoI align."""
    import openvino.opset9 as ops

    windows, index = np.ascontiguousarray(rois[:, 1:]), rois[:, 0].astype(np.int64)

    def aligned(inputs: Sequence[Any]) -> list[Any]:
        index_input = ops.constant(index)
        return [ops.roi_align(*inputs, index_input, 7, 7, 2, 1 / stride, "avg", "half_pixel_for_nn").output(0)]

    return _openvino_call([x, windows], aligned, device)


def _openvino_call(arrays: list[Array], pooled: Callable[[Sequence[Any]], list[Any]], device: Device) -> Call:
    """One model: the levels, each made flat, side by side. Its inputs and its result stay in place."""
    import openvino
    import openvino.opset8 as ops

    inputs = [ops.parameter(array.shape, np.float32) for array in arrays]
    rows = [ops.reshape(level, [level.get_shape()[0], -1], False) for level in pooled(inputs)]
    model = openvino.Model([ops.concat(rows, 1)], inputs)
    # Not bfloat16, where it is fast.
    settings = {"INFERENCE_NUM_THREADS": device.threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    for i, array in enumerate(arrays):
        request.set_input_tensor(i, openvino.Tensor(array, shared_memory=True))

    def call(inputs: Any = arrays) -> Any:  # which nobody else may keep
        request.infer(share_outputs=True)
        return request.get_output_tensor().data

    return call


# ---- ONNX Runtime and OpenCV, from the same models


@dataclass(frozen=True)
class OnnxWork:
    """A model with one operator for each level: its inputs, its operators with their attributes, its result's shape."""

    arrays: Mapping[str, Array]
    operators: Sequence[tuple[str, Mapping[str, Any]]]
    shape: tuple[int, int]


def onnxruntime_pool(x: Array, levels: Sizes, device: Device) -> Call:
    """One max pooling for each level."""
    return _onnxruntime_call(_max_pool(x, levels), device)


def cv2_pool(x: Array, levels: Sizes, device: Device) -> Call:
    """One max pooling for each level."""
    return _cv2_call(_max_pool(x, levels), device)


def onnxruntime_roi_pool(x: Array, rois: Array, levels: Sizes, stride: int, device: Device) -> Call:
    """One `MaxRoiPool` for each level."""
    operators = [("MaxRoiPool", {"pooled_shape": [n, n], "spatial_scale": 1 / stride}) for n in levels]
    shape = (len(rois), sppfast.Pyramid(levels).output_length(x.shape[1]))
    return _onnxruntime_call(OnnxWork({"x": x, "rois": rois}, operators, shape), device)


def onnxruntime_roi_align(x: Array, rois: Array, stride: int, device: Device) -> Call:
    """One `RoiAlign`."""
    return _onnxruntime_call(_roi_align(x, rois, stride), device)


def cv2_roi_align(x: Array, rois: Array, stride: int, device: Device) -> Call:
    """One `RoiAlign`."""
    return _cv2_call(_roi_align(x, rois, stride), device)


def _max_pool(x: Array, levels: Sizes) -> OnnxWork:
    """Bins of one size: each level's number divides the sides of the map."""
    sizes = [[side // n for side in x.shape[2:]] for n in levels]
    operators = [("MaxPool", {"kernel_shape": size, "strides": size}) for size in sizes]
    return OnnxWork({"x": x}, operators, (len(x), sppfast.Pyramid(levels).output_length(x.shape[1])))


def _roi_align(x: Array, rois: Array, stride: int) -> OnnxWork:
    attributes = {"output_height": 7, "output_width": 7, "sampling_ratio": 2, "spatial_scale": 1 / stride}
    arrays = {"x": x, "rois": np.ascontiguousarray(rois[:, 1:]), "index": rois[:, 0].astype(np.int64)}
    return OnnxWork(arrays, [("RoiAlign", attributes)], (len(rois), x.shape[1] * 49))


def _onnx_model(work: OnnxWork) -> bytes:
    """One model: the operators' results, each made flat, side by side."""
    from onnx import helper

    nodes = []
    for i, (name, attributes) in enumerate(work.operators):
        nodes.append(helper.make_node(name, list(work.arrays), [f"level{i}"], **attributes))
        nodes.append(helper.make_node("Flatten", [f"level{i}"], [f"row{i}"]))
    nodes.append(helper.make_node("Concat", [f"row{i}" for i in range(len(work.operators))], ["result"], axis=1))
    kind = helper.np_dtype_to_tensor_dtype
    inputs = [helper.make_tensor_value_info(k, kind(v.dtype), v.shape) for k, v in work.arrays.items()]
    result = helper.make_tensor_value_info("result", kind(np.dtype(np.float32)), work.shape)
    graph = helper.make_graph(nodes, "levels", inputs, [result])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 16)])
    serialized: bytes = model.SerializeToString()
    return serialized


def _onnxruntime_call(work: OnnxWork, device: Device) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = device.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # while it is another's turn
    session = onnxruntime.InferenceSession(_onnx_model(work), options, ["CPUExecutionProvider"])
    return lambda: session.run(None, work.arrays)[0]


def _cv2_call(work: OnnxWork, device: Device) -> Call:
    import cv2

    cv2.setNumThreads(device.threads)
    net = cv2.dnn.readNetFromONNX(np.frombuffer(_onnx_model(work), np.uint8))
    for name, array in work.arrays.items():
        net.setInput(array, name)
    return net.forward


# ---- stand-ins in C


def c_roi_pool(x: Array, cells: Array, levels: Sizes) -> Call:
    """SPP-net's authors' loops in SSE; the order of its result is not sppfast's, and is changed for the comparison."""
    result = np.empty((len(cells), sppfast.Pyramid(levels).size, x.shape[2]), np.float32)
    call = _c_call("sse_pool", x, *x.shape[1:], cells, len(cells), np.array(levels), len(levels), result)
    return lambda: _Rearranged(call(), levels)


def c_roi_pool_backward(x: Array, rois: Array, grad: Array, indices: Array) -> Call:
    """Gradient of RoI pooling, output by output."""
    return _c_call("roi_pool_backward", grad, indices, rois, len(rois), *x.shape[1:], 7, np.empty_like(x))


def c_roi_align_backward(x: Array, rois: Array, grad: Array, stride: int) -> Call:
    """Gradient of RoI align, output by output."""
    return _c_call("roi_align_backward", grad, rois, len(rois), *x.shape[1:], 7, 2, 1 / stride, np.empty_like(x))


@dataclass(frozen=True)
class _Rearranged:
    """A result (R, bins, C) that becomes sppfast's row order when it is looked at."""

    result: Array
    levels: Sizes

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        parts = np.split(self.result, np.cumsum([n * n for n in self.levels])[:-1], axis=1)
        return np.concatenate([part.swapaxes(1, 2).reshape(len(part), -1) for part in parts], axis=1)


def _has_compiler() -> bool:
    return platform.machine() in ("x86_64", "AMD64") and shutil.which("cc") is not None


@cache
def _c_functions() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "stand_ins.so"
        subprocess.run(["cc", "-O3", "-shared", "-fPIC", C_SOURCE, "-o", library], check=True, capture_output=True)
        return ctypes.CDLL(str(library))


def _c_call(name: str, *arguments: Any) -> Call:
    """Call a C function of arrays, whole numbers and float32; its last argument is its result."""
    types: dict[type, Callable[[Any], Any]] = {
        np.ndarray: lambda array: array.ctypes.data_as(ctypes.c_void_p),
        int: ctypes.c_long,
        float: ctypes.c_float,
    }
    function = getattr(_c_functions(), name)
    passed = [types[type(argument)](argument) for argument in arguments]

    def call() -> Any:
        function(*passed)
        return arguments[-1]

    return call
