"""Classification of images of any size: pyramid features of the whole image or of many views, and a linear SVM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted

from ..geometry import ConvGeometry
from ..pooling import pool, roi_pool
from ..progress import tracked
from ..pyramid import Levels, as_pyramid, one_of
from .backbone import Backbone, feature_map, geometry_of
from .images import Image, check_image, resize_to

VIEWS = ("full", "multi")


class SpatialPyramidTransformer(TransformerMixin, BaseEstimator):
    """Images or feature maps of any size to vectors of one length, for a scikit-learn pipeline.

    Parameters
    ----------
    backbone : callable, optional
        From an image ``(H, W, 3)`` uint8 to its map ``(C, h, w)``, such as an `OnnxBackbone`. None: the input is maps.
    levels : int or sequence of int or (rows, columns)
        The pyramid, as in `sppfast.pool`.
    scale : int or sequence of int, optional
        Images are resized so that the shorter side has so many pixels; features of several scales are averaged.
        None: every image at its own size.
    views : {"full", "multi"}
        One view, the whole image, or nine at each scale: square windows of `view_size` at the centre, the corners and
        the middles of the sides, pooled from the map of the whole image. Features of views are averaged.
    view_size : float
        Side of the views, as a part of the shorter side of the image; the paper's 224 of 256 is 0.875.
    flip : bool
        Whether to average with the features of the mirrored image, whose map is computed too.
    normalize : bool
        Whether the vector of each view, and the average, is scaled to length 1 (L2).
    geometry : float or ConvGeometry, optional
        Where the cells lie in the image; the backbone's own `geometry` if not given.
    progress : bool
        Whether to show a progress bar, on a terminal.

    See Also
    --------
    SPPClassifier : this, with a linear SVM.

    Notes
    -----
    The score that a linear classifier gives to the average of features is the average of its scores of the views: what
    the paper's multi-view testing averages.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, TPAMI 2015,
    sections 3.1.4 to 3.1.6 and 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.svm import LinearSVC
    >>> from sppfast.sppnet import SpatialPyramidTransformer
    >>> rng = np.random.default_rng(0)
    >>> maps = [rng.random((8, 5 + i % 3, 6)) for i in range(20)]  # of different heights
    >>> for i in range(10):
    ...     maps[i][2] += 1
    >>> model = make_pipeline(SpatialPyramidTransformer(levels=(2, 1)), LinearSVC())
    >>> model.fit(maps, [1] * 10 + [0] * 10).score(maps, [1] * 10 + [0] * 10)
    1.0
    """

    def __init__(
        self,
        backbone: Backbone | None = None,
        *,
        levels: Levels = (6, 3, 2, 1),
        scale: int | Sequence[int] | None = None,
        views: str = "full",
        view_size: float = 0.875,
        flip: bool = False,
        normalize: bool = True,
        geometry: float | ConvGeometry | None = None,
        progress: bool = True,
    ) -> None:
        self.backbone = backbone
        self.levels = levels
        self.scale = scale
        self.views = views
        self.view_size = view_size
        self.flip = flip
        self.normalize = normalize
        self.geometry = geometry
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> SpatialPyramidTransformer:
        """Check the parameters; there is nothing to learn.

        Parameters
        ----------
        X : sequence of ndarray
            Not looked at.
        y : None
            Not looked at.

        Returns
        -------
        SpatialPyramidTransformer
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter is wrong; the message names it.
        """
        as_pyramid(self.levels)
        one_of("views", self.views, VIEWS)
        if not 0 < self.view_size <= 1:
            raise ValueError(f"view_size: expected a part of the shorter side, from 0 to 1, got {self.view_size!r}")
        if self.backbone is None and (self.views == "multi" or self.flip or self.scale is not None):
            raise ValueError("backbone: needed for views, flip and scale, which work on images")
        if self.backbone is not None:
            geometry_of(self.backbone, self.geometry)
        _scales(self.scale)
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """Compute the vectors of images, or of maps if there is no backbone.

        Parameters
        ----------
        X : sequence of ndarray
            Images ``(H, W, 3)``, uint8, or maps ``(C, h, w)``, each of any size.

        Returns
        -------
        ndarray, shape (N, F)
            ``F = C * sum(rows * columns)``, in the order of `sppfast.pool`.

        Raises
        ------
        TypeError, ValueError
            If an image or a map is none; the message names it.
        """
        self.fit(X)
        if self.backbone is None:
            vectors = pool(X, self.levels)
            return _unit(vectors) if self.normalize else vectors
        if not len(X):
            raise ValueError("X: no images, expected one at least")
        images = tracked(X, "images", "features", self.progress)
        return np.stack([self._vector(check_image(image, f"X[{i}]"), i) for i, image in enumerate(images)])

    def _vector(self, image: Image, i: int) -> NDArray[Any]:
        """Average of the vectors of all views of an image."""
        assert self.backbone is not None
        geometry = geometry_of(self.backbone, self.geometry)
        rows = []
        for view in self._versions(image):
            try:
                x = feature_map(self.backbone, geometry, view)
            except ValueError as error:
                raise ValueError(f"X[{i}]: {error}") from error
            if self.views == "full":
                rows.append(pool(x, self.levels)[None])
            else:
                rows.append(roi_pool(x, multi_views(view, self.view_size), self.levels, geometry=geometry))
        vectors = np.concatenate(rows)
        if not self.normalize:
            return np.asarray(vectors.mean(axis=0))
        return _unit(_unit(vectors).mean(axis=0))

    def _versions(self, image: Image) -> Iterator[Image]:
        """Give the image at every scale, and mirrored if that is asked for."""
        for scale in _scales(self.scale):
            resized = resize_to(image, scale)
            yield resized
            if self.flip:
                yield resized[:, ::-1]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        return tags


class SPPClassifier(ClassifierMixin, BaseEstimator):
    """SPP-net as a classifier of images of any size: pyramid features and a linear SVM.

    Parameters
    ----------
    backbone : callable
        From an image ``(H, W, 3)`` uint8 to its map ``(C, h, w)``, such as an `OnnxBackbone`.
    levels, scale, views, view_size, flip, geometry, progress
        As in `SpatialPyramidTransformer`; vectors are scaled to length 1.
    C : float
        Of the SVM: less is more regular.
    random_state : int, optional
        Of the SVM's solver.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
        The classes, sorted.
    svm_ : sklearn.svm.LinearSVC
        One against the rest.

    References
    ----------
    He, Zhang, Ren, Sun: Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition, TPAMI 2015,
    section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from sppfast.sppnet import OnnxBackbone, SPPClassifier, random_body
    >>> rng = np.random.default_rng(0)
    >>> images = [np.full((64 + i, 96, 3), 80 + 60 * (i % 2), np.uint8) for i in range(6)]  # dark and bright ones
    >>> model = SPPClassifier(OnnxBackbone(random_body("ZF-5")), levels=(2, 1), C=10)
    >>> model.fit(images, ["dark", "bright"] * 3).predict(images[:2]).tolist()
    ['dark', 'bright']
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        levels: Levels = (6, 3, 2, 1),
        scale: int | Sequence[int] | None = None,
        views: str = "full",
        view_size: float = 0.875,
        flip: bool = False,
        C: float = 1.0,
        geometry: float | ConvGeometry | None = None,
        random_state: int | None = 0,
        progress: bool = True,
    ) -> None:
        self.backbone = backbone
        self.levels = levels
        self.scale = scale
        self.views = views
        self.view_size = view_size
        self.flip = flip
        self.C = C
        self.geometry = geometry
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Sequence[Image], y: ArrayLike) -> SPPClassifier:
        """Learn from images.

        Parameters
        ----------
        X : sequence of ndarray of uint8, shape (H, W, 3)
            Images, each of any size.
        y : array_like, shape (N,)
            Their classes, of two kinds at least.

        Returns
        -------
        SPPClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an image, a class or a parameter is wrong; the message names it.
        """
        labels = np.asarray(y)
        if labels.shape != (len(X),):
            raise ValueError(f"y: expected shape ({len(X)},) for {len(X)} images, got {labels.shape}")
        classes = np.unique(labels)
        if len(classes) < 2:
            raise ValueError(f"y: expected two classes at least, got {classes.tolist()}")
        vectors = self._transformer().transform(X)
        self.svm_ = LinearSVC(C=self.C, random_state=self.random_state).fit(vectors, labels)
        self.classes_ = self.svm_.classes_
        return self

    def decision_function(self, X: Sequence[Image]) -> NDArray[np.float64]:
        """Score images.

        Parameters
        ----------
        X : sequence of ndarray of uint8, shape (H, W, 3)
            Images, each of any size.

        Returns
        -------
        ndarray of float64, shape (N, K), or (N,) for two classes
            The SVM's margins, in the order of `classes_`.
        """
        check_is_fitted(self)
        scores: NDArray[np.float64] = self.svm_.decision_function(self._transformer().transform(X))
        return scores

    def predict(self, X: Sequence[Image]) -> NDArray[Any]:
        """Classify images.

        Parameters
        ----------
        X : sequence of ndarray of uint8, shape (H, W, 3)
            Images, each of any size.

        Returns
        -------
        ndarray, shape (N,)
            The class of the highest score, of `classes_`.
        """
        scores = self.decision_function(X)
        best = (scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
        return np.asarray(self.classes_[best])

    def _transformer(self) -> SpatialPyramidTransformer:
        names = ("backbone", "levels", "scale", "views", "view_size", "flip", "geometry", "progress")
        return SpatialPyramidTransformer(**{name: getattr(self, name) for name in names})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags


def multi_views(image: Image, view_size: float) -> NDArray[np.float64]:
    """Square windows of an image at the centre, the corners and the middles of the sides.

    Returns
    -------
    ndarray of float64, shape (9, 4)
        ``x0, y0, x1, y1`` in pixels, corners inclusive.
    """
    side = view_size * min(image.shape[:2])
    y, x = (np.array([0, 0.5, 1]) * (length - side) for length in image.shape[:2])
    corners = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return np.hstack([corners, corners + max(side - 1, 0)])


def _scales(scale: int | Sequence[int] | None) -> list[int | None]:
    """List the scales, None for an image's own size."""
    if scale is None:
        return [None]
    scales = np.atleast_1d(np.asarray(scale))
    if scales.dtype.kind not in "iu" or scales.ndim != 1 or not scales.size or scales.min() < 1:
        raise ValueError(f"scale: expected pixels of the shorter side, or several such numbers, got {scale!r}")
    return list(scales.tolist())


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Scale vectors to length 1; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))
