"""Boxes: overlap and suppression against slow loops and ONNX Runtime, regression offsets, average precision by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppfast import sppnet

whole_boxes = st.lists(
    st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(0, 9)] * 2).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=25,
).map(lambda rows: np.array(rows, float).reshape(-1, 4))


def slow_iou(a, b):
    """Overlap by counting unit squares."""

    def squares(box):
        return {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}

    both, either = squares(a) & squares(b), squares(a) | squares(b)
    return len(both) / len(either) if either else 0.0


def slow_nms(boxes, scores, threshold):
    rest, kept = sorted(range(len(boxes)), key=lambda i: -scores[i]), []
    while rest:
        kept.append(rest.pop(0))
        rest = [i for i in rest if slow_iou(boxes[kept[-1]], boxes[i]) <= threshold]
    return kept


# ---- iou and nms


@given(whole_boxes, whole_boxes)
def test_iou(a, b):
    got = sppnet.iou(a, b)
    assert got.shape == (len(a), len(b))
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, np.array([[slow_iou(p, q) for q in b] for p in a]).reshape(got.shape), rtol=1e-15)


@given(whole_boxes, st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]), st.randoms(use_true_random=False))
def test_nms(boxes, threshold, random):
    scores = [random.randint(0, 5) for _ in boxes]
    kept = sppnet.nms(boxes, scores, threshold)
    assert kept.dtype == np.int64
    assert kept.tolist() == slow_nms(boxes, scores, threshold)


def test_nms_at_the_threshold_itself():
    """IoU of exactly 1/2 is not more than 1/2."""
    boxes = [[0, 0, 10, 10], [0, 0, 10, 5]]
    assert sppnet.nms(boxes, [1, 2], 0.5).tolist() == [1, 0]
    assert sppnet.nms(boxes, [1, 2], math.nextafter(0.5, 0)).tolist() == [1]


def test_nms_as_onnxruntime(rng):
    """ONNX NonMaxSuppression, on whole coordinates, where float32 is exact."""
    onnxruntime = pytest.importorskip("onnxruntime")
    helper = pytest.importorskip("onnx").helper
    corners = rng.integers(0, 200, (300, 2))
    boxes = np.hstack([corners, corners + rng.integers(1, 80, (300, 2))]).astype(np.float32)
    scores = rng.permutation(300).astype(np.float32)
    names = ["boxes", "scores", "most", "threshold"]
    inputs = [helper.make_tensor_value_info(n, 7 if n == "most" else 1, None) for n in names]
    result = helper.make_tensor_value_info("kept", 7, None)
    graph = helper.make_graph([helper.make_node("NonMaxSuppression", names, ["kept"])], "nms", inputs, [result])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {
        "boxes": boxes[None],
        "scores": scores[None, None],
        "most": np.array([300]),
        "threshold": np.float32([0.3]),
    }
    (kept,) = session.run(None, feeds)
    assert sppnet.nms(boxes, scores, 0.3).tolist() == kept[:, 2].tolist()


def test_nothing():
    assert sppnet.nms([], [], 0.3).shape == (0,)
    assert sppnet.iou([], [[0, 0, 1, 1]]).shape == (0, 1)
    assert sppnet.encode_boxes([], []).shape == (0, 4)
    assert sppnet.decode_boxes(np.empty((0, 4)), []).shape == (0, 4)


def test_boxes_are_not_written_to(rng):
    boxes = np.array([[0.0, 0, 9, 9], [1, 1, 8, 8]])
    boxes.flags.writeable = False
    assert sppnet.nms(boxes, [1.0, 2.0], 0.9).tolist() == [1, 0]
    assert sppnet.iou(boxes.astype(">f4")[::-1], boxes).argmax(axis=1).tolist() == [1, 0]


# ---- offsets


@given(st.integers(0, 2**32 - 1))
def test_decoding_undoes_encoding(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-100, 100, (2, 20, 2))
    boxes, targets = np.concatenate([corners, corners + rng.uniform(5, 100, corners.shape)], axis=2)
    np.testing.assert_allclose(sppnet.decode_boxes(boxes, sppnet.encode_boxes(boxes, targets)), targets, atol=1e-9)


def test_offsets_by_hand():
    """Twice as wide, moved right by half a width and up by a quarter of a height."""
    offsets = [[0.5, -0.25, math.log(2), 0]]
    np.testing.assert_allclose(sppnet.decode_boxes([[10, 20, 14, 28]], offsets), [[10, 18, 18, 26]])
    np.testing.assert_allclose(sppnet.encode_boxes([[10, 20, 14, 28]], [[10, 18, 18, 26]]), offsets)


def test_a_side_grows_so_far_and_no_farther():
    grown = sppnet.decode_boxes([[0, 0, 16, 16]], [[0, 0, 1e9, 0]])
    np.testing.assert_allclose(grown[0, 2] - grown[0, 0], 1000)


# ---- average precision


FAR = [100, 100, 110, 110]
TRUE = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]


@pytest.mark.parametrize(
    ("found", "area", "eleven"),
    [
        (TRUE, 1.0, 1.0),
        ([], 0.0, 0.0),
        ([FAR], 0.0, 0.0),
        # true, false, true: precision 1 up to recall 1/4, 2/3 up to 1/2
        ([TRUE[0], FAR, TRUE[1]], (1 + 2 / 3) / 4, (3 * 1 + 3 * 2 / 3) / 11),
        # false first: 1/2, 2/3, 3/4 are all raised to the best that follows, 4/5
        ([FAR, *TRUE], 4 / 5, 4 / 5),
        # the same one twice: the second is false
        ([TRUE[0], TRUE[0], TRUE[1], TRUE[2]], (1 + 3 / 4 + 3 / 4) / 4, (3 * 1 + 5 * 3 / 4) / 11),
    ],
)
def test_average_precision_by_hand(found, area, eleven):
    scores = [np.arange(len(found), 0, -1)]
    assert sppnet.average_precision([found], scores, [TRUE]) == pytest.approx(area, abs=1e-15)
    assert sppnet.average_precision([found], scores, [TRUE], method="11-point") == pytest.approx(eleven, abs=1e-15)


def test_detections_are_ranked_over_all_images():
    """Image 0 has a false one between the true ones of image 1."""
    boxes, scores = [[FAR], [TRUE[0], TRUE[1]]], [[0.5], [0.4, 0.6]]
    assert sppnet.average_precision(boxes, scores, [[], TRUE[:2]]) == pytest.approx((1 + 2 / 3) / 2)


def test_a_true_box_counts_in_its_own_image():
    assert sppnet.average_precision([TRUE[:1], []], [[1], []], [[], TRUE[:1]]) == 0


def test_difficult_boxes_count_neither_way():
    boxes, scores = [[TRUE[0], TRUE[0], TRUE[1]]], [[3, 2, 1]]
    assert sppnet.average_precision(boxes, scores, [TRUE[:3]], difficult=[[True, False, True]]) == 1.0
    assert math.isnan(sppnet.average_precision(boxes, scores, [TRUE[:1]], difficult=[[True]]))


def test_a_detection_is_for_the_true_box_it_overlaps_most():
    """VOC's rule: the second one overlaps a found box most, and is false though it overlaps another enough."""
    truth, found = [[0, 0, 10, 10], [0, 0, 10, 16]], [[0, 0, 10, 10], [0, 0, 10, 12]]
    assert sppnet.average_precision([found], [[2, 1]], [truth]) == 0.5


