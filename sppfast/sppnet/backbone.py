"""Backbones: from an image to its feature map."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cores import available_cores
from ..extras import require
from ..geometry import ConvGeometry, as_geometry
from .images import Image, check_image
from .onnx_geometry import onnx_geometry

if TYPE_CHECKING:
    from onnx import ModelProto

Backbone: TypeAlias = Callable[[Image], NDArray[Any]]


class OnnxBackbone:
    """A convolutional body in ONNX Runtime, on the CPU.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        A model with one float32 input ``(N, 3, H, W)``, height and width free.
    output : str, optional
        The tensor that is the map, if it is not the model's only output. What comes after it is dropped, so that
        the head of a classification network does no harm.
    mean, std : float or array_like, shape (3,)
        The network sees ``(image - mean) / std``, in units of the image's 0 to 255, channels in its order.
    threads : int, optional
        Of ONNX Runtime; all cores of this process if not given.

    Attributes
    ----------
    geometry : ConvGeometry
        Derived from the graph, see `onnx_geometry`.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the model is damaged, has other inputs or outputs, or has no single geometry.

    Examples
    --------
    >>> import numpy as np
    >>> from sppfast.sppnet import OnnxBackbone, random_body
    >>> backbone = OnnxBackbone(random_body("ZF-5"), mean=128)
    >>> backbone.geometry.stride
    16.0
    >>> backbone(np.zeros((300, 400, 3), np.uint8)).shape
    (256, 17, 24)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | ModelProto,
        *,
        output: str | None = None,
        mean: ArrayLike = 0.0,
        std: ArrayLike = 1.0,
        threads: int | None = None,
    ) -> None:
        require("OnnxBackbone", "sppnet", "onnx", "onnxruntime")
        name = str(model) if isinstance(model, str | os.PathLike) else "model"
        self.mean, self.std = (_channels(n, v) for n, v in (("mean", mean), ("std", std)))
        self.threads = threads
        try:
            body = _cut(_load(model), output)
            self.geometry = onnx_geometry(body)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
        ) as error:  # makes no sense
            raise ValueError(f"{name}: a damaged model: {error!r}") from error
        self.model: bytes = body.SerializeToString()
        self._input = body.graph.input[0].name
        self._session = _session(self.model, name, threads)

    def __call__(self, image: Image) -> NDArray[np.float32]:
        """Compute the map of an image ``(H, W, 3)``: ``(C, h, w)``, float32."""
        maps = self.batch(check_image(image)[None])
        return np.asarray(maps[0])

    def batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the maps of images of one size, ``(N, H, W, 3)``: ``(N, C, h, w)``, float32."""
        x = np.empty((len(images), 3, *images.shape[1:3]), np.float32)
        np.subtract(images.transpose(0, 3, 1, 2), self.mean, out=x)
        if (self.std != 1).any():
            x /= self.std
        try:
            maps: NDArray[np.float32] = self._session.run(None, {self._input: x})[0]
        except Exception as error:  # of classes that ONNX Runtime keeps to itself
            raise ValueError(f"backbone: ONNX Runtime failed on an input of shape {x.shape}: {error}") from error
        return maps

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by way of the model: a session of ONNX Runtime cannot be copied."""
        return _rebuild, (self.model, self.mean, self.std, self.threads)


def _rebuild(model: bytes, mean: ArrayLike, std: ArrayLike, threads: int | None) -> OnnxBackbone:
    return OnnxBackbone(model, mean=mean, std=std, threads=threads)


def _channels(name: str, value: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(value, np.float32)
    if array.size not in (1, 3) or not np.isfinite(array).all() or (name == "std" and (array <= 0).any()):
        raise ValueError(f"{name}: expected one number or three, for the channels, got {value!r}")
    return array.reshape(-1, 1, 1)


def _load(model: str | os.PathLike[str] | bytes | ModelProto) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(model, onnx.ModelProto):
        return model
    try:
        loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(Path(model))
    except DecodeError:
        raise ValueError("not an ONNX model, or damaged") from None
    if not loaded.graph.node:
        raise ValueError("an ONNX model without nodes, or damaged")
    return loaded


def _cut(model: ModelProto, output: str | None) -> ModelProto:
    """Keep what leads from the one image to the map."""
    from onnx import TensorProto, helper

    graph = model.graph
    if output is None:
        if len(graph.output) != 1:
            raise ValueError(f"has outputs {[o.name for o in graph.output]}; choose a tensor with output=")
        output = graph.output[0].name
    needed, nodes = {output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    if not nodes:
        raise ValueError(f"output: the model has no tensor {output!r}")
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    inputs = [i for i in graph.input if i.name in needed - {tensor.name for tensor in tensors}]
    _check_inputs(inputs)
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    body = helper.make_graph(nodes[::-1], graph.name, inputs, [result], tensors)
    return helper.make_model(body, ir_version=model.ir_version, opset_imports=model.opset_import)


def _check_inputs(inputs: list[Any]) -> None:
    if len(inputs) != 1:
        raise ValueError(f"has inputs {[i.name for i in inputs]}, expected one image")
    kind = inputs[0].type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    free = len(sizes) == 4 and sizes[1] in (3, "?") and all(isinstance(side, str) for side in sizes[2:])
    if kind.elem_type != 1 or not free:  # 1: float32
        raise ValueError(
            f"input {inputs[0].name!r} of shape {sizes}: expected float32 (N, 3, H, W) with free height and width"
        )


def _session(model: bytes, name: str, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others work between two images
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ValueError(f"{name}: ONNX Runtime cannot run it: {error}") from error


# ---- any backbone, checked


def geometry_of(backbone: Backbone, geometry: float | ConvGeometry | None) -> ConvGeometry:
    """Geometry that the caller gives, or the backbone's own."""
    if not callable(backbone):
        raise TypeError(f"backbone: expected a callable, got {type(backbone).__name__}")
    if geometry is None:
        geometry = getattr(backbone, "geometry", None)
        if geometry is None:
            raise ValueError("geometry: needed for a backbone that has no attribute `geometry`")
    return as_geometry(geometry)


def feature_map(backbone: Backbone, geometry: ConvGeometry, image: Image) -> NDArray[Any]:
    """Run a backbone on an image, and check that what comes is its map."""
    size = image.shape[:2]
    expected = geometry.map_size(size)
    if 0 in expected:
        least = next(n for n in itertools.count(1) if geometry.map_size(n))
        raise ValueError(f"image: {size[0]} x {size[1]} pixels give the backbone no cell, expected {least} at least")
    x = backbone(image)
    if not isinstance(x, np.ndarray) or x.ndim != 3 or x.dtype.kind != "f":
        came = f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(f"backbone: expected a map (C, h, w) of floats, got {came}")
    if 0 in x.shape or (geometry.layers and x.shape[1:] != expected):
        h, w = expected
        raise ValueError(f"backbone: expected a map (C, {h}, {w}) of {size[0]} x {size[1]} pixels, got {x.shape}")
    return x
