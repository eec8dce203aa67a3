"""Candidate windows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..pyramid import one_of
from .boxes import Boxes
from .images import Image, check_image

MODES = ("fast", "quality")


def selective_search(
    image: Image, *, mode: str = "fast", max_windows: int | None = 2000, min_side: int = 8, seed: int = 0
) -> Boxes:
    """Propose windows by OpenCV's selective search, about 2000 in a photograph.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
        RGB.
    mode : {"fast", "quality"}
        As in the paper on selective search; the paper on SPP-net uses the fast one.
    max_windows : int, optional
        At most so many: larger segments come first, shuffled as there. None: all.
    min_side : int
        Windows whose width or height has fewer pixels are left out.
    seed : int
        Of the shuffling. The same image and seed give the same windows, whatever ran before.

    Returns
    -------
    ndarray of float64, shape (R, 4)
        ``x0, y0, x1, y1`` in continuous coordinates.

    Raises
    ------
    ImportError
        If OpenCV has no `ximgproc` module, which only opencv-contrib has.
    TypeError, ValueError
        If the image is not RGB, or has no pixels.

    References
    ----------
    Uijlings, van de Sande, Gevers, Smeulders: Selective Search for Object Recognition, IJCV 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from sppfast import sppnet
    >>> image = np.zeros((60, 80, 3), np.uint8)
    >>> image[20:40, 30:60] = 255
    >>> boxes = sppnet.selective_search(image)
    >>> float(sppnet.iou(boxes, [[30, 20, 60, 40]]).max())
    1.0
    """
    check_image(image)
    one_of("mode", mode, MODES)
    import cv2

    if not hasattr(cv2, "ximgproc"):
        raise ImportError('selective search needs the contrib modules of OpenCV: pip install "sppfast[sppnet]"')
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    else:
        search.switchToSelectiveSearchQuality()
    rectangles = np.unique(np.reshape(search.process(), (-1, 4)), axis=0).astype(
        np.float64
    )  # they come in random order
    rectangles = rectangles[(rectangles[:, 2:] >= min_side).all(axis=1)]
    chosen = _rank(rectangles, seed)[:max_windows]
    return np.hstack([rectangles[chosen, :2], rectangles[chosen, :2] + rectangles[chosen, 2:]])


def _rank(rectangles: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Order windows by a random number times their place by area, as the authors do with the place in the hierarchy."""
    places = np.argsort(np.argsort(-rectangles[:, 2] * rectangles[:, 3], kind="stable"))
    return np.argsort(np.random.default_rng(seed).random(len(rectangles)) * (places + 1), kind="stable")
