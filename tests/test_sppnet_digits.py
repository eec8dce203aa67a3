"""Digits on photographs: the scenes, the body in the package, what it reaches, the script that trains it, the demo."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("onnxruntime")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")
import sppfast
from sppfast import sppnet
from sppfast.sppnet import digits

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def scenes():
    return {split: digits.make_scenes(split, count) for split, count in (("train", 14), ("test", 6))}


def windows_of(image, kept={}):  # noqa: B006 - a cache: selective search takes most of the time of these tests
    key = image.tobytes()
    if key not in kept:
        kept[key] = sppnet.selective_search(image)
    return kept[key]


# ---- the data


def test_scenes_follow_from_the_seed():
    images, boxes, labels = digits.make_scenes("test", 2)
    again, _, _ = digits.make_scenes("test", 2)
    others, _, _ = digits.make_scenes("test", 2, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))
    assert not np.array_equal(images[0], others[0])
    for image, truth, names in zip(images, boxes, labels, strict=True):
        assert image.shape == (240, 320, 3)
        assert image.dtype == np.uint8
        assert 1 <= len(truth) == len(names) <= 8
        assert (truth >= 0).all() and (truth <= [320, 240, 320, 240]).all()
        assert (sppnet.iou(truth, truth) == np.eye(len(truth))).all()


def test_boxes_are_tight():
    """The strokes of a digit touch all four sides of its box, and nothing outside it is changed."""
    ground = np.full((80, 80, 3), 120, np.uint8)
    image = ground.copy()
    digits.paint(np.random.default_rng(0), image, digits.load_digits("test")[0][3], np.array([20.0, 10, 50, 60]))
    rows, columns = np.nonzero((image != ground).any(axis=2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (20, 10, 50, 60)


def test_splits_share_nothing():
    names = digits.PHOTOGRAPHS
    assert not set(names["train"]) & set(names["test"])
    (train, _), (test, _) = (digits.load_digits(split) for split in ("train", "test"))
    assert len(train) + len(test) == 1797
    assert not {d.tobytes() for d in train} & {d.tobytes() for d in test}


def test_pictures():
    images, labels = digits.make_pictures("train", 30, (24, 60))
    assert len({image.shape for image in images}) > 10
    assert all(24 <= image.shape[0] <= 60 for image in images)
    assert labels.shape == (30,)


# ---- the body


def test_the_body_is_small_and_known():
    assert digits.BODY.stat().st_size < 300_000
    geometry = digits.digits_backbone().geometry
    assert (geometry.stride, geometry.receptive_field) == (4, 26)


@pytest.mark.skipif(not (ROOT / "docs" / "examples" / "train_digits.py").exists(), reason="the script is not there")
def test_the_script_that_trains_it(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    script, path = ROOT / "docs" / "examples" / "train_digits.py", tmp_path / "body.onnx"
    monkeypatch.setattr(sys, "argv", [str(script), "--steps", "4", "--batch", "6", "--out", str(path)])
    monkeypatch.setattr(digits, "load_backgrounds", lambda split: [np.zeros((150, 150, 3), np.uint8)])
    namespace = runpy.run_path(str(script))
    monkeypatch.setitem(namespace["train"].__globals__, "TESTS", 20)
    namespace["main"]()
    written, kept = sppnet.OnnxBackbone(path), digits.digits_backbone()
    assert written.geometry == kept.geometry
    assert path.stat().st_size == digits.BODY.stat().st_size


def test_the_script_writes_the_network_that_it_trained():
    torch = pytest.importorskip("torch")
    script = ROOT / "docs" / "examples" / "train_digits.py"
    if not script.exists():
        pytest.skip("the script is not there")
    namespace = runpy.run_path(str(script))
    torch.manual_seed(0)
    network = namespace["Network"]()
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    with torch.inference_mode():
        want = network.body(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].numpy()
    got = sppnet.OnnxBackbone(namespace["body_of"](network))(image)
    np.testing.assert_allclose(got, want, atol=1e-5)


# ---- what it reaches


def test_classification_at_mixed_sizes():
    train, test = (digits.make_pictures(split, 300) for split in ("train", "test"))
    right = {
        levels: sppnet.SPPClassifier(digits.digits_backbone(), levels=levels).fit(*train).score(*test)
        for levels in ((6, 3, 2, 1), 1)
    }
    assert right[6, 3, 2, 1] > 0.7
    assert right[6, 3, 2, 1] > right[1] + 0.1


def test_detection_is_far_above_one_bin_and_chance(scenes):
    images, boxes, labels = scenes["test"]

    def score(levels):
        detector = sppnet.SPPDetector(digits.digits_backbone(), levels=levels, proposals=windows_of, **digits.DETECTOR)
        return detector.fit(*scenes["train"]).score(images, boxes, labels)

    rng = np.random.default_rng(0)
    chance = [(w, rng.random(len(w)), rng.integers(10, size=len(w))) for w in map(windows_of, images)]
    pyramid = score((6, 3, 2, 1))
    assert pyramid > 0.5
    assert pyramid > score(1) + 0.2
    assert sppnet.mean_average_precision(chance, boxes, labels)[0] < 0.05


def test_the_demo_draws_what_it_finds(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    from sppfast.sppnet import demo

    monkeypatch.setattr(demo, "SCENES", 3)
    monkeypatch.setattr(demo, "TESTS", 1)
    monkeypatch.setattr(demo, "load_photographs", lambda: {"coffee": np.zeros((120, 160, 3), np.uint8)})
    monkeypatch.setattr(demo, "SIDES", (24.0, 40.0))
    demo.run(tmp_path / "demo")
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == ["detection.png", "digits.npz", "photograph.png"]
    assert "mean average precision" in capsys.readouterr().out
    assert sppnet.SPPDetector.load(tmp_path / "demo" / "digits.npz").classes_.dtype == np.int64


# ---- the comparison with R-CNN


@pytest.mark.skipif(not (ROOT / "benchmarks" / "rcnn.py").exists(), reason="the benchmarks are not there")
def test_the_times_of_both_ways(rng):
    """On a small body: all stages are there, and the part of R-CNN that ran is scaled to all windows."""
    module = runpy.run_path(str(ROOT / "benchmarks" / "rcnn.py"))
    module["SCALES"] |= {"SPP-net, 1 scale": (60,), "SPP-net, 5 scales": (60, 120)}
    backbone, image = digits.digits_backbone(), rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    weights = rng.standard_normal((20, sppfast.Pyramid((6, 3, 2, 1)).output_length(64)), dtype=np.float32)
    windows = np.array([[x, y, x + 30, y + 25] for x in range(0, 50, 5) for y in range(0, 35, 5)], float)
    whole, part = (module["measure"](backbone, weights, image, windows, count, 4) for count in (70, 20))
    assert list(whole) == ["SPP-net, 1 scale", "SPP-net, 5 scales", "R-CNN"]
    assert all(seconds > 0 for times in whole.values() for seconds in times.values())
    assert 0.2 < part["R-CNN"]["convolution"] / whole["R-CNN"]["convolution"] < 5
    assert whole["R-CNN"]["convolution"] > whole["SPP-net, 5 scales"]["convolution"]


@pytest.mark.skipif(not (ROOT / "benchmarks" / "rcnn.py").exists(), reason="the benchmarks are not there")
def test_both_ways_give_the_same_features_of_the_whole_image(rng):
    """A window that is the image, as large as R-CNN warps it to."""
    module = runpy.run_path(str(ROOT / "benchmarks" / "rcnn.py"))
    backbone, image = digits.digits_backbone(), rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    windows, out = np.array([[0, 0, 224, 224]], float), np.zeros((1, 64 * 50), np.float32)
    module["r_cnn_features"](backbone, image, windows, 1, module["Clock"](), out)
    np.testing.assert_array_equal(out, sppfast.pool(backbone(image), (6, 3, 2, 1))[None])
