"""The examples of the documentation run, in a shortened form, and learn what they should."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import sppfast

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


def test_zarr_store(tmp_path, capsys):
    """As it is run without arguments; and from a store to a store, which holds what the call in memory gives."""
    pytest.importorskip("dask.array", reason="dask is not installed")
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    example = runpy.run_path(str(DOCS / "examples" / "zarr_features.py"))
    example["main"]([])
    assert "64 vectors of 5376" in capsys.readouterr().out
    maps, vectors = str(tmp_path / "maps.zarr"), str(tmp_path / "vectors.zarr")
    example["make_maps"](maps, 10)
    example["main"]([maps, vectors, "--levels", "2", "1"])
    assert "100%" in capsys.readouterr().out
    np.testing.assert_array_equal(zarr.open(vectors)[:], sppfast.pool(zarr.open(maps)[:], (2, 1)))


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_page_about_arrays(framework):
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "arrays.md").read_text(), re.DOTALL)
    (block,) = (block for block in blocks if block.startswith(f"import {framework}"))
    exec(compile(block, "arrays.md", "exec"), {})
