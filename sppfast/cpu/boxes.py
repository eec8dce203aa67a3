"""Kernels for boxes: overlap, non-maximum suppression, and the matching of detections with the truth.

Boxes are rows x0, y0, x1, y1 of float64, continuous corners.
"""

import numpy as np
from numba import float64

from .compile import compiled, routine

FALSE_POSITIVE, TRUE_POSITIVE, IGNORED = 0, 1, -1


@routine(float64)
def overlap(a, i, b, j):
    """Intersection over union of two boxes; 0 where both are empty."""
    width = min(a[i, 2], b[j, 2]) - max(a[i, 0], b[j, 0])
    height = min(a[i, 3], b[j, 3]) - max(a[i, 1], b[j, 1])
    if width <= 0.0 or height <= 0.0:
        return 0.0
    both = width * height
    area_a = (a[i, 2] - a[i, 0]) * (a[i, 3] - a[i, 1])
    area_b = (b[j, 2] - b[j, 0]) * (b[j, 3] - b[j, 1])
    return both / (area_a + area_b - both)


@compiled("float64[:, ::1](float64[:, ::1], float64[:, ::1])")
def iou(a, b):
    """Intersection over union of every box of `a` with every one of `b`."""
    result = np.empty((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            result[i, j] = overlap(a, i, b, j)
    return result


@compiled("boolean[::1](float64[:, ::1], float64)")
def keep(boxes, threshold):
    """Which boxes, in falling order of score, overlap no kept one before them by more than the threshold."""
    kept = np.ones(len(boxes), np.bool_)
    for i in range(len(boxes)):
        if not kept[i]:
            continue
        for j in range(i + 1, len(boxes)):
            if kept[j] and overlap(boxes, i, boxes, j) > threshold:
                kept[j] = False
    return kept


@compiled("int8[::1](float64[:, ::1], int64[::1], float64[:, ::1], int64[::1], boolean[::1], float64)")
def match(boxes, image, truth, first, difficult, threshold):
    """Tell which boxes, in falling order of score, find a true box that none before them has found.

    True boxes ``first[i]`` to ``first[i + 1]`` are those of image i. A box is for the one it overlaps most.
    """
    found = np.zeros(len(truth), np.bool_)
    verdict = np.zeros(len(boxes), np.int8)
    for i in range(len(boxes)):
        best, most = -1, 0.0
        for j in range(first[image[i]], first[image[i] + 1]):
            shared = overlap(boxes, i, truth, j)
            if shared > most:
                best, most = j, shared
        if best < 0 or most < threshold:
            verdict[i] = FALSE_POSITIVE
        elif difficult[best]:
            verdict[i] = IGNORED
        elif not found[best]:
            verdict[i] = TRUE_POSITIVE
            found[best] = True
    return verdict
