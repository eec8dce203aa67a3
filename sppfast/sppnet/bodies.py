"""Convolutional bodies as ONNX models: the paper's, with random weights, and those of any other recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import ConvGeometry, Layer

if TYPE_CHECKING:
    from onnx import ModelProto

RECIPES = {  # table 1 of the paper; kernels, strides and padding are in `ConvGeometry.preset`
    "ZF-5": "conv96 lrn pool conv256 lrn pool conv384 conv384 conv256",
    "Convnet*-5": "conv96 lrn pool conv256 lrn pool conv384 conv384 conv256",
    "Overfeat-5": "conv96 pool lrn conv256 pool conv512 conv512 conv512",
    "Overfeat-7": "conv96 pool lrn conv256 pool conv512 conv512 conv512 conv512 conv512",
}
OPSET, IR_VERSION = 13, 8  # old enough for every ONNX Runtime that the extra allows


def body_model(
    recipe: str, layers: Iterable[Layer], weights: Iterable[tuple[NDArray[Any], NDArray[Any]]]
) -> ModelProto:
    """Build a chain of convolutions and pooling layers as an ONNX model.

    Parameters
    ----------
    recipe : str
        ``conv<channels>`` (with a ReLU), ``pool`` (max) and ``lrn`` (over 5 channels), separated by spaces.
    layers : iterable of (kernel, stride, padding)
        Of each convolution and pooling layer.
    weights : iterable of (ndarray (out, in, kernel, kernel), ndarray (out,))
        Weights and bias of each convolution; stored as float32.

    Returns
    -------
    onnx.ModelProto
        From ``image`` (N, 3, height, width), float32, to ``map``.
    """
    from onnx import TensorProto, helper, numpy_helper

    sizes, arrays = iter(layers), iter(weights)
    nodes, tensors, tensor, channels = [], [], "image", 3
    for i, word in enumerate(recipe.split()):
        source, tensor = tensor, f"{word.rstrip('0123456789')}{i}"
        if word == "lrn":
            nodes.append(helper.make_node("LRN", [source], [tensor], size=5, alpha=1e-4, beta=0.75))
            continue
        kernel, stride, padding = next(sizes)
        window = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
        if word == "pool":
            nodes.append(helper.make_node("MaxPool", [source], [tensor], **window))
            continue
        names = [f"weight{i}", f"bias{i}"]
        pair = next(arrays)
        tensors += [numpy_helper.from_array(a.astype(np.float32), n) for n, a in zip(names, pair, strict=True)]
        channels = len(pair[1])
        nodes.append(helper.make_node("Conv", [source, *names], [f"sum{i}"], **window))
        nodes.append(helper.make_node("Relu", [f"sum{i}"], [tensor]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "height", "width"])
    result = helper.make_tensor_value_info(tensor, TensorProto.FLOAT, ["N", channels, "rows", "columns"])
    graph = helper.make_graph(nodes, "body", [image], [result], tensors)
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])


def random_body(name: str, *, lrn: bool = True, seed: int = 0) -> ModelProto:
    """Build one of the paper's convolutional bodies with random weights, to measure speed with.

    Parameters
    ----------
    name : {"ZF-5", "Convnet*-5", "Overfeat-5", "Overfeat-7"}
        A row of the paper's table 1.
    lrn : bool
        Whether with its local response normalisation, which takes ONNX Runtime longer than the convolutions.
    seed : int
        Of the weights (normal, of variance 2 / inputs).

    Returns
    -------
    onnx.ModelProto
        Up to the last ReLU, for `OnnxBackbone`.

    Raises
    ------
    ValueError
        If there is no such body.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, TPAMI 2015,
    table 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sppfast.sppnet import OnnxBackbone, random_body
    >>> backbone = OnnxBackbone(random_body("Overfeat-5"))
    >>> backbone.geometry.stride, backbone(np.zeros((224, 224, 3), np.uint8)).shape
    (12.0, (512, 18, 18))
    """
    layers = ConvGeometry.preset(name).layers
    words = [word for word in RECIPES[name].split() if word != "lrn"]
    weights = _random_weights(words, layers, np.random.default_rng(seed))
    return body_model(RECIPES[name] if lrn else " ".join(words), layers, weights)


def _random_weights(
    words: Iterable[str], layers: Iterable[Layer], rng: np.random.Generator
) -> Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    inputs = 3
    for word, (kernel, _, _) in zip(words, layers, strict=True):
        if word == "pool":
            continue
        outputs = int(word.removeprefix("conv"))
        weight = rng.standard_normal((outputs, inputs, kernel, kernel), dtype=np.float32)
        yield weight * np.float32(np.sqrt(2 / (inputs * kernel**2))), np.zeros(outputs, np.float32)
        inputs = outputs
