"""Detection: windows and scales, training, the result on coloured squares, errors, and the files."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from sppnet_helpers import Blocks, shapes, sliding_windows

import sppfast

pytest.importorskip("sklearn")
pytest.importorskip("cv2")
from sklearn.exceptions import NotFittedError

from sppfast import sppnet
from sppfast.sppnet import SPPDetector, training
from sppfast.sppnet.training import Negatives, Rules, Scene
from sppfast.sppnet.window_features import WindowFeatures

pytestmark = pytest.mark.filterwarnings("ignore:Liblinear failed to converge")  # few samples, and separable
OPTIONS = {"levels": (2, 1), "scales": (48, 96), "window_size": 24, "C": 0.1}


def make_detector(backbone=None, **options):
    return SPPDetector(backbone or Blocks(), **({"proposals": sliding_windows} | OPTIONS | options))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return shapes(rng, 12), shapes(rng, 8)


@pytest.fixture(scope="module")
def detector(data):
    return make_detector().fit(*data[0])


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def with_backbone(detector, backbone):
    """The same detector with another backbone."""
    copy = pickle.loads(pickle.dumps(detector))
    return copy.set_params(backbone=backbone)


# ---- windows and their features


def test_each_window_has_the_scale_where_its_area_is_nearest():
    features = WindowFeatures(Blocks(), Blocks.geometry, (2, 1), (48, 96, 192), 24)
    factors = np.array([[1.0, 1], [2, 2], [4, 4]])
    sides = np.array([6, 9, 10, 12, 15, 17, 24, 100])
    boxes = np.stack([sides * 0, sides * 0, sides, sides], axis=1).astype(float)
    nearest = [min(range(3), key=lambda s: abs((side * 2**s) ** 2 - 24**2)) for side in sides]
    assert features.scale_of(boxes, factors).tolist() == nearest
    assert len(set(nearest)) == 3


def test_features_are_those_of_each_window_alone(rng):
    image = rng.integers(0, 256, (50, 71, 3), dtype=np.uint8)
    features = WindowFeatures(Blocks(), Blocks.geometry, (3, 1), (25, 100), 30)
    boxes = np.array([[3, 4, 60, 40], [10, 10, 20, 25], [0, 0, 71, 50], [70.5, 49.5, 71, 50]])
    scaled = features.maps(image)
    got = features.pool(scaled, boxes)
    for row, box, scale in zip(got, boxes, features.scale_of(boxes, scaled.factors), strict=True):
        x, y = scaled.factors[scale]
        roi = box * [x, y, x, y]
        roi[2:] = np.maximum(roi[2:] - 1, roi[:2])
        np.testing.assert_array_equal(
            row, sppfast.roi_pool(scaled.maps[scale], [roi], (3, 1), geometry=Blocks.geometry)[0]
        )
    buffer = features.buffer(scaled, 9)
    again = features.pool(scaled, boxes, buffer)
    assert np.shares_memory(again, buffer)
    np.testing.assert_array_equal(again, got)


def test_backbone_runs_once_for_each_scale(data, detector):
    backbone = Blocks()
    detector = with_backbone(detector, backbone)
    detector.predict(data[1][0][0])
    assert backbone.sizes == [(48, 72), (96, 144)]


def test_selective_search_is_deterministic_and_ordered():
    image = np.zeros((80, 100, 3), np.uint8)
    image[10:40, 20:70] = (200, 0, 0)
    image[30:70, 60:90] = (0, 0, 200)
    windows = sppnet.selective_search(image)
    np.testing.assert_array_equal(windows, sppnet.selective_search(image))
    np.testing.assert_array_equal(windows[:3], sppnet.selective_search(image, max_windows=3))
    assert len(np.unique(windows, axis=0)) == len(windows)
    sides = windows[:, 2:] - windows[:, :2]
    assert sides.min() >= 8
    assert (windows >= 0).all() and (windows <= [100, 80, 100, 80]).all()
    assert sppnet.iou(windows, [[20, 10, 70, 40]]).max() > 0.9
    every = sppnet.selective_search(image, max_windows=None, min_side=1, mode="quality")
    assert len(every) >= len(windows)


# ---- training


def test_negatives_overlap_little_and_no_harder_one_much(rng):
    truth, classes = np.array([[0.0, 0, 20, 20], [40, 0, 60, 20]]), np.array([0, 2])
    boxes = np.array([[0, 0, 20, 20], [40, 0, 60, 20], [100, 0, 120, 20], [101, 0, 120, 20], [0, 14, 20, 34]], float)
    scores = np.array([[0, 0, 0], [0, 0, 0], [0.1, 0.2, 0.3], [0.2, 0.1, 0.3], [0.5, -2, 0.5]])
    rules = Rules(3, negative_iou=0.3, duplicate_iou=0.7, max_negatives=9)
    hardness = rules.negatives(Scene(None, truth, classes, boxes), boxes, scores, -1.0)
    n = -np.inf
    # The true box of a class is no negative of it; of two that overlap, the harder one, or the first, is.
    want = [[n, 0, 0], [0, 0, n], [n, 0.2, 0.3], [0.2, n, n], [0.5, n, 0.5]]
    assert hardness.tolist() == want


def test_the_hardest_of_each_class_are_kept(rng):
    negatives, features, hardness = Negatives(limit=5), [], []
    for _ in range(40):
        f, h = rng.random((7, 2), np.float32), rng.random((7, 3))
        h[rng.random((7, 3)) < 0.5] = -np.inf
        features.append(f)
        hardness.append(h)
        negatives.offer(f, h)
        assert sum(map(len, negatives.features)) <= 30
    negatives.prune()
    features, hardness = np.concatenate(features), np.concatenate(hardness)
    for k in range(3):
        best = np.sort(np.argsort(-hardness[:, k])[:5])
        np.testing.assert_array_equal(np.sort(negatives.of_class(k), axis=0), np.sort(features[best], axis=0))


def test_mining_finds_what_the_first_training_missed(data, detector):
    """Few random negatives leave false alarms; the hard ones of a round put them behind the margin."""
    images, boxes, labels = data[0]
    options = {"max_negatives": 3, "score_threshold": 0.0}

    def alarms(rounds):
        found = make_detector(mining_rounds=rounds, **options).fit(images, boxes, labels)
        overlap = [sppnet.iou(found.predict(i)[0], b).max(axis=1) for i, b in zip(images, boxes, strict=True)]
        return int((np.concatenate(overlap) < 0.3).sum())

    assert alarms(0) > alarms(3)


def test_windows_for_the_regression_are_near_their_true_box(data):
    images, boxes, _ = data[0]
    truth = np.array(boxes[0], float)
    scene = Scene(None, truth, np.zeros(len(truth), np.int64), np.array(sliding_windows(images[0]), float))
    places, nearest = training.near_truth(scene, 0.5, np.random.default_rng(0))
    assert len(places)
    shared = sppnet.iou(scene.windows[places], truth)
    assert (shared.argmax(axis=1) == nearest).all()
    assert shared.max(axis=1).min() >= 0.5
    assert np.bincount(nearest).max() <= training.REGRESSION_WINDOWS


def test_regression_moves_boxes_to_the_truth(data):
    """With a weak penalty, and without any suppression that could hide it."""
    images, boxes, _ = data[0]

    def overlap(alpha):
        found = make_detector(regression_alpha=alpha, score_threshold=0.0).fit(*data[0])
        return np.mean(
            [sppnet.iou(b, found.predict(i)[0]).max(axis=1).mean() for i, b in zip(images, boxes, strict=True)]
        )

    assert overlap(1.0) > overlap(1e12) + 0.05


# ---- the result


def test_finds_the_squares_of_other_images(data, detector):
    assert detector.classes_.tolist() == ["green", "red"]
    assert detector.score(*data[1]) > 0.9


def test_one_bin_more_or_less(data, detector):
    """A shuffled truth is found by chance only: the score is of the detector's doing."""
    images, boxes, labels = data[1]
    assert detector.score(images, boxes[1:] + boxes[:1], labels[1:] + labels[:1]) < 0.4


