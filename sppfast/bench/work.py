"""The work that is timed: calls of sppfast and of each peer that compute the same, and the memory traffic of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sppfast

from . import peers
from .devices import Device
from .timing import Call

STRIDE = 16
MAP = (38, 63)  # of an image of 608 x 1008
CHANNELS = 256
LARGE_MAP = (200, 304)
Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """Calls that compute the same.

    Attributes
    ----------
    ours : callable
        Takes ``out=``. Its result, or a peer's, may be a list of parts.
    out : array
        A result, for ``out=``.
    peers : mapping of str to callable
        Builds each peer's call.
    bound : callable
        Does the memory traffic that nobody can avoid, such as to read the map once, or to write the result.
    tolerance : float
        Absolute, of a peer's values.
    """

    ours: Callable[..., Any]
    out: Any
    peers: Mapping[str, Callable[[], Call]]
    bound: Call
    tolerance: float = 0.0


@dataclass(frozen=True)
class Row:
    """A line of the table: `brief` if it is in the short one."""

    name: str
    build: Callable[[Device], Case]
    brief: bool = False


def pool_case(shape: Sizes, levels: Sizes, device: Device) -> Case:
    """Pool whole maps."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    out = device.put(np.empty((shape[0], sppfast.Pyramid(levels).output_length(shape[1])), np.float32))
    given = device.put(x)
    whole = all(side % n == 0 for side in shape[2:] for n in levels)
    of_equal_bins = {"onnxruntime": peers.onnxruntime_pool, "cv2": peers.cv2_pool} if whole else {}
    found = {"torch": peers.torch_pool, "openvino": peers.openvino_pool, **of_equal_bins}
    return Case(
        partial(sppfast.pool, given, levels, workers=device.threads),
        out,
        {name: partial(build, x, levels, device) for name, build in found.items()},
        device.read(given),
    )


def roi_case(count: int, levels: Sizes, device: Device, size: tuple[int, int] = MAP, channels: int = CHANNELS) -> Case:
    """Pool windows as Fast R-CNN does."""
    x, rois = maps_and_rois(count, size, channels=channels)
    out = device.put(np.empty((count, sppfast.Pyramid(levels).output_length(x.shape[1])), np.float32))
    options: dict[str, Any] = {"geometry": STRIDE, "rounding": "fast_rcnn", "workers": device.threads}
    found = {
        "torchvision": peers.torchvision_roi_pool,
        "openvino": peers.openvino_roi_pool,
        "onnxruntime": peers.onnxruntime_roi_pool,
    }
    return Case(
        partial(sppfast.roi_pool, device.put(x), device.put(rois), levels, **options),
        out,
        {name: partial(build, x, rois, levels, STRIDE, device) for name, build in found.items()},
        device.fill(out),
    )


def sse_case(count: int, levels: Sizes, device: Device) -> Case:
    """Pool windows of cells in one thread, the map's channels side by side."""
    x, rois = maps_and_rois(count)
    x = np.ascontiguousarray(np.moveaxis(x[0], 0, -1))
    cells = sppfast.ConvGeometry(STRIDE).cells(rois[:, 1:], *MAP)
    out = device.put(np.empty((count, sppfast.Pyramid(levels).output_length(x.shape[2])), np.float32))
    options: dict[str, Any] = {"rounding": "cells", "layout": "NHWC", "workers": 1}
    return Case(
        partial(sppfast.roi_pool, device.put(x), device.put(cells), levels, **options),
        out,
        {"C": partial(peers.c_roi_pool, x, cells, levels)},
        partial(out.fill, 1),
    )


def align_case(count: int, size: tuple[int, int], stride: int, device: Device) -> Case:
    """RoI align."""
    return _align([(*maps_and_rois(count, size, stride), stride)], device)


