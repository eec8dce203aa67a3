"""The end of the demo: a detector learns to find handwritten digits, and a picture shows what it finds."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ..demo import load_photographs
from ..files import replacing
from . import digits
from .detector import SPPDetector
from .drawing import draw_detections
from .images import Image

SCENES, TESTS = 90, 12
PHOTOGRAPH = "coffee"  # of those that were not learnt from
DIGITS, SIDES = 9, (45.0, 130.0)  # painted on it, in pixels
SEED = 1


def run(folder: Path) -> None:
    """Learn from photographs with digits, test on others, and draw what is found in one of them.

    Parameters
    ----------
    folder : Path
        Where the detector ``digits.npz``, the photograph ``photograph.png`` and the picture ``detection.png`` go.
    """
    print(
        f"\nlearning to find handwritten digits on {SCENES} photographs, {digits.HEIGHT} x {digits.WIDTH} ...",
        flush=True,
    )
    start = time.perf_counter()
    detector = SPPDetector(digits.digits_backbone(), **digits.DETECTOR).fit(*digits.make_scenes("train", SCENES))
    print(f"  {time.perf_counter() - start:.0f} s")
    precision = detector.score(*digits.make_scenes("test", TESTS))
    print(f"on {TESTS} others, with digits by other writers: mean average precision {precision:.2f}")

    folder.mkdir(parents=True, exist_ok=True)
    model, source, picture = (folder / name for name in ("digits.npz", "photograph.png", "detection.png"))
    detector.save(model)
    photograph = make_photograph()
    write_png(photograph, source)
    start = time.perf_counter()
    boxes, scores, labels = detector.predict(photograph)
    height, width = photograph.shape[:2]
    print(f"one photograph of {height} x {width}, proposals included: {time.perf_counter() - start:.1f} s")
    sure = scores > 0
    draw_detections(photograph, boxes[sure], scores[sure], labels[sure], detector.classes_, picture)
    print(f"what was found in it: {picture}")
    print(f"the same again: sppfast detect {source} --model {model} --out {folder / 'found'}")


def make_photograph() -> Image:
    """Paint digits of different sizes over a photograph."""
    background = load_photographs()[PHOTOGRAPH]
    image, _, _ = digits.make_scene(np.random.default_rng(SEED), "test", background, DIGITS, SIDES)
    return image


def write_png(image: Image, path: Path) -> None:
    """Write an image as a PNG."""
    import cv2

    with replacing(path) as part:
        part.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