def test_predictions_are_sorted_and_suppressed(data, detector):
    image = data[1][0][0]
    boxes, scores, labels = detector.predict(image)
    assert boxes.shape == (len(scores), 4)
    assert labels.shape == scores.shape
    assert boxes.dtype == scores.dtype == np.float64
    assert (np.diff(scores) <= 0).all() and scores.min() >= -1
    assert (boxes >= 0).all() and (boxes <= [72, 48, 72, 48]).all()
    for name in detector.classes_:
        of_class = boxes[labels == name]
        assert (sppnet.iou(of_class, of_class) - np.eye(len(of_class))).max(initial=0) <= 0.3


def test_threshold_is_only_a_cut(data, detector):
    image = data[1][0][0]
    boxes, scores, labels = detector.predict(image)
    strict = with_backbone(detector, Blocks()).set_params(score_threshold=0.0).predict(image)
    sure = scores >= 0
    assert 0 < sure.sum() < len(sure)
    assert same(strict, (boxes[sure], scores[sure], labels[sure]))


def test_fit_is_deterministic(data, detector):
    again = make_detector().fit(*data[0])
    np.testing.assert_array_equal(again.svms_.weights, detector.svms_.weights)
    np.testing.assert_array_equal(again.regression_.weights, detector.regression_.weights)


