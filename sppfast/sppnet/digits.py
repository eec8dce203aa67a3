"""Handwritten digits on photographs: a detection problem that comes with scikit-learn and scikit-image.

The digits of the two splits are by different writers, the photographs are different ones.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..demo import load_photographs
from .backbone import OnnxBackbone
from .boxes import Boxes, iou
from .images import Image, resize

Floats: TypeAlias = NDArray[np.float32]
Scenes: TypeAlias = tuple[list[Image], list[Boxes], list[NDArray[np.int64]]]

BODY = Path(__file__).parent / "models" / "digits.onnx"  # made by docs/examples/train_digits.py
PHOTOGRAPHS = {
    "train": ("astronaut", "flower", "hubble", "motorcycle", "retina", "rocket"),
    "test": ("chelsea", "china", "coffee"),
}
SIDES = (24.0, 90.0)  # of the digits in the scenes, in pixels
PICTURE_SIDES = (24, 96)  # of the heights of the pictures
HEIGHT, WIDTH = 240, 320  # of the scenes
DETECTOR: dict[str, Any] = {
    "scales": (120, 240, 480),
    "window_size": 48,
}  # the paper's rule, for digits instead of 224 x 224


def digits_backbone() -> OnnxBackbone:
    """Load the small convolutional body that comes with the package, of stride 4."""
    return OnnxBackbone(BODY)


@cache
def load_digits(split: str) -> tuple[Floats, NDArray[np.int64]]:
    """Load scikit-learn's digits, ``(N, 8, 8)`` from 0 to 1, and which ones they are: ``"train"`` or ``"test"``."""
    from sklearn import datasets

    digits = datasets.load_digits()
    half = len(digits.target) // 2
    part = slice(half) if split == "train" else slice(half, None)
    return (digits.images[part] / 16).astype(np.float32), digits.target[part].astype(np.int64)


@cache
def load_backgrounds(split: str) -> list[Image]:
    """Load the photographs of a split, their shorter side 360 pixels."""
    photographs = load_photographs()
    backgrounds = []
    for name in PHOTOGRAPHS[split]:
        height, width = photographs[name].shape[:2]
        factor = 360 / min(height, width)
        backgrounds.append(resize(photographs[name], round(height * factor), round(width * factor)))
    return backgrounds


def crop(rng: np.random.Generator, photograph: Image, height: int, width: int) -> Image:
    """Cut a random piece out of a photograph, mirrored or not, and resize it."""
    part = rng.uniform(0.6, 1) * min(photograph.shape[0] / height, photograph.shape[1] / width)
    sides = np.array([height * part, width * part]).astype(int)
    y, x = (rng.random(2) * (np.array(photograph.shape[:2]) - sides)).astype(int)
    piece = photograph[y : y + sides[0], x : x + sides[1]][:, :: rng.choice([-1, 1])]
    return resize(piece, height, width).copy()


