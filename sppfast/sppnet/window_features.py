"""Features of windows of an image, from maps that are computed once for each scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry import ConvGeometry
from ..pooling import roi_pool
from ..pyramid import Levels, as_pyramid
from .backbone import Backbone, feature_map
from .boxes import Boxes
from .images import Image, resize_to


@dataclass(frozen=True, eq=False, slots=True)
class ScaledMaps:
    """Maps of an image at several scales.

    Attributes
    ----------
    maps : list of ndarray, shape (C, hi, wi)
        One for each scale.
    factors : ndarray of float64, shape (S, 2)
        How many times as wide and as high as the image the resized one is.
    """

    maps: list[NDArray[Any]]
    factors: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WindowFeatures:
    """How windows become vectors: the maps of the image, the scale of each window, its pyramid.

    Attributes
    ----------
    backbone, geometry
        From an image to its map, and where the map's cells lie.
    levels : Levels
        The pyramid.
    scales : sequence of int
        Pixels of the shorter side of the image.
    window_size : float
        Each window is pooled at the scale where its area is nearest to that of a square of this side.
    """

    backbone: Backbone
    geometry: ConvGeometry
    levels: Levels
    scales: Sequence[int]
    window_size: float

    def maps(self, image: Image) -> ScaledMaps:
        """Compute the maps of an image, once for each scale."""
        resized = [resize_to(image, scale) for scale in self.scales]
        factors = [(r.shape[1] / image.shape[1], r.shape[0] / image.shape[0]) for r in resized]
        return ScaledMaps([feature_map(self.backbone, self.geometry, r) for r in resized], np.array(factors))

    def scale_of(self, boxes: Boxes, factors: NDArray[np.float64]) -> NDArray[np.int64]:
        """Choose the scale of each window: ``(R,)`` indices, of the first one where several are as near."""
        sides = boxes[:, None, 2:] - boxes[:, None, :2]
        areas = (sides * factors).prod(axis=2)
        return np.asarray(np.abs(areas - self.window_size**2).argmin(axis=1))

    def pool(self, scaled: ScaledMaps, boxes: Boxes, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Pool windows out of the maps: ``(R, F)``, in the order of `boxes`.

        `out` is a buffer of so many rows or more, to be used again.
        """
        if out is not None:
            out = out[: len(boxes)]
        index = self.scale_of(boxes, scaled.factors)
        rois = boxes * np.tile(scaled.factors[index], 2)
        rois[:, 2:] = np.maximum(rois[:, 2:] - 1, rois[:, :2])  # to inclusive corners
        return np.asarray(roi_pool(scaled.maps, rois, self.levels, geometry=self.geometry, batch_index=index, out=out))

    def buffer(self, scaled: ScaledMaps, rows: int) -> NDArray[Any]:
        """Allocate an `out` for `pool`."""
        x = scaled.maps[0]
        return np.empty((rows, as_pyramid(self.levels).output_length(len(x))), x.dtype)