def test_images_are_read_when_they_are_needed(data):
    images, boxes, labels = data[0]

    class Lazy:
        def __len__(self):
            return len(images)

        def __getitem__(self, i):
            return images[i]

    assert make_detector().fit(Lazy(), boxes, labels).classes_.tolist() == ["green", "red"]


def test_images_without_objects_give_negatives(data):
    images, boxes, labels = data[0]
    empty = np.random.default_rng(0).integers(0, 60, (48, 72, 3), dtype=np.uint8)
    fitted = make_detector().fit([*images, empty], [*boxes, []], [*labels, []])
    assert fitted.score(*data[1]) > 0.9


def test_training_images_without_windows_give_true_boxes_alone(data):
    """Also one that has neither windows nor true boxes, and so no features at all."""
    images, boxes, labels = data[0]
    black = np.zeros((48, 72, 3), np.uint8)

    def proposals(image):
        return sliding_windows(image) if image is not black and image is not images[0] else []

    fitted = make_detector(proposals=proposals).fit([black, *images], [[], *boxes], [[], *labels])
    assert fitted.score(*data[1]) > 0.9


def test_no_candidate_windows_give_no_detections(data, detector):
    for nothing in ([], [[100, 100, 120, 120]], [[5, 5, 5, 9]]):
        blind = with_backbone(detector, Blocks()).set_params(proposals=lambda image, windows=nothing: windows)
        boxes, scores, labels = blind.predict(data[1][0][0])
        assert boxes.shape == (0, 4)
        assert scores.shape == labels.shape == (0,)
        assert labels.dtype == detector.classes_.dtype


def test_whole_numbers_as_labels(data):
    images, boxes, labels = data[0]
    numbers = [np.where(n == "red", 7, 3) for n in labels]
    assert make_detector().fit(images, boxes, numbers).predict(images[0])[2].dtype == np.int64


# ---- errors


