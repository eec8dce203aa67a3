"""The SPP-net system: classification and detection at any image size, on features that are computed once."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..extras import require
from .backbone import OnnxBackbone
from .bodies import random_body
from .boxes import decode_boxes, encode_boxes, iou, nms
from .evaluation import average_precision, mean_average_precision
from .onnx_geometry import onnx_geometry
from .proposals import selective_search
from .voc import load_voc

if TYPE_CHECKING:
    from .classifier import SpatialPyramidTransformer, SPPClassifier
    from .detector import SPPDetector

__all__ = [
    "OnnxBackbone",
    "SPPClassifier",
    "SPPDetector",
    "SpatialPyramidTransformer",
    "average_precision",
    "decode_boxes",
    "encode_boxes",
    "iou",
    "load_voc",
    "mean_average_precision",
    "nms",
    "onnx_geometry",
    "random_body",
    "selective_search",
]

_ESTIMATORS = {"SPPClassifier": "classifier", "SpatialPyramidTransformer": "classifier", "SPPDetector": "detector"}


def __getattr__(name: str) -> Any:
    """Import the estimators, and with them scikit-learn, on first use."""
    if name not in _ESTIMATORS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require(name, "sppnet", "sklearn")
    return getattr(import_module(f".{_ESTIMATORS[name]}", __name__), name)
