"""What an image may be, and images at other sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]  # (H, W, 3)

KINDS = {(): " (grey)", (1,): " (grey)", (4,): " (RGBA)"}  # by the channels, of images that are not RGB


def check_image(image: Any, name: str = "image") -> Image:
    """Check that an image is ``(H, W, 3)`` uint8, with pixels."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"{name}: expected a numpy array, got {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3:
        kind = KINDS.get(image.shape[2:], "")
        raise ValueError(f"{name}: expected an RGB image of shape (H, W, 3), got {image.shape}{kind}")
    if image.dtype != np.uint8:
        raise TypeError(f"{name}: expected dtype uint8, got {image.dtype}")
    if not image.size:
        raise ValueError(f"{name}: shape {image.shape} has no pixels")
    return image


def resize(image: Image, height: int, width: int) -> Image:
    """Resize an image: means of pixels where it shrinks, linear in between where it grows."""
    if image.shape[:2] == (height, width):
        return image
    import cv2

    shrinks = height * width < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Image = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=interpolation)
    return resized


def resize_to(image: Image, scale: int | None) -> Image:
    """Resize an image so that its shorter side has `scale` pixels; None: leave it as it is."""
    if scale is None:
        return image
    height, width = image.shape[:2]
    factor = scale / min(height, width)
    return resize(image, max(1, round(height * factor)), max(1, round(width * factor)))


def read_image(path: Path) -> Image:
    """Read an image file as RGB, upright; grey ones become RGB too, and transparency is dropped."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    if pixels is None:
        raise ValueError(f"{path}: not an image, or damaged")
    return np.ascontiguousarray(pixels[..., ::-1])