IMAGE = np.zeros((48, 72, 3), np.uint8)
BOX = [[0, 0, 16, 16]]


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({}, ([IMAGE], [], [["a"]]), "boxes: expected one for each of 1 images, got 0"),
        ({}, ([IMAGE], [BOX], [["a", "b"]]), "labels[0]: expected shape (1,) for as many boxes, got (2,)"),
        ({}, ([IMAGE], [[[4, 4, 4, 9]]], [["a"]]), "boxes[0][0]: expected x0 < x1"),
        ({}, ([IMAGE], [[]], [[]]), "boxes: no true box in any image"),
        ({}, ([IMAGE[..., 0]], [BOX], [["a"]]), "images[0]: expected an RGB image"),
        ({}, ([IMAGE[:0]], [BOX], [["a"]]), "images[0]: shape (0, 72, 3) has no pixels"),
        ({"scales": (2,)}, ([IMAGE], [BOX], [["a"]]), "image: 2 x 3 pixels give the backbone no cell"),
        ({"scales": ()}, ([IMAGE], [BOX], [["a"]]), "scales: expected pixels"),
        ({"nms_iou": 2}, ([IMAGE], [BOX], [["a"]]), "nms_iou: expected a number from 0 to 1"),
        ({"window_size": 0}, ([IMAGE], [BOX], [["a"]]), "window_size: expected 1 at least, got 0"),
        ({"max_negatives": 0}, ([IMAGE], [BOX], [["a"]]), "max_negatives: expected 1 at least, got 0"),
        ({"levels": "1"}, ([IMAGE], [BOX], [["a"]]), "levels"),
        ({"proposals": lambda image: BOX}, ([IMAGE], [BOX], [["a"]]), "no window is a negative of class 'a'"),
        ({"proposals": lambda image: [[1, 2, 3]]}, ([IMAGE], [BOX], [["a"]]), "proposals: expected shape (B, 4)"),
    ],
)
def test_wrong_training(options, arguments, message):
    with pytest.raises((TypeError, ValueError)) as error:
        make_detector(**options).fit(*arguments)
    assert message in str(error.value)


def test_labels_that_cannot_be_kept():
    with pytest.raises(TypeError, match="labels: expected strings or numbers, got dtype object"):
        make_detector().fit([IMAGE], [BOX], [np.array([None])])


def test_a_failing_fit_changes_nothing(data, detector):
    copy = with_backbone(detector, Blocks())
    with pytest.raises(ValueError, match="no pixels"):
        copy.fit([IMAGE, IMAGE[:0]], [BOX, BOX], [["blue"], ["blue"]])
    assert same(copy.predict(data[1][0][0]), detector.predict(data[1][0][0]))


def test_before_fit(tmp_path):
    for call in (lambda: make_detector().predict(IMAGE), lambda: make_detector().save(tmp_path / "model.npz")):
        with pytest.raises(NotFittedError, match="learnt nothing yet"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((6, 9, 9), np.float32), "backbone: expected a map (C, 12, 18)"),
        (np.zeros((12, 18), np.float32), "got float32 of shape (12, 18)"),
        (np.zeros((5, 12, 18), np.float32), "expected maps that give 30 features as in training, got 25"),
    ],
)
def test_backbone_that_returns_the_wrong_shape(detector, result, message):
    class Wrong(Blocks):
        def __call__(self, image):
            return result

    wrong = with_backbone(detector, Wrong()).set_params(scales=(48,))
    with pytest.raises(ValueError) as error:
        wrong.predict(IMAGE)
    assert message in str(error.value)


# ---- files


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    """A detector with a body in ONNX and selective search, and its file."""
    pytest.importorskip("onnxruntime")
    from sppfast.sppnet.bodies import body_model

    weights = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32) / 255
    body = body_model("conv8", [(4, 4, 0)], [(weights, np.zeros(8))])
    backbone = sppnet.OnnxBackbone(body, mean=100, std=(1, 2, 3), threads=1)
    options = OPTIONS | {"levels": (2, (1, 3)), "scales": np.array([48, 96])}
    fitted = SPPDetector(backbone, **options).fit(*data[0])
    path = tmp_path_factory.mktemp("saved") / "model.npz"
    fitted.save(path)
    return fitted, path


