"""The examples of the documentation run, in a shortened form, and learn what they should."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_multi_size_training(framework):
    """Two sizes in turn, and a third that the network never saw; a guess is right one time in ten."""
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    example = runpy.run_path(str(DOCS / "examples" / f"multi_size_{framework}.py"))
    parts = example["main"](epochs=6)
    assert list(parts) == [16, 24, 20]
    assert all(parts[size] > 0.8 for size in example["TRAINED"])
    assert parts[example["UNSEEN"]] > 0.6


def test_pictures_are_drawn(tmp_path):
    """As many as the pages show, each with something in it."""
    for package in ("matplotlib", "skimage", "sklearn"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    figures = runpy.run_path(str(DOCS / "figures.py"))
    figures["main"](tmp_path)
    drawn = {path.name for path in tmp_path.iterdir() if path.stat().st_size > 10_000}
    assert drawn == {path.name for path in (DOCS / "images").iterdir() if path.suffix in (".jpg", ".svg")}
