"""Boxes: overlap, non-maximum suppression, and the offsets that bounding-box regression learns.

Boxes are ``x0, y0, x1, y1`` in continuous coordinates, as in torchvision: one of the pixels 3 to 7 is from 3 to 8.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Boxes: TypeAlias = NDArray[np.float64]  # (B, 4)

LARGEST_GROWTH = math.log(1000 / 16)  # of a side, in `decode_boxes`: nothing overflows; torchvision's number


def iou(boxes1: ArrayLike, boxes2: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of every pair of boxes, as ``torchvision.ops.box_iou``.

    Parameters
    ----------
    boxes1 : array_like, shape (A, 4)
        ``x0, y0, x1, y1`` in continuous coordinates, ``x0 <= x1`` and ``y0 <= y1``.
    boxes2 : array_like, shape (B, 4)
        The same.

    Returns
    -------
    ndarray of float64, shape (A, B)
        From 0 to 1; 0 where a box is empty.

    Raises
    ------
    TypeError, ValueError
        If boxes are not numbers, not finite, inverted or of another shape.

    Examples
    --------
    >>> from sppfast import sppnet
    >>> sppnet.iou([[0, 0, 10, 10]], [[0, 0, 10, 5], [5, 5, 15, 15], [20, 20, 30, 30]]).round(3).tolist()
    [[0.5, 0.143, 0.0]]
    """
    result: NDArray[np.float64] = _kernels().iou(check_boxes(boxes1, "boxes1"), check_boxes(boxes2, "boxes2"))
    return result


def nms(boxes: ArrayLike, scores: ArrayLike, iou_threshold: float) -> NDArray[np.int64]:
    """Non-maximum suppression, as ``torchvision.ops.nms``.

    From the highest score down, a box is kept if it overlaps no kept one by more than `iou_threshold`.

    Parameters
    ----------
    boxes : array_like, shape (B, 4)
        ``x0, y0, x1, y1`` in continuous coordinates.
    scores : array_like, shape (B,)
        Boxes of the same score are taken in their order.
    iou_threshold : float
        From 0 to 1; the paper's is 0.3.

    Returns
    -------
    ndarray of int64
        Indices of the boxes kept, by falling score.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, TPAMI 2015,
    section 4.1.

    Examples
    --------
    >>> from sppfast import sppnet
    >>> sppnet.nms([[0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10]], [0.8, 0.9, 0.3], iou_threshold=0.3).tolist()
    [1, 2]
    """
    checked = check_boxes(boxes, "boxes")
    order = np.argsort(-check_scores(scores, len(checked)), kind="stable")
    kept: NDArray[np.bool_] = _kernels().keep(checked[order], check_share(iou_threshold, "iou_threshold"))
    return order[kept]


