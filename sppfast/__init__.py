"""Spatial pyramid and region-of-interest pooling on plain arrays."""

from .geometry import ConvGeometry
from .pooling import pool, roi_pool
from .pyramid import Pyramid
from .versions import show_versions, versions

__all__ = ["ConvGeometry", "Pyramid", "pool", "roi_pool", "show_versions", "versions"]
__version__ = "0.1.0.dev0"
