"""Classification: features of whole images and of views, scikit-learn's conventions, errors."""

import pickle

import numpy as np
import pytest
from sppnet_helpers import Blocks

import sppfast

pytest.importorskip("sklearn")
pytest.importorskip("cv2")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.utils import estimator_checks

from sppfast.sppnet import SpatialPyramidTransformer, SPPClassifier, SPPDetector
from sppfast.sppnet.classifier import multi_views

pytestmark = pytest.mark.filterwarnings("ignore:Liblinear failed to converge")  # few samples, and separable


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def transform(images, **options):
    return SpatialPyramidTransformer(Blocks(), levels=(2, 1), **options).fit_transform(images)


@pytest.fixture
def images(rng):
    """Noise of four sizes."""
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((20, 30), (41, 23), (16, 16), (30, 64))]


@pytest.fixture
def pictures(rng):
    """Images of any size that are bright above, or bright below; and which."""
    labels = np.array(["above", "below"] * 8)
    pictures = []
    for label in labels:
        image = rng.integers(0, 60, (*rng.integers(12, 40, 2), 3), dtype=np.uint8)
        half = len(image) // 2
        image[:half] += np.uint8(60 * (label == "above"))
        image[half:] += np.uint8(60 * (label == "below"))
        pictures.append(image)
    return pictures, labels


# ---- features


def test_maps_without_a_backbone(rng):
    maps = [rng.random((3, 5, 7)), rng.random((3, 2, 4))]
    got = SpatialPyramidTransformer(levels=(2, 1)).fit_transform(maps)
    np.testing.assert_allclose(got, unit(sppfast.pool(maps, (2, 1))))
    raw = SpatialPyramidTransformer(levels=(2, 1), normalize=False).fit_transform(np.stack([maps[0]] * 2))
    np.testing.assert_array_equal(raw, sppfast.pool(np.stack([maps[0]] * 2), (2, 1)))


def test_full_image_at_its_own_size(images):
    want = unit(np.stack([sppfast.pool(Blocks()(image), (2, 1)) for image in images]))
    np.testing.assert_allclose(transform(images), want, rtol=1e-6)


def test_a_dark_image_stays_zero():
    class Dark(Blocks):
        def __call__(self, image):
            return super().__call__(image)[:3]

    got = SpatialPyramidTransformer(Dark()).fit_transform([np.zeros((9, 9, 3), np.uint8)])
    assert not got.any()


def test_scale_is_of_the_shorter_side(images):
    backbone = Blocks()
    SpatialPyramidTransformer(backbone, scale=32).fit_transform(images)
    assert backbone.sizes == [(32, 48), (57, 32), (32, 32), (32, 68)]


def test_several_scales_are_averaged(images):
    each = [transform(images, scale=scale) for scale in (24, 40)]
    np.testing.assert_allclose(transform(images, scale=(24, 40)), unit(each[0] + each[1]), rtol=1e-5)


def test_views_are_pooled_from_one_map(images):
    backbone = Blocks()
    model = SpatialPyramidTransformer(backbone, levels=(2, 1), views="multi", view_size=0.75)
    got = model.fit_transform(images)
    assert backbone.sizes == [image.shape[:2] for image in images]
    for row, image in zip(got, images, strict=True):
        views = multi_views(image, 0.75)
        rows = sppfast.roi_pool(Blocks()(image), views, (2, 1), geometry=Blocks.geometry)
        np.testing.assert_allclose(row, unit(unit(rows).mean(axis=0)), rtol=1e-5)


def test_views_by_hand():
    views = multi_views(np.zeros((20, 32, 3), np.uint8), 0.5)
    assert views.shape == (9, 4)
    assert views[0].tolist() == [0, 0, 9, 9]
    assert views[4].tolist() == [11, 5, 20, 14]
    assert views[8].tolist() == [22, 10, 31, 19]


@pytest.mark.parametrize("views", ["full", "multi"])
def test_flip_makes_mirror_images_equal(images, views):
    mirrored = [image[:, ::-1] for image in images]
    np.testing.assert_allclose(
        transform(images, flip=True, views=views), transform(mirrored, flip=True, views=views), rtol=1e-5
    )
    assert np.abs(transform(images) - transform(mirrored)).max() > 0.01


def test_score_of_the_average_is_the_average_of_scores(images, rng):
    """Why one vector for all views is enough for a linear classifier."""
    weights = rng.standard_normal(30)
    rows = sppfast.roi_pool(Blocks()(images[0]), multi_views(images[0], 0.875), (2, 1), geometry=Blocks.geometry)
    scores = (unit(rows) @ weights).mean()
    assert scores == pytest.approx(unit(rows).mean(axis=0) @ weights)


# ---- the estimator


