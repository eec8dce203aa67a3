"""Detectors as files: NumPy arrays and JSON in one .npz, nothing that is run as code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..files import replacing
from ..geometry import ConvGeometry, as_geometry
from .backbone import Backbone, OnnxBackbone
from .images import Image
from .training import Linear

if TYPE_CHECKING:
    from .detector import SPPDetector

FORMAT, VERSION = "sppfast.SPPDetector", 1


def save(detector: SPPDetector, path: Path) -> None:
    """Write a detector, see `SPPDetector.save`."""
    parameters = detector.get_params(deep=False)
    backbone, proposals, geometry = (parameters.pop(name) for name in ("backbone", "proposals", "geometry"))
    header = {
        "format": FORMAT,
        "version": VERSION,
        "parameters": parameters,
        "geometry": None if geometry is None else astuple(as_geometry(geometry)),
        "default_proposals": proposals is None,
        "onnx": isinstance(backbone, OnnxBackbone),
    }
    arrays = {
        "header": np.frombuffer(json.dumps(header, default=np.ndarray.tolist).encode(), np.uint8),
        "classes": detector.classes_,
        "svm_weights": detector.svms_.weights,
        "svm_bias": detector.svms_.bias,
        "regression_weights": detector.regression_.weights,
        "regression_bias": detector.regression_.bias,
    }
    if isinstance(backbone, OnnxBackbone):
        arrays |= {"onnx": np.frombuffer(backbone.model, np.uint8), "mean": backbone.mean, "std": backbone.std}
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(
    cls: type[SPPDetector],
    path: Path,
    backbone: Backbone | None,
    proposals: Callable[[Image], ArrayLike] | None,
) -> SPPDetector:
    """Read a detector, see `SPPDetector.load`."""
    try:
        arrays = _read(path)
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise KeyError
        version = header["version"]
    except (MemoryError, OSError):
        raise
    except Exception:  # of a damaged file: whatever the readers of archives, of headers and of JSON raise
        raise ValueError(f"{path}: not a file that SPPDetector.save wrote, or damaged") from None
    if version != VERSION:
        raise ValueError(f"{path}: is of format version {version}, expected {VERSION}")
    if backbone is None and not header["onnx"]:
        raise ValueError(f"{path}: the backbone is not in the file, expected backbone=")
    if proposals is None and not header["default_proposals"]:
        raise ValueError(f"{path}: the proposals are not in the file, expected proposals=")
    try:
        return _build(cls, header, arrays, backbone, proposals)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    """Read all arrays of a .npz, which checks their sums."""
    with open(path, "rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        return dict(archive)


def _build(
    cls: type[SPPDetector],
    header: dict[str, Any],
    arrays: dict[str, Any],
    backbone: Backbone | None,
    proposals: Callable[[Image], ArrayLike] | None,
) -> SPPDetector:
    """Put a detector together, and check that its parts fit."""
    if backbone is None:
        backbone = OnnxBackbone(arrays["onnx"].tobytes(), mean=arrays["mean"], std=arrays["std"])
    geometry = None
    if header["geometry"] is not None:
        stride, offset, receptive_field, layers = header["geometry"]
        geometry = ConvGeometry(stride, offset, receptive_field, tuple(map(tuple, layers)))
    parameters = header["parameters"]
    if isinstance(parameters["levels"], list):  # JSON has no pairs
        parameters["levels"] = [tuple(n) if isinstance(n, list) else n for n in parameters["levels"]]
    detector = cls(backbone, proposals=proposals, geometry=geometry, **parameters)
    detector.window_features()
    detector.classes_ = arrays["classes"]
    detector.svms_ = Linear(arrays["svm_weights"], arrays["svm_bias"])
    detector.regression_ = Linear(arrays["regression_weights"], arrays["regression_bias"])
    count, length = detector.svms_.weights.shape
    shapes = {"classes": (count,), "svm_bias": (count,), "regression_bias": (count, 4)}
    for name, shape in (shapes | {"regression_weights": (count, 4, length)}).items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, expected {shape}")
    return detector
