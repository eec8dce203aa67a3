"""The geometry of a convolutional body, read off its ONNX graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..geometry import ConvGeometry

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

WINDOWED = frozenset(("AveragePool", "Conv", "LpPool", "MaxPool"))
PADDING = ("constant", "edge", "reflect")  # all that keep what a cell sees near the cell
# A cell of the result depends on the same cell of the inputs alone, of all their channels at most.
ACTIVATIONS = (
    "Celu Clip Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Sigmoid Softplus Softsign Swish Tanh"
)
ARITHMETIC = "Abs Add Cast Concat Div Erf Exp Identity Log Max Mean Min Mul Neg Pow Sqrt Sub Sum"
NORMALISATION = "BatchNormalization DequantizeLinear Dropout LRN QuantizeLinear"
POINTWISE = frozenset(f"{ACTIVATIONS} {ARITHMETIC} {NORMALISATION}".split())


def onnx_geometry(model: ModelProto) -> ConvGeometry:
    """Derive stride, offset and receptive field of the output of an ONNX model.

    Parameters
    ----------
    model : onnx.ModelProto
        From one image to one map, both ``(N, C, H, W)``: convolutions, pooling, padding, and what works on each cell
        alone (activations, batch and local response normalisation, sums and concatenations of branches).

    Returns
    -------
    ConvGeometry
        With its layers where the size of the map follows from (kernel, stride, padding): not with padding of
        different width on both sides, nor with ``ceil_mode``.

    Raises
    ------
    ValueError
        If there is no single geometry: axes or branches that differ, padding that depends on the size of the image,
        an operator that moves cells or mixes all of them. The message names the node.

    Examples
    --------
    >>> from sppfast.sppnet import onnx_geometry, random_body
    >>> geometry = onnx_geometry(random_body("ZF-5"))
    >>> geometry.stride, geometry.receptive_field, geometry.map_size((224, 224))
    (16.0, 139.0, (13, 13))
    """
    graph = model.graph
    constants = _constants(graph)
    geometries = {image.name: ConvGeometry(1.0) for image in graph.input if image.name not in constants}
    for node in graph.node:
        branches = [geometries[name] for name in node.input if name in geometries]
        if not branches:
            continue  # made of constants
        try:
            geometry = _after(node, branches, constants)
        except ValueError as error:
            name = node.name or node.output[0]
            raise ValueError(f"node {name!r} ({node.op_type}): {error}; there is no single geometry") from None
        geometries |= dict.fromkeys(node.output, geometry)
    return geometries[graph.output[0].name]


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Tensors that do not depend on the image."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and "value" in (attributes := _attributes(node)):
            constants[node.output[0]] = attributes["value"]
    return constants


def _attributes(node: NodeProto) -> dict[str, Any]:
    from onnx.helper import get_attribute_value

    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


def _after(node: NodeProto, branches: Sequence[ConvGeometry], constants: Mapping[str, TensorProto]) -> ConvGeometry:
    """Geometry of what a node gives."""
    attributes = _attributes(node)
    if node.op_type in WINDOWED:
        if len(branches) > 1:
            raise ValueError("its weights depend on the image")
        kernel = attributes.get("kernel_shape") or constants[node.input[1]].dims[2:]
        return branches[0].then(_windowed(kernel, attributes))
    if node.op_type == "Pad":
        return branches[0].then(_padded(node, attributes, constants))
    if node.op_type not in POINTWISE:
        raise ValueError("the operator moves cells, mixes all of them, or is unknown")
    if node.op_type == "Concat" and attributes["axis"] not in (1, -3):
        raise ValueError(f"axis {attributes['axis']} is not that of the channels")
    return _agreed(branches)


def _windowed(kernel: Sequence[int], attributes: dict[str, Any]) -> ConvGeometry:
    """Geometry of a convolution or of a pooling layer."""
    strides = attributes.get("strides", (1, 1))
    dilations = attributes.get("dilations", (1, 1))
    if len(kernel) != 2:
        raise ValueError(f"kernel {tuple(kernel)} is not two-dimensional")
    extents = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]
    extent, stride = _same("kernel", extents), _same("stride", strides)
    before, after = _pads(extent, stride, attributes)
    exact = before == after and not attributes.get("ceil_mode", 0)
    layers = ((extent, stride, before),) if exact else ()
    return ConvGeometry(stride, (extent - 1) / 2 - before, extent, layers)


def _pads(extent: int, stride: int, attributes: dict[str, Any]) -> tuple[int, int]:
    """Padding before the first pixel and after the last one."""
    rule = attributes.get("auto_pad", b"NOTSET").decode()
    if rule.startswith("SAME"):
        if stride != 1:
            raise ValueError(f"auto_pad {rule} with stride {stride} depends on the size of the image")
        less, more = (extent - 1) // 2, extent // 2
        return (less, more) if rule == "SAME_UPPER" else (more, less)
    pads = attributes.get("pads", (0, 0, 0, 0)) if rule == "NOTSET" else (0, 0, 0, 0)
    return _same("padding", pads[:2]), _same("padding", pads[2:])


def _padded(node: NodeProto, attributes: dict[str, Any], constants: Mapping[str, TensorProto]) -> ConvGeometry:
    """Geometry of a padding layer."""
    from onnx.numpy_helper import to_array

    mode = attributes.get("mode", b"constant").decode()
    if mode not in PADDING:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(map(repr, PADDING))}")
    given = [to_array(constants[name]).tolist() if name in constants else None for name in node.input[1:]]
    pads = attributes.get("pads") or (given[0] if given else None)
    if pads is None or len(pads) != 8 or any((*pads[:2], *pads[4:6])):
        raise ValueError(f"pads {pads} are not those of height and width")
    before, after = _same("padding", pads[2:4]), _same("padding", pads[6:])
    layers = ((1, 1, before),) if before == after >= 0 else ()
    return ConvGeometry(1.0, -before, 1.0, layers)


def _agreed(branches: Sequence[ConvGeometry]) -> ConvGeometry:
    """Geometry of branches that are put together cell by cell."""
    for name in ("stride", "offset"):
        _same(name + " of the branches", [getattr(branch, name) for branch in branches])
    widest = max(branch.receptive_field for branch in branches)
    layers = next((branch.layers for branch in branches if branch.layers), ())
    return dataclasses.replace(branches[0], receptive_field=widest, layers=layers)


def _same(what: str, values: Sequence[Any]) -> Any:
    if len(set(values)) != 1:
        raise ValueError(f"{what} {', '.join(map(str, values))} differ")
    return values[0]