@pytest.mark.parametrize("options", [{}, {"scale": 24}, {"views": "multi", "flip": True}, {"levels": 3}])
def test_learns_where_the_light_is(pictures, options):
    images, labels = pictures
    model = SPPClassifier(Blocks(), C=100, **options).fit(images, labels)
    assert model.score(images, labels) == 1
    assert model.classes_.tolist() == ["above", "below"]
    assert model.decision_function(images).shape == (16,)
    more = [np.rot90(image).copy() for image in images]
    names = np.repeat(["left", "right", "above", "below"], 8)
    many = SPPClassifier(Blocks(), **options).fit(images + more, names)
    assert many.decision_function(images).shape == (16, 4)
    np.testing.assert_array_equal(many.predict(images), many.classes_[many.decision_function(images).argmax(axis=1)])


def test_a_pyramid_sees_what_one_bin_cannot(pictures):
    images, labels = pictures
    assert SPPClassifier(Blocks(), levels=1, C=100).fit(images, labels).score(images, labels) < 0.9


def test_in_a_pipeline_and_a_grid_search(pictures):
    images, labels = pictures
    pipeline = make_pipeline(SpatialPyramidTransformer(Blocks()), LinearSVC(C=100))
    assert pipeline.fit(images, labels).score(images, labels) == 1
    search = GridSearchCV(SPPClassifier(Blocks(), C=100), {"levels": [1, (2, 1)]}, cv=2)
    assert search.fit(images, labels).best_params_ == {"levels": (2, 1)}


def test_conventions_of_scikit_learn(pictures):
    """Those of its checks that feed tables of numbers, here with images."""
    images, labels = pictures
    model = SPPClassifier(Blocks(), C=100)
    before = model.get_params()
    scores = model.fit(images, labels).decision_function(images)
    assert model.get_params() == before
    np.testing.assert_array_equal(model.fit(images, labels).decision_function(images), scores)
    np.testing.assert_array_equal(clone(model).fit(images, labels).decision_function(images), scores)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).decision_function(images), scores)
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_allclose(model.decision_function([images[i] for i in order]), scores[order])
    np.testing.assert_allclose(model.decision_function(images[:3]), scores[:3])
    with pytest.raises(NotFittedError):
        clone(model).predict(images)


ESTIMATORS = [SpatialPyramidTransformer(), SPPClassifier(abs), SPPDetector(abs)]
CHECKS = """check_do_not_raise_errors_in_init_or_set_params check_estimator_cloneable check_estimator_repr
    check_estimator_tags_renamed check_get_params_invariance check_mixin_order check_no_attributes_set_in_init
    check_parameters_default_constructible check_set_params check_valid_tag_types"""


@pytest.mark.parametrize("check", CHECKS.split())
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_checks_of_scikit_learn(estimator, check):
    """All of its checks that need no table of numbers."""
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


@pytest.mark.filterwarnings("ignore:Can't test estimator")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def test_check_estimator(estimator):
    estimator_checks.check_estimator(estimator)


# ---- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels"),
        ({"views": "ten"}, "views: 'ten' is not one of"),
        ({"view_size": 0}, "view_size: expected a part"),
        ({"scale": 0}, "scale: expected pixels of the shorter side, or several such numbers, got 0"),
        ({"scale": 1.5}, "scale: expected pixels"),
        ({"scale": ()}, "scale: expected pixels"),
        ({"backbone": None, "flip": True}, "backbone: needed for views, flip and scale"),
    ],
)
def test_wrong_parameters(images, options, message):
    with pytest.raises(ValueError, match=message.split(":")[0]) as error:
        SpatialPyramidTransformer(**({"backbone": Blocks()} | options)).fit(images)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((0, 9, 3), np.uint8), "X[1]: shape (0, 9, 3) has no pixels"),
        (np.zeros((9, 9), np.uint8), "X[1]: expected an RGB image of shape (H, W, 3), got (9, 9) (grey)"),
        (np.zeros((9, 9, 4), np.uint8), "got (9, 9, 4) (RGBA)"),
        (np.zeros((3, 9, 3), np.uint8), "X[1]: image: 3 x 9 pixels give the backbone no cell, expected 4 at least"),
    ],
)
def test_wrong_images(images, image, message):
    with pytest.raises(ValueError) as error:
        SPPClassifier(Blocks()).fit([images[0], image], [0, 1])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 1, 1, 1], "y: expected two classes at least, got [1]"),
        ([1, 2], "y: expected shape (4,) for 4 images, got (2,)"),
    ],
)
def test_wrong_labels(images, labels, message):
    with pytest.raises(ValueError) as error:
        SPPClassifier(Blocks()).fit(images, labels)
    assert message in str(error.value)


def test_no_images():
    with pytest.raises(ValueError, match="X: no images"):
        SpatialPyramidTransformer(Blocks()).fit_transform([])