def shape_of(digit: Floats, height: int, width: int, slant: float, threshold: float) -> Floats:
    """Draw a digit at any size, cut to its strokes: how opaque each pixel is, ``(height, width)``.

    `slant` leans it over, by pixels for each pixel of height; a lower `threshold` makes the strokes thicker.
    """
    import cv2

    padded = np.pad(digit, 1)
    side = 12 * len(padded)
    large = cv2.resize(padded, (side, side), interpolation=cv2.INTER_CUBIC)
    lean = np.array([[1, slant, side * (1 - slant) / 2], [0, 1, side / 2]])
    large = cv2.warpAffine(large, lean, (2 * side, 2 * side))
    rows, columns = (np.flatnonzero((large > threshold + 0.08).any(axis=axis)) for axis in (1, 0))
    strokes = large[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    drawn = cv2.resize(strokes, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip((drawn - threshold) / 0.15, 0, 1))


def paint(rng: np.random.Generator, image: Image, digit: Floats, box: Boxes, *, vary: bool = False) -> None:
    """Paint a digit into a box of whole pixels of an image, in a colour that stands out from what is there.

    `vary` says whether to lean it over and to thicken or thin it at random: a few writers stand for many.
    """
    x0, y0, x1, y1 = box.astype(int)
    place = image[y0:y1, x0:x1]
    ground = place.mean(axis=(0, 1))
    colours = rng.integers(0, 256, (8, 3))
    colour = colours[np.abs(colours - ground).sum(axis=1).argmax()]
    slant, threshold = (rng.uniform(-0.3, 0.3), rng.uniform(0.32, 0.5)) if vary else (0.0, 0.42)
    opacity = shape_of(digit, y1 - y0, x1 - x0, slant, threshold)[..., None]
    place[...] = np.rint(place * (1 - opacity) + colour * opacity)


def width_of(rng: np.random.Generator, digit: Floats) -> float:
    """Give a digit about the width that its writer gave it, as a part of its height."""
    rows, columns = (np.count_nonzero((digit > 0.5).any(axis=axis)) for axis in (1, 0))
    return float(np.clip(columns / rows * rng.uniform(0.85, 1.15), 0.3, 1.2))


def random_box(rng: np.random.Generator, image: Image, digit: Floats, sides: tuple[float, float]) -> Boxes:
    """Draw a box of whole pixels for a digit: its height evenly in the logarithm, its place evenly in the image."""
    height = np.exp(rng.uniform(*np.log(sides)))
    size = np.rint([height * width_of(rng, digit), height])
    corner = np.rint(rng.random(2) * (np.array(image.shape[1::-1]) - size))
    return np.concatenate([corner, corner + size])


def make_scene(
    rng: np.random.Generator, split: str, background: Image, count: int, sides: tuple[float, float] = SIDES
) -> tuple[Image, Boxes, NDArray[np.int64]]:
    """Paint `count` digits or, where there is no room, fewer into a copy of an image; none overlap."""
    images, targets = load_digits(split)
    image, boxes, labels = background.copy(), np.empty((0, 4)), []
    for _ in range(20 * count):
        if len(boxes) == count:
            break
        i = rng.integers(len(targets))
        box = random_box(rng, image, images[i], sides)
        if iou(boxes, box[None]).any():
            continue
        paint(rng, image, images[i], box, vary=split == "train")
        boxes = np.concatenate([boxes, box[None]])
        labels.append(targets[i])
    return image, boxes, np.array(labels, np.int64)


def make_scenes(split: str, count: int, seed: int = 0) -> Scenes:
    """Make photographs with three to eight digits each.

    Parameters
    ----------
    split : {"train", "test"}
        Which digits and photographs.
    count : int
        How many.
    seed : int
        The same seed, the same scenes.

    Returns
    -------
    images : list of ndarray of uint8, shape (240, 320, 3)
    boxes : list of ndarray of float64, shape (Ti, 4)
    labels : list of ndarray of int64, shape (Ti,)
    """
    rng = np.random.default_rng([seed, split == "test"])
    backgrounds = load_backgrounds(split)
    scenes = []
    for i in range(count):
        background = crop(rng, backgrounds[i % len(backgrounds)], HEIGHT, WIDTH)
        scenes.append(make_scene(rng, split, background, int(rng.integers(3, 9))))
    images, boxes, labels = (list(column) for column in zip(*scenes, strict=True))
    return images, boxes, labels


def make_pictures(
    split: str, count: int, sides: tuple[int, int] = PICTURE_SIDES, seed: int = 0
) -> tuple[list[Image], NDArray[np.int64]]:
    """Make pictures of one digit each, of mixed sizes, on pieces of photographs: a classification problem.

    Parameters
    ----------
    split : {"train", "test"}
        Which digits and photographs.
    count : int
        How many.
    sides : (int, int)
        Least and largest height of a picture, in pixels.
    seed : int
        The same seed, the same pictures.

    Returns
    -------
    images : list of ndarray of uint8, shape (Hi, Wi, 3)
    labels : ndarray of int64, shape (N,)
    """
    rng = np.random.default_rng([seed, split == "test"])
    digits, targets = load_digits(split)
    backgrounds = load_backgrounds(split)
    chosen = rng.permutation(np.arange(count) % len(targets))
    images = []
    for i in chosen:
        height = round(np.exp(rng.uniform(*np.log(sides))))
        width = max(round(height * width_of(rng, digits[i])), sides[0])
        image = crop(rng, backgrounds[rng.integers(len(backgrounds))], height, width)
        margin = np.rint(rng.uniform(0.05, 0.2, 4) * [width, height, width, height])
        paint(rng, image, digits[i], np.array([0, 0, width, height]) + margin * [1, 1, -1, -1], vary=split == "train")
        images.append(image)
    return images, targets[chosen]