@pytest.mark.parametrize(("threshold", "precision"), [(0.5, 1.0), (0.51, 0.0)])
def test_overlap_at_the_threshold_is_enough(threshold, precision):
    got = sppnet.average_precision([[[0, 0, 10, 5]]], [[1]], [[[0, 0, 10, 10]]], iou_threshold=threshold)
    assert got == precision


def test_no_images_or_nothing_to_find():
    assert math.isnan(sppnet.average_precision([], [], []))
    assert math.isnan(sppnet.average_precision([[FAR]], [[1]], [[]]))


def test_mean_average_precision():
    predictions = [(TRUE[:2], [2, 1], [7, 3]), ([], [], [])]
    mean, classes = sppnet.mean_average_precision(predictions, [TRUE[:3], TRUE[:1]], [[7, 7, 3], [3]])
    assert classes == {3: 0.0, 7: 0.5}
    assert mean == 0.25
    mean, classes = sppnet.mean_average_precision(
        predictions, [TRUE[:1], TRUE[1:2]], [[7], [5]], difficult=[[False], [True]], method="11-point"
    )
    assert classes[7] == 1.0
    assert math.isnan(classes[5])
    assert mean == 1.0
    assert math.isnan(sppnet.mean_average_precision([], [], [])[0])


# ---- imports