def pyramid_case(count: int, size: tuple[int, int], channels: int, device: Device) -> Case:
    """RoI align from a feature pyramid, its finest map of stride 4: each window from the map that suits its size.

    It is number k for windows of about 224 / 16 * 2**k pixels, of stride 2**k (Lin et al. 2017, section 4.2).
    """
    rois = maps_and_rois(count, size, 4, channels=1)[1]
    sides = (rois[:, 3:] - rois[:, 1:3]).prod(axis=1) ** 0.5
    number = np.floor(4 + np.log2(sides / 224)).clip(2, 5)
    maps = (maps_and_rois(1, (size[0] >> i, size[1] >> i), channels=channels)[0] for i in range(4))
    return _align([(x, rois[number == i], 2**i) for i, x in enumerate(maps, 2)], device)


def _align(parts: Sequence[tuple[NDArray[Any], NDArray[Any], int]], device: Device) -> Case:
    """RoI align of maps, each with its windows and its stride: their rows lie one behind the other."""
    given = [(device.put(x), device.put(rois), stride) for x, rois, stride in parts]
    stops = list(accumulate(len(rois) for _, rois, _ in parts))
    out = device.put(np.empty((stops[-1], parts[0][0].shape[1] * 49), np.float32))
    options: dict[str, Any] = {"sampling_ratio": 2, "workers": device.threads}

    def ours(out: Any = None) -> list[Any]:
        rows = [None if out is None else out[start:stop] for start, stop in pairwise([0, *stops])]
        return [
            sppfast.roi_align(x, rois, 7, geometry=stride, out=row, **options)
            for (x, rois, stride), row in zip(given, rows, strict=True)
        ]

    found = {
        "torchvision": peers.torchvision_roi_align,
        "openvino": peers.openvino_roi_align,
        "onnxruntime": peers.onnxruntime_roi_align,
        "cv2": peers.cv2_roi_align,
    }
    calls = {name: partial(peers.in_parts, build, parts, device) for name, build in found.items()}
    return Case(ours, out, calls, device.fill(out), tolerance=1e-5)


def pool_backward_case(shape: Sizes, levels: Sizes, mode: str, device: Device) -> Case:
    """Gradients of whole maps."""
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    grad = np.random.default_rng(1).standard_normal(sppfast.pool(x, levels).shape, dtype=np.float32)
    given = device.put(x)
    places = {"indices": sppfast.pool(given, levels, return_indices=True)[1]} if mode == "max" else {}
    call = partial(sppfast.pool_backward, device.put(grad), given, levels, mode=mode, **places)
    found = {"torch": partial(peers.torch_pool_backward, x, grad, levels, mode, device)}
    return _backward(call, x, found, [grad, *places.values()], device)


def roi_backward_case(count: int, device: Device) -> Case:
    """Gradients of windows."""
    x, rois = maps_and_rois(count)
    options: dict[str, Any] = {"geometry": STRIDE, "rounding": "fast_rcnn"}
    y, indices = sppfast.roi_pool(x, rois, 7, return_indices=True, **options)
    grad = np.random.default_rng(1).standard_normal(y.shape, dtype=np.float32)
    arrays = {"grad": grad, "x": x, "rois": rois, "indices": indices}
    given = {name: device.put(array) for name, array in arrays.items()}
    call = partial(sppfast.roi_pool_backward, levels=7, **given, **options)
    found = {
        "torchvision": partial(peers.torchvision_roi_pool_backward, x, rois, grad, STRIDE, device),
        "C": partial(peers.c_roi_pool_backward, x, rois, grad, indices),
    }
    return _backward(call, x, found, [grad, indices], device)


def align_backward_case(count: int, device: Device) -> Case:
    """Gradients of RoI align."""
    x, rois = maps_and_rois(count)
    grad = np.random.default_rng(1).standard_normal((count, x.shape[1] * 49), dtype=np.float32)
    given = {name: device.put(array) for name, array in (("grad", grad), ("x", x), ("rois", rois))}
    call = partial(sppfast.roi_align_backward, levels=7, geometry=STRIDE, **given)
    found = {
        "torchvision": partial(peers.torchvision_roi_align_backward, x, rois, grad, STRIDE, device),
        "C": partial(peers.c_roi_align_backward, x, rois, grad, STRIDE),
    }
    return _backward(call, x, found, [grad], device)


