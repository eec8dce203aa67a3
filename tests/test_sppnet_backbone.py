"""Backbones: the geometry of ONNX graphs against probing, and what is no backbone."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx
from onnx import TensorProto, helper, numpy_helper

from sppfast import ConvGeometry
from sppfast.sppnet import OnnxBackbone, onnx_geometry, random_body
from sppfast.sppnet.backbone import feature_map, geometry_of

SIDES = (None, 3, "h", "w")


def model(nodes, tensors=None, *, shape=SIDES, outputs=("map",), kind=TensorProto.FLOAT, inputs=("image",)):
    """An ONNX model of nodes; `tensors` are constants by name."""
    images = [helper.make_tensor_value_info(name, kind, shape) for name in inputs]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(np.asarray(a), name) for name, a in (tensors or {}).items()]
    graph = helper.make_graph(nodes, "test", images, results, constants)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def node(kind, source, result, **attributes):
    return helper.make_node(kind, source.split(), [result], **attributes)


def weights(outputs, inputs, kernel):
    """Positive weights: whatever changes in the image changes the sum."""
    return np.random.default_rng(0).uniform(0.5, 1, (outputs, inputs, kernel, kernel)).astype(np.float32)


@st.composite
def chains(draw):
    """Nodes and constants of a random chain."""
    nodes, tensors, source, channels = [], {}, "image", 3
    count = draw(st.integers(1, 4))
    for i in range(count):
        kind = draw(st.sampled_from(["Conv", "MaxPool", "AveragePool", "Pad", "Relu", "LRN", "BatchNormalization"]))
        result = "map" if i == count - 1 else f"t{i}"
        kernel, attributes, names = draw(st.integers(1, 4)), {}, [source]
        if kind in ("Conv", "MaxPool", "AveragePool"):
            before, after = (draw(st.integers(0, kernel // 2)) for _ in range(2))
            stride = draw(st.integers(1, min(kernel, 3)))
            attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [before] * 2 + [after] * 2}
        if kind == "Conv":
            names.append(f"w{i}")
            tensors[f"w{i}"], channels = weights(2, channels, kernel), 2
        elif kind == "Pad":
            names.append(f"p{i}")
            tensors[f"p{i}"] = np.array([0, 0, 1, 1, 0, 0, 2, 2])
        elif kind == "LRN":
            attributes = {"size": 3, "alpha": 1e-9}
        elif kind == "BatchNormalization":
            names += [f"{n}{i}" for n in "smbv"]
            tensors |= {name: np.ones(channels, np.float32) for name in names[1:]}
        nodes.append(helper.make_node(kind, names, [result], **attributes))
        source = result
    return model(nodes, tensors)


def looks(geometry, cells, size, pixel):
    """Along one axis: which cells see a pixel, and which see no padding."""
    boxes = geometry.boxes([(cell, cell, cell + 1, cell + 1) for cell in range(cells)])
    first, last = boxes[:, 0], boxes[:, 2]
    return (first <= pixel) & (pixel <= last), (first >= 0) & (last < size)


def assert_probe_agrees(backbone, geometry, size, pixels):
    """Change pixels of an image, one at a time: exactly the cells that see it must change.

    Of cells that see padding only some need to: what lies beyond the border of a map in between is not computed.
    """
    image = np.zeros((*size, 3), np.uint8)
    before = backbone(image)
    if geometry.layers:
        assert before.shape[1:] == geometry.map_size(size)
    for pixel in pixels:
        changed = image.copy()
        changed[tuple(pixel)] = 255
        got = (backbone(changed) != before).any(axis=0)
        rows, columns = (looks(geometry, *axis) for axis in zip(got.shape, size, pixel, strict=True))
        seen, whole = (np.outer(*along) for along in zip(rows, columns, strict=True))
        assert not (got & ~seen).any()
        np.testing.assert_array_equal(got[whole], seen[whole])


@given(chains(), st.integers(0, 2**32 - 1))
def test_geometry_of_chains_by_probing(chain, seed):
    backbone = OnnxBackbone(chain, threads=1)
    pixels = np.random.default_rng(seed).integers(0, (40, 47), (6, 2))
    assert_probe_agrees(backbone, backbone.geometry, (40, 47), pixels)


def test_geometry_of_branches_by_probing():
    """Branches of one centre and stride: the widest counts."""
    nodes = [
        node("Conv", "image w3", "stem", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Conv", "stem w1", "narrow"),
        node("Conv", "stem w5", "wide", pads=[2, 2, 2, 2]),
        node("Add", "narrow wide", "sum"),
        node("Concat", "sum stem", "both", axis=1),
        node("Relu", "both", "map"),
    ]
    tensors = {"w3": weights(4, 3, 3), "w1": weights(4, 4, 1), "w5": weights(4, 4, 5)}
    backbone = OnnxBackbone(model(nodes, tensors), threads=1)
    geometry = backbone.geometry
    assert (geometry.stride, geometry.offset, geometry.receptive_field) == (2.0, 0.0, 11.0)
    assert_probe_agrees(backbone, geometry, (30, 41), [(0, 0), (15, 20), (29, 40), (3, 38)])


@pytest.mark.parametrize(("name", "stride", "side"), [
    ("ZF-5", 16, 13), ("Convnet*-5", 16, 13), ("Overfeat-5", 12, 18), ("Overfeat-7", 12, 18),
])  # fmt: skip
def test_the_papers_bodies(name, stride, side):
    geometry = onnx_geometry(random_body(name))
    assert geometry == ConvGeometry.preset(name) == onnx_geometry(random_body(name, lrn=False))
    assert geometry.stride == stride
    assert geometry.map_size(224) == side


def test_zf5_runs_and_is_deterministic():
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    maps = [OnnxBackbone(random_body("ZF-5", seed=seed), threads=1)(image) for seed in (3, 3, 4)]
    assert maps[0].shape == (256, 13, 13)
    np.testing.assert_array_equal(maps[0], maps[1])
    assert (maps[0] != maps[2]).any()
    assert 0.05 < (maps[0] > 0).mean() < 0.95


@pytest.mark.parametrize(("auto_pad", "offset"), [("SAME_UPPER", 0.5), ("SAME_LOWER", -0.5), ("VALID", 1.5)])
def test_auto_pad(auto_pad, offset):
    conv = node("Conv", "image w", "map", auto_pad=auto_pad)
    backbone = OnnxBackbone(model([conv], {"w": weights(2, 3, 4)}), threads=1)
    assert backbone.geometry.offset == offset
    assert_probe_agrees(backbone, backbone.geometry, (12, 15), [(0, 0), (5, 7), (11, 14)])


def test_dilation_counts_with_the_whole_extent():
    geometry = onnx_geometry(model([node("Conv", "image w", "map", dilations=[3, 3])], {"w": weights(2, 3, 3)}))
    assert geometry == ConvGeometry.from_layers([(7, 1, 0)])


def test_ceil_mode_has_no_exact_size():
    pool = node("MaxPool", "image", "map", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    geometry = onnx_geometry(model([pool]))
    assert (geometry.stride, geometry.offset, geometry.layers) == (2.0, 0.5, ())


CONV = {"w": weights(3, 3, 3)}


@pytest.mark.parametrize(
    ("nodes", "tensors", "message"),
    [
        ([node("GlobalAveragePool", "image", "map")], {}, "'map' (GlobalAveragePool): the operator moves cells"),
        ([node("InstanceNormalization", "image s s", "map")], {"s": np.ones(3, "f4")}, "mixes all"),
        ([node("Transpose", "image", "map", perm=[0, 1, 3, 2])], {}, "(Transpose)"),
        ([node("Conv", "image w", "map", strides=[2, 1])], CONV, "stride 2, 1 differ"),
        ([node("Conv", "image w", "map", pads=[0, 1, 0, 1])], CONV, "padding 0, 1 differ"),
        ([node("Conv", "image w", "map", strides=[2, 2], auto_pad="SAME_UPPER")], CONV, "depends on the size"),
        ([node("Conv", "image w", "map")], {"w": weights(3, 3, 3)[:, :, :2]}, "kernel 2, 3 differ"),
        ([node("Relu", "image", "a"), node("Conv", "image a", "map")], {}, "its weights depend on the image"),
        ([node("Pad", "image p", "map", mode="reflect")], {"p": np.array([0, 1, 2, 2, 0, 0, 2, 2])}, "not those"),
        ([node("Concat", "image image", "map", axis=2)], {}, "axis 2 is not that of the channels"),
        ([node("Conv", "image w", "a", strides=[2, 2]), node("Add", "a image", "map")], CONV, "branches 2.0, 1.0"),
        ([node("Conv", "image w", "a"), node("Add", "a image", "map")], CONV, "offset of the branches 1.0, 0.0"),
    ],
)  # fmt: skip
def test_no_single_geometry(nodes, tensors, message):
    with pytest.raises(ValueError, match="there is no single geometry") as error:
        onnx_geometry(model(nodes, tensors))
    assert message in str(error.value)


# ---- OnnxBackbone


def head_model():
    """A body, and after it a head that has no geometry."""
    nodes = [
        node("Conv", "image w", "body", pads=[1] * 4),
        node("GlobalAveragePool", "body", "pooled"),
        node("Flatten", "pooled", "flat"),
        node("MatMul", "flat heavy", "map"),
    ]
    return model(nodes, CONV | {"heavy": np.ones((3, 1000), np.float32)})


def test_output_cuts_off_the_head():
    backbone = OnnxBackbone(head_model(), output="body", threads=1)
    assert backbone(np.ones((9, 8, 3), np.uint8)).shape == (3, 9, 8)
    assert len(backbone.model) < 1000
    with pytest.raises(ValueError, match="no tensor 'elsewhere'"):
        OnnxBackbone(head_model(), output="elsewhere")
    with pytest.raises(ValueError, match="GlobalAveragePool"):
        OnnxBackbone(head_model())


def test_mean_and_std_in_the_order_of_the_channels():
    backbone = OnnxBackbone(model([node("Identity", "image", "map")]), mean=(10, 20, 30), std=(1, 2, 4), threads=1)
    np.testing.assert_array_equal(backbone(np.full((1, 1, 3), 50, np.uint8)).ravel(), [40, 15, 5])


def test_copies_give_the_same_map(tmp_path):
    path = tmp_path / "body.onnx"
    onnx.save(model([node("Conv", "image w", "map")], CONV), path)
    backbone = OnnxBackbone(path, mean=3, threads=1)
    image = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone)), OnnxBackbone(str(path), mean=3)):
        np.testing.assert_array_equal(other(image), backbone(image))
        assert other.geometry == backbone.geometry


def test_batch_gives_the_same_as_one_by_one():
    backbone = OnnxBackbone(random_body("ZF-5"), threads=1)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 80, 3), dtype=np.uint8)
    np.testing.assert_allclose(backbone.batch(images), [backbone(image) for image in images], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"this is no model", "model: "),
        (b"", "without nodes"),
        (model([node("Identity", "image", "map")], shape=(1, 3, 224, 224)), "[1, 3, 224, 224]: expected float32"),
        (model([node("Identity", "image", "map")], shape=(1, 1, "h", "w")), "[1, 1, 'h', 'w']: expected float32"),
        (model([node("Identity", "image", "map")], kind=TensorProto.DOUBLE), "expected float32"),
        (model([node("Add", "image two", "map")], inputs=("image", "two")), "inputs ['image', 'two'], expected one"),
        (model([node("Relu", "image", "a"), node("Relu", "a", "b")], outputs=("a", "b")), "choose a tensor with"),
        (model([node("Conv", "image w", "map")], {"w": weights(2, 5, 3)}), "ONNX Runtime failed"),
    ],
)  # fmt: skip
def test_models_that_are_no_body(broken, message):
    with pytest.raises(ValueError) as error:
        backbone = OnnxBackbone(broken, threads=1)
        backbone(np.zeros((8, 8, 3), np.uint8))
    assert message in str(error.value)


def test_file_errors_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.onnx"):
        OnnxBackbone(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x08damaged" * 9)
    with pytest.raises(ValueError, match=r"bad\.onnx: "):
        OnnxBackbone(tmp_path / "bad.onnx")


@pytest.mark.parametrize(("option", "value"), [("mean", (1, 2)), ("std", 0), ("std", (1, -1, 1)), ("mean", np.nan)])
def test_wrong_mean_and_std(option, value):
    with pytest.raises(ValueError, match=f"{option}: expected"):
        OnnxBackbone(model([node("Identity", "image", "map")]), **{option: value})


# ---- any callable


IMAGE = np.zeros((20, 30, 3), np.uint8)
GEOMETRY = ConvGeometry.from_layers([(4, 4, 0)])


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((0, 5, 3), np.uint8), ValueError, "image: shape (0, 5, 3) has no pixels"),
        (np.zeros((5, 5), np.uint8), ValueError, "got (5, 5) (grey)"),
        (np.zeros((5, 5, 1), np.uint8), ValueError, "got (5, 5, 1) (grey)"),
        (np.zeros((5, 5, 4), np.uint8), ValueError, "got (5, 5, 4) (RGBA)"),
        (np.zeros((5, 5, 3), np.float32), TypeError, "expected dtype uint8, got float32"),
        ([[0]], TypeError, "expected a numpy array, got list"),
    ],
)
def test_images_that_are_none(image, error, message):
    backbone = OnnxBackbone(model([node("Identity", "image", "map")]), threads=1)
    with pytest.raises(error) as raised:
        backbone(image)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((2, 5, 8), np.float32), "expected a map (C, 5, 7) of 20 x 30 pixels, got (2, 5, 8)"),
        (np.zeros((5, 7), np.float32), "expected a map (C, h, w) of floats, got float32 of shape (5, 7)"),
        (np.zeros((2, 5, 7), np.uint8), "got uint8 of shape (2, 5, 7)"),
        (np.zeros((0, 5, 7), np.float32), "got (0, 5, 7)"),
        (None, "got NoneType"),
    ],
)
def test_wrong_maps(result, message):
    with pytest.raises(ValueError, match="backbone: ") as error:
        feature_map(lambda image: result, GEOMETRY, IMAGE)
    assert message in str(error.value)


def test_image_too_small_for_one_cell():
    """An image smaller than the receptive field is fine as long as padding gives it a cell."""
    backbone = OnnxBackbone(random_body("ZF-5"), threads=1)
    assert backbone.geometry.receptive_field == 139
    assert feature_map(backbone, backbone.geometry, np.zeros((29, 90, 3), np.uint8)).shape[1] == 1
    with pytest.raises(ValueError, match="image: 28 x 90 pixels give the backbone no cell, expected 29 at least"):
        feature_map(backbone, backbone.geometry, np.zeros((28, 90, 3), np.uint8))


def test_geometry_of_any_callable():
    def backbone(image):
        return image

    assert geometry_of(backbone, 8) == ConvGeometry(8)
    with pytest.raises(ValueError, match="geometry: needed for a backbone that has no"):
        geometry_of(backbone, None)
    with pytest.raises(TypeError, match="backbone: expected a callable, got str"):
        geometry_of("body.onnx", None)
    backbone.geometry = GEOMETRY
    assert geometry_of(backbone, None) == GEOMETRY