def test_only_what_is_used_is_imported():
    """Boxes need Numba when they are first used; estimators alone need scikit-learn."""
    code = """
import sys
from sppfast import sppnet
optional = {"cv2", "matplotlib", "numba", "onnx", "onnxruntime", "sklearn", "torch", "tqdm"}
assert not optional & set(sys.modules), optional & set(sys.modules)
sppnet.nms([[0, 0, 1, 1]], [1], 0.5)
assert optional & set(sys.modules) == {"numba"}
assert not hasattr(sppnet, "SPPSegmenter")
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL)


def test_estimators_say_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'SPPDetector needs sklearn: pip install "sppfast\[sppnet\]"'):
        sppnet.SPPDetector  # noqa: B018 - looking it up imports it


# ---- errors


B = [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sppnet.iou([[0, 0, 1]], B), ValueError, "boxes1: expected shape (B, 4), got (1, 3)"),
        (lambda: sppnet.iou(B, [["a"] * 4]), TypeError, "boxes2: dtype <U1"),
        (lambda: sppnet.iou(B, [[0, 0, np.nan, 1]]), ValueError, "boxes2[0]: [0.0, 0.0, nan, 1.0] is not finite"),
        (lambda: sppnet.nms([*B, [0, 5, 1, 4]], [1, 2], 0.3), ValueError, "boxes[1]: expected y0 <= y1, got 5.0"),
        (lambda: sppnet.nms(B, [1, 2], 0.3), ValueError, "scores: expected shape (1,) for 1 boxes, got (2,)"),
        (lambda: sppnet.nms(B, [np.nan], 0.3), ValueError, "scores[0]: is NaN"),
        (lambda: sppnet.nms(B, [1], 1.5), ValueError, "iou_threshold: expected a number from 0 to 1, got 1.5"),
        (lambda: sppnet.encode_boxes([[0, 0, 0, 1]], B), ValueError, "boxes[0]: expected x0 < x1, got 0.0 and 0.0"),
        (lambda: sppnet.encode_boxes(B, B * 2), ValueError, "targets: expected one for each of 1 boxes, got 2"),
        (lambda: sppnet.decode_boxes(B, []), ValueError, "offsets: expected one for each of 1 boxes, got 0"),
        (lambda: sppnet.average_precision([B], [[1]], []), ValueError, "boxes: expected one for each of 0"),
        (lambda: sppnet.average_precision([B], [[1]], [B], method="voc"), ValueError, "method: 'voc' is not one of"),
        (lambda: sppnet.average_precision([B], [[1]], [B], difficult=[[]]), ValueError, "difficult[0]: expected shape"),
        (lambda: sppnet.average_precision([B], [[]], [B]), ValueError, "scores[0]: expected shape (1,)"),
        (lambda: sppnet.mean_average_precision([], [B], [[1]]), ValueError, "predictions: expected one for each of 1"),
        (lambda: sppnet.mean_average_precision([(B, [1], [1])], [B], [[]]), ValueError, "labels[0]: expected shape"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