def test_a_loaded_detector_is_the_same(saved, data):
    fitted, path = saved
    loaded = SPPDetector.load(path)
    assert loaded.get_params()["levels"] == [2, (1, 3)]
    for image in data[1][0][:3]:
        assert same(loaded.predict(image), fitted.predict(image))
    assert [p.name for p in path.parent.iterdir()] == ["model.npz"]


def test_any_backbone_comes_back_by_argument(tmp_path, data, detector):
    path = tmp_path / "model.npz"
    detector.save(path)
    with pytest.raises(ValueError, match=r"model\.npz: the backbone is not in the file"):
        SPPDetector.load(path)
    with pytest.raises(ValueError, match=r"model\.npz: the proposals are not in the file"):
        SPPDetector.load(path, backbone=Blocks())
    loaded = SPPDetector.load(path, backbone=Blocks(), proposals=sliding_windows)
    assert same(loaded.predict(data[1][0][0]), detector.predict(data[1][0][0]))


def test_geometry_is_saved(tmp_path, data, detector):
    geometry = sppfast.ConvGeometry.from_layers([(4, 4, 0)])
    with_backbone(detector, Blocks()).set_params(geometry=geometry).save(tmp_path / "m")
    loaded = SPPDetector.load(tmp_path / "m", backbone=lambda image: Blocks()(image), proposals=sliding_windows)
    assert loaded.geometry == geometry


@pytest.mark.parametrize("spoil", [
    lambda raw: raw[:1000],
    lambda raw: raw[:-30],
    lambda raw: raw[:900] + bytes(40) + raw[940:],
    lambda raw: b"",
    lambda raw: b"no detector at all",
], ids=["head", "cut", "zeros", "empty", "text"])  # fmt: skip
def test_damaged_files(saved, tmp_path, spoil):
    path = tmp_path / "bad.npz"
    path.write_bytes(spoil(saved[1].read_bytes()))
    with pytest.raises(ValueError, match=r"bad\.npz: "):
        SPPDetector.load(path)


def rewrite(path, target, **changes):
    """Copy a file with some of its arrays changed, or left out where they are None."""
    arrays = {k: v for k, v in (dict(np.load(path)) | changes).items() if v is not None}
    np.savez(target, **arrays)


def header_of(path, **changes):
    header = json.loads(np.load(path)["header"].tobytes()) | changes
    return np.frombuffer(json.dumps(header).encode(), np.uint8)


def test_other_files(saved, tmp_path):
    path, target = saved[1], tmp_path / "other.npz"
    cases = [
        ({"header": header_of(path, version=2)}, "is of format version 2, expected 1"),
        ({"header": header_of(path, format="else")}, "not a file that SPPDetector.save wrote"),
        ({"header": header_of(path, parameters={"levels": 1, "depth": 3})}, "damaged: "),
        ({"header": None}, "not a file that SPPDetector.save wrote"),
        ({"svm_bias": None}, "damaged: "),
        ({"svm_bias": np.zeros(5, np.float32)}, "svm_bias has shape (5,), expected (2,)"),
        ({"onnx": np.zeros(9, np.uint8)}, "damaged: "),
        ({"classes": np.array([{}, {}])}, "not a file that SPPDetector.save wrote"),
    ]
    for changes, message in cases:
        rewrite(path, target, **changes)
        with pytest.raises(ValueError, match=r"other\.npz: ") as error:
            SPPDetector.load(target)
        assert message in str(error.value)
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(ValueError, match="not a file that"):
        SPPDetector.load(tmp_path / "single.npy")
    with pytest.raises(FileNotFoundError):
        SPPDetector.load(tmp_path / "none.npz")


def test_nothing_in_the_file_is_pickled(saved):
    with zipfile.ZipFile(saved[1]) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                np.lib.format.read_array(file, allow_pickle=False)


def test_a_failing_save_leaves_the_old_file(saved, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    path.write_bytes(b"old")

    def savez(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(OSError, match="No space left"):
        saved[0].save(path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
