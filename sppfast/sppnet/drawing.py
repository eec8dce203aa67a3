"""Pictures of what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..files import replacing
from .boxes import Boxes
from .images import Image

DPI = 100
LONGER_SIDE = 800  # pixels: smaller images are enlarged, so that the letters fit


def draw_detections(
    image: Image, boxes: Boxes, scores: NDArray[np.float64], labels: NDArray[Any], classes: NDArray[Any], path: Path
) -> None:
    """Draw boxes with their classes and scores over an image.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    boxes : ndarray, shape (D, 4)
        ``x0, y0, x1, y1`` in continuous coordinates.
    scores : ndarray, shape (D,)
    labels : ndarray, shape (D,)
        The class of each box.
    classes : ndarray, shape (K,)
        All classes, sorted: each has its colour.
    path : Path
        The picture, a PNG. It appears only when it is complete.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    enlarged = max(1.0, LONGER_SIDE / max(height, width))
    figure = Figure(figsize=(width * enlarged / DPI, height * enlarged / DPI), dpi=DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    axes.imshow(image, extent=(0, width, height, 0))
    palette = colormaps["tab10"]
    for (x0, y0, x1, y1), score, label in zip(boxes[::-1], scores[::-1], labels[::-1], strict=True):  # the best on top
        colour = palette(int(np.searchsorted(classes, label)) % palette.N)
        for line, ink in ((5, "white"), (2.5, colour)):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, linewidth=line, edgecolor=ink))
        text = axes.text(
            x0, max(y0, 14 / enlarged), f" {label}  {score:.2f} ", color="white", fontsize=10, weight="bold"
        )
        text.set(va="bottom", bbox={"facecolor": colour, "edgecolor": "white", "pad": 1.5}, clip_on=True)
    axes.set(xlim=(0, width), ylim=(height, 0))
    with replacing(path) as part:
        figure.savefig(part, format="png")
