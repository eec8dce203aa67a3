"""Average precision of detections, as the PASCAL VOC challenge defines it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..pyramid import one_of
from .boxes import Boxes, check_boxes, check_scores, check_share, match

METHODS = ("area", "11-point")


def average_precision(
    boxes: Sequence[ArrayLike],
    scores: Sequence[ArrayLike],
    truth: Sequence[ArrayLike],
    *,
    difficult: Sequence[ArrayLike] | None = None,
    iou_threshold: float = 0.5,
    method: str = "area",
) -> float:
    """Average precision of the detections of one class.

    From the highest score down, over all images, a detection is true if the true box that it overlaps most, by
    `iou_threshold` at least, was not found before.

    Parameters
    ----------
    boxes : sequence of array_like, shape (Di, 4)
        For each image the boxes found: ``x0, y0, x1, y1`` in continuous coordinates.
    scores : sequence of array_like, shape (Di,)
        Their scores.
    truth : sequence of array_like, shape (Ti, 4)
        For each image the true boxes.
    difficult : sequence of array_like of bool, shape (Ti,), optional
        Which true boxes count neither when found nor when missed.
    iou_threshold : float
        Least overlap of a true detection.
    method : {"area", "11-point"}
        The area under the interpolated curve of precision over recall (VOC 2010 and later), or the mean of the
        interpolated precision at recall 0, 0.1, ..., 1 (VOC 2007, and the paper).

    Returns
    -------
    float
        From 0 to 1; NaN if there are no true boxes that count.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above; the message names it.

    References
    ----------
    Everingham et al.: The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010, section 4.2.

    Examples
    --------
    >>> from sppfast import sppnet
    >>> found, truth = [[[0, 0, 9, 10], [50, 0, 60, 10]]], [[[0, 0, 10, 10], [20, 0, 30, 10]]]
    >>> sppnet.average_precision(found, [[0.9, 0.8]], truth)  # one of two found, before anything false
    0.5
    >>> round(sppnet.average_precision(found, [[0.9, 0.8]], truth, method="11-point"), 3)  # recall 0, 0.1, ... 0.5
    0.545
    """
    one_of("method", method, METHODS)
    check_share(iou_threshold, "iou_threshold")
    for name, groups in (("boxes", boxes), ("scores", scores), ("difficult", difficult)):
        if groups is not None and len(groups) != len(truth):
            raise ValueError(f"{name}: expected one for each of {len(truth)} images, got {len(groups)}")
    if not len(truth):
        return math.nan
    found = [check_boxes(b, f"boxes[{i}]") for i, b in enumerate(boxes)]
    true = [check_boxes(b, f"truth[{i}]") for i, b in enumerate(truth)]
    score = [check_scores(s, len(b), f"scores[{i}]") for i, (s, b) in enumerate(zip(scores, found, strict=True))]
    hard = [_marks(None if difficult is None else difficult[i], len(b), i) for i, b in enumerate(true)]

    order = np.argsort(-np.concatenate(score), kind="stable")
    image = np.repeat(np.arange(len(found)), [len(b) for b in found])
    first = np.cumsum([0, *map(len, true)])
    ignored = np.concatenate(hard)
    verdict = match(np.concatenate(found)[order], image[order], np.concatenate(true), first, ignored, iou_threshold)
    return _average(verdict[verdict >= 0] == 1, int((~ignored).sum()), method)


def mean_average_precision(
    predictions: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    boxes: Sequence[ArrayLike],
    labels: Sequence[ArrayLike],
    *,
    difficult: Sequence[ArrayLike] | None = None,
    iou_threshold: float = 0.5,
    method: str = "area",
) -> tuple[float, dict[Any, float]]:
    """Average precision of each class, and their mean.

    Parameters
    ----------
    predictions : sequence of (boxes (Di, 4), scores (Di,), labels (Di,))
        For each image, what `SPPDetector.predict` gives.
    boxes : sequence of array_like, shape (Ti, 4)
        For each image the true boxes.
    labels : sequence of array_like, shape (Ti,)
        Their classes.
    difficult, iou_threshold, method
        As in `average_precision`.

    Returns
    -------
    mean : float
        Over the classes that have true boxes which count; NaN if there are none.
    classes : dict
        Each class of `labels`, to its average precision.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of the above; the message names it.

    Examples
    --------
    >>> from sppfast import sppnet
    >>> predictions = [([[0, 0, 9, 10], [20, 0, 30, 10]], [0.9, 0.8], ["cat", "dog"])]
    >>> sppnet.mean_average_precision(predictions, [[[0, 0, 10, 10], [50, 0, 60, 10]]], [["cat", "dog"]])
    (0.5, {'cat': 1.0, 'dog': 0.0})
    """
    for name, groups in (("predictions", predictions), ("labels", labels), ("difficult", difficult)):
        if groups is not None and len(groups) != len(boxes):
            raise ValueError(f"{name}: expected one for each of {len(boxes)} images, got {len(groups)}")
    true = [_labelled(b, labels[i], f"boxes[{i}]", f"labels[{i}]") for i, b in enumerate(boxes)]
    hard = [_marks(None if difficult is None else difficult[i], len(b), i) for i, (b, _) in enumerate(true)]
    found = []
    for i, (b, s, n) in enumerate(predictions):
        name = f"predictions[{i}]"
        checked, classes = _labelled(b, n, f"{name}[0]", f"{name}[2]")
        found.append((checked, classes, check_scores(s, len(checked), f"{name}[1]")))
    precisions = {}
    for name in sorted(set().union(*(n.tolist() for _, n in true))):
        precisions[name] = average_precision(
            [b[n == name] for b, n, _ in found],
            [s[n == name] for _, n, s in found],
            [b[n == name] for b, n in true],
            difficult=[h[n == name] for h, (_, n) in zip(hard, true, strict=True)],
            iou_threshold=iou_threshold,
            method=method,
        )
    return _mean([*precisions.values()]), precisions


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _labelled(boxes: ArrayLike, labels: ArrayLike, name: str, labels_name: str) -> tuple[Boxes, NDArray[Any]]:
    """Take boxes and the class of each."""
    checked, classes = check_boxes(boxes, name), np.asarray(labels)
    if classes.shape != (len(checked),):
        raise ValueError(f"{labels_name}: expected shape ({len(checked)},) for as many boxes, got {classes.shape}")
    return checked, classes


def _marks(difficult: ArrayLike | None, count: int, image: int) -> NDArray[np.bool_]:
    if difficult is None:
        return np.zeros(count, np.bool_)
    marks = np.asarray(difficult, np.bool_)
    if marks.shape != (count,):
        raise ValueError(f"difficult[{image}]: expected shape ({count},) for as many boxes, got {marks.shape}")
    return marks


def _average(true: NDArray[np.bool_], count: int, method: str) -> float:
    """Average precision of a ranking of true and false detections, where `count` could be found."""
    if not count:
        return math.nan
    hits = np.cumsum(true)
    recall = hits / count
    precision = hits / np.arange(1, len(true) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    if method == "area":
        return float(best[true].sum() / count)  # recall grows by 1 / count at each true one
    reached = np.searchsorted(recall, np.arange(11) / 10)  # len(recall) where that recall is never reached
    return float(np.append(best, 0.0)[reached].sum() / 11)
