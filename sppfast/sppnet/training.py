"""How a detector learns: windows of training images, hard negatives, one SVM and one box regression for each class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..progress import tracked
from .boxes import Boxes, encode_boxes, iou, nms
from .images import Image
from .window_features import WindowFeatures

Floats: TypeAlias = NDArray[np.float32]

FEATURE_NORM = 20.0  # to which features are scaled in the mean, and the next two: as in the authors' release of R-CNN
POSITIVE_WEIGHT = 2.0
BIAS_SCALE = 10.0
MARGIN = -1.0  # a negative that scores more is hard: the SVM has not put it behind its margin
REGRESSION_WINDOWS = 5  # for each true box, at most


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """A training image, read when it is needed: its true boxes, the class of each, and candidate windows."""

    image: Callable[[], Image]
    truth: Boxes
    classes: NDArray[np.int64]
    windows: Boxes

    def overlaps(self, boxes: Boxes, count: int) -> NDArray[np.float64]:
        """Largest overlap of each box with the true boxes of each class, ``(B, count)``."""
        result, shared = np.zeros((len(boxes), count)), iou(boxes, self.truth)
        for k in np.unique(self.classes):
            result[:, k] = shared[:, self.classes == k].max(axis=1)
        return result


@dataclass(frozen=True, eq=False, slots=True)
class Rules:
    """What is a negative, and how many are kept, see `SPPDetector`."""

    classes: int
    negative_iou: float
    duplicate_iou: float
    max_negatives: int

    def negatives(self, scene: Scene, boxes: Boxes, scores: NDArray[np.float64], least: float) -> NDArray[np.float64]:
        """Give the scores ``(B, K)`` of negatives above `least`, without near-duplicates; -inf for all others."""
        hard = (scene.overlaps(boxes, self.classes) < self.negative_iou) & (scores > least)
        hardness = np.full(scores.shape, -np.inf)
        for k in range(self.classes):
            places = np.flatnonzero(hard[:, k])
            kept = places[nms(boxes[places], scores[places, k], self.duplicate_iou)]
            hardness[kept, k] = scores[kept, k]
        return hardness


@dataclass(eq=False, slots=True)
class Negatives:
    """The hardest windows of each class, of all that are offered.

    Attributes
    ----------
    limit : int
        How many of each class are kept.
    features, hardness : list of ndarray, shape (n, F) and (n, K)
        Of windows, and how hard each is for each class: -inf where it is no negative of that class.
    """

    limit: int
    features: list[Floats] = field(default_factory=list)
    hardness: list[NDArray[np.float64]] = field(default_factory=list)

    def offer(self, features: Floats, hardness: NDArray[np.float64]) -> None:
        """Take the windows of an image that are negatives of some class."""
        chosen = np.isfinite(hardness).any(axis=1)
        self.features.append(features[chosen])
        self.hardness.append(hardness[chosen])
        if sum(map(len, self.hardness)) > 2 * self.limit * hardness.shape[1]:
            self.prune()

    def prune(self) -> None:
        """Keep the hardest of each class."""
        hardness = np.concatenate(self.hardness)
        if len(hardness) > self.limit:
            least = np.partition(hardness, -self.limit, axis=0)[-self.limit]
            hardness[hardness < least] = -np.inf
        chosen = np.isfinite(hardness).any(axis=1)
        self.features, self.hardness = [np.concatenate(self.features)[chosen]], [hardness[chosen]]

    def of_class(self, k: int) -> Floats:
        """Features of the negatives of a class."""
        return np.concatenate([f[np.isfinite(h[:, k])] for f, h in zip(self.features, self.hardness, strict=True)])


@dataclass(eq=False, slots=True)
class Positives:
    """Features, classes and, for the regression, offsets to the true boxes."""

    features: list[Floats] = field(default_factory=list)
    classes: list[NDArray[np.int64]] = field(default_factory=list)
    offsets: list[Boxes] = field(default_factory=list)

    def add(self, features: Floats, classes: NDArray[np.int64], offsets: Boxes) -> None:
        """Take those of an image."""
        self.features.append(features)
        self.classes.append(classes)
        self.offsets.append(offsets)

    def of_class(self, k: int) -> tuple[Floats, Boxes]:
        """Features and offsets of a class."""
        rows = [classes == k for classes in self.classes]
        features = np.concatenate([f[chosen] for f, chosen in zip(self.features, rows, strict=True)])
        offsets = np.concatenate([o[chosen] for o, chosen in zip(self.offsets, rows, strict=True)])
        return features, offsets


@dataclass(frozen=True, eq=False, slots=True)
class Linear:
    """A linear function of features for each class: ``features @ weights.T + bias``."""

    weights: Floats  # (K, F), or (K, 4, F) of offsets
    bias: Floats  # (K,), or (K, 4)

    def scores(self, features: Floats) -> Floats:
        """Score windows for each class: ``(R, K)``."""
        return np.asarray(features @ self.weights.T + self.bias)

    def offsets(self, features: Floats, k: int) -> Floats:
        """Offsets to better boxes of class `k`: ``(R, 4)``."""
        return np.asarray(features @ self.weights[k].T + self.bias[k])


def visit(
    scenes: Sequence[Scene], features: WindowFeatures, what: str, progress: bool
) -> Iterator[tuple[Scene, Boxes, Floats]]:
    """Give the features of the true boxes, then of the windows, of each scene, in a buffer that the next one reuses."""
    buffer = None
    for scene in tracked(scenes, "images", what, progress):
        boxes = np.concatenate([scene.truth, scene.windows])
        maps = features.maps(scene.image())
        if buffer is None or len(buffer) < len(boxes):
            buffer = features.buffer(maps, len(boxes))
        yield scene, boxes, features.pool(maps, boxes, buffer)


def near_truth(scene: Scene, least: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose windows for the regression: which ones, and which true box each is nearest to."""
    shared = iou(scene.windows, scene.truth)
    chosen = [np.zeros(0, np.int64)]
    for j in range(len(scene.truth)):
        near = np.flatnonzero((shared.argmax(axis=1) == j) & (shared[:, j] >= least))
        chosen.append(rng.permutation(near)[:REGRESSION_WINDOWS])
    places = np.concatenate(chosen)
    return places, shared[places].argmax(axis=1) if len(places) else places


