"""Data sets in the format of PASCAL VOC: a tiny one, damaged ones, and the experiment on it."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from sppnet_helpers import shapes

cv2 = pytest.importorskip("cv2")

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "voc2007.py"
OBJECT = """<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult><bndbox>
<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"""


def write_split(root, split, scenes, difficult=()):
    """Write images, annotations and the list of a split; `difficult` has (image, object) pairs."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = []
    for i, (image, boxes, labels) in enumerate(zip(*scenes, strict=True)):
        names.append(f"{split}{i:04}")
        cv2.imwrite(str(root / "JPEGImages" / f"{names[-1]}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
        objects = "".join(
            OBJECT.format(name=label, difficult=int((i, j) in difficult), x0=x0 + 1, y0=y0 + 1, x1=x1, y1=y1)
            for j, ((x0, y0, x1, y1), label) in enumerate(zip(boxes, labels, strict=True))
        )
        annotation = f"<annotation><size><width>72</width></size>{objects}</annotation>"
        (root / "Annotations" / f"{names[-1]}.xml").write_text(annotation)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")


@pytest.fixture
def root(tmp_path, rng):
    write_split(tmp_path / "VOC2007", "trainval", shapes(rng, 6), difficult=[(0, 0)])
    write_split(tmp_path / "VOC2007", "test", shapes(rng, 3))
    return tmp_path / "VOC2007"


def test_reads_what_was_written(root):
    from sppfast.sppnet import load_voc

    images, boxes, labels = shapes(np.random.default_rng(20140618), 6)
    voc = load_voc(root, "trainval")
    assert voc.names == tuple(f"trainval{i:04}" for i in range(6))
    assert len(voc.images) == 6
    assert len(voc.images[1:3]) == 2
    for i in range(6):
        assert voc.images[i].dtype == np.uint8
        means = [image.mean(axis=(0, 1)) for image in (voc.images[i], images[i])]  # JPEG changes single pixels
        np.testing.assert_allclose(*means, atol=1.5)
        np.testing.assert_array_equal(voc.boxes[i], boxes[i])
        assert voc.labels[i].tolist() == list(labels[i])
    assert [marks.sum() for marks in voc.difficult] == [1, 0, 0, 0, 0, 0]


def test_without_difficult(root):
    from sppfast.sppnet import load_voc

    voc = load_voc(root, "trainval")
    images, boxes, labels = voc.without_difficult()
    assert images is voc.images
    np.testing.assert_array_equal(boxes[0], voc.boxes[0][1:])
    assert labels[0].tolist() == voc.labels[0][1:].tolist()
    np.testing.assert_array_equal(boxes[1], voc.boxes[1])


def test_an_image_without_objects(root):
    from sppfast.sppnet import load_voc

    (root / "Annotations" / "test0001.xml").write_text("<annotation></annotation>")
    voc = load_voc(root, "test")
    assert voc.boxes[1].shape == (0, 4)
    assert voc.labels[1].shape == voc.difficult[1].shape == (0,)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Annotations/test0001.xml", "<annotation><object>", "test0001.xml: not an annotation of PASCAL VOC"),
        ("Annotations/test0001.xml", "<a><object><name>x</name></object></a>", "not an annotation of PASCAL VOC"),
        (
            "Annotations/test0001.xml",
            "<a>" + OBJECT.format(name="x", difficult=0, x0=9, y0=1, x1=3, y1=5) + "</a>",
            "test0001.xml: not an annotation of PASCAL VOC: bndbox[0]: expected x0 < x1",
        ),
        (
            "Annotations/test0001.xml",
            "<a>" + OBJECT.format(name="", difficult=0, x0=1, y0=1, x1=3, y1=5) + "</a>",
            "an object without a name",
        ),
        ("ImageSets/Main/test.txt", "\n", "test.txt: lists no images"),
    ],
)
def test_damaged_sets(root, file, text, message):
    from sppfast.sppnet import load_voc

    (root / file).write_text(text)
    with pytest.raises(ValueError) as error:
        load_voc(root, "test")
    assert message in str(error.value)


def test_missing_files(root):
    from sppfast.sppnet import load_voc

    with pytest.raises(FileNotFoundError, match=r"val\.txt"):
        load_voc(root, "val")
    (root / "JPEGImages" / "test0000.jpg").write_bytes(b"")
    (root / "JPEGImages" / "test0001.jpg").write_bytes(b"no image")
    (root / "JPEGImages" / "test0002.jpg").unlink()
    voc = load_voc(root, "test")
    for i in range(2):
        with pytest.raises(ValueError, match=rf"test000{i}\.jpg: not an image, or damaged"):
            voc.images[i]
    with pytest.raises(FileNotFoundError, match=r"test0002\.jpg"):
        voc.images[2]


@pytest.mark.skipif(not BENCHMARK.exists(), reason="the benchmarks are not there")
def test_the_experiment_runs(root, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("sklearn")
    from sppfast.sppnet import SPPDetector, digits

    out = root.parent / "detector.npz"
    command = [str(BENCHMARK), str(root), "--body", str(digits.BODY), "--scales", "480", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(BENCHMARK), run_name="__main__")
    assert stopped.value.code == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == ["green", "red", "mAP"]
    assert float(lines[-1][1].rstrip("%")) > 30
    assert SPPDetector.load(out).classes_.tolist() == ["green", "red"]
