"""What the suites share."""

import time
from collections.abc import Callable

import numpy as np

STRIDE = 16
CHANNELS = 256
LEVELS = (6, 3, 2, 1)
MAP = (38, 63)  # of an image of 608 x 1008 pixels


def make_maps(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Draw maps; whole numbers from -100 to 100 are in the range of every dtype that has a sign."""
    values = np.random.default_rng(0).integers(-100, 101, shape)
    return (values + 100 if np.dtype(dtype).kind == "u" else values).astype(dtype)


def make_rois(count: int, size: tuple[int, int], stride: int = STRIDE) -> np.ndarray:
    """Draw windows of the first map; sides from 32 pixels to the image's, evenly in the logarithm."""
    rng = np.random.default_rng(1)
    image = stride * np.array([size[1], size[0]])
    sides = np.exp(rng.uniform(np.log(32), np.log(image), (count, 2)))
    corners = rng.uniform(size=(count, 2)) * (image - sides)
    return np.hstack([np.zeros((count, 1)), corners, corners + sides - 1])


def rate(call: Callable, amount: float, seconds: float = 0.3) -> float:
    """Compute `amount` per second at the best of calls in a row."""
    call()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return amount / best