def collect(
    visits: Iterator[tuple[Scene, Boxes, Floats]], rules: Rules, regression_iou: float, rng: np.random.Generator
) -> tuple[Positives, Positives, Negatives]:
    """Collect true boxes, windows near them for the regression, and random negatives."""
    true, near, negatives = Positives(), Positives(), Negatives(rules.max_negatives)
    for scene, boxes, features in visits:
        count = len(scene.truth)
        true.add(features[:count].copy(), scene.classes, np.zeros((count, 4)))
        places, nearest = near_truth(scene, regression_iou, rng)
        if len(places):
            offsets = encode_boxes(scene.windows[places], scene.truth[nearest])
            near.add(features[count + places], scene.classes[nearest], offsets)
        negatives.offer(features, rules.negatives(scene, boxes, rng.random((len(boxes), rules.classes)), 0.0))
    negatives.prune()
    return true, near, negatives


def mine(visits: Iterator[tuple[Scene, Boxes, Floats]], rules: Rules, svms: Linear) -> Negatives:
    """Collect the negatives that the SVMs have not put behind their margin."""
    negatives = Negatives(rules.max_negatives)
    for scene, boxes, features in visits:
        negatives.offer(features, rules.negatives(scene, boxes, svms.scores(features).astype(np.float64), MARGIN))
    negatives.prune()
    return negatives


def feature_scale(samples: Sequence[Floats]) -> float:
    """Give the factor that brings the mean norm of features to `FEATURE_NORM`."""
    mean = np.mean(np.concatenate([np.linalg.norm(rows, axis=1) for rows in samples]))
    return FEATURE_NORM / float(mean) if mean > 0 else 1.0


def train_svms(
    rounds: Sequence[Negatives], *, true: Positives, count: int, C: float, scale: float, progress: bool
) -> Linear:
    """Train one linear SVM for each class, on the true boxes and the negatives of all rounds."""
    from sklearn.svm import LinearSVC

    weights, bias = [], []
    for k in tracked(range(count), "classes", "SVMs", progress):
        positives = true.of_class(k)[0]
        negatives = np.concatenate([negatives.of_class(k) for negatives in rounds])
        rows = np.concatenate([positives, negatives]) * np.float32(scale)
        svm = LinearSVC(
            C=C,
            loss="hinge",
            class_weight={1: POSITIVE_WEIGHT},
            intercept_scaling=BIAS_SCALE,
            max_iter=10_000,
            random_state=0,
        )
        svm.fit(rows, np.arange(len(rows)) < len(positives))
        weights.append(svm.coef_[0] * scale)
        bias.append(svm.intercept_[0])
    return Linear(np.array(weights, np.float32), np.array(bias, np.float32))


def train_regression(near: Positives, alpha: float, scale: float, shape: tuple[int, ...]) -> Linear:
    """Train one ridge regression of offsets for each class, `shape` (K, F); zero where no window is near a true box."""
    from sklearn.linear_model import Ridge

    count, length = shape
    weights, bias = np.zeros((count, 4, length), np.float32), np.zeros((count, 4), np.float32)
    for k in np.unique(np.concatenate(near.classes)) if near.classes else ():
        features, offsets = near.of_class(k)
        ridge = Ridge(alpha=alpha).fit(features * np.float32(scale), offsets)
        weights[k], bias[k] = ridge.coef_ * scale, ridge.intercept_
    return Linear(weights, bias)