def _backward(
    call: Callable[..., Any],
    x: NDArray[Any],
    found: Mapping[str, Callable[[], Call]],
    read: Sequence[Any],
    device: Device,
) -> Case:
    """Gradients: the bound is to read the result's, and where they go, and to write the map's."""
    out = device.put(np.empty_like(x))
    traffic = [*(device.read(device.put(array)) for array in read), device.fill(out)]
    tolerance = 1e-4  # sums in another order
    return Case(partial(call, workers=device.threads), out, found, lambda: [each() for each in traffic], tolerance)


def maps_and_rois(
    count: int, size: tuple[int, int] = MAP, stride: int = STRIDE, channels: int = CHANNELS
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw a map ``(1, channels, *size)``, and windows in its image.

    A window is a row 0, x0, y0, x1, y1; its sides are from 32 pixels to the image's, evenly in the logarithm.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, channels, *size), dtype=np.float32)
    image = stride * np.array([size[1], size[0]])
    sides = np.exp(rng.uniform(np.log(np.minimum(32, image)), np.log(image), (count, 2)))
    corners = rng.uniform(size=(count, 2)) * (image - sides)
    return x, np.hstack([np.zeros((count, 1)), corners, corners + sides - 1]).astype(np.float32)


def _pool_row(shape: Sizes, levels: Sizes, brief: bool = False) -> Row:
    return Row(f"pool {_join(shape, 'x')}, levels {_join(levels, ',')}", partial(pool_case, shape, levels), brief)


def _gradient_row(shape: Sizes, levels: Sizes, mode: str, brief: bool = False) -> Row:
    name = f"gradient, {mode}, {_join(shape, 'x')}, {_join(levels, ',')}"
    return Row(name, partial(pool_backward_case, shape, levels, mode), brief)


def _join(numbers: Sizes, separator: str) -> str:
    return separator.join(map(str, numbers))


ROWS = (
    _pool_row((64, 256, 13, 13), (4, 2, 1), brief=True),
    _pool_row((8, 256, *MAP), (6, 3, 2, 1), brief=True),
    _pool_row((8, 256, *MAP), (4, 2, 1)),
    _pool_row((1, 512, 64, 64), (6, 3, 2, 1)),
    _pool_row((1, 512, 64, 64), (4, 2, 1), brief=True),
    _pool_row((1, 64, 512, 512), (4, 2, 1), brief=True),
    _pool_row((1, 8, 13, 13), (4, 2, 1), brief=True),
    Row("RoI 7x7, 10 windows, map 16x13x13", partial(roi_case, 10, (7,), size=(13, 13), channels=16)),
    Row("RoI 7x7, 300 windows", partial(roi_case, 300, (7,)), brief=True),
    Row("RoI 7x7, 2000 windows", partial(roi_case, 2000, (7,)), brief=True),
    Row("RoI 6x6, 2000 windows", partial(roi_case, 2000, (6,))),
    Row("RoI levels 6,3,2,1, 2000 windows", partial(roi_case, 2000, (6, 3, 2, 1)), brief=True),
    Row("the same, 1 thread, map NHWC", partial(sse_case, 2000, (6, 3, 2, 1))),
    Row("RoI 7x7, map 256x200x304", partial(roi_case, 2000, (7,), size=LARGE_MAP)),
    Row("RoI align 7x7, 2000 windows", partial(align_case, 2000, MAP, STRIDE), brief=True),
    Row("RoI align, map 256x200x304", partial(align_case, 2000, LARGE_MAP, 4)),
    Row("RoI align, feature pyramid, 1000 windows", partial(pyramid_case, 1000, LARGE_MAP, CHANNELS)),
    _gradient_row((64, 256, 13, 13), (4, 2, 1), "max"),
    _gradient_row((64, 256, 13, 13), (4, 2, 1), "avg"),
    _gradient_row((8, 256, *MAP), (6, 3, 2, 1), "max", brief=True),
    _gradient_row((8, 256, *MAP), (6, 3, 2, 1), "avg"),
    Row("gradient of RoI 7x7, 2000 windows", partial(roi_backward_case, 2000)),
    Row("gradient of RoI align, 2000 windows", partial(align_backward_case, 2000)),
)