def encode_boxes(boxes: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Offsets from boxes to target boxes: what bounding-box regression learns.

    Parameters
    ----------
    boxes : array_like, shape (B, 4)
        ``x0, y0, x1, y1`` in continuous coordinates, not empty.
    targets : array_like, shape (B, 4)
        The box that each is to become, not empty.

    Returns
    -------
    ndarray of float64, shape (B, 4)
        Shift of the centre along x and y in widths and heights of the box, and the logarithms of the growth of width
        and height.

    Raises
    ------
    TypeError, ValueError
        If boxes are not numbers, not finite, empty or of another shape.

    See Also
    --------
    decode_boxes : the inverse.

    References
    ----------
    Girshick, Donahue, Darrell, Malik: Rich feature hierarchies for accurate object detection and semantic
    segmentation, CVPR 2014, appendix C.

    Examples
    --------
    >>> from sppfast import sppnet
    >>> sppnet.encode_boxes([[0, 0, 10, 20]], [[5, 0, 15, 40]]).round(3).tolist()
    [[0.5, 0.5, 0.0, 0.693]]
    """
    centres, sides = _centres(check_boxes(boxes, "boxes", filled=True))
    target_centres, target_sides = _centres(check_boxes(targets, "targets", filled=True))
    if centres.shape != target_centres.shape:
        raise ValueError(f"targets: expected one for each of {len(centres)} boxes, got {len(target_centres)}")
    return np.hstack([(target_centres - centres) / sides, np.log(target_sides / sides)])


def decode_boxes(boxes: ArrayLike, offsets: ArrayLike) -> Boxes:
    """Boxes moved and scaled by offsets, the inverse of `encode_boxes`.

    Parameters
    ----------
    boxes : array_like, shape (B, 4)
        ``x0, y0, x1, y1`` in continuous coordinates, not empty.
    offsets : array_like, shape (B, 4)
        As `encode_boxes` gives them; a side grows to 62.5 times its length at most.

    Returns
    -------
    ndarray of float64, shape (B, 4)

    Raises
    ------
    TypeError, ValueError
        If boxes are not numbers, not finite, empty or of another shape.

    Examples
    --------
    >>> from sppfast import sppnet
    >>> sppnet.decode_boxes([[0, 0, 10, 20]], [[0.5, 0.5, 0, 0.6931471805599453]]).round(6).tolist()
    [[5.0, 0.0, 15.0, 40.0]]
    """
    centres, sides = _centres(check_boxes(boxes, "boxes", filled=True))
    shifts = _rows_of_four(offsets, "offsets")
    if len(shifts) != len(centres):
        raise ValueError(f"offsets: expected one for each of {len(centres)} boxes, got {len(shifts)}")
    centres = centres + shifts[:, :2] * sides
    halves = sides * np.exp(np.minimum(shifts[:, 2:], LARGEST_GROWTH)) / 2
    return np.hstack([centres - halves, centres + halves])


def _centres(boxes: Boxes) -> tuple[Boxes, Boxes]:
    """Centres and sides, each (B, 2)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]


def clip_boxes(boxes: Boxes, height: int, width: int) -> Boxes:
    """Cut off what lies outside an image."""
    return np.clip(boxes, 0, [width, height, width, height])


@cache
def _kernels() -> Any:
    """Import Numba on first use."""
    from ..cpu import boxes

    return boxes


def match(
    boxes: Boxes, image: NDArray[np.int64], truth: Boxes, first: NDArray[np.int64], difficult: NDArray[np.bool_],
    threshold: float,
) -> NDArray[np.int8]:  # fmt: skip
    """Tell true positives (1), false ones (0) and those to ignore (-1), see the kernel."""
    verdict: NDArray[np.int8] = _kernels().match(boxes, image, truth, first, difficult, threshold)
    return verdict


# ---- checks


def check_boxes(boxes: ArrayLike, name: str, *, filled: bool = False) -> Boxes:
    """Take boxes, as a contiguous float64 copy (B, 4); with `filled`, none may be empty."""
    array = _rows_of_four(boxes, name)
    wrong = array[:, 2:] <= array[:, :2] if filled else array[:, 2:] < array[:, :2]
    for i, axis in np.argwhere(wrong)[:1]:
        low, high = array[i, axis], array[i, axis + 2]
        side = "xy"[axis]
        raise ValueError(f"{name}[{i}]: expected {side}0 {'<' if filled else '<='} {side}1, got {low} and {high}")
    return array


def _rows_of_four(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: dtype {array.dtype} is not supported, expected integers or floats")
    if array.shape == (0,):
        array = array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"{name}: expected shape (B, 4), got {array.shape}")
    for i in np.flatnonzero(~np.isfinite(array).all(axis=1))[:1]:
        raise ValueError(f"{name}[{i}]: {array[i].tolist()} is not finite")
    return np.array(array, np.float64, order="C")  # a copy: kernels take no read-only arrays


def check_scores(scores: ArrayLike, count: int, name: str = "scores") -> NDArray[np.float64]:
    """Take the scores of `count` boxes, none of them NaN."""
    array = np.asarray(scores, np.float64)
    if array.shape != (count,):
        raise ValueError(f"{name}: expected shape ({count},) for {count} boxes, got {array.shape}")
    for i in np.flatnonzero(np.isnan(array))[:1]:
        raise ValueError(f"{name}[{i}]: is NaN")
    return array


def check_share(value: float, name: str) -> float:
    """Take a number from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r}")
    return float(value)
