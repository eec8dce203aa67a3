"""Spatial pyramid and region-of-interest pooling on plain arrays."""

from .geometry import ConvGeometry
from .gradients import pool_backward, roi_align_backward, roi_pool_backward
from .pooling import pool, roi_align, roi_pool
from .pyramid import Pyramid
from .versions import show_versions, versions

__all__ = [
    "ConvGeometry",
    "Pyramid",
    "pool",
    "pool_backward",
    "roi_align",
    "roi_align_backward",
    "roi_pool",
    "roi_pool_backward",
    "show_versions",
    "versions",
]
__version__ = "0.1.0"
