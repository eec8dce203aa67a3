"""Detection: candidate windows, pooled from maps that are computed once, scored by linear SVMs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from ..cores import available_cores
from ..geometry import ConvGeometry
from ..progress import tracked
from ..pyramid import Levels, as_pyramid
from . import storage, training
from .backbone import Backbone, geometry_of
from .boxes import Boxes, check_boxes, check_share, clip_boxes, decode_boxes, nms
from .images import Image, check_image
from .proposals import selective_search
from .training import Floats, Rules, Scene
from .window_features import WindowFeatures

Detections: TypeAlias = tuple[Boxes, NDArray[np.float64], NDArray[Any]]


class SPPDetector(BaseEstimator):
    """SPP-net as a detector: windows of an image are pooled from maps that are computed once.

    Parameters
    ----------
    backbone : callable
        From an image ``(H, W, 3)`` uint8 to its map ``(C, h, w)``, such as an `OnnxBackbone`.
    levels : int or sequence of int or (rows, columns)
        The pyramid of a window, the paper's 50 bins if not given.
    scales : sequence of int
        The image is resized so that its shorter side has so many pixels, for one map each.
    window_size : float
        A window is pooled at the scale where its area is nearest to that of a square of this side.
    proposals : callable, optional
        From an image to candidate windows ``(R, 4)``: ``x0, y0, x1, y1`` in continuous coordinates.
        `selective_search` if not given.
    C : float
        Of the SVMs, on features of mean norm 20 (R-CNN's).
    negative_iou : float
        A window that overlaps every true box of a class by less is a negative of the class.
    duplicate_iou : float
        A negative that overlaps a harder one of the same image and class by more is left out.
    mining_rounds : int
        How many times hard negatives are looked for among all windows of all images, after a first training with
        random ones.
    max_negatives : int
        Of each class, in the first training and in each round: the hardest. They are kept in memory.
    regression_iou : float
        A window that overlaps a true box by as much is used for the regression of boxes.
    regression_alpha : float
        Strength of its ridge penalty (R-CNN's).
    nms_iou : float
        Of the non-maximum suppression of the detections of a class.
    score_threshold : float
        Detections that score less are left out. The SVM says yes from 0 on; the default keeps what lies within its
        margin, which average precision wants.
    geometry : float or ConvGeometry, optional
        Where the cells of the map lie in the image; the backbone's own `geometry` if not given.
    random_state : int
        Of the choice of the first negatives and of the windows for the regression.
    progress : bool
        Whether to show progress bars, on a terminal.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes, sorted.
    svms_, regression_ : Linear
        Weights and bias of the SVMs, ``(K, F)`` and ``(K,)``, and of the offsets, ``(K, 4, F)`` and ``(K, 4)``.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, TPAMI 2015,
    section 4. Girshick, Donahue, Darrell, Malik: Rich feature hierarchies for accurate object detection and semantic
    segmentation, CVPR 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from sppfast import sppnet
    >>> images, boxes = [], []
    >>> for x in (10, 30, 50, 70):  # a bright square on a dark ground
    ...     image = np.zeros((64, 120, 3), np.uint8)
    ...     image[15:45, x : x + 30] = 200
    ...     images.append(image)
    ...     boxes.append([[x, 15, x + 30, 45]])
    >>> backbone = sppnet.OnnxBackbone(sppnet.random_body("ZF-5"))
    >>> detector = sppnet.SPPDetector(backbone, levels=(2, 1), scales=(240,), window_size=100)
    >>> found, scores, labels = detector.fit(images, boxes, [["square"]] * 4).predict(images[1])
    >>> str(labels[0]), bool(sppnet.iou(found[:1], boxes[1]) > 0.5)
    ('square', True)
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        levels: Levels = (6, 3, 2, 1),
        scales: Sequence[int] = (480, 576, 688, 864, 1200),
        window_size: float = 224,
        proposals: Callable[[Image], ArrayLike] | None = None,
        C: float = 1e-3,
        negative_iou: float = 0.3,
        duplicate_iou: float = 0.7,
        mining_rounds: int = 1,
        max_negatives: int = 5000,
        regression_iou: float = 0.5,
        regression_alpha: float = 1000.0,
        nms_iou: float = 0.3,
        score_threshold: float = -1.0,
        geometry: float | ConvGeometry | None = None,
        random_state: int = 0,
        progress: bool = True,
    ) -> None:
        self.backbone = backbone
        self.levels = levels
        self.scales = scales
        self.window_size = window_size
        self.proposals = proposals
        self.C = C
        self.negative_iou = negative_iou
        self.duplicate_iou = duplicate_iou
        self.mining_rounds = mining_rounds
        self.max_negatives = max_negatives
        self.regression_iou = regression_iou
        self.regression_alpha = regression_alpha
        self.nms_iou = nms_iou
        self.score_threshold = score_threshold
        self.geometry = geometry
        self.random_state = random_state
        self.progress = progress

    def fit(self, images: Sequence[Image], boxes: Sequence[ArrayLike], labels: Sequence[ArrayLike]) -> SPPDetector:
        """Learn from images.

        Parameters
        ----------
        images : sequence of ndarray of uint8, shape (H, W, 3)
            Each is asked for anew in each pass, so that a sequence may read them from files; by several threads at
            once, unless there are `proposals`.
        boxes : sequence of array_like, shape (Ti, 4)
            For each image its true boxes: ``x0, y0, x1, y1`` in continuous coordinates, not empty.
        labels : sequence of array_like, shape (Ti,)
            Their classes, of any kind that can be sorted.

        Returns
        -------
        SPPDetector
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, there are no true boxes, or a class has no negatives.
        """
        features = self.window_features()
        truth, classes, names = _check_truth(images, boxes, labels)
        scenes = self._scenes(images, truth, classes)
        rules = Rules(len(names), self.negative_iou, self.duplicate_iou, self.max_negatives)
        rng = np.random.default_rng(self.random_state)
        look = partial(training.visit, scenes, features, progress=self.progress)

        true, near, negatives = training.collect(look("features"), rules, self.regression_iou, rng)
        for k, name in enumerate(names.tolist()):
            if not len(negatives.of_class(k)):
                raise ValueError(f"images: no window is a negative of class {name!r}, which needs some")
        scale = training.feature_scale([*true.features, *negatives.features])
        train = partial(training.train_svms, true=true, count=len(names), C=self.C, scale=scale, progress=self.progress)
        rounds = [negatives]
        svms = train(rounds)
        for _ in range(self.mining_rounds):
            rounds.append(training.mine(look("hard negatives"), rules, svms))
            svms = train(rounds)
        regression = training.train_regression(near, self.regression_alpha, scale, svms.weights.shape)
        self.classes_, self.svms_, self.regression_ = names, svms, regression
        return self

    def predict(self, image: Image) -> Detections:
        """Find objects in an image.

        Parameters
        ----------
        image : ndarray of uint8, shape (H, W, 3)
            RGB, of any size that gives the backbone a cell at every scale.

        Returns
        -------
        boxes : ndarray of float64, shape (D, 4)
            ``x0, y0, x1, y1`` in continuous coordinates, by falling score. None where there are no candidate windows.
        scores : ndarray of float64, shape (D,)
            The SVMs' margins.
        labels : ndarray, shape (D,)
            The class of each.

        Raises
        ------
        TypeError, ValueError
            If the image, or what the proposals or the backbone give, is wrong.
        """
        self._check_fitted()
        windows = self.windows(image)
        if not len(windows):
            return self.detections(image, windows, np.zeros((0, self.svms_.weights.shape[1]), np.float32))
        features = self.window_features()
        return self.detections(image, windows, features.pool(features.maps(image), windows))

    def score(self, images: Sequence[Image], boxes: Sequence[ArrayLike], labels: Sequence[ArrayLike]) -> float:
        """Give the mean average precision on images, see `mean_average_precision`.

        Parameters
        ----------
        images, boxes, labels
            As in `fit`.

        Returns
        -------
        float
            From 0 to 1, the area under the curve, at an overlap of 0.5.
        """
        from .evaluation import mean_average_precision

        tracking = tracked(images, "images", "detection", self.progress)
        return mean_average_precision([self.predict(image) for image in tracking], boxes, labels)[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the detector as one file, backbone included if it is an `OnnxBackbone`.

        Parameters
        ----------
        path : path
            Where; a file of NumPy arrays and JSON. It appears only when it is complete.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        self._check_fitted()
        storage.save(self, Path(path))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        backbone: Backbone | None = None,
        proposals: Callable[[Image], ArrayLike] | None = None,
    ) -> SPPDetector:
        """Load a detector that `save` wrote; nothing in the file is run as Python code.

        Parameters
        ----------
        path : path
            The file.
        backbone : callable, optional
            The backbone, if it was no `OnnxBackbone`.
        proposals : callable, optional
            The proposals, if they were not the default ones.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is damaged, no detector, or of another version, or if the backbone or the proposals are not in it.
        """
        return storage.load(cls, Path(path), backbone, proposals)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags

    # ---- the stages of `predict`, which benchmarks take the time of

    def window_features(self) -> WindowFeatures:
        """Check the parameters, and give what turns windows into features."""
        as_pyramid(self.levels)
        for name in ("negative_iou", "duplicate_iou", "regression_iou", "nms_iou"):
            check_share(getattr(self, name), name)
        if not len(self.scales) or min(self.scales) < 1:
            raise ValueError(f"scales: expected pixels of the shorter side, got {self.scales!r}")
        for name in ("window_size", "max_negatives"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 at least, got {getattr(self, name)!r}")
        geometry = geometry_of(self.backbone, self.geometry)
        return WindowFeatures(self.backbone, geometry, self.levels, self.scales, self.window_size)

    def windows(self, image: Image, name: str = "image") -> Boxes:
        """Give the candidate windows of an image, cut at its border; those outside are left out."""
        height, width = check_image(image, name).shape[:2]
        propose = selective_search if self.proposals is None else self.proposals
        windows = clip_boxes(check_boxes(propose(image), "proposals"), height, width)
        return windows[(windows[:, 2:] > windows[:, :2]).all(axis=1)]

    def detections(self, image: Image, windows: Boxes, features: Floats) -> Detections:
        """Score windows by their features, move them to better boxes, and suppress what overlaps."""
        if features.shape[1] != self.svms_.weights.shape[1]:
            expected, got = self.svms_.weights.shape[1], features.shape[1]
            raise ValueError(f"backbone: expected maps that give {expected} features as in training, got {got}")
        scores = self.svms_.scores(features).astype(np.float64)
        found: list[Detections] = [(np.empty((0, 4)), np.empty(0), self.classes_[:0])]
        for k, name in enumerate(self.classes_):
            likely = np.flatnonzero(scores[:, k] >= self.score_threshold)
            boxes = decode_boxes(windows[likely], self.regression_.offsets(features[likely], k))
            boxes = clip_boxes(boxes, *image.shape[:2])
            kept = nms(boxes, scores[likely, k], self.nms_iou)
            found.append((boxes[kept], scores[likely[kept], k], np.full(len(kept), name, self.classes_.dtype)))
        all_boxes, all_scores, labels = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(-all_scores, kind="stable")
        return all_boxes[order], all_scores[order], labels[order]

    def _scenes(self, images: Sequence[Image], truth: list[Boxes], classes: list[NDArray[np.int64]]) -> list[Scene]:
        """Propose windows in each image; the images themselves are not kept."""
        places = range(len(images))
        threads = available_cores() if self.proposals is None else 1  # a caller's may not bear several
        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(lambda i: self.windows(images[i], f"images[{i}]"), places)
            return [
                Scene(partial(images.__getitem__, i), truth[i], classes[i], next(found))
                for i in tracked(places, "images", "windows", self.progress)
            ]

    def _check_fitted(self) -> None:
        if not hasattr(self, "svms_"):
            raise NotFittedError("this SPPDetector has learnt nothing yet: call fit first, or load")


def _check_truth(
    images: Sequence[Image], boxes: Sequence[ArrayLike], labels: Sequence[ArrayLike]
) -> tuple[list[Boxes], list[NDArray[np.int64]], NDArray[Any]]:
    """Take true boxes and labels: the boxes, the class of each as a number, and what the classes are."""
    for name, values in (("boxes", boxes), ("labels", labels)):
        if len(values) != len(images):
            raise ValueError(f"{name}: expected one for each of {len(images)} images, got {len(values)}")
    truth = [check_boxes(b, f"boxes[{i}]", filled=True) for i, b in enumerate(boxes)]
    given = [np.asarray(n) for n in labels]
    for i, (b, n) in enumerate(zip(truth, given, strict=True)):
        if n.shape != (len(b),):
            raise ValueError(f"labels[{i}]: expected shape ({len(b)},) for as many boxes, got {n.shape}")
    filled = [n for n in given if len(n)]
    if not filled:
        raise ValueError("boxes: no true box in any image, expected one at least")
    names = np.unique(np.concatenate(filled))
    if names.dtype.kind not in "biufU":
        raise TypeError(f"labels: expected strings or numbers, got dtype {names.dtype}")
    return truth, [np.searchsorted(names, n) if len(n) else np.zeros(0, np.int64) for n in given], names
