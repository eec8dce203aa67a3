"""The SPP-net system: classification and detection at any image size, on features that are computed once."""

from .backbone import OnnxBackbone
from .bodies import random_body
from .boxes import decode_boxes, encode_boxes, iou, nms
from .evaluation import average_precision, mean_average_precision
from .onnx_geometry import onnx_geometry
from .proposals import selective_search

__all__ = [
    "OnnxBackbone",
    "average_precision",
    "decode_boxes",
    "encode_boxes",
    "iou",
    "mean_average_precision",
    "nms",
    "onnx_geometry",
    "random_body",
    "selective_search",
]
